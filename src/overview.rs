//! What an operator sees at a glance: the last hour, what is in work, the last results.
//! The rooms write it down here, and the status page shows it. Everything is bounded.

mod history;
mod in_work;
mod results;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

pub(crate) use self::history::{History, MINUTES, Minute};
pub(crate) use self::in_work::{Entry, InWork, Pace, Received, Step, Work};
pub(crate) use self::results::{ResultLine, Results};

/// A word of a closed set.
pub(crate) type Word = &'static str;

/// What is shown of this replica.
#[derive(Debug)]
pub(crate) struct Overview {
    started: SystemTime,
    pub(crate) in_work: InWork,
    pub(crate) results: Results,
    engine: Mutex<Option<EngineLine>>,
}

/// The engine that passed the last self-test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EngineLine {
    pub(crate) name: Word,
    /// As it says; `None` where it does not.
    pub(crate) version: Option<String>,
    pub(crate) database: Option<String>,
    pub(crate) database_date: Option<SystemTime>,
}

impl Default for Overview {
    fn default() -> Self {
        Self {
            started: SystemTime::now(),
            in_work: InWork::default(),
            results: Results::default(),
            engine: Mutex::default(),
        }
    }
}

impl Overview {
    /// Since when this process runs.
    pub(crate) fn started(&self) -> SystemTime {
        self.started
    }

    pub(crate) fn set_engine(&self, engine: EngineLine) {
        *lock(&self.engine) = Some(engine);
    }

    pub(crate) fn engine(&self) -> Option<EngineLine> {
        lock(&self.engine).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
