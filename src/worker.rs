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

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

pub(crate) use self::notifications::Notifications;
pub(crate) use self::reports::Reports;
use crate::failure::{Dependency, Failure, Kind, Stage};
use crate::health::{Health, Part};
use crate::metrics::Metrics;
use crate::queue::{Delivery, Lane, Note, Publisher, Session};
use crate::retry::Ladder;

/// How often what is up is asked whether it still is.
const SELF_TEST: Duration = Duration::from_mins(2);
/// How often what is down is asked whether it is back.
const RECHECK: Duration = Duration::from_secs(2);
const SHORT_PATIENCE: Duration = Duration::from_secs(4);
const LONG_PATIENCE: Duration = Duration::from_secs(20);
/// For an engine that is at work: closing the gate on it would throw that work away.
const VERY_LONG_PATIENCE: Duration = Duration::from_mins(1);
/// Effects that run when a consumer closes may finish; each call has a deadline of its own.
const EFFECTS: Duration = Duration::from_mins(2);
/// A message that came back unsettled so often may be what kills its readers.
const RETURNS: u32 = 5;

/// What a handler made of a delivery.
pub(crate) enum Outcome<M> {
    /// Done; how it ended, for the metrics.
    Done(&'static str),
    /// Several objects in one message.
    Split(Vec<Vec<u8>>),
    /// It goes to the dead-letter queue; everything that had to be said has been said.
    Park(Note),
    /// It failed; the memo is given back if this was the last attempt.
    Failed(Failure, M),
}

/// The work of one lane.
pub(crate) trait Handler: Send + Sync + 'static {
    /// What is remembered of a failed attempt.
    type Memo: Default + Send;

    /// Whether a message that keeps coming back unsettled may be what kills its readers.
    const MAY_CRASH: bool;

    /// Whether the work ends in publishing, so that it cannot go on while the broker takes nothing.
    const PUBLISHES: bool;

    /// Proves within about `patience` that deliveries can be worked on: asked before the first one
    /// is taken, every few minutes, and while the gate is closed.
    fn ready(&self, patience: Duration) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The span of everything that is said of one delivery.
    fn span(&self, delivery: &Delivery) -> tracing::Span;

    /// Counts an end that has come about.
    fn ended(&self, end: &'static str);

    /// Works on one delivery. `cancelled` ends what leaves no trace, and nothing else.
    fn handle(
        &self,
        delivery: &Delivery,
        publisher: &Publisher,
        cancelled: &CancellationToken,
    ) -> impl Future<Output = Outcome<Self::Memo>> + Send;

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

/// One lane at work. Outlives broker sessions, as do its slots.
pub(crate) struct Worker<H> {
    pub(crate) handler: H,
    pub(crate) lane: Lane,
    pub(crate) ladder: Ladder,
    pub(crate) prefetch: u16,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) grace: Duration,
    pub(crate) was_ready: AtomicBool,
    /// Deliveries being worked on.
    pub(crate) working: AtomicUsize,
}

/// One consumer's time, from the opening of the gate to its closing.
struct Shift {
    publisher: Publisher,
    /// Ends what leaves no trace.
    cancelled: CancellationToken,
    /// A dependency is down: the gate closes.
    gate: CancellationToken,
    /// Which one.
    blamed: OnceLock<Dependency>,
    last_probe: Mutex<Option<(Dependency, Instant)>>,
}

enum Stop {
    Shutdown { drained: bool },
    Lost,
    Gate,
}

impl<H: Handler> Worker<H> {
    /// Works until the session is lost or the daemon stops.
    pub(crate) async fn run(self: &Arc<Self>, session: &Session) -> End {
        loop {
            if let Some(end) = self.open_gate(session).await {
                return end;
            }
            match self.consume(session).await {
                Stop::Shutdown { drained: true } => return End::Drained,
                Stop::Shutdown { drained: false } => return End::CutShort,
                Stop::Lost => return End::Lost,
                // Also keeps a gate that closes and opens for the same object from spinning.
                Stop::Gate => tokio::time::sleep(RECHECK).await,
            }
        }
    }

    /// Waits until the handler is ready; `None` when it is.
    async fn open_gate(&self, session: &Session) -> Option<End> {
        let mut round: u32 = 0;
        loop {
            round = round.wrapping_add(1);
            // Mostly short questions, because one that was asked before the recovery may never be
            // answered; now and then a long one, because an engine may just be busy.
            let patience = if round.is_multiple_of(4) { LONG_PATIENCE } else { SHORT_PATIENCE };
            let ready = tokio::select! {
                ready = self.handler.ready(patience) => ready,
                () = self.shutdown.cancelled() => return Some(End::Drained),
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
                || (failure.label == crate::failure::CREDENTIALS
                    && !self.was_ready.load(Ordering::Relaxed));
            if refused {
                return Some(End::Refused(failure));
            }
            self.blame(&failure);
            tokio::select! {
                () = tokio::time::sleep(failure.pause.unwrap_or(RECHECK)) => {}
                () = self.shutdown.cancelled() => return Some(End::Drained),
                () = session.lost().cancelled() => return Some(End::Lost),
            }
        }
    }

    async fn consume(self: &Arc<Self>, session: &Session) -> Stop {
        let mut intake = match session.intake(&self.lane, self.prefetch).await {
            Ok(intake) => intake,
            Err(error) => {
                tracing::warn!(queue = self.lane.queue, %error, "cannot consume");
                return Stop::Lost;
            }
        };
        let shift = Arc::new(Shift {
            publisher: session.publisher().clone(),
            cancelled: CancellationToken::new(),
            gate: CancellationToken::new(),
            blamed: OnceLock::new(),
            last_probe: Mutex::new(None),
        });
        let tasks = TaskTracker::new();
        let watch = tokio::spawn(Arc::clone(self).watch(Arc::clone(&shift)));
        let mut stop = loop {
            // The slot is taken before the delivery, so that an accepted delivery always has one.
            let next = async {
                // What cannot be reported need not be scanned yet.
                if H::PUBLISHES && shift.publisher.is_blocked() {
                    let reason = "it takes no messages (memory or disk alarm)";
                    self.health.down(Part::Broker, reason);
                    shift.publisher.unblocked().await;
                    self.health.up(Part::Broker);
                }
                let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
                Some((slot, intake.next().await?))
            };
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => break Stop::Shutdown { drained: true },
                () = session.lost().cancelled() => break Stop::Lost,
                () = shift.gate.cancelled() => break Stop::Gate,
                next = next => match next {
                    Some((slot, delivery)) => {
                        let work = Arc::clone(self).work(delivery, Arc::clone(&shift), slot);
                        tasks.spawn(work);
                    }
                    // The consumer ended though nobody asked it to: the queue was deleted, or the
                    // channel closed.
                    None => break Stop::Lost,
                },
            }
        };
        watch.abort();
        tasks.close();
        match &mut stop {
            Stop::Shutdown { drained } => {
                intake.stop().await;
                *drained = tokio::time::timeout(self.grace, tasks.wait()).await.is_ok();
                shift.cancelled.cancel();
                drop(tokio::time::timeout(Duration::from_secs(2), tasks.wait()).await);
                intake.close().await;
            }
            Stop::Gate => {
                shift.cancelled.cancel();
                tokio::select! {
                    () = tasks.wait() => {}
                    () = tokio::time::sleep(EFFECTS) => {}
                    () = async {
                        self.shutdown.cancelled().await;
                        tokio::time::sleep(self.grace).await;
                    } => {}
                }
                intake.close().await;
            }
            // Nothing can be settled any more. Effects that run finish, and keep their slots.
            Stop::Lost => shift.cancelled.cancel(),
        }
        stop
    }

    /// Asks every few minutes whether what deliveries need is still up.
    async fn watch(self: Arc<Self>, shift: Arc<Shift>) {
        loop {
            tokio::time::sleep(SELF_TEST).await;
            if let Err(failure) = self.handler.ready(VERY_LONG_PATIENCE).await {
                match failure.kind {
                    Kind::Suspect(dependency) | Kind::Down(dependency) => {
                        self.close_gate(&shift, dependency, &failure);
                    }
                    _ => shift.gate.cancel(),
                }
                return;
            }
        }
    }

    async fn work(
        self: Arc<Self>,
        delivery: Delivery,
        shift: Arc<Shift>,
        slot: OwnedSemaphorePermit,
    ) {
        let started = Instant::now();
        self.metrics.in_flight.inc();
        self.working.fetch_add(1, Ordering::Relaxed);
        let span = self.handler.span(&delivery);
        let worked = AssertUnwindSafe(self.work_in_span(&delivery, &shift)).catch_unwind();
        if worked.instrument(span).await.is_err() {
            // Not the handler's panic, that is caught closer by. The message hangs on this channel
            // until it closes.
            shift.gate.cancel();
        }
        self.metrics.took("delivery", started.elapsed());
        self.metrics.in_flight.dec();
        self.working.fetch_sub(1, Ordering::Relaxed);
        drop(slot);
    }

    async fn work_in_span(&self, delivery: &Delivery, shift: &Shift) {
        let outcome = if H::MAY_CRASH && delivery.returns >= RETURNS {
            let detail = format!("came back unsettled {} times", delivery.returns);
            let failure = Failure::transient(Stage::Event, "crash_suspected", detail);
            Outcome::Failed(failure, H::Memo::default())
        } else {
            let handled = self.handler.handle(delivery, &shift.publisher, &shift.cancelled);
            // A panic is this object's fault until it has used up its attempts.
            AssertUnwindSafe(handled).catch_unwind().await.unwrap_or_else(|_| {
                let detail = "a bug in the scanner, its message is in the log above";
                let failure = Failure::transient(Stage::Event, "panic", detail);
                Outcome::Failed(failure, H::Memo::default())
            })
        };
        let (disposition, news) = self.decide(delivery, outcome, shift).await;
        match shift.publisher.settle(delivery, &self.lane, disposition).await {
            Ok(()) => self.tell(delivery, news),
            Err(failure) => tracing::debug!(%failure, "not settled, the message will come again"),
        }
    }

    fn blame(&self, failure: &Failure) {
        if let Kind::Suspect(dependency) | Kind::Down(dependency) = failure.kind {
            self.health.down(Part::from(dependency), &failure.detail);
        }
    }
}
