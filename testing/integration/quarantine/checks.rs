//! What `check` and `sweep` say of the quarantine bucket.

use super::*;
use crate::commands::{command, text};

async fn said_by(arguments: &[&str], store: &Store, quarantine: &str) -> (Option<i32>, String) {
    let settings = [("MINIO_SERVER_URL", store.url()), ("QUARANTINE_BUCKET", quarantine)];
    let output = command(arguments, &settings).await;
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

fn two_buckets(
    hook: impl Fn(&Call, &mut Contents) -> Option<Reply> + Send + Sync + 'static,
) -> Store {
    let store = Store::start_with(hook);
    store.with(|contents| {
        contents.bucket(BUCKET);
        contents.bucket(QUARANTINE);
    });
    store
}

#[tokio::test]
async fn check_tries_a_copy_and_leaves_both_buckets_as_they_were() {
    let store = two_buckets(|_, _| None);
    let (code, out) = said_by(&["check"], &store, QUARANTINE).await;
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("ok: held: is there for QUARANTINE_BUCKET"), "{out}");
    let (code, out) = said_by(&["check", "--write", BUCKET], &store, QUARANTINE).await;
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("ok: b: an object can be copied into QUARANTINE_BUCKET"), "{out}");
    for bucket in [BUCKET, QUARANTINE] {
        assert_eq!(store.with(|contents| contents.bucket(bucket).iter().count()), 0, "{bucket}");
    }
}

#[tokio::test]
async fn check_fails_where_nothing_could_be_moved() {
    let store = two_buckets(|call, _| {
        (call.operation == Operation::CopyObject).then(|| store::error(403, "AccessDenied"))
    });
    let (code, out) = said_by(&["check", "--write", BUCKET], &store, QUARANTINE).await;
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("FAILED: b: an object cannot be copied into QUARANTINE_BUCKET"), "{out}");
    let (code, out) = said_by(&["check"], &store, "nowhere").await;
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("FAILED: nowhere: is QUARANTINE_BUCKET and does not exist"), "{out}");
    let (code, out) = said_by(&["check", QUARANTINE], &store, QUARANTINE).await;
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("FAILED: held: is QUARANTINE_BUCKET, where nothing is scanned"), "{out}");
}

#[tokio::test]
async fn the_quarantine_bucket_is_not_swept() {
    let store = two_buckets(|_, _| None);
    let (code, out) = said_by(&["sweep", QUARANTINE], &store, QUARANTINE).await;
    assert_eq!(code, Some(78), "{out}");
    assert!(out.contains("nothing in QUARANTINE_BUCKET is scanned"), "{out}");
}
