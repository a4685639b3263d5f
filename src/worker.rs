//! Keeps deliveries in flight, decides what becomes of those that fail, drains at the end.
//!
//! The same machine runs all work queues: notifications, the backlog of sweeps, their pages, and
//! reports. Each has a [`Handler`] of its own, which does the work and says what happened. Whether it
//! is tried again is decided by [`decision::decide`] alone.
//!
//! The way of one delivery is the order of the files:
//!
//! - `gate`: deliveries are consumed while every dependency works. A dependency that is down as a
//!   whole must not use up attempts, so it closes the gate: the consumer ends, unsettled messages go
//!   back to the broker, and a new consumer opens when the dependency answers again;
//! - `slots`: how many are in work at once; live messages come before the backlog;
//! - `source`: where deliveries come from, pushed or pulled;
//! - `consumer`: takes deliveries while the gate is open, one for each free slot, and drains;
//! - `attempt`: reads one delivery, has it handled, settles it, counts and logs the result;
//! - `decision`: the table of retries, pure;
//! - `handler`: what the queues have to provide; `notifications`, `backlog`, `pages`
//!   and `reports` provide it;
//! - `scanning`: what `notifications` and `backlog` share.

mod attempt;
mod backlog;
mod consumer;
mod context;
mod decision;
mod gate;
mod handler;
mod notifications;
mod pages;
mod reports;
mod scanning;
mod slots;
mod source;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::backlog::Backlog;
use self::consumer::ConsumerExit;
pub(crate) use self::handler::Handler;
pub(crate) use self::notifications::Notifications;
pub(crate) use self::pages::{Pages, Restraint};
pub(crate) use self::reports::Reports;
pub(crate) use self::scanning::Scanning;
pub(crate) use self::slots::Slots;
use crate::failure::Failure;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::queue::{Session, WorkQueue};
use crate::retry::Ladder;
use crate::trace::Tracer;

/// Pause between two checks of a dependency that is down.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Why a worker stopped.
#[derive(Debug)]
pub(crate) enum WorkerExit {
    /// As asked; everything that ran is settled.
    Drained,
    /// As asked; something still ran at the end of the grace period and will be redelivered.
    CutShort,
    /// The broker session is lost.
    SessionLost,
    /// It cannot run with these settings.
    Refused(Failure),
}

/// What all workers share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) ladder: Ladder,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tracer: Tracer,
    pub(crate) shutdown: CancellationToken,
    /// From the start of the shutdown to its end.
    pub(crate) grace: Duration,
    /// When the shutdown was noticed.
    stopping: Arc<OnceLock<Instant>>,
}

impl Shared {
    pub(crate) fn new(
        ladder: Ladder,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
        tracer: Tracer,
        shutdown: CancellationToken,
        grace: Duration,
    ) -> Self {
        Self { ladder, health, metrics, tracer, shutdown, grace, stopping: Arc::default() }
    }

    /// What is left of the grace period, which begins with the first call.
    pub(crate) fn grace_left(&self) -> Duration {
        self.grace.saturating_sub(self.stopping.get_or_init(Instant::now).elapsed())
    }
}

/// Works on one queue. It outlives broker sessions, and so do its slots.
pub(crate) struct Worker<H> {
    handler: H,
    queue: WorkQueue,
    shared: Shared,
    slots: Slots,
    /// The handler was ready once.
    was_ready: AtomicBool,
    /// Deliveries in work.
    in_work: AtomicUsize,
    /// Deliveries that have finished.
    finished: AtomicUsize,
    /// Work of consumers that have ended.
    drains: TaskTracker,
    /// Sessions that were lost under this worker.
    lost_sessions: AtomicU32,
    /// A delivery took longer than the broker's `consumer_timeout`.
    overdue: AtomicBool,
    /// Settlements that failed during the shutdown.
    unsettled: AtomicUsize,
    /// When the last warning about repeated deferrals was logged.
    warned_of_deferrals: Mutex<Option<Instant>>,
}

impl<H: Handler> Worker<H> {
    /// A worker for as many deliveries at once as there are `slots`.
    pub(crate) fn new(handler: H, queue: WorkQueue, slots: Slots, shared: Shared) -> Self {
        shared.metrics.gate(queue.kind, false);
        Self {
            handler,
            queue,
            shared,
            slots,
            was_ready: AtomicBool::new(false),
            in_work: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            drains: TaskTracker::new(),
            lost_sessions: AtomicU32::new(0),
            overdue: AtomicBool::new(false),
            unsettled: AtomicUsize::new(0),
            warned_of_deferrals: Mutex::default(),
        }
    }

    /// Work of consumers that have ended.
    pub(crate) fn drains(&self) -> &TaskTracker {
        &self.drains
    }

    /// What is left of the grace period.
    pub(crate) fn grace_left(&self) -> Duration {
        self.shared.grace_left()
    }

    /// Whether a settlement failed, or was not confirmed, during the shutdown.
    pub(crate) fn left_unsettled(&self) -> bool {
        self.unsettled.load(Ordering::Relaxed) > 0
    }

    /// Works until the session is lost or the daemon stops.
    pub(crate) async fn run(self: &Arc<Self>, session: &Session) -> WorkerExit {
        let exit = self.run_consumers(session).await;
        if self.shared.shutdown.is_cancelled() && !matches!(exit, WorkerExit::CutShort) {
            self.drains.close();
            let drained = tokio::time::timeout(self.shared.grace_left(), self.drains.wait());
            if drained.await.is_err() {
                return WorkerExit::CutShort;
            }
        }
        exit
    }

    /// One consumer after the other, each behind an open gate.
    async fn run_consumers(self: &Arc<Self>, session: &Session) -> WorkerExit {
        loop {
            if let Some(exit) = self.open_gate(session).await {
                return exit;
            }
            self.set_open(true);
            let ended = self.consume(session).await;
            self.set_open(false);
            match ended {
                ConsumerExit::Drained => return WorkerExit::Drained,
                ConsumerExit::CutShort => return WorkerExit::CutShort,
                ConsumerExit::SessionLost => return WorkerExit::SessionLost,
                // The pause also bounds how often a gate closes and opens for the same object.
                ConsumerExit::Reopen => tokio::time::sleep(RECHECK_INTERVAL).await,
                ConsumerExit::QueueDeleted => {
                    if let Err(exit) = self.declare_again(session).await {
                        return exit;
                    }
                }
            }
        }
    }

    fn set_open(&self, open: bool) {
        self.slots.set_open(open);
        self.shared.metrics.gate(self.queue.kind, open);
    }

    /// Declares the deleted queue, at once: until then notifications have nowhere to go.
    async fn declare_again(&self, session: &Session) -> Result<(), WorkerExit> {
        let declared = tokio::select! {
            declared = session.declare_again() => declared,
            // The next start declares it.
            () = self.shared.shutdown.cancelled() => return Ok(()),
        };
        let queue = &self.queue.queue;
        match declared {
            Ok(()) => {
                tracing::error!(queue, "was deleted and is declared again; its messages are lost");
                Ok(())
            }
            Err(error) => {
                tracing::warn!(queue, %error, "cannot be declared again");
                Err(WorkerExit::SessionLost)
            }
        }
    }
}
