//! The settings of sweeps.

use std::time::Duration;

use super::canary::bucket_names;
use super::reader::Reader;
use super::receipts::age;

const MIN_EVERY: Duration = Duration::from_secs(10);

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
        let select = self.parse("SWEEP_SELECT", "missing, all, or an age as in 30d", |text| {
            match text {
                "missing" => Some(SweepSelect::Missing),
                "all" => Some(SweepSelect::All),
                text => age(text).map(SweepSelect::ScannedBefore),
            }
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
            self.problem("SWEEP_SELECT", "must be all without RECEIPT_KEY: nothing tells what was scanned");
        }
        Some(Some(SweepSettings { every: every?, buckets: buckets?, select: select? }))
    }
}
