//! The last hour, minute by minute: how many objects had which result, and how long stages took.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{Word, lock};

/// Minutes that are kept, the one that goes on included.
pub(crate) const MINUTES: usize = 60;
/// Upper bounds of durations in milliseconds are powers of two up to 2^19, 8.7 minutes; the last
/// bucket has none.
const BUCKETS: usize = 21;

/// The minutes in which something happened, oldest first.
#[derive(Debug)]
pub(crate) struct History {
    started: Instant,
    minutes: Mutex<VecDeque<(u64, Minute)>>,
}

/// One minute.
#[derive(Debug, Clone, Default)]
pub(crate) struct Minute {
    /// Objects by their status.
    results: BTreeMap<Word, u32>,
    /// Durations by their stage.
    stages: BTreeMap<Word, Durations>,
}

#[derive(Debug, Clone, Default)]
struct Durations([u32; BUCKETS]);

impl Default for History {
    fn default() -> Self {
        Self { started: Instant::now(), minutes: Mutex::default() }
    }
}

impl History {
    /// Counts an object with this status.
    pub(crate) fn result(&self, status: Word) {
        self.change(|minute| *minute.results.entry(status).or_default() += 1);
    }

    /// Counts a stage that took so long.
    pub(crate) fn took(&self, stage: Word, duration: Duration) {
        self.change(|minute| minute.stages.entry(stage).or_default().add(duration));
    }

    /// The last hour, [`MINUTES`] of them, oldest first. The last one goes on.
    pub(crate) fn last_hour(&self) -> Vec<Minute> {
        let minutes = lock(&self.minutes);
        let now = self.minute();
        (0..MINUTES as u64)
            .rev()
            .map(|ago| {
                let number = now.checked_sub(ago)?;
                minutes.iter().find(|(at, _)| *at == number).map(|(_, minute)| minute.clone())
            })
            .map(Option::unwrap_or_default)
            .collect()
    }

    fn change(&self, change: impl FnOnce(&mut Minute)) {
        let now = self.minute();
        let mut minutes = lock(&self.minutes);
        if minutes.back().is_none_or(|(at, _)| *at < now) {
            minutes.push_back((now, Minute::default()));
            while minutes.front().is_some_and(|(at, _)| at + (MINUTES as u64) <= now) {
                minutes.pop_front();
            }
        }
        // Between two threads the clock may have gone on: the newest minute takes it.
        if let Some((_, minute)) = minutes.back_mut() {
            change(minute);
        }
    }

    fn minute(&self) -> u64 {
        self.started.elapsed().as_secs() / 60
    }
}

impl Minute {
    /// Objects with this status.
    pub(crate) fn results_of(&self, status: Word) -> u32 {
        self.results.get(status).copied().unwrap_or_default()
    }

    /// Objects with any status.
    pub(crate) fn objects(&self) -> u32 {
        self.results.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// In milliseconds, below which 95 % of the stage's durations lie, as exactly as the buckets tell:
    /// within a factor of two. `None` where there was none.
    pub(crate) fn p95_millis(&self, stage: Word) -> Option<f64> {
        self.stages.get(stage)?.quantile(0.95)
    }
}

impl Durations {
    fn add(&mut self, duration: Duration) {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        // 0 ms belongs to the bucket up to 1 ms, 1 ms to the one up to 2 ms.
        let bucket = usize::try_from(64 - millis.leading_zeros()).unwrap_or(BUCKETS);
        if let Some(count) = self.0.get_mut(bucket.min(BUCKETS - 1)) {
            *count = count.saturating_add(1);
        }
    }

    /// By linear interpolation within the bucket.
    fn quantile(&self, part: f64) -> Option<f64> {
        let all: f64 = self.0.iter().copied().map(f64::from).sum();
        let wanted = (all > 0.0).then_some(all * part)?;
        let (mut below, mut lower, mut upper) = (0.0, 0.0, 1.0);
        for count in self.0.iter().copied().map(f64::from) {
            if count > 0.0 && below + count >= wanted {
                return Some(lower + (upper - lower) * (wanted - below) / count);
            }
            below += count;
            (lower, upper) = (upper, upper * 2.0);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_come_back_within_their_bucket() {
        for millis in [0_u64, 1, 3, 15, 16, 999, 70_000, 10_000_000] {
            let history = History::default();
            for _ in 0..100 {
                history.took("scan", Duration::from_millis(millis));
            }
            let found = history.last_hour()[MINUTES - 1].p95_millis("scan").unwrap();
            let (least, most) = match millis {
                0 => (0.0, 1.0),
                10_000_000 => (524_288.0, 1_048_576.0),
                _ => {
                    let least = 2_f64.powi(i32::try_from(millis.ilog2()).unwrap());
                    (least, least * 2.0)
                }
            };
            assert!((least..=most).contains(&found), "{millis} ms: {found}");
        }
    }

    #[test]
    fn nineteen_of_twenty_are_not_slow() {
        let history = History::default();
        for number in 0..100 {
            let slow = number >= 96;
            history.took("scan", Duration::from_millis(if slow { 5000 } else { 3 }));
        }
        assert!(history.last_hour()[MINUTES - 1].p95_millis("scan").unwrap() <= 4.0);
    }

    #[test]
    fn an_hour_has_all_its_minutes_and_the_last_one_has_the_newest() {
        let history = History::default();
        assert_eq!(history.last_hour().len(), MINUTES);
        history.result("clean");
        history.result("infected");
        let hour = history.last_hour();
        assert_eq!(hour[MINUTES - 1].objects(), 2);
        assert_eq!(hour[MINUTES - 1].results_of("infected"), 1);
        assert_eq!(hour[..MINUTES - 1].iter().map(Minute::objects).sum::<u32>(), 0);
        assert_eq!(hour[0].p95_millis("scan"), None);
    }

    #[test]
    fn what_is_older_than_an_hour_is_forgotten() {
        let started = Instant::now().checked_sub(Duration::from_hours(3)).unwrap();
        let history = History { started, ..History::default() };
        let now = history.minute();
        for ago in [MINUTES as u64, MINUTES as u64 - 1, 1] {
            let minute = Minute { results: BTreeMap::from([("clean", 7)]), ..Minute::default() };
            lock(&history.minutes).push_back((now - ago, minute));
        }
        history.result("clean");
        let hour = history.last_hour();
        let counts: Vec<_> = hour.iter().map(Minute::objects).collect();
        assert_eq!((counts[0], counts[MINUTES - 2], counts[MINUTES - 1]), (7, 7, 1));
        assert_eq!(lock(&history.minutes).len(), 3);
    }
}
