//! Sweeps over objects that nothing announced.

use std::collections::BTreeMap;
use std::process::{Command, Output};

use peers::eicar::eicar;
use peers::scripted::store::{Operation, Version, Versioning};
use peers::scripted::{Reply, Server, Store, store};
use peers::sink::Received;
use stack::clamd::Clamd;
use stack::{S3, Seaweed};

use super::commands::text;
use super::*;

/// A sweep command with the settings of the daemon. One that never ends has the exit code 124.
fn sweep(daemon: &Daemon, arguments: &[&str]) -> Output {
    let mut command = Command::new("/usr/bin/timeout");
    command.args(["240", BINARY, "sweep"]).args(arguments).env_clear().envs(daemon.env());
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

/// A bucket that announces nothing.
async fn silent(daemon: &Daemon) -> S3 {
    let s3 = daemon.s3().with_bucket(&format!("{}-old", daemon.names.bucket));
    s3.create_bucket().await.unwrap();
    s3
}

async fn fill(s3: &S3, prefix: &str, count: usize) {
    for n in 0..count {
        s3.put(&format!("{prefix}{n:04}"), format!("the content of {prefix}{n}")).await.unwrap();
    }
}

/// The receipts in a bucket, by key.
async fn receipts(s3: &S3) -> BTreeMap<String, Option<String>> {
    let mut found = BTreeMap::new();
    for entry in s3.list().await.unwrap() {
        let tags = s3.tags(&entry.key).await.unwrap().unwrap_or_default();
        found.insert(entry.key, tags.get("scanned-receipt").cloned());
    }
    found
}

/// The buckets whose sweeps go on, as `/readyz` says.
async fn swept_by(daemon: &Daemon) -> Vec<String> {
    let ready: serde_json::Value =
        serde_json::from_str(&daemon.page("/readyz").await.unwrap()).unwrap();
    ready["sweeps"].as_object().unwrap().keys().cloned().collect()
}

async fn all_have_receipts(s3: &S3) -> bool {
    receipts(s3).await.values().all(Option::is_some)
}

#[tokio::test]
async fn what_was_there_before_is_scanned_once() {
    let daemon = daemon(&[]).await;
    let s3 = silent(&daemon).await;
    fill(&s3, "dir/a b+c é ", 40).await;
    fill(&s3, "other/", 5).await;
    s3.put("dir/bad", eicar()).await.unwrap();
    let target = format!("{}/dir/", s3.bucket);
    let dry = said(&sweep(&daemon, &[&target, "--dry-run"]));
    assert!(dry.contains("41 objects looked at, 41 would be announced"), "{dry}");
    let swept = sweep(&daemon, &[&target]);
    assert!(swept.status.success(), "{}\n{}", said(&swept), daemon.output());
    let report = daemon.reports_on("dir/bad", 1, SOON).await.unwrap()[0].json();
    assert_eq!(
        (report["action"].as_str(), report["trigger"].as_str()),
        (Some("delete"), Some("sweep"))
    );
    eventually("the infected one is gone", || async {
        s3.head("dir/bad").await.unwrap().is_none()
    })
    .await;
    eventually("all are scanned", || async {
        let found = receipts(&s3).await;
        let inside = found.iter().filter(|(key, _)| key.starts_with("dir/"));
        inside.clone().count() == 40 && inside.clone().all(|(_, receipt)| receipt.is_some())
    })
    .await;
    assert!(
        receipts(&s3)
            .await
            .iter()
            .filter(|(key, _)| key.starts_with("other/"))
            .all(|(_, r)| r.is_none())
    );

    // Nothing is missing any more; somebody's tag proves nothing.
    let before = receipts(&s3).await;
    s3.set_tags("dir/a b+c é 0003", &[("scanned", "clean")]).await.unwrap();
    let again = sweep(&daemon, &[&target]);
    assert!(again.status.success() && said(&again).contains(" 1 announced"), "{}", said(&again));
    eventually("it is scanned again", || async {
        receipts(&s3).await["dir/a b+c é 0003"].is_some()
    })
    .await;
    let after = receipts(&s3).await;
    let changed = before.iter().filter(|(key, receipt)| after[*key] != **receipt).count();
    assert_eq!(changed, 1);
    let status = said(&sweep(&daemon, &["status"]));
    assert_eq!(status.lines().filter(|line| line.contains("is done")).count(), 2, "{status}");
}

#[tokio::test]
async fn a_sweep_for_older_scans_renews_every_receipt_once() {
    let daemon = daemon(&[]).await;
    let s3 = silent(&daemon).await;
    fill(&s3, "k", 30).await;
    assert!(sweep(&daemon, &[&s3.bucket]).status.success());
    eventually("all are scanned", || all_have_receipts(&s3)).await;
    let before = receipts(&s3).await;
    let again = sweep(&daemon, &[&s3.bucket, "--scanned-before", "now"]);
    assert!(again.status.success() && said(&again).contains(" 30 announced"), "{}", said(&again));
    eventually("every receipt is new", || async {
        let after = receipts(&s3).await;
        before.iter().all(|(key, receipt)| after[key] != *receipt)
    })
    .await;
    let reports =
        daemon.reports().iter().filter_map(Received::key).filter(|k| k.starts_with('k')).count();
    assert_eq!(reports, 60);
}

#[tokio::test]
async fn a_new_signature_finds_what_was_clean() {
    let mut clamd = Clamd::start(&[]).await.unwrap();
    let engine = format!("unix://{}", clamd.socket().display());
    let daemon = daemon(&[("SCANNER", "clamd"), ("CLAMD_ENDPOINT", &engine)]).await;
    let s3 = silent(&daemon).await;
    fill(&s3, "k", 300).await;
    assert!(sweep(&daemon, &[&s3.bucket]).status.success());
    eventually("all are clean", || all_have_receipts(&s3)).await;
    let before = receipts(&s3).await;
    clamd.add_signature("Local.Test", b"the content of k123").await.unwrap();
    // A signature of one's own has no date, and a receipt does not know of it.
    let none = said(&sweep(&daemon, &[&s3.bucket]));
    assert!(none.contains(" 0 announced"), "{none}");
    let found = sweep(&daemon, &[&s3.bucket, "--scanned-before", "now"]);
    assert!(found.status.success() && said(&found).contains(" 300 announced"), "{}", said(&found));
    eventually("it is found and deleted", || async { s3.head("k0123").await.unwrap().is_none() })
        .await;
    eventually("every receipt is new", || async {
        let after = receipts(&s3).await;
        after.len() == 299 && after.iter().all(|(key, receipt)| before[key] != *receipt)
    })
    .await;
    let infected: Vec<_> = daemon
        .reports()
        .iter()
        .map(Received::json)
        .filter(|report| report["status"] != "clean")
        .map(|report| {
            (report["key"].clone(), report["trigger"].clone(), report["signature"].clone())
        })
        .collect();
    assert_eq!(infected.len(), 1, "{infected:?}");
    assert_eq!((infected[0].0.as_str(), infected[0].1.as_str()), (Some("k0123"), Some("sweep")));
}

#[tokio::test]
async fn a_bucket_has_one_sweep_at_a_time_and_it_can_be_cancelled() {
    let daemon = daemon(&[]).await;
    let s3 = silent(&daemon).await;
    fill(&s3, "k", 30).await;
    let slow = sweep(&daemon, &[&s3.bucket, "--rate", "2", "--detach"]);
    assert!(slow.status.success(), "{}", said(&slow));
    eventually("it goes on", || async { said(&sweep(&daemon, &["status"])).contains("goes on") })
        .await;
    assert_eq!(swept_by(&daemon).await, std::slice::from_ref(&s3.bucket));
    let second = sweep(&daemon, &[&s3.bucket]);
    assert_eq!(second.status.code(), Some(1));
    assert!(said(&second).contains("sweep cancel"), "{}", said(&second));
    let cancelled = sweep(&daemon, &["cancel", &s3.bucket]);
    assert!(cancelled.status.success(), "{}", said(&cancelled));
    assert!(said(&sweep(&daemon, &["status"])).contains("was cancelled"));
    eventually("none goes on", || async { swept_by(&daemon).await.is_empty() }).await;
    assert_eq!(sweep(&daemon, &["cancel", &s3.bucket]).status.code(), Some(1));
    let third = sweep(&daemon, &[&s3.bucket]);
    assert!(third.status.success(), "{}", said(&third));
    eventually("all are scanned", || all_have_receipts(&s3)).await;
}

#[tokio::test]
async fn without_receipts_only_everything_can_be_swept() {
    let daemon = daemon(&[("RECEIPT_KEY_FILE", "")]).await;
    let s3 = silent(&daemon).await;
    fill(&s3, "k", 5).await;
    let missing = sweep(&daemon, &[&s3.bucket]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(said(&missing).contains("--all"), "{}", said(&missing));
    let all = sweep(&daemon, &[&s3.bucket, "--all"]);
    assert!(all.status.success(), "{}", said(&all));
    eventually("all are tagged", || async {
        let mut good = true;
        for entry in s3.list().await.unwrap() {
            good &= s3.tags(&entry.key).await.unwrap().unwrap_or_default().contains_key("scanned");
        }
        good
    })
    .await;
}

/// A sweep announces a page as a whole, and the backlog has room for so many.
#[tokio::test]
async fn no_page_has_more_than_a_thousand_objects() {
    let store = Store::start_with(|call, _| {
        let is_list =
            matches!(call.operation, Operation::ListObjectsV2 | Operation::ListObjectVersions);
        let asks = call.parameter("max-keys");
        (is_list && asks.is_none_or(|most| most.parse::<u32>().unwrap() > 1000))
            .then(|| store::error(400, "InvalidArgument"))
    });
    let daemon = daemon(&[("MINIO_SERVER_URL", store.url())]).await;
    for (bucket, versioning) in [("plain", Versioning::Off), ("versions", Versioning::Enabled)] {
        store.with(|contents| contents.bucket(bucket).versioning = versioning);
        store.put(bucket, "k", Version::new(b"x".to_vec()));
        let dry = said(&sweep(&daemon, &[bucket, "--dry-run"]));
        assert!(dry.contains("1 objects looked at"), "{dry}");
    }
}

#[tokio::test]
async fn every_version_is_swept() {
    let store = Seaweed::start().await.unwrap();
    let (access, secret) = store.keys();
    let daemon = daemon(&[
        ("MINIO_SERVER_URL", store.url()),
        ("MINIO_ACCESS_KEY_ID", access),
        ("MINIO_SECRET_ACCESS_KEY", secret),
    ])
    .await;
    let s3 = store.s3("versions");
    s3.create_bucket().await.unwrap();
    // From before the bucket had versions.
    s3.put("k", "null").await.unwrap();
    s3.set_versioning(true).await.unwrap();
    for content in [b"one".to_vec(), eicar(), b"two".to_vec()] {
        s3.client
            .put_object()
            .bucket(&s3.bucket)
            .key("k")
            .body(content.into())
            .send()
            .await
            .unwrap();
    }
    s3.put("gone", "x").await.unwrap();
    s3.delete("gone").await.unwrap();
    let swept = sweep(&daemon, &["versions"]);
    assert!(swept.status.success(), "{}\n{}", said(&swept), daemon.output());
    daemon.reports_on("k", 4, SOON).await.unwrap();
    daemon.reports_on("gone", 1, SOON).await.unwrap();
    eventually("every version has a receipt, and the infected one is gone", || async {
        let left = s3.client.list_object_versions().bucket(&s3.bucket).send().await.unwrap();
        let mut receipts = 0;
        for version in left.versions() {
            let tags =
                s3.client.get_object_tagging().bucket(&s3.bucket).key(version.key().unwrap());
            let tags = tags.version_id(version.version_id().unwrap()).send().await.unwrap();
            receipts += tags.tag_set.iter().filter(|tag| tag.key == "scanned-receipt").count();
        }
        (left.versions().len(), receipts) == (4, 4)
    })
    .await;
    let again = said(&sweep(&daemon, &["versions"]));
    assert!(again.contains(" 0 announced"), "{again}");
}

#[tokio::test]
async fn one_of_all_replicas_begins_the_sweep_that_is_due() {
    let mut first = Daemon::prepare(&Stack::from_env(), binary(), &[]).await.unwrap();
    let s3 = silent(&first).await;
    fill(&s3, "k", 20).await;
    first.set_env("SWEEP_EVERY", "1h");
    first.set_env("SWEEP_BUCKETS", &s3.bucket);
    let mut second = first.replica(&[]).unwrap();
    first.spawn().unwrap();
    second.spawn().unwrap();
    first.wait_ready(SOON).await.unwrap();
    second.wait_ready(SOON).await.unwrap();
    eventually("all are scanned", || all_have_receipts(&s3)).await;
    let begun = |daemons: [&Daemon; 2]| {
        daemons.iter().map(|d| d.output().matches("sweep begins").count()).sum::<usize>()
    };
    eventually("it is done", || async { said(&sweep(&first, &["status"])).contains("is done") })
        .await;
    assert_eq!(begun([&first, &second]), 1);
    // It is not due again for an hour, also for a replica that starts anew.
    assert_eq!(second.terminate(SOON).await.unwrap(), 0);
    second.spawn().unwrap();
    second.wait_ready(SOON).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(begun([&first, &second]), 1);
}

#[tokio::test]
async fn a_sweep_outlives_the_replica_that_works_on_it() {
    let mut first = daemon(&[]).await;
    let s3 = silent(&first).await;
    fill(&s3, "k", 60).await;
    let mut second = first.replica(&[]).unwrap();
    second.spawn().unwrap();
    second.wait_ready(SOON).await.unwrap();
    let asked = sweep(&first, &[&s3.bucket, "--rate", "20", "--detach"]);
    assert!(asked.status.success(), "{}", said(&asked));
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        for daemon in [&mut first, &mut second] {
            daemon.kill();
            daemon.spawn().unwrap();
            daemon.wait_ready(SOON).await.unwrap();
        }
    }
    eventually("it is done", || async {
        said(&sweep(&first, &["status"])).contains("is done") && all_have_receipts(&s3).await
    })
    .await;
}

/// As when somebody purges the queue.
#[tokio::test]
async fn a_sweep_whose_message_is_lost_goes_on() {
    let mut daemon = daemon(&[]).await;
    let s3 = silent(&daemon).await;
    fill(&s3, "k", 10).await;
    let asked = sweep(&daemon, &[&s3.bucket, "--rate", "1", "--detach"]);
    assert!(asked.status.success(), "{}", said(&asked));
    eventually("the page is in work", || async { daemon.output().contains("sweep begins") }).await;
    daemon.kill();
    let (amqp, sweeps) =
        (Stack::from_env().amqp().await.unwrap(), format!("{}.sweeps", daemon.names.queue));
    eventually("its message is back", || async { amqp.count(&sweeps).await.unwrap() == Some(1) })
        .await;
    amqp.purge(&sweeps).await.unwrap();
    daemon.spawn().unwrap();
    daemon.wait_ready(SOON).await.unwrap();
    // Nothing needs the journal now, and it is followed all the same.
    eventually("it is known", || async { swept_by(&daemon).await == [s3.bucket.as_str()] }).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    eventually("it is done", || async {
        said(&sweep(&daemon, &["status"])).contains("is done") && all_have_receipts(&s3).await
    })
    .await;
    assert!(daemon.output().contains("a sweep stands still"), "{}", daemon.output());
}

#[tokio::test]
async fn a_sweep_that_cannot_begin_says_why() {
    let daemon = daemon(&[]).await;
    let began = Instant::now();
    for arguments in [&["no-such-bucket"][..], &["no-such-bucket", "--dry-run"]] {
        let output = sweep(&daemon, arguments);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("NoSuchBucket"), "{}", said(&output));
    }
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    let twice = sweep(&daemon, &["x/a", "x/b"]);
    assert!(twice.status.code() == Some(2) && said(&twice).contains("x: "), "{}", said(&twice));
}

#[tokio::test]
async fn a_page_that_waits_for_room_does_not_hold_up_a_stop() {
    // Without an engine nothing is taken from the backlog.
    let engine = Server::start(|_| Reply::new(503, ""));
    let stack = Stack::from_env();
    let settings = [("SCANNER", "clamav-rest"), ("CLAMD_ENDPOINT", engine.url())];
    let mut daemon = Daemon::prepare(&stack, binary(), &settings).await.unwrap();
    daemon.spawn().unwrap();
    let (amqp, sweeps) = (stack.amqp().await.unwrap(), format!("{}.sweeps", daemon.names.queue));
    eventually("it is declared", || async { amqp.count(&sweeps).await.unwrap().is_some() }).await;
    let s3 = silent(&daemon).await;
    fill(&s3, "k", 1).await;
    backlog::fill(&amqp, &daemon, &backlog::backlog(&daemon), "{}", 7_000).await;
    let asked = sweep(&daemon, &["--detach", &s3.bucket]);
    assert!(asked.status.success(), "{}", said(&asked));
    eventually("the page is in work", || async { daemon.output().contains("sweep begins") }).await;
    let began = Instant::now();
    assert_eq!(daemon.terminate(SOON).await.unwrap(), 0, "{}", daemon.output());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(amqp.count(&sweeps).await.unwrap(), Some(1), "it waits for the next replica");
}

#[tokio::test]
async fn settings_of_sweeps_that_cannot_work_are_refused() {
    for overrides in [
        &[("SWEEP_EVERY", "1d")][..],
        &[("SWEEP_EVERY", "1d"), ("SWEEP_BUCKETS", "b"), ("RECEIPT_KEY_FILE", "")],
        &[("SWEEP_EVERY", "1"), ("SWEEP_BUCKETS", "b")],
        &[("SWEEP_SELECT", "some")],
        &[("SWEEP_CONCURRENCY", "0")],
    ] {
        let mut daemon = Daemon::prepare(&Stack::from_env(), binary(), overrides).await.unwrap();
        daemon.spawn().unwrap();
        assert_eq!(daemon.wait_exit(SOON).await.unwrap(), 78, "{}", daemon.output());
        assert!(daemon.output().contains("SWEEP_"), "{}", daemon.output());
    }
}
