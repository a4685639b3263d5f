//! The data of a measurement: every run, and the rows made from the runs.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::audit::Audit;
use crate::backlog::Backlog;
use crate::broker::Broker;
use crate::database::Databases;
use crate::drain::{Drain, Paced};
use crate::floor::Floor;
use crate::growth::Growth;
use crate::intake::Intake;
use crate::limits::{Pace, Pair};
use crate::machine::Machine;
use crate::operations::Operations;
use crate::others::Peers;
use crate::rig::Engine;
use crate::stats::{Percentiles, Spread, u64_as_f64};
use crate::sweep::Sweep;

/// All results.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    pub(super) machine: Machine,
    /// Runs of each case.
    pub(super) runs: u32,
    /// Intended duration of one drain, in seconds.
    pub(super) seconds: u32,
    pub(super) targets: Vec<Target>,
    pub(super) start: Option<Start>,
    pub(super) operations: Option<Operations>,
    pub(super) broker: Option<Broker>,
    pub(super) intake: Option<Intake>,
    pub(super) audit: Option<Audit>,
    pub(super) floor: Option<Floor>,
    pub(super) peers: Option<Peers>,
    pub(super) cases: Vec<Case>,
    pub(super) paced: Vec<PacedRow>,
    pub(super) memory: Option<Memory>,
    pub(super) growth: Option<Growth>,
    pub(super) databases: Option<Databases>,
    pub(super) backlog: Option<Backlog>,
    pub(super) sweep: Option<Sweep>,
    pub(super) scale: Option<Scale>,
}

/// From the start of the process until `/readyz` answers 200, in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Start {
    pub(super) milliseconds: Vec<f64>,
    pub(super) spread: Spread,
}

/// One set of objects with one concurrency.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Case {
    pub(super) set: String,
    pub(super) slots: usize,
    /// Whether every object was reported as well.
    pub(super) reports: bool,
    pub(super) objects: usize,
    pub(super) bytes: u64,
    pub(super) runs: Vec<Run>,
    pub(super) limits: Option<LimitsRow>,
    pub(super) rows: Vec<Row>,
}

/// Everything of a case that was measured within the same minute.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Run {
    pub(super) clamd: Pace,
    pub(super) store: Pace,
    pub(super) pair: Pair,
    pub(super) drains: BTreeMap<Engine, Drain>,
}

/// The throughput of the services without the daemon.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct LimitsRow {
    pub(super) clamd: Spread,
    pub(super) store: Spread,
    /// Objects per second that both reach at the same time.
    pub(super) pair: Spread,
    pub(super) clamd_megabytes: Spread,
}

/// The figures of a case with one engine.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) engine: Engine,
    pub(super) objects_per_second: Spread,
    pub(super) megabytes_per_second: Spread,
    /// Throughput relative to that of clamd alone in the same run.
    pub(super) to_clamd: Spread,
    /// Throughput relative to that of clamd and the store together.
    pub(super) to_pair: Spread,
    pub(super) cpu_ms_per_object: Spread,
    pub(super) cpu_s_per_gib: Spread,
    /// The daemon's share of all processor time.
    pub(super) share: Spread,
    pub(super) peak_mib: Spread,
    /// Medians over the runs, in milliseconds.
    pub(super) deliver_to_ack: Option<[f64; 3]>,
}

/// Notifications at half of the daemon's highest rate.
#[derive(Debug, Clone, Serialize)]
pub(super) struct PacedRow {
    pub(super) set: String,
    pub(super) slots: usize,
    pub(super) engine: Engine,
    #[serde(flatten)]
    pub(super) paced: Paced,
}

/// Peak memory of one daemon with large objects in many slots.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Memory {
    pub(super) set: String,
    pub(super) slots: usize,
    pub(super) drain: Drain,
}

/// A target for the daemon, and the measured value.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Target {
    pub(super) what: String,
    pub(super) wanted: String,
    pub(super) measured: String,
    pub(super) met: bool,
}

/// Estimates for larger deployments.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Scale {
    pub(super) costs: Vec<Cost>,
    pub(super) checks: Vec<Check>,
    pub(super) plans: Vec<Plan>,
}

/// Processor time for an object of one size, in seconds.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Cost {
    pub(super) set: String,
    pub(super) bytes: f64,
    /// Of the daemon, clamd, the store and the broker.
    pub(super) of: [f64; 4],
    /// Of the bench itself on the same machine.
    pub(super) harness: f64,
    /// Time of one object alone in which no processor works, such as waits for disks.
    pub(super) pause: f64,
}

/// A case of the bench, and the result of simulating it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Check {
    pub(super) set: String,
    pub(super) slots: usize,
    /// Objects per second.
    pub(super) measured: f64,
    pub(super) simulated: f64,
}

/// A load, what it needs, and the simulated behaviour.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Plan {
    pub(super) load: String,
    /// Objects per second.
    pub(super) rate: f64,
    pub(super) megabytes_per_second: f64,
    /// Processors like those of this machine, for the daemon, clamd and the store.
    pub(super) cores: [usize; 3],
    /// Number of queues: each is one Erlang process.
    pub(super) queues: usize,
    pub(super) workers: usize,
    /// Utilisation of each part, in the order daemon, clamd, store, broker.
    pub(super) busy: Vec<f64>,
    /// From notification to acknowledgement, in milliseconds.
    pub(super) times: Percentiles,
    /// The mean of these times.
    pub(super) mean: f64,
    /// The rate at which the first part is fully used, and the name of that part.
    pub(super) bends_at: f64,
    pub(super) bends: &'static str,
}

impl Memory {
    pub(super) fn peak_mib(&self) -> f64 {
        u64_as_f64(self.drain.peak_kib) / 1024.0
    }
}

impl Case {
    /// Makes the rows from the runs.
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
