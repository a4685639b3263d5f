//! The settings of sweeps.

use std::time::Duration;

use time::macros::format_description;
use time::{Date, Time};

use super::canary::bucket_names;
use super::duration::{UP_TO_DAYS, duration};
use super::reader::Reader;

const MIN_EVERY: Duration = Duration::from_secs(10);
const MAX_AGE: Duration = Duration::from_hours(24 * 3650);

/// Sweeps that begin by themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SweepSettings {
    /// One of all replicas begins a sweep of each bucket this often.
    pub(crate) every: Duration,
    pub(crate) buckets: Vec<String>,
    pub(crate) select: SweepSelect,
}

/// What they announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SweepSelect {
    /// What has no valid receipt.
    Missing,
    /// That, and what was scanned longer ago.
    ScannedBefore(Duration),
    /// Everything.
    All,
}

impl Reader<'_> {
    pub(super) fn sweep_concurrency(&mut self) -> Option<u16> {
        self.number("SWEEP_CONCURRENCY", 1, 256).and_then(|number| u16::try_from(number).ok())
    }

    /// The outer `None` is a problem; the inner one means that no sweep begins by itself.
    #[expect(clippy::option_option, reason = "see above")]
    pub(super) fn sweeps(&mut self, receipts: bool) -> Option<Option<SweepSettings>> {
        let select =
            self.parse("SWEEP_SELECT", "missing, all, or an age as in 30d", |text| match text {
                "missing" => Some(SweepSelect::Missing),
                "all" => Some(SweepSelect::All),
                text => age(text).map(SweepSelect::ScannedBefore),
            });
        if self.optional("SWEEP_EVERY").is_none() {
            return Some(None);
        }
        let every = self.parse("SWEEP_EVERY", "10s to 3650d, as in 1d", |text| {
            age(text).filter(|every| *every >= MIN_EVERY)
        });
        if self.optional("SWEEP_BUCKETS").is_none() {
            self.problem("SWEEP_BUCKETS", "is required with SWEEP_EVERY");
            return None;
        }
        let buckets = self.parse("SWEEP_BUCKETS", super::canary::BUCKETS, bucket_names);
        if !receipts && select.is_some_and(|select| select != SweepSelect::All) {
            self.problem(
                "SWEEP_SELECT",
                "must be all without RECEIPT_KEY: nothing tells what was scanned",
            );
        }
        Some(Some(SweepSettings { every: every?, buckets: buckets?, select: select? }))
    }
}

/// Reads an age: a number and `s`, `m`, `h` or `d`, at most ten years.
#[must_use]
pub fn age(text: &str) -> Option<Duration> {
    duration(text, UP_TO_DAYS).filter(|age| *age <= MAX_AGE)
}

/// Reads a day, as in `2026-11-28`: its beginning in UTC, in seconds since 1970.
#[must_use]
pub fn day(text: &str) -> Option<i64> {
    let day = Date::parse(text, format_description!("[year]-[month]-[day]")).ok()?;
    Some(day.with_time(Time::MIDNIGHT).assume_utc().unix_timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_days_are_read() {
        for (text, seconds) in [("1s", 1), ("2m", 120), ("3h", 10_800), ("30d", 2_592_000)] {
            assert_eq!(age(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "0s", "1", "1w", "+1s", "-1s", "4000d", "99999999999999999999d"] {
            assert_eq!(age(text), None, "{text}");
        }
        assert_eq!(day("2026-11-28"), Some(1_795_824_000));
        for text in ["", "2026-13-01", "2026-11-28T00:00", "28.11.2026"] {
            assert_eq!(day(text), None, "{text}");
        }
    }
}
