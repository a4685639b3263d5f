//! The queue of notifications: a message, the object it announces, the pipeline.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use super::handler::{Handler, Outcome};
use super::scanning::{Announced, Scanning, attempt, surge_held};
use crate::canary::Canaries;
use crate::clock;
use crate::event::{self, Malformed, Notification, ObjectRef};
use crate::failure::{Dependency, Failure, Reason, Stage};
use crate::metrics::{Metrics, NotificationEnd};
use crate::pipeline::{Interrupted, ObjectEnd};
use crate::queue::{Cause, Delivery, History, Publisher};
use crate::report::Trigger;
use crate::store::Look;
use crate::trace;

/// Handles notifications.
pub(crate) struct Notifications {
    scanning: Arc<Scanning>,
    canaries: Option<Arc<Canaries>>,
    metrics: Arc<Metrics>,
}

impl Notifications {
    pub(crate) fn new(
        scanning: Arc<Scanning>,
        canaries: Option<Arc<Canaries>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { scanning, canaries, metrics }
    }

    /// Measures how long a notification has waited that was not tried before. What comes from a retry
    /// queue has waited because it failed.
    fn measure_age(&self, object: &ObjectRef, delivery: &Delivery) {
        let announced = object.event_time.as_deref().and_then(clock::millis_of);
        if let Some(announced) = announced.filter(|_| delivery.history == History::default()) {
            let waited = clock::millis(SystemTime::now()).saturating_sub(announced);
            // The store's clock may be ahead.
            self.metrics.waited(Duration::from_millis(u64::try_from(waited).unwrap_or_default()));
        }
    }

    async fn handle_object(
        &self,
        object: &ObjectRef,
        delivery: &Delivery,
        publisher: &Publisher,
        cancelled: &CancellationToken,
    ) -> Outcome<NotificationEnd, Option<Interrupted>> {
        let announced = Announced { object, trigger: Trigger::Upload, look: look(delivery) };
        match self.scanning.scan(announced, delivery, publisher, cancelled).await {
            Ok(ObjectEnd::Applied) => Outcome::Done(NotificationEnd::Applied),
            Ok(ObjectEnd::Superseded) => Outcome::Done(NotificationEnd::Superseded),
            Ok(ObjectEnd::Locked) => Outcome::Done(NotificationEnd::Locked),
            Ok(ObjectEnd::QuarantineBucket) => Outcome::Done(NotificationEnd::QuarantineBucket),
            Ok(ObjectEnd::CanaryRefused) => Outcome::Done(NotificationEnd::CanaryRefused),
            Ok(ObjectEnd::Held { signature }) => Outcome::Park(surge_held(signature)),
            Ok(ObjectEnd::Gone) => gone(delivery, object),
            Ok(ObjectEnd::Versions(versions)) => {
                tracing::info!(
                    versions = versions.len(),
                    "no version was named, each gets a message"
                );
                let exact = |version| event::exact(&delivery.body, object, Some(version));
                Outcome::Split(versions.iter().map(exact).collect())
            }
            Ok(ObjectEnd::Refused { error, stage, status }) => {
                let detail = format!("verdict {status}, but the object could not be changed");
                let reason = error.into_str();
                Outcome::Park(Cause { reason, stage, detail, signature: None })
            }
            Err(interrupted) => Outcome::Failed(interrupted.failure.clone(), Some(interrupted)),
        }
    }
}

impl Handler for Notifications {
    type Work = Result<Notification, Malformed>;
    type Known = Option<Interrupted>;
    type End = NotificationEnd;
    const PARKED: NotificationEnd = NotificationEnd::Parked;
    const MAY_CRASH: bool = true;
    const PUBLISHES: bool = true;

    fn read(&self, delivery: &Delivery) -> Self::Work {
        event::parse(&delivery.body)
    }

    fn span(&self, work: &Self::Work, delivery: &Delivery) -> tracing::Span {
        let attempt = delivery.history.attempt;
        match work {
            Ok(Notification::Object(object) | Notification::Unsettled { written: object, .. }) => {
                let (bucket, key) = (object.bucket.as_str(), object.key.as_str());
                tracing::error_span!("object", bucket, key, attempt)
            }
            _ => tracing::error_span!("message", bytes = delivery.body.len(), attempt),
        }
    }

    fn describe(&self, work: &Self::Work, span: &mut trace::Span) {
        if let Ok(Notification::Object(object) | Notification::Unsettled { written: object, .. }) =
            work
        {
            span.object(&object.bucket, &object.key);
        }
    }

    fn record_end(&self, end: NotificationEnd) {
        self.metrics.notification(end);
    }

    async fn check_ready(&self, timeout: Duration) -> Result<(), Failure> {
        self.scanning.check(timeout).await
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
    ) -> Outcome<NotificationEnd, Self::Known> {
        match work {
            Ok(Notification::Object(object)) => {
                self.measure_age(object, delivery);
                self.handle_object(object, delivery, publisher, cancelled).await
            }
            Ok(Notification::Unsettled { written, decoded }) => {
                // Each gets a message of its own, in which the key is settled.
                let decoded = ObjectRef { key: decoded.clone(), ..(**written).clone() };
                let exact = |object| event::exact(&delivery.body, object, None);
                Outcome::Split([&**written, &decoded].map(exact).to_vec())
            }
            Ok(Notification::Many(parts)) => Outcome::Split(parts.clone()),
            Ok(Notification::Marker(id)) => {
                if let Some(canaries) = &self.canaries {
                    canaries.marker_came(*id).await;
                }
                Outcome::Done(NotificationEnd::Ignored)
            }
            Ok(Notification::Ignored) => Outcome::Done(NotificationEnd::Ignored),
            Err(malformed) => {
                let detail = format!("{malformed} ({} bytes)", delivery.body.len());
                let reason = Reason::Malformed.into_str();
                Outcome::Park(Cause { reason, stage: Stage::Event, detail, signature: None })
            }
        }
    }

    async fn probe(&self, suspect: Dependency, work: &Self::Work) -> Result<(), Failure> {
        let object = match work {
            Ok(Notification::Object(object) | Notification::Unsettled { written: object, .. }) => {
                Some(&**object)
            }
            _ => None,
        };
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
        let interrupted = known.unwrap_or_else(|| Interrupted::from(failure));
        let (outbox, attempt) = (publisher.outbox(&delivery.trace), attempt(delivery));
        let pipeline = &self.scanning.pipeline;
        let give_up = async |objects: &[&ObjectRef]| {
            pipeline.give_up(objects, Trigger::Upload, attempt, &interrupted, &outbox).await
        };
        match work {
            Ok(Notification::Object(object)) => give_up(&[object]).await,
            Ok(Notification::Unsettled { written, decoded }) => {
                let decoded = ObjectRef { key: decoded.clone(), ..(**written).clone() };
                give_up(&[written, &decoded]).await
            }
            _ => Ok(()),
        }
    }
}

/// An object that is not there. A store that lags behind, or a replica of it, may not have it yet:
/// only a second look, one delay later, ends the notification.
fn gone(delivery: &Delivery, object: &ObjectRef) -> Outcome<NotificationEnd, Option<Interrupted>> {
    if look(delivery) == Look::First {
        let detail = "the store does not have it; it is looked for once more";
        let failure = Failure::transient(Stage::Fetch, Reason::ObjectMissing, detail);
        return Outcome::LookAgain(failure);
    }
    if let Some(message) = event::as_file(object) {
        tracing::info!("no such version: an object of its file's name is looked for");
        return Outcome::Split(vec![message]);
    }
    tracing::info!("gone before it could be scanned");
    Outcome::Done(NotificationEnd::Gone)
}

fn look(delivery: &Delivery) -> Look {
    if delivery.history.missed { Look::Last } else { Look::First }
}
