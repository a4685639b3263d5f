//! The expectations of a scenario, and its results.

use serde::Serialize;

/// The results of a scenario.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Tally {
    /// Uploads.
    pub(super) objects: usize,
    /// Ended neither with the right result nor in the dead-letter queue.
    pub(super) lost: usize,
    /// Deleted or hidden, although no engine had found anything in those bytes.
    pub(super) wrongly_deleted: usize,
    /// Tagged with another verdict than the engine's for those bytes.
    pub(super) wrongly_tagged: usize,
    /// Called clean by a tag or a report, although the engine never found those bytes clean.
    pub(super) called_clean_unscanned: usize,
    /// Without the report that was expected.
    pub(super) reports_missing: usize,
    /// Reports that the webhook accepted more than once.
    pub(super) duplicate_reports: usize,
    /// Notifications in the dead-letter queue.
    pub(super) dead_lettered: usize,
    /// Notifications and reports that were parked without a reason.
    pub(super) parked_without_need: usize,
    /// Deleted inside the window of a store that ignores `If-Match`, provoked on purpose.
    pub(super) in_documented_window: usize,
    /// The most requests for one object, per delivery of its notification.
    pub(super) requests: usize,
    /// Panics in the daemons' logs.
    pub(super) panics: usize,
    /// From the end of the fault to the first verdict (or report, where the webhook failed).
    pub(super) recovery_ms: Option<u128>,
    /// Processor time of both daemons while a dependency was down, in percent of one core.
    pub(super) cpu_while_down_percent: Option<f64>,
    /// What was wrong, one line each.
    #[serde(skip)]
    pub(super) wrongs: Vec<String>,
}

impl Tally {
    /// Adds the results of later objects.
    pub(super) fn add(&mut self, later: Self) {
        self.objects += later.objects;
        self.lost += later.lost;
        self.wrongly_deleted += later.wrongly_deleted;
        self.wrongly_tagged += later.wrongly_tagged;
        self.called_clean_unscanned += later.called_clean_unscanned;
        self.reports_missing += later.reports_missing;
        self.duplicate_reports += later.duplicate_reports;
        self.dead_lettered += later.dead_lettered;
        self.parked_without_need += later.parked_without_need;
        self.in_documented_window += later.in_documented_window;
        self.requests = self.requests.max(later.requests);
        self.panics += later.panics;
        self.wrongs.extend(later.wrongs);
    }

    pub(super) fn is_right(&self) -> bool {
        self.wrongs.is_empty()
    }
}

/// What a scenario expects beyond its objects.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Expected {
    /// The first verdict comes in time after the recovery.
    pub(super) recovers: bool,
    /// The first report comes in time after the recovery.
    pub(super) reports_recover: bool,
    /// Reports may end in their dead-letter queue.
    pub(super) reports_park: bool,
    /// The store fails, so that its client repeats requests.
    pub(super) store_fails: bool,
    /// The canary reports a source as down.
    pub(super) alarms: bool,
    /// The line after a deletion may be missing.
    pub(super) deletions_unsaid: bool,
    /// Objects are looked at by sweeps, before anything is delivered about them.
    pub(super) swept: bool,
}
