//! The engine in use: tested on demand, and what is new about it is logged and measured.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::{Engine, Scanner, Version};
use crate::config::ScannerSettings;
use crate::failure::{Failure, Reason, Stage};
use crate::health::{Health, Part};
use crate::hints;
use crate::metrics::Metrics;
use crate::overview::{EngineLine, Overview};

/// How often an old database is warned about.
const AGE_WARNING_INTERVAL: Duration = Duration::from_hours(24);

/// The engine that passed the last self-test.
#[derive(Debug)]
pub(crate) struct EngineWatch {
    scanner: Scanner,
    strict_limits: bool,
    database_max_age: Option<Duration>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    overview: Arc<Overview>,
    current: Mutex<Option<Arc<Engine>>>,
    /// What was logged last: the version, and whether limits are reported.
    described: Mutex<Option<(Version, bool)>>,
    warned_of_age: Mutex<Option<Instant>>,
}

impl EngineWatch {
    /// There is no current engine before the first [`check`](Self::check).
    pub(crate) fn new(
        scanner: Scanner,
        settings: &ScannerSettings,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
        overview: Arc<Overview>,
    ) -> Self {
        Self {
            scanner,
            strict_limits: settings.strict_limits,
            database_max_age: settings.database_max_age,
            health,
            metrics,
            overview,
            current: Mutex::default(),
            described: Mutex::default(),
            warned_of_age: Mutex::default(),
        }
    }

    /// The engine that passed the last self-test; `None` before the first one is passed.
    pub(crate) fn current(&self) -> Option<Arc<Engine>> {
        lock(&self.current).clone()
    }

    /// Runs the self-test within `timeout`. An engine that passes becomes the current one and is
    /// marked up in [`Health`]; one that fails changes neither.
    ///
    /// # Errors
    /// Those of [`Scanner::open`], and a permanent one for an engine that hides its limits under
    /// `STRICT_LIMITS`.
    pub(crate) async fn check(&self, timeout: Duration) -> Result<(), Failure> {
        let engine = self.scanner.open(timeout).await?;
        self.describe(&engine);
        if self.strict_limits && !engine.limits_reported() {
            let detail = format!(
                "STRICT_LIMITS=true, and the engine calls encrypted or over-limit files clean: \
                 set {}",
                hints::ENGINE_ALERTS
            );
            return Err(Failure::permanent(Stage::Scan, Reason::LimitsHidden, detail));
        }
        *lock(&self.current) = Some(Arc::new(engine));
        self.health.up(Part::Engine);
        Ok(())
    }

    /// Measures the engine's state, and logs what differs from the last time.
    fn describe(&self, engine: &Engine) {
        let (version, limits_reported) = (engine.version(), engine.limits_reported());
        let outdated = version
            .outdated()
            .map(|why| format!("ClamAV {} {why}", version.engine.as_deref().unwrap_or_default()));
        self.health.set_limits_reported(limits_reported);
        self.health.set_engine_outdated(outdated.clone());
        self.metrics.limits_reported.set(i64::from(limits_reported));
        self.metrics.engine_outdated.set(i64::from(outdated.is_some()));
        self.watch_age(&version);
        self.overview.set_engine(EngineLine {
            name: engine.name(),
            version: version.engine.clone(),
            database: version.database.clone(),
            database_date: version.database_date.map(SystemTime::from),
        });
        let described = Some((version.clone(), limits_reported));
        let before = std::mem::replace(&mut *lock(&self.described), described.clone());
        if before == described {
            return;
        }
        tracing::info!(
            engine = engine.name(),
            version = version.engine.as_deref().unwrap_or("unknown"),
            database = version.database.as_deref().unwrap_or("unknown"),
            "the engine finds the EICAR test file, and nothing in a harmless text"
        );
        // A new database alone does not repeat the warning.
        let is_known = before.is_some_and(|(before, _)| before.engine == version.engine);
        if let Some(outdated) = outdated
            && !is_known
        {
            tracing::warn!("{outdated}");
        }
        if !limits_reported {
            tracing::warn!(
                "the engine calls files CLEAN that it did not look into (encrypted, or beyond its \
                 limits): set {}, or STRICT_LIMITS=true here to refuse such an engine",
                hints::ENGINE_ALERTS
            );
        }
        if version.engine.is_some() && version.database.is_none() {
            tracing::warn!(
                "the engine has no official virus database: it knows only local signatures"
            );
        }
    }

    /// Measures the age of the database, and warns once a day while it is too old.
    fn watch_age(&self, version: &Version) {
        let date = version.database_date.map(SystemTime::from);
        let since_1970 = date.and_then(|date| date.duration_since(SystemTime::UNIX_EPOCH).ok());
        self.metrics.database_timestamp.set(since_1970.unwrap_or_default().as_secs_f64());
        let age = date.and_then(|date| SystemTime::now().duration_since(date).ok());
        if let (Some(age), Some(max)) = (age, self.database_max_age)
            && age > max
        {
            let mut warned = lock(&self.warned_of_age);
            if warned.is_none_or(|at| at.elapsed() > AGE_WARNING_INTERVAL) {
                let days = age.as_secs() / 86_400;
                tracing::warn!(days, "the virus database is old: is freshclam running?");
                *warned = Some(Instant::now());
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
