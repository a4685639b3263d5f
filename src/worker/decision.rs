//! What becomes of a delivery: the table of retries, and the probes that it rests on.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use super::shift::Shift;
use super::{Handler, Outcome, Worker};
use crate::failure::{Dependency, Failure, Kind, Stage};
use crate::metrics::FailureLabels;
use crate::queue::{Delivery, Disposition, Note};
use crate::retry::Step;

/// A probe's answer serves the failures of this long.
const PROBE_SERVES: Duration = Duration::from_secs(1);

/// The label of a message that came back unsettled time and again.
pub(super) const CRASH_SUSPECTED: &str = "crash_suspected";
/// So many attempts a suspicion counts for: each has cost its readers five restarts already.
const SUSPICION: u32 = 3;

/// How often an object is put off for want of disk or descriptors before that counts as attempts.
const DEFERRALS: u32 = 30;

/// What there is to tell of a delivery once it is settled.
pub(super) enum News {
    None,
    Ended(&'static str),
    Retried(Failure),
    Deferred(Failure),
    Parked(Note),
}

impl<H: Handler> Worker<H> {
    /// What becomes of a delivery, and what there is to tell once it has become of it.
    pub(super) async fn decide(
        &self,
        delivery: &Delivery,
        outcome: Outcome<H::Memo>,
        shift: &Shift,
    ) -> (Disposition, News) {
        let (failure, memo) = match outcome {
            Outcome::Done(end) => return (Disposition::Ack, News::Ended(end)),
            Outcome::Split(parts) => return (Disposition::Split(parts), News::None),
            Outcome::Park(note) => return (Disposition::Park(note.clone()), News::Parked(note)),
            Outcome::LookAgain(failure) => {
                let (attempt, deferred) = (delivery.attempt, delivery.deferred);
                let note = Note::from(&failure);
                let wait = Disposition::Wait { tier: 0, attempt, deferred, missed: true, note };
                return (wait, News::Deferred(failure));
            }
            Outcome::Failed(failure, memo) => (failure, memo),
        };
        let counts = match failure.kind {
            Kind::Busy => return later(delivery, failure),
            Kind::Permanent => return self.give_up(delivery, failure, memo, shift).await,
            Kind::Transient => true,
            // Cut short by a gate that closed. A file that brought the engine down must not get
            // away because another one's failure was noticed first.
            Kind::Abandoned => {
                failure.engine_touched && shift.blamed.get() == Some(&Dependency::Engine)
            }
            Kind::Down(dependency) => {
                self.close_gate(shift, dependency, &failure);
                // The same few reports must not be the first ones again when the gate opens: they
                // may be all that the webhook does not take.
                // Under an alarm of the broker the copy would be stuck while the original goes back.
                if dependency == Dependency::Webhook && !shift.publisher.is_blocked() {
                    return later(delivery, failure);
                }
                failure.engine_touched
            }
            Kind::Suspect(suspect) => match self.probe(suspect, delivery, shift).await {
                // While others hold temp files and descriptors, there will be more when they are
                // done; but two objects that are too large for the disk must not wait for each
                // other for ever.
                Ok(()) if suspect == Dependency::Host => {
                    let alone = self.working.load(Ordering::Relaxed) <= 1;
                    if !alone && delivery.deferred < DEFERRALS {
                        return later(delivery, failure);
                    }
                    true
                }
                Ok(()) => true,
                Err(down) => {
                    self.close_gate(shift, suspect, &down);
                    failure.engine_touched
                }
            },
        };
        if !counts {
            return release(delivery, failure, shift);
        }
        let weight = if failure.label == CRASH_SUSPECTED { SUSPICION } else { 1 };
        // A suspicion alone parks nothing that has a try left.
        let last = self.shared.ladder.limit.max(delivery.attempt);
        match self.shared.ladder.after(delivery.attempt.saturating_add(weight - 1).min(last)) {
            Step::Wait { tier, attempt } => {
                let note = Note::from(&failure);
                (
                    Disposition::Wait { tier, attempt, deferred: 0, missed: false, note },
                    News::Retried(failure),
                )
            }
            Step::GiveUp => self.give_up(delivery, failure, memo, shift).await,
        }
    }

    async fn give_up(
        &self,
        delivery: &Delivery,
        failure: Failure,
        memo: H::Memo,
        shift: &Shift,
    ) -> (Disposition, News) {
        let note = Note::from(&failure);
        let exhausted = self.handler.exhausted(delivery, failure, memo, &shift.publisher);
        match AssertUnwindSafe(exhausted).catch_unwind().await {
            Ok(Ok(())) => (Disposition::Park(note.clone()), News::Parked(note)),
            // It would do so each time, and a message that cannot end stands in the way of others.
            Err(_) => {
                tracing::error!("a bug in the scanner, its message is above: parked, not reported");
                (Disposition::Park(note.clone()), News::Parked(note))
            }
            Ok(Err(failure)) => {
                tracing::debug!(%failure, "the last report could not be handed over");
                release(delivery, failure, shift)
            }
        }
    }

    /// Logs and counts what is now true.
    pub(super) fn tell(&self, delivery: &Delivery, news: News) {
        let labels = |stage: Stage, reason| FailureLabels {
            lane: self.lane.name,
            stage: stage.as_str(),
            reason,
        };
        match news {
            News::None => {}
            News::Ended(end) => self.handler.ended(end),
            News::Retried(failure) => {
                let labels = labels(failure.stage, failure.label);
                self.shared.metrics.retries.get_or_create(&labels).inc();
                tracing::warn!(%failure, attempt = delivery.attempt, "failed, will be tried again");
            }
            News::Deferred(failure) => {
                let labels = labels(failure.stage, failure.label);
                self.shared.metrics.retries.get_or_create(&labels).inc();
                tracing::debug!(%failure, "put off, the attempt does not count");
            }
            News::Parked(note) => {
                let labels = labels(note.stage, note.reason);
                self.shared.metrics.dead_letters.get_or_create(&labels).inc();
                self.handler.ended("parked");
                tracing::error!(
                    queue = self.lane.dead,
                    reason = note.reason,
                    stage = note.stage.as_str(),
                    detail = note.detail,
                    "parked in the dead-letter queue"
                );
            }
        }
    }

    /// One probe at a time, and one for all failures of a moment.
    async fn probe(
        &self,
        suspect: Dependency,
        delivery: &Delivery,
        shift: &Shift,
    ) -> Result<(), Failure> {
        let mut last = shift.last_probe.lock().await;
        if shift.gate.is_cancelled() {
            let kind = Kind::Down(suspect);
            return Err(Failure::new(kind, Stage::Scan, "gate_closed", "the gate is closed"));
        }
        if last.is_some_and(|(asked, at)| asked == suspect && at.elapsed() < PROBE_SERVES) {
            return Ok(());
        }
        let probe = self.handler.probe(suspect, delivery);
        match AssertUnwindSafe(probe).catch_unwind().await {
            Ok(answer) => answer?,
            // This object's doing. It says nothing about the dependency, so it serves nobody else.
            Err(_) => return Ok(()),
        }
        *last = Some((suspect, Instant::now()));
        Ok(())
    }

    pub(super) fn close_gate(&self, shift: &Shift, dependency: Dependency, failure: &Failure) {
        // What goes on from an earlier shift says nothing about the one that runs now.
        let over = shift.orphaned.load(Ordering::Relaxed) || shift.cancelled.is_cancelled();
        if !over && shift.blamed.set(dependency).is_ok() {
            self.blame(failure);
            shift.gate.cancel();
        }
    }
}

/// Back to the broker, which gives it to somebody again.
fn release(delivery: &Delivery, failure: Failure, shift: &Shift) -> (Disposition, News) {
    // A queue that was deleted takes nothing back.
    if shift.orphaned.load(Ordering::Relaxed) {
        return later(delivery, failure);
    }
    (Disposition::Release, News::None)
}

/// In the shortest tier, the attempt not counted.
fn later(delivery: &Delivery, failure: Failure) -> (Disposition, News) {
    let (attempt, note) = (delivery.attempt, Note::from(&failure));
    let deferred = delivery.deferred.saturating_add(1);
    (Disposition::Wait { tier: 0, attempt, deferred, missed: false, note }, News::Deferred(failure))
}
