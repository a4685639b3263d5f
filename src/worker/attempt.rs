//! One attempt at one delivery: read, handle, decide, settle, record.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tracing::Instrument;

use super::Worker;
use super::context::Context;
use super::decision::{self, Decision, Facts, SUSPICIOUS_REDELIVERIES};
use super::handler::{Handler, Outcome};
use super::slots::Slot;
use crate::failure::{Failure, Reason, Stage};
use crate::metrics::Timed;
use crate::queue::{Cause, Delivery, Disposition, Settlement};
use crate::trace;

/// When the gate closes, running work keeps its slot for this long. Work that hangs must not keep
/// others from being worked on.
const SLOT_GRACE: Duration = Duration::from_secs(1);

/// Redeliveries that are explained by sessions which this process lost. More are not: a message may
/// be what ends the sessions.
const MAX_EXPLAINED: u32 = 2 * SUSPICIOUS_REDELIVERIES;

/// Deferrals of one message, about a minute with the default delays, that are worth a warning.
const MANY_DEFERRALS: u32 = 6;
const WARN_INTERVAL: Duration = Duration::from_mins(1);

/// The detail of a failure by a panic.
const BUG: &str = "a bug in the scanner, its message is in the log above";

/// What is logged and counted once a delivery is settled.
enum Settled<H: Handler> {
    Nothing,
    Ended(H::End),
    /// With what was known, for the case that it cannot be retried.
    Retried(Failure, H::Known),
    Deferred(Failure),
    Parked(Cause),
}

/// A disposition, and what to record after it was carried out.
type Resolved<H> = (Disposition, Settled<H>);

impl<H: Handler> Worker<H> {
    /// Works on one delivery, with a slot.
    pub(super) async fn work(
        self: Arc<Self>,
        mut delivery: Delivery,
        context: Arc<Context>,
        slot: Slot,
    ) {
        let started = Instant::now();
        self.shared.metrics.in_flight.inc();
        self.in_work.fetch_add(1, Ordering::Relaxed);
        let mut trace_span = self.shared.tracer.process(&self.queue.queue, &mut delivery.trace);
        let attempt = async {
            let Ok(work) = catch_unwind(AssertUnwindSafe(|| self.handler.read(&delivery))) else {
                return self.park_unreadable(&delivery, &context, &mut trace_span).await;
            };
            let span = self.handler.span(&work, &delivery);
            self.handler.describe(&work, &mut trace_span);
            trace_span.text("messaging.message.id", delivery.message_id().unwrap_or_default());
            trace_span.count("avscan.attempt", delivery.history.attempt);
            self.attempt(&work, &delivery, &context, &mut trace_span).instrument(span).await;
        };
        let (done, slot) = with_slot(attempt, slot, &context).await;
        if done.is_err() {
            // Panics of a handler are caught closer by, so this one is ours. The message stays
            // unsettled until its channel closes.
            context.gate_closed.cancel();
        }
        self.shared.metrics.took(Timed::Delivery, started.elapsed());
        self.shared.metrics.in_flight.dec();
        self.in_work.fetch_sub(1, Ordering::Relaxed);
        self.finished.fetch_add(1, Ordering::Relaxed);
        drop(slot);
    }

    async fn attempt(
        &self,
        work: &H::Work,
        delivery: &Delivery,
        context: &Context,
        span: &mut trace::Span,
    ) {
        let resolved = match self.suspicion(delivery) {
            Some(failure) => {
                let facts = Facts { suspected: true, ..self.facts(delivery, context) };
                self.resolve_failure(work, delivery, failure, H::Known::default(), facts, context)
                    .await
            }
            None => {
                let outcome = self.handle(work, delivery, context).await;
                self.resolve(work, delivery, outcome, context).await
            }
        };
        if let Some((failure, known)) = self.settle(delivery, resolved, context, span).await {
            tracing::debug!(%failure, "the retry queue is full");
            let facts = self.facts(delivery, context);
            let resolved = self.give_up(work, delivery, failure, known, facts, context).await;
            self.settle(delivery, resolved, context, span).await;
        }
    }

    /// A message that makes its parser panic does so each time, so it is parked at once. Nothing else
    /// can be done about it, and the gate must not close for it again and again.
    async fn park_unreadable(
        &self,
        delivery: &Delivery,
        context: &Context,
        span: &mut trace::Span,
    ) {
        let reason = Reason::Panic.into_str();
        let detail = BUG.to_owned();
        let cause = Cause { reason, stage: Stage::Event, detail, signature: None };
        let parked = (Disposition::Park(cause.clone()), Settled::Parked(cause));
        self.settle(delivery, parked, context, span).await;
    }

    /// Carries out what was resolved. Returns the failure if its retry queue has no room.
    async fn settle(
        &self,
        delivery: &Delivery,
        resolved: Resolved<H>,
        context: &Context,
        span: &mut trace::Span,
    ) -> Option<(Failure, H::Known)> {
        let (disposition, settled) = resolved;
        describe(&disposition, span);
        match context.publisher.settle(delivery, &self.queue, disposition).await {
            Ok(Settlement::Settled) => self.record(delivery, settled),
            Ok(Settlement::NoRoom) => match settled {
                Settled::Retried(failure, known) => return Some((failure, known)),
                Settled::Deferred(failure) => return Some((failure, H::Known::default())),
                Settled::Nothing | Settled::Ended(_) | Settled::Parked(_) => {}
            },
            Err(failure) => {
                tracing::debug!(%failure, "not settled, the message will be redelivered");
                if self.shared.shutdown.is_cancelled() {
                    self.unsettled.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        None
    }

    /// Whether the message may be what stops its readers. Redeliveries that this process can explain
    /// by sessions that it lost and outlived do not count.
    fn suspicion(&self, delivery: &Delivery) -> Option<Failure> {
        let count = delivery.delivery_count;
        let explained = self.lost_sessions.load(Ordering::Relaxed).min(MAX_EXPLAINED);
        if !H::MAY_CRASH || count.saturating_sub(explained) < SUSPICIOUS_REDELIVERIES {
            return None;
        }
        let (reason, why) = if self.overdue.load(Ordering::Relaxed) {
            (Reason::ConsumerTimeout, "the broker's consumer_timeout is too short: raise it")
        } else {
            (Reason::CrashSuspected, "it may crash the daemon")
        };
        let detail = format!("came back unsettled {count} times: {why}");
        Some(Failure::transient(Stage::Event, reason, detail))
    }

    async fn handle(
        &self,
        work: &H::Work,
        delivery: &Delivery,
        context: &Context,
    ) -> Outcome<H::End, H::Known> {
        let handled = self.handler.handle(work, delivery, &context.publisher, &context.cancelled);
        // A panic counts as a failure of this object.
        AssertUnwindSafe(handled).catch_unwind().await.unwrap_or_else(|_| {
            let failure = Failure::transient(Stage::Event, Reason::Panic, BUG);
            Outcome::Failed(failure, H::Known::default())
        })
    }

    async fn resolve(
        &self,
        work: &H::Work,
        delivery: &Delivery,
        outcome: Outcome<H::End, H::Known>,
        context: &Context,
    ) -> Resolved<H> {
        match outcome {
            Outcome::Done(end) => (Disposition::Ack, Settled::Ended(end)),
            Outcome::Split(parts) => (Disposition::Split(parts), Settled::Nothing),
            Outcome::Park(cause) => (Disposition::Park(cause.clone()), Settled::Parked(cause)),
            Outcome::LookAgain(failure) => {
                let (attempt, deferred) = (delivery.history.attempt, delivery.history.deferred);
                let cause = Cause::from(&failure);
                let retry = Disposition::Retry { tier: 0, attempt, deferred, missed: true, cause };
                (retry, Settled::Deferred(failure))
            }
            Outcome::Failed(failure, known) => {
                let dependency_works = self.check_cause(&failure, work, context).await;
                let facts = Facts { dependency_works, ..self.facts(delivery, context) };
                self.resolve_failure(work, delivery, failure, known, facts, context).await
            }
        }
    }

    fn facts(&self, delivery: &Delivery, context: &Context) -> Facts<'_> {
        let next_count = delivery.delivery_count.saturating_add(1);
        Facts {
            ladder: &self.shared.ladder,
            attempt: delivery.history.attempt,
            deferred: delivery.history.deferred,
            suspected: false,
            nearly_suspected: H::MAY_CRASH && next_count >= SUSPICIOUS_REDELIVERIES,
            dependency_works: true,
            gate_closed_for: context.closed_for.get().copied(),
            alone: self.in_work.load(Ordering::Relaxed) <= 1,
            broker_blocked: context.publisher.is_blocked(),
            queue_deleted: false,
        }
    }

    /// Turns the decision about a failure into a disposition.
    async fn resolve_failure(
        &self,
        work: &H::Work,
        delivery: &Delivery,
        failure: Failure,
        known: H::Known,
        facts: Facts<'_>,
        context: &Context,
    ) -> Resolved<H> {
        match decision::decide(&failure, facts) {
            Decision::Retry { tier, attempt, deferred } => {
                let cause = Cause::from(&failure);
                let retry = Disposition::Retry { tier, attempt, deferred, missed: false, cause };
                (retry, Settled::Retried(failure, known))
            }
            Decision::Defer => defer(delivery, failure),
            Decision::Release => self.release(delivery, failure, facts, context).await,
            Decision::GiveUp => self.give_up(work, delivery, failure, known, facts, context).await,
        }
    }

    /// Whether the queue is still there is asked only for a message that is about to be released.
    async fn release(
        &self,
        delivery: &Delivery,
        failure: Failure,
        facts: Facts<'_>,
        context: &Context,
    ) -> Resolved<H> {
        let queue_deleted = context.is_queue_deleted(&self.queue.queue).await;
        match decision::release(Facts { queue_deleted, ..facts }) {
            Decision::Release => (Disposition::Release, Settled::Nothing),
            _ => defer(delivery, failure),
        }
    }

    async fn give_up(
        &self,
        work: &H::Work,
        delivery: &Delivery,
        failure: Failure,
        known: H::Known,
        facts: Facts<'_>,
        context: &Context,
    ) -> Resolved<H> {
        let cause = Cause::from(&failure);
        let reported = self.handler.on_give_up(work, delivery, failure, known, &context.publisher);
        match AssertUnwindSafe(reported).catch_unwind().await {
            Ok(Ok(())) => {}
            // It would panic each time, and a message without an end keeps others waiting.
            Err(_) => {
                tracing::error!("a bug in the scanner, its message is above: parked, not reported");
            }
            Ok(Err(failure)) => {
                tracing::debug!(%failure, "the last report could not be published");
                return self.release(delivery, failure, facts, context).await;
            }
        }
        (Disposition::Park(cause.clone()), Settled::Parked(cause))
    }

    /// Logs and counts what is now true.
    fn record(&self, delivery: &Delivery, settled: Settled<H>) {
        let metrics = &self.shared.metrics;
        let kind = self.queue.kind;
        match settled {
            Settled::Nothing => {}
            Settled::Ended(end) => self.handler.record_end(end),
            Settled::Retried(failure, _) => {
                metrics.retry(kind, failure.stage, failure.reason);
                let attempt = delivery.history.attempt;
                tracing::warn!(%failure, attempt, "failed, will be tried again");
            }
            Settled::Deferred(failure) => {
                metrics.retry(kind, failure.stage, failure.reason);
                let times = delivery.history.deferred.saturating_add(1);
                if times >= MANY_DEFERRALS && self.may_warn_of_deferrals() {
                    let queue = &self.queue.queue;
                    tracing::warn!(%failure, times, queue, "put off again and again");
                } else {
                    tracing::debug!(%failure, times, "put off, the attempt does not count");
                }
            }
            Settled::Parked(cause) => {
                self.handler.record_end(H::PARKED);
                let Cause { reason, stage, detail, .. } = cause;
                let Some(queue) = &self.queue.dead else {
                    tracing::error!(reason, stage = stage.into_str(), detail, "given up");
                    return;
                };
                metrics.dead_letter(kind, stage, reason);
                let stage = stage.into_str();
                tracing::error!(queue, reason, stage, detail, "parked in the dead-letter queue");
            }
        }
    }

    /// At most one warning in an interval: many messages are deferred for the same reason.
    fn may_warn_of_deferrals(&self) -> bool {
        let mut warned = self.warned_of_deferrals.lock().unwrap_or_else(PoisonError::into_inner);
        let due = warned.is_none_or(|at| at.elapsed() > WARN_INTERVAL);
        if due {
            *warned = Some(Instant::now());
        }
        due
    }
}

/// Runs `attempt` to its end. The slot is given back by the caller, or here a moment after the
/// attempt was cancelled.
async fn with_slot(
    attempt: impl Future<Output = ()>,
    slot: Slot,
    context: &Context,
) -> (std::thread::Result<()>, Option<Slot>) {
    let mut attempt = std::pin::pin!(AssertUnwindSafe(attempt).catch_unwind());
    tokio::select! {
        done = &mut attempt => return (done, Some(slot)),
        () = async {
            context.cancelled.cancelled().await;
            tokio::time::sleep(SLOT_GRACE).await;
        } => drop(slot),
    }
    (attempt.await, None)
}

/// What becomes of the message, for its span.
fn describe(disposition: &Disposition, span: &mut trace::Span) {
    let (word, cause) = match disposition {
        Disposition::Ack => ("ack", None),
        Disposition::Split(_) => ("split", None),
        Disposition::Retry { cause, .. } => ("retry", Some(cause)),
        Disposition::Park(cause) => ("park", Some(cause)),
        Disposition::Release => ("release", None),
    };
    span.set("avscan.disposition", word);
    if let Some(Cause { reason, detail, .. }) = cause {
        span.failed(reason, detail);
    }
}

fn defer<H: Handler>(delivery: &Delivery, failure: Failure) -> Resolved<H> {
    let attempt = delivery.history.attempt;
    let deferred = delivery.history.deferred.saturating_add(1);
    let cause = Cause::from(&failure);
    let retry = Disposition::Retry { tier: 0, attempt, deferred, missed: false, cause };
    (retry, Settled::Deferred(failure))
}
