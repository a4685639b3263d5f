//! What becomes of a delivery: the table of retries, and the probes that it rests on.

use std::panic::AssertUnwindSafe;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use super::shift::{RETURNS, Shift};
use super::{Handler, Outcome, Worker};
use crate::failure::{Dependency, Failure, Kind, Reason, Stage};
use crate::queue::{Cause, Delivery, Disposition};
use crate::retry::{Ladder, Step};

/// A probe's answer serves the failures of this long.
const PROBE_SERVES: Duration = Duration::from_secs(1);

/// So many attempts a suspicion counts for: each has cost its readers five restarts already.
const SUSPICION: u32 = 3;

/// How often an object is put off for want of disk or descriptors before that counts as attempts.
const DEFERRALS: u32 = 30;

/// Put off so often, about a minute with the default delays, is worth a warning.
const MANY_DEFERRALS: u32 = 6;
const WARN_INTERVAL: Duration = Duration::from_mins(1);

/// What there is to tell of a delivery once it is settled.
pub(super) enum News<E> {
    None,
    Ended(E),
    Retried(Failure),
    Deferred(Failure),
    Parked(Cause),
}

impl<H: Handler> Worker<H> {
    /// What becomes of a delivery, and what there is to tell once it has become of it.
    pub(super) async fn decide(
        &self,
        delivery: &Delivery,
        outcome: Outcome<H::End, H::Memo>,
        shift: &Shift,
    ) -> (Disposition, News<H::End>) {
        let (failure, memo) = match outcome {
            Outcome::Done(end) => return (Disposition::Ack, News::Ended(end)),
            Outcome::Split(parts) => return (Disposition::Split(parts), News::None),
            Outcome::Park(note) => return (Disposition::Park(note.clone()), News::Parked(note)),
            Outcome::LookAgain(failure) => {
                let (attempt, deferred) = (delivery.history.attempt, delivery.history.deferred);
                let note = Cause::from(&failure);
                let wait =
                    Disposition::Retry { tier: 0, attempt, deferred, missed: true, cause: note };
                return (wait, News::Deferred(failure));
            }
            Outcome::Suspected(failure) => return self.suspect(delivery, failure, shift).await,
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
                    if !alone && delivery.history.deferred < DEFERRALS {
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
            return self.release(delivery, failure, shift).await;
        }
        match self.shared.ladder.after(delivery.history.attempt) {
            Step::Wait { tier, attempt } => {
                let note = Cause::from(&failure);
                (
                    Disposition::Retry { tier, attempt, deferred: 0, missed: false, cause: note },
                    News::Retried(failure),
                )
            }
            Step::GiveUp => self.give_up(delivery, failure, memo, shift).await,
        }
    }

    /// A message that keeps coming back unsettled costs several attempts at once. Its copy in the
    /// retry queue starts with no returns.
    async fn suspect(
        &self,
        delivery: &Delivery,
        failure: Failure,
        shift: &Shift,
    ) -> (Disposition, News<H::End>) {
        let note = Cause::from(&failure);
        let (attempt, deferred) = (delivery.history.attempt, delivery.history.deferred);
        match after_suspicion(&self.shared.ladder, attempt, deferred) {
            (Step::Wait { tier, attempt }, deferred) => (
                Disposition::Retry { tier, attempt, deferred, missed: false, cause: note },
                News::Retried(failure),
            ),
            (Step::GiveUp, _) => self.give_up(delivery, failure, H::Memo::default(), shift).await,
        }
    }

    async fn give_up(
        &self,
        delivery: &Delivery,
        failure: Failure,
        memo: H::Memo,
        shift: &Shift,
    ) -> (Disposition, News<H::End>) {
        let note = Cause::from(&failure);
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
                self.release(delivery, failure, shift).await
            }
        }
    }

    /// Back to the broker, which gives it to somebody again.
    async fn release(
        &self,
        delivery: &Delivery,
        failure: Failure,
        shift: &Shift,
    ) -> (Disposition, News<H::End>) {
        // One return more and it would be suspected, for what a dependency did. A copy starts with
        // none; under an alarm of the broker it would be stuck while the original goes back.
        let often = H::MAY_CRASH && delivery.delivery_count.saturating_add(1) >= RETURNS;
        if (often && !shift.publisher.is_blocked()) || shift.is_orphaned(&self.lane.queue).await {
            return later(delivery, failure);
        }
        (Disposition::Release, News::None)
    }

    /// Logs and counts what is now true.
    pub(super) fn tell(&self, delivery: &Delivery, news: News<H::End>) {
        let metrics = &self.shared.metrics;
        match news {
            News::None => {}
            News::Ended(end) => self.handler.ended(end),
            News::Retried(failure) => {
                metrics.retry(self.lane.name, failure.stage, failure.reason);
                tracing::warn!(%failure, attempt = delivery.history.attempt, "failed, will be tried again");
            }
            News::Deferred(failure) => {
                metrics.retry(self.lane.name, failure.stage, failure.reason);
                let times = delivery.history.deferred.saturating_add(1);
                if times >= MANY_DEFERRALS && self.may_warn_of_deferrals() {
                    let queue = &self.lane.queue;
                    tracing::warn!(%failure, times, queue, "put off again and again");
                } else {
                    tracing::debug!(%failure, times, "put off, the attempt does not count");
                }
            }
            News::Parked(note) => {
                metrics.dead_letter(self.lane.name, note.stage, note.reason);
                self.handler.ended(H::PARKED);
                tracing::error!(
                    queue = self.lane.dead,
                    reason = note.reason,
                    stage = note.stage.into_str(),
                    detail = note.detail,
                    "parked in the dead-letter queue"
                );
            }
        }
    }

    /// Now and then: many are put off for the same reason.
    fn may_warn_of_deferrals(&self) -> bool {
        let mut warned = self.warned_of_deferrals.lock().unwrap_or_else(PoisonError::into_inner);
        let due = warned.is_none_or(|at| at.elapsed() > WARN_INTERVAL);
        if due {
            *warned = Some(Instant::now());
        }
        due
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
            return Err(Failure::new(kind, Stage::Scan, Reason::GateClosed, "the gate is closed"));
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

/// What follows a suspicion about a message, and how often it will have been put off. A suspicion
/// alone parks nothing that has a try left, and nothing that was not put off before: its returns
/// may have been those of brokers or readers that were stopped.
fn after_suspicion(ladder: &Ladder, attempt: u32, deferred: u32) -> (Step, u32) {
    let last = ladder.limit.max(attempt);
    match ladder.after(attempt.saturating_add(SUSPICION - 1).min(last)) {
        Step::GiveUp if deferred == 0 => (Step::Wait { tier: 0, attempt }, 1),
        step => (step, 0),
    }
}

/// In the shortest tier, the attempt not counted.
fn later<E>(delivery: &Delivery, failure: Failure) -> (Disposition, News<E>) {
    let (attempt, note) = (delivery.history.attempt, Cause::from(&failure));
    let deferred = delivery.history.deferred.saturating_add(1);
    (
        Disposition::Retry { tier: 0, attempt, deferred, missed: false, cause: note },
        News::Deferred(failure),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::Tier;

    #[test]
    fn a_suspicion_parks_only_what_has_no_try_left_and_was_put_off_before() {
        let tiers = [10, 60].map(|s| Tier { name: format!("{s}s"), delay: Duration::from_secs(s) });
        let ladder = |limit| Ladder { tiers: tiers.to_vec(), limit };
        let wait = |tier, attempt| Step::Wait { tier, attempt };
        for (limit, attempt, deferred, expected) in [
            // Several attempts at once, but never beyond the last.
            (8, 1, 0, (wait(1, 4), 0)),
            (8, 1, 3, (wait(1, 4), 0)),
            (8, 7, 0, (wait(1, 9), 0)),
            (8, 8, 0, (wait(1, 9), 0)),
            // None left: once more, then the end.
            (8, 9, 0, (wait(0, 9), 1)),
            (8, 9, 1, (Step::GiveUp, 0)),
            (0, 1, 0, (wait(0, 1), 1)),
            (0, 1, 1, (Step::GiveUp, 0)),
            (0, u32::MAX, 0, (wait(0, u32::MAX), 1)),
        ] {
            let step = after_suspicion(&ladder(limit), attempt, deferred);
            assert_eq!(step, expected, "limit {limit}, attempt {attempt}, deferred {deferred}");
        }
    }
}
