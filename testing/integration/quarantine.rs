//! Infected objects are moved into the quarantine bucket: nothing is lost, nothing infected stays
//! readable, and there is one copy of each.

mod checks;
mod faults;
mod hands;
mod rescans;
mod restores;
mod sizes;
mod stores;
mod unfinished;
mod unscannable;

use std::sync::Arc;

use peers::notification;
use peers::scripted::store::{Call, Contents, Operation, Version, Versioning};
use peers::scripted::{Store, store};
use peers::sink::Received;
use serde_json::{Value, json};
use stack::{Daemon, S3};
use uuid::Uuid;

use super::*;

const BUCKET: &str = "b";
pub(super) const QUARANTINE: &str = "held";

/// A store in memory that the test can break, and a daemon that moves what is infected.
pub(super) struct Scene {
    pub(super) daemon: Daemon,
    pub(super) store: Arc<Store>,
}

pub(super) async fn scene(
    overrides: &[(&str, &str)],
    hook: impl Fn(&Call, &mut Contents) -> Option<Reply> + Send + Sync + 'static,
) -> Scene {
    let store = Arc::new(Store::start_with(hook));
    store.with(|contents| {
        contents.bucket(BUCKET);
        contents.bucket(QUARANTINE);
    });
    let mut all = vec![
        ("MINIO_SERVER_URL", store.url()),
        ("QUARANTINE_BUCKET", QUARANTINE),
        ("RETRY_DELAYS", "1s"),
        ("RETRY_LIMIT", "1"),
        ("RECEIPT_KEY_FILE", ""),
    ];
    all.extend(overrides);
    let daemon = daemon(&all).await;
    Scene { daemon, store }
}

impl Scene {
    /// Uploads EICAR and announces it.
    async fn upload(&self, key: &str) {
        let (_, etag) = self.store.put(BUCKET, key, Version::new(eicar()).tag("team", "blue"));
        self.announce(BUCKET, key, &etag).await;
    }

    pub(super) async fn announce(&self, bucket: &str, key: &str, etag: &str) {
        let event = notification::put(bucket, key, None, Some(etag));
        notify(&self.daemon, event.to_string().as_bytes()).await;
    }

    async fn reports(&self, key: &str, count: usize) -> Vec<Value> {
        let reports = self.daemon.reports_on(key, count, SOON).await.unwrap();
        reports.iter().map(Received::json).collect()
    }

    /// The copies in the quarantine bucket, with their records.
    fn held(&self) -> Vec<(Version, Value)> {
        self.store.with(|contents| {
            let bucket = contents.bucket(QUARANTINE);
            let names: Vec<_> = bucket.iter().map(|(key, _)| key.to_vec()).collect();
            let copies = names.iter().filter(|name| !name.ends_with(b".json"));
            let held = copies.map(|name| {
                let record = bucket.current(&[name.as_slice(), b".json"].concat()).cloned();
                let record = serde_json::from_slice(&record.unwrap().body).unwrap();
                (bucket.current(name).unwrap().clone(), record)
            });
            held.collect()
        })
    }

    fn tag(&self, key: &str) -> Option<String> {
        let current = self.store.current(BUCKET, key)?;
        current.tag_value("scanned").map(str::to_owned)
    }

    fn count(&self, operation: Operation) -> usize {
        self.store.calls().iter().filter(|call| call.operation == operation).count()
    }

    pub(super) async fn until_gone(&self, key: &str) {
        eventually("it is gone", || async { self.store.current(BUCKET, key).is_none() }).await;
    }
}

fn said(report: &Value) -> [&str; 3] {
    ["status", "action", "error"].map(|field| report[field].as_str().unwrap_or("-"))
}

#[tokio::test]
async fn an_infected_object_is_moved_with_all_that_was_stored_with_it() {
    let scene = scene(&[], |_, _| None).await;
    let upload = Version::new(eicar())
        .header("content-type", "text/odd")
        .header("content-disposition", "attachment; filename=\"x\"")
        .header("x-amz-meta-raw", [0xff, 0x80])
        .tag("team", "blue");
    let (_, etag) = scene.store.put(BUCKET, "a b/\u{fc}", upload);
    scene.announce(BUCKET, "a b/\u{fc}", &etag).await;
    scene.until_gone("a b/\u{fc}").await;
    let report = scene.reports("a b/\u{fc}", 1).await.remove(0);
    assert_eq!(said(&report), ["infected", "quarantine", "-"]);
    let held = scene.held();
    let [(copy, record)] = held.as_slice() else { panic!("{held:?}") };
    assert_eq!((copy.body.as_slice(), copy.tag_value("team")), (&eicar()[..], Some("blue")));
    for field in ["bucket", "key", "version_id", "etag", "sha256", "signature"] {
        assert_eq!(record[field], report[field], "{field}");
    }
    assert_eq!((&record["length"], &record["report_id"]), (&report["size"], &report["id"]));
    assert_eq!(record["engine"]["name"], "clamd");
    assert_eq!(record["tags"], json!([{ "key": "team", "value": "blue" }]));
    assert_eq!(
        record["headers"],
        json!([
            { "name": "content-type", "value": "text/odd" },
            { "name": "content-disposition", "value": "attachment; filename=\"x\"" },
            { "name": "x-amz-meta-raw", "base64": "/4A=" },
        ])
    );
    let key = report["quarantine_key"].as_str().unwrap();
    assert!(scene.store.current(QUARANTINE, key).is_some());
    for line in ["quarantining", "infected object quarantined"] {
        let is_it = |text: &str| text.contains(line) && text.contains(key);
        eventually(line, async || scene.daemon.output().lines().any(is_it)).await;
    }
}

#[tokio::test]
async fn without_delete_file_an_infected_object_is_tagged_and_stays() {
    let scene = scene(&[("DELETE_FILE", "false")], |_, _| None).await;
    scene.upload("k").await;
    assert_eq!(said(&scene.reports("k", 1).await[0]), ["infected", "tag", "-"]);
    assert_eq!(scene.tag("k").as_deref(), Some("infected"));
    assert!(scene.held().is_empty());
}

#[tokio::test]
async fn nothing_in_the_quarantine_bucket_is_acted_on() {
    let scene = scene(&[], |_, _| None).await;
    let (_, etag) = scene.store.put(QUARANTINE, "k", Version::new(eicar()));
    scene.announce(QUARANTINE, "k", &etag).await;
    eventually("it ended", || async {
        metric(&scene.daemon, "avscan_notifications_total{end=\"quarantine_bucket\"}").await == 1
    })
    .await;
    assert!(scene.store.calls_on(QUARANTINE, "k").is_empty());
    assert!(scene.daemon.reports().is_empty());
}

#[tokio::test]
async fn an_infected_version_below_a_clean_one_is_moved_alone() {
    let scene = scene(&[], |_, _| None).await;
    scene.store.with(|contents| contents.bucket(BUCKET).versioning = Versioning::Enabled);
    let (bad, etag) = scene.store.put(BUCKET, "k", Version::new(eicar()));
    let (good, _) = scene.store.put(BUCKET, "k", Version::new("good"));
    let mut event = notification::put(BUCKET, "k", None, Some(&etag));
    event["Records"][0]["s3"]["object"]["versionId"] = bad.clone().into();
    notify(&scene.daemon, event.to_string().as_bytes()).await;
    eventually("the good one is left", || async {
        let left = scene.store.versions(BUCKET, "k");
        left.iter().map(|version| version.id.as_str()).eq([good.as_str()])
    })
    .await;
    let held = scene.held();
    assert_eq!((held.len(), &held[0].1["version_id"]), (1, &bad.into()));
    assert_eq!(held[0].0.body, eicar());
}
