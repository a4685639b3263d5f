//! The scripted store behaves as S3 for the client here and the SDK below it, and returns stored
//! bytes unchanged.
#![allow(clippy::disallowed_methods, reason = "the list in clippy.toml is about the daemon")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::TcpStream;

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::EncodingType;
use peers::scripted::store::{Operation, Version, Versioning};
use peers::scripted::{Reply, Store};
use stack::S3;

/// A client of the bucket `b`. Any credentials will do.
fn s3(store: &Store) -> S3 {
    S3::at(store.url(), "scripted", "scripted", "us-east-1", "b")
}

fn raw(store: &Store, request: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(store.url().trim_start_matches("http://")).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn objects_are_put_read_tagged_and_deleted() {
    let store = Store::start();
    let s3 = s3(&store);
    s3.create_bucket().await.unwrap();
    let key = "a b/ü+%2f\u{1}?&.txt";
    let etag = s3.put(key, "content").await.unwrap();
    assert_eq!(etag.trim_matches('"'), "9a0364b9e99bb480dd25e1f0284c8555");
    assert_eq!(s3.get(key).await.unwrap().unwrap(), b"content");
    let head = s3.head(key).await.unwrap().unwrap();
    assert_eq!((head.size, head.etag, head.version_id), (7, Some(etag), None));
    s3.set_tags(key, &[("one", "1 & <2>"), ("two", "")]).await.unwrap();
    let tags = s3.tags(key).await.unwrap().unwrap();
    assert_eq!((&*tags["one"], &*tags["two"]), ("1 & <2>", ""));
    let eleven: Vec<_> = (0..11).map(|n| (n.to_string(), "x")).collect();
    let eleven: Vec<_> = eleven.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    assert!(s3.set_tags(key, &eleven).await.is_err());
    assert_eq!(store.current("b", key).unwrap().tags.len(), 2);
    let get = s3.client.get_object().bucket("b").key(key).send().await.unwrap();
    assert_eq!(get.tag_count, Some(2));
    s3.delete(key).await.unwrap();
    assert!(s3.head(key).await.unwrap().is_none());
    let missing = s3.client.get_object().bucket("b").key(key).send().await.unwrap_err();
    assert_eq!(missing.code(), Some("NoSuchKey"));
    let buckets = s3.client.list_buckets().send().await.unwrap().buckets.unwrap();
    assert_eq!(buckets[0].name.as_deref(), Some("b"));
    let calls = store.calls_on("b", key);
    let gets: Vec<_> = calls.iter().filter(|c| c.operation == Operation::GetObject).collect();
    assert_eq!((gets.len(), gets[2].count), (3, 2));
}

#[tokio::test]
async fn versions_and_markers_are_as_s3_has_them() {
    let store = Store::start();
    store.put("b", "k", Version::new("before"));
    store.with(|contents| contents.bucket("b").versioning = Versioning::Enabled);
    let (first, _) = store.put("b", "k", Version::new("first"));
    let s3 = s3(&store);
    let second = s3.client.put_object().bucket("b").key("k").send().await.unwrap().version_id;
    let second = second.unwrap();
    let get = |version: &str| {
        let get = s3.client.get_object().bucket("b").key("k").version_id(version);
        async { Ok(get.send().await?.body.collect().await.unwrap().to_vec()) }
    };
    assert_eq!(get(&first).await.map_err(drop::<aws_sdk_s3::Error>).unwrap(), b"first");
    assert_eq!(get("null").await.map_err(drop::<aws_sdk_s3::Error>).unwrap(), b"before");
    assert_eq!(get("x").await.unwrap_err().code(), Some("NoSuchVersion"));
    let deleted = s3.client.delete_object().bucket("b").key("k").send().await.unwrap();
    assert_eq!(deleted.delete_marker, Some(true));
    let marker = deleted.version_id.unwrap();
    assert_eq!(get(&marker).await.unwrap_err().code(), Some("MethodNotAllowed"));
    assert!(s3.head("k").await.unwrap().is_none());

    let list = s3.client.list_object_versions().bucket("b").send().await.unwrap();
    let ids: Vec<_> = list.versions().iter().map(|v| v.version_id.clone().unwrap()).collect();
    assert_eq!(ids, [second.as_str(), &first, "null"]);
    assert_eq!(list.delete_markers()[0].is_latest, Some(true));

    let remove = |id: &str| s3.client.delete_object().bucket("b").key("k").version_id(id).send();
    assert_eq!(remove(&marker).await.unwrap().delete_marker, Some(true));
    assert_eq!(remove(&second).await.unwrap().version_id, Some(second));
    assert_eq!(s3.get("k").await.unwrap().unwrap(), b"first");

    store.with(|contents| contents.bucket("b").versioning = Versioning::Suspended);
    let deleted = s3.client.delete_object().bucket("b").key("k").send().await.unwrap();
    assert_eq!(deleted.version_id.as_deref(), Some("null"));
    let ids: Vec<_> = store.versions("b", "k").into_iter().map(|version| version.id).collect();
    assert_eq!(ids, [first.as_str(), "null"], "the marker took the slot");
}

#[tokio::test]
async fn listings_come_in_pages() {
    let store = Store::start();
    store.with(|contents| contents.bucket("b").versioning = Versioning::Enabled);
    let keys = ["a", "b/+ %", "b/\u{1}", "b/ü", "c"];
    for key in keys {
        store.put("b", key, Version::new("1"));
        store.put("b", key, Version::new("22"));
    }
    let s3 = s3(&store);
    let (mut token, mut found) = (None, Vec::new());
    loop {
        let list = s3.client.list_objects_v2().bucket("b").max_keys(2).prefix("b/");
        let list = list.encoding_type(EncodingType::Url).set_continuation_token(token);
        let list = list.send().await.unwrap();
        found.extend(list.contents().iter().map(|o| (o.key.clone().unwrap(), o.size.unwrap())));
        token = list.next_continuation_token;
        if token.is_none() {
            break;
        }
    }
    assert_eq!(found, [("b/%01".into(), 2), ("b/%2B%20%25".into(), 2), ("b/%C3%BC".into(), 2)]);
    let (mut key, mut id, mut found) = (None, None, Vec::new());
    loop {
        let list = s3.client.list_object_versions().bucket("b").max_keys(3);
        let list = list.set_key_marker(key).set_version_id_marker(id);
        let list = list.send().await.unwrap();
        found.extend(list.versions().iter().map(|v| (v.key.clone().unwrap(), v.size.unwrap())));
        (key, id) = (list.next_key_marker, list.next_version_id_marker);
        if id.is_none() {
            break;
        }
    }
    assert_eq!(found.len(), 10);
    assert_eq!(found[0], ("a".into(), 2));
    assert_eq!(found[9], ("c".into(), 1));
}

#[tokio::test]
async fn a_delete_compares_where_the_store_does() {
    let store = Store::start();
    store.put("b", "k", Version::new("x"));
    let s3 = s3(&store);
    let delete = || s3.client.delete_object().bucket("b").key("k").if_match("\"other\"").send();
    assert_eq!(delete().await.unwrap_err().code(), Some("PreconditionFailed"));
    store.with(|contents| contents.honours_if_match_on_delete = false);
    delete().await.unwrap();
    assert!(store.current("b", "k").is_none());
}

#[test]
fn stored_headers_are_any_bytes_and_any_number() {
    let mut version = Version::new("x").header("Expires", b"\xff\x01").header("etag", "w");
    for number in 0..200 {
        version = version.header(&format!("x-amz-meta-{number}"), "");
    }
    let store = Store::start();
    store.put("b", b"\xff", version);
    let answer = raw(&store, "HEAD /b/%FF HTTP/1.1\r\n\r\n");
    let has = |part: &[u8]| answer.windows(part.len()).any(|window| window == part);
    assert!(has(b"\r\nExpires: \xff\x01\r\n") && has(b"\r\netag: w\r\n"));
    assert!(has(b"\r\ncontent-length: 1\r\n") && has(b"\r\nx-amz-meta-199: \r\n"));
    assert!(answer.ends_with(b"\r\n\r\n"), "no body");
}

#[tokio::test]
async fn a_hook_comes_first_and_may_answer_change_or_spoil() {
    let store = Store::start_with(|call, contents| match (call.operation, call.count) {
        (Operation::GetObject, 0) => Some(Reply::new(503, "")),
        (Operation::GetObject, 1) => {
            contents.bucket("b").put(&call.key, Version::new("changed"));
            None
        }
        (Operation::HeadObject, _) => Some(contents.answer(call).header("etag", "\"other\"")),
        _ => None,
    });
    store.put("b", "k", Version::new("x"));
    let s3 = s3(&store);
    assert_eq!(s3.get("k").await.unwrap().unwrap(), b"changed", "the SDK asks again");
    assert_eq!(s3.head("k").await.unwrap().unwrap().etag.as_deref(), Some("\"other\""));
}
