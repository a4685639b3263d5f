//! Looks at both replicas and the queues all the time, and says each minute how far the run is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use peers::error::Result;
use stack::{Stack, say};
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

use super::series::{EVERY, Sample, Series};
use crate::ledger::Ledger;
use crate::world::World;

/// Looks until it is dropped.
pub(super) struct Watch {
    pub(super) start: Instant,
    seen: Arc<Mutex<Seen>>,
    watching: AbortHandle,
}

#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) series: Vec<Series>,
    /// The most messages that were waiting in the queues of notifications.
    pub(super) longest_queue: u32,
    /// Uploads that were accounted for and forgotten.
    pub(super) accounted: usize,
}

impl Watch {
    /// Watches a run that lasts for `length`.
    pub(super) fn start(world: &World, length: Duration) -> Self {
        let (start, seen) = (Instant::now(), Arc::<Mutex<Seen>>::default());
        let eyes = Eyes {
            stack: world.stack.clone(),
            queues: world.queues(""),
            ledger: world.ledger.clone(),
            seen: Arc::clone(&seen),
        };
        let watching = tokio::spawn(eyes.watch(start, length)).abort_handle();
        Self { start, seen, watching }
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// A replica has been started: its samples are a new series.
    pub(super) fn begins(&self, replica: &'static str, pid: u32) {
        self.seen().series.push(Series { replica, pid, samples: Vec::new() });
    }

    /// Prints a line with the time since the start.
    pub(super) fn say(&self, text: &str) {
        say!("[soak] {}  {text}", clock(self.start.elapsed()));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As `1:02:03`.
pub(super) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// What is looked at.
struct Eyes {
    stack: Stack,
    /// Of notifications.
    queues: Vec<String>,
    ledger: Ledger,
    seen: Arc<Mutex<Seen>>,
}

impl Eyes {
    async fn watch(self, start: Instant, length: Duration) {
        let mut ticks = tokio::time::interval(Duration::from_secs(EVERY));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        for tick in 1.. {
            ticks.tick().await;
            // The broker may be down just now.
            let waiting = self.waiting().await.ok();
            let at = start.elapsed();
            let uses = self.sample(at, waiting);
            if tick % (60 / EVERY) == 0 {
                let left = length.saturating_sub(at).as_secs().div_ceil(60);
                let objects = lock(&self.seen).accounted + self.ledger.count();
                let waiting = waiting.map_or("?".to_owned(), |count| count.to_string());
                let at = clock(at);
                say!("[soak] {at}  {left} min left; {objects} objects, {waiting} queued; {uses}");
            }
        }
    }

    /// Adds a sample to each series that goes on. Returns them for people.
    fn sample(&self, at: Duration, waiting: Option<u32>) -> String {
        let mut seen = lock(&self.seen);
        seen.longest_queue = seen.longest_queue.max(waiting.unwrap_or_default());
        let mut uses = Vec::new();
        for series in &mut seen.series {
            // The process of a series may have ended.
            let Some(sample) = Sample::of(series.pid, at.as_secs()) else { continue };
            series.samples.push(sample);
            let Sample { rss_kib, descriptors, threads, .. } = sample;
            let rss = rss_kib / 1024;
            uses.push(format!("{} {rss} MiB {descriptors} fds {threads} threads", series.replica));
        }
        if uses.is_empty() { "no replica runs".to_owned() } else { uses.join("; ") }
    }

    /// The messages in the queues that nobody works on.
    async fn waiting(&self) -> Result<u32> {
        let amqp = self.stack.amqp().await?;
        let mut sum = 0;
        for queue in &self.queues {
            sum += amqp.count(queue).await?.unwrap_or_default();
        }
        Ok(sum)
    }
}
