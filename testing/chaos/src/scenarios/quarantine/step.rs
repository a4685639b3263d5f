//! The steps of a move, and how a scenario stops there.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use peers::proxy::{Call, Fault, Hook, Op, TcpProxy};
use tokio::sync::{oneshot, watch};

use crate::scenario::sleep;
use crate::world::World;

/// The end of the names of records.
pub(super) const RECORD: &str = ".json";

/// What is done when a replica stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The record is written.
    Recorded,
    /// The copy is made.
    Copied,
    /// The copy is read back.
    Proved,
    /// The report is at the broker, whose confirm does not come.
    Published,
    /// The report is confirmed, and the deletion is about to reach the store.
    Reported,
    /// The original is deleted.
    Deleted,
}

pub(super) const STEPS: [Step; 6] =
    [Step::Recorded, Step::Copied, Step::Proved, Step::Published, Step::Reported, Step::Deleted];

/// One request that was held back where a step ends.
pub(super) struct Held {
    pub(super) reached: oneshot::Receiver<()>,
    /// Ends when the client of the request is gone.
    pub(super) client: oneshot::Receiver<()>,
    pub(super) release: watch::Sender<bool>,
}

impl Step {
    /// Whether this request is the first one behind the step, or with `false` the last one of it.
    fn ends_at(self, call: &Call, source: &str, held: &str) -> Option<bool> {
        let in_source = call.path.starts_with(source) && !call.key.starts_with('.');
        let in_held = call.path.starts_with(held);
        let is_record = call.key.ends_with(RECORD);
        match (self, call.op) {
            (Self::Recorded, Op::Put) if in_held && is_record => Some(false),
            (Self::Copied, Op::Copy) if in_held => Some(false),
            (Self::Proved, Op::Get) if in_held && !is_record => Some(false),
            (Self::Reported, Op::Delete) if in_source => Some(true),
            (Self::Deleted, Op::Delete) if in_source => Some(false),
            _ => None,
        }
    }

    /// Holds the first request back that comes there.
    pub(super) fn hold(self, world: &World) -> Held {
        let (arrival, reached) = oneshot::channel();
        let (alive, client) = oneshot::channel();
        let (release, released) = watch::channel(false);
        let source = format!("/{}/", world.direct.bucket);
        let held = format!("/{}-held/", world.direct.bucket);
        let first = Mutex::new(Some((arrival, alive, released)));
        world.store.script(move |call| {
            let Some(before) = self.ends_at(call, &source, &held) else { return Fault::Pass };
            let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some((arrival, alive, mut released)) = first else { return Fault::Pass };
            let stop: Hook = Box::pin(async move {
                // An error means that nobody waits for it any more.
                arrival.send(()).unwrap_or(());
                drop(released.wait_for(|released| *released).await);
                drop(alive);
            });
            if before { Fault::Before(stop) } else { Fault::After(stop) }
        });
        Held { reached, client, release }
    }

    /// Has a broker's proxy forward nothing behind the report of a move.
    pub(super) fn silence(world: &World) {
        let first = Arc::new(Mutex::new(true));
        for broker in &world.brokers {
            let first = Arc::clone(&first);
            broker.silence_after(move |key, body| {
                let is_it = key.ends_with(".reports") && contains(body, b"\"quarantine\"");
                is_it && std::mem::take(&mut *first.lock().unwrap_or_else(PoisonError::into_inner))
            });
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Waits until a proxy to a broker is silent; its number.
pub(super) async fn silent(world: &World, limit: Duration) -> Option<usize> {
    let start = Instant::now();
    while start.elapsed() < limit {
        if let Some(which) = world.brokers.iter().position(TcpProxy::is_silent) {
            return Some(which);
        }
        sleep(0.02).await;
    }
    None
}
