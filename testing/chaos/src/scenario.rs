//! One fault: its name, its needs, what to expect, and the code that injects it.

use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use peers::error::Result;

use crate::senders::Sending;
use crate::tally::Expected;
use crate::world::{Bucket, Engine, Setup, World};

/// One fault, and the code that injects it.
pub(super) struct Scenario {
    /// In the table, and for `ONLY=`.
    pub(super) name: &'static str,
    /// A description of one line.
    pub(super) what: &'static str,
    /// Whether it is in the short selection.
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
        let (setup, expected) = (Setup::default(), Expected::default());
        Self { name, what, short: false, setup, expected, run }
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

    /// The store fails, so that its client repeats requests.
    pub(super) fn store_fails(mut self) -> Self {
        self.expected.store_fails = true;
        self
    }

    /// The process that would log a deletion may be killed first, or may never get the answer.
    pub(super) fn deletions_unsaid(mut self) -> Self {
        self.expected.deletions_unsaid = true;
        self
    }

    /// Sources are broken, and the canary has to say so.
    pub(super) fn alarms(mut self) -> Self {
        self.expected.alarms = true;
        self
    }

    /// Objects are there that nothing announced, so canaries would only raise alarms.
    pub(super) fn sweeps(mut self) -> Self {
        self.setup.canary = false;
        self.expected.swept = true;
        self
    }

    /// Infected objects are moved to a quarantine bucket, and accounted for there.
    pub(super) fn quarantine(mut self) -> Self {
        self.setup.quarantine = true;
        self
    }

    /// The engine takes objects as large as it can.
    pub(super) fn takes_large(mut self) -> Self {
        self.setup.takes_large = true;
        self
    }

    /// Events come so late that canaries would only raise alarms.
    pub(super) fn without_canary(mut self) -> Self {
        self.setup.canary = false;
        self
    }

    pub(super) fn recovers(mut self) -> Self {
        self.expected.recovers = true;
        self
    }
}

pub(super) async fn sleep(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}
