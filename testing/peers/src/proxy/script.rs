//! A test's decisions about the calls that pass through a proxy.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;

/// Code of a test that runs while a call is in progress.
pub type Hook = BoxFuture<'static, ()>;

pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Rule<Call, Fate> = dyn Fn(&Call) -> Fate + Send + Sync;

/// Decides what happens to each call. The test can replace it at any time.
pub(super) struct Script<Call: ?Sized, Fate>(Mutex<Arc<Rule<Call, Fate>>>);

impl<Call: ?Sized, Fate> Script<Call, Fate> {
    pub(super) fn new(script: impl Fn(&Call) -> Fate + Send + Sync + 'static) -> Self {
        Self(Mutex::new(Arc::new(script)))
    }

    pub(super) fn replace(&self, script: impl Fn(&Call) -> Fate + Send + Sync + 'static) {
        *lock(&self.0) = Arc::new(script);
    }

    pub(super) fn ask(&self, call: &Call) -> Fate {
        let script = Arc::clone(&lock(&self.0));
        script(call)
    }
}
