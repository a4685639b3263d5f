//! The tables of the status page, row by row.

use std::time::Duration;

use super::{Name, clock_time, long, since};
use crate::failure::Reason;
use crate::health::{QueueDepth, QueueKind, Readiness};
use crate::metrics::Metrics;
use crate::overview::{Entry, ResultLine, Step};
use crate::quantity::{bytes, count};

/// The reason of what waits for `surge confirm` or `surge clear`.
const SURGE_HELD: &str = Reason::SurgeHeld.into_str();

pub(super) struct QueueRow {
    pub(super) name: &'static str,
    pub(super) missing: String,
    pub(super) taken: &'static str,
    pub(super) ready: String,
    pub(super) retry: String,
    pub(super) dead: String,
}

pub(super) struct InWorkRow {
    pub(super) object: Name,
    pub(super) trigger: &'static str,
    pub(super) step: &'static str,
    /// In per cent, while it is downloaded.
    pub(super) percent: Option<u64>,
    pub(super) size: String,
    pub(super) since: String,
}

pub(super) struct ResultRow {
    pub(super) at: String,
    pub(super) object: Name,
    pub(super) version: Name,
    pub(super) size: String,
    pub(super) status: &'static str,
    pub(super) finding: Name,
    pub(super) action: &'static str,
    pub(super) error: &'static str,
    pub(super) trigger: &'static str,
}

pub(super) struct ParkedRow {
    pub(super) messages: String,
    pub(super) command: String,
}

pub(super) struct SweepRow {
    pub(super) bucket: Name,
    pub(super) listed: String,
    pub(super) announced: String,
    pub(super) left: String,
}

impl QueueRow {
    pub(super) fn of(depth: &QueueDepth, metrics: &Metrics) -> Self {
        Self {
            name: depth.queue.into_str(),
            taken: if metrics.is_open(depth.queue) { "yes" } else { "no" },
            missing: depth.missing.join(", "),
            ready: depth.ready.map(count).unwrap_or_default(),
            retry: count(depth.retry),
            dead: depth.dead.map(count).unwrap_or_default(),
        }
    }
}

impl InWorkRow {
    pub(super) fn of(entry: &Entry) -> Self {
        let (step, percent, size) = match &entry.step {
            Step::Asking => ("asking the store", None, String::new()),
            Step::Fetching { received, total } => {
                let received = received.bytes().min(*total);
                let percent = received.saturating_mul(100).checked_div(*total).unwrap_or(100);
                let size = format!("{} of {}", bytes(received), bytes(*total));
                ("downloading and scanning", Some(percent), size)
            }
            Step::Scanning => ("waiting for the verdict", None, String::new()),
            Step::Applying => ("tagging, moving or deleting", None, String::new()),
        };
        let (object, trigger, since) = (Name::of(&entry.object), entry.trigger, since(entry.since));
        Self { object, trigger, step, percent, size, since }
    }
}

impl ResultRow {
    pub(super) fn of(line: &ResultLine) -> Self {
        Self {
            at: clock_time(line.at),
            object: Name::of(&format!("{}/{}", line.bucket, line.key)),
            version: Name::of(line.version.as_deref().unwrap_or_default()),
            size: line.size.map(bytes).unwrap_or_default(),
            status: line.status,
            finding: Name::of(line.finding.as_deref().unwrap_or_default()),
            action: line.action,
            error: line.error.unwrap_or_default(),
            trigger: line.trigger,
        }
    }
}

/// What is parked, with the command that moves it back. The broker says how many messages there are.
/// To read them would count as failed deliveries of theirs in a quorum queue, so their reasons are
/// those of the messages that this replica parked.
pub(super) fn parked(depths: &[QueueDepth], metrics: &Metrics) -> Vec<ParkedRow> {
    let here = metrics.parked();
    let mut rows = Vec::new();
    for depth in depths {
        let Some(dead) = depth.dead.filter(|dead| *dead > 0) else { continue };
        let reports = match depth.queue {
            QueueKind::Reports => " --reports",
            QueueKind::Notifications | QueueKind::Backlog => "",
            // Its page would go on from where it was; a new one begins anew.
            QueueKind::Sweeps => {
                let messages =
                    format!("{} of sweeps: ask anew, then purge their queue", count(dead));
                rows.push(ParkedRow {
                    messages,
                    command: "bucket-av-scanner sweep BUCKET".to_owned(),
                });
                continue;
            }
        };
        let command = |which: &str| format!("bucket-av-scanner redrive{reports}{which}");
        let messages = format!("{} of {}", count(dead), depth.queue.into_str());
        rows.push(ParkedRow { messages, command: command(" --dry-run") });
        for ((_, reason), number) in here.iter().filter(|((queue, _), _)| *queue == depth.queue) {
            let messages = format!("{} for {reason}, parked here", count(*number));
            let command = match *reason {
                SURGE_HELD => "bucket-av-scanner surge list".to_owned(),
                reason => command(&format!(" --reason {reason}")),
            };
            rows.push(ParkedRow { messages, command });
        }
    }
    rows
}

/// The sweeps that go on. What is left is told of what waits in the backlog, at the rate of this
/// replica: how many objects are still to be listed is known to nobody.
pub(super) fn sweeps(readiness: &Readiness, rate: f64, depths: &[QueueDepth]) -> Vec<SweepRow> {
    let backlog = depths.iter().find(|depth| depth.queue == QueueKind::Backlog);
    let left = match backlog.and_then(|depth| Some(depth.ready? + depth.retry)) {
        None => "not known".to_owned(),
        Some(0) => "nothing waits".to_owned(),
        Some(messages) if rate > 0.0 => {
            // Exact enough for a time.
            let messages = u32::try_from(messages).unwrap_or(u32::MAX);
            let left = Duration::from_secs_f64(f64::from(messages) / rate * 60.0);
            format!("{} wait, {} at the rate of this replica", count(messages.into()), long(left))
        }
        Some(messages) => format!("{} wait", count(messages)),
    };
    let rows = readiness.sweeps.iter().map(|(bucket, sweep)| SweepRow {
        bucket: Name::of(&format!("{bucket}/{}", sweep.prefix)),
        listed: count(sweep.listed),
        announced: count(sweep.announced),
        left: left.clone(),
    });
    rows.collect()
}
