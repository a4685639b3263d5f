//! What the deliveries of one consumer share.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::failure::Dependency;
use crate::queue::Publisher;

/// An answer about the queue is reused for this long.
const ANSWER_REUSE: Duration = Duration::from_secs(1);

/// What the deliveries of one consumer share.
pub(super) struct Context {
    pub(super) publisher: Publisher,
    /// Ends fetches and scans, which leave no trace.
    pub(super) cancelled: CancellationToken,
    /// The consumer has to end: a dependency is down.
    pub(super) gate_closed: CancellationToken,
    /// The dependency for which the gate closed.
    pub(super) closed_for: OnceLock<Dependency>,
    /// The last probe that succeeded.
    pub(super) last_probe: Mutex<Option<(Dependency, Instant)>>,
    queue_deleted: AtomicBool,
    /// When the broker was last asked whether the queue is there.
    asked: Mutex<Option<Instant>>,
}

impl Context {
    pub(super) fn new(publisher: Publisher) -> Self {
        Self {
            publisher,
            cancelled: CancellationToken::new(),
            gate_closed: CancellationToken::new(),
            closed_for: OnceLock::new(),
            last_probe: Mutex::new(None),
            queue_deleted: AtomicBool::new(false),
            asked: Mutex::new(None),
        }
    }

    /// The consumer has ended. Work that goes on says nothing about the dependencies of the next one.
    pub(super) fn is_over(&self) -> bool {
        self.queue_deleted.load(Ordering::Relaxed) || self.cancelled.is_cancelled()
    }

    pub(super) fn set_queue_deleted(&self) {
        self.queue_deleted.store(true, Ordering::Relaxed);
    }

    /// Whether `queue`, which this consumer reads, was deleted: then what is released is lost. The
    /// consumer may have ended for another reason, without having noticed it.
    pub(super) async fn is_queue_deleted(&self, queue: &str) -> bool {
        let mut asked = self.asked.lock().await;
        let known = self.queue_deleted.load(Ordering::Relaxed)
            || asked.is_some_and(|at| at.elapsed() < ANSWER_REUSE);
        if !known {
            if self.publisher.is_gone(queue).await {
                tracing::error!(queue, "was deleted: unsettled messages go to a retry queue");
                self.set_queue_deleted();
            }
            *asked = Some(Instant::now());
        }
        self.queue_deleted.load(Ordering::Relaxed)
    }
}
