//! The backlog of sweeps: objects that were there before, scanned beside live ones.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use peers::eicar::eicar;
use peers::scripted::store::{Operation, Version, Versioning};
use peers::scripted::{Reply, Server, Store, store};
use serde_json::{Value, json};
use stack::{Amqp, Daemon, S3, Stack};
use uuid::Uuid;

use super::engines::verdict;
use super::*;

/// What the broker holds at most for sweeps.
const MOST: u32 = 10_000;
const LONG_AGO: i64 = 1_000;
/// Later than any scan of a test.
const LATER: i64 = 4_000_000_000_000;

/// The message of a sweep that began then.
fn swept(bucket: &str, key: &str, began: i64, object: &Value) -> Value {
    let mut record = json!({ "eventName": "ObjectCreated:Put", "eventTime": object["modified"], "s3": {
        "bucket": { "name": bucket },
        "object": { "key": key, "sequencer": "s" },
    } });
    for field in ["versionId", "eTag", "size"] {
        record["s3"]["object"][field] = object[field].clone();
    }
    let sweep = json!({ "id": Uuid::new_v4(), "began": began });
    json!({ "Key": format!("{bucket}/{key}"), "Records": [record], "sweep": sweep })
}

pub(super) fn backlog(daemon: &Daemon) -> String {
    format!("{}.backlog", daemon.names.queue)
}

fn internal(daemon: &Daemon) -> String {
    format!("{}.internal", daemon.names.queue)
}

async fn publish(daemon: &Daemon, body: impl AsRef<[u8]>) {
    let amqp = Stack::from_env().amqp().await.unwrap();
    amqp.publish(&internal(daemon), &backlog(daemon), body.as_ref(), &[]).await.unwrap();
}

async fn count(daemon: &Daemon, outcome: &str) -> u64 {
    metric(daemon, &format!("avscan_backlog_total{{outcome=\"{outcome}\"}}")).await
}

async fn ended(daemon: &Daemon, outcome: &str, times: u64) {
    eventually(outcome, || async { count(daemon, outcome).await >= times }).await;
    assert_eq!(count(daemon, outcome).await, times, "{outcome}");
}

async fn scans(daemon: &Daemon) -> u64 {
    metric(daemon, "avscan_stage_duration_seconds_count{stage=\"scan\"}").await
}

/// An object as a list shows it.
async fn listed(s3: &S3, key: &str) -> Value {
    let head = s3.client.head_object().bucket(&s3.bucket).key(key).send().await.unwrap();
    let modified = head.last_modified().unwrap();
    let modified = modified.fmt(aws_smithy_types::date_time::Format::DateTime).unwrap();
    let etag = head.e_tag().unwrap().replace('"', "");
    json!({
        "versionId": head.version_id(), "eTag": etag, "size": head.content_length(),
        "modified": modified,
    })
}

/// A bucket of the real store whose events go nowhere.
async fn silent_bucket() -> S3 {
    let s3 = Stack::from_env().s3().with_bucket(&format!("test-{}", Uuid::new_v4().simple()));
    s3.create_bucket().await.unwrap();
    s3
}

/// A daemon on a store in memory, which announces nothing by itself.
async fn on(store: &Store, overrides: &[(&str, &str)]) -> Daemon {
    let mut all = vec![
        ("MINIO_SERVER_URL", store.url()),
        ("RETRY_DELAYS", "1s"),
        ("RETRY_LIMIT", "1"),
        ("REPORT_CLEAN", "true"),
    ];
    all.extend(overrides);
    store.with(|contents| contents.bucket("b").versioning = Versioning::Off);
    daemon(&all).await
}

/// Stores an object, and announces it as a sweep does.
async fn put_and_sweep(daemon: &Daemon, store: &Store, key: &str, content: &[u8]) {
    let (_, etag) = store.put("b", key, Version::new(content));
    let object = json!({ "eTag": etag, "size": content.len() });
    publish(daemon, swept("b", key, LATER, &object).to_string()).await;
}

#[tokio::test]
async fn what_a_sweep_announces_is_scanned_unless_it_was_since_then() {
    let daemon = daemon(&[("DELETE_FILE", "true")]).await;
    let s3 = silent_bucket().await;
    let key = "dir/a b+c é";
    s3.put(key, "hello").await.unwrap();
    s3.put("eicar", eicar()).await.unwrap();
    for key in [key, "eicar"] {
        let object = listed(&s3, key).await;
        publish(&daemon, swept(&s3.bucket, key, LONG_AGO, &object).to_string()).await;
    }
    ended(&daemon, "scanned", 2).await;
    assert!(s3.head("eicar").await.unwrap().is_none());
    let tags = s3.tags(key).await.unwrap().unwrap();
    assert_eq!(tags["scanned"], "clean");
    assert!(tags.contains_key("scanned-receipt"));
    let report = daemon.reports_on("eicar", 1, SOON).await.unwrap().remove(0).json();
    let told = ["status", "action", "trigger"].map(|field| report[field].as_str().unwrap());
    assert_eq!(told, ["infected", "delete", "sweep"]);

    // The scan above began after that sweep, and before the other one.
    let before = scans(&daemon).await;
    let object = listed(&s3, key).await;
    publish(&daemon, swept(&s3.bucket, key, LONG_AGO, &object).to_string()).await;
    ended(&daemon, "already_scanned", 1).await;
    assert_eq!(scans(&daemon).await, before);
    publish(&daemon, swept(&s3.bucket, key, LATER, &object).to_string()).await;
    ended(&daemon, "scanned", 3).await;
    assert_eq!(scans(&daemon).await, before + 1);
    // Its receipt is about other bytes.
    s3.client
        .put_object()
        .bucket(&s3.bucket)
        .key(key)
        .tagging(format!("scanned=clean&scanned-receipt={}", tags["scanned-receipt"]))
        .body(b"other".to_vec().into())
        .send()
        .await
        .unwrap();
    let object = listed(&s3, key).await;
    publish(&daemon, swept(&s3.bucket, key, LONG_AGO, &object).to_string()).await;
    ended(&daemon, "scanned", 4).await;

    publish(&daemon, swept(&s3.bucket, "never", LONG_AGO, &object).to_string()).await;
    ended(&daemon, "gone", 1).await;
    assert_eq!(metric(&daemon, "avscan_notifications_total{end=\"applied\"}").await, 0);
}

#[tokio::test]
async fn what_was_begun_before_is_reported_although_it_has_its_receipt() {
    let daemon = daemon(&[("REPORT_CLEAN", "true")]).await;
    let s3 = silent_bucket().await;
    s3.put("k", "x").await.unwrap();
    let body = swept(&s3.bucket, "k", LONG_AGO, &listed(&s3, "k").await).to_string();
    publish(&daemon, &body).await;
    ended(&daemon, "scanned", 1).await;
    publish(&daemon, &body).await;
    ended(&daemon, "already_scanned", 1).await;
    // As after a crash or a failure between the tag and the report.
    let amqp = Stack::from_env().amqp().await.unwrap();
    let headers = [("avscan-first-failure", "2026-11-28T20:00:00Z")];
    amqp.publish(&internal(&daemon), &backlog(&daemon), body.as_bytes(), &headers).await.unwrap();
    ended(&daemon, "scanned", 2).await;
    daemon.reports_on("k", 2, SOON).await.unwrap();
}

#[tokio::test]
async fn what_no_sweep_sent_is_counted_and_removed() {
    let store = Store::start();
    let daemon = on(&store, &[]).await;
    let mut no_sweep = swept("b", "k", LATER, &json!({}));
    no_sweep["sweep"] = json!(7);
    for body in ["", "{}", &no_sweep.to_string()] {
        publish(&daemon, body).await;
    }
    ended(&daemon, "malformed", 3).await;
    put_and_sweep(&daemon, &store, "k", b"x").await;
    ended(&daemon, "scanned", 1).await;
    assert!(daemon.output().contains("not what a sweep announces"), "{}", daemon.output());
}

#[tokio::test]
async fn what_fails_is_reported_and_never_parked() {
    let engine = Server::start(|request| {
        let contains = |part: &[u8]| request.body.windows(part.len()).any(|w| w == part);
        if contains(b"no verdict") { Reply::new(200, "[]") } else { lax_v1(request) }
    });
    let store = Store::start_with(|call, _| {
        let denied = call.operation == Operation::PutObjectTagging && call.key == b"denied";
        denied.then(|| store::error(403, "AccessDenied"))
    });
    let settings = [("SCANNER", "clamav-rest"), ("CLAMD_ENDPOINT", engine.url())];
    let daemon = on(&store, &settings).await;
    put_and_sweep(&daemon, &store, "denied", b"x").await;
    ended(&daemon, "failed", 1).await;
    let report = daemon.reports_on("denied", 1, SOON).await.unwrap().remove(0).json();
    assert_eq!((&report["error"], &report["trigger"]), (&"tag_denied".into(), &"sweep".into()));

    // What was found before stays on it.
    let version = Version::new(b"no verdict".to_vec()).tag("scanned", "clean");
    let (_, etag) = store.put("b", "k", version);
    let object = json!({ "eTag": etag, "size": 10, "versionId": "null" });
    publish(&daemon, swept("b", "k", LATER, &object).to_string()).await;
    ended(&daemon, "failed", 2).await;
    let report = daemon.reports_on("k", 1, SOON).await.unwrap().remove(0).json();
    let told = ["status", "reason", "action", "trigger"].map(|field| report[field].clone());
    assert_eq!(told, ["no", "scan_failed", "no", "sweep"]);
    assert_eq!(report["attempt"], 2);
    assert_eq!(store.current("b", "k").unwrap().tag_value("scanned"), Some("clean"));
    let amqp = Stack::from_env().amqp().await.unwrap();
    assert_eq!(amqp.count(&format!("{}.dead", backlog(&daemon))).await.unwrap(), None);
    assert_eq!(amqp.count(&format!("{}.dead", daemon.names.queue)).await.unwrap(), Some(0));
    for queue in ["", ".retry.1s"] {
        assert_eq!(amqp.count(&format!("{}{queue}", backlog(&daemon))).await.unwrap(), Some(0));
    }
}

/// An engine that takes half a minute for what says so, and no time for the rest.
fn slow_engine() -> Server {
    Server::start(|request| {
        let slow = request.body.windows(9).any(|part| part == b"take long");
        lax_v1(request).after(Duration::from_secs(if slow { 25 } else { 0 }))
    })
}

fn in_work(engine: &Server) -> usize {
    let requests = engine.requests();
    requests.iter().filter(|r| r.body.windows(9).any(|part| part == b"take long")).count()
}

#[tokio::test]
async fn a_live_message_waits_for_no_slot_of_the_backlog() {
    for slots in [1, 2] {
        let (engine, store) = (slow_engine(), Store::start());
        let text = slots.to_string();
        let settings = [
            ("SCANNER", "clamav-rest"),
            ("CLAMD_ENDPOINT", engine.url()),
            ("SCAN_CONCURRENCY", &text),
        ];
        let daemon = on(&store, &settings).await;
        for n in 0..slots + 3 {
            put_and_sweep(&daemon, &store, &format!("old-{n}"), b"take long").await;
        }
        eventually("the backlog has all slots", || async { in_work(&engine) == slots }).await;
        let began = Instant::now();
        for n in 0..10 {
            let key = format!("live-{n}");
            let (_, etag) = store.put("b", &key, Version::new(b"x".to_vec()));
            let event = peers::notification::put("b", &key, None, Some(&etag));
            notify(&daemon, event.to_string().as_bytes()).await;
        }
        eventually("all live ones are done", || async {
            metric(&daemon, "avscan_notifications_total{end=\"applied\"}").await == 10
        })
        .await;
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_eq!(in_work(&engine), slots, "no more of the backlog than there are slots");
        // Messages without a slot stay where another replica can get them.
        let amqp = Stack::from_env().amqp().await.unwrap();
        assert_eq!(amqp.count(&backlog(&daemon)).await.unwrap(), Some(3));
    }
}

#[tokio::test]
async fn with_one_slot_the_backlog_works_between_live_messages() {
    let engine = Server::start(|request| lax_v1(request).after(Duration::from_millis(100)));
    let store = Store::start();
    let settings =
        [("SCANNER", "clamav-rest"), ("CLAMD_ENDPOINT", engine.url()), ("SCAN_CONCURRENCY", "1")];
    let daemon = on(&store, &settings).await;
    for n in 0..10 {
        put_and_sweep(&daemon, &store, &format!("old-{n}"), b"x").await;
    }
    for n in 0..10 {
        let key = format!("live-{n}");
        let (_, etag) = store.put("b", &key, Version::new(b"x".to_vec()));
        let event = peers::notification::put("b", &key, None, Some(&etag));
        notify(&daemon, event.to_string().as_bytes()).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    ended(&daemon, "scanned", 10).await;
    assert_eq!(metric(&daemon, "avscan_notifications_total{end=\"applied\"}").await, 10);
}

/// Objects as large as they may be take all of the temp disk, one in every slot of the backlog.
#[tokio::test]
async fn a_live_message_waits_for_no_temp_disk_of_the_backlog() {
    for spool in ["1", "2"] {
        let store = Store::start_with(|call, _| {
            (call.operation == Operation::GetObject && call.key.starts_with(b"large")).then(|| {
                Reply::new(200, "x".repeat(1000))
                    .header("etag", "\"e\"")
                    .header("content-length", &(1_u64 << 30).to_string())
                    .drip(1, Duration::from_millis(100))
            })
        });
        let settings = [("VOLUME_SIZE", "1"), ("SPOOL_SIZE", spool), ("SCAN_CONCURRENCY", "2")];
        let daemon = on(&store, &settings).await;
        for n in 0..2 {
            let object = json!({ "eTag": "e", "size": 1_u64 << 30 });
            publish(&daemon, swept("b", &format!("large-{n}"), LATER, &object).to_string()).await;
        }
        let fetched = |n: usize| store.calls_on("b", format!("large-{n}")).len();
        eventually("both are begun", || async { fetched(0) > 0 && fetched(1) > 0 }).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let began = Instant::now();
        // Too large for memory.
        let (_, etag) = store.put("b", "live", Version::new(vec![b'x'; 300_000]));
        let event = peers::notification::put("b", "live", None, Some(&etag));
        notify(&daemon, event.to_string().as_bytes()).await;
        eventually("it is done", || async {
            metric(&daemon, "avscan_notifications_total{end=\"applied\"}").await == 1
        })
        .await;
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
}

/// Publishes many at once. Returns how many the broker took.
pub(super) async fn fill(amqp: &Amqp, daemon: &Daemon, queue: &str, body: &str, most: u32) -> u32 {
    let exchange = internal(daemon);
    let channel = amqp.channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let mut taken = 0;
    for _ in 0..most / 100 {
        let mut confirms = Vec::new();
        for _ in 0..100 {
            let properties = BasicProperties::default().with_delivery_mode(2);
            let options = BasicPublishOptions::default();
            let (exchange, queue) = (exchange.as_str().into(), queue.into());
            let sent = channel.basic_publish(exchange, queue, options, body.as_bytes(), properties);
            confirms.push(sent.await.unwrap());
        }
        for confirm in confirms {
            taken += u32::from(confirm.await.unwrap().is_ack());
        }
    }
    taken
}

#[tokio::test]
async fn a_full_backlog_refuses_more_and_loses_nothing() {
    // A queue offers what was refused again after this time, by default 3 min.
    let again = "application:set_env(rabbit, dead_letter_worker_publisher_confirm_timeout, 2000).";
    Stack::from_env().rabbitmqctl(&["eval", again]).unwrap();
    let store = Store::start();
    let mut daemon = on(&store, &[]).await;
    assert_eq!(daemon.terminate(SOON).await.unwrap(), 0);
    let amqp = Stack::from_env().amqp().await.unwrap();
    let queue = backlog(&daemon);
    // Quickly done with.
    let taken = fill(&amqp, &daemon, &queue, "{}", MOST).await;
    assert!((8_000..8_200).contains(&taken), "{taken}");
    // A copy whose delay is over does not get in.
    let retry = format!("{queue}.retry.1s");
    store.put("b", "retried", Version::new(b"x".to_vec()));
    let retried = swept("b", "retried", LATER, &json!({})).to_string();
    amqp.publish(&internal(&daemon), &retry, retried.as_bytes(), &[]).await.unwrap();
    let waiting = fill(&amqp, &daemon, &retry, "{}", 500).await;
    assert!((199..300).contains(&waiting), "{waiting}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(amqp.count(&queue).await.unwrap().unwrap() < 8_200);
    daemon.spawn().unwrap();
    daemon.wait_ready(SOON).await.unwrap();
    let all = u64::from(taken + waiting);
    let began = Instant::now();
    while count(&daemon, "malformed").await < all || count(&daemon, "scanned").await < 1 {
        let left = (count(&daemon, "malformed").await, count(&daemon, "scanned").await);
        assert!(began.elapsed() < Duration::from_mins(2), "{left:?} of {all} and 1");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(metric(&daemon, "avscan_sessions_lost_total").await, 0);
}

#[tokio::test]
async fn more_failures_than_may_wait_are_reported_at_once() {
    let engine = Server::start(|request| {
        let contains = |part: &[u8]| request.body.windows(part.len()).any(|w| w == part);
        if contains(b"no verdict") { Reply::new(200, "[]") } else { lax_v1(request) }
    });
    let store = Store::start();
    let settings = [
        ("SCANNER", "clamav-rest"),
        ("CLAMD_ENDPOINT", engine.url()),
        ("RETRY_DELAYS", "1h"),
        ("SCAN_CONCURRENCY", "16"),
    ];
    let daemon = on(&store, &settings).await;
    let (_, etag) = store.put("b", "k", Version::new(b"no verdict".to_vec()));
    let object = json!({ "eTag": etag, "size": 10 });
    let amqp = Stack::from_env().amqp().await.unwrap();
    let body = swept("b", "k", LATER, &object).to_string();
    fill(&amqp, &daemon, &backlog(&daemon), &body, 300).await;
    let retry = format!("{}.retry.1h", backlog(&daemon));
    eventually("some are given up", || async { count(&daemon, "failed").await >= 50 }).await;
    assert!((200..250).contains(&amqp.count(&retry).await.unwrap().unwrap()));
    assert_eq!(metric(&daemon, "avscan_sessions_lost_total").await, 0);
    let report = daemon.reports_on("k", 1, SOON).await.unwrap().remove(0).json();
    assert_eq!((&report["reason"], &report["attempt"]), (&"scan_failed".into(), &1.into()));
}

#[tokio::test]
async fn a_replica_that_is_killed_loses_nothing() {
    let first = Arc::new(AtomicBool::new(true));
    let hangs = Arc::clone(&first);
    let engine = Server::start(move |request| {
        let is_ours = request.body.windows(7).any(|part| part == b"content");
        if is_ours && hangs.swap(false, Ordering::Relaxed) {
            Reply::hang()
        } else {
            lax_v1(request)
        }
    });
    let store = Store::start();
    let settings = [("SCANNER", "clamav-rest"), ("CLAMD_ENDPOINT", engine.url())];
    let mut daemon = on(&store, &settings).await;
    put_and_sweep(&daemon, &store, "k", b"content").await;
    eventually("it is scanned", || async { !first.load(Ordering::Relaxed) }).await;
    daemon.kill();
    daemon.spawn().unwrap();
    daemon.wait_ready(SOON).await.unwrap();
    ended(&daemon, "scanned", 1).await;
    assert_eq!(store.current("b", "k").unwrap().tag_value("scanned"), Some("clean"));
}

/// Two workers share the answers about the engine.
#[tokio::test]
async fn the_backlog_waits_for_the_same_engine_and_asks_it_no_more_often() {
    let works = Arc::new(AtomicBool::new(false));
    let tests = Arc::new(Mutex::new(0_u32));
    let (is_up, count) = (Arc::clone(&works), Arc::clone(&tests));
    let engine = Server::start(move |request| {
        if request.path != "/v2/scan" {
            return Reply::new(404, "");
        }
        if request.body.windows(eicar().len()).any(|part| part == eicar()) {
            *count.lock().unwrap() += 1;
            if is_up.load(Ordering::Relaxed) {
                return verdict(request, 406, "FOUND", "Eicar");
            }
        }
        verdict(request, 200, "OK", "")
    });
    let store = Store::start();
    store.with(|contents| contents.bucket("b").versioning = Versioning::Off);
    let settings = [
        ("MINIO_SERVER_URL", store.url()),
        ("SCANNER", "clamav-rest"),
        ("CLAMD_ENDPOINT", engine.url()),
    ];
    let stack = Stack::from_env();
    let mut daemon = Daemon::prepare(&stack, binary(), &settings).await.unwrap();
    let began = Instant::now();
    daemon.spawn().unwrap();
    let amqp = stack.amqp().await.unwrap();
    let queue = backlog(&daemon);
    eventually("it is declared", || async { amqp.count(&queue).await.unwrap().is_some() }).await;
    put_and_sweep(&daemon, &store, "k", b"x").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(amqp.count(&queue).await.unwrap(), Some(1), "it stays where it is");
    let asked = || u64::from(*tests.lock().unwrap());
    // About one a second, for live uploads alone; it would be twice as many.
    assert!(asked() <= 2 * began.elapsed().as_secs(), "{} tests", asked());
    works.store(true, Ordering::Relaxed);
    daemon.wait_ready(SOON).await.unwrap();
    ended(&daemon, "scanned", 1).await;
    let then = asked();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(asked(), then, "nobody asks an engine that works");
}
