//! Proxies that stand between the daemon and a real service: they carry what is said, break it on
//! demand, and remember it.

mod deliveries;
mod engine;
pub(crate) mod frames;
mod http;
mod tcp;

pub use deliveries::Handed;
pub use engine::{Deed, EngineProxy, Scan};
pub use http::{Asked, Call, Fault, HttpProxy, Op, Said};
pub use tcp::TcpProxy;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;

/// Something that happens while a call is under way.
pub type Meanwhile = BoxFuture<'static, ()>;

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Rule<Call, Fate> = dyn Fn(&Call) -> Fate + Send + Sync;

/// What becomes of each call, as a test says; it may change its mind at any time.
struct Script<Call: ?Sized, Fate>(Mutex<Arc<Rule<Call, Fate>>>);

impl<Call: ?Sized, Fate> Script<Call, Fate> {
    fn new(script: impl Fn(&Call) -> Fate + Send + Sync + 'static) -> Self {
        Self(Mutex::new(Arc::new(script)))
    }

    fn replace(&self, script: impl Fn(&Call) -> Fate + Send + Sync + 'static) {
        *lock(&self.0) = Arc::new(script);
    }

    fn ask(&self, call: &Call) -> Fate {
        let script = Arc::clone(&lock(&self.0));
        script(call)
    }
}
