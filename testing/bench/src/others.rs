//! Any scanner, beside the daemon: the same queue, the same objects, measured from outside.
//!
//! A scanner is a command. It finds in its environment `AMQP_URL` and `QUEUE`, the usual variables of AWS
//! for the store, and `CLAMD_SOCKET`, and works until it is stopped: it consumes the queue, tags each object
//! with `scanned`, and acknowledges. How it goes about that, and what it does besides, is its own affair.
//! `PEER=COMMAND` measures another one than the plain script. The shell that runs it has to be replaced by
//! it (`exec`): only that process is measured, and ended.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use peers::error::{Context, Error, Result};
use serde::Serialize;
use stack::{place, say};

use crate::drain::{Check, pace};
use crate::report::number;
use crate::rig::{Engine, Rig, Settings};
use crate::sets::{Object, SETS};
use crate::stats::{Spread, as_f64};
use crate::usage;

/// Runs, if not more are wanted.
const RUNS: u32 = 5;
/// Objects in flight: slots of the daemon, processes of a script that does one after the other.
const CONCURRENCIES: [usize; 2] = [1, 4];
/// For a scanner to start and consume.
const PATIENCE: Duration = Duration::from_mins(1);
const SCRIPT: &str = "testing/bench/peers/plain.py";

/// The scanner beside the daemon.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Peers {
    pub(super) name: String,
    pub(super) objects: usize,
    pub(super) rows: Vec<Row>,
}

/// Both with as many objects in flight, in turn.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) slots: usize,
    pub(super) daemon: Figures,
    pub(super) peer: Figures,
    /// Objects a second of the daemon, as a multiple of the other's, of the same run.
    pub(super) ratio: Spread,
}

/// What one of them needs.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figures {
    pub(super) per_second: Spread,
    /// Processor time of its processes, in milliseconds for each object.
    pub(super) cpu_ms: Spread,
    /// Peaks of resident memory of its processes, added up.
    pub(super) mib: f64,
}

/// Measures with objects of 10 KiB.
///
/// # Errors
/// When the command cannot be run, or an object is not tagged as it should be.
pub(super) async fn run(rig: &mut Rig, runs: u32) -> Result<Peers> {
    let named = std::env::var("PEER").ok().filter(|name| !name.is_empty());
    let name = named.clone().unwrap_or_else(|| "plain script".to_owned());
    let command = named.unwrap_or_else(|| format!("exec python3 {SCRIPT}"));
    let set = SETS[1];
    let objects = rig.store(&set).await?;
    let all: Vec<&Object> = objects.iter().collect();
    let mut rows = Vec::new();
    for slots in CONCURRENCIES {
        let settings = Settings::new(Engine::Clamd, slots, set.longest());
        let (mut ours, mut theirs) = (Runs::default(), Runs::default());
        for _ in 0..runs.max(RUNS) {
            let drain = rig.drain(&all, &settings, Check::All).await?;
            ours.add(drain.pace.rate(), drain.cpu_per_object(), drain.peak_kib);
            let (rate, cpu, kib) = rig.drain_by(&command, slots, &all).await?;
            theirs.add(rate, cpu, kib);
        }
        let ratio = ours.rates.iter().zip(&theirs.rates).map(|(ours, theirs)| ours / theirs);
        let ratio = Spread::of(ratio).context("no run")?;
        let row = Row { slots, ratio, daemon: ours.sum_up()?, peer: theirs.sum_up()? };
        say!(
            "[bench] ×{slots}: {}/s and {} ms CPU an object, {name} {}/s and {} ms",
            number(row.daemon.per_second.median),
            number(row.daemon.cpu_ms.median),
            number(row.peer.per_second.median),
            number(row.peer.cpu_ms.median)
        );
        rows.push(row);
    }
    Ok(Peers { name, objects: all.len(), rows })
}

#[derive(Default)]
struct Runs {
    rates: Vec<f64>,
    cpu: Vec<f64>,
    kib: u64,
}

impl Runs {
    fn add(&mut self, rate: f64, cpu: f64, kib: u64) {
        self.rates.push(rate);
        self.cpu.push(cpu);
        self.kib = self.kib.max(kib);
    }

    fn sum_up(self) -> Result<Figures> {
        Ok(Figures {
            per_second: Spread::of(self.rates).context("no run")?,
            cpu_ms: Spread::of(self.cpu).context("no run")?,
            mib: crate::stats::u64_as_f64(self.kib) / 1024.0,
        })
    }
}

/// Processes of the command, killed when dropped.
struct Running(Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Rig {
    /// Fills the queue and has so many processes of a command empty it; returns objects a second,
    /// milliseconds of processor time for each, and KiB of memory.
    async fn drain_by(
        &mut self,
        command: &str,
        processes: usize,
        objects: &[&Object],
    ) -> Result<(f64, f64, u64)> {
        let checked = self.prepare(objects, Check::All).await?;
        let mut running = Running(Vec::new());
        for _ in 0..processes {
            running.0.push(self.scanner(command)?);
        }
        // Its own start does not count, as the daemon's does not.
        let started = Instant::now();
        let queue = self.queues()[0].clone();
        while usize::try_from(self.amqp.consumers(&queue).await?).is_ok_and(|n| n < processes) {
            let ended = running.0.iter_mut().any(|child| !matches!(child.try_wait(), Ok(None)));
            let late = started.elapsed() > PATIENCE;
            (!ended && !late).then_some(()).context(format!("`{command}` does not consume"))?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let parts: usage::Parts = running.0.iter().map(|child| ("peer", child.id())).collect();
        let each = |parts: &usage::Parts| {
            let one = |part: &(&'static str, u32)| Ok(usage::cpu(&vec![*part])?["peer"]);
            parts.iter().map(one).sum::<Result<f64>>()
        };
        let before = each(&parts)?;
        self.announce(objects).await?;
        let wanted = objects.len();
        let children = std::cell::RefCell::new(running);
        let lives = |_: &mut Self| {
            children.borrow_mut().0.iter_mut().all(|child| matches!(child.try_wait(), Ok(None)))
        };
        self.reach_while(|progress| progress.acked >= wanted, lives).await?;
        let cpu = each(&parts)? - before;
        let kib = parts.iter().map(|part| usage::peak_kib(part.1)).sum::<Result<u64>>()?;
        drop(children);
        let record = self.settled(&checked, wanted).await?;
        Ok((pace(objects, &record)?.rate(), cpu * 1000.0 / as_f64(wanted), kib))
    }

    fn scanner(&self, command: &str) -> Result<Child> {
        let settings = self.stack.settings();
        Command::new("sh")
            .args(["-c", command])
            .current_dir(place::checkout())
            .env("AMQP_URL", settings.amqp_url_at(self.tap.port()))
            .env("QUEUE", &self.daemon.names.queue)
            .env("CLAMD_SOCKET", &settings.clamd_socket)
            .env("AWS_ENDPOINT_URL", &settings.s3_url)
            .env("AWS_ACCESS_KEY_ID", &settings.s3_access_key)
            .env("AWS_SECRET_ACCESS_KEY", &settings.s3_secret_key)
            .env("AWS_DEFAULT_REGION", &settings.s3_region)
            .env("PYTHONPATH", imports()?)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context(command.to_owned())
    }
}

/// Where `testing/setup.sh peers` installs what the script imports.
fn imports() -> Result<String> {
    let folder = place::checkout().join(".stack/tools/peers");
    let missing = || Error::new("boto3 is missing: run testing/setup.sh peers");
    folder.join("boto3").is_dir().then(|| folder.display().to_string()).ok_or_else(missing)
}
