//! Whether and when a failed delivery is tried again. Pure.

use crate::failure::{Dependency, Failure, Kind};
use crate::retry::{Ladder, Step};

/// A message that was redelivered this often may be what stops its readers.
pub(super) const SUSPICIOUS_REDELIVERIES: u32 = 5;

/// Attempts that a suspicion counts for: each has cost the readers five restarts already.
const SUSPICION_COST: u32 = 3;

/// Deferrals for want of disk space or file descriptors, after which each counts as an attempt.
const MAX_DEFERRALS: u32 = 30;

/// What becomes of a failed delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Into a retry queue.
    Retry {
        /// Index of the retry queue, shortest delay first.
        tier: usize,
        /// The attempt that the copy will be.
        attempt: u32,
        /// The copy's count of deferrals.
        deferred: u32,
    },
    /// Into the retry queue with the shortest delay, without counting an attempt.
    Defer,
    /// It is reported and goes to the dead-letter queue.
    GiveUp,
    /// It stays unacknowledged: the broker redelivers it when the channel closes.
    Release,
}

/// What is known besides the failure.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Facts<'a> {
    pub(super) ladder: &'a Ladder,
    /// Which attempt failed; the first is 1.
    pub(super) attempt: u32,
    /// How often the message was deferred.
    pub(super) deferred: u32,
    /// The message was not worked on: it was redelivered too often.
    pub(super) suspected: bool,
    /// One more redelivery, and the message is suspected.
    pub(super) nearly_suspected: bool,
    /// The dependency that the failure may be due to works.
    pub(super) dependency_works: bool,
    /// The dependency for which the gate closed.
    pub(super) gate_closed_for: Option<Dependency>,
    /// No other delivery is in work.
    pub(super) alone: bool,
    /// The broker takes no messages.
    pub(super) broker_blocked: bool,
    /// The queue was deleted, so that what is released is lost.
    pub(super) queue_deleted: bool,
}

/// Decides about a failed delivery.
pub(super) fn decide(failure: &Failure, facts: Facts<'_>) -> Decision {
    if facts.suspected {
        return after_suspicion(facts);
    }
    match failure.kind {
        Kind::Permanent => Decision::GiveUp,
        Kind::Transient => after_attempt(facts),
        Kind::Busy => Decision::Defer,
        // The same few reports must not be the first ones again when the gate opens: they may be all
        // that the webhook refuses. While the broker is blocked the copy would wait, and the original
        // be redelivered beside it.
        Kind::Down(Dependency::Webhook) if !facts.broker_blocked => Decision::Defer,
        // Running deliveries give back temp files and descriptors when they finish. But two objects
        // that are too large for the disk must not wait for each other for ever.
        Kind::Suspect(Dependency::Host)
            if facts.dependency_works && !facts.alone && facts.deferred < MAX_DEFERRALS =>
        {
            Decision::Defer
        }
        Kind::Suspect(_) if facts.dependency_works => after_attempt(facts),
        // A file that stops the engine must be parked in the end.
        Kind::Suspect(_) | Kind::Down(_) if failure.engine_touched => after_attempt(facts),
        // So must one whose scan was cut short because another failure was noticed first.
        Kind::Abandoned
            if failure.engine_touched && facts.gate_closed_for == Some(Dependency::Engine) =>
        {
            after_attempt(facts)
        }
        Kind::Suspect(_) | Kind::Down(_) | Kind::Abandoned => release(facts),
    }
}

/// Back to the broker, unless that would harm the message. A copy in a retry queue starts with no
/// redeliveries.
pub(super) fn release(facts: Facts<'_>) -> Decision {
    let harmless = !facts.nearly_suspected || facts.broker_blocked;
    if harmless && !facts.queue_deleted { Decision::Release } else { Decision::Defer }
}

fn after_attempt(facts: Facts<'_>) -> Decision {
    match facts.ladder.after(facts.attempt) {
        Step::Wait { tier, attempt } => Decision::Retry { tier, attempt, deferred: 0 },
        Step::GiveUp => Decision::GiveUp,
    }
}

/// A suspicion counts as several attempts. Alone it parks nothing that has an attempt left, and
/// nothing that was not deferred before: brokers or readers that were stopped may explain the
/// redeliveries.
fn after_suspicion(facts: Facts<'_>) -> Decision {
    let Facts { ladder, attempt, deferred, .. } = facts;
    let last = ladder.limit.max(attempt);
    match ladder.after(attempt.saturating_add(SUSPICION_COST - 1).min(last)) {
        Step::Wait { tier, attempt } => Decision::Retry { tier, attempt, deferred: 0 },
        Step::GiveUp if deferred == 0 => Decision::Retry { tier: 0, attempt, deferred: 1 },
        Step::GiveUp => Decision::GiveUp,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::failure::{Reason, Stage};
    use crate::retry::Tier;

    const DEPENDENCIES: [Dependency; 4] =
        [Dependency::Store, Dependency::Engine, Dependency::Webhook, Dependency::Host];

    fn ladder(limit: u32) -> Ladder {
        let tiers = [10, 60].map(|s| Tier { name: format!("{s}s"), delay: Duration::from_secs(s) });
        Ladder { tiers: tiers.to_vec(), limit }
    }

    fn failure(kind: Kind, engine_touched: bool) -> Failure {
        let failure = Failure::new(kind, Stage::Scan, Reason::EngineReply, "");
        Failure { engine_touched, ..failure }
    }

    fn facts(ladder: &Ladder) -> Facts<'_> {
        Facts {
            ladder,
            attempt: 1,
            deferred: 0,
            suspected: false,
            nearly_suspected: false,
            dependency_works: false,
            gate_closed_for: None,
            alone: false,
            broker_blocked: false,
            queue_deleted: false,
        }
    }

    /// All values of all facts.
    fn all(ladder: &Ladder) -> Vec<Facts<'_>> {
        let mut all = Vec::new();
        for bits in 0..64_u32 {
            let bit = |n: u32| bits & (1 << n) != 0;
            for gate_closed_for in DEPENDENCIES.map(Some).into_iter().chain([None]) {
                for (attempt, deferred) in [(1, 0), (2, 29), (3, 30), (4, 0), (4, 31)] {
                    all.push(Facts {
                        ladder,
                        attempt,
                        deferred,
                        suspected: bit(0),
                        nearly_suspected: bit(1),
                        dependency_works: bit(2),
                        gate_closed_for,
                        alone: bit(3),
                        broker_blocked: bit(4),
                        queue_deleted: bit(5),
                    });
                }
            }
        }
        all
    }

    /// What a row of the table says of a failure that is not suspected.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Row {
        /// The next step of the ladder.
        Counts,
        Defer,
        GiveUp,
        Release,
    }

    #[expect(clippy::match_same_arms, reason = "a row for each line of the table")]
    fn row(kind: Kind, touched: bool, facts: Facts<'_>) -> Row {
        use Row::{Counts, Defer, GiveUp, Release};
        let closed_for_engine = facts.gate_closed_for == Some(Dependency::Engine);
        match (kind, touched, facts.dependency_works) {
            (Kind::Permanent, _, _) => GiveUp,
            (Kind::Transient, _, _) => Counts,
            (Kind::Busy, _, _) => Defer,
            (Kind::Abandoned, true, _) if closed_for_engine => Counts,
            (Kind::Abandoned, _, _) => Release,
            (Kind::Down(Dependency::Webhook), _, _) if !facts.broker_blocked => Defer,
            (Kind::Down(_), true, _) | (Kind::Suspect(_), true, false) => Counts,
            (Kind::Down(_), false, _) | (Kind::Suspect(_), false, false) => Release,
            (Kind::Suspect(Dependency::Host), _, true) if facts.alone || facts.deferred >= 30 => {
                Counts
            }
            (Kind::Suspect(Dependency::Host), _, true) => Defer,
            (Kind::Suspect(_), _, true) => Counts,
        }
    }

    #[test]
    fn the_whole_table() {
        let ladder = ladder(3);
        let mut kinds = vec![Kind::Permanent, Kind::Transient, Kind::Busy, Kind::Abandoned];
        kinds.extend(DEPENDENCIES.map(Kind::Suspect));
        kinds.extend(DEPENDENCIES.map(Kind::Down));
        for kind in kinds {
            for touched in [false, true] {
                for facts in all(&ladder) {
                    let expected = match (facts.suspected, row(kind, touched, facts)) {
                        (true, _) => after_suspicion(facts),
                        (false, Row::Counts) => after_attempt(facts),
                        (false, Row::Defer) => Decision::Defer,
                        (false, Row::GiveUp) => Decision::GiveUp,
                        (false, Row::Release) => {
                            let near = facts.nearly_suspected && !facts.broker_blocked;
                            if near || facts.queue_deleted {
                                Decision::Defer
                            } else {
                                Decision::Release
                            }
                        }
                    };
                    let decided = decide(&failure(kind, touched), facts);
                    assert_eq!(decided, expected, "{kind:?} {touched} {facts:?}");
                }
            }
        }
    }

    /// Examples with the words of the promises, so that the table is not only compared with itself.
    #[test]
    fn what_the_promises_ask_for() {
        let ladder = ladder(3);
        let facts = facts(&ladder);
        let store = Kind::Suspect(Dependency::Store);
        let retry = Decision::Retry { tier: 0, attempt: 2, deferred: 0 };
        // A store that is down uses up no attempts.
        assert_eq!(decide(&failure(store, false), facts), Decision::Release);
        // One broken object of a store that works does.
        let works = Facts { dependency_works: true, ..facts };
        assert_eq!(decide(&failure(store, false), works), retry);
        // A file that takes the engine down uses up its attempts.
        let engine = Kind::Down(Dependency::Engine);
        assert_eq!(decide(&failure(engine, true), facts), retry);
        let last = Facts { attempt: 4, ..facts };
        assert_eq!(decide(&failure(engine, true), last), Decision::GiveUp);
        // What a deleted queue would lose is copied.
        let deleted = Facts { queue_deleted: true, ..facts };
        assert_eq!(decide(&failure(Kind::Abandoned, false), deleted), Decision::Defer);
    }

    #[test]
    fn a_suspicion_parks_only_what_has_no_attempt_left_and_was_deferred_before() {
        let retry = |tier, attempt, deferred| Decision::Retry { tier, attempt, deferred };
        for (limit, attempt, deferred, expected) in [
            // Several attempts at once, but never beyond the last.
            (8, 1, 0, retry(1, 4, 0)),
            (8, 1, 3, retry(1, 4, 0)),
            (8, 7, 0, retry(1, 9, 0)),
            (8, 8, 0, retry(1, 9, 0)),
            // None left: once more, then the end.
            (8, 9, 0, retry(0, 9, 1)),
            (8, 9, 1, Decision::GiveUp),
            (0, 1, 0, retry(0, 1, 1)),
            (0, 1, 1, Decision::GiveUp),
            (0, u32::MAX, 0, retry(0, u32::MAX, 1)),
        ] {
            let ladder = ladder(limit);
            let facts = Facts { attempt, deferred, suspected: true, ..facts(&ladder) };
            let decided = decide(&failure(Kind::Transient, false), facts);
            assert_eq!(decided, expected, "limit {limit}, attempt {attempt}, deferred {deferred}");
        }
    }
}
