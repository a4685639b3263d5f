//! The state of the systems that the daemon depends on, for `/readyz`, metrics and the log.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;
use strum::{Display, EnumIter, IntoEnumIterator, IntoStaticStr};

use crate::failure::Dependency;
use crate::hints;

/// A monitored dependency, as named in logs, metrics and `/readyz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Display, IntoStaticStr)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub(crate) enum Part {
    /// The RabbitMQ session.
    Broker,
    /// The object store.
    Store,
    /// The antivirus engine.
    Engine,
    /// This host's temp disk and file descriptors.
    Host,
    /// The receiver of reports. While it is down the daemon stays ready: scans go on, and reports
    /// wait in their queue.
    Webhook,
}

impl Part {
    /// The settings to check when it is down; `None` where the reason names them.
    const fn settings(self) -> Option<&'static str> {
        match self {
            Self::Broker => None,
            Self::Store => Some(hints::STORE),
            Self::Engine => Some(hints::ENGINE_ADDRESS),
            Self::Host => Some(hints::HOST_RESOURCES),
            Self::Webhook => Some(hints::WEBHOOK),
        }
    }

    const fn needed(self) -> bool {
        !matches!(self, Self::Webhook)
    }
}

impl From<Dependency> for Part {
    fn from(dependency: Dependency) -> Self {
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

impl State {
    /// Why it is not up; `None` if it is.
    fn reason(&self) -> Option<String> {
        match self {
            Self::Up => None,
            Self::Unknown => Some("not reached yet".to_owned()),
            Self::Down(reason) => Some(reason.clone()),
        }
    }
}

/// Something to know that makes the daemon no less ready, as named in `degraded` of `/readyz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, EnumIter, IntoStaticStr)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub(crate) enum Note {
    /// The engine's version has known holes or is out of support.
    EngineVersion,
    /// No canaries are sent.
    Canary,
    /// Uploads to a bucket are not announced, or not proved to be.
    Source,
    /// Deletions are held, or wait for the journal.
    Surge,
}

/// A part that is not up, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) part: Part,
    pub(crate) reason: String,
    /// The settings to check, where the reason does not name them.
    pub(crate) check: Option<&'static str>,
    /// Whether nothing is scanned without it.
    pub(crate) needed: bool,
    pub(crate) since: Instant,
}

/// A sweep that goes on, as far as this replica knows. It does where there was a journal when it
/// connected, or it needs one itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct RunningSweep {
    pub(crate) sweep: String,
    pub(crate) prefix: String,
    /// Objects whose standing was looked at, in the pass that goes on.
    pub(crate) listed: u64,
    /// Of these, or of those of earlier passes, announced to be scanned.
    pub(crate) announced: u64,
}

/// A work queue by what it carries, as named in logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub(crate) enum QueueKind {
    /// What the store announces.
    Notifications,
    /// Objects that a sweep announces.
    Backlog,
    /// The pages of sweeps.
    Sweeps,
    /// What is posted to the webhook.
    Reports,
}

/// The messages of one work queue, as the broker counted them last. What is in work is in none of
/// these numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueueDepth {
    pub(crate) queue: QueueKind,
    /// To be delivered; `None` while the queue is missing.
    pub(crate) ready: Option<u64>,
    /// In those of its retry queues that are there.
    pub(crate) retry: u64,
    /// In its dead-letter queue; `None` without one, and while it is missing.
    pub(crate) dead: Option<u64>,
    /// The names of those of its queues that somebody deleted.
    pub(crate) missing: Vec<String>,
}

/// The body of `/readyz`.
#[derive(Debug, Serialize)]
pub(crate) struct Readiness {
    /// Whether every needed part is up.
    pub(crate) ready: bool,
    /// The needed parts that are down, with the reason.
    pub(crate) missing: BTreeMap<&'static str, String>,
    /// Parts that are down without making the daemon unready, and each [`Note`].
    pub(crate) degraded: BTreeMap<&'static str, String>,
    /// Whether the engine reports encrypted archives and exceeded limits; `null` before the first
    /// self-test.
    pub(crate) limits_reported: Option<bool>,
    /// The sweeps that go on, by bucket.
    pub(crate) sweeps: BTreeMap<String, RunningSweep>,
}

/// The state of every [`Part`]. Logs each change once.
#[derive(Debug)]
pub(crate) struct Health {
    /// With the time of the last change between up and not up.
    parts: Mutex<BTreeMap<Part, (State, Instant)>>,
    limits_reported: Mutex<Option<bool>>,
    notes: Mutex<BTreeMap<Note, String>>,
    sweeps: Mutex<BTreeMap<String, RunningSweep>>,
    sweeps_due: Mutex<BTreeMap<String, i64>>,
    queues: Mutex<Vec<QueueDepth>>,
}

impl Default for Health {
    fn default() -> Self {
        let needed = [Part::Broker, Part::Store, Part::Engine];
        Self {
            parts: Mutex::new(
                needed.into_iter().map(|part| (part, (State::Unknown, Instant::now()))).collect(),
            ),
            limits_reported: Mutex::new(None),
            notes: Mutex::default(),
            sweeps: Mutex::default(),
            sweeps_due: Mutex::default(),
            queues: Mutex::default(),
        }
    }
}

impl Health {
    /// Marks `part` as up.
    pub(crate) fn up(&self, part: Part) {
        if self.replace(part, State::Up) {
            tracing::info!("{part} is up");
        }
    }

    /// Marks `part` as down: it does not answer, or answers wrongly.
    pub(crate) fn down(&self, part: Part, reason: impl std::fmt::Display) {
        let reason = reason.to_string();
        if self.replace(part, State::Down(reason.clone())) {
            let check = part.settings();
            tracing::warn!(reason, check, "{part} is down, trying again");
        }
    }

    /// Records whether the engine reported its limits in the last self-test.
    pub(crate) fn set_limits_reported(&self, reported: bool) {
        *self.limits_reported.lock().unwrap_or_else(PoisonError::into_inner) = Some(reported);
    }

    /// Records why the engine's version is outdated, or that it is not. Scans go on either way.
    pub(crate) fn set_engine_outdated(&self, why: Option<String>) {
        self.note(Note::EngineVersion, why);
    }

    /// Sets a note, or removes it.
    pub(crate) fn note(&self, note: Note, text: Option<String>) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        match text {
            Some(text) => drop(notes.insert(note, text)),
            None => drop(notes.remove(&note)),
        }
    }

    /// Sets what is known of the sweeps that go on.
    pub(crate) fn set_sweeps(&self, sweeps: BTreeMap<String, RunningSweep>) {
        *self.sweeps.lock().unwrap_or_else(PoisonError::into_inner) = sweeps;
    }

    /// The number of sweeps that go on.
    pub(crate) fn running_sweeps(&self) -> usize {
        self.sweeps.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Sets when the next sweep of each of `SWEEP_BUCKETS` is due, in milliseconds since 1970.
    pub(crate) fn set_sweeps_due(&self, due: BTreeMap<String, i64>) {
        *self.sweeps_due.lock().unwrap_or_else(PoisonError::into_inner) = due;
    }

    /// When the next sweep of each of `SWEEP_BUCKETS` is due, in milliseconds since 1970.
    pub(crate) fn sweeps_due(&self) -> BTreeMap<String, i64> {
        self.sweeps_due.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets what waits in the work queues; nothing while that is not known.
    pub(crate) fn set_queues(&self, queues: Vec<QueueDepth>) {
        *self.queues.lock().unwrap_or_else(PoisonError::into_inner) = queues;
    }

    /// What waits in the work queues, counted within the last seconds; empty while that is not known.
    pub(crate) fn queues(&self) -> Vec<QueueDepth> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every note, and whether it is there.
    pub(crate) fn notes(&self) -> Vec<(Note, bool)> {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        Note::iter().map(|note| (note, notes.contains_key(&note))).collect()
    }

    /// Every known part, and whether it is up.
    pub(crate) fn parts(&self) -> Vec<(Part, bool)> {
        self.lock().iter().map(|(part, (state, _))| (*part, *state == State::Up)).collect()
    }

    /// Every part that is not up.
    pub(crate) fn troubles(&self) -> Vec<Trouble> {
        let parts = self.lock();
        parts
            .iter()
            .filter_map(|(part, (state, since))| {
                let (reason, part, since) = (state.reason()?, *part, *since);
                Some(Trouble { part, reason, check: part.settings(), needed: part.needed(), since })
            })
            .collect()
    }

    /// The body of `/readyz`.
    pub(crate) fn readiness(&self) -> Readiness {
        let mut missing = BTreeMap::new();
        let mut degraded = BTreeMap::new();
        for Trouble { part, reason, needed, .. } in self.troubles() {
            if needed { &mut missing } else { &mut degraded }.insert(part.into_str(), reason);
        }
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        degraded.extend(notes.into_iter().map(|(note, text)| (note.into_str(), text)));
        Readiness {
            ready: missing.is_empty(),
            missing,
            degraded,
            limits_reported: *self.limits_reported.lock().unwrap_or_else(PoisonError::into_inner),
            sweeps: self.sweeps.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Stores the state; returns whether it changed between up and not up.
    fn replace(&self, part: Part, state: State) -> bool {
        let up = state == State::Up;
        let mut parts = self.lock();
        let before = parts.get(&part).cloned();
        let changed = match before {
            Some((State::Up, _)) => !up,
            Some((State::Down(_), _)) => up,
            Some((State::Unknown, _)) | None => true,
        };
        let since = before.filter(|_| !changed).map_or_else(Instant::now, |(_, since)| since);
        parts.insert(part, (state, since));
        changed
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Part, (State, Instant)>> {
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
