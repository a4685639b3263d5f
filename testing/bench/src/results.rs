//! What is written down: every run as it was, and the rows made of them. Data alone.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::backlog::Backlog;
use crate::broker::Broker;
use crate::drain::{Drain, Paced};
use crate::intake::Intake;
use crate::limits::{Pace, Pair};
use crate::machine::Machine;
use crate::operations::Operations;
use crate::rig::Engine;
use crate::stats::{Percentiles, Spread, u64_as_f64};

/// Everything.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    pub(super) machine: Machine,
    /// Runs of each case.
    pub(super) runs: u32,
    /// What one drain should take, in seconds.
    pub(super) seconds: u32,
    pub(super) targets: Vec<Target>,
    pub(super) start: Option<Start>,
    pub(super) operations: Option<Operations>,
    pub(super) broker: Option<Broker>,
    pub(super) intake: Option<Intake>,
    pub(super) cases: Vec<Case>,
    pub(super) paced: Vec<PacedRow>,
    pub(super) memory: Option<Memory>,
    pub(super) backlog: Option<Backlog>,
    pub(super) scale: Option<Scale>,
}

/// From the start of the process until `/readyz` answers 200, in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Start {
    pub(super) milliseconds: Vec<f64>,
    pub(super) spread: Spread,
}

/// One set of objects at one concurrency.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Case {
    pub(super) set: String,
    pub(super) slots: usize,
    /// Every object was reported as well.
    pub(super) reports: bool,
    pub(super) objects: usize,
    pub(super) bytes: u64,
    pub(super) runs: Vec<Run>,
    pub(super) limits: Option<LimitsRow>,
    pub(super) rows: Vec<Row>,
}

/// All of a case within the same minute.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Run {
    pub(super) clamd: Pace,
    pub(super) store: Pace,
    pub(super) pair: Pair,
    pub(super) drains: BTreeMap<Engine, Drain>,
}

/// What the services reach without the daemon.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct LimitsRow {
    pub(super) clamd: Spread,
    pub(super) store: Spread,
    /// Objects a second that both reach at the same time.
    pub(super) pair: Spread,
    pub(super) clamd_megabytes: Spread,
}

/// One engine's figures of a case.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) engine: Engine,
    pub(super) objects_per_second: Spread,
    pub(super) megabytes_per_second: Spread,
    /// Throughput as a part of what clamd alone reached in the same run.
    pub(super) to_clamd: Spread,
    /// The same of what clamd and the store reached together.
    pub(super) to_pair: Spread,
    pub(super) cpu_ms_per_object: Spread,
    pub(super) cpu_s_per_gib: Spread,
    /// The daemon's part of all processor time.
    pub(super) share: Spread,
    pub(super) peak_mib: Spread,
    /// Medians over the runs, in milliseconds.
    pub(super) deliver_to_ack: Option<[f64; 3]>,
}

/// Notifications that come at half of what the daemon manages.
#[derive(Debug, Clone, Serialize)]
pub(super) struct PacedRow {
    pub(super) set: String,
    pub(super) slots: usize,
    pub(super) engine: Engine,
    #[serde(flatten)]
    pub(super) paced: Paced,
}

/// The most memory of one daemon with large objects in many slots.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Memory {
    pub(super) set: String,
    pub(super) slots: usize,
    pub(super) drain: Drain,
}

/// What the daemon is meant to reach, and what it reached.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Target {
    pub(super) what: String,
    pub(super) wanted: String,
    pub(super) measured: String,
    pub(super) met: bool,
}

/// What was reckoned for larger deployments.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Scale {
    pub(super) costs: Vec<Cost>,
    pub(super) checks: Vec<Check>,
    pub(super) plans: Vec<Plan>,
}

/// Seconds of processor time for an object of a size.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Cost {
    pub(super) set: String,
    pub(super) bytes: f64,
    /// Of the daemon, clamd, the store and the broker.
    pub(super) of: [f64; 4],
    /// What the bench uses for it on the same machine.
    pub(super) harness: f64,
    /// What one object at a time takes beyond all this: nobody works, disks are waited for.
    pub(super) pause: f64,
}

/// A case of the bench, and what the simulation makes of it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Check {
    pub(super) set: String,
    pub(super) slots: usize,
    /// Objects a second.
    pub(super) measured: f64,
    pub(super) simulated: f64,
}

/// A load, what it needs, and how that would behave.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Plan {
    pub(super) load: String,
    /// Objects a second.
    pub(super) rate: f64,
    pub(super) megabytes_per_second: f64,
    /// Processors of this machine's kind, of the daemon, clamd and the store.
    pub(super) cores: [usize; 3],
    /// Queues, as one is one Erlang process.
    pub(super) queues: usize,
    pub(super) workers: usize,
    /// How busy each part is, in that order.
    pub(super) busy: Vec<f64>,
    /// From notification to acknowledgement, in milliseconds.
    pub(super) times: Percentiles,
    /// Their mean.
    pub(super) mean: f64,
    /// The rate at which the first of them is never idle, and which.
    pub(super) bends_at: f64,
    pub(super) bends: &'static str,
}

impl Memory {
    pub(super) fn peak_mib(&self) -> f64 {
        u64_as_f64(self.drain.peak_kib) / 1024.0
    }
}

impl Case {
    /// Makes the rows out of the runs.
    pub(super) fn sum_up(&mut self) {
        let of = |figure: &dyn Fn(&Run) -> f64| Spread::of(self.runs.iter().map(figure));
        self.limits = (|| {
            Some(LimitsRow {
                clamd: of(&|run| run.clamd.rate())?,
                store: of(&|run| run.store.rate())?,
                pair: of(&|run| run.pair.rate())?,
                clamd_megabytes: of(&|run| run.clamd.megabytes())?,
            })
        })();
        self.rows = Engine::ALL.into_iter().filter_map(|engine| self.row(engine)).collect();
    }

    fn row(&self, engine: Engine) -> Option<Row> {
        let runs: Vec<(&Run, &Drain)> =
            self.runs.iter().filter_map(|run| Some((run, run.drains.get(&engine)?))).collect();
        let of = |figure: &dyn Fn(&Run, &Drain) -> f64| {
            Spread::of(runs.iter().map(|(run, drain)| figure(run, drain)))
        };
        let median = |figure: fn(&Percentiles) -> f64| {
            let times = runs.iter().filter_map(|(_, drain)| drain.deliver_to_ack.as_ref());
            Spread::of(times.map(figure)).map(|spread| spread.median)
        };
        Some(Row {
            engine,
            objects_per_second: of(&|_, drain| drain.pace.rate())?,
            megabytes_per_second: of(&|_, drain| drain.pace.megabytes())?,
            to_clamd: of(&|run, drain| drain.pace.rate() / run.clamd.rate())?,
            to_pair: of(&|run, drain| drain.pace.rate() / run.pair.rate())?,
            cpu_ms_per_object: of(&|_, drain| drain.cpu_per_object())?,
            cpu_s_per_gib: of(&|_, drain| drain.cpu_per_gib())?,
            share: of(&|_, drain| drain.share())?,
            peak_mib: of(&|_, drain| u64_as_f64(drain.peak_kib) / 1024.0)?,
            deliver_to_ack: (|| Some([median(|t| t.p50)?, median(|t| t.p95)?, median(|t| t.p99)?]))(
            ),
        })
    }

    pub(super) fn row_of(&self, engine: Engine) -> Option<&Row> {
        self.rows.iter().find(|row| row.engine == engine)
    }
}
