//! Counters and measurements for `/metrics`. Labels come from enums, constants and the
//! configuration, never from object names, URLs or error texts.
//!
//! - `ends`: how things end, and what is timed; `labels`: the labels of each family.

mod ends;
mod labels;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub(crate) use self::ends::{BacklogEnd, NotificationEnd, PageEnd, ReportEnd, Timed};
use self::labels::{
    ActionLabel, BucketLabel, EndLabel, FailureLabels, NoteLabel, OutcomeLabel, PartLabel,
    QueueLabel, QueueStateLabels, StageLabel, VerdictLabels,
};
use crate::clock;
use crate::failure::{Reason, Stage};
use crate::health::{Health, QueueDepth, QueueKind};
use crate::overview::{History, Word};

type Seconds = Gauge<f64, AtomicU64>;

/// Every metric; shared as one `Arc`.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// The last hour of what is counted here, for the status page.
    pub(crate) history: History,
    /// Notifications by how they ended.
    notifications: Family<EndLabel, Counter>,
    /// Messages of sweeps by how they ended.
    backlog: Family<OutcomeLabel, Counter>,
    /// From the event of the last notification that was not tried before to its delivery.
    pub(crate) notification_age: Seconds,
    /// Verdicts by status and reason.
    verdicts: Family<VerdictLabels, Counter>,
    /// Objects by what was done to them.
    actions: Family<ActionLabel, Counter>,
    /// Bytes that were scanned to a verdict.
    pub(crate) scanned_bytes: Counter,
    /// Duration of fetch, scan, effects and whole deliveries.
    stage_seconds: Family<StageLabel, Histogram>,
    /// Deliveries being worked on.
    pub(crate) in_flight: Gauge,
    /// Messages that wait, as the broker counted them last.
    queue_messages: Family<QueueStateLabels, Gauge>,
    /// 1 while messages of a queue are taken.
    gates: Family<QueueLabel, Gauge>,
    /// Messages sent to a retry queue.
    retries: Family<FailureLabels, Counter>,
    /// Messages sent to a dead-letter queue.
    dead_letters: Family<FailureLabels, Counter>,
    /// Reports by outcome.
    reports: Family<OutcomeLabel, Counter>,
    /// Webhooks by what they were answered, and connections that were closed because of too many.
    intake: Family<OutcomeLabel, Counter>,
    /// Messages of sweeps that brought no next page, by how they ended.
    pages: Family<EndLabel, Counter>,
    /// Objects that sweeps have looked at, and of these announced.
    swept: Family<OutcomeLabel, Counter>,
    /// Sweeps that go on, as the journal says.
    sweeps_running: Gauge,
    /// When the next sweep of a bucket is due.
    sweep_due: Family<BucketLabel, Seconds>,
    /// Reports that some foreign queue at the results exchange did not confirm.
    pub(crate) results_unconfirmed: Counter,
    /// Broker sessions that ended with an error.
    pub(crate) sessions_lost: Counter,
    /// When the engine's virus database was made, in seconds since 1970; 0 where unknown.
    pub(crate) database_timestamp: Seconds,
    /// 1 when the engine reports encrypted archives and exceeded limits.
    pub(crate) limits_reported: Gauge,
    /// 1 when the engine's version has known holes or is out of support.
    pub(crate) engine_outdated: Gauge,
    /// 1 when canaries came back from a bucket, 0 when not; absent while that is not known.
    source_up: Family<BucketLabel, Gauge<i64, AtomicI64>>,
    /// From the answer to a canary's upload to the end of its effects.
    source_seconds: Histogram,
    /// Signatures by which too many contents were to be deleted, until a person decides.
    pub(crate) surges: Gauge,
    /// 1 when a part answered the last time.
    up: Family<PartLabel, Gauge<i64, AtomicI64>>,
    /// 1 for each note of `/readyz`.
    degraded: Family<NoteLabel, Gauge>,
    /// What `dead_letters` counts, for the status page, by queue and reason.
    parked: Mutex<BTreeMap<(QueueKind, Word), u64>>,
    /// What is set only when the metrics are asked for must be whole in each answer.
    rendering: Mutex<()>,
}

/// Upper bounds in seconds, finest where small objects are: these take a few milliseconds, large ones
/// minutes, and 28 minutes are the most that a delivery may take. Each is a series for each label.
const BUCKETS: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0, 60.0, 300.0, 1500.0];

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("avscan"),
            history: History::default(),
            notifications: Family::default(),
            backlog: Family::default(),
            notification_age: Gauge::default(),
            verdicts: Family::default(),
            actions: Family::default(),
            scanned_bytes: Counter::default(),
            stage_seconds: Family::new_with_constructor(histogram),
            in_flight: Gauge::default(),
            queue_messages: Family::default(),
            gates: Family::default(),
            retries: Family::default(),
            dead_letters: Family::default(),
            reports: Family::default(),
            intake: Family::default(),
            pages: Family::default(),
            swept: Family::default(),
            sweeps_running: Gauge::default(),
            sweep_due: Family::default(),
            results_unconfirmed: Counter::default(),
            sessions_lost: Counter::default(),
            database_timestamp: Gauge::default(),
            limits_reported: Gauge::default(),
            engine_outdated: Gauge::default(),
            source_up: Family::default(),
            source_seconds: histogram(),
            surges: Gauge::default(),
            up: Family::default(),
            degraded: Family::default(),
            parked: Mutex::default(),
            rendering: Mutex::default(),
        };
        metrics.register_work();
        metrics.register_state();
        metrics
    }
}

impl Metrics {
    /// Registers what becomes of messages and objects.
    fn register_work(&mut self) {
        let r = &mut self.registry;
        r.register("notifications", "Notifications by how they ended", self.notifications.clone());
        r.register("backlog", "Messages of sweeps by how they ended", self.backlog.clone());
        r.register("verdicts", "Objects by verdict and reason", self.verdicts.clone());
        r.register("actions", "Objects by what was done to them", self.actions.clone());
        r.register_with_unit(
            "scanned",
            "Bytes scanned to a verdict",
            Unit::Bytes,
            self.scanned_bytes.clone(),
        );
        r.register_with_unit(
            "stage_duration",
            "Duration of fetch, scan, effects and whole deliveries",
            Unit::Seconds,
            self.stage_seconds.clone(),
        );
        r.register("retries", "Messages sent to a retry queue", self.retries.clone());
        r.register(
            "dead_letters",
            "Messages sent to a dead-letter queue",
            self.dead_letters.clone(),
        );
        r.register("reports", "Reports by outcome", self.reports.clone());
        r.register(
            "intake",
            "Webhooks by what they were answered, and connections closed for others",
            self.intake.clone(),
        );
        r.register("sweeps", "Sweeps by how they ended", self.pages.clone());
        r.register("sweep_objects", "Objects that sweeps looked at", self.swept.clone());
        r.register(
            "results_unconfirmed",
            "Reports that not every queue of others at the results exchange confirmed",
            self.results_unconfirmed.clone(),
        );
    }

    /// Registers the state of the daemon, and of what it depends on.
    fn register_state(&mut self) {
        let r = &mut self.registry;
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        r.register("build", "The version of the program", version);
        r.register_with_unit(
            "notification_age",
            "How long the last notification had waited that was not tried before",
            Unit::Seconds,
            self.notification_age.clone(),
        );
        r.register("in_flight", "Deliveries being worked on", self.in_flight.clone());
        r.register(
            "queue_messages",
            "Messages that wait in the queues",
            self.queue_messages.clone(),
        );
        r.register("gate_open", "1 while messages of the queue are taken", self.gates.clone());
        r.register("sweeps_running", "Sweeps that go on", self.sweeps_running.clone());
        r.register_with_unit(
            "sweep_due_timestamp",
            "When the next sweep of the bucket is due",
            Unit::Seconds,
            self.sweep_due.clone(),
        );
        r.register(
            "sessions_lost",
            "Broker sessions that ended by a fault",
            self.sessions_lost.clone(),
        );
        r.register_with_unit(
            "engine_database_timestamp",
            "When the engine's virus database was made, 0 where unknown",
            Unit::Seconds,
            self.database_timestamp.clone(),
        );
        r.register(
            "engine_limits_reported",
            "1 when the engine reports encrypted archives and exceeded limits",
            self.limits_reported.clone(),
        );
        r.register(
            "engine_outdated",
            "1 when the engine's version has known holes or is out of support",
            self.engine_outdated.clone(),
        );
        r.register(
            "source_up",
            "1 when canaries came back from the bucket, 0 when not",
            self.source_up.clone(),
        );
        r.register_with_unit(
            "source_latency",
            "From the upload of a canary to the end of its effects",
            Unit::Seconds,
            self.source_seconds.clone(),
        );
        r.register("surges", "Signatures whose deletions are held", self.surges.clone());
        r.register("up", "1 when a part answered when last asked", self.up.clone());
        r.register("degraded", "1 for each note of /readyz", self.degraded.clone());
    }

    /// Counts the end of a notification.
    pub(crate) fn notification(&self, end: NotificationEnd) {
        self.notifications.get_or_create(&EndLabel { end: end.into() }).inc();
    }

    /// Shows how long a notification had waited.
    pub(crate) fn waited(&self, duration: Duration) {
        self.notification_age.set(duration.as_secs_f64());
    }

    /// Counts an object by what was done to it; a word of a closed set.
    pub(crate) fn acted(&self, action: Word) {
        self.actions.get_or_create(&ActionLabel { action }).inc();
    }

    /// Counts nothing yet, so that the first of them is a growth from 0.
    pub(crate) fn expect_action(&self, action: Word) {
        drop(self.actions.get_or_create(&ActionLabel { action }));
    }

    /// Whether messages of `queue` are taken.
    pub(crate) fn is_open(&self, queue: QueueKind) -> bool {
        self.gates.get(&QueueLabel { queue: queue.into_str() }).is_some_and(|gate| gate.get() == 1)
    }

    /// Shows whether messages of `queue` are taken.
    pub(crate) fn gate(&self, queue: QueueKind, open: bool) {
        self.gates.get_or_create(&QueueLabel { queue: queue.into_str() }).set(i64::from(open));
    }

    /// Counts the end of a message of a sweep.
    pub(crate) fn backlog(&self, end: BacklogEnd) {
        self.backlog.get_or_create(&OutcomeLabel { outcome: end.into() }).inc();
    }

    /// Counts an outcome of a report.
    pub(crate) fn report(&self, end: ReportEnd) {
        self.reports.get_or_create(&OutcomeLabel { outcome: end.into() }).inc();
    }

    /// Counts objects that a sweep looked at, and those of them that it announced to be scanned.
    pub(crate) fn swept(&self, listed: u64, announced: u64) {
        for (outcome, count) in [("listed", listed), ("announced", announced)] {
            self.swept.get_or_create(&OutcomeLabel { outcome }).inc_by(count);
        }
    }

    /// Counts the end of a sweep, or of a message of one.
    pub(crate) fn page(&self, end: PageEnd) {
        self.pages.get_or_create(&EndLabel { end: end.into() }).inc();
    }

    /// Counts a webhook by its answer, or a connection without one; a word of a closed set.
    pub(crate) fn intake(&self, outcome: Word) {
        self.intake.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts a verdict, or an object without one by the reason.
    pub(crate) fn verdict(&self, status: Word, reason: Option<Word>) {
        let labels = VerdictLabels { status, reason: reason.unwrap_or_default() };
        self.verdicts.get_or_create(&labels).inc();
        self.history.result(status);
    }

    /// Counts a message of `queue` that was sent to a retry queue.
    pub(crate) fn retry(&self, queue: QueueKind, stage: Stage, reason: Reason) {
        let labels =
            FailureLabels { queue: queue.into_str(), stage: stage.into(), reason: reason.into() };
        self.retries.get_or_create(&labels).inc();
    }

    /// Counts a message of `queue` that was sent to its dead-letter queue.
    pub(crate) fn dead_letter(&self, queue: QueueKind, stage: Stage, reason: Word) {
        let labels = FailureLabels { queue: queue.into_str(), stage: stage.into(), reason };
        self.dead_letters.get_or_create(&labels).inc();
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        *parked.entry((queue, reason)).or_default() += 1;
    }

    /// Messages sent to a dead-letter queue since the start, by queue and reason.
    pub(crate) fn parked(&self) -> BTreeMap<(QueueKind, Word), u64> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records how long a stage took.
    pub(crate) fn took(&self, timed: Timed, duration: Duration) {
        let label = StageLabel { stage: timed.into() };
        self.history.took(label.stage, duration);
        self.stage_seconds.get_or_create(&label).observe(duration.as_secs_f64());
    }

    /// Shows whether canaries came back from a bucket; `None` while that is not known.
    pub(crate) fn source(&self, bucket: &str, up: Option<bool>) {
        let label = BucketLabel { bucket: bucket.to_owned() };
        match up {
            Some(up) => drop(self.source_up.get_or_create(&label).set(i64::from(up))),
            None => drop(self.source_up.remove(&label)),
        }
    }

    /// Records how long a canary took to come back.
    pub(crate) fn source_took(&self, duration: Duration) {
        self.source_seconds.observe(duration.as_secs_f64());
    }

    /// All metrics in the OpenMetrics text format.
    ///
    /// # Errors
    /// When the encoder fails.
    pub(crate) fn render(&self, health: &Health) -> Result<String, std::fmt::Error> {
        let _rendering = self.rendering.lock().unwrap_or_else(PoisonError::into_inner);
        for (part, up) in health.parts() {
            let label = PartLabel { part: part.into() };
            self.up.get_or_create(&label).set(i64::from(up));
        }
        for (note, there) in health.notes() {
            let label = NoteLabel { note: note.into() };
            self.degraded.get_or_create(&label).set(i64::from(there));
        }
        self.queue_messages.clear();
        for QueueDepth { queue, ready, retry, dead, .. } in health.queues() {
            let states = [("ready", ready), ("retry", Some(retry)), ("dead", dead)];
            for (state, count) in states {
                let Some(count) = count else { continue };
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                self.queue_messages
                    .get_or_create(&QueueStateLabels { queue: queue.into_str(), state })
                    .set(count);
            }
        }
        self.sweeps_running.set(i64::try_from(health.running_sweeps()).unwrap_or(i64::MAX));
        for (bucket, due) in health.sweeps_due() {
            let due = clock::time_of(due).duration_since(SystemTime::UNIX_EPOCH);
            let due = due.unwrap_or_default().as_secs_f64();
            self.sweep_due.get_or_create(&BucketLabel { bucket }).set(due);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests;
