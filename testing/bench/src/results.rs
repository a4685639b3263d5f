//! What is written down: every run as it was, and the rows made of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use peers::error::{Context, Result};
use serde::Serialize;
use stack::place;

use crate::backlog::Backlog;
use crate::broker::Broker;
use crate::drain::{Drain, Paced};
use crate::limits::{Pace, Pair};
use crate::machine::Machine;
use crate::operations::Operations;
use crate::rig::Engine;
use crate::scale::Scale;
use crate::stats::{Percentiles, Spread, float};
use crate::targets::Target;
use crate::{plot, table};

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

impl Memory {
    pub(super) fn peak_mib(&self) -> f64 {
        float(self.drain.peak_kib) / 1024.0
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
            peak_mib: of(&|_, drain| float(drain.peak_kib) / 1024.0)?,
            deliver_to_ack: (|| Some([median(|t| t.p50)?, median(|t| t.p95)?, median(|t| t.p99)?]))(
            ),
        })
    }

    pub(super) fn row_of(&self, engine: Engine) -> Option<&Row> {
        self.rows.iter().find(|row| row.engine == engine)
    }
}

impl Results {
    /// Writes `target/bench/results.json`, and the tables and the plot beside it.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(super) fn write(&self) -> Result<PathBuf> {
        let folder = place::checkout().join("target/bench");
        std::fs::create_dir_all(&folder).context(folder.display())?;
        let put = |name: &str, text: Vec<u8>| {
            let file = folder.join(name);
            std::fs::write(&file, text).context(file.display()).map(|()| file)
        };
        put("results.md", table::markdown(self)?.into_bytes())?;
        if !self.cases.is_empty() {
            put("results.svg", plot::cases(&self.cases)?.into_bytes())?;
        }
        if let Some(backlog) = &self.backlog {
            put("backlog.svg", plot::backlog(backlog)?.into_bytes())?;
        }
        put("results.json", serde_json::to_vec_pretty(self).context("results")?)
    }
}
