//! Channels on the publishing connection that confirm, each with one publish in flight.
//!
//! A broker sends an unroutable message back before its confirm, and the client library hands it to
//! whichever confirm comes next on that channel. With one publish in flight that is the right one.

use std::sync::{Arc, Mutex, PoisonError};

use lapin::options::ConfirmSelectOptions;
use lapin::{Channel, Connection};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Publishes in flight. Confirms take milliseconds, so few are used; far below the number of
/// channels that any broker allows a connection.
const MAX_CHANNELS: usize = 32;

/// A pool of channels; grows as needed.
#[derive(Debug)]
pub(super) struct Channels {
    connection: Arc<Connection>,
    idle: Mutex<Vec<Channel>>,
    slots: Semaphore,
}

/// A channel with nothing in flight. Dropped, it is closed: what was published on it may still be
/// answered, so it must not be used again.
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

    /// An idle channel, or a new one.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(super) async fn take(&self) -> lapin::Result<Taken<'_>> {
        // Never closed, so this waits and does not fail.
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
    /// Back into the pool, when everything that was published on it is confirmed.
    pub(super) fn give_back(self) {
        let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(self.channel);
    }
}

/// A new channel that confirms.
pub(super) async fn confirming(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}
