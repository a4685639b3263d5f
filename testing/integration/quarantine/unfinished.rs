//! A restore while the very object is being moved.

use std::sync::atomic::{AtomicBool, Ordering};

use stack::clamd::Clamd;

use super::restores::signing;
use super::*;

/// An object that was clean has its clean receipt until it is deleted. To take it for restored would
/// remove the copy, and then the daemon the original.
#[tokio::test]
async fn an_object_that_is_being_moved_is_not_taken_for_restored() {
    let mut clamd = Clamd::start(&[]).await.unwrap();
    let engine = format!("unix://{}", clamd.socket().display());
    let held_up = Arc::new(AtomicBool::new(false));
    let settings = [("SCANNER", "clamd"), ("CLAMD_ENDPOINT", engine.as_str())];
    let scene = signing(&settings, {
        let held_up = Arc::clone(&held_up);
        move |call, contents| {
            let is_copied = contents.bucket(QUARANTINE).iter().any(|(key, _)| key.len() == 64);
            let compares = call.operation == Operation::HeadObject && call.bucket == BUCKET;
            let holds =
                is_copied && compares && !held_up.swap(is_copied && compares, Ordering::SeqCst);
            holds.then(|| contents.answer(call).after(Duration::from_secs(6)))
        }
    })
    .await;
    let content = b"not known to be bad until today".to_vec();
    let (_, etag) = scene.store.put(BUCKET, "k", Version::new(content.clone()));
    scene.announce(BUCKET, "k", &etag).await;
    eventually("it is clean", async || !scene.receipt("k").is_empty()).await;
    clamd.add_signature("Local.Test", &content).await.unwrap();
    scene.announce(BUCKET, "k", &etag).await;
    // The first one said that it is clean.
    let report = scene.reports("k", 2).await.remove(1);
    assert_eq!(said(&report), ["infected", "quarantine", "-"]);
    let name = report["quarantine_key"].as_str().unwrap();
    eventually("the deletion waits", async || held_up.load(Ordering::SeqCst)).await;
    let (code, out, err) = scene.quarantine(&["restore", name]).await;
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(err.contains("its move is not finished"), "{err}");
    scene.until_gone("k").await;
    assert_eq!(scene.held().len(), 1);
    let (code, out, err) = scene.quarantine(&["restore", name]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    assert_eq!(scene.store.current(BUCKET, "k").unwrap().body, content);
}
