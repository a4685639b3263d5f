//! The `redrive` command: moves parked messages back to their work queue.

use std::collections::BTreeSet;
use std::process::ExitCode;

use super::{fail, say};
use crate::config::Settings;
use crate::event::{self, Notification};
use crate::metrics::Metrics;
use crate::queue::{ParkedMessage, RecordedFailure, RedriveError, Session, Topology, WorkQueue};

/// What to move back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redrive {
    /// Reports instead of notifications.
    pub reports: bool,
    /// Only messages parked for this reason.
    pub reason: Option<String>,
    /// List the messages and leave them parked.
    pub dry_run: bool,
}

/// What was found and done so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    seen: u64,
    /// Messages moved, or that a dry run would move.
    pub(super) moved: u64,
    reasons: BTreeSet<String>,
}

/// Moves parked messages back, each as a confirmed copy, and prints a line for each message.
pub async fn redrive(settings: &Settings, what: Redrive) -> ExitCode {
    let topology = Topology::new(&settings.broker, &settings.ladder, settings.publish.is_some());
    let work_queue = match (what.reports, &topology.reports) {
        (false, _) => &topology.notifications,
        (true, Some(reports)) => reports,
        (true, None) => {
            return fail("without PUBLISH_URL there is no queue of reports", 1);
        }
    };
    let session = match Session::open(
        &settings.broker,
        &settings.trust,
        &topology,
        &Metrics::default(),
    )
    .await
    {
        Ok(session) => session,
        Err(error) => {
            return fail(error, 1);
        }
    };
    let mut tally = Tally::default();
    let wanted = |failure: &RecordedFailure| {
        what.reason.as_deref().is_none_or(|only| only == failure.reason)
    };
    let result = move_back(&session, work_queue, what.dry_run, &mut tally, wanted).await;
    session.close().await;
    summarize(work_queue, &what, &tally);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(format!("interrupted: {error}; nothing is lost, run it again"), 1),
    }
}

/// Moves the wanted messages back and leaves the others parked. `tally` is right also on an error.
pub(super) async fn move_back(
    session: &Session,
    work_queue: &WorkQueue,
    dry_run: bool,
    tally: &mut Tally,
    wanted: impl Fn(&RecordedFailure) -> bool,
) -> Result<(), RedriveError> {
    let mut messages = session.parked(work_queue).await?;
    while let Some(message) = messages.next().await? {
        let wanted = wanted(&message.failure);
        tally.seen += 1;
        tally.moved += u64::from(wanted);
        tally.reasons.insert(message.failure.reason.clone());
        say(line(&message, wanted, dry_run));
        if wanted && !dry_run {
            messages.move_back(message).await?;
        } else {
            messages.put_back(message).await?;
        }
    }
    messages.finish().await;
    Ok(())
}

fn summarize(work_queue: &WorkQueue, what: &Redrive, tally: &Tally) {
    let Tally { seen, moved, reasons } = tally;
    let WorkQueue { queue, dead, .. } = work_queue;
    let dead = dead.as_deref().unwrap_or_default();
    let were = if what.dry_run { "would be" } else { "were" };
    say(format_args!("{moved} of {seen} messages in {dead} {were} moved to {queue}"));
    if let Some(reason) = what.reason.as_deref().filter(|_| *moved == 0 && *seen > 0) {
        let reasons: Vec<_> = reasons.iter().map(String::as_str).collect();
        say(format_args!("none was parked for {reason}; there is {}", reasons.join(", ")));
    }
}

fn line(message: &ParkedMessage, wanted: bool, dry_run: bool) -> String {
    let what = match event::parse(message.body()) {
        Ok(Notification::Object(object) | Notification::Unsettled { written: object, .. }) => {
            format!("{}/{}", object.bucket, object.key)
        }
        _ => format!("{} bytes", message.body().len()),
    };
    let fate = match (wanted, dry_run) {
        (true, false) => "moved",
        (true, true) => "would move",
        (false, _) => "stays",
    };
    let failure = &message.failure;
    // Debug format: keys and details may contain control characters, which must not reach a
    // terminal.
    format!(
        "{fate:<10} {:<16} {:<6} attempts {:<3} {} to {} {what:?} {:?}",
        failure.reason,
        failure.stage,
        message.attempts(),
        failure.first_failure,
        failure.last_failure,
        failure.detail
    )
}
