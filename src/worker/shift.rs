//! One consumer's time, from the opening of the gate to its closing.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::{Mutex, OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::{Handler, Outcome, RECHECK, Worker};
use crate::failure::{Dependency, Failure, Kind, Reason, Stage};
use crate::health::Part;
use crate::metrics::Timed;
use crate::queue::{Consumer, Delivery, Next, Publisher, Session};

/// How often what is up is asked whether it still is.
const SELF_TEST: Duration = Duration::from_mins(2);
/// Deliveries of which none has ended for so long may wait for something that hangs. It would take
/// their own deadlines much longer to tell.
const STALLED: Duration = Duration::from_secs(3);
/// For an engine that is at work: closing the gate on it would throw that work away.
const VERY_LONG_PATIENCE: Duration = Duration::from_mins(1);
/// Effects that run when a gate closes may be settled for so long, then everything unsettled goes
/// back to the broker. They finish all the same.
const EFFECTS: Duration = Duration::from_secs(5);
/// So long they keep their slots; one that hangs must not keep others from being worked on.
const SLOT_KEPT: Duration = Duration::from_secs(1);
/// After the grace period, for what was told to end.
const LAST_SETTLEMENTS: Duration = Duration::from_secs(2);
/// An answer about the queue serves so long.
const ASKED_SERVES: Duration = Duration::from_secs(1);
/// A message that came back unsettled so often may be what kills its readers.
pub(super) const RETURNS: u32 = 5;
/// Of the sessions that this process lost so many excuse returns. More do not: a message may be
/// what ends them.
const EXCUSED: u32 = 2 * RETURNS;

/// What belongs to one consumer.
pub(super) struct Shift {
    pub(super) publisher: Publisher,
    /// Ends what leaves no trace.
    pub(super) cancelled: CancellationToken,
    /// A dependency is down: the gate closes.
    pub(super) gate: CancellationToken,
    /// Which one.
    pub(super) blamed: OnceLock<Dependency>,
    /// The queue was deleted: what is released is lost.
    pub(super) orphaned: AtomicBool,
    pub(super) last_probe: Mutex<Option<(Dependency, Instant)>>,
    /// When the broker was last asked whether the queue is there.
    asked: Mutex<Option<Instant>>,
}

impl Shift {
    fn new(publisher: Publisher) -> Self {
        Self {
            publisher,
            cancelled: CancellationToken::new(),
            gate: CancellationToken::new(),
            blamed: OnceLock::new(),
            orphaned: AtomicBool::new(false),
            last_probe: Mutex::new(None),
            asked: Mutex::new(None),
        }
    }

    /// Whether `queue`, which this shift consumes, was deleted: then what is released is lost. The
    /// consumer may have ended for another reason, and not have seen it.
    pub(super) async fn is_orphaned(&self, queue: &str) -> bool {
        let mut asked = self.asked.lock().await;
        let known = self.orphaned.load(Ordering::Relaxed)
            || asked.is_some_and(|at| at.elapsed() < ASKED_SERVES);
        if !known {
            if self.publisher.is_gone(queue).await {
                tracing::error!(queue, "was deleted: what is in hand goes to a retry queue");
                self.orphaned.store(true, Ordering::Relaxed);
            }
            *asked = Some(Instant::now());
        }
        self.orphaned.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Copy)]
pub(super) enum Stop {
    Shutdown {
        drained: bool,
    },
    Lost,
    Gate,
    /// The consumer ended; the queue and the session stand.
    Reopen,
    Orphaned,
}

impl<H: Handler> Worker<H> {
    pub(super) async fn consume(self: &Arc<Self>, session: &Session) -> Stop {
        let opened = tokio::select! {
            opened = session.consumer(&self.lane, self.prefetch) => opened,
            () = self.shared.shutdown.cancelled() => return Stop::Shutdown { drained: true },
        };
        let mut intake = match opened {
            Ok(intake) => intake,
            Err(_) if session.publisher().is_gone(&self.lane.queue).await => return Stop::Orphaned,
            Err(error) => {
                tracing::warn!(queue = self.lane.queue, %error, "cannot consume");
                return Stop::Lost;
            }
        };
        let shift = Arc::new(Shift::new(session.publisher().clone()));
        let tasks = TaskTracker::new();
        let watch = tokio::spawn(Arc::clone(self).watch(Arc::clone(&shift)));
        if H::PUBLISHES && !shift.publisher.is_blocked() {
            self.shared.health.up(Part::Broker);
        }
        let stop = self.take(&mut intake, &shift, &tasks, session).await;
        watch.abort();
        tasks.close();
        self.end(stop, intake, tasks, shift, session).await
    }

    /// Starts work on deliveries until something ends it.
    async fn take(
        self: &Arc<Self>,
        intake: &mut Consumer,
        shift: &Arc<Shift>,
        tasks: &TaskTracker,
        session: &Session,
    ) -> Stop {
        loop {
            let next = async {
                // What cannot be reported need not be scanned yet.
                if H::PUBLISHES && shift.publisher.is_blocked() {
                    let reason = "it takes no messages (memory or disk alarm)";
                    self.shared.health.down(Part::Broker, reason);
                    shift.publisher.unblocked().await;
                    self.shared.health.up(Part::Broker);
                }
                // The intake first: that it was cancelled must be noticed while all slots are taken.
                // The broker gives out no more than there are slots.
                match intake.next().await {
                    next @ Next::Delivery(_) => {
                        (Arc::clone(&self.slots).acquire_owned().await.ok(), next)
                    }
                    next => (None, next),
                }
            };
            tokio::select! {
                biased;
                () = self.shared.shutdown.cancelled() => break Stop::Shutdown { drained: true },
                () = session.lost().cancelled() => break Stop::Lost,
                () = shift.gate.cancelled() => break Stop::Gate,
                next = next => match next {
                    (Some(slot), Next::Delivery(delivery)) => {
                        let work = Arc::clone(self).work(*delivery, Arc::clone(shift), slot);
                        tasks.spawn(work);
                    }
                    (_, Next::Cancelled) => {
                        if shift.publisher.is_gone(&self.lane.queue).await {
                            break Stop::Orphaned;
                        }
                        let queue = &self.lane.queue;
                        tracing::warn!(
                            queue,
                            "the broker ended the consumer, but the queue is there (a message that \
                             took longer than consumer_timeout, or a right that was taken away): \
                             opening another one"
                        );
                        self.overdue.store(true, Ordering::Relaxed);
                        break Stop::Reopen;
                    }
                    (_, Next::Closed { overdue }) => {
                        self.overdue.fetch_or(overdue, Ordering::Relaxed);
                        break Stop::Reopen;
                    }
                    (_, Next::Failed | Next::Delivery(_)) => break Stop::Lost,
                },
            }
        }
    }

    /// Lets what is in hand end as `stop` demands; how it ended in the end.
    async fn end(
        &self,
        mut stop: Stop,
        intake: Consumer,
        tasks: TaskTracker,
        shift: Arc<Shift>,
        session: &Session,
    ) -> Stop {
        match &mut stop {
            Stop::Shutdown { drained } => {
                self.drains.close();
                let ended = async {
                    tokio::join!(intake.stop(), tasks.wait(), self.drains.wait());
                };
                let lost = tokio::select! {
                    ended = tokio::time::timeout(self.shared.grace_left(), ended) => {
                        *drained = ended.is_ok();
                        false
                    }
                    () = session.lost().cancelled() => true,
                };
                shift.cancelled.cancel();
                if lost {
                    // Nothing can be settled any more. Effects that run finish.
                    self.drains.spawn(async move { tasks.wait().await });
                    stop = Stop::Lost;
                } else {
                    drop(tokio::time::timeout(LAST_SETTLEMENTS, tasks.wait()).await);
                    if !intake.close().await {
                        self.unsettled.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            Stop::Gate | Stop::Reopen => {
                shift.cancelled.cancel();
                self.drains.spawn(async move {
                    intake.stop().await;
                    drop(tokio::time::timeout(EFFECTS, tasks.wait()).await);
                    intake.close().await;
                    tasks.wait().await;
                });
            }
            // The broker has no copies any more: what is here is worked to its end.
            Stop::Orphaned => {
                shift.orphaned.store(true, Ordering::Relaxed);
                let (lost, shutdown, half) =
                    (session.lost().clone(), self.shared.shutdown.clone(), self.shared.grace / 2);
                self.drains.spawn(async move {
                    tokio::select! {
                        () = tasks.wait() => { intake.close().await; }
                        // Nobody gives these back: what is not done has to be in a retry queue by
                        // the end.
                        () = async {
                            shutdown.cancelled().await;
                            tokio::time::sleep(half).await;
                        } => {
                            shift.cancelled.cancel();
                            tasks.wait().await;
                            intake.close().await;
                        }
                        () = lost.cancelled() => {
                            shift.cancelled.cancel();
                            tasks.wait().await;
                        }
                    }
                });
            }
            // Nothing can be settled any more. Effects that run finish.
            Stop::Lost => {
                self.losses.fetch_add(1, Ordering::Relaxed);
                shift.cancelled.cancel();
                self.drains.spawn(async move { tasks.wait().await });
            }
        }
        stop
    }

    /// Asks every few minutes whether what deliveries need is still up, and sooner when nothing
    /// gets done.
    async fn watch(self: Arc<Self>, shift: Arc<Shift>) {
        let mut tested = Instant::now();
        let mut ended = self.ended.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(STALLED).await;
            let before = std::mem::replace(&mut ended, self.ended.load(Ordering::Relaxed));
            let asked = if tested.elapsed() > SELF_TEST {
                tested = Instant::now();
                self.handler.ready(VERY_LONG_PATIENCE).await
            } else if ended == before && self.working.load(Ordering::Relaxed) > 0 {
                match self.handler.stalled().await {
                    Ok(()) => Ok(()),
                    // To close the gate throws running work away, so it is asked twice.
                    Err(_) => {
                        tokio::time::sleep(RECHECK).await;
                        self.handler.stalled().await
                    }
                }
            } else {
                continue;
            };
            let Err(failure) = asked else { continue };
            match failure.kind {
                Kind::Suspect(dependency) | Kind::Down(dependency) => {
                    self.close_gate(&shift, dependency, &failure);
                }
                _ => shift.gate.cancel(),
            }
            return;
        }
    }

    async fn work(
        self: Arc<Self>,
        delivery: Delivery,
        shift: Arc<Shift>,
        slot: OwnedSemaphorePermit,
    ) {
        let started = Instant::now();
        self.shared.metrics.in_flight.inc();
        self.working.fetch_add(1, Ordering::Relaxed);
        let mut slot = Some(slot);
        let worked = async {
            let span = self.handler.span(&delivery);
            self.work_in_span(&delivery, &shift).instrument(span).await;
        };
        let mut worked = std::pin::pin!(AssertUnwindSafe(worked).catch_unwind());
        let worked = tokio::select! {
            worked = &mut worked => worked,
            () = async {
                shift.cancelled.cancelled().await;
                tokio::time::sleep(SLOT_KEPT).await;
            } => {
                slot = None;
                worked.await
            }
        };
        if worked.is_err() {
            // Not the handler's panic, that is caught closer by. The message hangs on this channel
            // until it closes.
            shift.gate.cancel();
        }
        self.shared.metrics.took(Timed::Delivery, started.elapsed());
        self.shared.metrics.in_flight.dec();
        self.working.fetch_sub(1, Ordering::Relaxed);
        self.ended.fetch_add(1, Ordering::Relaxed);
        drop(slot);
    }

    async fn work_in_span(&self, delivery: &Delivery, shift: &Shift) {
        let outcome = if let Some(failure) = self.suspicion(delivery) {
            Outcome::Suspected(failure)
        } else {
            let handled = self.handler.handle(delivery, &shift.publisher, &shift.cancelled);
            // A panic is this object's fault until it has used up its attempts.
            AssertUnwindSafe(handled).catch_unwind().await.unwrap_or_else(|_| {
                let detail = "a bug in the scanner, its message is in the log above";
                let failure = Failure::transient(Stage::Event, Reason::Panic, detail);
                Outcome::Failed(failure, H::Memo::default())
            })
        };
        let (disposition, news) = self.decide(delivery, outcome, shift).await;
        match shift.publisher.settle(delivery, &self.lane, disposition).await {
            Ok(()) => self.tell(delivery, news),
            Err(failure) => {
                tracing::debug!(%failure, "not settled, the message will come again");
                if self.shared.shutdown.is_cancelled() {
                    self.unsettled.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Whether the delivery may be what kills its readers. Returns that this process can explain by
    /// sessions that it lost and outlived are not held against it.
    fn suspicion(&self, delivery: &Delivery) -> Option<Failure> {
        let excused = self.losses.load(Ordering::Relaxed).min(EXCUSED);
        if !H::MAY_CRASH || delivery.delivery_count.saturating_sub(excused) < RETURNS {
            return None;
        }
        let returns = delivery.delivery_count;
        let (reason, why) = if self.overdue.load(Ordering::Relaxed) {
            (Reason::ConsumerTimeout, "the broker's consumer_timeout is too short: raise it")
        } else {
            (Reason::CrashSuspected, "it may be what its readers die of")
        };
        let detail = format!("came back unsettled {returns} times: {why}");
        Some(Failure::transient(Stage::Event, reason, detail))
    }
}
