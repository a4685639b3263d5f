//! Scans announced objects, for notifications and for the backlog of sweeps.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::event::ObjectRef;
use crate::failure::{Dependency, Failure, Kind, Reason, Stage};
use crate::health::{Health, Part};
use crate::pipeline::{Interrupted, Job, ObjectEnd, Pipeline};
use crate::queue::{Cause, Delivery, Publisher};
use crate::report::{Attempt, Trigger};
use crate::scanner::EngineWatch;
use crate::store::{Look, Store};

/// For an engine that failed one scan. One that hangs must not hold the delivery for long.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(20);
/// For a store while no delivery finishes.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);
/// The full check of one worker answers for the other for this long. It is longer than what lies
/// between two checks of a worker whose gate is open.
const CHECK_REUSE: Duration = Duration::from_mins(4);

/// The pipeline, and what it depends on.
pub(crate) struct Scanning {
    pub(super) pipeline: Pipeline,
    store: Arc<Store>,
    engine: EngineWatch,
    health: Arc<Health>,
    /// When everything was last found to work, unless a part was found not to since.
    ready: Mutex<Option<Instant>>,
}

/// An object to be scanned.
#[derive(Clone, Copy)]
pub(super) struct Announced<'a> {
    pub(super) object: &'a ObjectRef,
    /// What announced it.
    pub(super) trigger: Trigger,
    pub(super) look: Look,
}

impl Scanning {
    pub(crate) fn new(
        pipeline: Pipeline,
        store: Arc<Store>,
        engine: EngineWatch,
        health: Arc<Health>,
    ) -> Self {
        Self { pipeline, store, engine, health, ready: Mutex::default() }
    }

    /// Takes one object to its end.
    ///
    /// # Errors
    /// [`Interrupted`], when a later attempt may get further.
    pub(super) async fn scan(
        &self,
        announced: Announced<'_>,
        delivery: &Delivery,
        publisher: &Publisher,
        cancelled: &CancellationToken,
    ) -> Result<ObjectEnd, Interrupted> {
        let Some(engine) = self.engine.current() else {
            let kind = Kind::Suspect(Dependency::Engine);
            let (reason, detail) = (Reason::EngineUnproved, "no self-test yet");
            return Err(Failure::new(kind, Stage::Scan, reason, detail).into());
        };
        let Announced { object, trigger, look } = announced;
        let (outbox, work) =
            (publisher.outbox(&delivery.trace), self.pipeline.begin(object, trigger));
        let job = Job {
            object,
            trigger,
            look,
            attempt: attempt(delivery),
            repeated: delivery.redelivered || delivery.failed_before(),
            engine: &engine,
            work: &work,
            outbox: &outbox,
            trace: &delivery.trace,
            reported: AtomicU32::new(0),
            cancelled,
        };
        self.pipeline.run(&job).await
    }

    /// Checks everything.
    ///
    /// # Errors
    /// The worst of what does not work.
    pub(super) async fn check(&self, timeout: Duration) -> Result<(), Failure> {
        // All of them, so that /readyz names everything that is missing.
        let (engine, store, host) =
            tokio::join!(self.engine.check(timeout), self.check_store(timeout), self.check_host());
        for (part, answer) in [(Part::Store, &store), (Part::Host, &host), (Part::Engine, &engine)]
        {
            if let Err(failure) = answer {
                self.health.down(part, &failure.detail);
            }
        }
        let ready = engine.and(store).and(host);
        self.set_ready(ready.is_ok());
        ready
    }

    /// The same, unless it was done a while ago and nothing has failed since.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub(super) async fn check_unless_known(&self, timeout: Duration) -> Result<(), Failure> {
        let ready = *self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.is_some_and(|at| at.elapsed() < CHECK_REUSE) {
            return Ok(());
        }
        self.check(timeout).await
    }

    /// Checks what can be checked while an engine is at work on something large.
    ///
    /// # Errors
    /// When the store does not work.
    pub(super) async fn check_progress(&self) -> Result<(), Failure> {
        self.noted(self.check_store(STORE_TIMEOUT).await)
    }

    /// Whether `suspect` works, after a failure of the work on `object`.
    ///
    /// # Errors
    /// When it does not.
    pub(super) async fn probe(
        &self,
        suspect: Dependency,
        object: Option<&ObjectRef>,
    ) -> Result<(), Failure> {
        self.noted(match (suspect, object) {
            (Dependency::Engine, _) => self.engine.check(ENGINE_TIMEOUT).await,
            (Dependency::Store, Some(object)) => {
                self.store.probe_after(&object.bucket, &object.key).await
            }
            (Dependency::Store, None) => self.check_store(STORE_TIMEOUT).await,
            (Dependency::Host, _) => self.check_host().await,
            (Dependency::Webhook, _) => Ok(()),
        })
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

    /// After a failure only a full check says that everything works.
    fn noted(&self, answer: Result<(), Failure>) -> Result<(), Failure> {
        if answer.is_err() {
            self.set_ready(false);
        }
        answer
    }

    fn set_ready(&self, ready: bool) {
        *self.ready.lock().unwrap_or_else(PoisonError::into_inner) = ready.then(Instant::now);
    }
}

/// Why an object is parked whose deletion is held.
pub(super) fn surge_held(signature: String) -> Cause {
    let reason = Reason::SurgeHeld.into_str();
    let detail = format!("too many contents by {signature}: `surge confirm` or `surge clear`");
    Cause { reason, stage: Stage::Delete, detail, signature: Some(signature) }
}

pub(super) fn attempt(delivery: &Delivery) -> Attempt {
    Attempt {
        number: delivery.history.attempt,
        redriven: delivery.history.redriven,
        delivery_count: delivery.delivery_count,
    }
}
