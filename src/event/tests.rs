mod dialects;

use proptest::prelude::*;

use super::*;

const MINIO: &str = include_str!("../../testing/fixtures/minio-events.jsonl");
const AWS: &str = include_str!("../../testing/fixtures/aws-event.json");
/// From Ceph's documentation, with the source and the unencoded keys that a real one sent.
const CEPH: &str = include_str!("../../testing/fixtures/ceph-events.jsonl");
/// Over AMQP and by webhook, from `RustFS`' source code of August 2026.
const RUSTFS: &str = include_str!("../../testing/fixtures/rustfs-events.jsonl");

fn object(body: &str) -> ObjectRef {
    match parse(body.as_bytes()) {
        Ok(Notification::Object(object)) => *object,
        Ok(Notification::Unsettled { written, .. }) => *written,
        other => panic!("not one object: {other:?}"),
    }
}

fn malformed(body: &str) -> Malformed {
    parse(body.as_bytes()).expect_err("should be refused")
}

fn record(name: &str) -> String {
    format!(r#"{{"eventName":"{name}","s3":{{"bucket":{{"name":"b"}},"object":{{"key":"k"}}}}}}"#)
}

fn message(records: &[String]) -> String {
    format!(r#"{{"Records":[{}]}}"#, records.join(","))
}

#[test]
fn minios_creations_are_read_and_its_metadata_changes_ignored() {
    let bodies: Vec<&str> = MINIO.lines().collect();
    assert_eq!(bodies.len(), 7);
    let keys: Vec<_> = bodies[..5].iter().map(|body| object(body).key).collect();
    let awkward = "invoices/2026/a b+c %20 é 日本.pdf";
    assert_eq!(keys, ["clean_file.txt", awkward, "empty", "copied", "big.bin"]);
    for body in &bodies[5..] {
        assert!(matches!(parse(body.as_bytes()), Ok(Notification::Ignored)), "{body}");
    }
    let first = object(bodies[0]);
    assert_eq!(first.bucket, "storagebucket");
    assert_eq!(first.size, Some(25));
    assert_eq!(first.etag.as_deref(), Some("2cd00e9eff555e84315057b65ef70f03"));
    assert_eq!(first.sequencer.as_deref(), Some("18EA5BBCFB5A4B8F"));
    assert_eq!(first.event_time.as_deref(), Some("2026-11-22T11:51:08.689Z"));
    assert_eq!(first.version_id, None);
}

#[test]
fn aws_has_no_raw_path_and_others_use_its_name_so_the_key_keeps_both_spellings() {
    let Ok(Notification::Unsettled { written, decoded }) = parse(AWS.as_bytes()) else { panic!() };
    assert_eq!(written.key, "invoices/2026/a+b%2Bc+%C3%A9.pdf");
    assert_eq!(decoded, "invoices/2026/a b+c é.pdf");
    assert_eq!(written.version_id.as_deref(), Some("096fKKXTRTtl3on89fVO.nfljtsv6qko"));
}

#[test]
fn ceph_writes_keys_as_they_are_and_names_its_source() {
    let ceph = CEPH.lines().map(object).map(|object| (object.key, object.etag));
    let etag = || Some("44d88612fea8a8f36de82e1278abb02f".to_owned());
    let expected = [("a+b".to_owned(), etag()), ("100%25".to_owned(), etag())];
    assert_eq!(ceph.collect::<Vec<_>>(), expected);
    for line in CEPH.lines() {
        assert!(matches!(parse(line.as_bytes()), Ok(Notification::Object(_))), "{line}");
    }
}

#[test]
fn rustfs_wraps_its_record_over_amqp() {
    let wrapped = RUSTFS.lines().map(object).map(|object| (object.bucket, object.key));
    let expected = ("storagebucket".to_owned(), "in/a b+c.pdf".to_owned());
    assert_eq!(wrapped.collect::<Vec<_>>(), [expected.clone(), expected]);
}

#[test]
fn versitygws_bare_list_is_read() {
    let list = format!("[{}]", record("s3:ObjectCreated:Put"));
    assert_eq!(object(&list).key, "k");
    assert_eq!(malformed("[]"), Malformed::NoRecords);
    assert!(!malformed("[]").to_string().contains("object"));
}

#[test]
fn absent_empty_and_null_versions_are_told_apart_and_etags_lose_quotes_and_weakness() {
    let read = |version: &str, etag: &str| {
        object(&format!(
            r#"{{"Records":[{{"eventName":"s3:ObjectCreated:Put","s3":{{"bucket":{{"name":"b"}},
            "object":{{"key":"k","eTag":{etag}{version}}}}}}}]}}"#
        ))
    };
    for version in [r#","versionId":"""#, r#","versionId":null"#, ""] {
        for etag in [r#""\"e\"""#, r#""W/\"e\"""#, r#""e""#] {
            let object = read(version, etag);
            assert_eq!((object.version_id, object.etag.as_deref()), (None, Some("e")));
        }
    }
    let slot = read(r#","versionId":"null""#, r#""e""#);
    assert_eq!(slot.version_id.as_deref(), Some("null"));
}

#[test]
fn what_only_describes_may_be_of_any_type() {
    for odd in ["5", "\"5\"", "[5]", "{}", "true", "null", "-1", "1e999", "\"\"", "1.5"] {
        let body = format!(
            r#"{{"Key":{odd},"Records":[{{"eventName":"s3:ObjectCreated:Put","eventTime":{odd},
            "eventSource":{odd},"userIdentity":{odd},"s3":{{"bucket":{{"name":"b","arn":{odd}}},
            "object":{{"key":"k","size":{odd},"eTag":{odd},"sequencer":{odd},"userMetadata":{odd}}}}}}}]}}"#
        );
        let object = object(&body);
        assert_eq!((object.key.as_str(), object.version_id), ("k", None), "{odd}");
    }
    for odd in ["5", "[5]", "{}", "true"] {
        let body = message(&[record("s3:ObjectCreated:Put")
            .replace("\"key\"", &format!("\"versionId\":{odd},\"key\""))]);
        assert_eq!(malformed(&body), Malformed::NoObject, "{odd}");
    }
}

#[test]
fn a_byte_order_mark_and_metadata_in_any_bytes_keep_nothing_from_being_read() {
    let body = message(&[record("s3:ObjectCreated:Put")]);
    let marked = [b"\xef\xbb\xbf", body.as_bytes()].concat();
    assert!(matches!(parse(&marked), Ok(Notification::Object(_))));
    let put = |from: &str, to: &[u8]| {
        let at = body.find(from).unwrap();
        [&body.as_bytes()[..at], to, &body.as_bytes()[at + from.len()..]].concat()
    };
    let latin1 =
        put("\"key\":", b"\"metadata\":[{\"key\":\"x-amz-meta-a\",\"val\":\"\xe9\"}],\"key\":");
    assert!(matches!(parse(&latin1), Ok(Notification::Object(object)) if object.key == "k"));
    // A key that is not UTF-8 is no key.
    assert_eq!(parse(&put("\"k\"", b"\"\xff\"")).unwrap_err(), Malformed::NoObject);
}

#[test]
fn a_notification_is_made_exact_and_everything_else_of_it_stays() {
    let version = Version { id: "v1".to_owned(), etag: Some("e2".to_owned()), size: Some(7) };
    let settled = |body: &[u8], object: &ObjectRef, version| {
        let exact = exact(body, object, version);
        match parse(&exact) {
            Ok(Notification::Object(object)) => (*object, exact),
            other => panic!("{other:?}"),
        }
    };
    // This one cannot be rewritten: no type holds the number.
    let odd =
        message(&[record("s3:ObjectCreated:Put").replace("{\"key\"", "{\"x\":1e999,\"key\"")]);
    let listed = r#"{"Records":[{"eventName":"ObjectCreated:Put","s3":[{"name":"b"},["k"]]}]}"#;
    for body in [AWS, RUSTFS.lines().next().unwrap(), CEPH.lines().next().unwrap(), &odd, listed] {
        let object = ObjectRef { key: "a+b %".to_owned(), ..object(body) };
        let (keyed, _) = settled(body.as_bytes(), &object, None);
        assert_eq!(keyed, object);
        let (named, message) = settled(body.as_bytes(), &object, Some(&version));
        let (version_id, etag, size) = (Some("v1".to_owned()), version.etag.clone(), version.size);
        assert_eq!(named, ObjectRef { version_id, etag, size, ..object });
        let value: serde_json::Value = serde_json::from_slice(&message).unwrap();
        let kept = body.contains("userIdentity");
        assert_eq!(value["Records"][0]["userIdentity"].is_object(), kept, "{value}");
    }
    let removal = removal_of("v1");
    let uncovered = object(&removal);
    assert_eq!(settled(removal.as_bytes(), &uncovered, None).0, uncovered);
    assert_eq!(settled(b"{}", &uncovered, None).0, uncovered);
}

fn removal_of(version: &str) -> String {
    let version = format!("\"versionId\":\"{version}\",\"eTag\":\"e\",\"key\"");
    message(&[record("ObjectRemoved:Delete").replace("\"key\"", &version)])
}

#[test]
fn a_removal_that_names_a_version_announces_what_is_current_then() {
    for name in ["ObjectRemoved:Delete", "s3:LifecycleExpiration:Delete"] {
        let removal = |version: &str| {
            let version = format!("\"versionId\":\"{version}\",\"eTag\":\"e\",\"key\"");
            message(&[record(name).replace("\"key\"", &version)])
        };
        for version in ["v1", "null"] {
            let object = object(&removal(version));
            assert!(object.uncovered);
            assert_eq!((object.version_id, object.etag), (None, None));
        }
        assert!(matches!(parse(removal("").as_bytes()), Ok(Notification::Ignored)));
    }
    let marker = record("s3:ObjectRemoved:DeleteMarkerCreated")
        .replace("\"key\"", "\"versionId\":\"v1\",\"key\"");
    assert!(matches!(parse(message(&[marker]).as_bytes()), Ok(Notification::Ignored)));
}

#[test]
fn several_records_become_messages_of_one() {
    let names = ["s3:ObjectCreated:Put", "s3:ObjectRemoved:Delete", "s3:Unheard:Of"];
    let records: Vec<String> = names.iter().map(|name| record(name)).collect();
    let Ok(Notification::Many(parts)) = parse(message(&records).as_bytes()) else { panic!() };
    assert_eq!(parts.len(), 3);
    assert!(matches!(parse(&parts[0]), Ok(Notification::Object(_))));
    assert!(matches!(parse(&parts[1]), Ok(Notification::Ignored)));
    assert_eq!(parse(&parts[2]).unwrap_err(), Malformed::UnknownEvent);
}

#[test]
fn a_thousand_records_are_split_and_a_million_refused() {
    let thousand = vec![record("s3:ObjectCreated:Put"); 1000];
    let Ok(Notification::Many(parts)) = parse(message(&thousand).as_bytes()) else { panic!() };
    assert_eq!(parts.len(), 1000);
    let million = format!(r#"{{"Records":[{}0]}}"#, "0,".repeat(1_000_000));
    assert_eq!(malformed(&million), Malformed::TooManyRecords);
}

#[test]
fn only_a_test_event_and_explicitly_empty_records_are_ignored() {
    for harmless in
        [r#"{"Event":"s3:TestEvent","Bucket":"b"}"#, r#"{"Records":[]}"#, r#"{"Records":null}"#]
    {
        assert!(matches!(parse(harmless.as_bytes()), Ok(Notification::Ignored)), "{harmless}");
    }
    assert_eq!(malformed("{}"), Malformed::NoRecords);
    assert_eq!(malformed(r#"{"Event":"s3:Other"}"#), Malformed::NoRecords);
    assert_eq!(malformed(r#"{"records":[]}"#), Malformed::NoRecords);
}

#[test]
fn event_names_decide_with_and_without_prefix() {
    let read = |name: &str| parse(message(&[record(name)]).as_bytes());
    for name in [
        "ObjectCreated:Put",
        "ObjectCreated:Post",
        "ObjectCreated:Copy",
        "ObjectCreated:CompleteMultipartUpload",
        "ObjectCreated:PutObject",
        "ObjectCreated:New",
        "ObjectCreated",
        "ObjectSynced:Create",
        "Replication:Create",
        "ObjectRestore:Completed",
    ] {
        for prefix in ["s3:", ""] {
            let name = format!("{prefix}{name}");
            assert!(matches!(read(&name), Ok(Notification::Object(_))), "{name}");
        }
    }
    for name in [
        "s3:ObjectCreated:PutTagging",
        "s3:ObjectCreated:DeleteTagging",
        "s3:ObjectCreated:PutRetention",
        "s3:ObjectCreated:PutLegalHold",
        "ObjectCreated:ACL",
        "s3:ObjectRemoved:DeleteMarkerCreated",
        "s3:ObjectAccessed:Get",
        "ObjectTagging:Put",
        "s3:Scanner:ManyVersions",
        "s3:ObjectRemoved:NoOP",
        "s3:ObjectRemoved:DeleteAllVersions",
        "s3:LifecycleDelMarkerExpiration:Delete",
        "s3:LifecycleExpiration:DeleteMarkerCreated",
        "s3:ObjectLifecycle:Expiration:Current",
        "s3:ObjectLifecycle:Expiration:NonCurrent",
        "s3:ObjectLifecycle:Expiration:DeleteMarker",
        "s3:ObjectLifecycle:Expiration:AbortMultipartUpload",
        "s3:ObjectLifecycle:Transition:Current",
        "s3:ObjectSynced:Delete",
        "s3:ObjectSynced:DeletionMarkerCreated",
        "s3:Replication:OperationCompletedReplication",
        "s3:Replication:OperationNotTracked",
        "s3:ObjectRestore:Post",
        "ObjectRestore:Delete",
        "s3:ObjectTransition:Complete",
        "LifecycleTransition",
        "IntelligentTiering",
        "ObjectAcl:Put",
        "ObjectAnnotation:Put",
        "s3:ReducedRedundancyLostObject",
        "s3:BucketCreated:*",
    ] {
        assert!(matches!(read(name), Ok(Notification::Ignored)), "{name}");
    }
    for name in ["", "ObjectCreatedX:Put", "s3:", "s3:Unheard:Of"] {
        assert_eq!(read(name).unwrap_err(), Malformed::UnknownEvent, "{name}");
    }
}

#[test]
fn what_is_no_bucket_name_is_refused() {
    for name in [
        "arn:aws:s3:eu-west-1:1:accesspoint/x",
        "a/b",
        "a b",
        "..%2f",
        "é",
        "..",
        ".",
        &"a".repeat(256),
    ] {
        let body =
            message(&[record("s3:ObjectCreated:Put").replace("\"b\"", &format!("\"{name}\""))]);
        assert_eq!(malformed(&body), Malformed::NoBucket, "{name}");
    }
}

#[test]
fn what_no_request_could_ask_for_is_refused() {
    let put = record("s3:ObjectCreated:Put");
    let long = "k".repeat(MAX_KEY + 1);
    assert_eq!(
        malformed(&message(&[put.replace("\"k\"", &format!("\"{long}\""))])),
        Malformed::TooLong
    );
    let version = format!("\"versionId\":\"{}\",\"key\"", "v".repeat(MAX_VERSION + 1));
    assert_eq!(malformed(&message(&[put.replace("\"key\"", &version)])), Malformed::TooLong);
}

#[test]
fn hostile_bodies_are_refused_without_a_crash() {
    let whole = MINIO.lines().next().unwrap();
    for end in 0..whole.len() {
        assert!(parse(&whole.as_bytes()[..end]).is_err(), "cut at {end}");
    }
    assert_eq!(parse(&vec![b'x'; 10 << 20]).unwrap_err(), Malformed::NotANotification);
    assert_eq!(parse(&vec![0xff; 10 << 20]).unwrap_err(), Malformed::NotANotification);
    assert_eq!(malformed(&"[".repeat(1_000_000)), Malformed::NotANotification);
    let deep = format!(r#"{{"Records":[{}{}]}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(parse(deep.as_bytes()).is_err());
    for body in [
        "",
        "null",
        "[]",
        "1",
        "\"x\"",
        r#"{"Records":{}}"#,
        r#"{"Records":"x"}"#,
        r#"{"Records":[],"Records":[]}"#,
    ] {
        assert!(parse(body.as_bytes()).is_err(), "{body}");
    }
    for record in ["1", "null", "{}", r#"{"eventName":1}"#] {
        assert_eq!(malformed(&message(&[record.to_owned()])), Malformed::NoEventName);
    }
    let name = r#""eventName":"s3:ObjectCreated:Put""#;
    for s3 in [
        "null",
        "{}",
        r#"{"bucket":{"name":"b"},"object":{}}"#,
        r#"{"bucket":{"name":""},"object":{"key":"k"}}"#,
        r#"{"bucket":{"name":"b"},"object":{"key":""}}"#,
        r#"{"bucket":{"name":"b"},"object":{"key":7}}"#,
        r#"{"bucket":"b","object":{"key":"k"}}"#,
        r#"{"bucket":{"name":7},"object":{"key":"k"}}"#,
    ] {
        let body = message(&[format!(r#"{{{name},"s3":{s3}}}"#)]);
        assert_eq!(malformed(&body), Malformed::NoObject, "{s3}");
    }
}

proptest! {
    #[test]
    fn no_bytes_crash_the_parser(body in proptest::collection::vec(any::<u8>(), 0..400)) {
        drop(parse(&body));
    }

    #[test]
    fn no_damage_to_a_real_notification_crashes_the_parser(at in 0usize..900, byte: u8) {
        let mut body = MINIO.lines().nth(1).unwrap().as_bytes().to_vec();
        let at = at % body.len();
        body[at] = byte;
        drop(parse(&body));
    }
}
