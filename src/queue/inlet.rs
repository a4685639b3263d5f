//! Takes notifications that did not come by the store's exchange into the notifications queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lapin::Connection;
use lapin::types::ShortString;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::channels::{Answer, Channels};
use super::publisher::properties_within;
use super::topology::Topology;
use crate::trace::Trace;

/// A sender waits no longer for the broker's confirm. A message that is confirmed later is there
/// twice, once the sender has repeated it.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);

/// Publishes in flight at once.
const MAX_IN_FLIGHT: usize = 64;

/// The way into the notifications queue on one session. It has channels of its own, so that a flood of
/// notifications does not delay reports; and a refusal is the sender's to repeat, so that it does not
/// end the session. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Inlet {
    channels: Arc<Channels>,
    internal: ShortString,
    queue: Arc<str>,
    lost: CancellationToken,
    blocked: watch::Receiver<bool>,
    /// Held by a publish while the broker is silent; `silent` is set then. What was published and not
    /// confirmed stays in the client's buffers, so that no more than one may try.
    probing: Arc<Semaphore>,
    silent: Arc<AtomicBool>,
}

/// Why a notification is not known to be in the queue. It may be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotTaken {
    /// The session is lost or lags.
    #[error("the broker does not answer")]
    NoAnswer,
    /// Memory or disk alarm.
    #[error("the broker accepts no messages (memory or disk alarm)")]
    Blocked,
    /// The queue is full, or it does not exist.
    #[error("the notifications queue is full or missing")]
    Refused,
}

impl Inlet {
    pub(super) fn new(
        connection: Arc<Connection>,
        topology: &Topology,
        lost: CancellationToken,
        blocked: watch::Receiver<bool>,
    ) -> Self {
        Self {
            channels: Arc::new(Channels::new(connection, MAX_IN_FLIGHT)),
            internal: topology.internal.as_str().into(),
            queue: topology.notifications.queue.as_str().into(),
            lost,
            blocked,
            probing: Arc::new(Semaphore::new(1)),
            silent: Arc::default(),
        }
    }

    /// Publishes `body`, which belongs to `trace`, to the notifications queue. Returns once the broker has confirmed it.
    ///
    /// # Errors
    /// When it is not confirmed, or not in time.
    pub(crate) async fn take(&self, body: &[u8], trace: &Trace) -> Result<(), NotTaken> {
        let mut blocked = self.blocked.clone();
        if *blocked.borrow() {
            return Err(NotTaken::Blocked);
        }
        let _probe = if self.silent.load(Ordering::Relaxed) {
            Some(self.probing.try_acquire().map_err(|_| NotTaken::NoAnswer)?)
        } else {
            None
        };
        let properties = properties_within(trace).with_content_type("application/json".into());
        let (exchange, queue) = (self.internal.clone(), &self.queue);
        let answer = tokio::select! {
            biased;
            answer = self.channels.publish(exchange, queue, body, properties) => answer,
            Ok(_) = blocked.wait_for(|blocked| *blocked) => return Err(NotTaken::Blocked),
            () = self.lost.cancelled() => return Err(NotTaken::NoAnswer),
            () = tokio::time::sleep(CONFIRM_TIMEOUT) => {
                self.silent.store(true, Ordering::Relaxed);
                return Err(NotTaken::NoAnswer);
            }
        };
        if answer.is_ok() {
            self.silent.store(false, Ordering::Relaxed);
        }
        match answer {
            Ok(Answer::Confirmed) => Ok(()),
            Ok(Answer::Returned | Answer::Refused) => Err(NotTaken::Refused),
            Ok(Answer::Unconfirmed) | Err(_) => Err(NotTaken::NoAnswer),
        }
    }
}
