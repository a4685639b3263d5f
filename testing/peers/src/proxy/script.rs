//! What a test says of the calls that pass, and may change at any time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;

/// Something that happens while a call is under way.
pub type Hook = BoxFuture<'static, ()>;

pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Rule<Call, Fate> = dyn Fn(&Call) -> Fate + Send + Sync;

/// What becomes of each call, as a test says; it may change its mind at any time.
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
