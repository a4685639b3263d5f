//! When to try again: the ladder that messages climb, and the backoff of reconnects.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// The ladder of delays that a failed message climbs, and how often it may.
#[derive(Debug, Clone)]
pub(crate) struct Ladder {
    /// The delay of each tier, shortest first; never empty.
    pub(crate) tiers: Vec<Tier>,
    /// Retries before a message is parked.
    pub(crate) limit: u32,
}

/// One tier of the ladder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tier {
    /// The delay as it was configured, for the queue's name (`10s`).
    pub(crate) name: String,
    /// The delay.
    pub(crate) delay: Duration,
}

/// What becomes of a message after its failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Wait in the tier with this index, then count as this attempt.
    Wait {
        /// Index into [`Ladder::tiers`].
        tier: usize,
        /// The attempt that the copy will be.
        attempt: u32,
    },
    /// The attempts are used up.
    GiveUp,
}

impl Ladder {
    /// What follows a failed `attempt` (the first is 1). The last tier repeats until `limit`
    /// retries are used up.
    pub(crate) fn after(&self, attempt: u32) -> Step {
        if attempt > self.limit {
            return Step::GiveUp;
        }
        let last = self.tiers.len().saturating_sub(1);
        let rung = usize::try_from(attempt.saturating_sub(1)).unwrap_or(last);
        Step::Wait { tier: rung.min(last), attempt: attempt + 1 }
    }

    /// How long a message that comes as this `attempt` has waited at least since it failed; `None`
    /// for one that has not. `deferred`: how often it was put off, in the shortest tier, without an
    /// attempt being counted.
    pub(crate) fn waited(&self, attempt: u32, deferred: u32) -> Option<Duration> {
        let rung = if deferred > 0 { 0 } else { attempt.checked_sub(2)? };
        let last = self.tiers.len().saturating_sub(1);
        let rung = usize::try_from(rung).unwrap_or(last).min(last);
        self.tiers.get(rung).map(|tier| tier.delay)
    }
}

/// Delays between reconnects: 250 ms doubling to 2 s, with jitter so that replicas which lost the
/// same broker do not come back in step. Never ends.
pub(crate) fn reconnect_delays() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(Duration::from_secs(2))
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ladder(limit: u32) -> Ladder {
        let tier = |s: u64| Tier { name: format!("{s}s"), delay: Duration::from_secs(s) };
        Ladder { tiers: vec![tier(10), tier(60), tier(600)], limit }
    }

    #[test]
    fn a_message_climbs_the_tiers_and_stays_on_the_last_until_its_attempts_are_used_up() {
        let ladder = ladder(5);
        let tiers: Vec<_> = (1..=6).map(|attempt| ladder.after(attempt)).collect();
        let wait = |tier, attempt| Step::Wait { tier, attempt };
        let expected = [wait(0, 2), wait(1, 3), wait(2, 4), wait(2, 5), wait(2, 6), Step::GiveUp];
        assert_eq!(tiers, expected);
    }

    #[test]
    fn what_comes_back_has_waited_as_long_as_its_tier() {
        let waited = |attempt, deferred| ladder(8).waited(attempt, deferred);
        assert_eq!(waited(1, 0), None);
        assert_eq!(waited(1, 1), Some(Duration::from_secs(10)));
        assert_eq!(waited(2, 0), Some(Duration::from_secs(10)));
        assert_eq!(waited(3, 0), Some(Duration::from_mins(1)));
        assert_eq!(waited(3, 7), Some(Duration::from_secs(10)));
        assert_eq!(waited(u32::MAX, 0), Some(Duration::from_mins(10)));
    }

    #[test]
    fn a_limit_of_zero_parks_at_the_first_failure() {
        assert_eq!(ladder(0).after(1), Step::GiveUp);
        assert_eq!(ladder(0).after(u32::MAX), Step::GiveUp);
    }

    #[test]
    fn reconnects_never_end_and_never_wait_longer_than_four_seconds() {
        let delays: Vec<_> = reconnect_delays().take(200).collect();
        assert_eq!(delays.len(), 200);
        assert!(delays.iter().all(|d| *d <= Duration::from_secs(4)));
    }
}
