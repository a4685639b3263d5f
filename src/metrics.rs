//! What is counted and measured, for `/metrics`. Labels come from closed sets of constants, never
//! from object names, URLs or error texts.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::health::Health;

/// One label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
#[expect(missing_docs, reason = "label names")]
pub struct EndLabel {
    pub end: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
#[expect(missing_docs, reason = "label names")]
pub struct VerdictLabels {
    pub status: &'static str,
    pub reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
#[expect(missing_docs, reason = "label names")]
pub struct StageLabel {
    pub stage: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
#[expect(missing_docs, reason = "label names")]
pub struct FailureLabels {
    pub lane: &'static str,
    pub stage: &'static str,
    pub reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
#[expect(missing_docs, reason = "label names")]
pub struct OutcomeLabel {
    pub outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
#[expect(missing_docs, reason = "label names")]
pub struct PartLabel {
    pub part: &'static str,
}

type Seconds = Gauge<f64, AtomicU64>;

/// Every metric. Cheap to clone parts of; shared as one `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// How notifications ended: applied, ignored, gone, superseded, parked.
    pub notifications: Family<EndLabel, Counter>,
    /// Verdicts by status and reason.
    pub verdicts: Family<VerdictLabels, Counter>,
    /// Bytes that were scanned to a verdict.
    pub scanned_bytes: Counter,
    /// Duration of fetch, scan, effects and whole deliveries.
    pub stage_seconds: Family<StageLabel, Histogram>,
    /// Deliveries being worked on.
    pub in_flight: Gauge,
    /// Messages sent to a retry queue.
    pub retries: Family<FailureLabels, Counter>,
    /// Messages sent to a dead-letter queue.
    pub dead_letters: Family<FailureLabels, Counter>,
    /// Reports by what became of them: queued, delivered, failed, parked.
    pub reports: Family<OutcomeLabel, Counter>,
    /// Reports that not every queue of others at the results exchange confirmed.
    pub results_unconfirmed: Counter,
    /// Broker sessions that ended by a fault.
    pub sessions_lost: Counter,
    /// Age of the engine's virus database, where the engine tells it.
    pub database_age: Seconds,
    /// 1 when the engine reports encrypted archives and exceeded limits.
    pub limits_reported: Gauge,
    /// 1 when the engine's version has known holes, or is out of support.
    pub engine_outdated: Gauge,
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
            verdicts: Family::default(),
            scanned_bytes: Counter::default(),
            stage_seconds: Family::new_with_constructor(histogram),
            in_flight: Gauge::default(),
            retries: Family::default(),
            dead_letters: Family::default(),
            reports: Family::default(),
            results_unconfirmed: Counter::default(),
            sessions_lost: Counter::default(),
            database_age: Gauge::default(),
            limits_reported: Gauge::default(),
            engine_outdated: Gauge::default(),
            up: Family::default(),
        };
        let r = &mut metrics.registry;
        r.register(
            "notifications",
            "Notifications by how they ended",
            metrics.notifications.clone(),
        );
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
        r.register("up", "1 when a part answered when last asked", metrics.up.clone());
        metrics
    }
}

impl Metrics {
    /// Counts the end of a notification.
    pub fn ended(&self, end: &'static str) {
        self.notifications.get_or_create(&EndLabel { end }).inc();
    }

    /// Counts what became of a report.
    pub fn report(&self, outcome: &'static str) {
        self.reports.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Records how long `stage` took.
    pub fn took(&self, stage: &'static str, duration: Duration) {
        self.stage_seconds.get_or_create(&StageLabel { stage }).observe(duration.as_secs_f64());
    }

    /// All metrics in the OpenMetrics text format.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn render(&self, health: &Health) -> Result<String, std::fmt::Error> {
        for (part, up) in health.parts() {
            let label = PartLabel { part: part.as_str() };
            self.up.get_or_create(&label).set(i64::from(up));
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
