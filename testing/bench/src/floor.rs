//! The floor: the least work that any correct scanner has to do for a clean object, beside the daemon.
//!
//! A bare loop takes a notification, downloads the object, has it scanned, sets the tags that the daemon
//! sets, and acknowledges. Its requests are signed beforehand, it compares nothing, keeps the tags of
//! nobody, tests no engine and survives no fault: no scanner needs less, and none should be it. It consumes the same queue through the same tap, with
//! as many objects in flight, in turn with the daemon.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use peers::error::{Context, Error, Result};
use serde::Serialize;
use stack::{Amqp, Seaweed, say};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::connection::{ANSWER_TIMEOUT, Connection};
use crate::drain::{Check, pace, published_to_acked};
use crate::limits::Pace;
use crate::report::number;
use crate::rig::{Engine, Rig, Settings};
use crate::sets::{KIB, Object, SETS, Set, Shape};
use crate::stats::{Percentiles, Spread, whole};
use crate::tap::Record;

/// Runs, if not more are wanted.
const RUNS: u32 = 5;
/// Notifications of a measurement of latencies.
const PACED: usize = 5000;
/// The first of each start, which do not count: connections are opened, and caches are cold.
const WARM_UP: usize = 50;
/// What is measured: the set, and the concurrencies.
const CASES: [(Set, &[usize]); 5] = [
    (SETS[1], &[1, 4, 16, 32]),
    (SETS[0], &[4]),
    (
        Set {
            name: "100KiB",
            shape: Shape::Same(100 * KIB),
            stored: 500,
            slots: &[],
            drained: (64, 500),
        },
        &[4],
    ),
    (SETS[2], &[4]),
    (SETS[5], &[4]),
];
/// The concurrencies with an aim, for objects of 10 KiB.
pub(super) const AIMED: [usize; 2] = [4, 16];
/// A tag as long as a receipt of the daemon.
const RECEIPT: usize = 230;

/// The figures of both stores.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Floor {
    pub(super) rows: Vec<Row>,
    pub(super) tails: Vec<Tail>,
}

/// One store, one set, one concurrency.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) versioned: bool,
    pub(super) set: String,
    pub(super) slots: usize,
    /// Objects a second of the bare loop.
    pub(super) floor: Spread,
    /// The same of the daemon.
    pub(super) daemon: Spread,
    /// The daemon's as a part of the loop's, of the same run.
    pub(super) ratio: Spread,
    /// Processor time of the daemon, in milliseconds for each object.
    pub(super) cpu_ms: Spread,
}

/// Times from notification to acknowledgement at half of the daemon's highest rate.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Tail {
    pub(super) versioned: bool,
    pub(super) per_second: f64,
    pub(super) floor: Percentiles,
    pub(super) daemon: Percentiles,
}

/// Measures in a bucket without versions of the stack's store, and in one with versions of another.
///
/// # Errors
/// When an object is not tagged, or a request fails.
pub(super) async fn run(rig: &mut Rig, runs: u32, seconds: u32) -> Result<Floor> {
    let runs = runs.max(RUNS);
    let mut floor = Floor { rows: Vec::new(), tails: Vec::new() };
    measure(rig, false, (runs, seconds), &mut floor).await?;
    let seaweed = Seaweed::start().await?;
    rig.move_to(&seaweed).await?;
    measure(rig, true, (runs, seconds), &mut floor).await?;
    Ok(floor)
}

async fn measure(
    rig: &mut Rig,
    versioned: bool,
    (runs, seconds): (u32, u32),
    results: &mut Floor,
) -> Result<()> {
    for (set, concurrencies) in CASES {
        let objects = rig.store(&set).await?;
        for slots in concurrencies {
            let row = case(rig, (&set, versioned), &objects, *slots, (runs, seconds)).await?;
            say!(
                "[bench] {} ×{slots}{}: {}/s, {:.0} % of the floor ({}/s), {} ms CPU",
                row.set,
                if versioned { " with versions" } else { "" },
                number(row.daemon.median),
                row.ratio.median * 100.0,
                number(row.floor.median),
                number(row.cpu_ms.median)
            );
            if set.name == "10KiB" && *slots == 4 {
                let tail = tail(rig, &objects, *slots, row.daemon.median / 2.0, versioned).await?;
                say!(
                    "[bench] {}/s: p50 / p95 / p99 {} / {} / {} ms, the floor's {} / {} / {}",
                    number(tail.per_second),
                    number(tail.daemon.p50),
                    number(tail.daemon.p95),
                    number(tail.daemon.p99),
                    number(tail.floor.p50),
                    number(tail.floor.p95),
                    number(tail.floor.p99)
                );
                results.tails.push(tail);
            }
            results.rows.push(row);
        }
    }
    Ok(())
}

async fn case(
    rig: &mut Rig,
    (set, versioned): (&Set, bool),
    objects: &[Object],
    slots: usize,
    (runs, seconds): (u32, u32),
) -> Result<Row> {
    let settings = Settings::new(Engine::Clamd, slots, set.longest());
    // Measures how many objects fill the time. Does not count, because the caches are cold.
    let some: Vec<&Object> = objects.iter().take(set.drained.0.max(slots)).collect();
    let guess = rig.bare_drain(&some, slots).await?;
    let count = whole(guess.rate() * f64::from(seconds) / 2.0).clamp(set.drained.0, set.drained.1);
    let chosen: Vec<&Object> = objects.iter().take(count.max(slots)).collect();
    let (mut floor, mut daemon, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..runs {
        // In turn, so that none is always the first.
        if run % 2 == 0 {
            floor.push(rig.bare_drain(&chosen, slots).await?.rate());
        }
        let drain = rig.drain(&chosen, &settings, Check::All).await?;
        daemon.push(drain.pace.rate());
        cpu.push(drain.cpu_per_object());
        if run % 2 == 1 {
            floor.push(rig.bare_drain(&chosen, slots).await?.rate());
        }
    }
    let ratio = daemon.iter().zip(&floor).map(|(daemon, floor)| daemon / floor);
    Ok(Row {
        versioned,
        set: set.name.to_owned(),
        slots,
        ratio: Spread::of(ratio).context("no run")?,
        floor: Spread::of(floor).context("no run")?,
        daemon: Spread::of(daemon).context("no run")?,
        cpu_ms: Spread::of(cpu).context("no run")?,
    })
}

async fn tail(
    rig: &mut Rig,
    objects: &[Object],
    slots: usize,
    per_second: f64,
    versioned: bool,
) -> Result<Tail> {
    let settings = Settings::new(Engine::Clamd, slots, 10 * KIB);
    let (mut floor, mut daemon) = (Vec::new(), Vec::new());
    // In parts, in turn: each object once a part, so that none has tags when its turn comes.
    while daemon.len() < PACED {
        let part: Vec<&Object> = objects.iter().take(PACED - daemon.len() + WARM_UP).collect();
        let (sent, record) = rig.bare_paced(&part, slots, per_second).await?;
        floor.extend(published_to_acked(&sent, &record).into_iter().skip(WARM_UP));
        let (sent, record) = rig.paced_run(&part, &settings, per_second, Check::All).await?;
        daemon.extend(published_to_acked(&sent, &record).into_iter().skip(WARM_UP));
    }
    let of = |times: Vec<Duration>| Percentiles::of(times).context("nothing was acknowledged");
    Ok(Tail { versioned, per_second, floor: of(floor)?, daemon: of(daemon)? })
}

impl Rig {
    /// Fills the queue and empties it with the bare loop.
    async fn bare_drain(&mut self, objects: &[&Object], slots: usize) -> Result<Pace> {
        let checked = self.prepare(objects, Check::All).await?;
        self.announce(objects).await?;
        let bare = Bare::start(self, objects, slots).await?;
        self.reach_while(|progress| progress.acked >= objects.len(), |_| !bare.failed()).await?;
        bare.stop().await?;
        let record = self.settled(&checked, objects.len()).await?;
        pace(objects, &record)
    }

    /// Publishes at a steady rate, and has the bare loop work.
    async fn bare_paced(
        &mut self,
        objects: &[&Object],
        slots: usize,
        per_second: f64,
    ) -> Result<(Vec<Instant>, Record)> {
        let checked = self.prepare(objects, Check::All).await?;
        let bare = Bare::start(self, objects, slots).await?;
        let sent = self.announce_at(objects, per_second).await?;
        self.reach_while(|progress| progress.acked >= objects.len(), |_| !bare.failed()).await?;
        bare.stop().await?;
        let record = self.settled(&checked, objects.len()).await?;
        Ok((sent, record))
    }
}

/// What is sent for an object, signed.
struct Job {
    get: Vec<u8>,
    set_tags: Vec<u8>,
    size: u64,
    infected: bool,
}

/// The loop at work.
struct Bare {
    threads: Vec<JoinHandle<Result<()>>>,
    broker: Amqp,
    channel: lapin::Channel,
}

/// Ends when the channel does.
type Deliveries = Arc<Mutex<mpsc::Receiver<Delivery>>>;

impl Bare {
    async fn start(rig: &Rig, objects: &[&Object], slots: usize) -> Result<Self> {
        let job = |object: &Object| {
            let version = object.version.as_ref().map(|version| format!("versionId={version}"));
            let version = version.unwrap_or_default();
            let tagging = ["tagging=", &version].join(if version.is_empty() { "" } else { "&" });
            Job {
                get: rig.s3.signed("GET", &object.key, &version, b""),
                set_tags: rig.s3.signed("PUT", &object.key, &tagging, tags(object).as_bytes()),
                size: object.size,
                infected: object.infected,
            }
        };
        let jobs: HashMap<String, Job> =
            objects.iter().map(|object| (object.key.clone(), job(object))).collect();
        let (jobs, settings) = (Arc::new(jobs), rig.stack.settings());
        let broker = Amqp::connect_at(settings, rig.tap.port()).await?;
        let channel = broker.channel().await?;
        let prefetch = u16::try_from(slots).context("slots")?;
        channel.basic_qos(prefetch, BasicQosOptions::default()).await.context("prefetch")?;
        let (queue, tag) = (rig.daemon.names.queue.as_str().into(), "floor".into());
        let options = BasicConsumeOptions::default();
        let mut consumer = channel
            .basic_consume(queue, tag, options, FieldTable::default())
            .await
            .context("consume")?;
        let (sender, receiver) = mpsc::channel(slots);
        let receiver: Deliveries = Arc::new(Mutex::new(receiver));
        tokio::spawn(async move {
            while let Some(Ok(delivery)) = consumer.next().await {
                if sender.send(delivery).await.is_err() {
                    return;
                }
            }
        });
        let threads = (0..slots).map(|_| {
            let (jobs, receiver) = (Arc::clone(&jobs), Arc::clone(&receiver));
            let store = rig.store_url.trim_start_matches("http://").to_owned();
            let (clamd, runtime) = (settings.clamd_socket.clone(), Handle::current());
            std::thread::spawn(move || work(&jobs, &receiver, &store, &clamd, &runtime))
        });
        Ok(Self { threads: threads.collect(), broker, channel })
    }

    /// Whether a thread has ended.
    fn failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    async fn stop(self) -> Result<()> {
        self.channel.close(200, "done".into()).await.context("close")?;
        drop(self.broker);
        for thread in self.threads {
            let joined = tokio::task::block_in_place(|| thread.join());
            joined.map_err(|_| Error::new("a thread panicked"))??;
        }
        Ok(())
    }
}

/// One slot: one object after the other.
fn work(
    jobs: &HashMap<String, Job>,
    deliveries: &Mutex<mpsc::Receiver<Delivery>>,
    store: &str,
    clamd: &Path,
    runtime: &Handle,
) -> Result<()> {
    let mut connection = Connection::new(store);
    let mut stream = Vec::new();
    loop {
        let next = deliveries.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(delivery) = next else { return Ok(()) };
        let told: serde_json::Value = serde_json::from_slice(&delivery.data).context("event")?;
        let name = told["Key"].as_str().and_then(|name| name.split_once('/'));
        let job = name.and_then(|(_, key)| jobs.get(key)).context("an unknown key")?;
        stream.clear();
        stream.extend(b"zINSTREAM\0");
        stream.extend(u32::try_from(job.size).context("size")?.to_be_bytes());
        let length = connection.ask(&job.get, |part| {
            stream.extend(part);
            Ok(())
        })?;
        (length == job.size).then_some(()).context("another length")?;
        stream.extend([0; 4]);
        scan(clamd, &stream, job.infected)?;
        connection.ask(&job.set_tags, |_| Ok(()))?;
        runtime.block_on(delivery.ack(BasicAckOptions::default())).context("ack")?;
    }
}

/// The tags that the daemon sets, as far as a store can tell.
fn tags(object: &Object) -> String {
    let status = if object.infected { "infected" } else { "clean" };
    let tag = |key, value: &str| format!("<Tag><Key>{key}</Key><Value>{value}</Value></Tag>");
    let tags = tag("scanned", status) + &tag("scanned-receipt", &"x".repeat(RECEIPT));
    let namespace = "http://s3.amazonaws.com/doc/2006-03-01/";
    format!("<Tagging xmlns=\"{namespace}\"><TagSet>{tags}</TagSet></Tagging>")
}

fn scan(clamd: &Path, stream: &[u8], infected: bool) -> Result<()> {
    let mut socket = UnixStream::connect(clamd).context("clamd")?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT)).context("clamd")?;
    socket.write_all(stream).context("clamd")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).context("clamd")?;
    let right = if infected { answer.contains(" FOUND") } else { answer == "stream: OK\0" };
    right.then_some(()).context(format!("clamd answers {answer}"))
}
