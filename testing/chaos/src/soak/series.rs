//! What a replica uses while it runs, and whether that stays flat.

use serde::Serialize;
use stack::process::process;

/// Between two samples, in seconds.
pub(super) const EVERY: u64 = 10;
/// The fewest samples that say something: ten minutes.
const FEWEST: usize = 60;

/// How much more of each measure the last quarter may have than the second one. The first quarter is
/// left out: caches and connections grow to their size then.
struct Bound {
    percent: u64,
    /// More than `percent` where that is next to nothing.
    least: u64,
}

const RSS_KIB: Bound = Bound { percent: 10, least: 3 * 1024 };
/// Connections come and go with the load.
const DESCRIPTORS: Bound = Bound { percent: 0, least: 8 };
/// Threads for files and names are started when needed and end when idle.
const THREADS: Bound = Bound { percent: 0, least: 4 };

/// One look at a process.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Sample {
    /// Seconds since the start of the run.
    pub(super) at: u64,
    pub(super) rss_kib: u64,
    pub(super) descriptors: u64,
    pub(super) threads: u64,
}

impl Sample {
    /// `None` when the process has ended, or is about to.
    pub(super) fn of(pid: u32, at: u64) -> Option<Self> {
        let process = process(pid).ok()?;
        let status = process.status().ok()?;
        let descriptors = process.fd_count().ok()? as u64;
        Some(Self { at, rss_kib: status.vmrss?, descriptors, threads: status.threads })
    }
}

/// The samples of one process, from its start to its end.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Series {
    pub(super) replica: &'static str,
    pub(super) pid: u32,
    pub(super) samples: Vec<Sample>,
}

/// One measure of a series, in figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Figures {
    pub(super) first: u64,
    pub(super) median: u64,
    pub(super) last: u64,
    pub(super) highest: u64,
    /// Medians.
    second_quarter: u64,
    last_quarter: u64,
}

/// All measures of a series, and the verdict.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Summary {
    pub(super) replica: &'static str,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) rss_kib: Figures,
    pub(super) descriptors: Figures,
    pub(super) threads: Figures,
    /// Whether there are enough samples for a verdict.
    pub(super) is_judged: bool,
    /// What grew, one line each.
    pub(super) grown: Vec<String>,
}

impl Series {
    /// `None` without samples.
    pub(super) fn summary(&self) -> Option<Summary> {
        let figures =
            |of: fn(&Sample) -> u64| Figures::of(&self.samples.iter().map(of).collect::<Vec<_>>());
        let rss_kib = figures(|sample| sample.rss_kib)?;
        let descriptors = figures(|sample| sample.descriptors)?;
        let threads = figures(|sample| sample.threads)?;
        let is_judged = self.samples.len() >= FEWEST;
        let judged = [
            rss_kib.growth("KiB of resident memory", &RSS_KIB),
            descriptors.growth("descriptors", &DESCRIPTORS),
            threads.growth("threads", &THREADS),
        ];
        Some(Summary {
            replica: self.replica,
            from: self.samples.first()?.at,
            to: self.samples.last()?.at,
            rss_kib,
            descriptors,
            threads,
            is_judged,
            grown: judged.into_iter().flatten().filter(|_| is_judged).collect(),
        })
    }
}

impl Figures {
    fn of(values: &[u64]) -> Option<Self> {
        let quarter = values.len() / 4;
        Some(Self {
            first: *values.first()?,
            median: median(values)?,
            last: *values.last()?,
            highest: *values.iter().max()?,
            // So short a series is not judged.
            second_quarter: median(&values[quarter..values.len().div_ceil(2)])?,
            last_quarter: median(&values[values.len() - quarter.max(1)..])?,
        })
    }

    fn growth(&self, what: &str, bound: &Bound) -> Option<String> {
        let more = (self.second_quarter * bound.percent / 100).max(bound.least);
        let (before, after) = (self.second_quarter, self.last_quarter);
        (after > before + more).then(|| {
            format!("{before} {what} in the second quarter, {after} in the last; {more} more are allowed")
        })
    }
}

fn median(values: &[u64]) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    /// What grew in a series of so many samples.
    fn grown(count: u64, sample: impl FnMut(u64) -> [u64; 3]) -> Vec<String> {
        let samples =
            (0..count).map(sample).enumerate().map(|(at, [rss_kib, descriptors, threads])| {
                Sample { at: at as u64 * EVERY, rss_kib, descriptors, threads }
            });
        let series = Series { replica: "first", pid: 1, samples: samples.collect() };
        series.summary().unwrap().grown
    }

    #[test]
    fn a_noisy_flat_series_is_flat() {
        let mut rng = Rng::with_seed(1);
        let noisy = |at: u64| {
            // It warms up, and a fault takes a lot for a short time.
            let warm = 20_000 + 10_000 * at.min(60) / 60;
            let peak = if at % 70 == 69 { 40_000 } else { 0 };
            [warm + peak + rng.u64(0..2000), 40 + rng.u64(0..15), 8 + rng.u64(0..6)]
        };
        assert!(grown(720, noisy).is_empty());
    }

    #[test]
    fn what_grows_slowly_is_named() {
        let mut rng = Rng::with_seed(2);
        // 6 MiB in an hour.
        let memory = grown(720, |at| [30_000 + 17 * at + rng.u64(0..2000), 40, 8]);
        assert!(memory.len() == 1 && memory[0].contains("resident memory"), "{memory:?}");
        let descriptors = grown(720, |at| [30_000, 40 + at / 36 + rng.u64(0..10), 8]);
        assert!(
            descriptors.len() == 1 && descriptors[0].contains("descriptors"),
            "{descriptors:?}"
        );
        let threads = grown(60, |at| [30_000, 40, 8 + at / 6]);
        assert!(threads.len() == 1 && threads[0].contains("threads"), "{threads:?}");
    }

    #[test]
    fn a_short_series_is_not_judged() {
        assert!(grown(59, |at| [30_000 + 1000 * at, 40, 8]).is_empty());
        assert!(!grown(60, |at| [30_000 + 1000 * at, 40, 8]).is_empty());
        assert!(Series { replica: "first", pid: 1, samples: Vec::new() }.summary().is_none());
        assert!(grown(1, |_| [1, 1, 1]).is_empty());
    }

    #[test]
    fn a_process_has_all_measures() {
        let own = Sample::of(std::process::id(), 0).unwrap();
        assert!(own.rss_kib > 0 && own.descriptors > 0 && own.threads > 0);
    }
}
