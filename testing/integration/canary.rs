//! The source canary.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_s3::types::{
    BucketVersioningStatus, DefaultRetention, ObjectLockConfiguration, ObjectLockEnabled,
    ObjectLockRetentionMode, ObjectLockRule, VersioningConfiguration,
};
use peers::eicar::{eicar, hex};
use peers::proxy::{Call, Fault, HttpProxy};
use peers::scripted::Server;
use sha2::{Digest, Sha256};
use stack::webhooks::Route;
use stack::{Daemon, Stack};

use super::*;

const PREFIX: &str = ".avscan-canary/";
const EVERY: Duration = Duration::from_secs(10);
/// For what has to be noticed, from the moment at which it is true.
const TWO_INTERVALS: Duration = Duration::from_secs(20);
/// For two rounds, on a busy machine.
const LONG: Duration = Duration::from_mins(1);

/// A daemon that sends canaries to its bucket, not started yet.
async fn prepared(overrides: &[(&str, &str)]) -> Daemon {
    let mut all = vec![("CANARY_EVERY", "10s"), ("CANARY_DEADLINE", "2s"), ("RETRY_DELAYS", "1s")];
    all.extend(overrides);
    let mut daemon = Daemon::prepare(&Stack::from_env(), binary(), &all).await.unwrap();
    let bucket = daemon.names.bucket.clone();
    daemon.set_env("CANARY_BUCKETS", &bucket);
    daemon
}

async fn sending(overrides: &[(&str, &str)]) -> Daemon {
    let mut daemon = prepared(overrides).await;
    daemon.spawn().unwrap();
    daemon.wait_ready(SOON).await.unwrap();
    daemon
}

/// What the daemon's metrics say of its bucket.
async fn source(daemon: &Daemon) -> Option<bool> {
    let page = daemon.page("/metrics").await.unwrap();
    let name = format!("avscan_source_up{{bucket=\"{}\"}} ", daemon.names.bucket);
    page.lines().find_map(|line| line.strip_prefix(name.as_str())).map(|value| value == "1")
}

/// Waits until the metrics say so; returns how long it took.
async fn until(daemon: &Daemon, up: bool) -> Duration {
    let started = Instant::now();
    while source(daemon).await != Some(up) {
        assert!(started.elapsed() < LONG, "never {up}:\n{}", daemon.output());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    started.elapsed()
}

/// Waits until `/readyz` has this note, and returns it.
async fn degraded(daemon: &Daemon, note: &str) -> String {
    let started = Instant::now();
    loop {
        let page: serde_json::Value =
            serde_json::from_str(&daemon.page("/readyz").await.unwrap()).unwrap();
        if let Some(text) = page["degraded"][note].as_str() {
            return text.to_owned();
        }
        assert!(started.elapsed() < LONG, "no note {note}:\n{}", daemon.output());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Keys below the prefix.
async fn left(daemon: &Daemon) -> Vec<String> {
    let all = daemon.s3().list().await.unwrap();
    all.into_iter().map(|entry| entry.key).filter(|key| key.starts_with(PREFIX)).collect()
}

fn reported(daemon: &Daemon) -> Vec<String> {
    let keys = daemon.reports().into_iter().filter_map(|report| report.key());
    keys.filter(|key| key.starts_with(PREFIX)).collect()
}

/// Says in the journal that a canary of these bytes is about to be written.
async fn announce(daemon: &Daemon, key: &str, bytes: &[u8]) {
    let names = &daemon.names;
    let fact = serde_json::json!({
        "kind": "canary_announced", "round": 1_000_000_000, "by": uuid::Uuid::new_v4(),
        "bucket": names.bucket, "key": key, "sha256": hex(&Sha256::digest(bytes)), "sample": "eicar",
    });
    let (exchange, stream) =
        (format!("{}.internal", names.queue), format!("{}.journal", names.queue));
    let amqp = Stack::from_env().amqp().await.unwrap();
    amqp.publish(&exchange, &stream, fact.to_string().as_bytes(), &[]).await.unwrap();
}

#[tokio::test]
async fn canaries_come_back_are_not_reported_and_leave_nothing() {
    let daemon = sending(&[("REPORT_CLEAN", "true")]).await;
    until(&daemon, true).await;
    assert_eq!(metric(&daemon, "avscan_source_latency_seconds_count").await, 2);
    eventually("they are removed", || async { left(&daemon).await.is_empty() }).await;
    // Another round, as good as the first: no second line.
    eventually("a second round", || async {
        metric(&daemon, "avscan_source_latency_seconds_count").await >= 4
    })
    .await;
    assert_eq!(daemon.output().matches("source is up").count(), 1, "{}", daemon.output());
    daemon.s3().put("other", "x").await.unwrap();
    daemon.reports_on("other", 1, SOON).await.unwrap();
    assert_eq!(reported(&daemon), Vec::<String>::new());
    assert!(daemon.page("/readyz").await.unwrap().contains("\"degraded\": {}"));
}

#[tokio::test]
async fn canaries_are_reported_as_such_when_that_is_asked_for() {
    let daemon = sending(&[("REPORT_CLEAN", "true"), ("REPORT_CANARY", "true")]).await;
    until(&daemon, true).await;
    eventually("both are reported", || async { reported(&daemon).len() >= 2 }).await;
    for report in daemon.reports() {
        assert_eq!(report.json()["trigger"], "canary");
    }
}

#[tokio::test]
async fn eicar_put_below_the_prefix_by_hand_is_an_ordinary_object() {
    for every in ["1h", ""] {
        let daemon = sending(&[("CANARY_EVERY", every)]).await;
        let key = format!("{PREFIX}{}", uuid::Uuid::new_v4().simple());
        daemon.s3().put(&key, eicar()).await.unwrap();
        gone(&daemon, &key).await;
        let report = daemon.reports_on(&key, 1, SOON).await.unwrap().pop().unwrap().json();
        assert_eq!((&report["status"], &report["action"]), (&"infected".into(), &"delete".into()));
        assert_eq!(report["trigger"], "upload");
    }
}

#[tokio::test]
async fn a_canary_is_its_bytes_and_is_used_once() {
    let daemon = sending(&[("CANARY_EVERY", "1h")]).await;
    until(&daemon, true).await;
    let s3 = daemon.s3();
    let key = format!("{PREFIX}{}", uuid::Uuid::new_v4().simple());
    announce(&daemon, &key, &eicar()).await;
    // Other bytes under its name.
    s3.put(&key, [b"!".to_vec(), eicar()].concat()).await.unwrap();
    gone(&daemon, &key).await;
    daemon.reports_on(&key, 1, SOON).await.unwrap();
    // Its own bytes.
    s3.put(&key, eicar()).await.unwrap();
    gone(&daemon, &key).await;
    eventually("its use is in the log", || async {
        daemon.output().matches("infected object deleted").count() >= 3
    })
    .await;
    // A report of it would be in front of this one.
    s3.put("between", eicar()).await.unwrap();
    daemon.reports_on("between", 1, SOON).await.unwrap();
    assert_eq!(reported(&daemon), [key.as_str()]);
    // The same once more.
    s3.put(&key, eicar()).await.unwrap();
    gone(&daemon, &key).await;
    daemon.reports_on(&key, 2, SOON).await.unwrap();
}

#[tokio::test]
async fn without_its_journal_an_object_below_the_prefix_is_scanned_and_reported() {
    let daemon = sending(&[("CANARY_EVERY", "1h")]).await;
    until(&daemon, true).await;
    let amqp = Stack::from_env().amqp().await.unwrap();
    let key = format!("{PREFIX}{}", uuid::Uuid::new_v4().simple());
    announce(&daemon, &key, &eicar()).await;
    amqp.delete_queue(&format!("{}.journal", daemon.names.queue)).await.unwrap();
    daemon.s3().put(&key, eicar()).await.unwrap();
    gone(&daemon, &key).await;
    daemon.reports_on(&key, 1, SOON).await.unwrap();
    assert_eq!(metric(&daemon, "avscan_sessions_lost_total").await, 0);
}

#[tokio::test]
async fn two_replicas_do_one_round_and_both_show_it() {
    let mut first = prepared(&[("CANARY_EVERY", "1h")]).await;
    let mut second = first.replica(&[]).unwrap();
    first.spawn().unwrap();
    second.spawn().unwrap();
    for daemon in [&mut first, &mut second] {
        daemon.wait_ready(SOON).await.unwrap();
    }
    for daemon in [&first, &second] {
        until(daemon, true).await;
    }
    let name = "avscan_source_latency_seconds_count";
    assert_eq!(metric(&first, name).await + metric(&second, name).await, 2);
}

/// As when a replica without the settings works on it: the object is acted on, and the journal has
/// nothing about it.
#[tokio::test]
async fn a_canary_that_was_acted_on_without_a_record_raises_no_alarm() {
    let daemon = sending(&[]).await;
    until(&daemon, true).await;
    Stack::from_env().route(&daemon.names.bucket, &Route::default()).unwrap();
    let s3 = daemon.s3();
    let started = Instant::now();
    while !daemon.output().contains("did not say so in the journal") {
        assert!(started.elapsed() < LONG, "{}", daemon.output());
        for key in left(&daemon).await {
            // It may be removed by now.
            drop(s3.set_tags(&key, &[("scanned", "clean")]).await);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!daemon.output().contains("source is down"), "{}", daemon.output());
}

#[tokio::test]
async fn a_lost_subscription_is_noticed_within_two_intervals() {
    let stack = Stack::from_env();
    let daemon = sending(&[]).await;
    until(&daemon, true).await;
    let bucket = daemon.names.bucket.clone();
    stack.route(&bucket, &Route::default()).unwrap();
    let took = until(&daemon, false).await;
    assert!(took < TWO_INTERVALS, "{took:?}");
    let note = degraded(&daemon, "source").await;
    assert!(note.contains(&bucket) && note.contains("no notification"), "{note}");
    assert_eq!(daemon.status("/readyz"), Some(200));
    let intakes = vec![daemon.env()["INTAKE_ADDR"].clone()];
    stack.route(&bucket, &Route { intakes, by_webhook_alone: false }).unwrap();
    until(&daemon, true).await;
    let output = daemon.output();
    assert_eq!(output.matches("source is down").count(), 1, "{output}");
    assert_eq!(output.matches("source is up").count(), 2, "{output}");
    eventually("they are removed", || async { left(&daemon).await.is_empty() }).await;
}

/// A daemon whose store answers some requests by script.
async fn behind(script: impl Fn(&Call) -> Fault + Send + Sync + 'static) -> (Daemon, HttpProxy) {
    let proxy = HttpProxy::start(&Stack::from_env().settings().s3_url).await.unwrap();
    proxy.script(script);
    let daemon = sending(&[("MINIO_SERVER_URL", &proxy.url())]).await;
    (daemon, proxy)
}

const DENIED: &str = "<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>";

#[tokio::test]
async fn a_bucket_that_does_not_exist_is_said_to_be_missing_and_said_once() {
    let mut daemon = prepared(&[]).await;
    let bucket = format!("missing-{}", uuid::Uuid::new_v4().simple());
    daemon.set_env("CANARY_BUCKETS", &bucket);
    daemon.spawn().unwrap();
    daemon.wait_ready(SOON).await.unwrap();
    let first = degraded(&daemon, "source").await;
    assert!(first.contains("NoSuchBucket"), "{first}");
    tokio::time::sleep(2 * EVERY + Duration::from_secs(2)).await;
    assert_eq!(degraded(&daemon, "source").await, first);
    let output = daemon.output();
    assert_eq!(output.matches("source is not proved").count(), 1, "{output}");
}

#[tokio::test]
async fn a_missing_right_is_named_and_raises_no_alarm() {
    let is_canary = |call: &Call| call.key.starts_with(PREFIX);
    let (daemon, _proxy) = behind(move |call| match call.op {
        peers::proxy::Op::Put if is_canary(call) => Fault::Answer(403, DENIED),
        _ => Fault::Pass,
    })
    .await;
    let note = degraded(&daemon, "source").await;
    assert!(note.contains("allow s3:PutObject") && note.contains("not proved"), "{note}");
    assert_eq!(source(&daemon).await, None);
    assert!(daemon.output().contains("allow s3:PutObject"), "{}", daemon.output());
}

#[tokio::test]
async fn canaries_that_cannot_be_removed_do_not_become_more() {
    let (daemon, _proxy) = behind(|call| match call.op {
        peers::proxy::Op::Delete => Fault::Answer(403, DENIED),
        _ => Fault::Pass,
    })
    .await;
    let note = degraded(&daemon, "source").await;
    assert!(note.contains("delete_denied"), "{note}");
    tokio::time::sleep(2 * EVERY).await;
    assert!(left(&daemon).await.len() <= 2);
    let amqp = Stack::from_env().amqp().await.unwrap();
    assert_eq!(amqp.count(&format!("{}.dead", daemon.names.queue)).await.unwrap(), Some(0));
    assert_eq!(reported(&daemon), Vec::<String>::new());
}

#[tokio::test]
async fn an_engine_that_becomes_blind_is_noticed_within_two_intervals() {
    let blind = Arc::new(AtomicBool::new(false));
    let is_blind = Arc::clone(&blind);
    let engine = Server::start(move |request| {
        if is_blind.load(Ordering::Relaxed) && request.path == "/scan" {
            return Reply::new(200, r#"{"Status":"OK","Description":""}"#);
        }
        lax_v1(request)
    });
    let daemon = sending(&[("SCANNER", "clamav-rest"), ("CLAMD_ENDPOINT", engine.url())]).await;
    until(&daemon, true).await;
    blind.store(true, Ordering::Relaxed);
    let started = Instant::now();
    let note = degraded(&daemon, "canary").await;
    assert!(started.elapsed() < TWO_INTERVALS, "{:?}", started.elapsed());
    assert!(note.contains("suspended") && note.contains("engine"), "{note}");
    assert_eq!(daemon.status("/readyz"), Some(503));
    blind.store(false, Ordering::Relaxed);
    eventually("it goes on", || async { daemon.output().contains("canary goes on") }).await;
    assert!(!daemon.output().contains("source is down"), "{}", daemon.output());
}

#[tokio::test]
async fn a_backlog_is_no_lost_subscription() {
    let engine = Server::start(|request| {
        let slow = request.body.windows(9).any(|part| part == b"take long");
        lax_v1(request).after(Duration::from_secs(if slow { 4 } else { 0 }))
    });
    let daemon = sending(&[
        ("SCANNER", "clamav-rest"),
        ("CLAMD_ENDPOINT", engine.url()),
        ("SCAN_CONCURRENCY", "1"),
    ])
    .await;
    until(&daemon, true).await;
    // 40 s of work in front of the next canaries.
    for n in 0..10 {
        daemon.s3().put(&format!("k{n}"), "take long").await.unwrap();
    }
    for n in 0..10 {
        let started = Instant::now();
        while daemon.s3().tags(&format!("k{n}")).await.unwrap().unwrap_or_default().is_empty() {
            assert!(started.elapsed() < LONG);
            assert_eq!(source(&daemon).await, Some(true), "{}", daemon.output());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let before = metric(&daemon, "avscan_source_latency_seconds_count").await;
    eventually("another round", || async {
        metric(&daemon, "avscan_source_latency_seconds_count").await > before
    })
    .await;
    assert!(!daemon.output().contains("source is down"), "{}", daemon.output());
}

/// A bucket of `SeaweedFS` with versions, whose events this test makes.
#[tokio::test]
async fn in_a_bucket_with_versions_nothing_is_left_and_default_retention_is_refused() {
    let seaweed = stack::Seaweed::start().await.unwrap();
    let (access, secret) = seaweed.keys();
    let daemon = prepared(&[
        ("MINIO_SERVER_URL", seaweed.url()),
        ("MINIO_ACCESS_KEY_ID", access),
        ("MINIO_SECRET_ACCESS_KEY", secret),
    ])
    .await;
    let mut daemon = daemon;
    let bucket = daemon.names.bucket.clone();
    let s3 = stack::S3::at(seaweed.url(), access, secret, "eu-west-1", &bucket);
    let made = s3.client.create_bucket().bucket(&bucket).object_lock_enabled_for_bucket(true);
    made.send().await.unwrap();
    let versioning =
        VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    let put = s3.client.put_bucket_versioning().bucket(&bucket);
    put.versioning_configuration(versioning).send().await.unwrap();
    daemon.spawn().unwrap();
    daemon.wait_ready(SOON).await.unwrap();
    let mut told = std::collections::HashSet::new();
    let started = Instant::now();
    while source(&daemon).await != Some(true) {
        assert!(started.elapsed() < LONG, "{}", daemon.output());
        for entry in s3.list().await.unwrap() {
            if told.insert(entry.key.clone()) {
                let event = peers::notification::put(&bucket, &entry.key, None, None);
                notify(&daemon, event.to_string().as_bytes()).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eventually("no version and no marker is left", || async {
        let list = s3.client.list_object_versions().bucket(&bucket).send().await.unwrap();
        list.versions().is_empty() && list.delete_markers().is_empty()
    })
    .await;
    let retention =
        DefaultRetention::builder().mode(ObjectLockRetentionMode::Governance).days(1).build();
    let lock = ObjectLockConfiguration::builder()
        .object_lock_enabled(ObjectLockEnabled::Enabled)
        .rule(ObjectLockRule::builder().default_retention(retention).build())
        .build();
    let put = s3.client.put_object_lock_configuration().bucket(&bucket);
    put.object_lock_configuration(lock).send().await.unwrap();
    let note = degraded(&daemon, "source").await;
    assert!(note.contains("default retention"), "{note}");
}
