//! The `sweep` command: asks for sweeps, shows how far they are, ends them.

mod dry_run;
mod progress;

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use uuid::Uuid;

use self::progress::Progress;
use super::audit::Target;
use super::desk::Desk;
use super::receipts::keys;
use super::{BAD_ARGUMENTS, BAD_CONFIGURATION, fail, say};
use crate::clock;
use crate::config::Settings;
use crate::sweep::{End, Fact, Ledger, Order, Selection, State, Sweep, Why};
use crate::trace::Trace;

/// Between two looks at how far the sweeps are.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Between two lines about it, where no terminal shows bars.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// After which nobody seems to be there who takes a sweep.
const PATIENCE: Duration = Duration::from_secs(15);

/// What to sweep, and how.
#[derive(Debug, Clone)]
pub struct Request {
    /// Buckets, each with a prefix or without.
    pub targets: Vec<Target>,
    /// Which objects.
    pub select: Select,
    /// Only objects uploaded within this time.
    pub uploaded_within: Option<Duration>,
    /// Only the current version of each object.
    pub current_only: bool,
    /// The most objects to announce in a second.
    pub rate: Option<u32>,
    /// Count, and announce nothing.
    pub dry_run: bool,
    /// Do not wait for the end.
    pub detach: bool,
}

/// Which objects a sweep is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select {
    /// Those without a valid receipt.
    Missing,
    /// Those, and those whose scan is older.
    ScannedBefore(Duration),
    /// Those, and those whose database is older than this time, in seconds since 1970.
    DatabaseBefore(i64),
    /// All.
    All,
}

async fn open(settings: &Settings) -> Result<Desk<Ledger>, String> {
    Desk::open(settings, Ledger::default(), Ledger::apply).await
}

/// Objects that wait to be scanned.
async fn waiting(desk: &Desk<Ledger>) -> Result<u64, String> {
    let queues = desk.topology.backlog.with_retry();
    desk.session.publisher().depth(&queues).await.map_err(|failure| failure.to_string())
}

/// Asks for the sweeps and waits for their end. Exit codes: 0 done or asked for, 1 not, 78
/// configuration.
pub async fn sweep(settings: &Settings, what: Request) -> ExitCode {
    let keys = match keys(&settings.receipts) {
        Ok(keys) => keys,
        Err(error) => return fail(&error, BAD_CONFIGURATION),
    };
    let receipts = !keys.is_empty() && settings.policy.tag_files;
    if !receipts && what.select != Select::All && what.uploaded_within.is_none() {
        let line = "without RECEIPT_KEY nothing tells what was scanned: use --all or \
                    --uploaded-within";
        return fail(line, 1);
    }
    let quarantine = &settings.policy.quarantine_bucket;
    if what.targets.iter().any(|target| quarantine.as_ref() == Some(&target.bucket)) {
        return fail("nothing in QUARANTINE_BUCKET is scanned", BAD_CONFIGURATION);
    }
    let mut buckets = HashSet::new();
    if let Some(twice) = what.targets.iter().find(|target| !buckets.insert(&target.bucket)) {
        let line = format!("{}: a bucket has one sweep at a time, name it once", twice.bucket);
        return fail(&line, BAD_ARGUMENTS);
    }
    if what.dry_run {
        return dry_run::dry_run(settings, keys, &what, receipts).await;
    }
    match open(settings).await {
        Ok(desk) => {
            let code = ask(&desk, settings, &what, receipts).await;
            desk.session.close().await;
            code
        }
        Err(error) => fail(&error, 1),
    }
}

/// The order for one target, as of `now` in milliseconds since 1970.
fn order(what: &Request, target: &Target, receipts: bool, now: i64) -> Order {
    let before =
        |age: Duration| now.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    let selection = match what.select {
        _ if !receipts => Selection::All,
        Select::Missing => Selection::Missing,
        Select::ScannedBefore(age) => Selection::ScannedBefore(before(age)),
        Select::DatabaseBefore(date) => Selection::DatabaseBefore(date),
        Select::All => Selection::All,
    };
    Order {
        bucket: target.bucket.clone(),
        prefix: target.prefix.clone(),
        selection,
        uploaded_since: what.uploaded_within.map(|age| before(age) / 1000),
        current_only: what.current_only,
        rate: what.rate,
    }
}

async fn ask(desk: &Desk<Ledger>, settings: &Settings, what: &Request, receipts: bool) -> ExitCode {
    for target in &what.targets {
        let running = desk.ledger().running(&target.bucket).map(describe);
        if let Some(running) = running {
            let line = format!("{}: {running}; `sweep cancel` ends it", target.bucket);
            return fail(&line, 1);
        }
    }
    let mut sweeps = Vec::new();
    for target in &what.targets {
        let now = clock::millis(SystemTime::now());
        let state = State::first(now, order(what, target, receipts, now), Why::Asked, receipts);
        let body = serde_json::to_vec(&state).map_err(|error| error.to_string());
        let offered = match body {
            Ok(body) => {
                let (queue, trace) = (&desk.topology.sweeps.queue, Trace::default());
                let offered = desk.session.publisher().announce(queue, &body, &trace);
                offered.await.map_err(|failure| failure.to_string())
            }
            Err(error) => Err(error),
        };
        match offered {
            Ok(true) => say(format!("{}: sweep {} is asked for", target.bucket, state.sweep)),
            Ok(false) => return fail("the queue of sweeps is full", 1),
            Err(error) => return fail(&error, 1),
        }
        sweeps.push(state.sweep);
    }
    if what.detach {
        return ExitCode::SUCCESS;
    }
    let asked = sweeps.iter().copied().zip(&what.targets);
    let progress = Progress::start(settings, asked, what.current_only).await;
    match follow(desk, &sweeps, progress).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => fail(format!("{error}; the sweep goes on without this command"), 1),
    }
}

/// Shows how far the sweeps are, until they are done and what they announced is taken. Returns whether
/// all were done.
async fn follow(
    desk: &Desk<Ledger>,
    sweeps: &[Uuid],
    mut progress: Option<Progress>,
) -> Result<bool, String> {
    let started = Instant::now();
    let (mut open, mut good): (Vec<Uuid>, bool) = (sweeps.to_vec(), true);
    let (mut warned, mut shown) = (false, Instant::now());
    loop {
        let lost = tokio::time::timeout(LOOK_INTERVAL, desk.session.lost().cancelled()).await;
        if lost.is_ok() {
            return Err("the broker session is lost".to_owned());
        }
        open.retain(|id| match over(desk, *id) {
            None => true,
            Some((line, is_good)) => {
                match &progress {
                    Some(progress) => progress.end(*id, &line),
                    None => say(line),
                }
                good &= is_good;
                false
            }
        });
        if !warned && started.elapsed() > PATIENCE && !is_taken(desk, &open) {
            warned = true;
            let line = "no daemon takes the sweep yet: is one running, with this queue?";
            progress.as_ref().map_or_else(|| say(line), |progress| progress.say(line));
        }
        let line_due = shown.elapsed() >= LINE_INTERVAL;
        if !open.is_empty() && !line_due && progress.is_none() {
            continue;
        }
        let waiting = waiting(desk).await?;
        if open.is_empty() && (waiting == 0 || !good) {
            return Ok(good);
        }
        if let Some(progress) = &mut progress {
            let ledger = desk.ledger();
            open.iter().filter_map(|id| ledger.sweep(*id)).for_each(|sweep| progress.show(sweep));
            progress.show_waiting(waiting);
        } else if line_due {
            shown = Instant::now();
            let ledger = desk.ledger();
            open.iter().filter_map(|id| ledger.sweep(*id)).map(describe).for_each(say);
            say(format!("{waiting} objects wait to be scanned"));
        }
    }
}

/// Whether some daemon has begun all these sweeps.
fn is_taken(desk: &Desk<Ledger>, open: &[Uuid]) -> bool {
    let ledger = desk.ledger();
    open.iter().all(|id| ledger.sweep(*id).is_some())
}

/// How a sweep ended, and whether well; `None` while it goes on.
fn over(desk: &Desk<Ledger>, id: Uuid) -> Option<(String, bool)> {
    let ledger = desk.ledger();
    if let Some(because_of) = ledger.refused_because_of(id) {
        return Some((format!("sweep {id} is refused: sweep {because_of} goes on"), false));
    }
    let sweep = ledger.sweep(id)?;
    let end = sweep.end.as_ref()?;
    Some((describe(sweep), *end == End::Done))
}

/// One line about a sweep.
fn describe(sweep: &Sweep) -> String {
    let Sweep { id, order, at, counts, end, .. } = sweep;
    let how = match end {
        None => "goes on".to_owned(),
        Some(End::Done) => "is done".to_owned(),
        Some(End::Cancelled) => "was cancelled".to_owned(),
        Some(End::Failed(why)) => format!("failed: {why}"),
    };
    let began = clock::time_of(*at);
    format!(
        "sweep {id} of {}{}{} {how}: begun {}, {} looked at in this pass, {} announced, {} not found out",
        order.bucket.escape_debug(),
        if order.prefix.is_empty() { "" } else { "/" },
        order.prefix.escape_debug(),
        clock::rfc3339(began),
        counts.listed,
        counts.announced,
        counts.unknown,
    )
}

/// Prints all sweeps that the journal tells of, and what waits.
pub async fn sweep_status(settings: &Settings) -> ExitCode {
    let desk = match open(settings).await {
        Ok(desk) => desk,
        Err(error) => return fail(&error, 1),
    };
    let lines: Vec<String> = desk.ledger().sweeps().iter().map(describe).collect();
    if lines.is_empty() {
        say("no sweep within the last week");
    }
    lines.into_iter().for_each(say);
    let waiting = waiting(&desk).await;
    desk.session.close().await;
    match waiting {
        Ok(waiting) => {
            say(format!("{waiting} objects wait to be scanned"));
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, 1),
    }
}

/// Ends the sweep of a bucket. What it has announced is scanned all the same.
pub async fn sweep_cancel(settings: &Settings, bucket: &str) -> ExitCode {
    let desk = match open(settings).await {
        Ok(desk) => desk,
        Err(error) => return fail(&error, 1),
    };
    let running = desk.ledger().running(bucket).map(|sweep| sweep.id);
    let code = match running {
        None => fail(format!("{bucket}: no sweep goes on"), 1),
        Some(sweep) => {
            let ended = Fact::Ended { sweep, end: End::Cancelled };
            match desk.journal.append_and_read(&ended).await {
                Ok(()) => {
                    say(format!("{bucket}: sweep {sweep} is cancelled"));
                    ExitCode::SUCCESS
                }
                Err(error) => fail(error.to_string(), 1),
            }
        }
    };
    desk.session.close().await;
    code
}
