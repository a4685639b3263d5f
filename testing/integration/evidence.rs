//! An answer of the store is believed only as far as it goes: what is gone, deleted, tagged or denied
//! has to be shown. The store is a double that keeps objects as S3 does, and lies where a test says so.

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
/// Of one object, while the store answers.
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

    /// Announces what is there now, without a version.
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

    /// However the store answers, one delivery asks a bounded number of times.
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

/// Once, whatever else happens.
pub(super) fn once() -> impl Fn() -> bool {
    let done = AtomicBool::new(false);
    move || !done.swap(true, Ordering::Relaxed)
}

/// What an ingress shows while the store is away.
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
async fn neighbours_whose_keys_differ_in_plus_and_blank_are_not_taken_for_each_other() {
    // As Ceph announces: raw keys, no top-level key.
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
    // Where nothing tells which one is meant, both are scanned.
    scene.put("a+b", &eicar());
    scene.tell(&raw("a+b", &etag, "other:s3")).await;
    scene.until_gone("a+b").await;
    scene.until_gone("a b").await;
    scene.reports("a b", 1).await;
    // Where only the ETag of one fits, the other one is scanned as what is there now.
    let (_, other) = scene.put("c d", b"decoded");
    scene.put("c+d", b"raw");
    scene.tell(&raw("c+d", &other, "other:s3")).await;
    scene.until_tagged("c d", "clean").await;
    scene.until_tagged("c+d", "clean").await;
    // The line comes after tag and report.
    let told = || async { scene.daemon.output().contains("key=\"c d\" attempt=1}: clean") };
    eventually("the log names the key that was found", told).await;
}

#[tokio::test]
async fn a_failure_is_told_of_the_key_that_was_settled() {
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
async fn a_deletion_that_does_not_show_ends_after_a_few_tries() {
    // HEAD goes on showing what was there, with what some stores call the slot `null`.
    let eicar_etag = Version::new(eicar()).etag;
    let scene = scene(&[], move |call, _| match call.operation {
        Operation::HeadObject => Some(
            Reply::new(200, "")
                .header("etag", &format!("\"{eicar_etag}\""))
                .header("content-length", "68")
                .header("x-amz-version-id", "00000000-0000-0000-0000-000000000000"),
        ),
        Operation::DeleteObject => Some(Reply::new(204, "")),
        _ => None,
    })
    .await;
    let (_, etag) = scene.put("k", &eicar());
    scene.announce("k", &etag).await;
    eventually("its failure is reported", || async {
        let reports = scene.daemon.reports();
        reports.iter().any(|report| report.json()["error"] == "delete_failed")
    })
    .await;
    scene.asked_little("k", 2);
    assert!(!scene.daemon.output().contains("infected object deleted"));
}

#[tokio::test]
async fn a_page_is_no_deletion_and_no_tag() {
    for versioning in [Versioning::Off, Versioning::Enabled] {
        let shown = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&shown);
        let scene = scene(&[("RETRY_LIMIT", "5")], move |call, _| {
            let effect =
                matches!(call.operation, Operation::DeleteObject | Operation::PutObjectTagging);
            if !effect || counted.fetch_add(1, Ordering::Relaxed) >= 6 {
                return None;
            }
            Some(page(if call.count.is_multiple_of(2) { 200 } else { 403 }))
        })
        .await;
        scene.versioning(versioning);
        for (key, content) in [("bad", &eicar()[..]), ("good", b"fine")] {
            let (version, etag) = scene.put(key, content);
            let mut event = notification::put(BUCKET, key, None, Some(&etag));
            if versioning == Versioning::Enabled {
                event["Records"][0]["s3"]["object"]["versionId"] = version.into();
            }
            scene.tell(&event).await;
        }
        scene.until_gone("bad").await;
        scene.until_tagged("good", "clean").await;
        assert!(shown.load(Ordering::Relaxed) > 6);
        scene.nothing_is_parked().await;
        for report in scene.daemon.reports() {
            assert!(report.json()["error"].is_null(), "{}", report.json());
        }
    }
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
async fn a_deletion_is_not_repeated_without_another_look() {
    // The first DELETE meets a store that is busy, and the object is overwritten before the next try.
    for executed in [false, true] {
        let first = once();
        let scene = scene(&[], move |call, contents| {
            if call.operation != Operation::DeleteObject || !first() {
                return None;
            }
            if executed {
                contents.bucket(BUCKET).delete(&call.key);
            }
            contents.bucket(BUCKET).put(&call.key, Version::new("a clean one"));
            Some(store::error(503, "SlowDown"))
        })
        .await;
        let (_, etag) = scene.put("k", &eicar());
        scene.announce("k", &etag).await;
        scene.until_tagged("k", "clean").await;
        assert_eq!(scene.calls("k", Operation::DeleteObject), 1);
        let log = scene.daemon.output();
        assert_eq!(log.matches(": deleting ").count(), 1, "{log}");
    }
}

#[tokio::test]
async fn a_deletion_whose_answer_was_lost_is_one_when_nothing_is_there() {
    let first = once();
    let scene = scene(&[], move |call, contents| {
        (call.operation == Operation::DeleteObject && first()).then(|| {
            contents.bucket(BUCKET).delete(&call.key);
            Reply::close()
        })
    })
    .await;
    let (_, etag) = scene.put("k", &eicar());
    scene.announce("k", &etag).await;
    scene.ended("applied").await;
    let log = scene.daemon.output();
    assert_eq!(log.matches("infected object deleted").count(), 1, "{log}");
    assert_eq!(log.matches(": deleting ").count(), 1, "{log}");
}

#[tokio::test]
async fn a_store_that_fails_right_behind_a_deletion_is_asked_until_it_tells() {
    for versioning in [Versioning::Off, Versioning::Enabled] {
        let away = Mutex::new(None::<Instant>);
        let scene = scene(&[], move |call, contents| {
            let mut away = away.lock().unwrap();
            match *away {
                None if call.operation == Operation::DeleteObject => {
                    *away = Some(Instant::now());
                    let done = contents.answer(call);
                    // With a version the answer is lost as well.
                    Some(if call.version.is_none() { done } else { Reply::close() })
                }
                Some(at) if at.elapsed() < Duration::from_secs(8) => {
                    Some(store::error(503, "SlowDown"))
                }
                _ => None,
            }
        })
        .await;
        scene.versioning(versioning);
        let (version, etag) = scene.put("k", &eicar());
        let mut event = notification::put(BUCKET, "k", None, Some(&etag));
        if versioning == Versioning::Enabled {
            event["Records"][0]["s3"]["object"]["versionId"] = version.into();
        }
        scene.tell(&event).await;
        let lines = || scene.daemon.output().matches("infected object deleted").count();
        eventually("a line behind the deletion", || async { lines() == 1 }).await;
    }
}

#[tokio::test]
async fn a_tag_whose_answer_was_lost_does_not_stay_on_other_bytes() {
    // Long enough that nothing but the look behind the tag can take it away in time.
    let scene = scene(&[("DELETE_FILE", "false"), ("RETRY_DELAYS", "1m")], |call, contents| {
        let says_clean = call.request.text().contains("clean");
        (call.operation == Operation::PutObjectTagging && says_clean).then(|| {
            // Overwritten before the tag arrives, which then lands on the newer bytes.
            let newer = Version::new(eicar()).tag("scanned", "clean").tag("owner", "me");
            contents.bucket(BUCKET).put(&call.key, newer);
            Reply::close()
        })
    })
    .await;
    let (_, etag) = scene.put("k", b"clean");
    scene.announce("k", &etag).await;
    eventually("the tag is taken away again, and the other one stays", || async {
        let current = scene.store.current(BUCKET, "k").unwrap();
        scene.calls("k", Operation::PutObjectTagging) > 0
            && current.tag_value("scanned") != Some("clean")
            && current.tag_value("owner") == Some("me")
    })
    .await;
}

#[tokio::test]
async fn a_store_that_hiccups_while_an_archived_object_is_looked_at_is_asked_again() {
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
async fn versions_that_no_event_names_are_found_below_markers_and_newer_uploads() {
    let scene = scene(&[], as_it_is).await;
    scene.versioning(Versioning::Enabled);
    let (below, etag) = scene.put("marker", &eicar());
    scene.store.with(|contents| contents.bucket(BUCKET).delete(b"marker"));
    scene.announce("marker", &etag).await;
    let (covered, etag) = scene.put("covered", &eicar());
    scene.put("covered", b"newer, and clean");
    scene.announce("covered", &etag).await;
    let left = |key: &str, id: &str| {
        scene.store.versions(BUCKET, key).iter().any(|version| version.id == id)
    };
    eventually("both are deleted by their ids", || async {
        !left("marker", &below) && !left("covered", &covered)
    })
    .await;
    assert_eq!(scene.store.versions(BUCKET, "covered").len(), 1);
    assert!(scene.store.versions(BUCKET, "marker").iter().all(|version| version.is_marker));
    // The same bytes twice: both versions are meant.
    let (_, etag) = scene.put("twice", &eicar());
    scene.put("twice", &eicar());
    scene.announce("twice", &etag).await;
    eventually("both", || async { scene.store.versions(BUCKET, "twice").is_empty() }).await;
}

#[tokio::test]
async fn what_a_removal_uncovers_is_scanned() {
    let scene = scene(&[], as_it_is).await;
    scene.versioning(Versioning::Enabled);
    scene.put("k", &eicar());
    let marker = scene.store.with(|contents| contents.bucket(BUCKET).delete(b"k")).unwrap();
    scene.store.with(|contents| contents.bucket(BUCKET).remove(b"k", &marker));
    let mut event = notification::event("s3:ObjectRemoved:Delete", BUCKET, "k", None, None);
    event["Records"][0]["s3"]["object"]["versionId"] = marker.into();
    scene.tell(&event).await;
    eventually("deleted", || async { scene.store.versions(BUCKET, "k").is_empty() }).await;
    assert_eq!(status_of(&scene.reports("k", 1).await[0]), ["infected", "delete", "-"]);
}

#[tokio::test]
async fn versions_that_cannot_be_listed_are_said_where_they_matter() {
    let scene = scene(&[], |call, _| {
        (call.operation == Operation::ListObjectVersions).then(|| store::error(403, "AccessDenied"))
    })
    .await;
    // Without versions nothing is missing.
    scene.announce("never", "e").await;
    scene.ended("gone").await;
    scene.versioning(Versioning::Enabled);
    let (_, etag) = scene.put("current", b"fine");
    scene.announce("current", &etag).await;
    scene.until_tagged("current", "clean").await;
    scene.nothing_is_parked().await;
    let (_, etag) = scene.put("k", &eicar());
    scene.store.with(|contents| contents.bucket(BUCKET).delete(b"k"));
    scene.announce("k", &etag).await;
    let parked = dead(&scene.daemon).await;
    assert_eq!(parked.headers["avscan-reason"], "versions_denied");
    assert_eq!(scene.reports("k", 1).await[0]["reason"], "scan_failed");
}

#[tokio::test]
async fn what_retention_keeps_is_tagged_and_said_once() {
    let scene = scene(&[], |call, contents| {
        let version = contents.bucket(BUCKET).current(&call.key)?.clone();
        match (call.operation, call.key.as_slice()) {
            // In the words of MinIO's lineage, and of AWS.
            (Operation::DeleteObject, b"worm") => Some(Reply::new(
                400,
                "<Error><Code>InvalidRequest</Code><Message>Object is WORM protected and cannot be \
                 overwritten</Message></Error>",
            )),
            (Operation::DeleteObject, _) => Some(store::error(403, "AccessDenied")),
            (Operation::HeadObject, b"held") => Some(
                Reply::new(200, "")
                    .header("etag", &format!("\"{}\"", version.etag))
                    .header("content-length", &version.body.len().to_string())
                    .header("x-amz-version-id", &version.id)
                    .header("x-amz-object-lock-mode", "COMPLIANCE")
                    .header("x-amz-object-lock-retain-until-date", "2999-01-01T00:00:00Z"),
            ),
            _ => None,
        }
    })
    .await;
    scene.versioning(Versioning::Enabled);
    for key in ["worm", "held"] {
        let (version, etag) = scene.put(key, &eicar());
        let mut event = notification::put(BUCKET, key, None, Some(&etag));
        event["Records"][0]["s3"]["object"]["versionId"] = version.into();
        scene.tell(&event).await;
        scene.until_tagged(key, "infected").await;
        let reports = scene.reports(key, 2).await;
        assert_eq!(status_of(&reports[1]), ["infected", "no", "locked"]);
        assert!(reports[0]["sequence"].as_u64() < reports[1]["sequence"].as_u64());
        assert_eq!(scene.calls(key, Operation::GetObject), 1);
    }
    eventually("both ended", || async {
        metric(&scene.daemon, "avscan_notifications_total{end=\"locked\"}").await >= 2
    })
    .await;
    scene.nothing_is_parked().await;
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
            // Takes all of the temp disk, and its time.
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
    eventually("they are being fetched", || async {
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
