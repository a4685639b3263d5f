//! Many slots in one daemon, and many daemons on one queue: whether memory stays bounded, and whether each
//! gets its share of the work.

use std::collections::BTreeMap;
use std::time::Duration;

use peers::error::{Context, Result};
use serde::Serialize;
use stack::{Daemon, say};

use crate::drain::{Check, pace};
use crate::report::number;
use crate::rig::{Engine, Rig, Settings};
use crate::sets::{Object, SETS};
use crate::stats::{as_f64, u64_as_f64};
use crate::usage;

/// Slots of the daemon that has many.
const SLOTS: usize = 200;
/// Daemons on one queue, with the usual number of slots each.
const REPLICAS: usize = 8;
/// Notifications of each measurement: several hundred for each of the daemons.
const COUNT: usize = 6000;
const PATIENCE: Duration = Duration::from_mins(1);

/// The results.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Growth {
    pub(super) objects: usize,
    /// One daemon, with few slots and with many.
    pub(super) slots: Vec<Crowded>,
    pub(super) replicas: Shares,
}

/// One daemon with so many objects in flight.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Crowded {
    pub(super) slots: usize,
    pub(super) per_second: f64,
    pub(super) cpu_ms: f64,
    pub(super) peak_mib: f64,
}

/// What each of several daemons did of one queue.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Shares {
    pub(super) slots: usize,
    pub(super) per_second: f64,
    /// Objects of each, the smallest number first.
    pub(super) objects: Vec<usize>,
    /// The largest distance of one of them from their mean, as a part of the mean.
    pub(super) unfairness: f64,
}

/// Measures with objects of 10 KiB.
///
/// # Errors
/// When a daemon hangs or ends, or an object did not end as it should.
pub(super) async fn run(rig: &mut Rig) -> Result<Growth> {
    let set = SETS[1];
    let stored = rig.store(&set).await?;
    let objects: Vec<&Object> = stored.iter().cycle().take(COUNT).collect();
    let mut slots = Vec::new();
    for count in [4, SLOTS] {
        let settings = Settings::new(Engine::Clamd, count, set.longest());
        let drain = rig.drain(&objects, &settings, Check::All).await?;
        let crowded = Crowded {
            slots: count,
            per_second: drain.pace.rate(),
            cpu_ms: drain.cpu_per_object(),
            peak_mib: u64_as_f64(drain.peak_kib) / 1024.0,
        };
        say!(
            "[bench] growth: {count} slots, {}/s, {} ms CPU an object, {:.1} MiB at most",
            number(crowded.per_second),
            number(crowded.cpu_ms),
            crowded.peak_mib
        );
        slots.push(crowded);
    }
    let replicas = shares(rig, &objects, Settings::new(Engine::Clamd, 4, set.longest())).await?;
    Ok(Growth { objects: COUNT, slots, replicas })
}

async fn shares(rig: &mut Rig, objects: &[&Object], settings: Settings) -> Result<Shares> {
    let checked = rig.prepare(objects, Check::All).await?;
    rig.spawn(&settings)?;
    let mut others = Vec::new();
    for _ in 1..REPLICAS {
        let mut other = rig.daemon.replica(&[])?;
        other.spawn()?;
        others.push(other);
    }
    for daemon in std::iter::once(&mut rig.daemon).chain(&mut others) {
        daemon.wait_ready(PATIENCE).await?;
    }
    rig.announce(objects).await?;
    rig.reach(|progress| progress.acked >= objects.len()).await?;
    let peaks = others.iter().filter_map(Daemon::pid).map(usage::peak_kib);
    let peak = peaks.collect::<Result<Vec<u64>>>()?.into_iter().max().context("no daemon")?;
    for other in &mut others {
        other.terminate(PATIENCE).await?;
    }
    let record = rig.finish(&checked, objects.len()).await?;
    let per_second = pace(objects, &record)?.rate();
    let mut by_daemon: BTreeMap<usize, usize> = BTreeMap::new();
    for seen in &record.seen {
        *by_daemon.entry(seen.connection).or_default() += 1;
    }
    let mut done: Vec<usize> = by_daemon.into_values().collect();
    done.sort_unstable();
    (done.len() == REPLICAS).then_some(()).context(format!("{} daemons worked", done.len()))?;
    let mean = as_f64(objects.len()) / as_f64(REPLICAS);
    let distances = done.iter().map(|share| (as_f64(*share) - mean).abs() / mean);
    let unfairness = distances.fold(0.0, f64::max);
    say!(
        "[bench] growth: {REPLICAS} daemons, {}/s, shares {done:?}, at most {:.0} % off the mean, {:.1} MiB",
        number(per_second),
        unfairness * 100.0,
        u64_as_f64(peak) / 1024.0
    );
    Ok(Shares { slots: settings.slots, per_second, objects: done, unfairness })
}
