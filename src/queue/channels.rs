//! Channels in confirm mode on the publishing connection, each with one publish in flight.
//!
//! The broker returns an unroutable message before it confirms it, and the client library attaches
//! the return to the next confirm on that channel. With one publish in flight, that is its own.
//! Source: <https://www.rabbitmq.com/docs/publishers#unroutable>

use std::sync::{Arc, Mutex, PoisonError};

use lapin::options::ConfirmSelectOptions;
use lapin::{Channel, Connection};
use tokio::sync::{Semaphore, SemaphorePermit};

/// AMQP 0-9-1, `delivery-mode`: the message survives a restart of the broker.
pub(super) const PERSISTENT: u8 = 2;
/// Most publishes in flight. Confirms take milliseconds, so few channels are used; the default of
/// RabbitMQ allows 2047 per connection.
const MAX_CHANNELS: usize = 32;

/// A pool of channels. Grows on demand up to [`MAX_CHANNELS`].
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

impl Channels {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        let slots = Semaphore::new(MAX_CHANNELS);
        Self { connection, idle: Mutex::default(), slots }
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
