//! The journal: a stream of the facts that replicas must agree on.
//!
//! Every replica appends to it and reads all of it. The order of its entries is the same for all, and
//! decides; clocks do not. Each feature has its own kinds of entries, and skips what it cannot read:
//! the kinds of others, those of newer versions, and what does not come from us.
//!
//! A decision is as good as what was read before it: [`Journal::read_to_end`] appends an entry and
//! waits until it comes. It lives on a session. What fails here does not end the session: scans need
//! no journal.

mod reader;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lapin::types::ShortString;
use lapin::{BasicProperties, Connection};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(super) use self::reader::Reader;
use super::channels::{Answer, Channels};
use super::topology::Topology;
use crate::failure::causes;

/// A broker that takes longer to confirm an entry, or to deliver it, has no usable journal.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two entries that are appended only to find the end. It bounds what somebody who makes us
/// ask can write into the journal, and with it how fast older entries are dropped.
const MARK_INTERVAL: Duration = Duration::from_millis(20);
/// Entries that are appended at once, each on a channel of its own.
const MAX_IN_FLIGHT: usize = 4;
/// An entry that is appended only to find the end.
const MARK: &[u8] = br#"{"kind":"mark"}"#;

/// Why the journal cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the journal cannot be used: {0}")]
pub(crate) struct JournalError(String);

impl JournalError {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl From<lapin::Error> for JournalError {
    fn from(error: lapin::Error) -> Self {
        Self(causes(&error))
    }
}

/// The journal of one session.
#[derive(Debug)]
pub(crate) struct Journal {
    channels: Channels,
    exchange: ShortString,
    /// The stream, and the routing key that leads to it.
    name: String,
    /// Those who wait until an entry of their own was read, by its message id.
    waiting: Mutex<HashMap<Uuid, oneshot::Sender<()>>>,
    /// When the last successful reading to the end began.
    end_read: tokio::sync::Mutex<Option<Instant>>,
    /// When the last entry was read.
    last_read: Mutex<Instant>,
    /// Nothing is read any more.
    closed: CancellationToken,
}

impl Journal {
    pub(super) fn new(connection: Arc<Connection>, topology: &Topology) -> Self {
        Self {
            channels: Channels::new(connection, MAX_IN_FLIGHT),
            exchange: topology.internal.as_str().into(),
            name: topology.journal.clone(),
            waiting: Mutex::default(),
            end_read: tokio::sync::Mutex::new(None),
            last_read: Mutex::new(Instant::now()),
            closed: CancellationToken::new(),
        }
    }

    /// Reads from the first entry on, for as long as the future is polled, and hands `fold` what can
    /// be read as an `E`, in the order of the stream. Dropping it closes the journal.
    ///
    /// Returns only when the journal cannot be read any more.
    pub(crate) async fn follow<E: DeserializeOwned>(
        &self,
        mut reader: Reader,
        mut fold: impl FnMut(E),
    ) -> JournalError {
        let _closed = self.closed.clone().drop_guard();
        loop {
            let line = match reader.next().await {
                Ok(line) => line,
                Err(error) => return error,
            };
            *self.last_read.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            if let Ok(entry) = serde_json::from_slice(&line.body) {
                fold(entry);
            }
            // After the fold: who waits for the entry finds everything up to it taken in.
            if let Some(waiting) = line.id.and_then(|id| self.waiting().remove(&id)) {
                // An error means that nobody waits any more.
                let _nobody_waits = waiting.send(()).is_err();
            }
        }
    }

    /// Appends an entry. Returns once the broker has confirmed it.
    ///
    /// # Errors
    /// When it is not confirmed in time. It may be in the stream all the same.
    pub(crate) async fn append<E: Serialize + Sync>(&self, entry: &E) -> Result<(), JournalError> {
        self.publish(Uuid::new_v4(), &json(entry)?).await
    }

    /// Appends an entry. Returns once it was read, and with it everything before it.
    ///
    /// # Errors
    /// As [`Self::append`], and when it is not read in time.
    pub(crate) async fn append_and_read<E: Serialize + Sync>(
        &self,
        entry: &E,
    ) -> Result<(), JournalError> {
        self.publish_and_read(&json(entry)?).await
    }

    /// Returns once everything was read that was appended, by anyone, before this was called.
    ///
    /// # Errors
    /// As [`Self::append_and_read`].
    pub(crate) async fn read_to_end(&self) -> Result<(), JournalError> {
        let called = Instant::now();
        // One mark serves all who wait for it.
        let mut end_read = self.end_read.lock().await;
        if end_read.is_some_and(|begun| begun >= called) {
            return Ok(());
        }
        if let Some(last) = *end_read {
            tokio::time::sleep_until((last + MARK_INTERVAL).into()).await;
        }
        let begun = Instant::now();
        self.publish_and_read(MARK).await?;
        *end_read = Some(begun);
        Ok(())
    }

    async fn publish_and_read(&self, body: &[u8]) -> Result<(), JournalError> {
        let id = Uuid::new_v4();
        let (sender, read) = oneshot::channel();
        // Before it is published: it may be read before its confirm arrives.
        self.waiting().insert(id, sender);
        let answer = async {
            self.publish(id, body).await?;
            tokio::select! {
                () = self.is_silent() => {
                    Err(JournalError("an entry was confirmed, and never came".to_owned()))
                }
                answer = read => answer.map_err(|_| is_closed()),
                () = self.closed.cancelled() => Err(is_closed()),
            }
        };
        let answer = answer.await;
        self.waiting().remove(&id);
        answer
    }

    /// Returns once nothing was read for too long. A journal that is long takes its time.
    async fn is_silent(&self) {
        let begun = Instant::now();
        loop {
            let last = *self.last_read.lock().unwrap_or_else(PoisonError::into_inner);
            let until = last.max(begun) + ANSWER_TIMEOUT;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until.into()).await;
        }
    }

    async fn publish(&self, id: Uuid, body: &[u8]) -> Result<(), JournalError> {
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_message_id(id.simple().to_string().into());
        let published = self.channels.publish(self.exchange.clone(), &self.name, body, properties);
        let answer = tokio::select! {
            answer = tokio::time::timeout(ANSWER_TIMEOUT, published) => answer,
            () = self.closed.cancelled() => return Err(is_closed()),
        };
        match answer {
            Ok(Ok(Answer::Confirmed)) => Ok(()),
            Ok(Ok(other)) => Err(JournalError(format!("an entry was not taken: {other}"))),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(JournalError("an entry is not confirmed in time".to_owned())),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Uuid, oneshot::Sender<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn json(entry: &impl Serialize) -> Result<Vec<u8>, JournalError> {
    serde_json::to_vec(entry).map_err(|error| JournalError(causes(&error)))
}

fn is_closed() -> JournalError {
    JournalError("it is not read any more".to_owned())
}
