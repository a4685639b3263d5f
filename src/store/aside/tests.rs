//! Against a store in memory.

use peers::scripted::store::{Call, Contents, Operation, Version, Versioning};
use peers::scripted::{self, Reply, store};
use sha2::{Digest, Sha256};
use url::Url;

use super::*;
use crate::config::StoreSettings;
use crate::tls::Trust;

const SOURCE: &str = "uploads";
const QUARANTINE: &str = "quarantine";
const CONTENT: &[u8] = b"0123456789";

/// The store in memory, and our client of it, with an object that was scanned.
struct Scene {
    there: scripted::Store,
    store: Store,
    identity: Identity,
}

async fn scene(
    key: &str,
    versioning: Versioning,
    hook: impl Fn(&Call, &mut Contents) -> Option<Reply> + Send + Sync + 'static,
) -> Scene {
    let there = scripted::Store::start_with(hook);
    there.with(|contents| {
        contents.bucket(QUARANTINE);
        contents.bucket(SOURCE).versioning = versioning;
    });
    let uploaded = Version::new(CONTENT)
        .header("content-type", "text/odd")
        .header("x-amz-meta-raw", [0xff, 0xfe])
        .header("expires", "whenever \u{fc}")
        .header("x-not-stored", "x")
        .tag("team", "blue");
    there.put(SOURCE, key, uploaded);
    let settings = StoreSettings {
        url: Url::parse(there.url()).unwrap(),
        keys: Some(("access".into(), "secret".into())),
        region: "us-east-1".into(),
        max_object: 1 << 20,
        spool: 4 << 20,
        temp_dir: std::env::temp_dir(),
        proxy_variable: None,
    };
    let store = Store::new(&settings, &Trust::default()).await.unwrap();
    let identity = store.identify(SOURCE, key, None).await.unwrap().unwrap();
    Scene { there, store, identity }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn place() -> Place {
    Place { bucket: QUARANTINE.to_owned(), key: "copy".to_owned() }
}

impl Scene {
    async fn copy(&self) -> Result<Applied, Failure> {
        let (source, _) = match self.store.original(&self.identity).await? {
            Ok(found) => found,
            Err(applied) => return Ok(applied),
        };
        self.store.copy_aside(&source, &place(), &sha256(CONTENT)).await
    }

    fn copies(&self) -> Vec<Version> {
        self.there.versions(QUARANTINE, "copy")
    }

    fn count(&self, operation: Operation) -> usize {
        self.there.calls().iter().filter(|call| call.operation == operation).count()
    }
}

#[tokio::test]
async fn headers_in_any_bytes_and_tags_are_told_as_they_were_stored() {
    let scene = scene("k", Versioning::Off, |_, _| None).await;
    let (_, original) = scene.store.original(&scene.identity).await.unwrap().unwrap();
    let header = |name: &str, value: &[u8]| (name.to_owned(), value.to_vec());
    let mut headers = original.headers;
    headers.sort();
    assert_eq!(
        headers,
        [
            header("content-type", b"text/odd"),
            header("expires", "whenever \u{fc}".as_bytes()),
            header("x-amz-meta-raw", &[0xff, 0xfe]),
        ]
    );
    assert_eq!(original.tags, Some(vec![("team".to_owned(), "blue".to_owned())]));
}

#[tokio::test]
async fn a_copy_has_the_bytes_and_is_proved_by_the_stores_checksum_or_read_back() {
    for (tells_checksums, reads) in [(true, 0), (false, 1)] {
        for versioning in [Versioning::Off, Versioning::Enabled] {
            let scene = scene("a b+c/\u{fc}%20", versioning, |_, _| None).await;
            scene.there.with(|contents| contents.tells_checksums = tells_checksums);
            assert_eq!(scene.copy().await.unwrap(), Applied::Done);
            assert_eq!(scene.copies().len(), 1);
            assert_eq!(scene.copies()[0].body, CONTENT);
            assert_eq!(scene.count(Operation::GetObject), reads);
        }
    }
}

#[tokio::test]
async fn of_several_versions_the_scanned_one_is_copied() {
    let scene = scene("k", Versioning::Enabled, |_, _| None).await;
    scene.there.put(SOURCE, "k", Version::new("newer"));
    assert_eq!(scene.copy().await.unwrap(), Applied::Done);
    assert_eq!(scene.copies()[0].body, CONTENT);
}

#[tokio::test]
async fn a_copy_that_is_there_is_proved_and_not_made_again() {
    let scene = scene("k", Versioning::Off, |_, _| None).await;
    scene.there.put(QUARANTINE, "copy", Version::new(CONTENT));
    assert_eq!(scene.copy().await.unwrap(), Applied::Done);
    assert_eq!((scene.count(Operation::CopyObject), scene.copies().len()), (0, 1));
}

#[tokio::test]
async fn a_copy_with_other_bytes_is_removed_and_the_next_attempt_makes_a_right_one() {
    let scene = scene("k", Versioning::Off, |_, _| None).await;
    scene.there.put(QUARANTINE, "copy", Version::new("other"));
    let failure = scene.copy().await.unwrap_err();
    assert_eq!((failure.stage, failure.reason), (Stage::Quarantine, Reason::CopyDiffers));
    assert!(scene.copies().is_empty());
    assert_eq!(scene.copy().await.unwrap(), Applied::Done);
    assert_eq!(scene.copies()[0].body, CONTENT);
}

#[tokio::test]
async fn other_bytes_under_the_name_are_not_copied() {
    for before in [true, false] {
        // Overwritten before anything is asked, or right before the copy.
        let scene = scene("k", Versioning::Off, move |call, contents| {
            if call.operation == Operation::CopyObject && !before {
                contents.bucket(SOURCE).put(b"k", Version::new("other"));
            }
            None
        })
        .await;
        if before {
            scene.there.put(SOURCE, "k", Version::new("other"));
        }
        assert_eq!(scene.copy().await.unwrap(), Applied::Changed);
        assert!(scene.copies().is_empty());
    }
}

#[tokio::test]
async fn a_copy_whose_answer_was_lost_counts_once_it_is_proved() {
    let scene = scene("k", Versioning::Off, |call, contents| {
        (call.operation == Operation::CopyObject).then(|| {
            contents.answer(call);
            Reply::close()
        })
    })
    .await;
    assert_eq!(scene.copy().await.unwrap(), Applied::Done);
    assert_eq!((scene.count(Operation::CopyObject), scene.copies().len()), (1, 1));
    assert_eq!(scene.count(Operation::GetObject), 1);
}

#[tokio::test]
async fn another_replica_that_copies_at_the_same_moment_is_no_fault() {
    let scene = scene("k", Versioning::Off, |call, contents| {
        if call.operation == Operation::CopyObject {
            contents.bucket(QUARANTINE).put(b"copy", Version::new(CONTENT));
        }
        None
    })
    .await;
    assert_eq!(scene.copy().await.unwrap(), Applied::Done);
    assert_eq!(scene.copies().len(), 1);
}

#[tokio::test]
async fn a_store_without_these_conditions_is_asked_without_them() {
    let scene = scene("k", Versioning::Off, |call, _| {
        let asked = call.operation == Operation::CopyObject
            && call.request.header("if-none-match").is_some();
        asked.then(|| store::error(501, "NotImplemented"))
    })
    .await;
    assert_eq!(scene.copy().await.unwrap(), Applied::Done);
    assert_eq!(scene.count(Operation::CopyObject), 2);
}

#[tokio::test]
async fn a_refused_copy_is_a_fault_of_its_stage() {
    for (status, code, reason) in [
        (403, "AccessDenied", Reason::StoreDenied),
        (404, "NoSuchBucket", Reason::StoreNotFound),
        (500, "InternalError", Reason::StoreError),
        (507, "XMinioStorageFull", Reason::StoreError),
    ] {
        let scene = scene("k", Versioning::Off, move |call, _| {
            let refused = call.operation == Operation::CopyObject;
            refused.then(|| store::error(status, code))
        })
        .await;
        let failure = scene.copy().await.unwrap_err();
        assert_eq!((failure.stage, failure.reason), (Stage::Quarantine, reason), "{code}");
        assert!(scene.there.current(SOURCE, "k").is_some());
    }
}

#[tokio::test]
async fn what_is_too_large_for_one_request_is_copied_in_parts() {
    let mut scene = scene("k", Versioning::Off, |_, _| None).await;
    scene.store.copy_limits = CopyLimits { whole: 9, part: 4 };
    assert_eq!(scene.copy().await.unwrap(), Applied::Done);
    assert_eq!(scene.copies()[0].body, CONTENT);
    assert_eq!(scene.count(Operation::UploadPartCopy), 3);
    assert_eq!(scene.count(Operation::GetObject), 1);
    assert!(scene.there.with(|contents| contents.uploads.is_empty()));
}

#[tokio::test]
async fn a_copy_in_parts_that_cannot_be_finished_leaves_no_parts() {
    for operation in [Operation::UploadPartCopy, Operation::CompleteMultipartUpload] {
        for (status, code) in [(403, "AccessDenied"), (404, "NoSuchKey"), (503, "SlowDown")] {
            let mut scene = scene("k", Versioning::Off, move |call, _| {
                // The second part.
                let fails = call.operation == operation
                    && call.parameter("partNumber").is_none_or(|number| number == "2");
                fails.then(|| store::error(status, code))
            })
            .await;
            scene.store.copy_limits = CopyLimits { whole: 9, part: 4 };
            let copied = scene.copy().await;
            assert!(!matches!(copied, Ok(Applied::Done)), "{copied:?}");
            assert_eq!(scene.count(Operation::AbortMultipartUpload), 1, "{operation:?} {code}");
            assert!(scene.there.with(|contents| contents.uploads.is_empty()));
            assert!(scene.copies().is_empty());
        }
    }
}

#[tokio::test]
async fn what_is_written_beside_a_copy_is_read_back_and_not_replaced() {
    let scene = scene("k", Versioning::Off, |_, _| None).await;
    let (first, second) = (bytes::Bytes::from_static(b"{}"), bytes::Bytes::from_static(b"[]"));
    assert_eq!(scene.store.read_small(&place()).await.unwrap(), None);
    scene.store.write_small(&place(), &first, true).await.unwrap();
    scene.store.write_small(&place(), &second, true).await.unwrap();
    assert_eq!(scene.store.read_small(&place()).await.unwrap(), Some(first));
    scene.store.write_small(&place(), &second, false).await.unwrap();
    assert_eq!(scene.store.read_small(&place()).await.unwrap(), Some(second));
}
