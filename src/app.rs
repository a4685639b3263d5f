//! Builds the clients from the configuration and joins workers and admin server; keeps a broker
//! session as long as the daemon lives.

mod check;
mod redrive;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

pub use self::check::{check, healthcheck};
pub use self::redrive::{Redrive, redrive};
use crate::admin;
use crate::config::{Loaded, Settings};
use crate::courier::Courier;
use crate::failure::{Failure, Reason};
use crate::health::{Health, Part};
use crate::metrics::Metrics;
use crate::pipeline::Pipeline;
use crate::queue::{OpenError, Session, Topology};
use crate::retry;
use crate::scanner::{EngineWatch, Scanner};
use crate::store::Store;
use crate::worker::{End, Handler, Notifications, Reports, Shared, Worker};

/// sysexits.h: `EX_CONFIG`.
pub const BAD_CONFIGURATION: u8 = 78;
/// Reports posted at once.
const COURIER_SLOTS: u16 = 4;
/// A session that lived this long was a good one: the next outage starts with short delays again.
const GOOD_SESSION: Duration = Duration::from_secs(30);

/// Why the daemon ends other than by being asked to.
#[derive(Debug)]
enum Fatal {
    /// These settings cannot work.
    Configuration(String),
    /// Anything else.
    Other(String),
}

/// Runs the daemon until `shutdown` is cancelled. What is wrong is told in one line; the exit code
/// is 0 after a drain, 78 for a configuration that cannot work, 1 for anything else.
pub async fn run(loaded: Loaded, shutdown: CancellationToken) -> ExitCode {
    let settings: Vec<_> = loaded.effective.iter().map(|(name, v)| format!("{name}={v}")).collect();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "starting with {}", settings.join(" "));
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    match serve(&loaded.settings, shutdown).await {
        Ok(()) => {
            tracing::info!("stopped, everything settled");
            ExitCode::SUCCESS
        }
        Err(Fatal::Configuration(line)) => {
            tracing::error!("{line}");
            ExitCode::from(BAD_CONFIGURATION)
        }
        Err(Fatal::Other(line)) => {
            tracing::error!("{line}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(settings: &Settings, shutdown: CancellationToken) -> Result<(), Fatal> {
    let health = Arc::new(Health::default());
    let metrics = Arc::new(Metrics::default());
    let listener = admin::listen(settings.health_addr).map_err(|error| {
        Fatal::Other(format!("HEALTH_ADDR {} cannot be used: {error}", settings.health_addr))
    })?;
    let admin_stop = CancellationToken::new();
    // A runtime thread of its own is not needed: nothing in the work blocks one for long.
    let admin = tokio::spawn(admin::serve(
        listener,
        Arc::clone(&health),
        Arc::clone(&metrics),
        admin_stop.clone(),
    ));
    let workers = Workers::new(settings, &health, &metrics, &shutdown).await?;
    let ended = workers.supervise(settings, &health, &metrics, &shutdown).await;
    admin_stop.cancel();
    drop(admin.await);
    ended
}

/// Both lanes.
struct Workers {
    topology: Topology,
    notifications: Arc<Worker<Notifications>>,
    reports: Option<Arc<Worker<Reports>>>,
}

impl Workers {
    async fn new(
        settings: &Settings,
        health: &Arc<Health>,
        metrics: &Arc<Metrics>,
        shutdown: &CancellationToken,
    ) -> Result<Self, Fatal> {
        let trust = &settings.trust;
        let topology =
            Topology::new(&settings.broker, &settings.ladder, settings.publish.is_some());
        let store = Store::new(&settings.store, trust).await.map_err(Fatal::Configuration)?;
        let store = Arc::new(store);
        let scanner = Scanner::new(&settings.scanner, trust).map_err(|error| {
            Fatal::Configuration(format!("the engine's client cannot be set up: {error}"))
        })?;
        let handler = Notifications {
            pipeline: Pipeline::new(
                Arc::clone(&store),
                settings.policy.clone(),
                Arc::clone(metrics),
            ),
            store,
            engine: EngineWatch::new(
                scanner,
                &settings.scanner,
                Arc::clone(health),
                Arc::clone(metrics),
            ),
            health: Arc::clone(health),
            metrics: Arc::clone(metrics),
        };
        let shared = Shared {
            ladder: settings.ladder.clone(),
            health: Arc::clone(health),
            metrics: Arc::clone(metrics),
            shutdown: shutdown.clone(),
            grace: settings.shutdown_grace,
            stopping: Arc::default(),
        };
        let (lane, slots) = (topology.notifications.clone(), settings.scanner.concurrency);
        let notifications = Arc::new(Worker::new(handler, lane, slots, shared.clone()));
        let reports = match (&settings.publish, &topology.reports) {
            (Some(publish), Some(lane)) => {
                let handler = Reports {
                    courier: Courier::new(publish, trust).map_err(Fatal::Configuration)?,
                    ladder: settings.ladder.clone(),
                    health: Arc::clone(health),
                    metrics: Arc::clone(metrics),
                    pause: std::sync::Mutex::default(),
                };
                Some(Arc::new(Worker::new(handler, lane.clone(), COURIER_SLOTS, shared)))
            }
            _ => None,
        };
        Ok(Self { topology, notifications, reports })
    }

    /// Works until the daemon stops, and waits for what still runs then.
    async fn supervise(
        &self,
        settings: &Settings,
        health: &Health,
        metrics: &Metrics,
        shutdown: &CancellationToken,
    ) -> Result<(), Fatal> {
        // Boxed: the compiler looks only so deep into futures within futures.
        Box::pin(self.sessions(settings, health, metrics, shutdown)).await?;
        // Effects that were begun in a session that was lost.
        let running =
            [Some(self.notifications.drains()), self.reports.as_ref().map(|r| r.drains())];
        let ended = futures_util::future::join_all(running.into_iter().flatten().map(|drains| {
            drains.close();
            drains.wait()
        }));
        if tokio::time::timeout(self.notifications.grace_left(), ended).await.is_err() {
            return Err(cut_short());
        }
        let unsettled = self.notifications.left_unsettled()
            || self.reports.as_ref().is_some_and(|reports| reports.left_unsettled());
        if unsettled { Err(unsettled_at_the_end()) } else { Ok(()) }
    }

    /// One broker session after the other, until the daemon stops.
    async fn sessions(
        &self,
        settings: &Settings,
        health: &Health,
        metrics: &Metrics,
        shutdown: &CancellationToken,
    ) -> Result<(), Fatal> {
        let mut known_to_the_broker = false;
        let mut delays = retry::reconnect_delays();
        while !shutdown.is_cancelled() {
            let opened = tokio::select! {
                opened = Session::open(&settings.broker, &settings.trust, &self.topology, metrics) => opened,
                () = shutdown.cancelled() => return Ok(()),
            };
            match opened {
                Ok(session) => {
                    known_to_the_broker = true;
                    health.up(Part::Broker);
                    let since = Instant::now();
                    let end = self.run_session(&session).await;
                    session.close().await;
                    match end {
                        End::Drained => return Ok(()),
                        End::CutShort => return Err(cut_short()),
                        End::Refused(failure) => {
                            return Err(Fatal::Configuration(refusal(&failure)));
                        }
                        End::Lost if shutdown.is_cancelled() => {
                            return Err(unsettled_at_the_end());
                        }
                        End::Lost => {
                            metrics.sessions_lost.inc();
                            health.down(Part::Broker, "the session was lost");
                        }
                    }
                    if since.elapsed() > GOOD_SESSION {
                        delays = retry::reconnect_delays();
                    }
                }
                Err(error @ OpenError::Refused(_)) if !known_to_the_broker => {
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

    /// Both lanes on one session, and the way to its queue kept open.
    async fn run_session(&self, session: &Session) -> End {
        tokio::select! {
            end = self.run_lanes(session) => end,
            never = session.keep_bound() => match never {},
        }
    }

    /// The end of one lane is the end of both.
    async fn run_lanes(&self, session: &Session) -> End {
        let notifications = until_end(&self.notifications, session);
        match &self.reports {
            None => notifications.await,
            Some(reports) => {
                let (first, second) = tokio::join!(notifications, until_end(reports, session));
                match (first, second) {
                    (End::Refused(failure), _) | (_, End::Refused(failure)) => {
                        End::Refused(failure)
                    }
                    (End::Lost, _) | (_, End::Lost) => End::Lost,
                    (End::CutShort, _) | (_, End::CutShort) => End::CutShort,
                    (End::Drained, End::Drained) => End::Drained,
                }
            }
        }
    }
}

/// A line for whoever reads it. A reader that went away must not stop what is going on.
fn say(line: impl std::fmt::Display) {
    drop(writeln!(std::io::stdout(), "{line}"));
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
        return format!(
            "the store refuses us ({}): check MINIO_ACCESS_KEY_ID, MINIO_SECRET_ACCESS_KEY and the \
             clock",
            failure.detail
        );
    }
    failure.detail.clone()
}

async fn until_end<H: Handler>(worker: &Arc<Worker<H>>, session: &Session) -> End {
    let end = worker.run(session).await;
    if matches!(end, End::Lost | End::Refused(_)) {
        session.lost().cancel();
    }
    end
}
