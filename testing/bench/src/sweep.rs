//! Live objects beside a sweep: what the sweep costs them, and how much of the rest it gets.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use peers::error::{Context, Error, Result};
use serde::Serialize;
use stack::process::tail;
use stack::say;

use crate::drain::{Check, published_to_acked, sample};
use crate::report::number;
use crate::rig::{Engine, Rig, Settings};
use crate::sets::{KIB, Object, Set, Shape, USUAL_SLOTS};
use crate::stats::{Percentiles, Spread, as_f64, whole};

/// Duration of the live load, alone and beside the sweep, in seconds.
const SECONDS: f64 = 60.0;
/// The live load, as a part of the highest rate.
const LOAD: f64 = 0.25;
/// Notifications of the drain that measures the highest rate: more than ten seconds.
const DRAINED: usize = 3000;
/// The live load is measured while so many objects of the sweep wait, or the fourth part of all. From
/// then on the daemon reads a page whenever there is room for it, until the sweep ends.
const FULL: usize = 7000;
/// How long that may take: the sweep first passes over what the runs before have scanned.
const PATIENCE: Duration = Duration::from_mins(10);
const POLL_INTERVAL: Duration = Duration::from_millis(200);
const LIVE: Set = Set {
    name: "live",
    shape: Shape::Same(10 * KIB),
    stored: 1000,
    slots: &[USUAL_SLOTS],
    drained: (DRAINED, DRAINED),
};

/// The figures of all runs.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Sweep {
    /// Stored objects that the sweeps are about.
    pub(super) objects: usize,
    pub(super) slots: usize,
    pub(super) runs: Vec<Run>,
    /// Live objects a second with a full queue, and no sweep.
    pub(super) highest: Spread,
    /// Live objects a second of the load.
    pub(super) live: Spread,
    /// From publishing to acknowledgement, in milliseconds: p50, p95 and p99, medians over the runs.
    pub(super) alone: [f64; 3],
    pub(super) beside: [f64; 3],
    /// p95 beside the sweep, as a multiple of p95 alone, of the same run.
    pub(super) slower: Spread,
    /// Objects of the sweep a second.
    pub(super) swept: Spread,
    /// These as a part of what the live load leaves of the highest rate, of the same run.
    pub(super) share: Spread,
}

/// Everything that was measured within the same minutes.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Run {
    pub(super) highest: f64,
    pub(super) live: f64,
    pub(super) alone: Percentiles,
    pub(super) beside: Beside,
}

/// The live load beside a sweep.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Beside {
    pub(super) times: Percentiles,
    /// Objects of the sweep a second.
    pub(super) swept: f64,
    /// Objects of the sweep that still waited at the end.
    pub(super) waiting: u32,
}

impl Run {
    fn slower(&self) -> f64 {
        self.beside.times.p95 / self.alone.p95
    }

    fn share(&self) -> f64 {
        self.beside.swept / (self.highest - self.live)
    }
}

/// Stores the objects of the sweeps, and measures so often. Each run has a sweep of its own.
///
/// # Errors
/// When the sweep ends too soon, or an object did not end as it should.
pub(super) async fn run(rig: &mut Rig, binary: &Path, count: usize, runs: u32) -> Result<Sweep> {
    let live = rig.store(&LIVE).await?;
    let mut unscanned = rig.store(&Set { name: "sweep", stored: count, ..LIVE }).await?;
    // As the store lists them, and so as the sweep announces them.
    unscanned.sort_by(|a, b| a.key.cmp(&b.key));
    let mut case = Case {
        settings: Settings::new(Engine::Clamd, USUAL_SLOTS, LIVE.longest()),
        rig,
        binary,
        live,
        unscanned,
        scanned: 0,
    };
    let mut all = Vec::new();
    for number in 1..=runs {
        all.push(case.run(number).await.context(format!("sweep, run {number}"))?);
    }
    sum_up(count, all)
}

struct Case<'a> {
    settings: Settings,
    rig: &'a mut Rig,
    binary: &'a Path,
    live: Vec<Object>,
    unscanned: Vec<Object>,
    /// How many of these, from the first on, are not unscanned any more.
    scanned: usize,
}

impl Case<'_> {
    async fn run(&mut self, turn: u32) -> Result<Run> {
        let seed = u64::from(turn);
        let drained: Vec<&Object> = self.live.iter().cycle().take(DRAINED).collect();
        let drain = self.rig.drain(&drained, &self.settings, Check::Sample(seed)).await?;
        let highest = drain.pace.rate();
        let live = highest * LOAD;
        say!("[bench] sweep, run {turn}: {}/s at most", number(highest));
        let paced: Vec<&Object> = self.live.iter().cycle().take(whole(live * SECONDS)).collect();
        let alone = self.rig.paced(&paced, &self.settings, live).await?.publish_to_ack;
        say!("[bench] sweep, run {turn}: {}/s alone, {} ms", number(live), milliseconds(&alone));
        let beside = self.beside(live, seed).await?;
        let run = Run { highest, live, alone, beside };
        say!(
            "[bench] sweep, run {turn}: {}/s beside a sweep, {} ms, {:.2} of p95 alone; {}/s swept, \
             {:.0} % of what is left",
            number(live),
            milliseconds(&run.beside.times),
            run.slower(),
            number(run.beside.swept),
            run.share() * 100.0
        );
        Ok(run)
    }

    /// The same load again, while the daemon sweeps.
    async fn beside(&mut self, per_second: f64, seed: u64) -> Result<Beside> {
        let count = whole(per_second * SECONDS);
        let paced: Vec<&Object> = self.live.iter().cycle().take(count).collect();
        let checked = self.rig.prepare(&paced, Check::Sample(seed)).await?;
        self.rig.spawn(&self.settings)?;
        self.rig.daemon.wait_ready(PATIENCE).await?;
        let target = format!("{}/sweep/", self.rig.s3.bucket);
        let asked = self.command(&["--detach", &target])?;
        let said = String::from_utf8_lossy(&asked.stderr).into_owned();
        asked.status.success().then_some(()).context(said)?;
        self.fill().await?;

        let (start, sent) = (Instant::now(), self.rig.announce_at(&paced, per_second).await?);
        let end = Instant::now();
        let queues = self.rig.backlog_queues();
        let waiting = self.rig.amqp.count(&queues[0]).await?.unwrap_or_default();
        self.rig.reach(|progress| progress.acked >= count).await?;
        // Fails if the sweep has read its list to the end.
        self.command(&["cancel", &self.rig.s3.bucket])?;
        // A page that waits for room would hold up the end of the daemon.
        self.rig.amqp.purge(&queues[0]).await?;
        let record = self.rig.finish(&checked, count).await?;

        let within =
            |times: &[Instant]| times.iter().filter(|at| (start..=end).contains(*at)).count();
        let was_empty = waiting == 0 || within(&record.backlog_empty) > 0;
        let short = "the sweep ended, or waited for its list, within the measured time: more objects \
                     with --swept";
        (!was_empty).then_some(()).context(short)?;
        self.rig.all_empty(&queues[1..]).await?;
        // What that page announced.
        self.rig.amqp.purge(&queues[0]).await?;
        self.scanned += record.backlog_acked.iter().filter(|at| **at <= end).count();
        // The last ones may have overtaken others.
        let sure = self.scanned.saturating_sub(2 * self.settings.slots);
        let mut swept: Vec<&Object> = self.unscanned.iter().take(sure).collect();
        sample(&mut swept, seed);
        self.rig.all_tagged(&swept).await?;
        Ok(Beside {
            times: Percentiles::of(published_to_acked(&sent, &record))
                .context("nothing was acknowledged")?,
            swept: as_f64(within(&record.backlog_acked)) / (end - start).as_secs_f64(),
            waiting,
        })
    }

    /// `sweep` with the settings of the daemon.
    fn command(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(self.binary);
        command.arg("sweep").args(arguments).env_clear().envs(self.rig.daemon.env());
        tokio::task::block_in_place(|| command.output()).context(self.binary.display())
    }

    /// Waits until the backlog is full.
    async fn fill(&self) -> Result<()> {
        let (start, backlog) = (Instant::now(), &self.rig.backlog_queues()[0]);
        let full = FULL.min(self.unscanned.len() / 4);
        loop {
            let waiting = self.rig.amqp.count(backlog).await?.unwrap_or_default();
            if usize::try_from(waiting).is_ok_and(|waiting| waiting >= full) {
                say!(
                    "[bench] sweep: {waiting} objects wait after {:.0} s",
                    start.elapsed().as_secs_f64()
                );
                return Ok(());
            }
            if start.elapsed() > PATIENCE || stack::place::interrupted() {
                let log = tail(&self.rig.daemon.log(), 20);
                let what = format!("{waiting} objects wait, not {full}; the daemon's log:\n{log}");
                return Err(Error::new(what));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

fn sum_up(objects: usize, runs: Vec<Run>) -> Result<Sweep> {
    let of = |figure: fn(&Run) -> f64| Spread::of(runs.iter().map(figure)).context("no run");
    let medians = |times: fn(&Run) -> Percentiles| {
        let median = |figure: fn(&Percentiles) -> f64| {
            let spread = Spread::of(runs.iter().map(|run| figure(&times(run))));
            spread.map(|spread| spread.median).context("no run")
        };
        Ok::<_, Error>([median(|t| t.p50)?, median(|t| t.p95)?, median(|t| t.p99)?])
    };
    Ok(Sweep {
        objects,
        slots: USUAL_SLOTS,
        highest: of(|run| run.highest)?,
        live: of(|run| run.live)?,
        alone: medians(|run| run.alone)?,
        beside: medians(|run| run.beside.times)?,
        slower: of(Run::slower)?,
        swept: of(|run| run.beside.swept)?,
        share: of(Run::share)?,
        runs,
    })
}

fn milliseconds(times: &Percentiles) -> String {
    [times.p50, times.p95, times.p99].map(number).join(" / ")
}
