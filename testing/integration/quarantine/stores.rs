//! Moves on real stores.

use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use peers::zip;

use super::*;

/// Infected objects of some sizes.
fn samples() -> [Vec<u8>; 3] {
    let padded = |size: usize| {
        let padding: Vec<u8> = (0_u32..).map(|n| n.to_le_bytes()[0]).take(size).collect();
        zip::archive(&[("eicar.com", &eicar()), ("padding", &padding)])
    };
    [eicar(), padded(10 * 1024), padded(3 * 1024 * 1024)]
}

async fn moved_whole(daemon: &Daemon, s3: &S3, held: &S3) {
    for (number, content) in samples().into_iter().enumerate() {
        let key = format!("in\u{fc} box+/{number}");
        let put = s3.client.put_object().bucket(&s3.bucket).key(&key).body(content.clone().into());
        let put = put.content_type("text/odd").metadata("team", "blue").tagging("cost=a%20b");
        let version = put.send().await.unwrap().version_id;
        let mut event = notification::put(&s3.bucket, &key, None, None);
        if let Some(version) = version.clone() {
            event["Records"][0]["s3"]["object"]["versionId"] = version.into();
        }
        // Twice, as a broker may deliver it.
        for _ in 0..2 {
            notify(daemon, event.to_string().as_bytes()).await;
        }
        eventually("it is moved", || async { s3.head(&key).await.unwrap().is_none() }).await;
        let report = daemon.reports_on(&key, 1, SOON).await.unwrap().remove(0).json();
        assert_eq!(said(&report), ["infected", "quarantine", "-"]);
        assert_eq!(report["version_id"].as_str(), version.as_deref());
        let copy = report["quarantine_key"].as_str().unwrap();
        assert!(held.get(copy).await.unwrap().unwrap() == content, "other bytes in {copy}");
        let tags = held.tags(copy).await.unwrap().unwrap();
        assert_eq!(tags.get("cost").map(String::as_str), Some("a b"));
        let asked = held.client.head_object().bucket(&held.bucket).key(copy).send().await.unwrap();
        assert_eq!(asked.metadata().and_then(|all| all.get("team")).unwrap(), "blue");
        let record = held.get(&format!("{copy}.json")).await.unwrap().unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        let headers = record["headers"].as_array().unwrap();
        for (name, value) in [("content-type", "text/odd"), ("x-amz-meta-team", "blue")] {
            assert!(headers.contains(&json!({ "name": name, "value": value })), "{record}");
        }
        assert_eq!(record["tags"], json!([{ "key": "cost", "value": "a b" }]));
        assert_eq!(record["left_out"], json!([]));
    }
    eventually("all messages are settled", || async {
        let ended = async |end: &str| {
            metric(daemon, &format!("avscan_notifications_total{{end=\"{end}\"}}")).await
        };
        ended("applied").await + ended("gone").await == 2 * samples().len() as u64
    })
    .await;
    assert_eq!(held.list().await.unwrap().len(), 2 * samples().len());
}

#[tokio::test]
async fn objects_of_the_gateway_are_moved_byte_for_byte() {
    let held = Stack::from_env().s3().with_bucket(&format!("held-{}", Uuid::new_v4().simple()));
    held.create_bucket().await.unwrap();
    let mut daemon = Daemon::prepare(
        &Stack::from_env(),
        binary(),
        &[("QUARANTINE_BUCKET", &held.bucket), ("INTAKE_ADDR", ""), ("RETRY_DELAYS", "1s")],
    )
    .await
    .unwrap();
    daemon.spawn().unwrap();
    daemon.wait_ready(SOON).await.unwrap();
    moved_whole(&daemon, &daemon.s3(), &held).await;
}

#[tokio::test]
async fn versions_of_seaweedfs_are_moved_byte_for_byte() {
    let store = versions::store().await;
    let (access, secret) = store.keys();
    for versioned in [true, false] {
        let id = Uuid::new_v4().simple().to_string();
        let (s3, held) = (store.s3(&format!("from-{id}")), store.s3(&format!("held-{id}")));
        for bucket in [&s3, &held] {
            bucket.create_bucket().await.unwrap();
        }
        if versioned {
            let status = BucketVersioningStatus::Enabled;
            let configuration = VersioningConfiguration::builder().status(status).build();
            let put = s3.client.put_bucket_versioning().bucket(&s3.bucket);
            put.versioning_configuration(configuration).send().await.unwrap();
        }
        let daemon = daemon(&[
            ("MINIO_SERVER_URL", store.url()),
            ("MINIO_ACCESS_KEY_ID", access),
            ("MINIO_SECRET_ACCESS_KEY", secret),
            ("QUARANTINE_BUCKET", &held.bucket),
            ("RETRY_DELAYS", "1s"),
        ])
        .await;
        moved_whole(&daemon, &s3, &held).await;
    }
}
