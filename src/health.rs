//! What the daemon knows about the systems it depends on, for `/readyz`, metrics and the log.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// A part of the world whose state is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The RabbitMQ session.
    Broker,
    /// The object store.
    Store,
    /// The antivirus engine.
    Engine,
    /// This host's temp disk and file descriptors.
    Host,
    /// The receiver of reports. Its being down never makes the daemon unready: scans go on and
    /// reports wait in their queue.
    Webhook,
}

impl Part {
    /// The name used in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Store => "store",
            Self::Engine => "engine",
            Self::Host => "host",
            Self::Webhook => "webhook",
        }
    }

    /// The settings to look at when it is down.
    const fn settings(self) -> &'static str {
        match self {
            Self::Broker => "RABBITMQ_ENDPOINT, RABBITMQ_PORT, RABBITMQ_TLS",
            Self::Store => "MINIO_SERVER_URL, TLS_CA_FILE",
            Self::Engine => "SCANNER, CLAMD_ENDPOINT, CLAMD_PORT",
            Self::Host => "TMPDIR, SPOOL_SIZE, the limit of open files",
            Self::Webhook => "PUBLISH_URL",
        }
    }

    const fn needed(self) -> bool {
        !matches!(self, Self::Webhook)
    }
}

impl From<crate::failure::Dependency> for Part {
    fn from(dependency: crate::failure::Dependency) -> Self {
        use crate::failure::Dependency;
        match dependency {
            Dependency::Store => Self::Store,
            Dependency::Engine => Self::Engine,
            Dependency::Webhook => Self::Webhook,
            Dependency::Host => Self::Host,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Unknown,
    Up,
    Down(String),
}

/// The body of `/readyz`.
#[derive(Debug, Serialize)]
pub struct Readiness {
    /// Every needed part is up.
    pub ready: bool,
    /// The needed parts that are not, with the reason.
    pub missing: BTreeMap<&'static str, String>,
    /// Parts that are down without making the daemon unready, and `engine_version` where that
    /// should not be used any more.
    pub degraded: BTreeMap<&'static str, String>,
    /// Whether the engine reports encrypted archives and exceeded limits; `null` before the first
    /// self-test.
    pub limits_reported: Option<bool>,
}

/// The state of every [`Part`]. Each change is logged once, here.
#[derive(Debug)]
pub struct Health {
    parts: Mutex<BTreeMap<Part, State>>,
    limits_reported: Mutex<Option<bool>>,
    engine_outdated: Mutex<Option<String>>,
}

impl Default for Health {
    fn default() -> Self {
        let needed = [Part::Broker, Part::Store, Part::Engine];
        Self {
            parts: Mutex::new(needed.into_iter().map(|part| (part, State::Unknown)).collect()),
            limits_reported: Mutex::new(None),
            engine_outdated: Mutex::new(None),
        }
    }
}

impl Health {
    /// `part` answered.
    pub fn up(&self, part: Part) {
        if self.replace(part, State::Up) {
            tracing::info!("{} is up", part.as_str());
        }
    }

    /// `part` does not answer, or not as it should.
    pub fn down(&self, part: Part, reason: impl std::fmt::Display) {
        let reason = reason.to_string();
        if self.replace(part, State::Down(reason.clone())) {
            let check = part.settings();
            tracing::warn!(reason, check, "{} is down, trying again", part.as_str());
        }
    }

    /// Whether the engine told of its limits in the last self-test.
    pub fn set_limits_reported(&self, reported: bool) {
        *self.limits_reported.lock().unwrap_or_else(PoisonError::into_inner) = Some(reported);
    }

    /// Why the engine's version should not be used any more; it is, all the same.
    pub fn set_engine_outdated(&self, why: Option<String>) {
        *self.engine_outdated.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Whether `part` was up when last seen.
    #[must_use]
    pub fn is_up(&self, part: Part) -> bool {
        self.lock().get(&part) == Some(&State::Up)
    }

    /// Every part seen so far and whether it is up.
    #[must_use]
    pub fn parts(&self) -> Vec<(Part, bool)> {
        self.lock().iter().map(|(part, state)| (*part, *state == State::Up)).collect()
    }

    /// What `/readyz` says.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let mut missing = BTreeMap::new();
        let mut degraded = BTreeMap::new();
        for (part, state) in self.lock().iter() {
            let reason = match state {
                State::Up => continue,
                State::Unknown => "not reached yet".to_owned(),
                State::Down(reason) => reason.clone(),
            };
            if part.needed() { &mut missing } else { &mut degraded }.insert(part.as_str(), reason);
        }
        let outdated = self.engine_outdated.lock().unwrap_or_else(PoisonError::into_inner).clone();
        degraded.extend(outdated.map(|why| ("engine_version", why)));
        Readiness {
            ready: missing.is_empty(),
            missing,
            degraded,
            limits_reported: *self.limits_reported.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Stores the state and tells whether the part went up or down by it.
    fn replace(&self, part: Part, state: State) -> bool {
        let up = state == State::Up;
        match self.lock().insert(part, state) {
            Some(State::Up) => !up,
            Some(State::Down(_)) => up,
            Some(State::Unknown) | None => true,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Part, State>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_needs_broker_store_and_engine_and_names_what_is_missing() {
        let health = Health::default();
        health.up(Part::Broker);
        health.up(Part::Store);
        let readiness = health.readiness();
        assert!(!readiness.ready);
        assert_eq!(readiness.missing.keys().copied().collect::<Vec<_>>(), ["engine"]);
        health.up(Part::Engine);
        assert!(health.readiness().ready);
    }

    #[test]
    fn a_dead_webhook_degrades_without_making_the_daemon_unready() {
        let health = Health::default();
        for part in [Part::Broker, Part::Store, Part::Engine] {
            health.up(part);
        }
        health.down(Part::Webhook, "connection refused");
        let readiness = health.readiness();
        assert!(readiness.ready);
        assert_eq!(readiness.degraded["webhook"], "connection refused");
    }

    #[test]
    fn an_outdated_engine_degrades_until_it_is_replaced() {
        let health = Health::default();
        for part in [Part::Broker, Part::Store, Part::Engine] {
            health.up(part);
        }
        health.set_engine_outdated(Some("ClamAV 1.4.3 has holes".to_owned()));
        let readiness = health.readiness();
        assert!(readiness.ready);
        assert_eq!(readiness.degraded["engine_version"], "ClamAV 1.4.3 has holes");
        health.set_engine_outdated(None);
        assert!(health.readiness().degraded.is_empty());
    }
}
