//! A mixed load with faults for hours: does the daemon grow, and is every object accounted for?
//!
//! - `faults`: what disturbs the load, one after the other;
//! - `watch`, `series`: what the replicas use meanwhile, and whether that stays flat;
//! - `report`: the results.
//!
//! The load comes in generations. When one is over its objects are accounted for, removed and
//! forgotten, while both replicas go on: neither this program nor the store has to keep hours of
//! them, and what is wrong shows early.

mod faults;
mod report;
mod series;
mod watch;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use fastrand::Rng;
use peers::error::{Context, Error, Result};
use stack::{place, say};
use tokio::task::JoinHandle;

use self::faults::{Deck, REPLICAS};
use self::report::Report;
use self::watch::Watch;
use crate::account::{account, account_so_far};
use crate::ledger::{Ledger, joined};
use crate::no_alarm;
use crate::samples::Fate;
use crate::setup::Setup;
use crate::tally::{Expected, Tally};
use crate::world::{Shared, World};

/// Uploads in a second, beside those of faults and bursts.
const RATE: u64 = 20;
/// No upload is added while so many more were made than reported.
const BEHIND: usize = 300;
/// Time of uploads and faults between two accounts.
const GENERATION: Duration = Duration::from_mins(3);
/// Between two faults, in milliseconds.
const QUIET: std::ops::Range<u64> = 20_000..60_000;
/// No fault begins later than this before the end of its generation.
const LAST_FAULT: Duration = Duration::from_mins(1);
/// Longest time of a fault.
const LONGEST: Duration = Duration::from_mins(4);
/// The store is made to fail, and replicas are killed.
const EXPECTED: Expected = Expected {
    recovers: false,
    reports_recover: false,
    reports_park: false,
    store_fails: true,
    alarms: false,
    deletions_unsaid: true,
    swept: false,
};

/// Runs for so many hours. The exit code says whether all is well.
pub(super) async fn run(shared: &mut Shared<'_>, hours: f64, seed: u64) -> Result<ExitCode> {
    let length = Duration::from_secs_f64(hours * 3600.0);
    say!("[soak] {hours} h of load and faults around two replicas, SEED={seed}");
    // A canary has to wait behind a burst. Its usual deadline is for an idle queue.
    let settings = vec![("CANARY_EVERY", "3m"), ("CANARY_DEADLINE", "80s")];
    let setup = Setup { settings, ..Setup::default() };
    let mut world = World::start(shared, setup, Rng::with_seed(seed)).await?;
    let watch = Watch::start(&world, length);
    for (replica, daemon) in REPLICAS.into_iter().zip(&world.daemons) {
        watch.begins(replica, daemon.pid().context("the daemon was started")?);
    }
    let mut report = Report::new(seed, hours);
    if let Err(error) = generations(&mut world, &watch, length, &mut report).await {
        report.tally.wrongs.push(error.to_string());
    }
    report.finish(&watch);
    report.print();
    let file = report.write()?;
    say!("[soak] {}", file.display());
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One generation after the other, until the time is over.
async fn generations(
    world: &mut World,
    watch: &Watch,
    length: Duration,
    report: &mut Report,
) -> Result<()> {
    let mut deck = Deck::new();
    for number in 1.. {
        let began = Instant::now();
        let left = length.saturating_sub(watch.start.elapsed());
        // Better a longer last generation than a very short one.
        let is_last = left < GENERATION + LAST_FAULT;
        let time = if is_last { left } else { GENERATION };
        disturbed(world, watch, &mut deck, number, time, report).await?;
        no_alarm(world);
        let tally = if is_last {
            account(world, EXPECTED).await?
        } else {
            account_so_far(world, EXPECTED).await?
        };
        said(watch, number, &tally, report.tally.objects);
        if !tally.is_right() {
            keep_logs(world, number)?;
        }
        report.tally.add(tally);
        if is_last {
            break;
        }
        world.forget(began).await?;
        watch.seen().accounted = report.tally.objects;
    }
    Ok(())
}

/// Uploads for this time, and injects faults meanwhile.
async fn disturbed(
    world: &mut World,
    watch: &Watch,
    deck: &mut Deck,
    number: u32,
    time: Duration,
    report: &mut Report,
) -> Result<()> {
    let began = Instant::now();
    world.ledger.prefix = format!("{number:04}/");
    let feeding = steady(world, time);
    for fault in 1.. {
        world.a_while(QUIET).await;
        if began.elapsed() + LAST_FAULT > time {
            break;
        }
        let Some(next) = deck.next(world) else { break };
        watch.say(&format!("{}: {}", next.name(), next.what()));
        report.injected(next.name());
        // Each fault's own uploads have names of their own.
        world.ledger.prefix = format!("{number:04}/{fault}-{}/", next.name());
        let injecting = tokio::time::timeout(LONGEST, next.inject(world, watch)).await;
        injecting.map_err(|_| Error::new("not over")).flatten().context(next.name())?;
    }
    joined(feeding).await
}

/// The load itself: one in fifty replaces an earlier object, one in a hundred is a larger archive. What
/// a slow or missing store has held up is left out at the end, and so is what a slow machine does not
/// keep up with: its events would wait at the gateway, longer with each minute.
fn steady(world: &World, time: Duration) -> JoinHandle<Result<()>> {
    let reported = world.taken_count();
    let count = usize::try_from(time.as_secs() * RATE).unwrap_or(usize::MAX);
    let end = Instant::now() + time;
    world.ledger.feed_each(count, time, move |ledger, n| {
        let is_behind = ledger.count() > reported() + BEHIND;
        async move {
            if is_behind || Instant::now() > end {
                return Ok(());
            }
            one(&ledger, n).await
        }
    })
}

async fn one(ledger: &Ledger, n: usize) -> Result<()> {
    let (fate, chance) = ledger.random(|rng| (Fate::random(rng), rng.u32(0..100)));
    let key = format!("{}{n:05}", ledger.prefix);
    let put = match chance {
        0 => {
            let length = ledger.random(|rng| rng.usize(200_000..900_000));
            ledger.put_archive(&key, length).await
        }
        1 | 2 => match replaceable(ledger) {
            // Without a tag of its user: S3 has no condition for tags.
            Some(older) => ledger.put_plain(&older, fate).await,
            None => ledger.put(&key, fate).await,
        },
        _ => ledger.put(&key, fate).await,
    };
    put.map(drop)
}

/// The key of an upload some seconds ago. None that is infected: the store ignores `If-Match` on
/// deletions, so what replaces it could rightly be deleted with it.
fn replaceable(ledger: &Ledger) -> Option<String> {
    /// The newest may not be stored yet.
    const NEWEST: usize = 40;
    const RANGE: usize = 200;
    let uploads = ledger.uploads();
    let some = uploads.iter().rev().skip(NEWEST).take(RANGE);
    let some: Vec<_> = some.filter(|one| one.fate == Fate::Clean && !one.over).collect();
    ledger.random(|rng| rng.choice(some)).map(|upload| upload.key.clone())
}

fn said(watch: &Watch, number: u32, tally: &Tally, before: usize) {
    let all = before + tally.objects;
    let verdict = match tally.wrongs.len() {
        0 => "all accounted for".to_owned(),
        count => format!("{count} WRONG"),
    };
    let objects = tally.objects;
    watch.say(&format!("generation {number}: {objects} objects ({all} so far), {verdict}"));
    for wrong in tally.wrongs.iter().take(12) {
        say!("    {wrong}");
    }
}

/// Logs are emptied after each generation, and the stack removes its folder.
fn keep_logs(world: &World, number: u32) -> Result<()> {
    let folder = place::checkout().join("target/chaos/soak-logs");
    std::fs::create_dir_all(&folder).context(folder.display())?;
    for (replica, daemon) in REPLICAS.iter().zip(&world.daemons) {
        let file = folder.join(format!("generation-{number}-{replica}.log"));
        std::fs::copy(daemon.log(), &file).context(file.display())?;
    }
    say!("    the replicas' logs of this generation: {}", folder.display());
    Ok(())
}
