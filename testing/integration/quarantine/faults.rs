//! A fault at each step of a move.

use super::*;

#[tokio::test]
async fn until_the_copy_is_proved_the_original_stays_tagged_and_is_parked_in_the_end() {
    for (operation, status, code, error) in [
        (Operation::CopyObject, 500, "InternalError", "quarantine_failed"),
        (Operation::CopyObject, 507, "XMinioStorageFull", "quarantine_failed"),
        (Operation::CopyObject, 404, "NoSuchBucket", "quarantine_failed"),
        (Operation::CopyObject, 403, "AccessDenied", "quarantine_denied"),
        (Operation::PutObject, 403, "AccessDenied", "quarantine_denied"),
    ] {
        let scene = scene(&[], move |call, _| {
            (call.operation == operation).then(|| store::error(status, code))
        })
        .await;
        scene.upload("k").await;
        let report = scene.reports("k", 1).await.remove(0);
        assert_eq!(said(&report), ["infected", "no", error], "{operation:?} {code}");
        assert_eq!(report["quarantine_key"], Value::Null);
        let message = dead(&scene.daemon).await;
        assert_eq!(message.headers["avscan-stage"], "quarantine");
        assert_eq!(scene.store.current(BUCKET, "k").unwrap().body, eicar());
        assert_eq!(scene.tag("k").as_deref(), Some("infected"));
        assert!(scene.held().is_empty());
        assert_eq!(scene.count(Operation::DeleteObject), 0);
    }
}

/// It stays readable for as long as it waits, so its tag has to hide it.
#[tokio::test]
async fn between_two_attempts_the_original_is_tagged() {
    let scene = scene(&[("RETRY_DELAYS", "10m")], |call, _| {
        (call.operation == Operation::CopyObject).then(|| store::error(500, "InternalError"))
    })
    .await;
    scene.upload("k").await;
    eventually("it is tagged", async || scene.tag("k").as_deref() == Some("infected")).await;
    assert!(scene.daemon.reports().iter().all(|report| report.json()["key"] != "k"));
}

#[tokio::test]
async fn a_missing_bucket_leaves_the_original() {
    let scene = scene(&[("QUARANTINE_BUCKET", "nowhere")], |_, _| None).await;
    scene.upload("k").await;
    let report = scene.reports("k", 1).await.remove(0);
    assert_eq!(said(&report), ["infected", "no", "quarantine_failed"]);
    assert_eq!(scene.tag("k").as_deref(), Some("infected"));
}

#[tokio::test]
async fn a_retry_makes_what_is_missing_and_nothing_twice() {
    // The first copy fails, or its answer is lost and the connection with it.
    for executed in [false, true] {
        let first = std::sync::atomic::AtomicBool::new(true);
        let scene = scene(&[("RETRY_LIMIT", "5")], move |call, contents| {
            let now = call.operation == Operation::CopyObject
                && first.swap(false, std::sync::atomic::Ordering::Relaxed);
            now.then(|| {
                if executed {
                    contents.answer(call);
                }
                store::error(500, "InternalError")
            })
        })
        .await;
        scene.upload("k").await;
        scene.until_gone("k").await;
        let reports = scene.reports("k", 1).await;
        assert_eq!(said(reports.last().unwrap()), ["infected", "quarantine", "-"]);
        let held = scene.held();
        assert_eq!((held.len(), held[0].0.body.as_slice()), (1, &eicar()[..]));
        // Our own tag, set in between, is not the uploader's.
        assert_eq!(held[0].1["tags"], json!([{ "key": "team", "value": "blue" }]));
    }
}

#[tokio::test]
async fn a_copy_with_other_bytes_never_stands_for_the_original() {
    // The store damages the first copy.
    let first = std::sync::atomic::AtomicBool::new(true);
    let scene = scene(&[("RETRY_LIMIT", "5")], move |call, contents| {
        contents.tells_checksums = false;
        let now = call.operation == Operation::CopyObject
            && first.swap(false, std::sync::atomic::Ordering::Relaxed);
        now.then(|| {
            let reply = contents.answer(call);
            let copy = contents.bucket(QUARANTINE).version_mut(&call.key, None).unwrap();
            copy.body[0] ^= 1;
            reply
        })
    })
    .await;
    scene.upload("k").await;
    scene.until_gone("k").await;
    let held = scene.held();
    assert_eq!((held.len(), held[0].0.body.as_slice()), (1, &eicar()[..]));
    assert!(scene.daemon.output().contains("the copy has other bytes than were scanned"));
}

#[tokio::test]
async fn where_the_original_cannot_be_deleted_the_copy_stays_and_is_named() {
    let scene = scene(&[], |call, _| {
        let refused = call.operation == Operation::DeleteObject && call.bucket == BUCKET;
        refused.then(|| store::error(403, "AccessDenied"))
    })
    .await;
    scene.upload("k").await;
    let reports = scene.reports("k", 2).await;
    assert_eq!(said(&reports[0]), ["infected", "quarantine", "-"]);
    assert_eq!(said(&reports[1]), ["infected", "no", "delete_denied"]);
    assert_eq!(reports[0]["quarantine_key"], reports[1]["quarantine_key"]);
    let key = reports[1]["quarantine_key"].as_str().unwrap();
    assert_eq!(scene.store.current(QUARANTINE, key).unwrap().body, eicar());
    assert_eq!(scene.tag("k").as_deref(), Some("infected"));
    assert_eq!(scene.held().len(), 1);
}

#[tokio::test]
async fn a_replica_that_dies_before_the_deletion_leaves_the_copy_to_the_next_one() {
    let mut scene = scene(&[], |call, contents| {
        // The first deletion is never answered: the process is killed meanwhile.
        let first = call.operation == Operation::DeleteObject && call.count == 0;
        let _there = contents.bucket(BUCKET).current(&call.key).is_some();
        first.then(Reply::hang)
    })
    .await;
    scene.upload("k").await;
    eventually("it is about to be deleted", || async { scene.count(Operation::DeleteObject) == 1 })
        .await;
    scene.daemon.kill();
    assert!(scene.store.current(BUCKET, "k").is_some());
    scene.daemon.spawn().unwrap();
    scene.daemon.wait_ready(SOON).await.unwrap();
    scene.until_gone("k").await;
    assert_eq!((scene.held().len(), scene.count(Operation::CopyObject)), (1, 1));
    let reports = scene.reports("k", 2).await;
    assert_eq!(reports[0]["id"], reports[1]["id"]);
}

#[tokio::test]
async fn an_upload_that_comes_between_copy_and_deletion_is_scanned_and_left() {
    let scene = scene(&[("REPORT_CLEAN", "true")], |call, contents| {
        if call.operation == Operation::DeleteObject && call.count == 0 {
            contents.bucket(BUCKET).put(&call.key, Version::new("harmless"));
        }
        None
    })
    .await;
    scene.upload("k").await;
    eventually("the new bytes are tagged", || async { scene.tag("k").as_deref() == Some("clean") })
        .await;
    assert_eq!(scene.store.current(BUCKET, "k").unwrap().body, b"harmless");
    assert_eq!(scene.held().len(), 1);
    let reports = scene.reports("k", 2).await;
    assert_eq!(said(&reports[0]), ["infected", "quarantine", "-"]);
    assert_eq!(reports[1]["status"], "clean");
}
