use proptest::prelude::*;

use super::*;

const MINIO: &str = include_str!("../../testing/fixtures/minio-events.jsonl");
const AWS: &str = include_str!("../../testing/fixtures/aws-event.json");

fn object(body: &str) -> ObjectRef {
    match parse(body.as_bytes()) {
        Ok(Notification::Object(object)) => *object,
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
    let keys: Vec<_> = bodies[..5].iter().map(|body| object(body).keys).collect();
    let awkward = "invoices/2026/a b+c %20 é 日本.pdf";
    assert_eq!(keys, [["clean_file.txt"], [awkward], ["empty"], ["copied"], ["big.bin"]]);
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
fn aws_has_no_prefix_and_no_raw_path_so_the_key_keeps_both_spellings() {
    let object = object(AWS);
    let encoded = "invoices/2026/a+b%2Bc+%C3%A9.pdf";
    assert_eq!(object.keys, ["invoices/2026/a b+c é.pdf", encoded]);
    assert_eq!(object.version_id.as_deref(), Some("096fKKXTRTtl3on89fVO.nfljtsv6qko"));
}

#[test]
fn absent_empty_and_null_versions_are_no_versions_and_etags_lose_their_quotes() {
    for version in [r#","versionId":"""#, r#","versionId":"null""#, r#","versionId":null"#, ""] {
        let object = object(&format!(
            r#"{{"Records":[{{"eventName":"s3:ObjectCreated:Put","s3":{{"bucket":{{"name":"b"}},
            "object":{{"key":"k","eTag":"\"e\""{version}}}}}}}]}}"#
        ));
        assert_eq!((object.version_id, object.etag.as_deref()), (None, Some("e")));
    }
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
    for name in ["Put", "Post", "Copy", "CompleteMultipartUpload", "PutObject", "New"] {
        for prefix in ["s3:", ""] {
            let name = format!("{prefix}ObjectCreated:{name}");
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
    ] {
        assert!(matches!(read(name), Ok(Notification::Ignored)), "{name}");
    }
    for name in ["", "ObjectCreatedX:Put", "s3:", "s3:ObjectSynced:Create"] {
        assert_eq!(read(name).unwrap_err(), Malformed::UnknownEvent, "{name}");
    }
}

#[test]
fn what_is_no_bucket_name_is_refused() {
    for name in
        ["arn:aws:s3:eu-west-1:1:accesspoint/x", "a/b", "a b", "..%2f", "é", &"a".repeat(256)]
    {
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
    assert_eq!(malformed(&deep), Malformed::NoEventName);
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
        r#"{"bucket":{"name":"b"},"object":{"key":"k","size":"big"}}"#,
        r#"{"bucket":{"name":"b"},"object":{"key":"k","eTag":5}}"#,
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
