//! The time of the journal: how long ago an entry is, without any clock that could be wrong.
//!
//! A consumer of a stream is not told when the broker stored an entry, and the clocks of two replicas
//! need not agree. So each entry says how long its writer had been running, which no wrong clock
//! changes. A writer's first entry is put at the time of the entry before it, and its later ones as
//! much later as it ran meanwhile. That is never ahead of the real time by more than the first entry
//! of a writer takes to be stored; it falls behind while no replica runs. So what really was within a
//! window is within it here too, and an error makes the window longer, never shorter.

use std::collections::HashMap;

use uuid::Uuid;

use super::fact::Moment;

/// Writers that are known at once. Beyond it all are forgotten, and begin at the present time again.
const MAX_WRITERS: usize = 1_000;

/// The time of the last entry, in milliseconds.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    now: u64,
    /// By writer, the time at which it would have begun to run.
    began: HashMap<Uuid, i128>,
}

impl Timeline {
    /// Goes on to an entry, and returns its time. In the order of the journal time never goes back.
    pub(super) fn advance(&mut self, moment: Moment) -> u64 {
        if self.began.len() >= MAX_WRITERS && !self.began.contains_key(&moment.by) {
            self.began.clear();
        }
        let first = i128::from(self.now) - i128::from(moment.running);
        // Set once: set again with each entry it would add up what entries overtake each other.
        self.began.entry(moment.by).or_insert(first);
        self.now = self.at(moment);
        self.now
    }

    /// The time that an entry of this moment would have now.
    pub(super) fn at(&self, moment: Moment) -> u64 {
        let began = self.began.get(&moment.by).copied();
        let at = began.map(|began| began + i128::from(moment.running));
        at.and_then(|at| u64::try_from(at).ok()).unwrap_or_default().max(self.now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn moment(by: u128, running: u64) -> Moment {
        Moment { by: Uuid::from_u128(by), running }
    }

    #[test]
    fn time_is_what_writers_have_run() {
        let mut timeline = Timeline::default();
        assert_eq!(timeline.advance(moment(1, 5_000)), 0);
        assert_eq!(timeline.advance(moment(1, 7_000)), 2_000);
        // A younger one, at the same time.
        assert_eq!(timeline.advance(moment(2, 10)), 2_000);
        assert_eq!(timeline.advance(moment(2, 510)), 2_500);
        assert_eq!(timeline.at(moment(2, 610)), 2_600);
        // Overtaken on its way.
        assert_eq!(timeline.advance(moment(1, 7_200)), 2_500);
        assert_eq!(timeline.advance(moment(1, 8_000)), 3_000);
        // What somebody else wrote.
        assert_eq!(timeline.advance(moment(3, u64::MAX)), 3_000);
        assert_eq!(timeline.advance(moment(3, 0)), 3_000);
        assert_eq!(timeline.advance(moment(1, 9_000)), 4_000);
    }

    proptest! {
        /// Entries of three writers that began at some time, each delayed on its way by up to `delay`.
        #[test]
        fn it_is_not_ahead_of_real_time_by_more_than_a_delay_for_each_writer(
            began in prop::array::uniform3(0_u64..50_000),
            entries in prop::collection::vec((0_usize..3, 50_000_u64..60_000, 0_u64..500), 1..200),
        ) {
            let mut stored: Vec<_> = entries
                .iter()
                .map(|&(writer, written, delay)| (written + delay, writer, written))
                .collect();
            stored.sort_unstable();
            let mut timeline = Timeline::default();
            let (mut first, mut last) = (None, 0);
            for (real, writer, written) in stored {
                let by = u128::try_from(writer).unwrap();
                let now = timeline.advance(moment(by, written - began[writer]));
                prop_assert!(now >= last);
                last = now;
                let first = *first.get_or_insert(real);
                prop_assert!(now <= real - first + 3 * 500, "{now} at {real}, from {first}");
            }
        }
    }
}
