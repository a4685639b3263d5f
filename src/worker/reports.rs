//! The queue of reports: a message, the courier.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::handler::{Handler, Outcome};
use crate::courier::{Courier, Post};
use crate::failure::{Dependency, Failure, Kind, Reason, Stage};
use crate::health::{Health, Part};
use crate::metrics::{Metrics, ReportEnd};
use crate::queue::{Cause, Delivery, Publisher};
use crate::retry::Ladder;

/// Between two attempts at a webhook that is down and does not say for how long.
const PAUSE: Duration = Duration::from_secs(3);

/// Handles reports.
pub(crate) struct Reports {
    courier: Courier,
    ladder: Ladder,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    /// How long the gate stays closed; `None` while it is open.
    pause: Mutex<Option<Instant>>,
}

#[derive(Deserialize)]
struct Identified {
    id: String,
}

impl Reports {
    pub(crate) fn new(
        courier: Courier,
        ladder: Ladder,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { courier, ladder, health, metrics, pause: Mutex::default() }
    }

    fn pause_until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the gate closed for as long as the webhook asked: the longest of several pauses.
    fn pause_for(&self, pause: Option<Duration>) {
        let until = Instant::now() + pause.unwrap_or(PAUSE).max(PAUSE);
        let mut latest = self.pause_until();
        *latest = (*latest).max(Some(until));
    }
}

impl Handler for Reports {
    /// The id of the report, if it has one.
    type Work = Option<String>;
    type Known = ();
    type End = ReportEnd;
    const PARKED: ReportEnd = ReportEnd::Parked;
    const MAY_CRASH: bool = false;
    const PUBLISHES: bool = false;

    fn read(&self, delivery: &Delivery) -> Option<String> {
        match delivery.message_id() {
            Some(id) => Some(id.to_owned()),
            None => serde_json::from_slice(&delivery.body).ok().map(|Identified { id }| id),
        }
    }

    fn span(&self, id: &Option<String>, _delivery: &Delivery) -> tracing::Span {
        tracing::error_span!("report", id = id.as_deref().unwrap_or_default())
    }

    fn record_end(&self, end: ReportEnd) {
        self.metrics.report(end);
    }

    /// A webhook cannot be checked without a report, so after a pause the next report is the check.
    async fn check_ready(&self, _timeout: Duration) -> Result<(), Failure> {
        loop {
            let Some(until) = *self.pause_until() else { return Ok(()) };
            tokio::time::sleep_until(until.into()).await;
            // A longer one may have been asked for meanwhile.
            self.pause_until().take_if(|latest| *latest <= until);
        }
    }

    async fn handle(
        &self,
        id: &Option<String>,
        delivery: &Delivery,
        _publisher: &Publisher,
        _cancelled: &CancellationToken,
    ) -> Outcome<ReportEnd, ()> {
        let Some(id) = id else {
            let detail = "no report: neither a message id nor an id in its JSON".to_owned();
            let reason = Reason::Malformed.into_str();
            return Outcome::Park(Cause { reason, stage: Stage::Report, detail, signature: None });
        };
        let history = &delivery.history;
        // Not cut short: half a POST may have arrived, and it has a deadline of its own.
        let post = Post {
            id,
            body: &delivery.body,
            trace: &delivery.trace,
            repeated: delivery.worked_on_before(),
            waited: self.ladder.waited(history.attempt, history.deferred),
        };
        match self.courier.deliver(post).await {
            Ok(()) => {
                self.health.up(Part::Webhook);
                Outcome::Done(ReportEnd::Delivered)
            }
            Err(failure) => {
                if let Kind::Down(Dependency::Webhook) = failure.kind {
                    self.pause_for(failure.pause);
                }
                self.metrics.report(ReportEnd::Failed);
                Outcome::Failed(failure, ())
            }
        }
    }
}
