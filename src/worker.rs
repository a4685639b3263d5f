//! Keeps deliveries in flight, decides what becomes of those that fail, drains at the end.
//!
//! The same machine runs both lanes, notifications and reports, with another [`Handler`]. A
//! handler does the work and says what happened; whether to try again is decided here and nowhere
//! else.
//!
//! A dependency that is down as a whole must not use up attempts, so it is a gate: the consumer
//! closes, unsettled messages go back to the broker, and a new consumer opens when the dependency
//! answers again.

mod decision;
mod notifications;
mod reports;
mod shift;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::notifications::Notifications;
pub(crate) use self::reports::Reports;
use self::shift::Stop;
use crate::failure::{Dependency, Failure, Kind, Reason};
use crate::health::{Health, Part};
use crate::metrics::Metrics;
use crate::queue::{Cause, Delivery, Publisher, Session, WorkQueue};
use crate::retry::Ladder;

/// How often what is down is asked whether it is back.
const RECHECK: Duration = Duration::from_secs(1);
const SHORT_PATIENCE: Duration = Duration::from_secs(3);
const LONG_PATIENCE: Duration = Duration::from_secs(20);

/// What a handler made of a delivery.
pub(crate) enum Outcome<E, M> {
    /// Done; how it ended, for the metrics.
    Done(E),
    /// Several objects in one message.
    Split(Vec<Vec<u8>>),
    /// It goes to the dead-letter queue; everything that had to be said has been said.
    Park(Cause),
    /// It is not there: looked for once more after the shortest delay, the attempt not counted.
    LookAgain(Failure),
    /// It failed; the memo is given back if this was the last attempt.
    Failed(Failure, M),
    /// Not worked on: it keeps coming back unsettled.
    Suspected(Failure),
}

/// The work of one lane.
pub(crate) trait Handler: Send + Sync + 'static {
    /// What is remembered of a failed attempt.
    type Memo: Default + Send;

    /// How a delivery ends.
    type End: Send;
    /// Its end in the dead-letter queue.
    const PARKED: Self::End;

    /// Whether a message that keeps coming back unsettled may be what kills its readers.
    const MAY_CRASH: bool;

    /// Whether the work ends in publishing, so that it cannot go on while the broker takes nothing.
    const PUBLISHES: bool;

    /// Proves within about `patience` that deliveries can be worked on: asked before the first one
    /// is taken, every few minutes, and while the gate is closed.
    fn ready(&self, patience: Duration) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Asks what can be asked cheaply, while deliveries run and none of them ends.
    fn stalled(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The span of everything that is said of one delivery.
    fn span(&self, delivery: &Delivery) -> tracing::Span;

    /// Counts an end that has come about.
    fn ended(&self, end: Self::End);

    /// Works on one delivery. `cancelled` ends what leaves no trace, and nothing else.
    fn handle(
        &self,
        delivery: &Delivery,
        publisher: &Publisher,
        cancelled: &CancellationToken,
    ) -> impl Future<Output = Outcome<Self::End, Self::Memo>> + Send;

    /// Whether `suspect` is up, asked after a failure that it may have caused.
    fn probe(
        &self,
        suspect: Dependency,
        delivery: &Delivery,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Says the last words about a delivery that will be parked.
    fn exhausted(
        &self,
        delivery: &Delivery,
        failure: Failure,
        memo: Self::Memo,
        publisher: &Publisher,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Why a worker stopped.
#[derive(Debug)]
pub(crate) enum End {
    /// As asked; everything that ran has been settled.
    Drained,
    /// As asked; something still ran when the grace period was over, and will be redelivered.
    CutShort,
    /// The broker session is lost.
    Lost,
    /// It cannot run with these settings.
    Refused(Failure),
}

/// What both lanes share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) ladder: Ladder,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) shutdown: CancellationToken,
    /// From the start of the shutdown to its end.
    pub(crate) grace: Duration,
    /// When the shutdown was noticed.
    pub(crate) stopping: Arc<OnceLock<Instant>>,
}

impl Shared {
    /// What is left of the grace period; it begins with the first question.
    pub(crate) fn grace_left(&self) -> Duration {
        self.grace.saturating_sub(self.stopping.get_or_init(Instant::now).elapsed())
    }
}

/// One lane at work. Outlives broker sessions, as do its slots.
pub(crate) struct Worker<H> {
    handler: H,
    lane: WorkQueue,
    shared: Shared,
    prefetch: u16,
    slots: Arc<Semaphore>,
    was_ready: AtomicBool,
    /// Deliveries being worked on.
    working: AtomicUsize,
    /// Deliveries that have ended.
    ended: AtomicUsize,
    /// Earlier shifts whose work goes on.
    drains: TaskTracker,
    /// Sessions that were lost under this worker.
    losses: AtomicU32,
    /// A message took longer than the broker's `consumer_timeout`.
    overdue: AtomicBool,
    /// Settlements that failed during the shutdown.
    unsettled: AtomicUsize,
    /// When it was last said that something is put off again and again.
    warned_of_deferrals: Mutex<Option<Instant>>,
}

impl<H: Handler> Worker<H> {
    /// Works on `slots` deliveries at once.
    pub(crate) fn new(handler: H, lane: WorkQueue, slots: u16, shared: Shared) -> Self {
        Self {
            handler,
            lane,
            shared,
            prefetch: slots,
            slots: Arc::new(Semaphore::new(usize::from(slots))),
            was_ready: AtomicBool::new(false),
            working: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            drains: TaskTracker::new(),
            losses: AtomicU32::new(0),
            overdue: AtomicBool::new(false),
            unsettled: AtomicUsize::new(0),
            warned_of_deferrals: Mutex::default(),
        }
    }

    /// Work that goes on after the session, or the gate, that it was begun in.
    pub(crate) fn drains(&self) -> &TaskTracker {
        &self.drains
    }

    /// What is left of the grace period.
    pub(crate) fn grace_left(&self) -> Duration {
        self.shared.grace_left()
    }

    /// Whether something could not be settled during the shutdown, or may not have been.
    pub(crate) fn left_unsettled(&self) -> bool {
        self.unsettled.load(Ordering::Relaxed) > 0
    }

    /// Works until the session is lost or the daemon stops.
    pub(crate) async fn run(self: &Arc<Self>, session: &Session) -> End {
        loop {
            let end = match self.open_gate(session).await {
                Some(end) => end,
                None => match self.consume(session).await {
                    Stop::Shutdown { drained: true } => End::Drained,
                    Stop::Shutdown { drained: false } => return End::CutShort,
                    Stop::Lost => End::Lost,
                    // Also keeps a gate that closes and opens for the same object from spinning.
                    Stop::Gate | Stop::Reopen => {
                        tokio::time::sleep(RECHECK).await;
                        continue;
                    }
                    // At once, because what is announced meanwhile has nowhere to go.
                    Stop::Orphaned => {
                        let declared = tokio::select! {
                            declared = session.declare_again() => declared,
                            // The next start declares it.
                            () = self.shared.shutdown.cancelled() => continue,
                        };
                        let queue = &self.lane.queue;
                        match declared {
                            Ok(()) => {
                                tracing::error!(
                                    queue,
                                    "was deleted and is made again; what lay in it is gone"
                                );
                                continue;
                            }
                            Err(error) => {
                                tracing::warn!(queue, %error, "cannot be made again");
                                End::Lost
                            }
                        }
                    }
                },
            };
            if self.shared.shutdown.is_cancelled() {
                self.drains.close();
                if tokio::time::timeout(self.shared.grace_left(), self.drains.wait()).await.is_err()
                {
                    return End::CutShort;
                }
            }
            return end;
        }
    }

    /// Waits until the handler is ready; `None` when it is.
    async fn open_gate(&self, session: &Session) -> Option<End> {
        // A question that was asked before the recovery may never be answered, so they are short
        // and many. But an engine may just be busy: a patient one is asked beside them.
        let mut patient = Box::pin(self.handler.ready(LONG_PATIENCE));
        let mut failed = false;
        loop {
            let ready = tokio::select! {
                ready = self.handler.ready(SHORT_PATIENCE) => ready,
                ready = &mut patient, if failed => {
                    patient = Box::pin(self.handler.ready(LONG_PATIENCE));
                    ready
                }
                () = self.shared.shutdown.cancelled() => return Some(End::Drained),
                () = session.lost().cancelled() => return Some(End::Lost),
            };
            let failure = match ready {
                Ok(()) => {
                    self.was_ready.store(true, Ordering::Relaxed);
                    return None;
                }
                Err(failure) => failure,
            };
            let refused = failure.kind == Kind::Permanent
                || (failure.reason == Reason::StoreCredentials
                    && !self.was_ready.load(Ordering::Relaxed));
            if refused {
                return Some(End::Refused(failure));
            }
            self.blame(&failure);
            failed = true;
            tokio::select! {
                () = tokio::time::sleep(failure.pause.unwrap_or(RECHECK)) => {}
                () = self.shared.shutdown.cancelled() => return Some(End::Drained),
                () = session.lost().cancelled() => return Some(End::Lost),
            }
        }
    }
    fn blame(&self, failure: &Failure) {
        if let Kind::Suspect(dependency) | Kind::Down(dependency) = failure.kind {
            self.shared.health.down(Part::from(dependency), &failure.detail);
        }
    }
}
