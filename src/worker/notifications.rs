//! The lane of notifications: a message, the object it announces, the pipeline.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;

use super::{Handler, Outcome};
use crate::event::{self, Notification, ObjectRef};
use crate::failure::{Dependency, Failure, Kind, Reason, Stage};
use crate::health::{Health, Part};
use crate::metrics::{Metrics, NotificationEnd};
use crate::pipeline::{Ended, Interrupted, Job, Pipeline};
use crate::queue::{Cause, Delivery, History, Publisher};
use crate::report::Occasion;
use crate::scanner::{Engine, Scanner, Version};
use crate::store::{Look, Store};

/// For an engine that failed one scan. A hung one should not hold the delivery for long.
const PROBE_PATIENCE: Duration = Duration::from_secs(20);
/// For a store while nothing gets done.
const STORE_PATIENCE: Duration = Duration::from_secs(10);

/// Handles notifications.
pub(crate) struct Notifications {
    pub(crate) pipeline: Pipeline,
    pub(crate) store: Arc<Store>,
    pub(crate) scanner: Scanner,
    pub(crate) strict_limits: bool,
    pub(crate) database_max_age: Option<Duration>,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    /// The engine that passed the last self-test.
    pub(crate) engine: Mutex<Option<Arc<Engine>>>,
    /// What was told of the engine last.
    pub(crate) described: Mutex<Option<(Version, bool)>>,
    /// An old database is told of once a day.
    pub(crate) warned_of_age: Mutex<Option<Instant>>,
}

impl Notifications {
    async fn handle_object(
        &self,
        object: &ObjectRef,
        delivery: &Delivery,
        publisher: &Publisher,
        cancelled: &CancellationToken,
    ) -> Outcome<NotificationEnd, Option<Interrupted>> {
        let Some(engine) = lock(&self.engine).clone() else {
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

    /// Tells what is new about the engine.
    fn describe(&self, engine: &Engine) {
        let (version, limits_reported) = (engine.version(), engine.limits_reported());
        let outdated = version
            .outdated()
            .map(|why| format!("ClamAV {} {why}", version.engine.as_deref().unwrap_or_default()));
        self.health.set_limits_reported(limits_reported);
        self.health.set_engine_outdated(outdated.clone());
        self.metrics.limits_reported.set(i64::from(limits_reported));
        self.metrics.engine_outdated.set(i64::from(outdated.is_some()));
        let date = version.database_date.map(SystemTime::from);
        let age = date.and_then(|date| SystemTime::now().duration_since(date).ok());
        self.metrics.database_age.set(age.unwrap_or_default().as_secs_f64());
        if let (Some(age), Some(max)) = (age, self.database_max_age)
            && age > max
        {
            let mut warned = lock(&self.warned_of_age);
            if warned.is_none_or(|at| at.elapsed() > Duration::from_hours(24)) {
                let days = age.as_secs() / 86_400;
                tracing::warn!(days, "the virus database is old: is freshclam running?");
                *warned = Some(Instant::now());
            }
        }
        let told = Some((version.clone(), limits_reported));
        let before = std::mem::replace(&mut *lock(&self.described), told.clone());
        if before == told {
            return;
        }
        let name = version.engine.as_deref().unwrap_or("unknown");
        let database = version.database.as_deref().unwrap_or("unknown");
        tracing::info!(
            engine = engine.name(),
            version = name,
            database,
            "the engine finds the EICAR test file, and nothing in a harmless text"
        );
        let known = before.is_some_and(|(before, _)| before.engine == version.engine);
        if let Some(outdated) = outdated
            && !known
        {
            tracing::warn!("{outdated}");
        }
        if !limits_reported {
            tracing::warn!(
                "the engine calls files CLEAN that it did not look into (encrypted, or beyond its \
                 limits): set AlertEncrypted and AlertExceedsMax to yes in clamd.conf, or \
                 STRICT_LIMITS=true here to refuse such an engine"
            );
        }
        if version.engine.is_some() && version.database.is_none() {
            tracing::warn!(
                "the engine has no official virus database: it knows only local signatures"
            );
        }
    }

    async fn probe_store(&self, patience: Duration) -> Result<(), Failure> {
        self.store.probe(patience).await?;
        self.health.up(Part::Store);
        Ok(())
    }

    async fn probe_engine(&self, patience: Duration) -> Result<(), Failure> {
        let engine = self.scanner.open(patience).await?;
        self.describe(&engine);
        if self.strict_limits && !engine.limits_reported() {
            let detail = "STRICT_LIMITS=true, and the engine calls encrypted or over-limit files \
                          clean: set AlertEncrypted and AlertExceedsMax to yes in clamd.conf";
            return Err(Failure::permanent(Stage::Scan, Reason::LimitsHidden, detail));
        }
        *lock(&self.engine) = Some(Arc::new(engine));
        self.health.up(Part::Engine);
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
            self.probe_engine(patience),
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
            Dependency::Engine => self.probe_engine(PROBE_PATIENCE).await,
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
