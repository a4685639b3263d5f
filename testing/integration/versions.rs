//! Effects concern the scanned version and no other. Versioned buckets, on a store that has them.

use std::sync::{Arc, Weak};

use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use peers::eicar::eicar;
use peers::notification;
use stack::{Daemon, S3, Seaweed};
use tokio::sync::Mutex;

use super::*;

/// A bucket of the shared store, and a daemon for one test. The fields are dropped in this order.
struct Scene {
    daemon: Daemon,
    s3: S3,
    _store: Arc<Seaweed>,
}

/// A store takes long to start, so tests that run at the same time share one, and the last of them
/// ends it. It is a process of its own and belongs to no test's runtime. Each test has its own
/// client.
pub(super) async fn store() -> Arc<Seaweed> {
    static SHARED: Mutex<Weak<Seaweed>> = Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(store) = shared.upgrade() {
        return store;
    }
    let store = Arc::new(Seaweed::start().await.unwrap());
    *shared = Arc::downgrade(&store);
    store
}

/// Makes a new bucket that does not keep versions yet.
async fn scene(bucket: &str) -> Scene {
    let store = store().await;
    let (access, secret) = store.keys();
    let daemon = daemon(&[
        ("MINIO_SERVER_URL", store.url()),
        ("MINIO_ACCESS_KEY_ID", access),
        ("MINIO_SECRET_ACCESS_KEY", secret),
        ("RETRY_DELAYS", "1s"),
    ])
    .await;
    let s3 = store.s3(bucket);
    s3.create_bucket().await.unwrap();
    Scene { daemon, s3, _store: store }
}

async fn versioning(s3: &S3, status: BucketVersioningStatus) {
    let configuration = VersioningConfiguration::builder().status(status).build();
    let put = s3.client.put_bucket_versioning().bucket(&s3.bucket);
    put.versioning_configuration(configuration).send().await.unwrap();
}

async fn put(s3: &S3, key: &str, content: impl Into<Vec<u8>>) -> Option<String> {
    let put = s3.client.put_object().bucket(&s3.bucket).key(key).body(content.into().into());
    put.send().await.unwrap().version_id
}

async fn announce(daemon: &Daemon, s3: &S3, key: &str, version: Option<&str>) {
    let mut event = notification::put(&s3.bucket, key, None, None);
    if let Some(version) = version {
        event["Records"][0]["s3"]["object"]["versionId"] = version.into();
    }
    notify(daemon, event.to_string().as_bytes()).await;
}

async fn tag_of(s3: &S3, key: &str, version: &str) -> Option<String> {
    let get = s3.client.get_object_tagging().bucket(&s3.bucket).key(key).version_id(version);
    let tags = get.send().await.ok()?.tag_set;
    tags.into_iter().find(|tag| tag.key == "scanned").map(|tag| tag.value)
}

/// The ids of all versions of the key, and the number of its delete markers.
async fn versions(s3: &S3, key: &str) -> (Vec<String>, usize) {
    let list = s3.client.list_object_versions().bucket(&s3.bucket).prefix(key);
    let list = list.send().await.unwrap();
    let versions = list.versions.unwrap_or_default();
    let ids = versions.into_iter().filter_map(|version| version.version_id).collect();
    (ids, list.delete_markers.unwrap_or_default().len())
}

#[tokio::test]
async fn a_deleted_version_uncovers_the_one_before() {
    let scene = scene("uncovers").await;
    let (daemon, s3) = (&scene.daemon, &scene.s3);
    versioning(s3, BucketVersioningStatus::Enabled).await;
    let good = put(s3, "uncovers", "good").await.unwrap();
    let bad = put(s3, "uncovers", eicar()).await.unwrap();
    announce(daemon, s3, "uncovers", Some(&bad)).await;
    eventually("only the good version is left, and no marker", || async {
        versions(s3, "uncovers").await == (vec![good.clone()], 0)
    })
    .await;
    assert_eq!(s3.get("uncovers").await.unwrap().unwrap(), b"good");
    let report = daemon.reports_on("uncovers", 1, SOON).await.unwrap().remove(0).json();
    assert_eq!(report["version_id"], bad);
    assert_eq!((&report["status"], &report["action"]), (&"infected".into(), &"delete".into()));
}

#[tokio::test]
async fn an_older_version_is_tagged_alone() {
    let scene = scene("older").await;
    let (daemon, s3) = (&scene.daemon, &scene.s3);
    versioning(s3, BucketVersioningStatus::Enabled).await;
    let old = put(s3, "older", "old").await.unwrap();
    let new = put(s3, "older", "new").await.unwrap();
    announce(daemon, s3, "older", Some(&old)).await;
    eventually("the old version is tagged", || async {
        tag_of(s3, "older", &old).await.as_deref() == Some("clean")
    })
    .await;
    assert_eq!(tag_of(s3, "older", &new).await, None);
}

#[tokio::test]
async fn a_store_that_names_no_version_gets_one_from_the_download() {
    let scene = scene("unnamed").await;
    let (daemon, s3) = (&scene.daemon, &scene.s3);
    versioning(s3, BucketVersioningStatus::Enabled).await;
    let version = put(s3, "unnamed", eicar()).await.unwrap();
    announce(daemon, s3, "unnamed", None).await;
    eventually("neither version nor marker is left", || async {
        versions(s3, "unnamed").await == (vec![], 0)
    })
    .await;
    let report = daemon.reports_on("unnamed", 1, SOON).await.unwrap().remove(0).json();
    assert_eq!(report["version_id"], version);
}

#[tokio::test]
async fn nothing_infected_stays_readable_where_versioning_is_suspended() {
    let scene = scene("suspended").await;
    let (daemon, s3) = (&scene.daemon, &scene.s3);
    versioning(s3, BucketVersioningStatus::Enabled).await;
    versioning(s3, BucketVersioningStatus::Suspended).await;
    put(s3, "suspended", eicar()).await;
    announce(daemon, s3, "suspended", Some("null")).await;
    eventually("no version is left", || async { versions(s3, "suspended").await.0.is_empty() })
        .await;
}

#[tokio::test]
async fn versioning_switched_on_after_the_upload_hides_nothing() {
    let scene = scene("switched").await;
    let (daemon, s3) = (&scene.daemon, &scene.s3);
    put(s3, "switched", eicar()).await;
    versioning(s3, BucketVersioningStatus::Enabled).await;
    announce(daemon, s3, "switched", None).await;
    eventually("no version is left", || async { versions(s3, "switched").await.0.is_empty() })
        .await;
}

#[tokio::test]
async fn a_newer_upload_survives_the_deletion_of_an_older_one() {
    let scene = scene("newer").await;
    let (daemon, s3) = (&scene.daemon, &scene.s3);
    versioning(s3, BucketVersioningStatus::Enabled).await;
    let bad = put(s3, "newer", eicar()).await.unwrap();
    let good = put(s3, "newer", "good").await.unwrap();
    announce(daemon, s3, "newer", Some(&bad)).await;
    eventually("the bad version is gone, the newer one there", || async {
        versions(s3, "newer").await == (vec![good.clone()], 0)
    })
    .await;
    assert_eq!(s3.get("newer").await.unwrap().unwrap(), b"good");
}

/// Neither notification names a version, so both messages find the second upload.
#[tokio::test]
async fn what_a_deletion_uncovers_is_scanned_too() {
    let scene = scene("layers").await;
    let (daemon, s3) = (&scene.daemon, &scene.s3);
    versioning(s3, BucketVersioningStatus::Enabled).await;
    put(s3, "layers", eicar()).await.unwrap();
    put(s3, "layers", [eicar(), vec![b' ']].concat()).await.unwrap();
    announce(daemon, s3, "layers", None).await;
    eventually("both versions are gone", || async { versions(s3, "layers").await == (vec![], 0) })
        .await;
}

async fn announce_etag(daemon: &Daemon, s3: &S3, key: &str, etag: &str) {
    let event = notification::put(&s3.bucket, key, None, Some(etag));
    notify(daemon, event.to_string().as_bytes()).await;
}

/// Before the notification is read, versioning is switched on and a newer version is uploaded.
#[tokio::test]
async fn bytes_below_a_newer_version_get_their_tag() {
    let scene = scene("below").await;
    let (daemon, s3) = (&scene.daemon, &scene.s3);
    let etag = s3.put("below", "old").await.unwrap();
    versioning(s3, BucketVersioningStatus::Enabled).await;
    let newer = put(s3, "below", "newer").await.unwrap();
    announce_etag(daemon, s3, "below", &etag).await;
    eventually("the old bytes are tagged", || async {
        tag_of(s3, "below", "null").await.as_deref() == Some("clean")
    })
    .await;
    assert_eq!(tag_of(s3, "below", &newer).await, None);
}

#[tokio::test]
async fn infected_bytes_below_a_newer_version_are_deleted() {
    let scene = scene("beneath").await;
    let (daemon, s3) = (&scene.daemon, &scene.s3);
    let etag = s3.put("beneath", eicar()).await.unwrap();
    versioning(s3, BucketVersioningStatus::Enabled).await;
    let newer = put(s3, "beneath", "newer").await.unwrap();
    announce_etag(daemon, s3, "beneath", &etag).await;
    eventually("only the newer version is left", || async {
        versions(s3, "beneath").await == (vec![newer.clone()], 0)
    })
    .await;
    assert_eq!(s3.get("beneath").await.unwrap().unwrap(), b"newer");
}
