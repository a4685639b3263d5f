//! The answer to the GET stands for a comparison and for the other tags, while it is young and where the
//! store was seen to tell their number.

use std::collections::HashMap;

use Operation::{GetObject, GetObjectTagging, HeadObject, PutObjectTagging};

use super::*;

/// Objects until one of them is worked on fast enough. On a busy machine some are not.
const TRIES: usize = 60;

impl Scene {
    /// Stores and announces an object, and waits until it has the status; returns the operations on it.
    async fn judged(&self, key: &str, version: Version, status: &str) -> Vec<Operation> {
        let (_, etag) = self.store.put(BUCKET, key, version);
        self.announce(key, &etag).await;
        self.ends_as(key, status).await
    }

    async fn ends_as(&self, key: &str, status: &str) -> Vec<Operation> {
        self.reports(key, 1).await;
        self.until_tagged(key, status).await;
        self.store.calls_on(BUCKET, key).iter().map(|call| call.operation).collect()
    }
}

/// The operations on the first of some objects that took no other.
async fn at_best(scene: &Scene, wanted: &[Operation]) {
    let mut others = Vec::new();
    for number in 0..TRIES {
        let key = format!("k{number}");
        let calls = scene.judged(&key, Version::new(key.as_str()), "clean").await;
        if calls == wanted {
            return;
        }
        others.push(calls);
    }
    panic!("never {wanted:?}: {others:?}");
}

#[tokio::test]
async fn a_clean_object_takes_three_requests() {
    let scene = scene(&[], as_it_is).await;
    at_best(&scene, &[GetObject, PutObjectTagging, HeadObject]).await;
    // The tags of others are kept all the same.
    for number in 0..10 {
        let key = format!("tagged{number}");
        let calls = scene.judged(&key, Version::new(key.as_str()).tag("own", "tag"), "clean").await;
        assert!(calls.contains(&GetObjectTagging), "{calls:?}");
        let tags = scene.store.current(BUCKET, &key).unwrap();
        assert_eq!(tags.tag_value("own"), Some("tag"));
    }
}

#[tokio::test]
async fn a_clean_version_takes_two_requests() {
    let scene = scene(&[], as_it_is).await;
    scene.versioning(Versioning::Enabled);
    for number in 0..TRIES {
        let key = format!("k{number}");
        let (id, etag) = scene.put(&key, key.as_bytes());
        let mut event = notification::put(BUCKET, &key, None, Some(&etag));
        event["Records"][0]["s3"]["object"]["versionId"] = id.into();
        scene.tell(&event).await;
        if scene.ends_as(&key, "clean").await == [GetObject, PutObjectTagging] {
            return;
        }
    }
    panic!("never two");
}

/// Objects with tags of their own in a store that does not tell their number, whatever the uploader says.
async fn keeps_tags_untold(of_uploader: &[&str]) {
    let scene = scene(&[], as_it_is).await;
    scene.store.with(|contents| contents.counts_tags = false);
    for number in 0..12 {
        let key = format!("k{number}");
        let mut version = Version::new(key.as_str());
        for count in of_uploader {
            version = version.header("x-amz-tagging-count", *count);
        }
        let calls = scene.judged(&key, version, "clean").await;
        assert!(calls.contains(&GetObjectTagging), "{calls:?}");
        let key = format!("tagged{number}");
        let calls = scene.judged(&key, Version::new(key.as_str()).tag("own", "tag"), "clean").await;
        assert!(calls.contains(&GetObjectTagging), "{calls:?}");
        assert_eq!(scene.store.current(BUCKET, &key).unwrap().tag_value("own"), Some("tag"));
    }
    scene.nothing_is_parked().await;
}

#[tokio::test]
async fn a_store_that_does_not_tell_is_always_asked() {
    keeps_tags_untold(&[]).await;
}

#[tokio::test]
async fn an_uploader_cannot_make_it_look_as_if_the_store_tells() {
    // As many as an object has after it was tagged: with a receipt, and without.
    keeps_tags_untold(&["2"]).await;
    keeps_tags_untold(&["1"]).await;
}

#[tokio::test]
async fn an_uploaders_count_hides_no_tags() {
    for counts in [vec!["many"], vec!["99999999999"], vec!["0"], vec!["0", "0"], vec!["-1"]] {
        let scene = scene(&[], as_it_is).await;
        at_best(&scene, &[GetObject, PutObjectTagging, HeadObject]).await;
        for number in 0..12 {
            let key = format!("tagged{number}");
            let mut version = Version::new(key.as_str()).tag("own", "tag");
            for count in &counts {
                version = version.header("x-amz-tagging-count", *count);
            }
            scene.judged(&key, version, "clean").await;
            let tags = scene.store.current(BUCKET, &key).unwrap();
            assert_eq!(tags.tag_value("own"), Some("tag"), "{counts:?}");
        }
    }
}

#[tokio::test]
async fn the_first_object_shows_whether_the_store_tells() {
    let scene = scene(&[], as_it_is).await;
    let calls = scene.judged("first", Version::new("first"), "clean").await;
    assert!(calls.contains(&GetObjectTagging), "{calls:?}");
    assert_eq!(calls.last(), Some(&GetObject), "{calls:?}");
    for number in 0..10 {
        let key = format!("k{number}");
        let calls = scene.judged(&key, Version::new(key.as_str()), "clean").await;
        assert_eq!(calls.iter().filter(|call| **call == GetObject).count(), 1, "{calls:?}");
    }
}

/// A scene that does something when the tags of an object arrive about which nothing was asked since its GET,
/// if its key begins with `struck`; and how often that happened.
async fn struck(
    act: impl Fn(&Call, &mut Contents) -> Option<Reply> + Send + Sync + 'static,
) -> (Scene, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let (strikes, seen) =
        (Arc::clone(&count), Mutex::new(HashMap::<String, Vec<Operation>>::new()));
    let scene = scene(&[], move |call, contents| {
        let key = call.key_text();
        let mut seen = seen.lock().unwrap();
        let before = seen.entry(key.clone()).or_default();
        let at_once = call.operation == PutObjectTagging && before.as_slice() == [GetObject];
        before.push(call.operation);
        if !at_once || !key.starts_with("struck") {
            return None;
        }
        strikes.fetch_add(1, Ordering::Relaxed);
        act(call, contents)
    })
    .await;
    at_best(&scene, &[GetObject, PutObjectTagging, HeadObject]).await;
    (scene, count)
}

/// The key of the first object that is struck, and the operations on it.
async fn first_struck(scene: &Scene, count: &AtomicUsize) -> (String, Vec<Operation>) {
    for number in 0..TRIES {
        let key = format!("struck{number}");
        let calls = scene.judged(&key, Version::new(key.as_str()), "clean").await;
        if count.load(Ordering::Relaxed) > 0 {
            return (key, calls);
        }
    }
    panic!("no object was fast enough");
}

#[tokio::test]
async fn what_is_put_between_the_get_and_the_tag_keeps_no_tag_of_ours() {
    let (scene, count) = struck(|call, contents| {
        contents.bucket(BUCKET).put(&call.key, Version::new("other bytes"));
        None
    })
    .await;
    let (key, calls) = first_struck(&scene, &count).await;
    // The tag is taken back from what nobody had scanned, before that is read.
    let round = [GetObject, PutObjectTagging, HeadObject, GetObjectTagging, PutObjectTagging];
    assert!(calls.starts_with(&round) && calls[round.len()..].contains(&GetObject), "{calls:?}");
    let report = &scene.reports(&key, 1).await[0];
    assert_eq!(report["etag"], scene.store.current(BUCKET, &key).unwrap().etag.as_str());
}

#[tokio::test]
async fn a_tag_that_fails_at_once_is_set_after_asking() {
    let (scene, count) = struck(|call, contents| {
        // Somebody else sets a tag meanwhile.
        let version = contents.bucket(BUCKET).version_mut(&call.key, None);
        version.unwrap().tags.push(("own".into(), "tag".into()));
        Some(store::error(503, "SlowDown"))
    })
    .await;
    let (key, calls) = first_struck(&scene, &count).await;
    assert!(calls.contains(&GetObjectTagging), "{calls:?}");
    assert_eq!(scene.store.current(BUCKET, &key).unwrap().tag_value("own"), Some("tag"));
}
