//! Medians with their spread, and percentiles.

use std::time::Duration;

use serde::Serialize;

/// A figure over several runs.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Spread {
    /// `None` without values.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, least, most })
    }
}

/// Percentiles of times, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Percentiles {
    pub(super) count: usize,
    pub(super) p50: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    pub(super) longest: f64,
}

impl Percentiles {
    /// `None` without times.
    pub(super) fn of(times: impl IntoIterator<Item = Duration>) -> Option<Self> {
        let mut times: Vec<Duration> = times.into_iter().collect();
        times.sort();
        let last = times.len().checked_sub(1)?;
        // The nearest rank: the smallest time that is not exceeded by this per cent of all.
        let at = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).saturating_sub(1);
            times[rank.min(last)].as_secs_f64() * 1000.0
        };
        Some(Self { count: times.len(), p50: at(50), p95: at(95), p99: at(99), longest: at(100) })
    }
}

/// A count as a float.
pub(super) fn as_f64(count: usize) -> f64 {
    u64_as_f64(count as u64)
}

/// A number of bytes as a float. None here is large enough to lose precision.
#[expect(clippy::cast_precision_loss, reason = "nothing here has 2^53 bytes")]
pub(super) fn u64_as_f64(count: u64) -> f64 {
    count as f64
}

/// Rounds up to a whole number, at least one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates times seconds are small and never negative"
)]
pub(super) fn whole(count: f64) -> usize {
    (count.ceil() as usize).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: &[f64], wanted: &[f64]) -> bool {
        found.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-9)
    }

    #[test]
    fn a_median_is_the_middle_and_the_spread_its_ends() {
        let spread = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert!(close(&[spread.least, spread.median, spread.most], &[1.0, 2.0, 3.0]));
        assert!((Spread::of([1.0, 2.0]).unwrap().median - 1.5).abs() < 1e-9);
        assert!(Spread::of([]).is_none());
    }

    #[test]
    fn percentiles_are_times_that_occurred() {
        let times = (1..=100).map(Duration::from_millis);
        let percentiles = Percentiles::of(times).unwrap();
        let found = [percentiles.p50, percentiles.p95, percentiles.p99];
        assert!(close(&found, &[50.0, 95.0, 99.0]));
        let one = Percentiles::of([Duration::from_millis(7)]).unwrap();
        assert!(close(&[one.p50, one.p99, one.longest], &[7.0; 3]));
    }
}
