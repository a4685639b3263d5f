//! Counters and measurements for `/metrics`. Labels come from enums, constants and the
//! configuration, never from object names, URLs or error texts.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use strum::IntoStaticStr;

use crate::failure::{Reason, Stage};
use crate::health::Health;

/// How a notification ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub(crate) enum NotificationEnd {
    /// The verdict was applied, and reported where reports are due.
    Applied,
    /// Like `Applied`, for newer bytes than those announced.
    Superseded,
    /// The object does not exist.
    Gone,
    /// Retention or a legal hold keeps the infected object.
    Locked,
    /// It announces an object in the quarantine bucket.
    QuarantineBucket,
    /// The notification announces nothing to scan.
    Ignored,
    /// A canary whose effect was refused; its round says so.
    CanaryRefused,
    /// Moved to the dead-letter queue.
    Parked,
}

/// How a page of a sweep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub(crate) enum PageEnd {
    /// It was the last one of its sweep.
    Done,
    /// The bucket had a sweep already.
    Refused,
    /// The sweep was over, or another message of it went on.
    Dropped,
    /// Moved to the dead-letter queue.
    Parked,
}

/// How a message of a sweep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub(crate) enum BacklogEnd {
    /// The verdict was applied, and reported where reports are due.
    Scanned,
    /// A scan that began after the sweep is proved by its receipt.
    AlreadyScanned,
    /// The object does not exist, or not any more.
    Gone,
    /// Retention or a legal hold keeps the infected object.
    Locked,
    /// It is in the quarantine bucket.
    QuarantineBucket,
    /// A surge holds its deletion: parked with the notifications.
    Held,
    /// Not scanned in any attempt, or its verdict could not be applied; reported.
    Failed,
    /// Not what a sweep announces.
    Malformed,
}

/// An outcome of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub(crate) enum ReportEnd {
    /// The broker confirmed it.
    Queued,
    /// The webhook accepted it.
    Delivered,
    /// One delivery attempt failed.
    Failed,
    /// Moved to the dead-letter queue.
    Parked,
}

/// A timed stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub(crate) enum Timed {
    /// From the request to the last byte.
    Fetch,
    /// From the last byte to the verdict.
    Scan,
    /// Tag or deletion, with its report.
    Effects,
    /// A whole delivery.
    Delivery,
}

/// A label from a closed set of words.
type Word = &'static str;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabel {
    end: Word,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabels {
    status: Word,
    reason: Word,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabel {
    stage: Word,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    queue: Word,
    stage: Word,
    reason: Word,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Word,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartLabel {
    part: Word,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BucketLabel {
    /// One of `CANARY_BUCKETS`.
    bucket: String,
}

type Seconds = Gauge<f64, AtomicU64>;

/// Every metric; shared as one `Arc`.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Notifications by how they ended.
    notifications: Family<EndLabel, Counter>,
    /// Messages of sweeps by how they ended.
    backlog: Family<OutcomeLabel, Counter>,
    /// Verdicts by status and reason.
    verdicts: Family<VerdictLabels, Counter>,
    /// Bytes that were scanned to a verdict.
    pub(crate) scanned_bytes: Counter,
    /// Duration of fetch, scan, effects and whole deliveries.
    stage_seconds: Family<StageLabel, Histogram>,
    /// Deliveries being worked on.
    pub(crate) in_flight: Gauge,
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
    /// Reports that some foreign queue at the results exchange did not confirm.
    pub(crate) results_unconfirmed: Counter,
    /// Broker sessions that ended with an error.
    pub(crate) sessions_lost: Counter,
    /// Age of the engine's virus database in seconds, 0 where unknown.
    pub(crate) database_age: Seconds,
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
}

/// 1 ms to 17 min: a small object takes a few milliseconds, a large one minutes.
fn histogram() -> Histogram {
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(0.001, 2.0, 21))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("avscan"),
            notifications: Family::default(),
            backlog: Family::default(),
            verdicts: Family::default(),
            scanned_bytes: Counter::default(),
            stage_seconds: Family::new_with_constructor(histogram),
            in_flight: Gauge::default(),
            retries: Family::default(),
            dead_letters: Family::default(),
            reports: Family::default(),
            intake: Family::default(),
            pages: Family::default(),
            swept: Family::default(),
            results_unconfirmed: Counter::default(),
            sessions_lost: Counter::default(),
            database_age: Gauge::default(),
            limits_reported: Gauge::default(),
            engine_outdated: Gauge::default(),
            source_up: Family::default(),
            source_seconds: histogram(),
            surges: Gauge::default(),
            up: Family::default(),
        };
        let r = &mut metrics.registry;
        r.register(
            "notifications",
            "Notifications by how they ended",
            metrics.notifications.clone(),
        );
        r.register("backlog", "Messages of sweeps by how they ended", metrics.backlog.clone());
        r.register("verdicts", "Objects by verdict and reason", metrics.verdicts.clone());
        r.register_with_unit(
            "scanned",
            "Bytes scanned to a verdict",
            Unit::Bytes,
            metrics.scanned_bytes.clone(),
        );
        r.register_with_unit(
            "stage_duration",
            "Duration of fetch, scan, effects and whole deliveries",
            Unit::Seconds,
            metrics.stage_seconds.clone(),
        );
        r.register("in_flight", "Deliveries being worked on", metrics.in_flight.clone());
        r.register("retries", "Messages sent to a retry queue", metrics.retries.clone());
        r.register(
            "dead_letters",
            "Messages sent to a dead-letter queue",
            metrics.dead_letters.clone(),
        );
        r.register("reports", "Reports by outcome", metrics.reports.clone());
        r.register(
            "intake",
            "Webhooks by what they were answered, and connections closed for others",
            metrics.intake.clone(),
        );
        r.register("sweeps", "Sweeps by how they ended", metrics.pages.clone());
        r.register("sweep_objects", "Objects that sweeps looked at", metrics.swept.clone());
        r.register(
            "results_unconfirmed",
            "Reports that not every queue of others at the results exchange confirmed",
            metrics.results_unconfirmed.clone(),
        );
        r.register(
            "sessions_lost",
            "Broker sessions that ended by a fault",
            metrics.sessions_lost.clone(),
        );
        r.register_with_unit(
            "engine_database_age",
            "Age of the engine's virus database, 0 where unknown",
            Unit::Seconds,
            metrics.database_age.clone(),
        );
        r.register(
            "engine_limits_reported",
            "1 when the engine reports encrypted archives and exceeded limits",
            metrics.limits_reported.clone(),
        );
        r.register(
            "engine_outdated",
            "1 when the engine's version has known holes or is out of support",
            metrics.engine_outdated.clone(),
        );
        r.register(
            "source_up",
            "1 when canaries came back from the bucket, 0 when not",
            metrics.source_up.clone(),
        );
        r.register_with_unit(
            "source_latency",
            "From the upload of a canary to the end of its effects",
            Unit::Seconds,
            metrics.source_seconds.clone(),
        );
        r.register("surges", "Signatures whose deletions are held", metrics.surges.clone());
        r.register("up", "1 when a part answered when last asked", metrics.up.clone());
        metrics
    }
}

impl Metrics {
    /// Counts the end of a notification.
    pub(crate) fn notification(&self, end: NotificationEnd) {
        self.notifications.get_or_create(&EndLabel { end: end.into() }).inc();
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
    }

    /// Counts a message of `queue` that was sent to a retry queue.
    pub(crate) fn retry(&self, queue: Word, stage: Stage, reason: Reason) {
        let labels = FailureLabels { queue, stage: stage.into(), reason: reason.into() };
        self.retries.get_or_create(&labels).inc();
    }

    /// Counts a message of `queue` that was sent to its dead-letter queue.
    pub(crate) fn dead_letter(&self, queue: Word, stage: Stage, reason: Word) {
        let labels = FailureLabels { queue, stage: stage.into(), reason };
        self.dead_letters.get_or_create(&labels).inc();
    }

    /// Records how long a stage took.
    pub(crate) fn took(&self, timed: Timed, duration: Duration) {
        let label = StageLabel { stage: timed.into() };
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
        for (part, up) in health.parts() {
            let label = PartLabel { part: part.into() };
            self.up.get_or_create(&label).set(i64::from(up));
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
