//! The backlog: objects that a sweep announces, worked on beside the live ones.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::handler::{Handler, Outcome};
use super::scanning::{Announced, Scanning, attempt, surge_held};
use crate::event::{Malformed, ObjectRef, Swept, parse_swept};
use crate::failure::{Dependency, Failure, Reason, Stage};
use crate::metrics::{BacklogEnd, Metrics};
use crate::pipeline::{Interrupted, ObjectEnd};
use crate::queue::{Delivery, Publisher};
use crate::report::Trigger;
use crate::store::Look;
use crate::trace;

/// Handles what sweeps announce. What cannot be scanned is reported and counted, never parked: the
/// next sweep announces it again. Only what a surge holds is parked.
pub(crate) struct Backlog {
    scanning: Arc<Scanning>,
    /// Where the objects are parked whose deletion a surge holds: that of notifications.
    dead: String,
    metrics: Arc<Metrics>,
}

impl Backlog {
    /// `dead`: the dead-letter queue of notifications.
    pub(crate) fn new(scanning: Arc<Scanning>, dead: String, metrics: Arc<Metrics>) -> Self {
        Self { scanning, dead, metrics }
    }

    async fn handle_object(
        &self,
        (swept, object): &(Swept, ObjectRef),
        delivery: &Delivery,
        publisher: &Publisher,
        cancelled: &CancellationToken,
    ) -> Outcome<BacklogEnd, Option<Interrupted>> {
        // The receipt is set before the report is sent, so who set it may not have come so far.
        if !delivery.worked_on_before()
            && self.scanning.pipeline.was_scanned_since(object, swept.began).await
        {
            tracing::debug!("scanned since the sweep began");
            return Outcome::Done(BacklogEnd::AlreadyScanned);
        }
        // The list showed it a while ago. Where the store lags behind, the next sweep finds it again.
        let (look, trigger) = (Look::Last, Trigger::Sweep);
        let announced = Announced { object, trigger, look };
        match self.scanning.scan(announced, delivery, publisher, cancelled).await {
            Ok(ObjectEnd::Applied | ObjectEnd::Superseded) => Outcome::Done(BacklogEnd::Scanned),
            Ok(ObjectEnd::Locked) => Outcome::Done(BacklogEnd::Locked),
            Ok(ObjectEnd::QuarantineBucket) => Outcome::Done(BacklogEnd::QuarantineBucket),
            // No sweep looks for it again: it has a receipt. As a notification it waits for a person.
            Ok(ObjectEnd::Held { signature }) => {
                match publisher.park_in(&self.dead, delivery, &surge_held(signature)).await {
                    Ok(()) => Outcome::Done(BacklogEnd::Held),
                    Err(failure) => Outcome::Failed(failure, None),
                }
            }
            Ok(ObjectEnd::Gone) => {
                tracing::info!("gone before it could be scanned");
                Outcome::Done(BacklogEnd::Gone)
            }
            // It is reported already.
            Ok(ObjectEnd::Refused { .. } | ObjectEnd::CanaryRefused) => {
                Outcome::Done(BacklogEnd::Failed)
            }
            Ok(ObjectEnd::Versions(_)) => {
                let detail = "there are versions where the sweep saw none; the next one names them";
                let failure = Failure::permanent(Stage::Fetch, Reason::ObjectChanged, detail);
                Outcome::Failed(failure, None)
            }
            Err(interrupted) => Outcome::Failed(interrupted.failure.clone(), Some(interrupted)),
        }
    }
}

impl Handler for Backlog {
    type Work = Result<(Swept, ObjectRef), Malformed>;
    type Known = Option<Interrupted>;
    type End = BacklogEnd;
    const PARKED: BacklogEnd = BacklogEnd::Failed;
    const MAY_CRASH: bool = true;
    const PUBLISHES: bool = true;

    fn read(&self, delivery: &Delivery) -> Self::Work {
        parse_swept(&delivery.body)
    }

    fn span(&self, work: &Self::Work, delivery: &Delivery) -> tracing::Span {
        let attempt = delivery.history.attempt;
        match work {
            Ok((Swept { sweep, .. }, ObjectRef { bucket, key, .. })) => {
                tracing::error_span!("object", bucket, key, attempt, %sweep)
            }
            Err(_) => tracing::error_span!("message", bytes = delivery.body.len(), attempt),
        }
    }

    fn describe(&self, work: &Self::Work, span: &mut trace::Span) {
        if let Ok((_, object)) = work {
            span.object(&object.bucket, &object.key);
        }
    }

    fn record_end(&self, end: BacklogEnd) {
        self.metrics.backlog(end);
    }

    async fn check_ready(&self, timeout: Duration) -> Result<(), Failure> {
        // The live worker does the same check, and before this one.
        self.scanning.check_unless_known(timeout).await
    }

    async fn check_progress(&self) -> Result<(), Failure> {
        self.scanning.check_progress().await
    }

    async fn handle(
        &self,
        work: &Self::Work,
        delivery: &Delivery,
        publisher: &Publisher,
        cancelled: &CancellationToken,
    ) -> Outcome<BacklogEnd, Self::Known> {
        match work {
            Ok(announced) => self.handle_object(announced, delivery, publisher, cancelled).await,
            Err(malformed) => {
                tracing::warn!(%malformed, "not what a sweep announces: removed from the backlog");
                Outcome::Done(BacklogEnd::Malformed)
            }
        }
    }

    async fn probe(&self, suspect: Dependency, work: &Self::Work) -> Result<(), Failure> {
        let object = work.as_ref().ok().map(|(_, object)| object);
        self.scanning.probe(suspect, object).await
    }

    async fn on_give_up(
        &self,
        work: &Self::Work,
        delivery: &Delivery,
        failure: Failure,
        known: Self::Known,
        publisher: &Publisher,
    ) -> Result<(), Failure> {
        let Ok((_, object)) = work else { return Ok(()) };
        let interrupted = known.unwrap_or_else(|| Interrupted::from(failure));
        let (outbox, attempt) = (publisher.outbox(&delivery.trace), attempt(delivery));
        let pipeline = &self.scanning.pipeline;
        pipeline.give_up(&[object], Trigger::Sweep, attempt, &interrupted, &outbox).await
    }
}
