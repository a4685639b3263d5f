//! The `redrive` command: what was parked goes back to its queue.

use std::collections::BTreeSet;
use std::process::ExitCode;

use super::say;
use crate::config::Settings;
use crate::event::{self, Notification};
use crate::metrics::Metrics;
use crate::queue::{Parked, Session, Topology};

/// What to move back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redrive {
    /// Reports instead of notifications.
    pub reports: bool,
    /// Only what was parked for this reason.
    pub reason: Option<String>,
    /// Only list.
    pub dry_run: bool,
}

/// Moves parked messages back, one confirmed copy after the other, and prints a line for each.
#[expect(clippy::print_stderr, reason = "this is what the command is for")]
pub async fn redrive(settings: &Settings, what: Redrive) -> ExitCode {
    let topology = Topology::new(&settings.broker, &settings.ladder, settings.publish.is_some());
    let lane = match (what.reports, &topology.reports) {
        (false, _) => &topology.notifications,
        (true, Some(reports)) => reports,
        (true, None) => {
            eprintln!("without PUBLISH_URL there is no queue of reports");
            return ExitCode::FAILURE;
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
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let (mut seen, mut moved, mut reasons) = (0_u64, 0_u64, BTreeSet::new());
    let ended = session.redrive(lane, |parked| {
        let wanted = what.reason.as_deref().is_none_or(|reason| reason == parked.reason);
        seen += 1;
        reasons.insert(parked.reason.to_owned());
        moved += u64::from(wanted);
        say(line(parked, wanted, what.dry_run));
        wanted && !what.dry_run
    });
    let ended = ended.await;
    session.close().await;
    let would = if what.dry_run { "would be" } else { "were" };
    say(format_args!(
        "{moved} of {seen} messages in {} {would} moved to {}",
        lane.dead, lane.queue
    ));
    if let Some(reason) = what.reason.filter(|_| moved == 0 && seen > 0) {
        let there: Vec<_> = reasons.iter().map(String::as_str).collect();
        say(format_args!("none was parked for {reason}; there is {}", there.join(", ")));
    }
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("interrupted: {error}; nothing is lost, run it again");
            ExitCode::FAILURE
        }
    }
}

fn line(parked: &Parked<'_>, wanted: bool, dry_run: bool) -> String {
    let what = match event::parse(parked.body) {
        Ok(Notification::Object(object) | Notification::Unsettled { written: object, .. }) => {
            format!("{}/{}", object.bucket, object.key)
        }
        _ => format!("{} bytes", parked.body.len()),
    };
    let fate = match (wanted, dry_run) {
        (true, false) => "moved",
        (true, true) => "would move",
        (false, _) => "stays",
    };
    // Keys and details come from elsewhere and must not move the cursor.
    format!(
        "{fate:<10} {:<16} {:<6} attempts {:<3} {} to {} {what:?} {:?}",
        parked.reason,
        parked.stage,
        parked.attempts,
        parked.first_failure,
        parked.last_failure,
        parked.detail
    )
}
