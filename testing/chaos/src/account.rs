//! Accounts for every object, report and message of a scenario.
//!
//! The facts do not come from the daemon: objects are read from the store, reports from the sink
//! and the broker, and scans from the proxy in front of the engine. What the daemon says of itself
//! (`audit`, `reports`) and its requests (`requests`) are compared with these facts.

mod audit;
mod held;
mod reports;
mod requests;
mod settle;

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use peers::error::{Context, Result};
use peers::proxy::Scan;
use serde_json::Value;

use self::settle::{CONCURRENCY, Seen, as_expected};
pub(super) use self::settle::{TAG, see, settle};
use crate::ledger::{USER_TAG, Upload};
use crate::samples::Fate;
use crate::tally::{Expected, Tally};
use crate::world::{Bucket, World};

/// Longest time from a recovery to the first scan.
const PROMISED_RECOVERY: Duration = Duration::from_secs(5);

/// Waits until everything has ended, stops the daemons, and checks the results.
pub(super) async fn account(world: &mut World, expected: Expected) -> Result<Tally> {
    let unsettled = settle(world, expected).await?;
    let mut wrongs = stop(world).await;
    let mut tally = look(world, expected, &unsettled).await?;
    tally.wrongs.append(&mut wrongs);
    tally.wrongs.append(&mut world.wrongs);
    Ok(tally)
}

/// Waits until everything has ended, and checks the results while the daemons go on.
pub(super) async fn account_so_far(world: &mut World, expected: Expected) -> Result<Tally> {
    let unsettled = settle(world, expected).await?;
    let mut tally = look(world, expected, &unsettled).await?;
    tally.wrongs.append(&mut world.wrongs);
    Ok(tally)
}

/// Stops the daemons. Returns what is wrong with that.
async fn stop(world: &mut World) -> Vec<String> {
    let mut wrongs = Vec::new();
    for daemon in &mut world.daemons {
        // A scenario may have left one killed.
        if daemon.pid().is_some()
            && let Err(error) = daemon.terminate(Duration::from_mins(1)).await
        {
            wrongs.push(format!("a daemon does not stop: {error}"));
        }
    }
    wrongs
}

/// Facts that do not come from the daemon.
struct Facts {
    scans: Vec<Scan>,
    /// Reports that the sink accepted, and those that the broker still holds.
    reports: Vec<Value>,
    /// Keys of parked notifications.
    dead: HashSet<String>,
}

impl Facts {
    /// Whether the engine, with its database, found these bytes clean.
    fn were_clean(&self, sha256: &str) -> bool {
        self.said(sha256).any(|answer| answer == "stream: OK")
    }

    /// Whether it found these bytes infected.
    fn were_infected(&self, sha256: &str) -> bool {
        self.said(sha256).any(|answer| answer.ends_with(" FOUND"))
    }

    fn said(&self, sha256: &str) -> impl Iterator<Item = &str> {
        let scans =
            self.scans.iter().filter(move |scan| scan.has_database && scan.sha256 == sha256);
        scans.map(|scan| scan.answer.as_str())
    }
}

/// Checks the final state of everything.
async fn look(world: &World, expected: Expected, unsettled: &BTreeSet<String>) -> Result<Tally> {
    let uploads = world.ledger.uploads();
    let mut tally = Tally { objects: uploads.len(), ..Tally::default() };
    let parked = drain(world, &format!("{}.dead", world.queue())).await?;
    let parked_reports = drain(world, &format!("{}.reports.dead", world.queue())).await?;
    let mut reports: Vec<Value> = world.taken().into_iter().map(|taken| taken.report).collect();
    for queue in world.queues(".reports") {
        reports.extend(parse(&drain(world, &queue).await?));
    }
    reports.extend(parse(&parked_reports));
    let facts = Facts { scans: world.engine.scans(), reports, dead: keys(&parked) };

    let live: Vec<Upload> = uploads.into_iter().filter(|upload| !upload.over).collect();
    let seen: Vec<Result<Seen>> =
        stream::iter(live.iter().map(|upload| see(world, upload)).collect::<Vec<_>>())
            .buffered(CONCURRENCY)
            .collect()
            .await;
    let lines = audit::lines(&world.daemons);
    for (upload, seen) in live.iter().zip(seen) {
        let seen = seen?;
        judge(upload, &seen, &facts, unsettled, &mut tally);
        if !seen.present {
            tally.wrongs.extend(audit::unsaid(upload, &lines, expected));
        }
    }
    tally.wrongs.extend(audit::untrue(world, &lines).await?);
    tally.wrongs.extend(in_quarantine(world, &facts.reports).await?);
    check_reports(world, &facts, &mut tally);
    let shared = world.ledger.shared_names();
    tally.wrongs.extend(reports::disorder(&facts.reports, &shared));
    requests::count(world, expected, &mut tally);
    tally.dead_lettered = parked.len();
    let mut poison: Vec<&Vec<u8>> = world.poison.iter().collect();
    for body in &parked {
        if let Some(at) = poison.iter().position(|poison| *poison == body) {
            poison.swap_remove(at);
        }
    }
    if !poison.is_empty() {
        tally.lost += poison.len();
        let wrong = format!("{} unreadable messages were not parked as they were", poison.len());
        tally.wrongs.push(wrong);
    }
    if !parked_reports.is_empty() && !expected.reports_park {
        tally.parked_without_need += parked_reports.len();
        tally.wrongs.push(format!("{} reports parked", parked_reports.len()));
    }
    tally.duplicate_reports = duplicates(world);
    markers(world, &mut tally).await?;
    panics(world, &mut tally);
    recovery(world, expected, &mut tally);
    tally.cpu_while_down_percent =
        world.cpu_while_down.map(|share| (share * 1000.0).round() / 10.0);
    Ok(tally)
}

/// What is wrong in the quarantine bucket, where there is one.
pub(super) async fn in_quarantine(world: &World, reports: &[Value]) -> Result<Vec<String>> {
    let Some(bucket) = &world.held else { return Ok(Vec::new()) };
    held::wrongs(bucket, &world.ledger.uploads(), reports).await
}

/// Checks one object against its scans and reports.
fn judge(
    upload: &Upload,
    seen: &Seen,
    facts: &Facts,
    unsettled: &BTreeSet<String>,
    tally: &mut Tally,
) {
    let name = format!("{} {}", upload.key, upload.version.as_deref().unwrap_or_default());
    let is_dead = facts.dead.contains(upload.key.as_str());
    let tag = seen.tags.get(TAG).map(String::as_str);
    let mut wrong = |count: fn(&mut Tally) -> &mut usize, what: String| {
        *count(tally) += 1;
        tally.wrongs.push(format!("{name}: {what}"));
    };
    if seen.present && seen.etag != upload.etag {
        return wrong(|t| &mut t.lost, "not the bytes of the last upload".to_owned());
    }
    let rightly_gone = upload.fate == Fate::Infected && facts.were_infected(&upload.sha256);
    if !seen.present && !rightly_gone {
        if upload.in_window {
            tally.in_documented_window += 1;
            return;
        }
        return wrong(|t| &mut t.wrongly_deleted, "deleted".to_owned());
    }
    if tag == Some("clean") && !facts.were_clean(&upload.sha256) {
        wrong(|t| &mut t.called_clean_unscanned, "tagged clean, never scanned".to_owned());
    }
    let right_tag = match (tag, upload.fate) {
        (None, _)
        | (Some("clean"), Fate::Clean)
        | (Some("infected"), Fate::Infected)
        | (Some("no"), Fate::Encrypted | Fate::TooLarge) => true,
        (Some("no"), _) => is_dead,
        _ => false,
    };
    if !right_tag {
        wrong(|t| &mut t.wrongly_tagged, format!("tagged {tag:?}"));
    }
    let lost_tag = seen.tags.get(USER_TAG.0).map(String::as_str) != Some(USER_TAG.1);
    if seen.present && upload.user_tag && lost_tag {
        wrong(|t| &mut t.wrongly_tagged, "its user's own tag is lost".to_owned());
    }
    let done = as_expected(upload, seen);
    if !done && (!is_dead || unsettled.contains(&upload.sha256)) {
        let there = if seen.present { "there" } else { "gone" };
        wrong(|t| &mut t.lost, format!("not done: {there}, tag {tag:?}, parked: {is_dead}"));
    }
    if upload.parks && !is_dead {
        wrong(|t| &mut t.lost, "should have been parked".to_owned());
    }
    if is_dead && !upload.parks {
        let said = facts.reports.iter().filter(|report| report["key"] == upload.key.as_str());
        let why = said.filter_map(|report| report["error"].as_str()).next_back();
        let why = why.unwrap_or("no report says why");
        wrong(|t| &mut t.parked_without_need, format!("parked: {why}"));
    }
    if !facts.reports.iter().any(|report| is_due(report, upload)) {
        wrong(|t| &mut t.reports_missing, "no report with its result".to_owned());
    }
}

/// Checks the reports against the scans.
fn check_reports(world: &World, facts: &Facts, tally: &mut Tally) {
    for report in &facts.reports {
        let sha256 = report["sha256"].as_str().unwrap_or_default();
        if report["status"] == "clean" && !facts.were_clean(sha256) {
            tally.called_clean_unscanned += 1;
            tally.wrongs.push(format!("{}: reported clean, never scanned", report["key"]));
        }
        if report["status"] == "infected" && !facts.were_infected(sha256) {
            tally.wrongly_tagged += 1;
            tally.wrongs.push(format!("{}: reported infected, nothing found", report["key"]));
        }
        let is_restored = |upload: Upload| upload.restored;
        if report["status"] == "released"
            && !world.ledger.by_sha256(sha256).is_some_and(is_restored)
        {
            tally.wrongs.push(format!("{}: reported released, and nobody did", report["key"]));
        }
    }
}

/// Whether a report has the result of the object, or the reason why there is none.
fn is_due(report: &Value, upload: &Upload) -> bool {
    let same_bytes = match upload.real_version() {
        Some(version) => report["version_id"] == version,
        None => report["etag"] == upload.etag.as_str(),
    };
    let (status, reason) = upload.fate.status();
    let right = report["status"] == status && report["reason"].as_str() == reason;
    let parked = upload.parks && (report["reason"] == "scan_failed" || !report["error"].is_null());
    report["key"] == upload.key.as_str() && same_bytes && if upload.parks { parked } else { right }
}

/// In a versioned bucket no object may be hidden by a delete marker that its user did not set.
async fn markers(world: &World, tally: &mut Tally) -> Result<()> {
    if matches!(world.setup.bucket, Bucket::Gateway) {
        return Ok(());
    }
    let (client, bucket) = (&world.direct.client, &world.direct.bucket);
    let list = client.list_object_versions().bucket(bucket).send().await;
    let list = list.context("list versions")?;
    let known: HashSet<String> =
        world.ledger.uploads().into_iter().map(|upload| upload.key).collect();
    for marker in list.delete_markers.unwrap_or_default() {
        let key = marker.key.unwrap_or_default();
        if known.contains(&key) {
            tally.wrongly_deleted += 1;
            tally.wrongs.push(format!("{key}: a delete marker was left"));
        }
    }
    Ok(())
}

fn panics(world: &World, tally: &mut Tally) {
    for daemon in &world.daemons {
        let panics = daemon.output().matches("panicked at").count();
        if panics > 0 {
            tally.panics += panics;
            tally.wrongs.push(format!("{panics} panics in {}", daemon.log().display()));
        }
    }
}

fn recovery(world: &World, expected: Expected, tally: &mut Tally) {
    let Some(healed) = world.healed else { return };
    let first = if expected.reports_recover {
        world.taken().into_iter().map(|taken| taken.at).find(|at| *at > healed)
    } else {
        let known: HashSet<String> =
            world.ledger.uploads().into_iter().map(|upload| upload.sha256).collect();
        let scans = world.engine.scans();
        let scan = scans.into_iter().find(|scan| {
            scan.has_database
                && scan.at > healed
                && !scan.answer.is_empty()
                && known.contains(&scan.sha256)
        });
        scan.map(|scan| scan.at)
    };
    tally.recovery_ms = first.map(|first| (first - healed).as_millis());
    let late = first.is_none_or(|first| first - healed > PROMISED_RECOVERY);
    if (expected.recovers || expected.reports_recover) && late {
        let took = tally.recovery_ms.map_or("never".to_owned(), |took| format!("{took} ms"));
        tally.wrongs.push(format!("first verdict or report after the recovery: {took}"));
    }
}

fn duplicates(world: &World) -> usize {
    let mut ids = HashSet::new();
    world.taken().into_iter().filter(|taken| !ids.insert(taken.id.clone())).count()
}

/// Removes and returns all messages of a queue.
async fn drain(world: &World, queue: &str) -> Result<Vec<Vec<u8>>> {
    let amqp = world.amqp().await?;
    let mut bodies = Vec::new();
    if amqp.count(queue).await?.is_none() {
        return Ok(bodies);
    }
    while let Some(message) = amqp.get(queue).await? {
        bodies.push(message.body);
    }
    Ok(bodies)
}

fn parse(bodies: &[Vec<u8>]) -> Vec<Value> {
    bodies.iter().filter_map(|body| serde_json::from_slice(body).ok()).collect()
}

/// The keys in notifications.
fn keys(bodies: &[Vec<u8>]) -> HashSet<String> {
    let key = |event: Value| {
        let path = event["Key"].as_str()?.to_owned();
        path.split_once('/').map(|(_, key)| key.to_owned())
    };
    parse(bodies).into_iter().filter_map(key).collect()
}
