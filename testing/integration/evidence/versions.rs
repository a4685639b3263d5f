//! Versions whose notification has no version id.

use super::*;

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
    // Two uploads of the same bytes: both versions are meant.
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
async fn versions_that_cannot_be_listed_are_reported_where_they_matter() {
    let scene = scene(&[], |call, _| {
        (call.operation == Operation::ListObjectVersions).then(|| store::error(403, "AccessDenied"))
    })
    .await;
    // Without versions the list is not needed.
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
