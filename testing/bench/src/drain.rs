//! One run of the daemon, with a queue that is full at the start or is filled at a steady rate.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures_util::{StreamExt, TryStreamExt, stream};
use peers::error::{Context, Error, Result};
use serde::Serialize;
use stack::process::tail;

use crate::limits::Pace;
use crate::rig::{Rig, Settings};
use crate::sets::Object;
use crate::stats::{Percentiles, as_f64, u64_as_f64};
use crate::tap::{Progress, Record};
use crate::usage;

/// After this time without an acknowledgement the daemon hangs: its own limit for a scan is
/// shorter.
const STALL_TIMEOUT: Duration = Duration::from_mins(16);
/// Between two checks whether the daemon still works.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Parallel requests that remove and read tags.
const TAGGERS: usize = 8;
/// Processes that are measured but are not part of the service.
const OTHERS: [&str; 2] = ["harness", "sink"];
/// Objects whose tags are checked after every run but the first.
const SAMPLE: usize = 64;

/// The result of draining a full queue.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Drain {
    /// From the first delivery to the last acknowledgement.
    pub(super) pace: Pace,
    /// From the first acknowledgement to the last one.
    pub(super) first_to_last_ack: f64,
    /// Seconds of processor time, by process.
    pub(super) cpu: BTreeMap<&'static str, f64>,
    pub(super) peak_kib: u64,
    pub(super) deliver_to_ack: Option<Percentiles>,
}

impl Drain {
    /// Milliseconds of the daemon's processor time.
    pub(super) fn cpu_per_object(&self) -> f64 {
        self.daemon() * 1000.0 / as_f64(self.pace.objects)
    }

    /// Seconds of the daemon's processor time.
    pub(super) fn cpu_per_gib(&self) -> f64 {
        self.daemon() / (u64_as_f64(self.pace.bytes) / u64_as_f64(crate::sets::GIB))
    }

    /// The daemon's share of what daemon, engine, store and broker used.
    pub(super) fn share(&self) -> f64 {
        let all: f64 =
            self.cpu.iter().filter(|(name, _)| !OTHERS.contains(name)).map(|(_, cpu)| cpu).sum();
        if all > 0.0 { self.daemon() / all } else { 0.0 }
    }

    fn daemon(&self) -> f64 {
        self.cpu.get("daemon").copied().unwrap_or_default()
    }
}

/// The times of notifications that are published at a steady rate.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Paced {
    pub(super) per_second: f64,
    pub(super) publish_to_ack: Percentiles,
    pub(super) deliver_to_ack: Percentiles,
}

/// Objects whose tags are removed before a run and checked after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    All,
    Sample(u64),
}

impl Rig {
    /// Fills the queue, starts the daemon, and waits until everything is acknowledged.
    ///
    /// # Errors
    /// When the daemon hangs or ends, or an object did not end as it should.
    pub(super) async fn drain(
        &mut self,
        objects: &[&Object],
        settings: &Settings,
        check: Check,
    ) -> Result<Drain> {
        let checked = self.prepare(objects, check).await?;
        self.announce(objects).await?;
        self.spawn(settings)?;
        let parts = self.parts(settings)?;
        self.reach(|progress| progress.delivered > 0).await?;
        let before = usage::cpu(&parts)?;
        self.reach(|progress| progress.acked >= objects.len()).await?;
        let after = usage::cpu(&parts)?;
        let peak_kib = usage::peak_kib(parts[0].1)?;
        let record = self.finish(&checked, objects.len()).await?;
        let acks = record.seen.iter().filter_map(|seen| seen.acked);
        let (first, last) = (acks.clone().min(), acks.max());
        let between = first.zip(last).context("nothing was acknowledged")?;
        Ok(Drain {
            pace: pace(objects, &record)?,
            first_to_last_ack: (between.1 - between.0).as_secs_f64(),
            cpu: after.iter().map(|(name, cpu)| (*name, cpu - before[name])).collect(),
            peak_kib,
            deliver_to_ack: Percentiles::of(delivered_to_acked(&record)),
        })
    }

    /// Starts the daemon on an empty queue and publishes at a steady rate, even if the daemon
    /// cannot keep up.
    ///
    /// # Errors
    /// As [`Rig::drain`].
    pub(super) async fn paced(
        &mut self,
        objects: &[&Object],
        settings: &Settings,
        per_second: f64,
    ) -> Result<Paced> {
        let (sent, record) =
            self.paced_run(objects, settings, per_second, Check::Sample(0)).await?;
        let of = |times| Percentiles::of(times).context("nothing was acknowledged");
        Ok(Paced {
            per_second,
            publish_to_ack: of(published_to_acked(&sent, &record))?,
            deliver_to_ack: of(delivered_to_acked(&record).collect())?,
        })
    }

    /// As [`Rig::paced`], with every time: when each was sent, and the record.
    ///
    /// # Errors
    /// As [`Rig::drain`].
    pub(super) async fn paced_run(
        &mut self,
        objects: &[&Object],
        settings: &Settings,
        per_second: f64,
        check: Check,
    ) -> Result<(Vec<Instant>, Record)> {
        let checked = self.prepare(objects, check).await?;
        self.spawn(settings)?;
        self.daemon.wait_ready(STALL_TIMEOUT).await?;
        let sent = self.announce_at(objects, per_second).await?;
        self.reach(|progress| progress.acked >= objects.len()).await?;
        let record = self.finish(&checked, objects.len()).await?;
        Ok((sent, record))
    }

    /// Removes the tags that will be checked afterwards, and empties the tap's record.
    pub(super) async fn prepare<'a>(
        &self,
        objects: &[&'a Object],
        check: Check,
    ) -> Result<Vec<&'a Object>> {
        let mut different: Vec<&Object> = objects
            .iter()
            .map(|object| (object.key.as_str(), *object))
            .collect::<HashMap<_, _>>()
            .into_values()
            .collect();
        if let Check::Sample(seed) = check {
            different.sort_by(|a, b| a.key.cmp(&b.key));
            sample(&mut different, seed);
        }
        let left = self.amqp.count(&self.queues()[0]).await?;
        (left == Some(0)).then_some(()).context(format!("the queue is not empty: {left:?}"))?;
        stream::iter(&different)
            .map(|object| async move { self.s3.set_tags(&object.key, &[]).await })
            .buffer_unordered(TAGGERS)
            .try_collect::<Vec<()>>()
            .await?;
        drop(self.tap.take());
        Ok(different)
    }

    /// Waits until the tap has seen enough.
    ///
    /// # Errors
    /// When nothing happens for too long, or the daemon ends.
    pub(super) async fn reach(&mut self, enough: impl Fn(&Progress) -> bool) -> Result<()> {
        self.reach_while(enough, |rig| rig.daemon.status("/livez") == Some(200)).await
    }

    /// The same of whoever works on the queue, while it `lives`.
    ///
    /// # Errors
    /// As [`Rig::reach`].
    pub(super) async fn reach_while(
        &mut self,
        enough: impl Fn(&Progress) -> bool,
        lives: impl Fn(&mut Self) -> bool,
    ) -> Result<()> {
        let mut progress = self.tap.progress();
        let (mut last, mut since) = (Progress::default(), Instant::now());
        loop {
            if let Ok(reached) =
                tokio::time::timeout(POLL_INTERVAL, progress.wait_for(&enough)).await
            {
                return reached.map(drop).context("tap");
            }
            let now = *progress.borrow();
            if now != last {
                (last, since) = (now, Instant::now());
            }
            let ended = now.delivered > 0 && !lives(self);
            if ended || since.elapsed() > STALL_TIMEOUT || stack::place::interrupted() {
                let log = tail(&self.daemon.log(), 20);
                return Err(Error::new(format!("the daemon stalled at {now:?}; its log:\n{log}")));
            }
        }
    }

    /// Stops the daemon, and checks the queues and tags.
    pub(super) async fn finish(&mut self, checked: &[&Object], count: usize) -> Result<Record> {
        self.stop().await?;
        self.settled(checked, count).await
    }

    /// Checks that so many were acknowledged, and the queues and tags.
    ///
    /// # Errors
    /// When something is not as it should be.
    pub(super) async fn settled(&mut self, checked: &[&Object], count: usize) -> Result<Record> {
        let record = self.tap.take();
        let acked = record.seen.iter().filter(|seen| seen.acked.is_some()).count();
        let (refused, again) = (record.refused, record.redelivered);
        if (acked, refused, again) != (count, 0, 0) {
            return Err(Error::new(format!(
                "{acked} of {count} acknowledged, {refused} rejected, {again} redelivered"
            )));
        }
        self.all_empty(&self.queues()).await?;
        self.all_tagged(checked).await?;
        Ok(record)
    }

    /// Checks that nothing waits in these queues.
    pub(super) async fn all_empty(&self, queues: &[String]) -> Result<()> {
        for queue in queues {
            let left = self.amqp.count(queue).await?;
            let empty = left.is_none_or(|left| left == 0);
            empty.then_some(()).context(format!("{queue} holds {left:?} messages"))?;
        }
        Ok(())
    }

    /// Checks that these objects have the right tags.
    pub(super) async fn all_tagged(&self, objects: &[&Object]) -> Result<()> {
        stream::iter(objects)
            .map(|object| async move { self.look_at(object).await })
            .buffer_unordered(TAGGERS)
            .try_collect::<Vec<()>>()
            .await
            .map(drop)
    }

    async fn look_at(&self, object: &Object) -> Result<()> {
        let tags = self.s3.tags(&object.key).await?.context(format!("{} is gone", object.key))?;
        let wanted = if object.infected { "infected" } else { "clean" };
        let found = tags.get("scanned").map_or("nothing", |tag| tag);
        let right = found == wanted;
        right.then_some(()).context(format!("{} ended as {found}, not {wanted}", object.key))
    }
}

/// From the first delivery to the last acknowledgement.
///
/// # Errors
/// When nothing was acknowledged.
pub(super) fn pace(objects: &[&Object], record: &Record) -> Result<Pace> {
    let start = record.seen.first().context("nothing was delivered")?.delivered;
    let last = record.seen.iter().filter_map(|seen| seen.acked).max();
    Ok(Pace {
        objects: objects.len(),
        bytes: objects.iter().map(|object| object.size).sum(),
        seconds: (last.context("nothing was acknowledged")? - start).as_secs_f64(),
    })
}

/// Some of them, always the same ones for a seed.
pub(super) fn sample(objects: &mut Vec<&Object>, seed: u64) {
    Rng::with_seed(seed).shuffle(objects);
    objects.truncate(SAMPLE);
}

/// From publishing to the acknowledgement by the daemon, as it passes the tap. With one queue and one
/// consumer, deliveries have the order of publishing.
pub(super) fn published_to_acked(sent: &[Instant], record: &Record) -> Vec<Duration> {
    let both = sent.iter().zip(&record.seen);
    both.filter_map(|(sent, seen)| Some(seen.acked? - *sent)).collect()
}

fn delivered_to_acked(record: &Record) -> impl Iterator<Item = Duration> {
    record.seen.iter().filter_map(|seen| Some(seen.acked? - seen.delivered))
}
