//! Builds the daemon from its configuration and runs it: admin server, workers, broker sessions.

mod audit;
mod check;
mod desk;
mod explain;
mod progress;
mod quarantine;
mod receipts;
mod redrive;
mod surge;
mod sweep;
mod verify;
mod workers;

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::audit::{Audit, Listed, Target, audit};
pub use self::check::{StoreKind, check, healthcheck};
pub use self::explain::{Found, ObjectName, Question, Reason, explain};
pub use self::quarantine::{CopyName, Matching, Quarantine, Restore, Which, quarantine};
pub use self::receipts::{new_receipt_key, public_receipt_key};
pub use self::redrive::{Redrive, redrive};
pub use self::surge::{Judgement, surge_decide, surge_list};
pub use self::sweep::{Request, Select, sweep, sweep_cancel, sweep_status};
pub use self::verify::{Address, Verify, verify};
use self::workers::Workers;
use crate::admin::{self, Shown};
use crate::config::{Loaded, Settings};
use crate::health::Health;
use crate::intake::{self, Intake};
use crate::metrics::Metrics;
use crate::overview::Overview;
use crate::policy::{Policy, RuleProblems};
use crate::trace::{self, Sending, Tracer};

/// sysexits.h: `EX_CONFIG`.
pub const BAD_CONFIGURATION: u8 = 78;
/// For arguments that do not go together, as the command line's own.
const BAD_ARGUMENTS: u8 = 2;

/// What the parts of one daemon share.
struct Daemon {
    settings: Settings,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    overview: Arc<Overview>,
    tracer: Tracer,
    spans: Sending,
    shutdown: CancellationToken,
}

/// Why the daemon ends other than by being asked to.
#[derive(Debug)]
enum Fatal {
    /// These settings cannot work.
    Configuration(String),
    /// Anything else.
    Other(String),
}

/// Runs the daemon until `shutdown` is cancelled. An error is logged as one line; the exit code is 0
/// after a drain, 78 for a configuration that cannot work, 1 for anything else.
pub async fn run(loaded: Loaded, shutdown: CancellationToken) -> ExitCode {
    let settings: Vec<_> = loaded.effective.iter().map(|(name, v)| format!("{name}={v}")).collect();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "starting with {}", settings.join(" "));
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let settings = loaded.settings;
    let (tracer, spans) = match trace::start(settings.traces.as_ref(), &settings.trust) {
        Ok(started) => started,
        Err(error) => {
            tracing::error!("the client for OTEL_EXPORTER_OTLP_ENDPOINT cannot be set up: {error}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    let daemon = Daemon {
        settings,
        health: Arc::default(),
        metrics: Arc::default(),
        overview: Arc::default(),
        tracer,
        spans,
        shutdown,
    };
    match daemon.serve().await {
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

impl Daemon {
    async fn serve(self) -> Result<(), Fatal> {
        let address = self.settings.health_addr;
        let listener = admin::listen(address).map_err(|error| {
            Fatal::Other(format!("HEALTH_ADDR {address} cannot be used: {error}"))
        })?;
        let admin_stop = CancellationToken::new();
        // It shares the runtime's threads: nothing in the work blocks one for long.
        let admin = tokio::spawn(admin::serve(
            listener,
            Arc::clone(&self.health),
            Arc::clone(&self.metrics),
            admin_stop.clone(),
        ));
        let status = self.status_page(&admin_stop)?;
        let workers = Workers::new(&self).await?;
        let intake = self.intake(&workers)?;
        // Boxed: the compiler looks only so deep into futures within futures.
        let ended = Box::pin(workers.supervise(&self)).await;
        // A fatal end was not asked for from outside.
        self.shutdown.cancel();
        if let Some(intake) = intake {
            drop(intake.await);
        }
        admin_stop.cancel();
        drop(admin.await);
        if let Some(status) = status {
            drop(status.await);
        }
        self.spans.finish(workers.grace_left()).await;
        ended
    }

    /// Starts the status page, where there is one. It stops with the admin server.
    fn status_page(&self, stop: &CancellationToken) -> Result<Option<JoinHandle<()>>, Fatal> {
        let Some(address) = self.settings.status_addr else { return Ok(None) };
        let listener = admin::status::listen(address).map_err(|error| {
            Fatal::Other(format!(
                "STATUS_ADDR {address} cannot be used: {error}; give each daemon of a host its own, \
                 or leave it empty"
            ))
        })?;
        // The port may have been left to the system.
        let address = listener.local_addr().unwrap_or(address);
        tracing::info!("the status page is at http://{address}/");
        let shown = Shown {
            health: Arc::clone(&self.health),
            metrics: Arc::clone(&self.metrics),
            overview: Arc::clone(&self.overview),
            quarantine: self.settings.policy.quarantine_bucket.clone(),
            stopping: self.shutdown.clone(),
        };
        Ok(Some(tokio::spawn(admin::status::serve(listener, shown, stop.clone()))))
    }

    /// Starts the intake, where there is one. It stops with the daemon.
    fn intake(&self, workers: &Workers) -> Result<Option<JoinHandle<()>>, Fatal> {
        let ended = workers.intake_ended().clone();
        let Some(settings) = &self.settings.intake else {
            ended.cancel();
            return Ok(None);
        };
        let listener = Intake::listen(settings).map_err(|error| {
            Fatal::Other(format!("INTAKE_ADDR {} cannot be used: {error}", settings.address))
        })?;
        let scheme = if settings.tls.is_some() { "https" } else { "http" };
        // The port may have been left to the system.
        let address = listener.local_addr().unwrap_or(settings.address);
        tracing::info!("the intake takes webhooks at {scheme}://{address}{}", intake::PATH);
        let intake = Intake::new(settings.clone(), workers.to_broker(), Arc::clone(&self.metrics));
        let stop = self.shutdown.clone();
        Ok(Some(tokio::spawn(async move {
            let _ended = ended.drop_guard();
            intake.serve(listener, stop).await;
        })))
    }
}

/// What decides on actions, with all that an operator should know about it.
///
/// # Errors
/// When the rules cannot be used.
fn policy(settings: &Settings) -> Result<(Policy, Vec<String>), RuleProblems> {
    let policy = Policy::new(settings.policy.clone(), settings.rules.as_ref())?;
    let mut warnings = policy.rules.warnings.clone();
    if policy.may_remove() && !settings.policy.delete_file {
        warnings
            .extend(settings.unreported_deletions("a rule with the action delete or quarantine"));
    }
    Ok((policy, warnings))
}

/// Prints a line. A reader that went away must not stop what is going on.
fn say(line: impl Display) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

/// Prints a line on standard error, as [`say`] does.
fn complain(line: impl Display) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// Says why a command ends, and with which exit code.
fn fail(why: impl Display, code: u8) -> ExitCode {
    complain(why);
    ExitCode::from(code)
}
