//! How many objects `audit` looks at, beside requests for their tags that are signed beforehand.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use peers::error::{Context, Error, Result};
use serde::Serialize;
use stack::say;

use crate::connection::Connection;
use crate::drain::Check;
use crate::report::number;
use crate::rig::{Engine, Rig, Settings};
use crate::sets::{GIB, KIB, Object, Set, Shape};
use crate::stats::{Spread, as_f64, u64_as_f64};
use crate::usage;

/// Requests in flight: the defaults of `SWEEP_CONCURRENCY`, and fewer.
const CONCURRENCIES: [usize; 2] = [8, 32];
/// Runs, if not more are wanted.
const RUNS: u32 = 5;
/// Between two looks at the process.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Enough that the first page of the list matters little: until it is there nothing can be asked, and
/// the gateway takes 0.3 to 0.6 s for it.
const OBJECTS: usize = 12_000;
const SET: Set = Set {
    name: "audit",
    shape: Shape::Same(KIB),
    stored: OBJECTS,
    slots: &[],
    drained: (OBJECTS, OBJECTS),
};

/// The figures of all concurrencies.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Audit {
    pub(super) objects: usize,
    pub(super) rows: Vec<Row>,
}

/// One concurrency.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) concurrency: usize,
    /// Requests for tags a second, signed beforehand.
    pub(super) bare: Spread,
    /// Objects that the command looks at a second, its start and end included.
    pub(super) objects: Spread,
    /// Objects as a part of bare requests, of the same run.
    pub(super) ratio: Spread,
    /// Processor time of the command, in milliseconds for each object.
    pub(super) cpu_ms: Spread,
    /// Its peak of resident memory.
    pub(super) peak_mib: f64,
}

/// Has all objects scanned, and audits them.
///
/// # Errors
/// When an object is not verified, or a request fails.
pub(super) async fn run(rig: &mut Rig, binary: &Path, runs: u32) -> Result<Audit> {
    let objects = rig.store(&SET).await?;
    let all: Vec<&Object> = objects.iter().collect();
    rig.drain(&all, &Settings::new(Engine::Clamd, 32, GIB), Check::Sample(0)).await?;
    let mut rows = Vec::new();
    for concurrency in CONCURRENCIES {
        let mut row = Runs::default();
        for _ in 0..runs.max(RUNS) {
            let requests: Vec<_> =
                all.iter().map(|o| rig.s3.signed("GET", &o.key, "tagging=", b"")).collect();
            let store = rig.stack.settings().s3_url.trim_start_matches("http://").to_owned();
            let bare = tokio::task::block_in_place(|| bare(&requests, &store, concurrency))?;
            let audited = tokio::task::block_in_place(|| audited(rig, binary, concurrency))?;
            row.bare.push(bare);
            row.objects.push(as_f64(all.len()) / audited.seconds);
            row.cpu.push(audited.cpu_seconds * 1000.0 / as_f64(all.len()));
            row.peak_mib = row.peak_mib.max(audited.peak_mib);
        }
        let row = row.sum_up(concurrency)?;
        say!(
            "[bench] audit, {concurrency} at once: {}/s, {:.0} % of bare requests ({}/s), {} ms CPU, \
             {:.1} MiB",
            number(row.objects.median),
            row.ratio.median * 100.0,
            number(row.bare.median),
            number(row.cpu_ms.median),
            row.peak_mib
        );
        rows.push(row);
    }
    Ok(Audit { objects: all.len(), rows })
}

#[derive(Default)]
struct Runs {
    bare: Vec<f64>,
    objects: Vec<f64>,
    cpu: Vec<f64>,
    peak_mib: f64,
}

impl Runs {
    fn sum_up(self, concurrency: usize) -> Result<Row> {
        let ratio = self.objects.iter().zip(&self.bare).map(|(objects, bare)| objects / bare);
        Ok(Row {
            concurrency,
            ratio: Spread::of(ratio).context("no run")?,
            bare: Spread::of(self.bare).context("no run")?,
            objects: Spread::of(self.objects).context("no run")?,
            cpu_ms: Spread::of(self.cpu).context("no run")?,
            peak_mib: self.peak_mib,
        })
    }
}

/// Requests a second on so many connections.
fn bare(requests: &[Vec<u8>], store: &str, connections: usize) -> Result<f64> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut connection = Connection::new(store);
        while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
            connection.ask(request, |_| Ok(()))?;
        }
        Ok::<_, Error>(())
    };
    let start = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| Error::new("a thread panicked"))?)
    })?;
    Ok(as_f64(requests.len()) / start.elapsed().as_secs_f64())
}

/// One run of the command.
struct Audited {
    seconds: f64,
    cpu_seconds: f64,
    peak_mib: f64,
}

fn audited(rig: &Rig, binary: &Path, concurrency: usize) -> Result<Audited> {
    let wanted = |name: &str| name.starts_with("MINIO_") || name.starts_with("RECEIPT_");
    let env = rig.daemon.env().iter().filter(|(name, _)| wanted(name));
    let start = Instant::now();
    let mut child = Command::new(binary)
        .args(["audit", &format!("{}/{}/", rig.s3.bucket, SET.name)])
        .env_clear()
        .envs(env)
        .env("SWEEP_CONCURRENCY", concurrency.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context(binary.display())?;
    let parts = vec![("audit", child.id())];
    let mut audited = Audited { seconds: 0.0, cpu_seconds: 0.0, peak_mib: 0.0 };
    while child.try_wait().context("audit")?.is_none() {
        // Both fail for a process that has just ended; the last figures are at most this old.
        if let (Ok(cpu), Ok(kib)) = (usage::cpu(&parts), usage::peak_kib(child.id())) {
            audited.cpu_seconds = cpu["audit"];
            audited.peak_mib = u64_as_f64(kib) / 1024.0;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    audited.seconds = start.elapsed().as_secs_f64();
    let output = child.wait_with_output().context("audit")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let all = said.contains("Every object is verified clean");
    (output.status.success() && all).then_some(()).context(said)?;
    Ok(audited)
}
