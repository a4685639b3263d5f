//! The faults, in the order of what they strike.

mod answers;
mod broker;
mod engine;
mod host;
mod messages;
mod overwrites;
mod processes;
mod store;
mod uploads;
mod webhook;

use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use peers::error::Result;

use crate::account::Expected;
use crate::world::{Bucket, Engine, Setup, World};

/// Every scenario handles at least as many objects.
pub(super) const OBJECTS: usize = 300;

/// One fault, and how it strikes.
pub(super) struct Scenario {
    /// For the table and for `ONLY=`.
    pub(super) name: &'static str,
    /// In one line.
    pub(super) what: &'static str,
    /// Part of the short selection.
    pub(super) short: bool,
    pub(super) setup: Setup,
    pub(super) expected: Expected,
    pub(super) run: fn(&mut World) -> LocalBoxFuture<'_, Result<()>>,
}

impl Scenario {
    fn new(
        name: &'static str,
        what: &'static str,
        run: fn(&mut World) -> LocalBoxFuture<'_, Result<()>>,
    ) -> Self {
        let setup = Setup {
            engine: Engine::Clamd,
            bucket: Bucket::Gateway,
            settings: Vec::new(),
            unread_stdout: false,
        };
        Self { name, what, short: false, setup, expected: Expected::default(), run }
    }

    fn short(mut self) -> Self {
        self.short = true;
        self
    }

    fn rest(mut self) -> Self {
        self.setup.engine = Engine::ClamavRest;
        self
    }

    fn bucket(mut self, bucket: Bucket) -> Self {
        self.setup.bucket = bucket;
        self
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.setup.settings.push((name, value));
        self
    }

    /// The store is made to fail, so that its client repeats requests.
    fn store_fails(mut self) -> Self {
        self.expected.store_fails = true;
        self
    }

    /// What would write the line behind a deletion may die first, or never hear of it.
    fn deletions_unsaid(mut self) -> Self {
        self.expected.deletions_unsaid = true;
        self
    }

    fn recovers(mut self) -> Self {
        self.expected.recovers = true;
        self
    }
}

/// All of them.
pub(super) fn all() -> Vec<Scenario> {
    let mut all = vec![Scenario::new("calm", "nothing fails; through clamav-rest", calm).rest()];
    all.extend(processes::all());
    all.extend(broker::all());
    all.extend(engine::all());
    all.extend(store::all());
    all.extend(answers::all());
    all.extend(overwrites::all());
    all.extend(uploads::all());
    all.extend(webhook::all());
    all.extend(host::all());
    all.extend(messages::all());
    all
}

fn calm(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async { joined(world.ledger.feed(OBJECTS, Duration::from_secs(3))).await })
}

/// The end of something that was started on the side.
async fn joined(task: tokio::task::JoinHandle<Result<()>>) -> Result<()> {
    task.await.map_err(|error| peers::error::Error::new(error.to_string()))?
}

async fn sleep(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}
