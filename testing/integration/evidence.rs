//! An answer of the store is not believed without proof: the daemon checks that an object is
//! missing, deleted, tagged or denied. The store is a double that behaves as S3 and gives wrong
//! answers where a test says so.

mod deletions;
mod fresh;
mod versions;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use peers::eicar::eicar;
use peers::notification;
use peers::scripted::store::{Call, Contents, Operation, Version, Versioning};
use peers::scripted::{Reply, Store, store};
use peers::sink::Received;
use serde_json::{Value, json};
use stack::Daemon;

use super::*;

pub(super) const BUCKET: &str = "b";
/// Most requests for one object in one delivery, while the store works.
const MOST_REQUESTS: usize = 25;

pub(super) struct Scene {
    pub(super) store: Arc<Store>,
    pub(super) daemon: Daemon,
}

pub(super) async fn scene(
    overrides: &[(&str, &str)],
    hook: impl Fn(&Call, &mut Contents) -> Option<Reply> + Send + Sync + 'static,
) -> Scene {
    let store = Arc::new(Store::start_with(hook));
    let mut all = vec![
        ("MINIO_SERVER_URL", store.url()),
        ("RETRY_DELAYS", "1s"),
        ("RETRY_LIMIT", "1"),
        ("REPORT_CLEAN", "true"),
    ];
    all.extend(overrides);
    let daemon = daemon(&all).await;
    store.with(|contents| contents.bucket(BUCKET).versioning = Versioning::Off);
    Scene { store, daemon }
}

impl Scene {
    pub(super) fn put(&self, key: &str, content: &[u8]) -> (String, String) {
        self.store.put(BUCKET, key, Version::new(content))
    }

    pub(super) fn versioning(&self, versioning: Versioning) {
        self.store.with(|contents| contents.bucket(BUCKET).versioning = versioning);
    }

    /// Announces an upload without its version id.
    pub(super) async fn announce(&self, key: &str, etag: &str) {
        let event = notification::put(BUCKET, key, None, Some(etag));
        self.tell(&event).await;
    }

    async fn tell(&self, event: &Value) {
        notify(&self.daemon, event.to_string().as_bytes()).await;
    }

    async fn reports(&self, key: &str, count: usize) -> Vec<Value> {
        let reports = self.daemon.reports_on(key, count, SOON).await.unwrap();
        reports.iter().map(Received::json).collect()
    }

    async fn until_gone(&self, key: &str) {
        eventually("it is deleted", || async { self.store.current(BUCKET, key).is_none() }).await;
    }

    async fn until_tagged(&self, key: &str, status: &str) {
        eventually("it is tagged", || async {
            let current = self.store.current(BUCKET, key);
            current.is_some_and(|version| version.tag_value("scanned") == Some(status))
        })
        .await;
    }

    async fn ended(&self, end: &str) {
        let name = format!("avscan_notifications_total{{end=\"{end}\"}}");
        eventually(end, || async { metric(&self.daemon, &name).await >= 1 }).await;
    }

    pub(super) fn calls(&self, key: &str, operation: Operation) -> usize {
        let calls = self.store.calls_on(BUCKET, key);
        calls.iter().filter(|call| call.operation == operation).count()
    }

    /// One delivery causes a bounded number of requests, whatever the store answers.
    fn asked_little(&self, key: &str, deliveries: usize) {
        let calls = self.store.calls_on(BUCKET, key).len();
        assert!(calls <= MOST_REQUESTS * deliveries, "{calls} requests in {deliveries} deliveries");
    }

    async fn nothing_is_parked(&self) {
        let amqp = Stack::from_env().amqp().await.unwrap();
        let dead = format!("{}.dead", self.daemon.names.queue);
        assert_eq!(amqp.count(&dead).await.unwrap(), Some(0));
    }
}

pub(super) fn as_it_is(_: &Call, _: &mut Contents) -> Option<Reply> {
    None
}

/// Returns true on the first call only.
pub(super) fn once() -> impl Fn() -> bool {
    let done = AtomicBool::new(false);
    move || !done.swap(true, Ordering::Relaxed)
}

/// A page that an ingress shows while the store is down.
fn page(status: u16) -> Reply {
    Reply::new(status, "<html><body>Maintenance</body></html>").header("content-type", "text/html")
}

fn status_of(report: &Value) -> [&str; 3] {
    ["status", "action", "error"].map(|field| report[field].as_str().unwrap_or("-"))
}

#[tokio::test]
async fn an_object_that_is_missing_once_is_looked_for_once_more() {
    let first = once();
    let scene = scene(&[], move |call, _| {
        let missing = call.operation == Operation::GetObject && first();
        missing.then(|| store::error(404, "NoSuchKey"))
    })
    .await;
    let (_, etag) = scene.put("k", &eicar());
    scene.announce("k", &etag).await;
    scene.until_gone("k").await;
    assert_eq!(status_of(&scene.reports("k", 1).await[0]), ["infected", "delete", "-"]);
    scene.nothing_is_parked().await;
}

#[tokio::test]
async fn what_is_missing_twice_is_gone_without_a_report() {
    let scene = scene(&[], as_it_is).await;
    scene.announce("k", "e").await;
    scene.ended("gone").await;
    assert_eq!(scene.calls("k", Operation::GetObject), 2);
    assert!(scene.daemon.reports().is_empty());
    scene.nothing_is_parked().await;
}

#[tokio::test]
async fn an_unknown_version_id_does_not_hide_the_announced_bytes() {
    let scene = scene(&[], as_it_is).await;
    scene.versioning(Versioning::Enabled);
    let (_, etag) = scene.put("k", &eicar());
    let mut event = notification::put(BUCKET, "k", None, Some(&etag));
    event["Records"][0]["s3"]["object"]["versionId"] =
        "00000000-0000-0000-0000-000000000001".into();
    scene.tell(&event).await;
    scene.until_gone("k").await;
    assert!(scene.store.versions(BUCKET, "k").is_empty());
}

#[tokio::test]
async fn keys_that_differ_only_in_plus_and_space_are_not_confused() {
    // As Ceph announces: raw keys, and no key at the top.
    let scene = scene(&[], as_it_is).await;
    let raw = |key: &str, etag: &str, source: &str| {
        let mut event = notification::put(BUCKET, key, Some(68), Some(etag));
        event.as_object_mut().unwrap().remove("Key");
        event["Records"][0]["s3"]["object"]["key"] = key.into();
        event["Records"][0]["eventSource"] = source.into();
        event
    };
    let (_, etag) = scene.put("a b", &eicar());
    scene.put("a+b", &eicar());
    scene.tell(&raw("a+b", &etag, "ceph:s3")).await;
    scene.until_gone("a+b").await;
    assert_eq!(status_of(&scene.reports("a+b", 1).await[0]), ["infected", "delete", "-"]);
    assert!(scene.store.current(BUCKET, "a b").is_some());
    assert_eq!(scene.calls("a b", Operation::GetObject), 0);
    // If it is unknown which one is meant, both are scanned.
    scene.put("a+b", &eicar());
    scene.tell(&raw("a+b", &etag, "other:s3")).await;
    scene.until_gone("a+b").await;
    scene.until_gone("a b").await;
    scene.reports("a b", 1).await;
    // If only the ETag of one matches, the other one is also scanned, with its current content.
    let (_, other) = scene.put("c d", b"decoded");
    scene.put("c+d", b"raw");
    scene.tell(&raw("c+d", &other, "other:s3")).await;
    scene.until_tagged("c d", "clean").await;
    scene.until_tagged("c+d", "clean").await;
    // This line is logged after tag and report.
    let told = || async { scene.daemon.output().contains("key=\"c d\" attempt=1}: clean") };
    eventually("the log names the key that was found", told).await;
}

#[tokio::test]
async fn a_failure_is_reported_for_the_key_that_was_found() {
    let scene = scene(&[], |call, _| {
        (call.operation == Operation::PutObjectTagging).then(|| store::error(500, "InternalError"))
    })
    .await;
    let (_, etag) = scene.put("x y", b"clean");
    let mut event = notification::put(BUCKET, "x+y", None, Some(&etag));
    event.as_object_mut().unwrap().remove("Key");
    event["Records"][0]["s3"]["object"]["key"] = "x+y".into();
    event["Records"][0]["eventSource"] = "aws:s3".into();
    scene.tell(&event).await;
    assert_eq!(status_of(&scene.reports("x y", 1).await[0]), ["clean", "no", "tag_failed"]);
    let parked = dead(&scene.daemon).await;
    assert_eq!(parked.json().unwrap()["Key"], "b/x y");
}

#[tokio::test]
async fn weak_and_strong_etags_of_the_same_value_are_the_same() {
    let scene = scene(&[], |call, contents| {
        let key = call.key.clone();
        let version = contents.bucket(BUCKET).current(&key)?.clone();
        (call.operation == Operation::GetObject && call.parameter("tagging").is_none()).then(|| {
            Reply::new(200, version.body).header("etag", &format!("W/\"{}\"", version.etag))
        })
    })
    .await;
    let (_, etag) = scene.put("k", &eicar());
    scene.announce("k", &etag).await;
    scene.until_gone("k").await;
    assert_eq!(scene.reports("k", 1).await.len(), 1);
}

#[tokio::test]
async fn get_and_head_that_disagree_leave_the_verdict_standing() {
    let scene = scene(&[], |call, contents| {
        let length = contents.bucket(BUCKET).current(&call.key)?.body.len().to_string();
        (call.operation == Operation::HeadObject).then(|| {
            Reply::new(200, "")
                .header("x-amz-request-id", "1")
                .header("etag", "\"another\"")
                .header("content-length", &length)
        })
    })
    .await;
    let (_, etag) = scene.put("k", &eicar());
    scene.announce("k", &etag).await;
    eventually("its failure is reported", || async {
        let reports = scene.daemon.reports();
        reports.iter().any(|report| report.json()["error"] == "delete_failed")
    })
    .await;
    let reports = scene.reports("k", 2).await;
    assert!(reports.iter().all(|report| report["status"] == "infected"), "{reports:?}");
    assert_eq!(dead(&scene.daemon).await.headers["avscan-reason"], "identity_unstable");
    scene.asked_little("k", 2);
}

#[tokio::test]
async fn a_head_without_a_length_compares_by_its_etag() {
    let scene = scene(&[], |call, contents| {
        let etag = contents.bucket(BUCKET).current(&call.key)?.etag.clone();
        (call.operation == Operation::HeadObject)
            .then(|| Reply::new(200, "").header("etag", &format!("\"{etag}\"")).without_length())
    })
    .await;
    let (_, etag) = scene.put("bad", &eicar());
    scene.announce("bad", &etag).await;
    let (_, etag) = scene.put("good", b"fine");
    scene.announce("good", &etag).await;
    scene.until_gone("bad").await;
    scene.until_tagged("good", "clean").await;
    scene.nothing_is_parked().await;
}

#[tokio::test]
async fn a_store_without_tags_is_found_out_and_its_objects_are_scanned_once() {
    let scene = scene(&[("DELETE_FILE", "false")], |call, _| {
        matches!(call.operation, Operation::GetObjectTagging | Operation::PutObjectTagging)
            .then(|| store::error(501, "NotImplemented"))
    })
    .await;
    for (key, content) in [("good", &b"fine"[..]), ("bad", &eicar()), ("fine", b"fine too")] {
        let (_, etag) = scene.put(key, content);
        scene.announce(key, &etag).await;
    }
    for (key, status) in [("good", "clean"), ("bad", "infected"), ("fine", "clean")] {
        let report = scene.reports(key, 1).await.remove(0);
        assert_eq!(status_of(&report), [status, "no", "tag_unsupported"]);
        assert_eq!(scene.calls(key, Operation::GetObject), 1);
    }
    eventually("all ended", || async {
        metric(&scene.daemon, "avscan_notifications_total{end=\"applied\"}").await >= 3
    })
    .await;
    scene.nothing_is_parked().await;
    assert_eq!(scene.daemon.output().matches("set TAG_FILES=false").count(), 1);
}

#[tokio::test]
async fn a_head_that_something_before_the_store_refuses_is_no_denial() {
    let shown = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&shown);
    let scene = scene(&[("RETRY_LIMIT", "5")], move |call, _| {
        let head = call.operation == Operation::HeadObject;
        (head && counted.fetch_add(1, Ordering::Relaxed) < 2).then(|| Reply::new(403, ""))
    })
    .await;
    let (_, etag) = scene.put("good", b"fine");
    scene.announce("good", &etag).await;
    scene.until_tagged("good", "clean").await;
    assert!(shown.load(Ordering::Relaxed) > 2);
    scene.nothing_is_parked().await;
}

#[tokio::test]
async fn a_tag_whose_answer_was_lost_does_not_stay_on_other_bytes() {
    // A retry comes too late: only the check after tagging can remove the tag in time.
    let scene = scene(&[("DELETE_FILE", "false"), ("RETRY_DELAYS", "1m")], |call, contents| {
        let says_clean = call.request.text().contains("clean");
        (call.operation == Operation::PutObjectTagging && says_clean).then(|| {
            // The object is overwritten before the tag arrives, so that the tag is set on the newer
            // bytes.
            let newer = Version::new(eicar()).tag("scanned", "clean").tag("owner", "me");
            contents.bucket(BUCKET).put(&call.key, newer);
            Reply::close()
        })
    })
    .await;
    let (_, etag) = scene.put("k", b"clean");
    scene.announce("k", &etag).await;
    eventually("the tag is removed, and the other one stays", || async {
        let current = scene.store.current(BUCKET, "k").unwrap();
        scene.calls("k", Operation::PutObjectTagging) > 0
            && current.tag_value("scanned") != Some("clean")
            && current.tag_value("owner") == Some("me")
    })
    .await;
}

#[tokio::test]
async fn a_store_that_fails_during_the_check_of_an_archived_object_is_asked_again() {
    let first = Arc::new(AtomicUsize::new(0));
    let scene = scene(&[], move |call, _| match call.operation {
        Operation::GetObject => Some(store::error(403, "InvalidObjectState")),
        Operation::HeadObject if first.fetch_add(1, Ordering::Relaxed) < 3 => {
            Some(store::error(503, "SlowDown"))
        }
        _ => None,
    })
    .await;
    let (_, etag) = scene.put("k", b"archived");
    scene.announce("k", &etag).await;
    scene.until_tagged("k", "no").await;
    assert_eq!(scene.reports("k", 1).await[0]["reason"], "unreadable");
}

#[tokio::test]
async fn reports_can_be_told_apart_and_ordered() {
    let scene = scene(&[], |call, _| {
        (call.operation == Operation::DeleteObject).then(|| store::error(500, "InternalError"))
    })
    .await;
    let (_, etag) = scene.put("k", &eicar());
    scene.announce("k", &etag).await;
    eventually("its failure is reported", || async {
        let reports = scene.daemon.reports();
        reports.iter().any(|report| report.json()["error"] == "delete_failed")
    })
    .await;
    let mut reports: Vec<Value> = scene.daemon.reports().iter().map(Received::json).collect();
    reports.sort_by_key(|report| report["sequence"].as_u64());
    assert_eq!(reports.last().unwrap()["error"], "delete_failed");
    for report in &reports {
        assert_eq!(report["type"], "object.scanned");
        let times = [&report["scan_finished"], &report["reported_at"]];
        let times = times.map(|time| time.as_str().unwrap().to_owned());
        assert!(times[0][..19] <= times[1][..19], "{times:?}");
    }
    scene.asked_little("k", 2);
    let zip = peers::zip::encrypted("secret.txt", 100);
    let (_, etag) = scene.put("secret.zip", &zip);
    scene.announce("secret.zip", &etag).await;
    let report = scene.reports("secret.zip", 1).await.remove(0);
    assert_eq!(report["reason"], "encrypted");
    assert_eq!(report["heuristic"], "Heuristics.Encrypted.Zip");
    assert_eq!(report["signature"], json!(null));
}

#[tokio::test]
async fn small_objects_do_not_wait_for_the_temp_disk() {
    let scene = scene(&[("VOLUME_SIZE", "1"), ("SPOOL_SIZE", "1"), ("SCAN_CONCURRENCY", "3")], {
        |call, _| {
            // Takes all of the temp disk for a long time.
            (call.operation == Operation::GetObject && call.key.starts_with(b"large")).then(|| {
                Reply::new(200, "x".repeat(1000))
                    .header("etag", "\"e\"")
                    .header("content-length", &(1_u64 << 30).to_string())
                    .drip(1, Duration::from_millis(100))
            })
        }
    })
    .await;
    for n in 0..2 {
        scene.announce(&format!("large-{n}"), "e").await;
    }
    eventually("both are being fetched", || async {
        scene.calls("large-0", Operation::GetObject) + scene.calls("large-1", Operation::GetObject)
            >= 2
    })
    .await;
    let started = Instant::now();
    for n in 0..20 {
        let key = format!("small-{n}");
        let (_, etag) = scene.put(&key, b"small");
        scene.announce(&key, &etag).await;
    }
    for n in 0..20 {
        scene.until_tagged(&format!("small-{n}"), "clean").await;
    }
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
}
