//! Turns RabbitMQ into deliveries, and settles each exactly once.
//!
//! The only room that uses AMQP. A [`Session`] is a pair of connections that lives until the first
//! fault and is then dropped whole. A [`Consumer`] consumes one queue, a [`Puller`] asks one for its
//! messages. A [`Delivery`] is one message with its [`History`]. A [`Disposition`]
//! says how it is settled. Copies of a message are published and confirmed before the original is
//! acknowledged, so a crash can duplicate a message but cannot lose one. The [`Journal`] is a stream
//! of the facts that replicas must agree on.

mod channels;
mod consumer;
mod declare;
mod delivery;
mod depths;
mod error;
mod headers;
mod inlet;
mod journal;
mod publisher;
mod puller;
mod redrive;
mod results;
mod session;
mod topology;

use std::time::Duration;

pub(crate) use self::consumer::{Consumer, Next};
pub(crate) use self::delivery::Delivery;
pub(crate) use self::error::OpenError;
pub(crate) use self::headers::{History, RecordedFailure};
pub(crate) use self::inlet::{Inlet, NotTaken};
pub(crate) use self::journal::{Journal, JournalError};
pub(crate) use self::publisher::{Outbox, Publisher, Record, Settlement};
pub(crate) use self::puller::Puller;
pub(crate) use self::redrive::{ParkedMessage, RedriveError};
pub(crate) use self::session::{Session, count_parked, inspect};
pub(crate) use self::topology::{Topology, WorkQueue};
use crate::failure::{Failure, Stage};

/// A broker that takes longer to answer counts as gone. Heartbeats notice it later.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// To close a consumer, a channel or a connection. The broker answers after it has read everything
/// sent before. A shutdown waits for it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// How a message is settled.
#[derive(Debug)]
pub(crate) enum Disposition {
    /// Acknowledged: the work is done.
    Ack,
    /// Replaced by one message for each of these bodies.
    Split(Vec<Vec<u8>>),
    /// Moved to a retry queue.
    Retry {
        /// Index into [`WorkQueue::retry`].
        tier: usize,
        /// The attempt number of the copy.
        attempt: u32,
        /// The copy's [`History::deferred`].
        deferred: u32,
        /// The copy's [`History::missed`].
        missed: bool,
        /// Why.
        cause: Cause,
    },
    /// Moved to the dead-letter queue; acknowledged where there is none.
    Park(Cause),
    /// Left unacknowledged. The broker redelivers it when the channel closes.
    Release,
}

/// Why a message is retried or parked; written to its headers.
#[derive(Debug, Clone)]
pub(crate) struct Cause {
    /// Header `avscan-reason`.
    pub(crate) reason: &'static str,
    /// Header `avscan-stage`.
    pub(crate) stage: Stage,
    /// Header `avscan-detail`: one line for people.
    pub(crate) detail: String,
    /// Header `avscan-signature`, where a surge of it is why.
    pub(crate) signature: Option<String>,
}

impl From<&Failure> for Cause {
    fn from(failure: &Failure) -> Self {
        Self {
            reason: failure.reason.into_str(),
            stage: failure.stage,
            detail: failure.detail.clone(),
            signature: None,
        }
    }
}
