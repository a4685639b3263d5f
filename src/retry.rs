//! When to try again: the retry delays of messages, and the backoff of reconnects.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// The delays between the attempts at a message, and the number of retries.
#[derive(Debug, Clone)]
pub(crate) struct Ladder {
    /// One tier for each delay, shortest first; never empty.
    pub(crate) tiers: Vec<Tier>,
    /// Retries before a message is parked; 0 parks at the first failure.
    pub(crate) limit: u32,
}

/// One delay of the ladder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tier {
    /// The delay as configured (`10s`); part of the retry queue's name.
    pub(crate) name: String,
    /// How long a message waits in the retry queue.
    pub(crate) delay: Duration,
}

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Another attempt after a delay.
    Wait {
        /// Index into [`Ladder::tiers`].
        tier: usize,
        /// The number of that attempt.
        attempt: u32,
    },
    /// No attempt is left.
    GiveUp,
}

impl Ladder {
    /// What follows a failed `attempt` (the first is 1). Each retry uses the next tier; the last
    /// tier is used until `limit` retries are made.
    pub(crate) fn after(&self, attempt: u32) -> Step {
        if attempt > self.limit {
            return Step::GiveUp;
        }
        let last = self.tiers.len().saturating_sub(1);
        let tier = usize::try_from(attempt.saturating_sub(1)).unwrap_or(last);
        Step::Wait { tier: tier.min(last), attempt: attempt + 1 }
    }

    /// How long a message has waited since it failed, at least; `None` if it has not failed.
    /// `attempt` is the number of the attempt that begins; `deferred` counts retries since the last
    /// counted one, which use the shortest tier.
    pub(crate) fn waited(&self, attempt: u32, deferred: u32) -> Option<Duration> {
        let tier = if deferred > 0 { 0 } else { attempt.checked_sub(2)? };
        let last = self.tiers.len().saturating_sub(1);
        let tier = usize::try_from(tier).unwrap_or(last).min(last);
        self.tiers.get(tier).map(|tier| tier.delay)
    }
}

/// Delays between reconnects, without end: 250 ms, doubled up to 2 s. Jitter of up to the same
/// again keeps replicas that lost the same broker from reconnecting at once.
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
    fn each_retry_uses_the_next_tier_and_the_last_tier_repeats_up_to_the_limit() {
        let ladder = ladder(5);
        let tiers: Vec<_> = (1..=6).map(|attempt| ladder.after(attempt)).collect();
        let wait = |tier, attempt| Step::Wait { tier, attempt };
        let expected = [wait(0, 2), wait(1, 3), wait(2, 4), wait(2, 5), wait(2, 6), Step::GiveUp];
        assert_eq!(tiers, expected);
    }

    #[test]
    fn a_retried_message_has_waited_for_the_delay_of_its_tier() {
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
