//! The throughput of the daemon, compared with what clamd and the store reach without it.
//!
//! Objects and notifications exist before the daemon starts; then one daemon drains the queue. The
//! limits are measured alternately with it, within the same minute and with the same objects: clamd
//! alone, the store alone, and both at the same time. Only figures of the same run are compared.
//!
//! - `sets`: the objects;
//! - `rig`: the daemon and the services it works with; `tap`: the traffic between it and the
//!   broker;
//! - `drain`: one run of the daemon; `limits`: the same without it; `floor`: the least that any scanner
//!   has to do, over one `connection` a slot;
//! - `operations`, `broker`, `intake`, `audit`, `memory`, `backlog`: measured only once;
//! - `sweep`: live objects beside a sweep; `others`: other scanners beside the daemon;
//! - `instructions`: counted instead of timed, for comparison with other commits;
//! - `usage`, `stats`, `machine`: processor time and memory, medians, the machine;
//! - `simulation`, `scale`: estimates for larger deployments;
//! - `results`: the results as data; `targets`: the wanted results; `report`: tables and plots.
#![allow(clippy::disallowed_methods, reason = "the list in clippy.toml is about the daemon")]

mod audit;
mod backlog;
mod broker;
mod connection;
mod database;
mod drain;
mod floor;
mod growth;
mod instructions;
mod intake;
mod limits;
mod machine;
mod memory;
mod operations;
mod others;
mod report;
mod results;
mod rig;
mod scale;
mod sets;
mod simulation;
mod stats;
mod sweep;
mod tap;
mod targets;
mod usage;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use peers::error::{Context, Error, Result};
use stack::{Stack, say};

use self::drain::{Check, Drain};
use self::limits::Limits;
use self::machine::Machine;
use self::report::{number, spread};
use self::results::{Case, PacedRow, Results, Run, Start};
use self::rig::{Engine, Rig, Settings};
use self::sets::{GIB, Object, SETS, Set, USUAL_SLOTS};
use self::stats::{Spread, whole};

/// Measured besides the sets, in this order.
const EXTRAS: [&str; 12] = [
    "start",
    "operations",
    "broker",
    "intake",
    "audit",
    "floor",
    "memory",
    "growth",
    "peers",
    "database",
    "backlog",
    "sweep",
];
/// Those that are measured only when they are named.
const ONLY_NAMED: [&str; 4] = ["peers", "database", "backlog", "sweep"];
/// Starts of the daemon, for the median.
const STARTS: u32 = 7;
/// Assumed throughput of the daemon, as a part of what clamd and the store reach together. Used to
/// make a drain take about as long as it should.
const EXPECTED: f64 = 0.3;
/// Duration of the latency measurement, in seconds; with at least [`LATENCY_LEAST`] objects.
const LATENCY_SECONDS: f64 = 6.0;
const LATENCY_LEAST: usize = 12;

/// What to measure.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Only the sets and extras of these names, separated by commas.
    pub only: Option<String>,
    /// Runs of each case.
    pub runs: u32,
    /// Duration of one drain, in seconds.
    pub seconds: u32,
    /// Notifications of the extra `backlog`.
    pub backlog: u32,
    /// Stored objects of the extra `sweep`.
    pub swept: u32,
    /// Only count instructions.
    pub instructions: bool,
    /// Write the counted instructions to the file instead of comparing them.
    pub bless: bool,
    /// The daemon; by default the one that was built together with this program.
    pub daemon: Option<PathBuf>,
}

struct Bench {
    rig: Rig,
    options: Options,
    results: Results,
}

/// Measures inside the stack that the environment names.
///
/// # Errors
/// When there is no stack or no such set, an object ends in the wrong state, or the results cannot
/// be written.
pub async fn run(options: Options) -> Result<ExitCode> {
    let wanted = choose(options.only.as_deref())?;
    let sets: Vec<Set> = SETS.into_iter().filter(|set| wanted.contains(&set.name)).collect();
    let stack = Stack::from_env();
    let binary = options.daemon.clone().unwrap_or_else(|| stack.built_daemon());
    let binary = binary.canonicalize().context(binary.display())?;
    if options.instructions {
        return instructions::run(&stack, &binary, options.bless).await;
    }
    let machine = Machine::look(&stack, &binary)?;
    let large = if wanted.contains(&"memory") { memory::set(stack.dir())? } else { None };
    let longest = sets.iter().chain(&large).map(Set::longest).max().unwrap_or(sets::KIB);
    // For the stored objects, the noise that they are made of, and the copies in the daemon and
    // clamd.
    let (free, needed) = (memory::free(stack.dir())?, 12 * longest + 4 * GIB);
    let short = format!("{} GiB of disk are free, {} needed", free / GIB, needed / GIB);
    (free > needed).then_some(()).context(short)?;
    let results = Results {
        machine,
        runs: options.runs,
        seconds: options.seconds,
        targets: Vec::new(),
        start: None,
        operations: None,
        broker: None,
        intake: None,
        audit: None,
        floor: None,
        peers: None,
        cases: Vec::new(),
        paced: Vec::new(),
        memory: None,
        growth: None,
        databases: None,
        backlog: None,
        sweep: None,
        scale: None,
    };
    let rig = Rig::start(&stack, &binary, longest).await?;
    let mut bench = Bench { rig, options, results };
    if wanted.contains(&"start") {
        bench.start().await?;
    }
    if wanted.contains(&"operations") {
        let objects = bench.rig.store(&Set { stored: 8, ..SETS[1] }).await?;
        let operations = operations::count(&mut bench.rig, &objects).await?;
        say!("[bench] an object costs the store {}", operations.last.join(", "));
        bench.results.operations = Some(operations);
    }
    if wanted.contains(&"broker") {
        let objects = bench.rig.store(&Set { stored: 8, ..SETS[1] }).await?;
        let broker = broker::run(&bench.rig, &objects).await?;
        say!("[bench] a queue carries {} messages/s", number(broker.through));
        bench.results.broker = Some(broker);
    }
    if wanted.contains(&"intake") {
        bench.results.intake = Some(intake::run(&stack, &binary, bench.options.runs).await?);
    }
    if wanted.contains(&"audit") {
        let runs = bench.options.runs;
        bench.results.audit = Some(audit::run(&mut bench.rig, &binary, runs).await?);
    }
    if wanted.contains(&"floor") {
        let (runs, seconds) = (bench.options.runs, bench.options.seconds);
        bench.results.floor = Some(floor::run(&mut bench.rig, runs, seconds).await?);
        bench.save()?;
        bench.rig = Rig::start(&stack, &binary, longest).await?;
    }
    for set in sets {
        bench.set(&set).await?;
        bench.save()?;
    }
    if let Some(set) = &large {
        bench.results.memory = Some(memory::run(&mut bench.rig, set).await?);
    } else if wanted.contains(&"memory") {
        say!("[bench] memory: skipped, not enough disk");
    }
    bench.long_ones(&wanted, &binary).await?;
    let file = bench.save()?;
    for target in &bench.results.targets {
        let met = if target.met { "met" } else { "MISSED" };
        say!("[bench] {met}: {} ({}, wanted {})", target.what, target.measured, target.wanted);
    }
    say!("[bench] {}", file.display());
    Ok(ExitCode::SUCCESS)
}

fn choose(only: Option<&str>) -> Result<Vec<&'static str>> {
    let all: Vec<&str> = SETS.iter().map(|set| set.name).chain(EXTRAS).collect();
    let only: Vec<&str> =
        only.unwrap_or_default().split(',').filter(|name| !name.is_empty()).collect();
    if let Some(unknown) = only.iter().find(|name| !all.contains(name)) {
        return Err(Error::new(format!("ONLY={unknown}: known names are {}", all.join(", "))));
    }
    Ok(all
        .into_iter()
        .filter(|name| match &*only {
            [] => !ONLY_NAMED.contains(name),
            only => only.contains(name),
        })
        .collect())
}

impl Bench {
    /// The extras that take long, or are measured beside something else.
    async fn long_ones(&mut self, wanted: &[&str], binary: &Path) -> Result<()> {
        if wanted.contains(&"growth") {
            self.results.growth = Some(growth::run(&mut self.rig).await?);
        }
        if wanted.contains(&"database") {
            let runs = self.options.runs;
            self.results.databases = Some(database::run(&mut self.rig, runs).await?);
        }
        if wanted.contains(&"peers") {
            let runs = self.options.runs;
            self.results.peers = Some(others::run(&mut self.rig, runs).await?);
        }
        if wanted.contains(&"backlog") {
            let objects = self.rig.store(&SETS[0]).await?;
            let count = usize::try_from(self.options.backlog).context("backlog")?;
            self.results.backlog = Some(backlog::run(&mut self.rig, &objects, count).await?);
        }
        if wanted.contains(&"sweep") {
            let (runs, swept) = (self.options.runs, self.options.swept);
            let swept = usize::try_from(swept).context("swept")?;
            self.results.sweep = Some(sweep::run(&mut self.rig, binary, swept, runs).await?);
        }
        Ok(())
    }

    fn save(&mut self) -> Result<PathBuf> {
        self.results.targets = targets::judge(&self.results);
        self.results.scale = scale::of(&self.results);
        report::write(&self.results)
    }

    /// From the start of the process until it is ready.
    async fn start(&mut self) -> Result<()> {
        let mut times = Vec::new();
        for _ in 0..STARTS {
            let begin = Instant::now();
            self.rig.spawn(&Settings::new(Engine::Clamd, USUAL_SLOTS, GIB))?;
            while self.rig.daemon.status("/readyz") != Some(200) {
                let late = begin.elapsed() > Duration::from_mins(1);
                (!late).then_some(()).context("the daemon does not become ready")?;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            times.push(begin.elapsed().as_secs_f64() * 1000.0);
            self.rig.stop().await?;
        }
        let spread = Spread::of(times.iter().copied()).context("no start")?;
        say!("[bench] ready after {} ms", report::spread(spread));
        self.results.start = Some(Start { milliseconds: times, spread });
        Ok(())
    }

    /// Measures all cases of a set.
    async fn set(&mut self, set: &Set) -> Result<()> {
        let objects = self.rig.store(set).await?;
        for slots in set.slots {
            let case = self.case(set, &objects, *slots, false).await.context(set.name)?;
            let rates: BTreeMap<Engine, f64> =
                case.rows.iter().map(|row| (row.engine, row.objects_per_second.median)).collect();
            self.results.cases.push(case);
            if *slots == USUAL_SLOTS {
                for (engine, rate) in rates {
                    self.latency(set, &objects, engine, rate / 2.0).await.context(set.name)?;
                }
            }
        }
        if set.name == "10KiB" {
            let case = self.case(set, &objects, USUAL_SLOTS, true).await?;
            self.results.cases.push(case);
        }
        Ok(())
    }

    async fn case(
        &mut self,
        set: &Set,
        objects: &[Object],
        slots: usize,
        reports: bool,
    ) -> Result<Case> {
        let some: Vec<&Object> = objects.iter().take(slots.max(set.drained.0)).collect();
        // Measures how many objects fill the time. Does not count, because the caches are cold.
        let guess = tokio::task::block_in_place(|| self.limits(&some, slots).both())?;
        let wanted = guess.rate() * f64::from(self.options.seconds) * EXPECTED;
        let count = whole(wanted).next_multiple_of(slots).clamp(set.drained.0, set.drained.1);
        let chosen: Vec<&Object> = objects.iter().cycle().take(count.max(slots)).collect();
        let mut case = Case {
            set: set.name.to_owned(),
            slots,
            reports,
            objects: chosen.len(),
            bytes: chosen.iter().map(|object| object.size).sum(),
            runs: Vec::new(),
            limits: None,
            rows: Vec::new(),
        };
        let engines: &[Engine] = if reports { &[Engine::Clamd] } else { &Engine::ALL };
        for number in 0..self.options.runs {
            let limits = self.limits(&chosen, slots);
            let (clamd, store, pair) = tokio::task::block_in_place(|| {
                Ok::<_, Error>((limits.clamd_alone()?, limits.store_alone()?, limits.both()?))
            })?;
            let mut drains: BTreeMap<Engine, Drain> = BTreeMap::new();
            for engine in engines {
                let mut settings = Settings::new(*engine, slots, set.longest());
                settings.reports = reports;
                let check = if number == 0 { Check::All } else { Check::Sample(u64::from(number)) };
                drains.insert(*engine, self.rig.drain(&chosen, &settings, check).await?);
            }
            case.runs.push(Run { clamd, store, pair, drains });
            case.sum_up();
        }
        announce(&case);
        Ok(case)
    }

    fn limits<'a>(&'a self, objects: &'a [&'a Object], slots: usize) -> Limits<'a> {
        let settings = self.rig.stack.settings();
        Limits {
            pool: &self.rig.pool,
            clamd: &settings.clamd_socket,
            store: self.rig.store_url.trim_start_matches("http://"),
            slots,
            objects,
            least: Duration::from_secs(self.options.seconds.into()) / 3,
        }
    }

    /// Measures latencies at a rate of notifications that the daemon can keep up with.
    async fn latency(
        &mut self,
        set: &Set,
        objects: &[Object],
        engine: Engine,
        per_second: f64,
    ) -> Result<()> {
        let count = whole(per_second * LATENCY_SECONDS).max(LATENCY_LEAST);
        let chosen: Vec<&Object> = objects.iter().cycle().take(count).collect();
        let settings = Settings::new(engine, USUAL_SLOTS, set.longest());
        let paced = self.rig.paced(&chosen, &settings, per_second).await?;
        let times = paced.publish_to_ack;
        say!(
            "[bench] {} ×{USUAL_SLOTS} {}: {}/s, notification to ack {} / {} / {} ms",
            set.name,
            engine.name(),
            number(per_second),
            number(times.p50),
            number(times.p95),
            number(times.p99)
        );
        let set = set.name.to_owned();
        self.results.paced.push(PacedRow { set, slots: USUAL_SLOTS, engine, paced });
        Ok(())
    }
}

/// Prints a line for each row.
fn announce(case: &Case) {
    for row in &case.rows {
        say!(
            "[bench] {} ×{} {}{}: {}/s, {} MB/s, {:.0} % of clamd alone, {:.0} % of both; {} ms CPU, \
             {:.0} % of all; {:.1} MiB",
            case.set,
            case.slots,
            row.engine.name(),
            if case.reports { " reported" } else { "" },
            spread(row.objects_per_second),
            number(row.megabytes_per_second.median),
            row.to_clamd.median * 100.0,
            row.to_pair.median * 100.0,
            number(row.cpu_ms_per_object.median),
            row.share.median * 100.0,
            row.peak_mib.median
        );
    }
}
