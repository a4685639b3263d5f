//! Channels in confirm mode on the publishing connection, each with one publish in flight.
//!
//! The broker returns an unroutable message before it confirms it, and the client library attaches
//! the return to the next confirm on that channel. With one publish in flight, that is its own.
//! Source: <https://www.rabbitmq.com/docs/publishers#unroutable>

use std::sync::{Arc, Mutex, PoisonError};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use tokio::sync::{Semaphore, SemaphorePermit};

/// AMQP 0-9-1, `delivery-mode`: the message survives a restart of the broker.
pub(super) const PERSISTENT: u8 = 2;
/// A pool of channels that grows on demand up to a limit, the number of publishes in flight. Confirms
/// take milliseconds, so few channels are used; the default of RabbitMQ allows 2047 per connection.
#[derive(Debug)]
pub(super) struct Channels {
    connection: Arc<Connection>,
    idle: Mutex<Vec<Channel>>,
    slots: Semaphore,
}

/// A channel with nothing in flight. When dropped, the channel is closed and not reused: a late
/// confirm would be attached to the wrong publish.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    pool: &'a Channels,
    pub(super) channel: Channel,
    _slot: Option<SemaphorePermit<'a>>,
}

/// The broker's answer to a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Answer {
    /// It is in a queue.
    #[error("confirmed")]
    Confirmed,
    /// No queue is bound by that routing key. The broker confirms a returned message too.
    #[error("no queue takes it")]
    Returned,
    /// Negatively acknowledged, as by a full queue.
    #[error("refused by the broker")]
    Refused,
    /// The channel is not in confirm mode.
    #[error("confirms are off")]
    Unconfirmed,
}

impl Channels {
    pub(super) fn new(connection: Arc<Connection>, limit: usize) -> Self {
        let slots = Semaphore::new(limit);
        Self { connection, idle: Mutex::default(), slots }
    }

    /// Publishes a persistent message and waits for the broker's answer. To be dropped when it takes
    /// too long.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) async fn publish(
        &self,
        exchange: ShortString,
        key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> lapin::Result<Answer> {
        let properties = properties.with_delivery_mode(PERSISTENT);
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let taken = self.take().await?;
        let published =
            taken.channel.basic_publish(exchange, key.into(), options, body, properties);
        let confirmation = published.await?.await?;
        taken.give_back();
        Ok(match confirmation {
            Confirmation::Ack(None) => Answer::Confirmed,
            Confirmation::Ack(Some(_)) => Answer::Returned,
            Confirmation::Nack(_) => Answer::Refused,
            Confirmation::NotRequested => Answer::Unconfirmed,
        })
    }

    /// Takes an idle channel, or opens one. Waits while all are in use.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) async fn take(&self) -> lapin::Result<Taken<'_>> {
        // Fails only on a closed semaphore, and this one is never closed.
        let slot = self.slots.acquire().await.ok();
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let channel = match idle {
            Some(channel) => channel,
            None => confirming(&self.connection).await?,
        };
        Ok(Taken { pool: self, channel, _slot: slot })
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Taken<'_> {
    /// Returns the channel to the pool. Everything published on it must be confirmed.
    pub(super) fn give_back(self) {
        let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(self.channel);
    }
}

/// Opens a channel in confirm mode.
///
/// # Errors
/// When the connection is lost.
pub(super) async fn confirming(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}
