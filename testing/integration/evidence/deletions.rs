//! What proves a deletion, and what does not.

use super::*;

#[tokio::test]
async fn a_deletion_without_visible_effect_ends_after_a_few_attempts() {
    // HEAD still shows the object, with the id that some stores use for the version `null`.
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
async fn a_page_proves_no_deletion_and_no_tag() {
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
async fn a_deletion_is_not_repeated_without_another_comparison() {
    // The store is busy at the first DELETE, and the object is overwritten before the next attempt.
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
async fn a_deletion_whose_answer_was_lost_counts_when_the_object_is_missing() {
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
async fn a_store_that_fails_right_after_a_deletion_is_asked_until_it_answers() {
    for versioning in [Versioning::Off, Versioning::Enabled] {
        let away = Mutex::new(None::<Instant>);
        let scene = scene(&[], move |call, contents| {
            let mut away = away.lock().unwrap();
            match *away {
                None if call.operation == Operation::DeleteObject => {
                    *away = Some(Instant::now());
                    let done = contents.answer(call);
                    // With a version id the answer is lost, too.
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
        eventually("a line after the deletion", || async { lines() == 1 }).await;
    }
}

#[tokio::test]
async fn an_object_locked_by_retention_is_tagged_and_reported_once() {
    let scene = scene(&[], |call, contents| {
        let version = contents.bucket(BUCKET).current(&call.key)?.clone();
        match (call.operation, call.key.as_slice()) {
            // The errors of MinIO's lineage, and of AWS.
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
