//! The `surge` command: shows which signatures are held, and takes the decision of a person.

use std::process::ExitCode;
use std::time::SystemTime;

use super::desk::Desk;
use super::redrive::{Tally, move_back};
use super::say;
use crate::clock;
use crate::config::Settings;
use crate::failure::Reason;
use crate::surge::{Fact, Ledger, Ruling, State};

/// What a person says of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// It is right.
    Right,
    /// It was wrong.
    Wrong,
}

/// What was ruled is in the journal: nothing has to be counted.
async fn open(settings: &Settings) -> Result<Desk<Ledger>, String> {
    let ledger = Ledger::new(usize::MAX, std::time::Duration::ZERO);
    Desk::open(settings, ledger, |ledger, fact: Fact| drop(ledger.apply(fact))).await
}

/// Prints every signature that was held since the journal begins, one a line. Exit codes: 0, or 1 when
/// that cannot be found out.
pub async fn surge_list(settings: &Settings) -> ExitCode {
    let desk = match open(settings).await {
        Ok(desk) => desk,
        Err(error) => return complain(&error),
    };
    let lines: Vec<String> = desk.ledger().rulings().map(describe).collect();
    if lines.is_empty() {
        say("nothing is held");
    }
    lines.into_iter().for_each(say);
    desk.session.close().await;
    ExitCode::SUCCESS
}

fn describe(Ruling { signature, state, at, .. }: &Ruling) -> String {
    let what = match state {
        State::Held => "held",
        State::Confirmed => "confirmed: deletions go on",
        State::Counted => "cleared: counted anew",
    };
    // Debug format, as it comes from the engine.
    format!("{signature:?} {what}, since {}", clock::rfc3339(clock::time_of(*at)))
}

/// Ends the hold of a signature. If it is right, deletions go on and what was parked is moved back.
/// Exit codes: 0 done, 1 not.
pub async fn surge_decide(settings: &Settings, signature: &str, judgement: Judgement) -> ExitCode {
    let desk = match open(settings).await {
        Ok(desk) => desk,
        Err(error) => return complain(&error),
    };
    let decided = match judgement {
        Judgement::Right => confirm(&desk, signature).await,
        Judgement::Wrong => clear(&desk, signature).await,
    };
    desk.session.close().await;
    match decided {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

async fn confirm(desk: &Desk<Ledger>, signature: &str) -> Result<(), String> {
    let state = desk.ledger().state(signature);
    match state {
        State::Counted => return Err(format!("{signature}: not held; see `surge list`")),
        State::Held => rule(desk, signature, State::Confirmed).await?,
        // An earlier command may not have moved all of them.
        State::Confirmed => {}
    }
    say(format_args!("{signature}: confirmed, deletions go on"));
    let wanted = Reason::SurgeHeld.into_str();
    let mut tally = Tally::default();
    let notifications = &desk.topology.notifications;
    let moved = move_back(&desk.session, notifications, false, &mut tally, |failure| {
        failure.reason == wanted && failure.signature == signature
    });
    let moved = moved.await;
    say(format_args!("{} parked objects were moved back to {}", tally.moved, notifications.queue));
    moved.map_err(|error| format!("interrupted: {error}; nothing is lost, run it again"))
}

async fn clear(desk: &Desk<Ledger>, signature: &str) -> Result<(), String> {
    if desk.ledger().state(signature) == State::Counted {
        return Err(format!("{signature}: neither held nor confirmed; see `surge list`"));
    }
    rule(desk, signature, State::Counted).await?;
    say(format_args!("{signature}: cleared, the hold is over and counting begins anew"));
    say("Take the signature out of the engine's database, if that is not done yet. Then:");
    say(format_args!(
        "  what was moved:  quarantine rescan --signature {signature} --release-clean"
    ));
    say("  what was parked: redrive --reason surge_held (each is scanned again)");
    Ok(())
}

/// Appends a ruling, and makes sure that it is the one that stands.
async fn rule(desk: &Desk<Ledger>, signature: &str, state: State) -> Result<(), String> {
    let now = clock::millis(SystemTime::now());
    let ruling = desk.ledger().next(signature, state, now);
    let appended = desk.journal.append_and_read(&Fact::Ruled(ruling)).await;
    appended.map_err(|error| error.to_string())?;
    if desk.ledger().state(signature) == state {
        return Ok(());
    }
    Err(format!("{signature}: somebody else has decided meanwhile; see `surge list`"))
}

fn complain(line: &str) -> ExitCode {
    super::fail(line, 1)
}
