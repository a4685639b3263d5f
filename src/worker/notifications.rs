//! The lane of notifications: a message, the object it announces, the pipeline.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Handler, Outcome};
use crate::event::{self, Notification, ObjectRef};
use crate::failure::{Dependency, Failure, Kind, Reason, Stage};
use crate::health::{Health, Part};
use crate::metrics::{Metrics, NotificationEnd};
use crate::pipeline::{Ended, Interrupted, Job, Pipeline};
use crate::queue::{Cause, Delivery, History, Publisher};
use crate::report::Occasion;
use crate::scanner::EngineWatch;
use crate::store::{Look, Store};

/// For an engine that failed one scan. A hung one should not hold the delivery for long.
const PROBE_PATIENCE: Duration = Duration::from_secs(20);
/// For a store while nothing gets done.
const STORE_PATIENCE: Duration = Duration::from_secs(10);

/// Handles notifications.
pub(crate) struct Notifications {
    pub(crate) pipeline: Pipeline,
    pub(crate) store: Arc<Store>,
    pub(crate) engine: EngineWatch,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Notifications {
    async fn handle_object(
        &self,
        object: &ObjectRef,
        delivery: &Delivery,
        publisher: &Publisher,
        cancelled: &CancellationToken,
    ) -> Outcome<NotificationEnd, Option<Interrupted>> {
        let Some(engine) = self.engine.current() else {
            let kind = Kind::Suspect(Dependency::Engine);
            let failure =
                Failure::new(kind, Stage::Scan, Reason::EngineUnproved, "no self-test yet");
            return Outcome::Failed(failure, None);
        };
        let outbox = publisher.outbox();
        let job = Job {
            object,
            look: look(delivery),
            occasion: occasion(delivery),
            repeated: delivery.redelivered || delivery.failed_before(),
            engine: &engine,
            outbox: &outbox,
            reported: AtomicU32::new(0),
            cancelled,
        };
        match self.pipeline.run(&job).await {
            Ok(Ended::Applied) => Outcome::Done(NotificationEnd::Applied),
            Ok(Ended::Superseded) => Outcome::Done(NotificationEnd::Superseded),
            Ok(Ended::Locked) => Outcome::Done(NotificationEnd::Locked),
            Ok(Ended::Gone) => gone(delivery),
            Ok(Ended::Versions(versions)) => {
                tracing::info!(
                    versions = versions.len(),
                    "no version was named, each gets a message"
                );
                let exact = |version| event::exact(&delivery.body, object, Some(version));
                Outcome::Split(versions.iter().map(exact).collect())
            }
            Ok(Ended::Refused(note)) => Outcome::Park(note),
            Err(interrupted) => Outcome::Failed(interrupted.failure.clone(), Some(interrupted)),
        }
    }

    async fn probe_store(&self, patience: Duration) -> Result<(), Failure> {
        self.store.probe(patience).await?;
        self.health.up(Part::Store);
        Ok(())
    }

    async fn probe_host(&self) -> Result<(), Failure> {
        self.store.probe_temp().await?;
        self.health.up(Part::Host);
        Ok(())
    }
}

impl Handler for Notifications {
    type Memo = Option<Interrupted>;
    type End = NotificationEnd;
    const PARKED: NotificationEnd = NotificationEnd::Parked;
    const MAY_CRASH: bool = true;
    const PUBLISHES: bool = true;

    async fn ready(&self, patience: Duration) -> Result<(), Failure> {
        // All are asked, so that /readyz names everything that is missing and not just the first.
        let (engine, store, host) = tokio::join!(
            self.engine.check(patience),
            self.probe_store(patience),
            self.probe_host()
        );
        for (part, answer) in [(Part::Store, &store), (Part::Host, &host), (Part::Engine, &engine)]
        {
            if let Err(failure) = answer {
                self.health.down(part, &failure.detail);
            }
        }
        engine.and(store).and(host)
    }

    async fn stalled(&self) -> Result<(), Failure> {
        // Not the engine: it may be at work on something large.
        self.probe_store(STORE_PATIENCE).await
    }

    fn span(&self, delivery: &Delivery) -> tracing::Span {
        let attempt = delivery.history.attempt;
        match event::parse(&delivery.body) {
            Ok(Notification::Object(object) | Notification::Unsettled { written: object, .. }) => {
                let (bucket, key) = (object.bucket.as_str(), object.key.as_str());
                tracing::error_span!("object", bucket, key, attempt)
            }
            _ => tracing::error_span!("message", bytes = delivery.body.len(), attempt),
        }
    }

    fn ended(&self, end: NotificationEnd) {
        self.metrics.notification(end);
    }

    async fn handle(
        &self,
        delivery: &Delivery,
        publisher: &Publisher,
        cancelled: &CancellationToken,
    ) -> Outcome<NotificationEnd, Self::Memo> {
        match event::parse(&delivery.body) {
            Ok(Notification::Object(object)) => {
                self.handle_object(&object, delivery, publisher, cancelled).await
            }
            Ok(Notification::Unsettled { written, decoded }) => {
                // Each gets a message of its own, in which the key is settled.
                let decoded = ObjectRef { key: decoded, ..(*written).clone() };
                let exact = |object| event::exact(&delivery.body, object, None);
                Outcome::Split([&*written, &decoded].map(exact).to_vec())
            }
            Ok(Notification::Many(parts)) => Outcome::Split(parts),
            Ok(Notification::Ignored) => Outcome::Done(NotificationEnd::Ignored),
            Err(malformed) => {
                let detail = format!("{malformed} ({} bytes)", delivery.body.len());
                Outcome::Park(Cause {
                    reason: Reason::Malformed.into_str(),
                    stage: Stage::Event,
                    detail,
                })
            }
        }
    }

    async fn probe(&self, suspect: Dependency, delivery: &Delivery) -> Result<(), Failure> {
        match suspect {
            Dependency::Engine => self.engine.check(PROBE_PATIENCE).await,
            Dependency::Store => {
                if let Ok(
                    Notification::Object(object) | Notification::Unsettled { written: object, .. },
                ) = event::parse(&delivery.body)
                {
                    return self.store.probe_after(&object.bucket, &object.key).await;
                }
                self.probe_store(STORE_PATIENCE).await
            }
            Dependency::Host => self.probe_host().await,
            Dependency::Webhook => Ok(()),
        }
    }

    async fn exhausted(
        &self,
        delivery: &Delivery,
        failure: Failure,
        memo: Self::Memo,
        publisher: &Publisher,
    ) -> Result<(), Failure> {
        let interrupted = memo.unwrap_or_else(|| Interrupted::from(failure));
        let (outbox, occasion) = (publisher.outbox(), occasion(delivery));
        match event::parse(&delivery.body) {
            Ok(Notification::Object(object)) => {
                self.pipeline.give_up(&[&object], occasion, &interrupted, &outbox).await
            }
            Ok(Notification::Unsettled { written, decoded }) => {
                let decoded = ObjectRef { key: decoded, ..(*written).clone() };
                self.pipeline.give_up(&[&written, &decoded], occasion, &interrupted, &outbox).await
            }
            _ => Ok(()),
        }
    }
}

/// An object that is not there. A store that is behind, or a replica of it, may not have it yet: only a
/// second look, one delay later, ends the notification.
fn gone(delivery: &Delivery) -> Outcome<NotificationEnd, Option<Interrupted>> {
    if look(delivery) == Look::Last {
        tracing::info!("gone before it could be scanned");
        return Outcome::Done(NotificationEnd::Gone);
    }
    let detail = "the store does not have it; it is looked for once more";
    Outcome::LookAgain(Failure::transient(Stage::Fetch, Reason::ObjectMissing, detail))
}

fn look(delivery: &Delivery) -> Look {
    if delivery.history.missed { Look::Last } else { Look::First }
}

fn occasion(delivery: &Delivery) -> Occasion {
    let History { attempt, redriven, .. } = delivery.history;
    Occasion { attempt, redriven, returns: delivery.delivery_count }
}
