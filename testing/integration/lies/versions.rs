//! Versions that are hidden by another upload, by an incomplete list, or by a wrong version id.

use super::*;

#[tokio::test]
async fn an_unreadable_upload_does_not_hide_the_version_below_it() {
    let scene = scene(Versioning::Enabled, &[], |call, _| {
        // The newer one is encrypted with its owner's key, or archived.
        let current = call.key == b"k" && call.version.is_none();
        match call.operation {
            Operation::GetObject if current => Some(store::error(403, "InvalidObjectState")),
            _ => None,
        }
    })
    .await;
    let (version, first) = scene.put("k", &eicar());
    let (_, second) = scene.put("k", b"archived");
    scene.announce_all("k", &[first, second]).await;
    eventually("the infected one is deleted", || async { !scene.has("k", &version) }).await;
}

#[tokio::test]
async fn a_thousand_delete_markers_do_not_hide_a_version() {
    let scene = scene(Versioning::Enabled, &[], as_it_is).await;
    let (version, etag) = scene.put("k", &eicar());
    scene.store.with(|contents| {
        for _ in 0..1000 {
            contents.bucket(BUCKET).delete(b"k");
        }
    });
    scene.announce("k", &etag).await;
    eventually("the infected one is deleted", || async { !scene.has("k", &version) }).await;
}

#[tokio::test]
async fn a_thousand_newer_versions_do_not_hide_one() {
    let scene = scene(Versioning::Enabled, &[], as_it_is).await;
    let (version, etag) = scene.put("k", &eicar());
    for n in 0..1000 {
        scene.put("k", format!("clean {n}").as_bytes());
    }
    scene.announce("k", &etag).await;
    eventually("the infected one is deleted", || async { !scene.has("k", &version) }).await;
}

#[tokio::test]
async fn a_version_missing_from_a_list_of_seaweedfs_is_reported() {
    use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
    let store = stack::Seaweed::start().await.unwrap();
    let (access, secret) = store.keys();
    let daemon = daemon(&[
        ("MINIO_SERVER_URL", store.url()),
        ("MINIO_ACCESS_KEY_ID", access),
        ("MINIO_SECRET_ACCESS_KEY", secret),
        ("RETRY_DELAYS", "1s"),
    ])
    .await;
    let s3 = store.s3("longer");
    s3.create_bucket().await.unwrap();
    let versioning =
        VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    let put = s3.client.put_bucket_versioning().bucket(&s3.bucket);
    put.versioning_configuration(versioning).send().await.unwrap();
    let put = async |key: &str, body: Vec<u8>| {
        let put = s3.client.put_object().bucket(&s3.bucket).key(key).body(body.into());
        let put = put.send().await.unwrap();
        (put.version_id.unwrap(), put.e_tag.unwrap())
    };
    let (version, etag) = put("k", eicar()).await;
    put("k", b"newer, and clean".to_vec()).await;
    for n in 0..11 {
        let many = (0..100).map(|m| put_one(&s3, format!("k!{n:02}{m:02}")));
        futures_util::future::join_all(many).await;
    }
    let event = notification::put(&s3.bucket, "k", None, Some(&etag));
    notify(&daemon, event.to_string().as_bytes()).await;
    // SeaweedFS lists all these keys before `k`, and ends the list before it. The version cannot be
    // found, so this must be reported.
    let report = daemon.reports_on("k", 1, SOON).await.unwrap().remove(0).json();
    assert_eq!((&report["status"], &report["reason"]), (&"no".into(), &"scan_failed".into()));
    let head = s3.client.head_object().bucket(&s3.bucket).key("k").version_id(&version);
    assert!(head.send().await.is_ok());
}

async fn put_one(s3: &stack::S3, key: String) {
    let put = s3.client.put_object().bucket(&s3.bucket).key(key).body(b"x".to_vec().into());
    put.send().await.unwrap();
}

#[tokio::test]
async fn versions_of_the_same_content_beyond_the_hundredth_are_scanned() {
    // As if the uploader's retention locked each version: scanned objects stay.
    let scene = scene(Versioning::Enabled, &[("DELETE_FILE", "false")], as_it_is).await;
    let etags: Vec<_> = (0..103).map(|_| scene.put("k", &eicar()).1).collect();
    // Each announcement has the same effect; a few keep the test short.
    scene.announce_all("k", &etags[..3]).await;
    eventually("all are scanned", || async {
        let all = scene.store.versions(BUCKET, "k");
        all.iter().all(|version| version.tag_value("scanned") == Some("infected"))
    })
    .await;
}

#[tokio::test]
async fn removals_of_old_versions_do_not_have_the_current_one_scanned_each_time() {
    let scene = scene(Versioning::Enabled, &[], as_it_is).await;
    scene.put("k", b"large, and current");
    // One DeleteObjects request removes up to a thousand versions, and so does a nightly lifecycle
    // rule.
    for n in 0..30 {
        let mut event = notification::event("s3:ObjectRemoved:Delete", BUCKET, "k", None, None);
        event["Records"][0]["s3"]["object"]["versionId"] = format!("{n:032x}").into();
        event["Records"][0]["s3"]["object"]["sequencer"] = format!("{n:016X}").into();
        notify(&scene.daemon, event.to_string().as_bytes()).await;
    }
    scene.settled(30).await;
    // Notifications that were in progress at the same time may each have caused a scan.
    let tagged = scene.calls("k", Operation::PutObjectTagging);
    assert!((1..=4).contains(&tagged), "{tagged} taggings of one version");
}

#[tokio::test]
async fn an_unknown_version_id_and_a_newer_upload_do_not_hide_the_announced_bytes() {
    let scene = scene(Versioning::Enabled, &[], as_it_is).await;
    for (key, cover) in [("covered", true), ("marker", false)] {
        let (version, etag) = scene.put(key, &eicar());
        if cover {
            scene.put(key, b"newer, and clean");
        } else {
            scene.store.with(|contents| contents.bucket(BUCKET).delete(key.as_bytes()));
        }
        let mut event = notification::put(BUCKET, key, None, Some(&etag));
        event["Records"][0]["s3"]["object"]["versionId"] =
            "00000000-0000-0000-0000-000000000001".into();
        notify(&scene.daemon, event.to_string().as_bytes()).await;
        eventually("the infected one is deleted", || async { !scene.has(key, &version) }).await;
    }
}

#[tokio::test]
async fn a_list_without_the_version_that_was_just_read_is_not_believed() {
    let first = once();
    let scene = scene(Versioning::Enabled, &[], move |call, _| {
        (call.operation == Operation::ListObjectVersions && first()).then(|| {
            Reply::new(
                200,
                "<ListVersionsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <Name>b</Name><IsTruncated>false</IsTruncated></ListVersionsResult>",
            )
        })
    })
    .await;
    let (version, etag) = scene.put("k", &eicar());
    scene.put("k", b"newer, and clean");
    scene.announce("k", &etag).await;
    eventually("the infected one is deleted", || async { !scene.has("k", &version) }).await;
}

#[tokio::test]
async fn a_store_that_does_not_understand_a_list_of_versions_has_objects_that_are_gone() {
    let scene = scene(Versioning::Off, &[], |call, _| {
        (call.operation == Operation::ListObjectVersions)
            .then(|| store::error(400, "InvalidArgument"))
    })
    .await;
    scene.announce("k", "e").await;
    let what = scene.settled(1).await;
    assert!(what.contains("gone"), "an upload that was deleted before the scan: {what}");
}
