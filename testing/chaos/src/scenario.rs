//! One fault: its name, what it needs and expects, and how it strikes.

use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use peers::error::Result;

use crate::senders::Sending;
use crate::tally::Expected;
use crate::world::{Bucket, Engine, Setup, World};

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
    pub(super) fn new(
        name: &'static str,
        what: &'static str,
        run: fn(&mut World) -> LocalBoxFuture<'_, Result<()>>,
    ) -> Self {
        let setup = Setup {
            engine: Engine::Clamd,
            bucket: Bucket::Gateway,
            settings: Vec::new(),
            unread_stdout: false,
            sending: None,
        };
        Self { name, what, short: false, setup, expected: Expected::default(), run }
    }

    pub(super) fn short(mut self) -> Self {
        self.short = true;
        self
    }

    pub(super) fn rest(mut self) -> Self {
        self.setup.engine = Engine::ClamavRest;
        self
    }

    pub(super) fn bucket(mut self, bucket: Bucket) -> Self {
        self.setup.bucket = bucket;
        self
    }

    pub(super) fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.setup.settings.push((name, value));
        self
    }

    /// A store that announces nothing itself; its events are sent to the intakes.
    pub(super) fn senders(mut self, senders: usize, times: usize) -> Self {
        self.setup.sending = Some(Sending { senders, times });
        self.bucket(Bucket::Unversioned)
    }

    /// The store is made to fail, so that its client repeats requests.
    pub(super) fn store_fails(mut self) -> Self {
        self.expected.store_fails = true;
        self
    }

    /// What would write the line behind a deletion may die first, or never hear of it.
    pub(super) fn deletions_unsaid(mut self) -> Self {
        self.expected.deletions_unsaid = true;
        self
    }

    pub(super) fn recovers(mut self) -> Self {
        self.expected.recovers = true;
        self
    }
}

/// Waits.
pub(super) async fn sleep(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}
