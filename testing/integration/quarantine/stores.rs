//! Moves on real stores.

use std::process::Command;

use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use peers::zip;
use stack::Seaweed;

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

/// Restores what was moved, has it announced again, and sees that it stays.
async fn restored_whole(daemon: &Daemon, s3: &S3, held: &S3, in_place: bool) {
    let restore = |arguments: &[&str]| {
        let mut all = Command::new(BINARY);
        all.args(["quarantine", "restore"]).args(arguments).env_clear().envs(daemon.env());
        let output = all.output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), said + &String::from_utf8(output.stderr).unwrap())
    };
    for (number, content) in samples().into_iter().enumerate() {
        let key = format!("in\u{fc} box+/{number}");
        let report = daemon.reports_on(&key, 1, SOON).await.unwrap().remove(0).json();
        let copy = report["quarantine_key"].as_str().unwrap();
        let (code, out) = restore(&[copy]);
        let mut restored = key.clone();
        if in_place {
            assert_eq!(code, Some(0), "{out}");
            assert!(!out.contains(" without "), "{out}");
        } else {
            assert_eq!(code, Some(1), "{out}");
            assert!(out.contains("this store ignores If-None-Match"), "{out}");
            restored = format!("{key} again");
            let (code, out) = restore(&[copy, "--as", &restored]);
            assert_eq!(code, Some(0), "{out}");
            assert!(!out.contains(" without "), "{out}");
        }
        assert!(s3.get(&restored).await.unwrap().unwrap() == content, "other bytes");
        let tags = s3.tags(&restored).await.unwrap().unwrap();
        assert_eq!(tags.get("cost").map(String::as_str), Some("a b"));
        assert_eq!(tags.get("scanned").map(String::as_str), Some("released"));
        let asked = s3.client.head_object().bucket(&s3.bucket).key(&restored);
        let found = asked.send().await.unwrap();
        assert_eq!(found.metadata().and_then(|all| all.get("team")).unwrap(), "blue");
        assert_eq!(found.content_type(), Some("text/odd"));
        let mut event = notification::put(&s3.bucket, &restored, None, None);
        if let Some(version) = found.version_id() {
            event["Records"][0]["s3"]["object"]["versionId"] = version.into();
        }
        notify(daemon, event.to_string().as_bytes()).await;
        eventually("it is reported as released", || async {
            let reports = daemon.reports();
            reports.iter().map(Received::json).any(|report| {
                report["key"] == restored.as_str() && said(&report) == ["released", "tag", "-"]
            })
        })
        .await;
        assert!(s3.get(&restored).await.unwrap().unwrap() == content, "taken again");
        let address = format!("s3://{}/{restored}", s3.bucket);
        let mut verify = Command::new(BINARY);
        verify.args(["verify", &address, "--download"]).env_clear().envs(daemon.env());
        let output = verify.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    assert_eq!(held.list().await.unwrap().len(), 0);
}

/// A pair of buckets of the store, and the settings of a daemon that moves from one to the other.
async fn pair(store: &Seaweed) -> (S3, S3, [(String, String); 5]) {
    let (access, secret) = store.keys();
    let id = Uuid::new_v4().simple().to_string();
    let (s3, held) = (store.s3(&format!("from-{id}")), store.s3(&format!("held-{id}")));
    for bucket in [&s3, &held] {
        bucket.create_bucket().await.unwrap();
    }
    let settings = [
        ("MINIO_SERVER_URL", store.url()),
        ("MINIO_ACCESS_KEY_ID", access),
        ("MINIO_SECRET_ACCESS_KEY", secret),
        ("QUARANTINE_BUCKET", &held.bucket),
        ("RETRY_DELAYS", "1s"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    (s3, held, settings)
}

async fn mover(settings: &[(String, String)], more: &[(&str, &str)]) -> Daemon {
    let settings = settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    daemon(&settings.chain(more.iter().copied()).collect::<Vec<_>>()).await
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
    // It does not know the condition, and has no versions.
    restored_whole(&daemon, &daemon.s3(), &held, false).await;
}

#[tokio::test]
async fn versions_of_seaweedfs_are_moved_byte_for_byte() {
    let store = versions::store().await;
    for versioned in [true, false] {
        let (s3, held, settings) = pair(&store).await;
        if versioned {
            let status = BucketVersioningStatus::Enabled;
            let configuration = VersioningConfiguration::builder().status(status).build();
            let put = s3.client.put_bucket_versioning().bucket(&s3.bucket);
            put.versioning_configuration(configuration).send().await.unwrap();
        }
        let daemon = mover(&settings, &[]).await;
        moved_whole(&daemon, &s3, &held).await;
        restored_whole(&daemon, &s3, &held, true).await;
    }
}

#[tokio::test]
async fn neither_replica_takes_a_released_object_again_and_other_bytes_are_taken() {
    let store = versions::store().await;
    let (s3, held, settings) = pair(&store).await;
    let daemon = mover(&settings, &[("SCAN_CONCURRENCY", "1")]).await;
    let mut other = daemon.replica(&[]).unwrap();
    other.spawn().unwrap();
    other.wait_ready(SOON).await.unwrap();
    let event = notification::put(&s3.bucket, "k", None, None).to_string();
    let moved = async |content: Vec<u8>| {
        s3.put("k", content).await.unwrap();
        notify(&daemon, event.as_bytes()).await;
        eventually("it is moved", || async { s3.head("k").await.unwrap().is_none() }).await;
    };
    moved(eicar()).await;
    let report = daemon.reports_on("k", 1, SOON).await.unwrap().remove(0).json();
    let mut restore = Command::new(BINARY);
    restore.args(["quarantine", "restore", report["quarantine_key"].as_str().unwrap()]);
    let output = restore.env_clear().envs(daemon.env()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for _ in 0..40 {
        notify(&daemon, event.as_bytes()).await;
    }
    let released = "avscan_verdicts_total{status=\"released\",reason=\"\"}";
    eventually("each replica has found it, and let it be", || async {
        let both = [metric(&daemon, released).await, metric(&other, released).await];
        both.iter().sum::<u64>() == 40 && !both.contains(&0)
    })
    .await;
    assert!(s3.get("k").await.unwrap().unwrap() == eicar(), "taken again");
    assert!(held.list().await.unwrap().is_empty());
    moved([eicar(), b" other".to_vec()].concat()).await;
}

/// Headers in any bytes, as no SDK would send them: what does not come back is named.
#[tokio::test]
async fn strange_headers_come_back_or_are_named() {
    let store = versions::store().await;
    let (s3, _, settings) = pair(&store).await;
    let daemon = mover(&settings, &[]).await;
    let long = "x".repeat(1500);
    for (number, (name, value)) in [
        ("x-amz-meta-utf8", "gr\u{fc}n".as_bytes()),
        ("x-amz-meta-raw", &[b'a', 0xff, 0x80]),
        ("x-amz-meta-empty", b""),
        ("x-amz-meta-blanks", b"a  b"),
        ("x-amz-meta-long", long.as_bytes()),
        ("expires", b"whenever"),
        ("content-encoding", b"gzip, odd"),
        ("content-type", b"no type"),
        ("content-disposition", b"attachment; filename=\"a;b\""),
        ("cache-control", b"max-age=1, x=\"y\""),
        ("content-language", b"de, en"),
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("odd/{number}");
        let headers = [(name.to_owned(), value.to_vec())];
        if s3.put_raw(&key, &eicar(), &headers).await.unwrap().status != 200 {
            // The store does not take it, so nobody can upload it.
            continue;
        }
        let before = s3.head_raw(&key, None).await.unwrap();
        notify(&daemon, notification::put(&s3.bucket, &key, None, None).to_string().as_bytes())
            .await;
        eventually("it is moved", || async {
            s3.head_raw(&key, None).await.unwrap().status == 404
        })
        .await;
        let report = daemon.reports_on(&key, 1, SOON).await.unwrap().remove(0).json();
        let mut restore = Command::new(BINARY);
        restore.args(["quarantine", "restore", report["quarantine_key"].as_str().unwrap()]);
        let output = restore.env_clear().envs(daemon.env()).output().unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{name} {out}");
        let after = s3.head_raw(&key, None).await.unwrap();
        let values = |answer: &stack::s3::RawAnswer| {
            let all = answer.headers.iter().filter(|(found, _)| found == name);
            all.map(|(_, value)| value.clone()).collect::<Vec<_>>()
        };
        let is_named = out.contains(&format!(" without {name}: see its record"));
        assert_eq!(values(&before) != values(&after), is_named, "{name} {out}");
        let may_be_lost = name == "x-amz-meta-raw";
        assert!(!is_named || may_be_lost, "{name} {out}");
    }
}
