//! The workers of all queues, on one broker session after the other.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::receipts::keys;
use super::{Daemon, Fatal};
use crate::canary::Canaries;
use crate::config::{Settings, SurgeSettings, WithoutQuarantine};
use crate::courier::Courier;
use crate::failure::{Failure, Reason};
use crate::health::Part;
use crate::hints;
use crate::intake::ToBroker;
use crate::pipeline::Pipeline;
use crate::policy::{Policy, Surge};
use crate::queue::{Inlet, OpenError, Session, Topology};
use crate::receipt::{Freshness, Keys};
use crate::retry;
use crate::scanner::{EngineWatch, Scanner};
use crate::store::Store;
use crate::surge::Surges;
use crate::sweep::{Judge, Sweeps};
use crate::worker::{
    Backlog, Handler, Notifications, Pages, Reports, Restraint, Scanning, Shared, Slots, Worker,
    WorkerExit,
};

/// Reports posted at once.
const COURIER_SLOTS: u16 = 4;
/// The pages of sweeps have an order.
const PAGE_SLOTS: u16 = 1;
/// After a session that lasted this long, the next reconnects start with short delays again.
const GOOD_SESSION: Duration = Duration::from_secs(30);

/// The workers, and the names on the broker.
pub(super) struct Workers {
    topology: Topology,
    /// Only with `CANARY_EVERY`.
    canaries: Option<Arc<Canaries>>,
    /// Only where something may be deleted, and with a `SURGE_LIMIT`.
    surges: Option<Arc<Surges>>,
    notifications: Arc<Worker<Notifications>>,
    backlog: Arc<Worker<Backlog>>,
    /// Only with a webhook.
    reports: Option<Arc<Worker<Reports>>>,
    sweeps: Arc<Sweeps>,
    pages: Arc<Worker<Pages>>,
    /// The way into the queue for the intake; `None` without a session.
    inlet: watch::Sender<Option<Inlet>>,
    /// The intake has answered all of its requests, or there is none.
    intake_ended: CancellationToken,
}

impl Workers {
    /// Builds the clients and the workers; nothing is connected yet.
    pub(super) async fn new(daemon: &Daemon) -> Result<Self, Fatal> {
        let settings = &daemon.settings;
        let policy = Arc::new(policy(settings)?);
        let topology =
            Topology::new(&settings.broker, &settings.ladder, settings.publish.is_some());
        let shared = Shared::new(
            settings.ladder.clone(),
            Arc::clone(&daemon.health),
            Arc::clone(&daemon.metrics),
            daemon.tracer.clone(),
            daemon.shutdown.clone(),
            settings.shutdown_grace,
        );
        let store = Store::new(&settings.store, &settings.trust).await;
        let store = Arc::new(store.map_err(Fatal::Configuration)?);
        let canaries = canaries(daemon, &store, &policy);
        let surges = surges(daemon, &policy);
        let keys = Arc::new(keys(&settings.receipts).map_err(Fatal::Configuration)?);
        let receipts = !keys.is_empty() && settings.policy.tag_files;
        let sweeps =
            Arc::new(Sweeps::new(settings.sweeps.clone(), receipts, Arc::clone(&daemon.health)));
        let slots = Slots::new(settings.scanner.concurrency);
        let restraint = Restraint {
            concurrency: settings.sweep_concurrency,
            slots: slots.left_free(),
            shutdown: daemon.shutdown.clone(),
        };
        let handler = pages(daemon, &store, &keys, &sweeps, &topology, restraint);
        let pages = Arc::new(Worker::new(
            handler,
            topology.sweeps.clone(),
            Slots::new(PAGE_SLOTS),
            shared.clone(),
        ));
        let (metrics, overview) = (Arc::clone(&daemon.metrics), Arc::clone(&daemon.overview));
        let (to_canaries, to_surges) = (canaries.clone(), surges.clone());
        let pipeline = Pipeline::new(
            Arc::clone(&store),
            policy,
            keys,
            to_canaries,
            to_surges,
            metrics,
            overview,
        );
        let scanning = Arc::new(scanning(daemon, pipeline, store)?);
        let dead = topology.notifications.dead.clone().unwrap_or_default();
        let handler = Backlog::new(Arc::clone(&scanning), dead, Arc::clone(&daemon.metrics));
        let (queue, left_free) = (topology.backlog.clone(), slots.left_free());
        let backlog = Arc::new(Worker::new(handler, queue, left_free, shared.clone()));
        let handler = Notifications::new(scanning, canaries.clone(), Arc::clone(&daemon.metrics));
        let queue = topology.notifications.clone();
        let notifications = Arc::new(Worker::new(handler, queue, slots, shared.clone()));
        let reports = match (reports(daemon)?, topology.reports.clone()) {
            (Some(handler), Some(queue)) => {
                let slots = Slots::new(COURIER_SLOTS);
                Some(Arc::new(Worker::new(handler, queue, slots, shared)))
            }
            _ => None,
        };
        let intake_ended = CancellationToken::new();
        Ok(Self {
            topology,
            canaries,
            surges,
            notifications,
            backlog,
            reports,
            sweeps,
            pages,
            inlet: watch::Sender::new(None),
            intake_ended,
        })
    }

    /// To be cancelled once the intake needs no session any more.
    pub(super) fn intake_ended(&self) -> &CancellationToken {
        &self.intake_ended
    }

    /// The way to the broker, session after session.
    pub(super) fn to_broker(&self) -> ToBroker {
        self.inlet.subscribe()
    }

    /// What is left of the grace period.
    pub(super) fn grace_left(&self) -> Duration {
        self.notifications.grace_left()
    }

    /// Works until the daemon stops, then waits for what still runs.
    pub(super) async fn supervise(&self, daemon: &Daemon) -> Result<(), Fatal> {
        self.run_sessions(daemon).await?;
        // Effects that began in a session that was lost.
        let drains = [
            Some(self.notifications.drains()),
            Some(self.backlog.drains()),
            Some(self.pages.drains()),
            self.reports.as_ref().map(|reports| reports.drains()),
        ];
        let drained = futures_util::future::join_all(drains.into_iter().flatten().map(|drains| {
            drains.close();
            drains.wait()
        }));
        if tokio::time::timeout(self.grace_left(), drained).await.is_err() {
            return Err(cut_short());
        }
        let unsettled = self.notifications.left_unsettled()
            || self.backlog.left_unsettled()
            || self.pages.left_unsettled()
            || self.reports.as_ref().is_some_and(|reports| reports.left_unsettled());
        if unsettled { Err(unsettled_at_the_end()) } else { Ok(()) }
    }

    /// One broker session after the other, until the daemon stops.
    async fn run_sessions(&self, daemon: &Daemon) -> Result<(), Fatal> {
        let Daemon { settings, health, metrics, shutdown, .. } = daemon;
        let mut was_open = false;
        let mut delays = retry::reconnect_delays();
        while !shutdown.is_cancelled() {
            let opened = tokio::select! {
                opened = Session::open(&settings.broker, &settings.trust, &self.topology, metrics) => opened,
                () = shutdown.cancelled() => return Ok(()),
            };
            match opened {
                Ok(session) => {
                    was_open = true;
                    health.up(Part::Broker);
                    let since = Instant::now();
                    if self.run_session(session, daemon).await? {
                        return Ok(());
                    }
                    if since.elapsed() > GOOD_SESSION {
                        delays = retry::reconnect_delays();
                    }
                }
                Err(error @ OpenError::Refused(_)) if !was_open => {
                    return Err(Fatal::Configuration(error.to_string()));
                }
                Err(error @ OpenError::Mismatch(_)) => return Err(Fatal::Other(error.to_string())),
                Err(error) => health.down(Part::Broker, error),
            }
            tokio::select! {
                () = tokio::time::sleep(delays.next().unwrap_or(GOOD_SESSION)) => {}
                () = shutdown.cancelled() => {}
            }
        }
        Ok(())
    }

    /// All workers on one session. `true` if they drained, `false` if the session was lost.
    async fn run_session(&self, session: Session, daemon: &Daemon) -> Result<bool, Fatal> {
        self.inlet.send_replace(Some(session.inlet().clone()));
        let exit = tokio::select! {
            // Boxed, as below.
            exit = Box::pin(self.run_workers(&session)) => exit,
            never = session.keep_bound() => match never {},
            // Boxed, as below.
            never = Box::pin(session.keep_counting(&daemon.health)) => match never {},
            never = self.send_canaries(&session) => match never {},
            never = self.follow_surges(&session) => match never {},
            // Boxed, as below.
            never = Box::pin(self.sweeps.run(&session, &self.topology.sweeps)) => match never {},
        };
        if matches!(exit, WorkerExit::Drained) {
            // What senders have begun is still confirmed. The intake's drain is bounded.
            tokio::select! {
                () = self.intake_ended.cancelled() => {}
                () = session.lost().cancelled() => {}
            }
        }
        self.inlet.send_replace(None);
        daemon.health.set_queues(Vec::new());
        session.close().await;
        match exit {
            WorkerExit::Drained => Ok(true),
            WorkerExit::CutShort => Err(cut_short()),
            WorkerExit::Refused(failure) => Err(Fatal::Configuration(refusal(&failure))),
            WorkerExit::SessionLost if daemon.shutdown.is_cancelled() => {
                Err(unsettled_at_the_end())
            }
            WorkerExit::SessionLost => {
                daemon.metrics.sessions_lost.inc();
                if let Some(canaries) = &self.canaries {
                    canaries.session_lost();
                }
                let reason = format!("the session was lost: check {}", hints::BROKER_ADDRESS);
                daemon.health.down(Part::Broker, reason);
                Ok(false)
            }
        }
    }

    /// Sends canaries, where they are on, for as long as it is polled.
    async fn send_canaries(&self, session: &Session) -> Infallible {
        match &self.canaries {
            Some(canaries) => Box::pin(canaries.run(session)).await,
            None => std::future::pending().await,
        }
    }

    /// Follows the journal for surges, where they are looked for, for as long as it is polled.
    async fn follow_surges(&self, session: &Session) -> Infallible {
        match &self.surges {
            Some(surges) => Box::pin(surges.run(session)).await,
            None => std::future::pending().await,
        }
    }

    /// The end of one worker is the end of all.
    async fn run_workers(&self, session: &Session) -> WorkerExit {
        let reports = async {
            match &self.reports {
                Some(reports) => run_worker(reports, session).await,
                None => WorkerExit::Drained,
            }
        };
        let (notifications, backlog, pages, reports) = tokio::join!(
            run_worker(&self.notifications, session),
            run_worker(&self.backlog, session),
            run_worker(&self.pages, session),
            reports
        );
        [backlog, pages, reports].into_iter().fold(notifications, worst)
    }
}

fn worst(one: WorkerExit, other: WorkerExit) -> WorkerExit {
    use WorkerExit::{CutShort, Drained, Refused, SessionLost};
    match (one, other) {
        (Refused(failure), _) | (_, Refused(failure)) => Refused(failure),
        (SessionLost, _) | (_, SessionLost) => SessionLost,
        (CutShort, _) | (_, CutShort) => CutShort,
        (Drained, Drained) => Drained,
    }
}

async fn run_worker<H: Handler>(worker: &Arc<Worker<H>>, session: &Session) -> WorkerExit {
    let exit = worker.run(session).await;
    if matches!(exit, WorkerExit::SessionLost | WorkerExit::Refused(_)) {
        session.lost().cancel();
    }
    exit
}

/// What decides on actions. Says what is to be known about it.
fn policy(settings: &Settings) -> Result<Policy, Fatal> {
    let (policy, warnings) =
        super::policy(settings).map_err(|problems| Fatal::Configuration(problems.to_string()))?;
    if settings.rules.is_some() {
        tracing::info!("{} rules from {}", policy.rules.len(), policy.rules.path);
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(policy)
}

fn canaries(daemon: &Daemon, store: &Arc<Store>, policy: &Arc<Policy>) -> Option<Arc<Canaries>> {
    let Daemon { settings, health, metrics, .. } = daemon;
    let (canary, policy) = (settings.canary.clone()?, Arc::clone(policy));
    let (store, health, metrics) = (Arc::clone(store), Arc::clone(health), Arc::clone(metrics));
    Some(Arc::new(Canaries::new(canary, policy, store, health, metrics)))
}

fn pages(
    daemon: &Daemon,
    store: &Arc<Store>,
    keys: &Arc<Keys>,
    sweeps: &Arc<Sweeps>,
    topology: &Topology,
    restraint: Restraint,
) -> Pages {
    let Daemon { settings, health, metrics, .. } = daemon;
    let judge = Arc::new(Judge {
        store: Arc::clone(store),
        keys: Arc::clone(keys),
        tag_key: settings.policy.tag_key.clone(),
        freshness: Freshness::Any,
        hash: false,
    });
    let (sweeps, backlog) = (Arc::clone(sweeps), topology.backlog.clone());
    let (health, metrics) = (Arc::clone(health), Arc::clone(metrics));
    Pages::new(sweeps, judge, backlog, restraint, health, metrics)
}

/// Says that deletions are counted, and what an uploader can bring about by that.
fn surges(daemon: &Daemon, policy: &Policy) -> Option<Arc<Surges>> {
    let Daemon { settings, health, metrics, .. } = daemon;
    let surge = settings.surge.filter(|_| policy.may_delete())?;
    let SurgeSettings { limit, window, without_quarantine } = surge;
    let (means, what) = match (&settings.policy.quarantine_bucket, without_quarantine) {
        (Some(_), _) => (Surge::Held, "further ones are moved to QUARANTINE_BUCKET"),
        (None, WithoutQuarantine::Tag) => (Surge::Held, "further ones are tagged and parked"),
        (None, WithoutQuarantine::Delete) => (Surge::Alarm, "an alarm, and they are deleted too"),
    };
    tracing::info!(
        "at most {limit} contents by one signature are deleted within {} s, then {what}, until a \
         person decides; uploads of many such files bring that about too",
        window.as_secs()
    );
    let (health, metrics) = (Arc::clone(health), Arc::clone(metrics));
    Some(Arc::new(Surges::new(&surge, means, health, metrics)))
}

fn scanning(daemon: &Daemon, pipeline: Pipeline, store: Arc<Store>) -> Result<Scanning, Fatal> {
    let Daemon { settings, health, metrics, overview, .. } = daemon;
    let scanner = Scanner::new(&settings.scanner, &settings.trust).map_err(|error| {
        Fatal::Configuration(format!("the engine's client cannot be set up: {error}"))
    })?;
    let (health, metrics) = (Arc::clone(health), Arc::clone(metrics));
    let overview = Arc::clone(overview);
    let engine =
        EngineWatch::new(scanner, &settings.scanner, Arc::clone(&health), metrics, overview);
    Ok(Scanning::new(pipeline, store, engine, health))
}

fn reports(daemon: &Daemon) -> Result<Option<Reports>, Fatal> {
    let Daemon { settings, health, metrics, .. } = daemon;
    let Some(publish) = &settings.publish else { return Ok(None) };
    let courier = Courier::new(publish, &settings.trust).map_err(Fatal::Configuration)?;
    let (health, metrics) = (Arc::clone(health), Arc::clone(metrics));
    Ok(Some(Reports::new(courier, settings.ladder.clone(), health, metrics)))
}

fn cut_short() -> Fatal {
    let line = "the grace period (SHUTDOWN_GRACE) was too short: what was still running will be \
                redelivered";
    Fatal::Other(line.to_owned())
}

fn unsettled_at_the_end() -> Fatal {
    let line = "the broker was lost or did not answer while stopping: what it did not get to know \
                of will be redelivered";
    Fatal::Other(line.to_owned())
}

fn refusal(failure: &Failure) -> String {
    if failure.reason == Reason::StoreCredentials {
        return hints::store_login_refused(&failure.detail);
    }
    failure.detail.clone()
}
