//! A long queue of small notifications: does it drain at a steady rate, in steady memory?

use std::time::{Duration, Instant};

use peers::error::{Context, Result};
use serde::Serialize;
use stack::say;

use crate::rig::{Engine, Rig, Settings};
use crate::sets::{KIB, Object};
use crate::stats::{as_f64, u64_as_f64};
use crate::usage;

/// Between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);

/// The result.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Backlog {
    pub(super) notifications: usize,
    pub(super) slots: usize,
    pub(super) seconds: f64,
    /// Acknowledgements per second over the first and the last tenth of the notifications.
    pub(super) first_tenth: f64,
    pub(super) last_tenth: f64,
    pub(super) samples: Vec<Sample>,
    pub(super) peak_kib: u64,
}

/// One sample.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Sample {
    /// Since the first delivery.
    pub(super) seconds: f64,
    pub(super) acked: usize,
    /// Acknowledgements per second since the sample before.
    pub(super) rate: f64,
    pub(super) resident_kib: u64,
}

/// Drains `count` notifications about `objects` with four slots.
///
/// # Errors
/// When the daemon hangs or ends, or an object did not end as it should.
pub(super) async fn run(rig: &mut Rig, objects: &[Object], count: usize) -> Result<Backlog> {
    let settings = Settings::new(Engine::Clamd, 4, KIB);
    let all: Vec<&Object> = objects.iter().cycle().take(count).collect();
    let checked = rig.prepare(&all, crate::drain::Check::Sample(0)).await?;
    rig.announce(&all).await?;
    say!("[bench] backlog: {count} notifications are queued");
    rig.spawn(&settings)?;
    let daemon = rig.parts(&settings)?[0].1;
    rig.reach(|progress| progress.delivered > 0).await?;
    let (start, mut samples) = (Instant::now(), Vec::new());
    let progress = rig.tap.progress();
    let mut last = Sample { seconds: 0.0, acked: 0, rate: 0.0, resident_kib: 0 };
    while last.acked < count {
        let wait = rig.reach(|progress| progress.acked >= count);
        // A timeout only means that the next sample is due. A daemon that hangs is an error of
        // `reach`.
        if let Ok(reached) = tokio::time::timeout(SAMPLE_INTERVAL, wait).await {
            reached?;
        }
        let (seconds, acked) = (start.elapsed().as_secs_f64(), progress.borrow().acked);
        let rate = as_f64(acked - last.acked) / (seconds - last.seconds);
        last = Sample { seconds, acked, rate, resident_kib: usage::resident_kib(daemon)? };
        say!(
            "[bench] backlog: {acked} of {count}, {rate:.0}/s, {:.1} MiB",
            u64_as_f64(last.resident_kib) / 1024.0
        );
        samples.push(last);
    }
    let peak_kib = usage::peak_kib(daemon)?;
    let record = rig.finish(&checked, count).await?;
    let mut acks: Vec<Instant> = record.seen.iter().filter_map(|seen| seen.acked).collect();
    acks.sort();
    let tenth = count / 10;
    let rate = |part: &[Instant]| {
        let (first, last) = (part.first()?, part.last()?);
        Some(as_f64(part.len() - 1) / (*last - *first).as_secs_f64())
    };
    Ok(Backlog {
        notifications: count,
        slots: settings.slots,
        seconds: last.seconds,
        first_tenth: rate(&acks[..tenth]).context("too few notifications")?,
        last_tenth: rate(&acks[count - tenth..]).context("too few notifications")?,
        samples,
        peak_kib,
    })
}
