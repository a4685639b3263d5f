//! Sweeps over objects that nothing announced, under faults and beside live uploads.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;
use peers::error::{Context, Result};
use peers::proxy::{Call, EngineFault, Fault, TcpProxy};
use stack::say;
use tokio::task::JoinHandle;

use crate::account::settle;
use crate::ledger::{Ledger, OBJECTS, joined};
use crate::samples::Fate;
use crate::scenario::{Scenario, sleep};
use crate::sweeping::objects;
use crate::tally::Expected;
use crate::world::World;

const SLOW_DOWN: &str = "<Error><Code>SlowDown</Code><Message>Please reduce</Message></Error>";
/// Three pages of a thousand.
const MANY: usize = 2_200;
const INFECTED_EVERY: usize = 40;
/// Objects that are added, removed or overwritten during a sweep.
const CHANGES: usize = 90;
/// The daemon's default.
const SLOTS: usize = 4;
/// Objects in work at once: of both replicas, live ones and of the backlog.
const IN_WORK: usize = 2 * 2 * SLOTS;
const READY: Duration = Duration::from_mins(1);
/// Far more than the replicas need to start and to announce a page.
const PAGE: Duration = Duration::from_mins(2);

pub(super) fn all() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "sweep-killed",
            "kill -9 of both replicas ten times during a sweep, also between the steps of a page",
            killed,
        )
        .sweeps()
        .deletions_unsaid(),
        Scenario::new(
            "sweep-broker",
            "the broker is restarted and then killed during a sweep",
            broker,
        )
        .sweeps(),
        Scenario::new(
            "sweep-store-503",
            "503 for 6 s and more during a sweep, until a list got it too",
            unavailable,
        )
        .sweeps()
        .store_fails(),
        Scenario::new("sweep-live", "live uploads beside a sweep that holds all slots", live)
            .sweeps(),
        Scenario::new(
            "sweep-unannounced",
            "uploads that nothing announced, then one sweep",
            unannounced,
        )
        .sweeps()
        .short(),
    ]
}

/// When both replicas are killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Some of a page's objects are announced, and the broker's answers do not come.
    Announcing,
    /// The page is recorded in the journal, and the next one is not published.
    Recorded,
    /// The next page is published, and this one is not acknowledged: two messages of one sweep.
    Forked,
    Random,
}

/// The steps of three pages: those between them come first, before no page is left.
const MOMENTS: [Moment; 10] = [
    Moment::Announcing,
    Moment::Forked,
    Moment::Recorded,
    Moment::Forked,
    Moment::Announcing,
    Moment::Recorded,
    Moment::Random,
    Moment::Random,
    Moment::Random,
    Moment::Random,
];

impl Moment {
    /// Has the brokers' proxies forward nothing any more once it is there. Before the replicas are started,
    /// so that no page passes unseen while they do.
    fn arm(self, world: &World) {
        let end = match self {
            Self::Random => return,
            Self::Announcing => ".backlog",
            Self::Recorded => ".journal",
            Self::Forked => ".sweeps",
        };
        // Of all that is announced after another page: not always the first one, and less than a last page has.
        let skipped = world.ledger.random(|rng| rng.usize(1..150));
        let seen = Arc::new(AtomicUsize::new(0));
        for broker in &world.brokers {
            let seen = Arc::clone(&seen);
            broker.silence_after(move |key, body| {
                key.ends_with(end)
                    && match self {
                        Self::Announcing => seen.fetch_add(1, Ordering::Relaxed) == skipped,
                        Self::Recorded => contains(body, b"\"sweep_paged\""),
                        Self::Forked | Self::Random => true,
                    }
            });
        }
    }

    /// Waits for it. Returns whether it came: a sweep may have no page left.
    async fn wait(self, world: &mut World) -> Result<bool> {
        if self == Self::Random {
            for daemon in &mut world.daemons {
                daemon.wait_ready(READY).await?;
            }
            world.a_while(200..2500).await;
            return Ok(true);
        }
        let start = Instant::now();
        while start.elapsed() < PAGE {
            if world.brokers.iter().any(TcpProxy::is_silent) {
                return Ok(true);
            }
            sleep(0.05).await;
        }
        Ok(false)
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Uploads objects that nothing announces. What is uploaded after that is announced.
async fn fill(world: &World, count: usize) -> Result<()> {
    world.unsubscribe().await?;
    let fate = |n| if n % INFECTED_EVERY == 0 { Fate::Infected } else { Fate::Clean };
    world.ledger.put_many("old-", count, fate).await?;
    world.direct.announce().await
}

/// Adds, overwrites and removes objects, for as long as a sweep takes.
fn change(ledger: &Ledger, count: usize) -> JoinHandle<Result<()>> {
    let ledger = ledger.clone();
    tokio::spawn(async move {
        for n in 0..CHANGES {
            // Each once, and none that is infected: between comparison and DELETE it could be replaced.
            let old = n * (count / CHANGES);
            let old = old + usize::from(old.is_multiple_of(INFECTED_EVERY));
            let key = format!("old-{old:05}");
            let fate = ledger.random(Fate::random);
            match n % 3 {
                0 => ledger.put(&format!("new-{n:02}"), fate).await.map(drop)?,
                1 => ledger.remove(&key).await?,
                _ => ledger.put_plain(&key, fate).await.map(drop)?,
            }
            sleep(0.3).await;
        }
        Ok(())
    })
}

fn killed(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        let count = objects(MANY);
        fill(world, count).await?;
        for daemon in &mut world.daemons {
            daemon.kill();
        }
        // So slow that live uploads come between.
        world.sweep(&["--detach", "--rate", "40"]).await?;
        let changing = change(&world.ledger, count);
        for (number, moment) in MOMENTS.into_iter().enumerate() {
            moment.arm(world);
            for daemon in &mut world.daemons {
                daemon.spawn()?;
            }
            if !moment.wait(world).await? {
                world.wrongs.push(format!("kill {number}: {moment:?} never came"));
            }
            for daemon in &mut world.daemons {
                daemon.kill();
            }
            // What a killed one had sent, and was held back, is lost with it.
            world.brokers.iter().for_each(TcpProxy::cut);
            world.brokers.iter().for_each(TcpProxy::pass);
        }
        for daemon in &mut world.daemons {
            daemon.spawn()?;
        }
        joined(changing).await?;
        finish(world, count, MOMENTS.len() * IN_WORK).await
    })
}

/// Waits for the end of the sweep, and checks what is true of each. `again`: objects that may have
/// been scanned once more.
async fn finish(world: &mut World, count: usize, again: usize) -> Result<()> {
    let limit = Duration::from_secs(120 + count as u64 / 10);
    world.expect("the sweep is done", limit, async |world| world.is_swept().await).await?;
    let unsettled = settle(world, Expected { swept: true, ..Expected::default() }).await?;
    if !unsettled.is_empty() {
        world.wrongs.push(format!("{} objects are not as they should be", unsettled.len()));
    }
    let (pages, wrongs) = world.chains(1).await?;
    world.wrongs.extend(wrongs);
    let audited = world.audited().await?;
    world.wrongs.extend(audited);
    let unchanged: HashSet<String> = world
        .ledger
        .uploads()
        .into_iter()
        .filter(|upload| !upload.over && upload.key.starts_with("old-"))
        .map(|upload| upload.sha256)
        .collect();
    let scans = world.engine.scans();
    let scans = scans.iter().filter(|scan| unchanged.contains(&scan.sha256)).count();
    say!("    {count} objects in {pages} pages; {} unchanged: {scans} scans", unchanged.len());
    if scans > unchanged.len() + again {
        let allowed = unchanged.len() + again;
        world.wrongs.push(format!("{scans} scans of unchanged objects, {allowed} are allowed"));
    }
    Ok(())
}

/// Waits until so many samples were scanned.
async fn scanned(world: &mut World, count: usize) -> Result<()> {
    let limit = Duration::from_mins(2);
    let enough = async |world: &World| Ok(world.engine.scans().len() >= count);
    world.expect("the sweep goes on", limit, enough).await
}

fn broker(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        let count = objects(MANY);
        fill(world, count).await?;
        // So slow that pages are still to be read.
        world.sweep(&["--detach", "--rate", "40"]).await?;
        scanned(world, count / 20).await?;
        world.restart("rabbitmq", None).await?;
        world.healed();
        scanned(world, count / 5).await?;
        world.restart("rabbitmq", Some(Duration::ZERO)).await?;
        finish(world, count, 2 * IN_WORK).await
    })
}

fn unavailable(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        let count = objects(MANY);
        fill(world, count).await?;
        let lists = Arc::new(AtomicUsize::new(0));
        world.sweep(&["--detach", "--rate", "100"]).await?;
        scanned(world, count / 20).await?;
        let refused = Arc::clone(&lists);
        let bucket = format!("/{}", world.direct.bucket);
        world.store.script(move |call: &Call| {
            let is_list = call.path.trim_end_matches('/') == bucket;
            refused.fetch_add(usize::from(is_list), Ordering::Relaxed);
            Fault::Answer(503, SLOW_DOWN)
        });
        sleep(6.0).await;
        let one = async |_: &World| Ok(lists.load(Ordering::Relaxed) > 0);
        world.expect("a list is refused", Duration::from_mins(1), one).await?;
        world.store.pass();
        world.healed();
        // A page and the objects in work.
        finish(world, count, IN_WORK).await
    })
}

/// Uploads some objects one after the other. Returns the longest time until one was reported.
async fn slowest(world: &mut World, prefix: &str, count: usize) -> Result<Duration> {
    let mut uploaded = Vec::new();
    for n in 0..count {
        let key = format!("{prefix}{n:02}");
        world.ledger.put_small(&key, Fate::Clean).await?;
        uploaded.push((key, Instant::now()));
        sleep(0.3).await;
    }
    let limit = Duration::from_secs(30);
    let reported = async |world: &World| {
        let taken = world.taken();
        Ok(uploaded.iter().all(|(key, _)| taken.iter().any(|taken| taken.report["key"] == **key)))
    };
    world.expect("every live object is reported", limit, reported).await?;
    let taken = world.taken();
    let times = uploaded.iter().filter_map(|(key, at)| {
        let first = taken.iter().find(|taken| taken.report["key"] == **key)?;
        Some(first.at.saturating_duration_since(*at))
    });
    times.max().context("no live object")
}

fn live(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        const LIVE: usize = 40;
        let alone = slowest(world, "before-", LIVE).await?;
        world.unsubscribe().await?;
        for n in 0..48 {
            world.ledger.put_plain(&format!("old-{n:02}"), Fate::Clean).await?;
        }
        world.direct.announce().await?;
        let (in_work, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (ledger, held, seen) = (world.ledger.clone(), Arc::clone(&in_work), Arc::clone(&most));
        world.engine.script(move |sha256| {
            if !ledger.by_sha256(sha256).is_some_and(|upload| upload.key.starts_with("old-")) {
                return EngineFault::Pass;
            }
            let now = held.fetch_add(1, Ordering::Relaxed) + 1;
            seen.fetch_max(now, Ordering::Relaxed);
            let held = Arc::clone(&held);
            EngineFault::Then(Box::pin(async move {
                sleep(6.0).await;
                held.fetch_sub(1, Ordering::Relaxed);
            }))
        });
        world.sweep(&["--detach"]).await?;
        let all = async |_: &World| Ok(in_work.load(Ordering::Relaxed) == 2 * SLOTS);
        world.expect("the sweep holds all slots", Duration::from_secs(20), all).await?;
        let beside = slowest(world, "beside-", LIVE).await?;
        say!("    upload to report: {alone:?} alone, {beside:?} beside the sweep");
        if beside > alone * 3 + Duration::from_secs(1) {
            world.wrongs.push(format!("live: {beside:?} beside the sweep, {alone:?} without"));
        }
        if in_work.load(Ordering::Relaxed) < SLOTS || most.load(Ordering::Relaxed) > 2 * SLOTS {
            world.wrongs.push("the sweep did not hold its slots, and no more".to_owned());
        }
        world.engine.pass();
        finish(world, 48, 0).await
    })
}

fn unannounced(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        world.unsubscribe().await?;
        joined(world.ledger.feed(OBJECTS, Duration::from_secs(3))).await?;
        // Waits for its end.
        world.sweep(&[]).await?;
        let (_, wrongs) = world.chains(1).await?;
        world.wrongs.extend(wrongs);
        settle(world, Expected { swept: true, ..Expected::default() }).await?;
        let audited = world.audited().await?;
        world.wrongs.extend(audited);
        Ok(())
    })
}
