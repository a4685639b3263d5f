//! The lane of reports: a message, the courier.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::{Handler, Outcome};
use crate::courier::{Courier, Post};
use crate::failure::{Dependency, Failure, Kind, Reason, Stage};
use crate::health::{Health, Part};
use crate::metrics::{Metrics, ReportEnd};
use crate::queue::{Cause, Delivery, Publisher};
use crate::retry::Ladder;

/// Between two tries of a webhook that is down and does not say until when.
const PAUSE: Duration = Duration::from_secs(3);

/// Handles reports.
pub(crate) struct Reports {
    pub(crate) courier: Courier,
    pub(crate) ladder: Ladder,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    /// How long the gate stays closed; `None` while it is open.
    pub(crate) pause: Mutex<Option<Instant>>,
}

#[derive(Deserialize)]
struct Identified {
    id: String,
}

impl Reports {
    fn pause_until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handler for Reports {
    type Memo = ();
    type End = ReportEnd;
    const PARKED: ReportEnd = ReportEnd::Parked;
    const MAY_CRASH: bool = false;
    const PUBLISHES: bool = false;

    /// A webhook has no question that can be asked without a report, so after a pause the next
    /// report is the probe.
    async fn ready(&self, _patience: Duration) -> Result<(), Failure> {
        loop {
            let Some(until) = *self.pause_until() else { return Ok(()) };
            tokio::time::sleep_until(until.into()).await;
            // A longer one may have been asked for meanwhile.
            self.pause_until().take_if(|latest| *latest <= until);
        }
    }

    async fn stalled(&self) -> Result<(), Failure> {
        Ok(())
    }

    fn span(&self, delivery: &Delivery) -> tracing::Span {
        tracing::error_span!("report", id = delivery.message_id().unwrap_or_default())
    }

    fn ended(&self, end: ReportEnd) {
        self.metrics.report(end);
    }

    async fn handle(
        &self,
        delivery: &Delivery,
        _publisher: &Publisher,
        _cancelled: &CancellationToken,
    ) -> Outcome<ReportEnd, ()> {
        let id = match delivery.message_id() {
            Some(id) => id.to_owned(),
            None => match serde_json::from_slice::<Identified>(&delivery.body) {
                Ok(Identified { id }) => id,
                Err(_) => {
                    let detail = "no report: neither a message id nor an id in its JSON".to_owned();
                    return Outcome::Park(Cause {
                        reason: Reason::Malformed.into_str(),
                        stage: Stage::Report,
                        detail,
                    });
                }
            },
        };
        // Not cut short: half a POST may have arrived, and it has a deadline of its own.
        let post = Post {
            id: &id,
            body: &delivery.body,
            repeated: delivery.redelivered
                || delivery.history.deferred > 0
                || delivery.failed_before(),
            waited: self.ladder.waited(delivery.history.attempt, delivery.history.deferred),
        };
        match self.courier.deliver(post).await {
            Ok(()) => {
                self.health.up(Part::Webhook);
                Outcome::Done(ReportEnd::Delivered)
            }
            Err(failure) => {
                if let Kind::Down(Dependency::Webhook) = failure.kind {
                    let until = Instant::now() + failure.pause.unwrap_or(PAUSE).max(PAUSE);
                    let mut pause = self.pause_until();
                    // The longest that one of them was asked for.
                    *pause = (*pause).max(Some(until));
                }
                self.metrics.report(ReportEnd::Failed);
                Outcome::Failed(failure, ())
            }
        }
    }

    async fn probe(&self, _suspect: Dependency, _delivery: &Delivery) -> Result<(), Failure> {
        Ok(())
    }

    async fn exhausted(
        &self,
        _delivery: &Delivery,
        _failure: Failure,
        (): (),
        _publisher: &Publisher,
    ) -> Result<(), Failure> {
        Ok(())
    }
}
