//! The queue of notifications: a message, the object it announces, the pipeline.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::handler::{Handler, Outcome};
use crate::canary::Canaries;
use crate::config::PolicySettings;
use crate::event::{self, Malformed, Notification, ObjectRef};
use crate::failure::{Dependency, Failure, Kind, Reason, Stage};
use crate::health::{Health, Part};
use crate::metrics::{Metrics, NotificationEnd};
use crate::pipeline::{Interrupted, Job, ObjectEnd, Pipeline};
use crate::queue::{Cause, Delivery, Publisher};
use crate::receipt::Keys;
use crate::report::Attempt;
use crate::scanner::EngineWatch;
use crate::store::{Look, Store};

/// For an engine that failed one scan. One that hangs must not hold the delivery for long.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(20);
/// For a store while no delivery finishes.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handles notifications.
pub(crate) struct Notifications {
    pipeline: Pipeline,
    store: Arc<Store>,
    engine: EngineWatch,
    canaries: Option<Arc<Canaries>>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl Notifications {
    pub(crate) fn new(
        store: Arc<Store>,
        engine: EngineWatch,
        policy: PolicySettings,
        keys: Arc<Keys>,
        canaries: Option<Arc<Canaries>>,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let metrics_of_pipeline = Arc::clone(&metrics);
        let pipeline =
            Pipeline::new(Arc::clone(&store), policy, keys, canaries.clone(), metrics_of_pipeline);
        Self { pipeline, store, engine, canaries, health, metrics }
    }

    async fn handle_object(
        &self,
        object: &ObjectRef,
        delivery: &Delivery,
        publisher: &Publisher,
        cancelled: &CancellationToken,
    ) -> Outcome<NotificationEnd, Option<Interrupted>> {
        let Some(engine) = self.engine.current() else {
            let kind = Kind::Suspect(Dependency::Engine);
            let (reason, detail) = (Reason::EngineUnproved, "no self-test yet");
            return Outcome::Failed(Failure::new(kind, Stage::Scan, reason, detail), None);
        };
        let outbox = publisher.outbox();
        let job = Job {
            object,
            look: look(delivery),
            attempt: attempt(delivery),
            repeated: delivery.redelivered || delivery.failed_before(),
            engine: &engine,
            outbox: &outbox,
            reported: AtomicU32::new(0),
            cancelled,
        };
        match self.pipeline.run(&job).await {
            Ok(ObjectEnd::Applied) => Outcome::Done(NotificationEnd::Applied),
            Ok(ObjectEnd::Superseded) => Outcome::Done(NotificationEnd::Superseded),
            Ok(ObjectEnd::Locked) => Outcome::Done(NotificationEnd::Locked),
            Ok(ObjectEnd::CanaryRefused) => Outcome::Done(NotificationEnd::CanaryRefused),
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
                Outcome::Park(Cause { reason: error.into_str(), stage, detail })
            }
            Err(interrupted) => Outcome::Failed(interrupted.failure.clone(), Some(interrupted)),
        }
    }

    async fn probe_store(&self) -> Result<(), Failure> {
        self.check_store(STORE_TIMEOUT).await
    }

    async fn check_store(&self, timeout: Duration) -> Result<(), Failure> {
        self.store.probe(timeout).await?;
        self.health.up(Part::Store);
        Ok(())
    }

    async fn check_host(&self) -> Result<(), Failure> {
        self.store.probe_temp().await?;
        self.health.up(Part::Host);
        Ok(())
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

    fn record_end(&self, end: NotificationEnd) {
        self.metrics.notification(end);
    }

    async fn check_ready(&self, timeout: Duration) -> Result<(), Failure> {
        // All of them, so that /readyz names everything that is missing.
        let (engine, store, host) =
            tokio::join!(self.engine.check(timeout), self.check_store(timeout), self.check_host());
        for (part, answer) in [(Part::Store, &store), (Part::Host, &host), (Part::Engine, &engine)]
        {
            if let Err(failure) = answer {
                self.health.down(part, &failure.detail);
            }
        }
        engine.and(store).and(host)
    }

    async fn check_progress(&self) -> Result<(), Failure> {
        // Not the engine: it may be at work on something large.
        self.probe_store().await
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
                Outcome::Park(Cause { reason, stage: Stage::Event, detail })
            }
        }
    }

    async fn probe(&self, suspect: Dependency, work: &Self::Work) -> Result<(), Failure> {
        match (suspect, work) {
            (Dependency::Engine, _) => self.engine.check(ENGINE_TIMEOUT).await,
            (
                Dependency::Store,
                Ok(Notification::Object(object) | Notification::Unsettled { written: object, .. }),
            ) => self.store.probe_after(&object.bucket, &object.key).await,
            (Dependency::Store, _) => self.probe_store().await,
            (Dependency::Host, _) => self.check_host().await,
            (Dependency::Webhook, _) => Ok(()),
        }
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
        let (outbox, attempt) = (publisher.outbox(), attempt(delivery));
        match work {
            Ok(Notification::Object(object)) => {
                self.pipeline.give_up(&[object], attempt, &interrupted, &outbox).await
            }
            Ok(Notification::Unsettled { written, decoded }) => {
                let decoded = ObjectRef { key: decoded.clone(), ..(**written).clone() };
                self.pipeline.give_up(&[written, &decoded], attempt, &interrupted, &outbox).await
            }
            _ => Ok(()),
        }
    }
}

/// An object that is not there. A store that lags behind, or a replica of it, may not have it yet:
/// only a second look, one delay later, ends the notification.
fn gone(delivery: &Delivery, object: &ObjectRef) -> Outcome<NotificationEnd, Option<Interrupted>> {
    if look(delivery) == Look::Last {
        if let Some(message) = event::as_file(object) {
            tracing::info!("no such version: an object of its file's name is looked for");
            return Outcome::Split(vec![message]);
        }
        tracing::info!("gone before it could be scanned");
        return Outcome::Done(NotificationEnd::Gone);
    }
    let detail = "the store does not have it; it is looked for once more";
    Outcome::LookAgain(Failure::transient(Stage::Fetch, Reason::ObjectMissing, detail))
}

fn look(delivery: &Delivery) -> Look {
    if delivery.history.missed { Look::Last } else { Look::First }
}

fn attempt(delivery: &Delivery) -> Attempt {
    Attempt {
        number: delivery.history.attempt,
        redriven: delivery.history.redriven,
        delivery_count: delivery.delivery_count,
    }
}
