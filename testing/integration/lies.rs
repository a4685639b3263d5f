//! What the store says is not what is there: lost and stale answers, pages of others, lists with
//! gaps, versions that no notification names. Each of these was a way past the scanner once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use peers::eicar::eicar;
use peers::notification;
use peers::scripted::store::{Call, Contents, Operation, Version, Versioning};
use peers::scripted::{Reply, store};
use peers::sink::Received;
use serde_json::{Value, json};

use super::evidence::{self, BUCKET, Scene, as_it_is, once};
use super::*;

/// As of the tests of evidence, with versions or without, and one more attempt.
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
    /// Many uploads of one key, announced in one message: so none is looked at before all are there.
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

    /// Waits until nothing is left to do, and says what the daemon made of it.
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
    // The ingress loses the store: 503 to the DELETE, 404 of its default backend to the HEAD behind it.
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
        // DESIGN: believed when the answer names the version, or when HEAD says that it is gone.
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
async fn one_404_does_not_give_the_announcement_to_a_neighbour() {
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
async fn a_neighbour_of_the_same_content_does_not_take_the_announcement_of_what_is_denied() {
    // A bucket with ACLs: the uploader's object is not the bucket's owner's to read.
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
async fn one_404_does_not_give_the_announcement_to_a_copy() {
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
async fn a_version_that_a_list_of_seaweedfs_hides_is_not_passed_over_in_silence() {
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
    // Its list of the prefix does not come to `k` before all of them, and has no more of it behind: it
    // cannot be found out, and that is said.
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
    // As if each deletion were locked by the uploader's retention: what is scanned stays.
    let scene = scene(Versioning::Enabled, &[("DELETE_FILE", "false")], as_it_is).await;
    let etags: Vec<_> = (0..103).map(|_| scene.put("k", &eicar()).1).collect();
    // The same for each of them; a few keep the test short.
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
    // One DeleteObjects request removes a thousand versions; so does a nightly lifecycle rule.
    for n in 0..30 {
        let mut event = notification::event("s3:ObjectRemoved:Delete", BUCKET, "k", None, None);
        event["Records"][0]["s3"]["object"]["versionId"] = format!("{n:032x}").into();
        event["Records"][0]["s3"]["object"]["sequencer"] = format!("{n:016X}").into();
        notify(&scene.daemon, event.to_string().as_bytes()).await;
    }
    scene.settled(30).await;
    // Those that were in hand together may have been scanned each.
    let tagged = scene.calls("k", Operation::PutObjectTagging);
    assert!((1..=4).contains(&tagged), "{tagged} taggings of one version");
}

#[tokio::test]
async fn a_page_with_an_etag_is_not_the_object() {
    // nginx sends an ETag with every static file, also with its maintenance page.
    let first = once();
    let scene = scene(Versioning::Off, &[("TAG_FILES", "false")], move |call, _| {
        (call.operation == Operation::GetObject && first()).then(|| {
            Reply::new(200, "<html>maintenance</html>")
                .header("server", "nginx")
                .header("content-type", "text/html")
                .header("etag", "\"65f1c2d3-18\"")
        })
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
async fn a_page_with_an_etag_is_no_newer_upload() {
    // The same page, to the DELETE and to the GET that looks what came of it.
    let (deleted, looked) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let scene = scene(Versioning::Off, &[("TAG_FILES", "false")], move |call, _| {
        let hit = match call.operation {
            Operation::DeleteObject => deleted.fetch_add(1, Ordering::Relaxed) == 0,
            Operation::GetObject if deleted.load(Ordering::Relaxed) == 1 => {
                looked.fetch_add(1, Ordering::Relaxed) == 0
            }
            _ => false,
        };
        hit.then(|| {
            Reply::new(200, "<html>maintenance</html>")
                .header("server", "nginx")
                .header("content-type", "text/html")
                .header("etag", "\"65f1c2d3-18\"")
        })
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
async fn a_page_with_an_etag_does_not_hide_the_copy_below() {
    // Versions are switched on, and the same bytes uploaded once more, before the deletion. Behind that
    // of the upper ones a page answers the HEAD.
    let deleted = AtomicBool::new(false);
    let scene = scene(Versioning::Off, &[("TAG_FILES", "false")], move |call, contents| match call
        .operation
    {
        Operation::HeadObject if call.count == 0 => {
            let objects = contents.bucket(BUCKET);
            let copy = objects.versions(&call.key).last().unwrap().clone();
            objects.versioning = Versioning::Enabled;
            objects.put(&call.key, copy);
            None
        }
        Operation::DeleteObject => {
            deleted.store(true, Ordering::Relaxed);
            None
        }
        Operation::HeadObject if deleted.swap(false, Ordering::Relaxed) => {
            Some(Reply::new(200, "").header("etag", "\"65f1c2d3-18\""))
        }
        _ => None,
    })
    .await;
    let (_, etag) = scene.put("k", &eicar());
    scene.announce("k", &etag).await;
    eventually("both are deleted", || async { scene.store.versions(BUCKET, "k").is_empty() }).await;
}

#[tokio::test]
async fn older_bytes_than_those_announced_do_not_supersede_them() {
    for tags in ["true", "false"] {
        let stale = Arc::new(AtomicBool::new(true));
        let is_stale = Arc::clone(&stale);
        let scene = scene(Versioning::Off, &[("TAG_FILES", tags)], move |call, _| {
            // A cache before the store, or a node that is behind.
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
        // It is put right a moment after it was looked at once.
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
async fn an_empty_answer_is_no_folder_where_bytes_were_announced() {
    let first = once();
    let scene = scene(Versioning::Off, &[], move |call, _| {
        (call.operation == Operation::GetObject && first()).then(|| Reply::new(200, ""))
    })
    .await;
    let (_, etag) = scene.put("folder/", &eicar());
    let event = notification::put(BUCKET, "folder/", Some(68), Some(&etag));
    notify(&scene.daemon, event.to_string().as_bytes()).await;
    eventually("the infected one is deleted", || async {
        scene.store.current(BUCKET, "folder/").is_none()
    })
    .await;
}

#[tokio::test]
async fn other_bytes_of_the_same_etag_do_not_get_the_verdict() {
    // Two files with the same MD5 can be made (chosen prefix), so an ETag is chosen by the uploader.
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
async fn a_key_with_a_replacement_character_is_a_key_like_any_other() {
    let scene = scene(Versioning::Off, &[], as_it_is).await;
    let key = "invoice\u{fffd}.exe";
    let (_, etag) = scene.put(key, &eicar());
    let mut event = notification::put(BUCKET, key, Some(68), Some(&etag));
    event["Records"][0]["s3"]["object"]["metadata"] = json!([{"key": "x-amz-meta-a", "val": "?!"}]);
    let text = event.to_string();
    let (before, after) = text.split_once("?!").unwrap();
    // Ceph hands metadata on in whatever bytes it was sent.
    let body = [before.as_bytes(), b"\xff", after.as_bytes()].concat();
    notify(&scene.daemon, &body).await;
    eventually("the infected one is deleted", || async {
        scene.store.current(BUCKET, key).is_none()
    })
    .await;
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
    // As a store that compresses or encrypts announces it.
    let event = notification::put(BUCKET, "k", Some(100), Some(&etag));
    notify(&scene.daemon, event.to_string().as_bytes()).await;
    eventually("the infected one is deleted", || async {
        scene.store.current(BUCKET, "k").is_none()
    })
    .await;
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

#[tokio::test]
async fn a_key_does_not_make_a_denied_deletion_a_locked_one() {
    let scene = scene(Versioning::Off, &[], |call, _| {
        (call.operation == Operation::DeleteObject).then(|| {
            // In the words of AWS, which name the resource.
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
async fn a_neighbour_that_cannot_be_read_does_not_keep_another_from_being_scanned() {
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
    // A signature that matches too much; freshclam brings the mended database right behind the scan.
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
async fn dates_of_any_shape_do_not_keep_an_object_from_its_end() {
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

// Controls: the scenes without a lie come to the right end.

#[tokio::test]
async fn control_the_same_scenes_without_a_lie_end_well() {
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
