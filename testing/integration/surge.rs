//! Too many contents by one signature: their deletion waits for a person.

use std::process::{Command, Output};

use futures_util::future::join_all;
use peers::eicar::eicar;
use peers::scripted::store::Version;
use serde_json::Value;
use stack::{Daemon, Stack};

use super::commands::text;
use super::quarantine::{QUARANTINE, scene};
use super::rules::RulesFile;
use super::*;

/// More than any of these tests allows.
const MANY: usize = 20;

/// A content of its own by the signature of EICAR.
fn content(n: usize) -> Vec<u8> {
    [format!("{n}: ").into_bytes(), eicar()].concat()
}

/// A daemon that lets this many contents by one signature be deleted.
async fn limited(limit: &str, overrides: &[(&str, &str)]) -> Daemon {
    let mut all = vec![("SURGE_LIMIT", limit), ("RETRY_DELAYS", "1s")];
    all.extend(overrides);
    daemon(&all).await
}

/// Uploads `contents` at once, each under a key of its own.
async fn upload(daemon: &Daemon, prefix: &str, contents: impl Iterator<Item = usize>) {
    let s3 = daemon.s3();
    let puts = contents.enumerate().map(|(key, n)| {
        let (s3, key) = (&s3, format!("{prefix}{key}"));
        async move { s3.put(&key, content(n)).await.unwrap() }
    });
    join_all(puts).await;
}

/// The last report of each object whose key begins so, once there are that many.
async fn reported(daemon: &Daemon, prefix: &str, count: usize) -> Vec<Value> {
    let last = || {
        let mut last = std::collections::BTreeMap::new();
        for report in daemon.reports() {
            let key = report.key().unwrap_or_default();
            if key.starts_with(prefix) {
                let of = |report: &Value| report["sequence"].as_u64();
                let json = report.json();
                if last.get(&key).is_none_or(|known| of(known) < of(&json)) {
                    last.insert(key, json);
                }
            }
        }
        last.into_values().collect::<Vec<_>>()
    };
    eventually("all are reported", || async { last().len() >= count }).await;
    last()
}

/// How many of them say so.
fn count(reports: &[Value], action: &str, surge: Option<&str>) -> usize {
    let is_it = |report: &&Value| report["action"] == action && report["surge"].as_str() == surge;
    reports.iter().filter(is_it).count()
}

async fn parked(daemon: &Daemon) -> u32 {
    let amqp = Stack::from_env().amqp().await.unwrap();
    amqp.count(&format!("{}.dead", daemon.names.queue)).await.unwrap().unwrap_or_default()
}

async fn left(daemon: &Daemon, prefix: &str) -> usize {
    let all = daemon.s3().list().await.unwrap();
    all.iter().filter(|entry| entry.key.starts_with(prefix)).count()
}

/// What `/readyz` says of surges.
async fn note(daemon: &Daemon) -> String {
    let page: Value = serde_json::from_str(&daemon.page("/readyz").await.unwrap()).unwrap();
    assert_eq!(page["ready"], true, "{page}");
    page["degraded"]["surge"].as_str().unwrap_or_default().to_owned()
}

fn surge(daemon: &Daemon, arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.arg("surge").args(arguments).env_clear().envs(daemon.env());
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

/// The signature of EICAR, as this engine names it.
fn signature(reports: &[Value]) -> String {
    reports[0]["signature"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_a_hold_that_outlives_them_and_ends_when_it_is_confirmed() {
    let mut one = limited("3", &[]).await;
    let mut two = one.replica(&[]).unwrap();
    two.spawn().unwrap();
    two.wait_ready(SOON).await.unwrap();
    upload(&one, "k", 0..MANY).await;
    let reports = reported(&one, "k", MANY).await;
    assert_eq!(count(&reports, "delete", None), 3, "{reports:?}");
    assert_eq!(count(&reports, "tag", Some("held")), MANY - 3, "{reports:?}");
    eventually("they are parked", || async { parked(&one).await == 17 }).await;
    eventually("three are gone", || async { left(&one, "k").await == MANY - 3 }).await;
    for entry in one.s3().list().await.unwrap() {
        assert_eq!(status(&one, &entry.key).await, "infected");
    }
    let signature = signature(&reports);
    let output = one.output();
    assert!(output.contains("at most 3 contents by one signature are deleted"), "{output}");
    for replica in [&one, &two] {
        eventually("it is shown", || async { note(replica).await.contains(&signature) }).await;
        assert_eq!(metric(replica, "avscan_surges").await, 1);
        let errors = replica.output();
        let errors = errors.lines().filter(|line| line.contains("surge: too many contents"));
        assert_eq!(errors.count(), 1, "{}", replica.output());
    }

    // Both are killed, and know it again.
    for replica in [&mut one, &mut two] {
        replica.kill();
        replica.spawn().unwrap();
        replica.wait_ready(SOON).await.unwrap();
        eventually("it is known", || async { note(replica).await.contains(&signature) }).await;
    }
    upload(&one, "later", 100..101).await;
    let later = reported(&one, "later", 1).await;
    assert_eq!(count(&later, "tag", Some("held")), 1, "{later:?}");

    let list = said(&surge(&one, &["list"]));
    assert!(list.contains(&signature) && list.contains("held, since 20"), "{list}");
    let unknown = surge(&one, &["confirm", "Other"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert_eq!(said(&unknown), "Other: not held; see `surge list`\n");
    eventually("it is parked too", || async { parked(&one).await == 18 }).await;
    let confirmed = surge(&one, &["confirm", &signature]);
    assert!(confirmed.status.success(), "{}", said(&confirmed));
    assert!(said(&confirmed).contains("18 parked objects were moved back"), "{}", said(&confirmed));
    eventually("all are deleted", || async { left(&one, "").await == 0 }).await;
    assert_eq!(parked(&one).await, 0);
    let reports = reported(&one, "k", MANY).await;
    assert_eq!(count(&reports, "delete", None), MANY, "{reports:?}");
    for replica in [&one, &two] {
        eventually("nothing is shown", || async { note(replica).await.is_empty() }).await;
        assert_eq!(metric(replica, "avscan_surges").await, 0);
    }
    // They go on, however many there are.
    upload(&one, "more", 200..210).await;
    let more = reported(&one, "more", 10).await;
    assert_eq!(count(&more, "delete", None), 10, "{more:?}");
    assert!(said(&surge(&one, &["list"])).contains("confirmed: deletions go on"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_content_under_many_keys_counts_once() {
    let daemon = limited("3", &[]).await;
    upload(&daemon, "k", std::iter::repeat_n(1, 60)).await;
    let reports = reported(&daemon, "k", 60).await;
    assert_eq!(count(&reports, "delete", None), 60, "{reports:?}");
    eventually("all are gone", || async { left(&daemon, "k").await == 0 }).await;
    assert_eq!(parked(&daemon).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn cleared_it_is_counted_anew() {
    let daemon = limited("3", &[]).await;
    upload(&daemon, "k", 0..10).await;
    let reports = reported(&daemon, "k", 10).await;
    let signature = signature(&reports);
    eventually("they are parked", || async { parked(&daemon).await == 7 }).await;
    let cleared = surge(&daemon, &["clear", &signature]);
    assert!(cleared.status.success(), "{}", said(&cleared));
    assert!(said(&cleared).contains("redrive --reason surge_held"), "{}", said(&cleared));
    assert_eq!(surge(&daemon, &["clear", &signature]).status.code(), Some(1));
    // Nothing is moved back by that.
    assert_eq!((parked(&daemon).await, left(&daemon, "k").await), (7, 7));
    upload(&daemon, "next", 100..103).await;
    let next = reported(&daemon, "next", 3).await;
    assert_eq!(count(&next, "delete", None), 3, "{next:?}");
    upload(&daemon, "fourth", 103..104).await;
    let fourth = reported(&daemon, "fourth", 1).await;
    assert_eq!(count(&fourth, "tag", Some("held")), 1, "{fourth:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_journal_cannot_be_read_nothing_is_deleted_and_scans_go_on() {
    let overrides = [("SURGE_LIMIT", "40"), ("RETRY_DELAYS", "1s"), ("SCAN_CONCURRENCY", "2")];
    let mut daemon = Daemon::prepare(&Stack::from_env(), binary(), &overrides).await.unwrap();
    // Something else has its name, so that it can be neither declared nor read.
    let amqp = Stack::from_env().amqp().await.unwrap();
    let journal = format!("{}.journal", daemon.names.queue);
    amqp.declare(&daemon.names.exchange, &journal, "nothing").await.unwrap();
    daemon.spawn().unwrap();
    daemon.wait_ready(SOON).await.unwrap();
    eventually("it is shown", || async { note(&daemon).await.contains("deletions wait") }).await;
    daemon.s3().put("bad", eicar()).await.unwrap();
    assert_eq!(status(&daemon, "bad").await, "infected");
    daemon.s3().put("good", "x").await.unwrap();
    assert_eq!(status(&daemon, "good").await, "clean");
    eventually("it is put off", || async {
        let name = "avscan_retries_total{queue=\"notifications\",stage=\"delete\",\
                    reason=\"journal_unread\"}";
        metric(&daemon, name).await >= 2
    })
    .await;
    // Infected objects that wait for it hold no slot.
    upload(&daemon, "more", 0..30).await;
    let began = Instant::now();
    daemon.s3().put("next", "y").await.unwrap();
    assert_eq!(status(&daemon, "next").await, "clean");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(daemon.s3().head("bad").await.unwrap().is_some());
    assert!(daemon.reports().iter().all(|report| report.key().as_deref() != Some("bad")));
    amqp.delete_queue(&journal).await.unwrap();
    gone(&daemon, "bad").await;
    let reports = reported(&daemon, "bad", 1).await;
    assert_eq!(count(&reports, "delete", None), 1, "{reports:?}");
    eventually("nothing is shown", || async { note(&daemon).await.is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn canaries_are_not_counted() {
    let overrides = [("SURGE_LIMIT", "1"), ("CANARY_EVERY", "10s"), ("CANARY_DEADLINE", "2s")];
    let mut daemon = Daemon::prepare(&Stack::from_env(), binary(), &overrides).await.unwrap();
    let bucket = daemon.names.bucket.clone();
    daemon.set_env("CANARY_BUCKETS", &bucket);
    daemon.spawn().unwrap();
    daemon.wait_ready(SOON).await.unwrap();
    let up = format!("avscan_source_up{{bucket=\"{bucket}\"}}");
    eventually("canaries came back", || async { metric(&daemon, &up).await == 1 }).await;
    // Another content by the signature of the one that was deleted.
    upload(&daemon, "k", 1..2).await;
    let reports = reported(&daemon, "k", 1).await;
    assert_eq!(count(&reports, "delete", None), 1, "{reports:?}");
    upload(&daemon, "l", 2..3).await;
    let reports = reported(&daemon, "l", 1).await;
    assert_eq!(count(&reports, "tag", Some("held")), 1, "{reports:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_limit_all_are_deleted_and_no_journal_is_there() {
    let daemon = limited("0", &[]).await;
    upload(&daemon, "k", 0..MANY).await;
    let reports = reported(&daemon, "k", MANY).await;
    assert_eq!(count(&reports, "delete", None), MANY, "{reports:?}");
    let amqp = Stack::from_env().amqp().await.unwrap();
    assert_eq!(amqp.count(&format!("{}.journal", daemon.names.queue)).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_alone_lets_deletions_go_on() {
    let daemon = limited("3", &[("SURGE_WITHOUT_QUARANTINE", "delete")]).await;
    upload(&daemon, "k", 0..MANY).await;
    let reports = reported(&daemon, "k", MANY).await;
    assert_eq!(count(&reports, "delete", None), 3, "{reports:?}");
    assert_eq!(count(&reports, "delete", Some("alarm")), MANY - 3, "{reports:?}");
    let signature = signature(&reports);
    eventually("it is shown", || async { note(&daemon).await.contains(&signature) }).await;
    assert_eq!((metric(&daemon, "avscan_surges").await, parked(&daemon).await), (1, 0));
    eventually("all are gone", || async { left(&daemon, "k").await == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_quarantine_deletions_by_a_rule_become_moves() {
    let rules = RulesFile::new("- {infected: delete}\n");
    let overrides = [("RULES_FILE", rules.path()), ("SURGE_LIMIT", "3")];
    let scene = scene(&overrides, |_, _| None).await;
    for n in 0..10 {
        let key = format!("k{n}");
        let (_, etag) = scene.store.put("b", &key, Version::new(content(n)));
        scene.announce("b", &key, &etag).await;
    }
    let reports = reported(&scene.daemon, "k", 10).await;
    assert_eq!(count(&reports, "delete", None), 3, "{reports:?}");
    assert_eq!(count(&reports, "quarantine", Some("held")), 7, "{reports:?}");
    for report in &reports {
        scene.until_gone(report["key"].as_str().unwrap()).await;
        let copy = report["quarantine_key"].as_str();
        assert_eq!(copy.is_some(), report["action"] == "quarantine", "{report}");
        assert!(copy.is_none_or(|key| scene.store.current(QUARANTINE, key).is_some()), "{report}");
    }
    assert_eq!(parked(&scene.daemon).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sweep_finds_is_held_and_parked_too() {
    let daemon = limited("3", &[]).await;
    let s3 = daemon.s3().with_bucket(&format!("{}-old", daemon.names.bucket));
    s3.create_bucket().await.unwrap();
    for n in 0..10 {
        s3.put(&format!("k{n}"), content(n)).await.unwrap();
    }
    let mut command = Command::new(BINARY);
    command.args(["sweep", &s3.bucket]).env_clear().envs(daemon.env());
    let swept = command.output().unwrap();
    assert!(swept.status.success(), "{}", said(&swept));
    let reports = reported(&daemon, "k", 10).await;
    assert_eq!(count(&reports, "tag", Some("held")), 7, "{reports:?}");
    eventually("they are parked", || async { parked(&daemon).await == 7 }).await;
    assert_eq!(metric(&daemon, "avscan_backlog_total{outcome=\"held\"}").await, 7);
    let confirmed = surge(&daemon, &["confirm", &signature(&reports)]);
    assert!(confirmed.status.success(), "{}", said(&confirmed));
    eventually("all are deleted", || async { s3.list().await.unwrap().is_empty() }).await;
}
