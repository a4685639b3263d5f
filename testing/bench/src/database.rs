//! An engine with a database of real size beside one that knows the EICAR test file alone: what the
//! signatures cost in rate, memory and time to load, and how slots, threads and a second engine behave then.
//!
//! The official database cannot be had everywhere, and changes every day, so this one is made here: as many
//! hashes and patterns, of seeded noise that no object has. Sources of the formats:
//! <https://docs.clamav.net/manual/Signatures/HashSignatures.html> and
//! <https://docs.clamav.net/manual/Signatures/ExtendedSignatures.html>

use std::fmt::Write;
use std::time::{Duration, Instant};

use fastrand::Rng;
use peers::eicar::hex;
use peers::error::{Context, Error, Result};
use serde::Serialize;
use stack::clamd::{Clamd, LARGEST};
use stack::say;

use crate::drain::Check;
use crate::limits::Limits;
use crate::report::number;
use crate::rig::{Engine, OwnEngine, Rig, Settings};
use crate::sets::{Object, SETS, Set};
use crate::stats::{Spread, u64_as_f64};
use crate::usage;

/// Signatures by the SHA-256 of a whole file.
const HASHES: usize = 500_000;
/// Signatures by bytes at any place of a file of any kind, the half of them with a gap. Most official
/// patterns are for one kind of file, so this is the worse case.
const PATTERNS: usize = 50_000;
/// Seed of both.
const SEED: u64 = 2027;
/// Runs, if not more are wanted.
const RUNS: u32 = 3;
/// `MaxThreads` where it limits nothing.
const MANY_THREADS: usize = 40;
/// `MaxThreads` as few as the processors here.
const FEW_THREADS: usize = 2;
/// The shortest measurement of the engine alone.
const LEAST: Duration = Duration::from_secs(1);
/// Objects of one drain, of 10 KiB and of 1 MiB.
const DRAINED: [usize; 2] = [400, 24];

/// The results.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Databases {
    pub(super) loads: Vec<Load>,
    pub(super) rows: Vec<Row>,
}

/// What a database costs an engine that has nothing to do.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Load {
    pub(super) database: &'static str,
    pub(super) signatures: usize,
    /// From the start of clamd to its first answer.
    pub(super) start_seconds: f64,
    pub(super) resident_mib: f64,
    /// From `RELOAD` until a new signature is in force.
    pub(super) reload_seconds: f64,
    /// Both databases are in memory meanwhile (`ConcurrentDatabaseReload`, clamd's default).
    pub(super) reload_peak_mib: f64,
}

/// The daemon on such an engine, and the engine alone.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) database: &'static str,
    pub(super) set: &'static str,
    pub(super) threads: usize,
    pub(super) engines: usize,
    pub(super) slots: usize,
    /// Objects a second of the engine, or engines, alone.
    pub(super) alone: Spread,
    /// Of the daemon; not measured with two engines, which take two daemons.
    pub(super) daemon: Option<Spread>,
    /// Milliseconds of the engine's processor time for an object of the daemon's.
    pub(super) engine_cpu_ms: Option<Spread>,
}

/// One database.
#[derive(Debug, Clone, Copy)]
struct Database {
    name: &'static str,
    hashes: usize,
    patterns: usize,
}

const DATABASES: [Database; 2] = [
    Database { name: "of real size", hashes: HASHES, patterns: PATTERNS },
    Database { name: "EICAR alone", hashes: 0, patterns: 0 },
];

/// Measures with objects of 10 KiB and of 1 MiB.
///
/// # Errors
/// When an engine does not come up, or an object did not end as it should.
pub(super) async fn run(rig: &mut Rig, runs: u32) -> Result<Databases> {
    let runs = runs.max(RUNS);
    let of = |number: usize| Set { stored: DRAINED[number - 1], ..SETS[number] };
    let (small, large) = (rig.store(&of(1)).await?, rig.store(&of(2)).await?);
    let sets = [(&SETS[1], &small), (&SETS[2], &large)];
    let (mut loads, mut rows) = (Vec::new(), Vec::new());
    for database in DATABASES {
        let files = database.files()?;
        let (engine, load) = database.load(&files).await?;
        loads.push(load);
        let mut case = Case { rig: &mut *rig, database: database.name, runs, rows: &mut rows };
        for (set, objects) in sets {
            for slots in [1, 4, 16] {
                case.run(&[&engine], MANY_THREADS, set, objects, slots).await?;
            }
        }
        drop(engine);
        if database.patterns == 0 {
            continue;
        }
        let few = engine_with(&files, FEW_THREADS).await?;
        for (set, objects) in sets {
            case.run(&[&few], FEW_THREADS, set, objects, 16).await?;
        }
        drop(few);
        let two =
            [engine_with(&files, MANY_THREADS).await?, engine_with(&files, MANY_THREADS).await?];
        for (set, objects) in sets {
            case.run(&[&two[0], &two[1]], MANY_THREADS, set, objects, 16).await?;
        }
    }
    Ok(Databases { loads, rows })
}

/// An engine as that of the other measurements, with files in its database folder.
async fn engine_with(files: &[(&str, String)], threads: usize) -> Result<Clamd> {
    let size = format!("StreamMaxLength {LARGEST}\nMaxFileSize {LARGEST}");
    let threads = format!("MaxThreads {threads}");
    let lines = [&size, "AlertExceedsMax yes", "AlertEncrypted yes", &threads, "DisableCache yes"];
    Clamd::start_with(&lines, files).await
}

impl Database {
    fn files(self) -> Result<Vec<(&'static str, String)>> {
        let mut rng = Rng::with_seed(SEED);
        let mut noise = |length: usize| {
            let mut bytes = vec![0; length];
            rng.fill(&mut bytes);
            hex(&bytes)
        };
        let (mut hashes, mut patterns) = (String::new(), String::new());
        for number in 0..self.hashes {
            let length = 1000 + 37 * number;
            writeln!(hashes, "{}:{length}:Bench.Hash-{number}", noise(32)).context("signature")?;
        }
        for number in 0..self.patterns {
            let gap = if number % 2 == 0 { "*" } else { "" };
            let (start, end) = (noise(12 + number % 20), noise(8));
            writeln!(patterns, "Bench.Pattern-{number}:0:*:{start}{gap}{end}")
                .context("signature")?;
        }
        let files = [("bench.hsb", hashes), ("bench.ndb", patterns)];
        Ok(files.into_iter().filter(|(_, text)| !text.is_empty()).collect())
    }

    /// Starts an engine with it.
    async fn load(self, files: &[(&str, String)]) -> Result<(Clamd, Load)> {
        let began = Instant::now();
        let engine = engine_with(files, MANY_THREADS).await?;
        let start_seconds = began.elapsed().as_secs_f64();
        let mib = |kib: u64| u64_as_f64(kib) / 1024.0;
        let resident_mib = mib(usage::resident_kib(engine.pid())?);
        let began = Instant::now();
        engine.find_start("Bench.New", b"a start that no object has", true).await?;
        let reload_seconds = began.elapsed().as_secs_f64();
        let load = Load {
            database: self.name,
            signatures: self.hashes + self.patterns,
            start_seconds,
            resident_mib,
            reload_seconds,
            reload_peak_mib: mib(usage::peak_kib(engine.pid())?),
        };
        say!(
            "[bench] database {}: up after {} s, {} MiB; new signatures after {} s, {} MiB at most",
            load.database,
            number(load.start_seconds),
            number(load.resident_mib),
            number(load.reload_seconds),
            number(load.reload_peak_mib)
        );
        Ok((engine, load))
    }
}

struct Case<'a> {
    rig: &'a mut Rig,
    database: &'static str,
    runs: u32,
    rows: &'a mut Vec<Row>,
}

impl Case<'_> {
    /// Measures the engines alone and the daemon on the only one, in turn.
    async fn run(
        &mut self,
        engines: &[&Clamd],
        threads: usize,
        set: &'static Set,
        objects: &[Object],
        slots: usize,
    ) -> Result<()> {
        let all: Vec<&Object> = objects.iter().collect();
        let settings = Settings::new(Engine::Clamd, slots, set.longest());
        let (mut alone, mut daemon, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.runs {
            alone.push(tokio::task::block_in_place(|| self.alone(engines, &all, slots))?);
            let [engine] = engines else { continue };
            self.rig.engine = Some(OwnEngine { socket: engine.socket(), pid: engine.pid() });
            let drained = self.rig.drain(&all, &settings, Check::Sample(1)).await;
            self.rig.engine = None;
            let drained = drained.context(self.database)?;
            daemon.push(drained.pace.rate());
            cpu.push(drained.cpu["clamd"] * 1000.0 / crate::stats::as_f64(all.len()));
        }
        let row = Row {
            database: self.database,
            set: set.name,
            threads,
            engines: engines.len(),
            slots,
            alone: Spread::of(alone).context("no run")?,
            daemon: Spread::of(daemon),
            engine_cpu_ms: Spread::of(cpu),
        };
        say!(
            "[bench] database {}: {} ×{slots}, {} engine, {threads} threads: alone {}/s{}",
            row.database,
            row.set,
            row.engines,
            number(row.alone.median),
            row.daemon.map_or(String::new(), |rate| format!(", daemon {}/s", number(rate.median)))
        );
        self.rows.push(row);
        Ok(())
    }

    /// Objects a second that the engines scan together, each with its part of the streams.
    fn alone(&self, engines: &[&Clamd], objects: &[&Object], slots: usize) -> Result<f64> {
        std::thread::scope(|scope| {
            let one = |engine: &Clamd| {
                let socket = engine.socket();
                let limits = Limits {
                    pool: &self.rig.pool,
                    clamd: &socket,
                    store: "",
                    slots: slots / engines.len(),
                    objects,
                    least: LEAST,
                };
                limits.clamd_alone().map(|pace| pace.rate())
            };
            let running: Vec<_> =
                engines.iter().map(|engine| scope.spawn(move || one(engine))).collect();
            let rates = running
                .into_iter()
                .map(|thread| thread.join().map_err(|_| Error::new("a thread panicked"))?);
            rates.sum()
        })
    }
}
