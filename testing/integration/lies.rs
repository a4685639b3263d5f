//! Answers of a store that do not match its content: lost and stale answers, pages of something
//! else, lists with gaps, versions that no notification names. Each of these once evaded the
//! scanner.

mod pages;
mod versions;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use peers::eicar::eicar;
use peers::notification;
use peers::scripted::store::{Call, Contents, Operation, Version, Versioning};
use peers::scripted::{Reply, store};
use peers::sink::Received;
use serde_json::{Value, json};

use super::evidence::{self, BUCKET, Scene, as_it_is, once};
use super::*;

/// As [`evidence::scene`], with one more attempt and a choice of versioning.
async fn scene(
    versioning: Versioning,
    overrides: &[(&str, &str)],
    hook: impl Fn(&Call, &mut Contents) -> Option<Reply> + Send + Sync + 'static,
) -> Scene {
    let scene = evidence::scene(&[&[("RETRY_LIMIT", "2")], overrides].concat(), hook).await;
    scene.versioning(versioning);
    scene
}

impl Scene {
    /// Announces many uploads of one key in one message, so that none is scanned before all exist.
    async fn announce_all(&self, key: &str, etags: &[String]) {
        let mut event = notification::put(BUCKET, key, None, None);
        let record = event["Records"][0].clone();
        let records = etags.iter().map(|etag| {
            let mut record = record.clone();
            record["s3"]["object"]["eTag"] = etag.as_str().into();
            record
        });
        event["Records"] = records.collect::<Vec<Value>>().into();
        event.as_object_mut().unwrap().remove("Key");
        notify(&self.daemon, event.to_string().as_bytes()).await;
    }

    fn has(&self, key: &str, version: &str) -> bool {
        self.store.versions(BUCKET, key).iter().any(|v| v.id == version)
    }

    /// Waits until so many notifications have ended; returns their ends and all reports, as text.
    async fn settled(&self, ends: u64) -> String {
        let count = async || {
            let page = self.daemon.page("/metrics").await.unwrap();
            let lines = page.lines().filter(|l| l.starts_with("avscan_notifications_total{"));
            let numbers = lines.filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok());
            numbers.sum::<u64>()
        };
        eventually("all ended", || async { count().await >= ends }).await;
        let page = self.daemon.page("/metrics").await.unwrap();
        let ends: Vec<_> =
            page.lines().filter(|l| l.starts_with("avscan_notifications_total{")).collect();
        let reports: Vec<_> = self
            .daemon
            .reports()
            .iter()
            .map(Received::json)
            .map(|r| {
                json!([
                    r["key"],
                    r["version_id"],
                    r["status"],
                    r["action"],
                    r["error"],
                    r["reason"]
                ])
                .to_string()
            })
            .collect();
        format!("ends {ends:?}\nreports {reports:?}\n")
    }
}

#[tokio::test]
async fn a_404_without_a_code_is_no_proof_of_a_deletion() {
    // The ingress loses the store: 503 to the DELETE, then the 404 of its default backend to the
    // HEAD.
    let away = Arc::new(AtomicUsize::new(0));
    let scene = scene(Versioning::Off, &[], move |call, _| match call.operation {
        Operation::DeleteObject if away.load(Ordering::Relaxed) == 0 => {
            away.store(1, Ordering::Relaxed);
            Some(Reply::new(503, "<html>503</html>"))
        }
        Operation::HeadObject if away.load(Ordering::Relaxed) == 1 => {
            away.store(2, Ordering::Relaxed);
            Some(Reply::new(404, ""))
        }
        _ => None,
    })
    .await;
    let (_, etag) = scene.put("k", &eicar());
    scene.announce("k", &etag).await;
    eventually("the infected one is deleted", || async {
        scene.store.current(BUCKET, "k").is_none()
    })
    .await;
}

#[tokio::test]
async fn a_404_without_a_code_is_no_proof_of_a_deletion_of_a_version() {
    let away = Arc::new(AtomicUsize::new(0));
    let scene = scene(Versioning::Enabled, &[], move |call, _| match call.operation {
        Operation::DeleteObject if away.load(Ordering::Relaxed) == 0 => {
            away.store(1, Ordering::Relaxed);
            Some(Reply::new(200, "<html>maintenance</html>"))
        }
        Operation::HeadObject if away.load(Ordering::Relaxed) == 1 => {
            away.store(2, Ordering::Relaxed);
            Some(Reply::new(404, ""))
        }
        _ => None,
    })
    .await;
    let (version, etag) = scene.put("k", &eicar());
    let mut event = notification::put(BUCKET, "k", None, Some(&etag));
    event["Records"][0]["s3"]["object"]["versionId"] = version.clone().into();
    notify(&scene.daemon, event.to_string().as_bytes()).await;
    eventually("the infected one is deleted", || async { !scene.has("k", &version) }).await;
}

#[tokio::test]
async fn one_404_is_no_proof_of_a_deletion_of_a_version() {
    let first = once();
    let scene = scene(Versioning::Enabled, &[], move |call, _| {
        // Believed only when the answer names the version, or when HEAD shows that it is gone.
        (call.operation == Operation::DeleteObject && first())
            .then(|| store::error(404, "NoSuchVersion"))
    })
    .await;
    let (version, etag) = scene.put("k", &eicar());
    let mut event = notification::put(BUCKET, "k", None, Some(&etag));
    event["Records"][0]["s3"]["object"]["versionId"] = version.clone().into();
    notify(&scene.daemon, event.to_string().as_bytes()).await;
    eventually("the infected one is deleted", || async { !scene.has("k", &version) }).await;
}

#[tokio::test]
async fn one_404_does_not_make_a_similar_key_the_announced_one() {
    let first = once();
    let scene = scene(Versioning::Off, &[], move |call, _| {
        let missing = call.operation == Operation::GetObject && call.key == b"a+b" && first();
        missing.then(|| store::error(404, "NoSuchKey"))
    })
    .await;
    scene.put("a b", b"an innocent neighbour");
    let (_, etag) = scene.put("a+b", &eicar());
    let mut event = notification::put(BUCKET, "a+b", Some(68), Some(&etag));
    event.as_object_mut().unwrap().remove("Key");
    event["Records"][0]["s3"]["object"]["key"] = "a+b".into();
    event["Records"][0]["eventSource"] = "aws:s3".into();
    notify(&scene.daemon, event.to_string().as_bytes()).await;
    eventually("the infected one is deleted", || async {
        scene.store.current(BUCKET, "a+b").is_none()
    })
    .await;
}

#[tokio::test]
async fn a_similar_key_with_the_same_content_does_not_replace_a_denied_object() {
    // A bucket with ACLs: the owner of the bucket may not read the uploader's object.
    let scene = scene(Versioning::Off, &[], |call, _| {
        let denied = call.operation == Operation::GetObject && call.key == b"a b";
        denied.then(|| store::error(403, "AccessDenied"))
    })
    .await;
    let (_, etag) = scene.put("a b", &eicar());
    scene.put("a+b", &eicar());
    let mut event = notification::put(BUCKET, "a b", Some(68), Some(&etag));
    event.as_object_mut().unwrap().remove("Key");
    event["Records"][0]["eventSource"] = "aws:s3".into();
    notify(&scene.daemon, event.to_string().as_bytes()).await;
    eventually("it is reported", || async {
        scene.daemon.reports().iter().any(|report| report.json()["key"] == "a b")
    })
    .await;
}

#[tokio::test]
async fn one_404_does_not_make_a_copy_the_announced_object() {
    let first = once();
    let scene = scene(Versioning::Off, &[], move |call, _| {
        let missing = call.operation == Operation::GetObject && call.key == b"a+b" && first();
        missing.then(|| store::error(404, "NoSuchKey"))
    })
    .await;
    scene.put("a b", &eicar());
    let (_, etag) = scene.put("a+b", &eicar());
    let mut event = notification::put(BUCKET, "a+b", Some(68), Some(&etag));
    event.as_object_mut().unwrap().remove("Key");
    event["Records"][0]["s3"]["object"]["key"] = "a+b".into();
    event["Records"][0]["eventSource"] = "aws:s3".into();
    notify(&scene.daemon, event.to_string().as_bytes()).await;
    eventually("the infected one is deleted", || async {
        scene.store.current(BUCKET, "a+b").is_none()
    })
    .await;
}

#[tokio::test]
async fn older_bytes_than_those_announced_do_not_supersede_them() {
    for tags in ["true", "false"] {
        let stale = Arc::new(AtomicBool::new(true));
        let is_stale = Arc::clone(&stale);
        let scene = scene(Versioning::Off, &[("TAG_FILES", tags)], move |call, _| {
            // As a cache in front of the store does, or a node that lags behind.
            let old = Version::new("the old bytes");
            let read = matches!(call.operation, Operation::GetObject | Operation::HeadObject);
            (read && is_stale.load(Ordering::Relaxed)).then(|| {
                let reply = Reply::new(200, old.body.clone())
                    .header("etag", &format!("\"{}\"", old.etag))
                    .header("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT")
                    .header("x-amz-request-id", "scripted");
                if call.request.method == "HEAD" { reply.without_body() } else { reply }
            })
        })
        .await;
        let (_, etag) = scene.put("k", &eicar());
        let mut event = notification::put(BUCKET, "k", None, Some(&etag));
        event["Records"][0]["eventTime"] = "2026-06-01T00:00:00Z".into();
        notify(&scene.daemon, event.to_string().as_bytes()).await;
        // The answers become correct a moment after the first GET.
        drop(scene.store.wait_for(Operation::GetObject, BUCKET, "k", 1, SOON));
        tokio::time::sleep(Duration::from_millis(500)).await;
        stale.store(false, Ordering::Relaxed);
        eventually("the infected one is deleted", || async {
            scene.store.current(BUCKET, "k").is_none()
        })
        .await;
    }
}

#[tokio::test]
async fn other_bytes_of_the_same_etag_do_not_get_the_verdict() {
    // Two files with the same MD5 can be made (chosen-prefix collision), so an uploader can choose
    // an ETag.
    let same = |body: &[u8], day: i64| Version {
        etag: "5e".repeat(16),
        modified: time::OffsetDateTime::now_utc() - time::Duration::days(day),
        ..Version::new(body)
    };
    let scene = scene(Versioning::Off, &[("DELETE_FILE", "false")], |call, contents| {
        let slow = call.operation == Operation::GetObject && call.count == 0;
        slow.then(|| contents.answer(call).drip(1, Duration::from_millis(100)))
    })
    .await;
    let (_, etag) = scene.store.put(BUCKET, "k", same(&[b'x'; 68], 1));
    scene.announce("k", &etag).await;
    drop(scene.store.wait_for(Operation::GetObject, BUCKET, "k", 1, SOON));
    scene.store.put(BUCKET, "k", same(&eicar(), 0));
    scene.announce("k", &etag).await;
    let tag = || scene.store.current(BUCKET, "k").unwrap().tag_value("scanned").map(str::to_owned);
    eventually("infected", || async { tag().as_deref() == Some("infected") }).await;
    let what = scene.settled(2).await;
    assert_ne!(tag().as_deref(), Some("clean"), "the infected bytes are tagged clean: {what}");
}

/// The overwriting that no comparison before the tag can see: right before it is set.
#[tokio::test]
async fn a_tag_on_other_bytes_of_the_same_etag_is_taken_back_before_they_are_read() {
    let same = |body: &[u8], day: i64| Version {
        etag: "5e".repeat(16),
        modified: time::OffsetDateTime::now_utc() - time::Duration::days(day),
        ..Version::new(body)
    };
    let (twin, seen) = (same(&eicar(), 0), Arc::new(Mutex::new(None)));
    let tag_at_second_read = Arc::clone(&seen);
    let scene = scene(Versioning::Off, &[("DELETE_FILE", "false")], move |call, contents| {
        let tag = |contents: &mut Contents| {
            let current = contents.bucket(BUCKET).current(b"k")?;
            current.tag_value("scanned").map(str::to_owned)
        };
        match (call.operation, call.count) {
            (Operation::PutObjectTagging, 0) => {
                contents.bucket(BUCKET).put(b"k", twin.clone());
                let answer = contents.answer(call);
                assert_eq!(tag(contents).as_deref(), Some("clean"));
                Some(answer)
            }
            (Operation::GetObject, 1) => {
                *tag_at_second_read.lock().unwrap() = Some(tag(contents));
                None
            }
            _ => None,
        }
    })
    .await;
    let (_, etag) = scene.store.put(BUCKET, "k", same(&[b'x'; 68], 1));
    scene.announce("k", &etag).await;
    let tag = || scene.store.current(BUCKET, "k").unwrap().tag_value("scanned").map(str::to_owned);
    eventually("infected", || async { tag().as_deref() == Some("infected") }).await;
    assert_eq!(*seen.lock().unwrap(), Some(None), "the tag that the second GET found");
}

#[tokio::test]
async fn a_key_with_a_replacement_character_is_a_key_like_any_other() {
    let scene = scene(Versioning::Off, &[], as_it_is).await;
    let key = "invoice\u{fffd}.exe";
    let (_, etag) = scene.put(key, &eicar());
    let mut event = notification::put(BUCKET, key, Some(68), Some(&etag));
    event["Records"][0]["s3"]["object"]["metadata"] = json!([{"key": "x-amz-meta-a", "val": "?!"}]);
    let text = event.to_string();
    let (before, after) = text.split_once("?!").unwrap();
    // Ceph passes metadata on in the bytes in which it was sent.
    let body = [before.as_bytes(), b"\xff", after.as_bytes()].concat();
    notify(&scene.daemon, &body).await;
    eventually("the infected one is deleted", || async {
        scene.store.current(BUCKET, key).is_none()
    })
    .await;
}

#[tokio::test]
async fn a_head_without_a_length_does_not_make_a_body_look_cut() {
    let scene = scene(Versioning::Off, &[], |call, contents| {
        let etag = contents.bucket(BUCKET).current(&call.key)?.etag.clone();
        let reply = |status, body: &str| {
            Reply::new(status, body.to_owned()).header("etag", &format!("\"{etag}\""))
        };
        if call.request.header("range").is_some() {
            return Some(reply(206, "X").header("content-range", "bytes 0-0/68"));
        }
        (call.operation == Operation::HeadObject).then(|| reply(200, "").without_length())
    })
    .await;
    let (_, etag) = scene.put("k", &eicar());
    // As a store announces it that compresses or encrypts.
    let event = notification::put(BUCKET, "k", Some(100), Some(&etag));
    notify(&scene.daemon, event.to_string().as_bytes()).await;
    eventually("the infected one is deleted", || async {
        scene.store.current(BUCKET, "k").is_none()
    })
    .await;
}

#[tokio::test]
async fn a_key_does_not_make_a_denied_deletion_a_locked_one() {
    let scene = scene(Versioning::Off, &[], |call, _| {
        (call.operation == Operation::DeleteObject).then(|| {
            // The message of AWS, which names the resource.
            Reply::new(
                403,
                format!(
                    "<Error><Code>AccessDenied</Code><Message>User: arn:aws:iam::1:user/s is not \
                     authorized to perform: s3:DeleteObject on resource: \"arn:aws:s3:::b/{}\" \
                     because no identity-based policy allows the s3:DeleteObject action</Message>\
                     </Error>",
                    call.key_text()
                ),
            )
        })
    })
    .await;
    let (_, etag) = scene.put("ringworm.exe", &eicar());
    scene.announce("ringworm.exe", &etag).await;
    let what = scene.settled(1).await;
    assert!(what.contains("delete_denied") && what.contains("parked"), "{what}");
}

#[tokio::test]
async fn a_similar_key_that_cannot_be_read_does_not_prevent_a_scan() {
    let scene = scene(Versioning::Off, &[], |call, _| {
        let broken = call.operation == Operation::GetObject && call.key == b"a b";
        broken.then(|| store::error(500, "InternalError"))
    })
    .await;
    scene.put("a b", b"broken");
    let (_, etag) = scene.put("a+b", &eicar());
    let mut event = notification::put(BUCKET, "a+b", Some(68), Some(&etag));
    event.as_object_mut().unwrap().remove("Key");
    event["Records"][0]["s3"]["object"]["key"] = "a+b".into();
    event["Records"][0]["eventSource"] = "aws:s3".into();
    notify(&scene.daemon, event.to_string().as_bytes()).await;
    eventually("the infected one is deleted", || async {
        scene.store.current(BUCKET, "a+b").is_none()
    })
    .await;
}

#[tokio::test]
async fn a_verdict_of_a_database_that_was_replaced_before_its_test_deletes_nothing() {
    use peers::scripted::Server;
    let contains = |body: &[u8], part: &[u8]| body.windows(part.len()).any(|w| w == part);
    // A signature matches too much. freshclam loads the corrected database right after the scan.
    let mended = Arc::new(AtomicBool::new(false));
    let now = Arc::clone(&mended);
    let engine = Server::start(move |request| match request.path.as_str() {
        "/version" => {
            let database = if now.load(Ordering::Relaxed) { 101 } else { 100 };
            let said = format!("ClamAV 1.4.6/{database}/Sat Oct  4 09:36:01 2025");
            Reply::json(200, &json!({ "Clamav": said }))
        }
        "/v2/scan" if contains(&request.body, &eicar()) => {
            super::engines::verdict(request, 406, "FOUND", "Eicar")
        }
        "/v2/scan"
            if contains(&request.body, b"innocent") && !now.swap(true, Ordering::Relaxed) =>
        {
            super::engines::verdict(request, 406, "FOUND", "Bad.Rule-1")
        }
        "/v2/scan" => super::engines::verdict(request, 200, "OK", ""),
        _ => Reply::new(404, ""),
    });
    let daemon = daemon(&[
        ("SCANNER", "clamav-rest"),
        ("CLAMD_ENDPOINT", engine.url()),
        ("RETRY_DELAYS", "1s"),
    ])
    .await;
    daemon.s3().put("k", "innocent").await.unwrap();
    assert_eq!(status(&daemon, "k").await, "clean");
}

#[tokio::test]
async fn dates_of_any_form_do_not_prevent_a_result() {
    let scene = scene(Versioning::Off, &[], as_it_is).await;
    let dates = [
        "2026-11-28T10:00:00+01:00",
        "2026-11-28t10:00:00z",
        "2026-12-31T23:59:60Z",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:59-23:59",
        "2026-11-28 10:00:00Z",
        "2026-11-28T10:00:00.123456789123Z",
    ];
    for (n, date) in dates.iter().enumerate() {
        let name = "x-amz-object-lock-retain-until-date";
        let version = Version::new(eicar()).header(name, *date);
        let (_, etag) = scene.store.put(BUCKET, format!("k{n}"), version);
        scene.announce(&format!("k{n}"), &etag).await;
    }
    let twice = Version::new(eicar())
        .header("x-amz-object-lock-retain-until-date", "2026-11-28T10:00:00Z")
        .header("x-amz-object-lock-retain-until-date", "2026-11-28T10:00:00Z")
        .header("x-amz-object-lock-legal-hold", "ON")
        .header("x-amz-object-lock-legal-hold", "OFF");
    let (_, etag) = scene.store.put(BUCKET, "twice", twice);
    scene.announce("twice", &etag).await;
    let what = scene.settled(8).await;
    for key in (0..dates.len()).map(|n| format!("k{n}")).chain(["twice".to_owned()]) {
        assert!(scene.store.current(BUCKET, &key).is_none(), "{key}: {what}");
    }
}

// Controls: the same scenes with correct answers get the right results.

#[tokio::test]
async fn control_the_same_scenes_with_correct_answers_end_well() {
    for versioning in [Versioning::Off, Versioning::Enabled] {
        let scene = scene(versioning, &[], as_it_is).await;
        let (version, etag) = scene.put("a+b", &eicar());
        scene.put("a b", b"an innocent neighbour");
        if versioning == Versioning::Enabled {
            scene.put("a+b", b"newer, and clean");
        }
        let mut event = notification::put(BUCKET, "a+b", Some(68), Some(&etag));
        event.as_object_mut().unwrap().remove("Key");
        event["Records"][0]["s3"]["object"]["key"] = "a+b".into();
        event["Records"][0]["eventSource"] = "aws:s3".into();
        notify(&scene.daemon, event.to_string().as_bytes()).await;
        eventually("deleted", || async { !scene.has("a+b", &version) }).await;
        assert!(scene.store.current(BUCKET, "a b").is_some());
        let date = "x-amz-object-lock-retain-until-date";
        let plain = Version::new(eicar()).header(date, "2026-11-28T10:00:00Z");
        let (version, etag) = scene.store.put(BUCKET, "folder/", plain);
        scene.announce("folder/", &etag).await;
        eventually("deleted", || async { !scene.has("folder/", &version) }).await;
    }
}
