//! Messages that wrap records, or have none.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde_json::json;

use super::*;

/// From "HTTP/HTTPS notification JSON format" in the documentation of Amazon SNS.
const SNS: &str = include_str!("../../../testing/fixtures/sns-messages.jsonl");
/// From "EventBridge event message structure" in the documentation of Amazon S3, with a key that an
/// encoding would change.
const EVENT_BRIDGE: &str = include_str!("../../../testing/fixtures/eventbridge-events.jsonl");
/// From `cloudevents/adapters/aws-s3.md` of cloudevents/spec; the others in the forms that the JSON
/// format allows.
const CLOUD_EVENTS: &str = include_str!("../../../testing/fixtures/cloudevents.jsonl");
/// From `weed/notification/webhook/http.go` of seaweedfs/seaweedfs, with entries as in its pull
/// request 7882. From line 11 on: what the webhook of release 4.48 posted.
const SEAWEEDFS: &str = include_str!("../../../testing/fixtures/seaweedfs-events.jsonl");

fn line(fixture: &'static str, at: usize) -> &'static str {
    fixture.lines().nth(at).unwrap()
}

fn ignored(body: &str) -> bool {
    matches!(parse(body.as_bytes()), Ok(Notification::Ignored))
}

fn sns(message: &str) -> String {
    json!({ "Type": "Notification", "Message": message }).to_string()
}

fn cloud_event(data: &str) -> String {
    format!(r#"{{"specversion":"1.0","type":"t","source":"s","id":"1",{data}}}"#)
}

/// What is published about an object announces it again.
fn again(body: &str, object: &ObjectRef) {
    let exact = exact(body.as_bytes(), object, None);
    let Ok(Notification::Object(again)) = parse(&exact) else { panic!("{body}") };
    assert_eq!(*again, *object);
}

#[test]
fn sns_brings_what_is_inside() {
    let Ok(Notification::Unsettled { written, decoded }) = parse(line(SNS, 0).as_bytes()) else {
        panic!()
    };
    assert_eq!(*written, object(AWS));
    assert_eq!(decoded, "invoices/2026/a b+c é.pdf");
    again(line(SNS, 0), &written);
    for announces_nothing in SNS.lines().skip(1) {
        assert!(ignored(announces_nothing), "{announces_nothing}");
    }
    let two = message(&[record("ObjectCreated:Put"), record("s3:Unheard:Of")]);
    let Ok(Notification::Many(parts)) = parse(sns(&two).as_bytes()) else { panic!() };
    assert!(matches!(parse(&parts[0]), Ok(Notification::Object(_))));
    assert_eq!(parse(&parts[1]).unwrap_err(), Malformed::UnknownEvent);
}

#[test]
fn sns_with_anything_else_inside_is_refused() {
    for inside in ["", "hello", "7", "null", "[]", "{}", "\u{feff}", r#"{"Type":"Notification"}"#] {
        assert!(parse(sns(inside).as_bytes()).is_err(), "{inside}");
    }
    for body in [
        r#"{"Type":"Notification"}"#,
        r#"{"Type":"Notification","Message":{"Records":[]}}"#,
        r#"{"Type":"Unheard","Message":"{}"}"#,
        r#"{"Type":7,"Message":"{}"}"#,
    ] {
        assert_eq!(malformed(body), Malformed::NotANotification, "{body}");
    }
}

#[test]
fn eventbridge_writes_keys_as_they_are() {
    let created = line(EVENT_BRIDGE, 0);
    let Ok(Notification::Object(object)) = parse(created.as_bytes()) else { panic!() };
    let expected = ObjectRef {
        bucket: "amzn-s3-demo-bucket1".to_owned(),
        key: "in/a+b %C3%A9.pdf".to_owned(),
        version_id: Some("IYV3p45BT0ac8hjHg1houSdS1a.Mro8e".to_owned()),
        uncovered: false,
        etag: Some("b1946ac92492d2347c6235b4d2611184".to_owned()),
        size: Some(5),
        sequencer: Some("617f08299329d189".to_owned()),
        event_time: Some("2026-11-20T10:00:00Z".to_owned()),
        file: None,
    };
    assert_eq!(*object, expected);
    again(created, &object);
    let restored = ObjectRef { sequencer: None, ..expected };
    assert_eq!(super::object(line(EVENT_BRIDGE, 1)), restored);
    let uncovered = super::object(line(EVENT_BRIDGE, 2));
    assert!(uncovered.uncovered && uncovered.version_id.is_none() && uncovered.etag.is_none());
    again(line(EVENT_BRIDGE, 2), &uncovered);
    for announces_nothing in EVENT_BRIDGE.lines().skip(3) {
        assert!(ignored(announces_nothing), "{announces_nothing}");
    }
}

#[test]
fn the_types_of_eventbridge_decide() {
    let of = |kind: &str| line(EVENT_BRIDGE, 0).replace("Object Created", kind);
    for kind in [
        "Object Restore Initiated",
        "Object Restore Expired",
        "Object Tags Added",
        "Object Tags Deleted",
        "Object ACL Updated",
        "Object Storage Class Changed",
        "Object Access Tier Changed",
    ] {
        assert!(ignored(&of(kind)), "{kind}");
    }
    for kind in ["", "Object Unheard Of", "object created"] {
        assert_eq!(malformed(&of(kind)), Malformed::UnknownEvent, "{kind}");
    }
    let other_source = line(EVENT_BRIDGE, 0).replace("aws.s3\"", "aws.ec2\"");
    assert_eq!(malformed(&other_source), Malformed::UnknownEvent);
}

#[test]
fn in_eventbridge_too_only_bucket_key_and_version_must_be_right() {
    let with = |field: &str, odd: &str| {
        let real = line(EVENT_BRIDGE, 0);
        let at = real.rfind(&format!("\"{field}\":")).unwrap() + field.len() + 3;
        let end = at + real[at..].find([',', '}']).unwrap();
        format!("{}{odd}{}", &real[..at], &real[end..])
    };
    for odd in ["7", "[5]", "{}", "true", "null", "-1", "1e999", "\"\""] {
        for field in ["size", "etag", "sequencer", "time", "reason"] {
            assert_eq!(object(&with(field, odd)).key, "in/a+b %C3%A9.pdf", "{field} {odd}");
        }
    }
    for odd in ["7", "[5]", "{}", "true"] {
        for field in ["version-id", "key", "name"] {
            assert_eq!(malformed(&with(field, odd)), Malformed::NoObject, "{field} {odd}");
        }
    }
    for detail in ["null", "7", "{}", r#"{"bucket":{"name":"b"},"object":[]}"#] {
        let body = |kind: &str| {
            format!(r#"{{"source":"aws.s3","detail-type":"{kind}","detail":{detail}}}"#)
        };
        assert_eq!(malformed(&body("Object Created")), Malformed::NoObject, "{detail}");
        assert!(ignored(&body("Object Deleted")), "{detail}");
    }
}

#[test]
fn a_cloudevent_brings_a_record_a_message_or_text() {
    let ceph = object(line(CEPH, 0));
    for at in [0, 2, 3] {
        assert_eq!(object(line(CLOUD_EVENTS, at)), ceph, "{at}");
        again(line(CLOUD_EVENTS, at), &ceph);
    }
    assert_eq!(object(line(CLOUD_EVENTS, 1)), object(line(MINIO, 1)));
    let event_bridge = cloud_event(&format!(r#""data":{}"#, line(EVENT_BRIDGE, 0)));
    assert_eq!(object(&event_bridge), object(line(EVENT_BRIDGE, 0)));
    for odd in [
        r#""data":null"#,
        r#""data":7"#,
        r#""data":{}"#,
        r#""data":"hello""#,
        r#""data":{"eventName":7}"#,
        r#""data_base64":"%""#,
        r#""data_base64":7"#,
        r#""data_base64":"""#,
        r#""dataschema":"x""#,
    ] {
        assert!(parse(cloud_event(odd).as_bytes()).is_err(), "{odd}");
    }
    let newer = line(CLOUD_EVENTS, 0).replace("\"1.0\"", "\"2.0\"");
    assert_eq!(malformed(&newer), Malformed::NotANotification);
}

#[test]
fn a_record_counts_for_its_message_in_every_wrapper() {
    let record = record("ObjectCreated:Put");
    let whole = message(std::slice::from_ref(&record));
    let quoted = |text: &str| serde_json::to_string(text).unwrap();
    let data = |text: &str| cloud_event(&format!(r#""data":{text}"#));
    let base64 = |text: &str| cloud_event(&format!(r#""data_base64":"{}""#, BASE64.encode(text)));
    let detail = |text: &str| {
        format!(r#"{{"source":"aws.s3","detail-type":"Object Created","detail":{text}}}"#)
    };
    let wrappers: [&dyn Fn(&str) -> String; 5] = [
        &data,
        &|text| data(&quoted(text)),
        &base64,
        &|text| base64(&format!("\u{feff}{text}")),
        &sns,
    ];
    let expected = object(&whole);
    assert_eq!(object(&record), expected);
    assert_eq!(object(&detail(&record)), expected);
    for (at, outer) in wrappers.iter().enumerate() {
        for inner in [&record, &whole, &format!("[{record}]"), &detail(&record)] {
            assert_eq!(object(&outer(inner)), expected, "{at} {inner}");
            again(&outer(inner), &expected);
            for middle in wrappers {
                assert_eq!(object(&outer(&middle(inner))), expected, "{at} {inner}");
            }
        }
        // It costs no wrapper of its own.
        assert_eq!(object(&outer(&sns(&sns(&record)))), expected, "{at}");
        assert_eq!(malformed(&outer(&sns(&sns(&sns(&record))))), Malformed::TooManyWrappers);
        for (odd, why) in [
            (r#"{"eventName":7}"#, Malformed::NoRecords),
            (r#"{"eventName":"s3:Unheard:Of"}"#, Malformed::UnknownEvent),
            (r#"{"eventName":"ObjectCreated:Put"}"#, Malformed::NoObject),
            (r#"{"s3":{}}"#, Malformed::NoRecords),
        ] {
            assert_eq!(malformed(&outer(odd)), why, "{at} {odd}");
        }
    }
}

#[test]
fn wrappers_are_bounded_and_metadata_in_any_bytes_stays_harmless() {
    let mut wrapped = line(CEPH, 0).to_owned();
    for _ in 0..MAX_WRAPPERS {
        wrapped = sns(&wrapped);
    }
    assert_eq!(object(&wrapped), object(line(CEPH, 0)));
    assert_eq!(malformed(&sns(&wrapped)), Malformed::TooManyWrappers);

    let body = sns(&message(&[record("ObjectCreated:Put")])).into_bytes();
    let put = |at: usize, bytes: &[u8]| [&body[..at], bytes, &body[at..]].concat();
    let in_metadata = put(1, b"\"Subject\":\"\xe9\",");
    assert!(matches!(parse(&in_metadata), Ok(Notification::Object(object)) if object.key == "k"));
    let key = body.windows(6).position(|part| part == b"\\\"k\\\"}").unwrap() + 2;
    assert_eq!(parse(&put(key, b"\xff")).unwrap_err(), Malformed::NoObject);
}

#[test]
fn seaweedfs_tells_of_files_and_objects_come_out() {
    let created = line(SEAWEEDFS, 0);
    let Ok(Notification::Object(object)) = parse(created.as_bytes()) else { panic!() };
    assert_eq!((object.bucket.as_str(), object.key.as_str()), ("storagebucket", "in/a+b %20.pdf"));
    assert_eq!((object.size, object.version_id.as_deref()), (Some(280), None));
    again(created, &object);
    for (at, key) in [(1, "in/a.pdf"), (3, "out/b.pdf"), (8, "in/d/")] {
        assert_eq!(super::object(line(SEAWEEDFS, at)).key, key, "{at}");
    }
    for at in [2, 6, 7, 9, 10] {
        assert!(ignored(line(SEAWEEDFS, at)), "{at}");
    }
    assert!(super::object(line(SEAWEEDFS, 5)).uncovered);
    // The filer keeps files of its own beside the buckets.
    for path in ["/buckets/.system/locks/a", "/etc/iam/a", "/buckets/file"] {
        let body =
            format!(r#"{{"key":"{path}","event_type":"create","message":{{"new_entry":{{}}}}}}"#);
        assert!(ignored(&body), "{path}");
    }
}

#[test]
fn seaweedfs_4_48_is_understood() {
    let created = super::object(line(SEAWEEDFS, 11));
    assert_eq!((created.bucket.as_str(), created.key.as_str()), ("bbb", "in/small é+ %20.txt"));
    assert_eq!(created.size, Some(5));
    // A tag; a version that is not the latest any more; a delete marker; a file of the filer's own; a
    // folder's bytes once more.
    for at in [12, 13, 14, 15, 17] {
        assert!(ignored(line(SEAWEEDFS, at)), "{at}");
    }
    assert_eq!(super::object(line(SEAWEEDFS, 16)).key, "folderbytes/");
    let version = line(SEAWEEDFS, 19);
    let id = "6713b964dbb1c7eced4429b304fd669b";
    let object = super::object(version);
    assert_eq!((object.key.as_str(), object.version_id.as_deref()), ("d/k", Some(id)));
    // The file's metadata decides nothing: an uploader can write it too.
    let null = version.replace("NjcxM2I5NjRkYmIxYzdlY2VkNDQyOWIzMDRmZDY2OWI=", "bnVsbA==");
    assert_ne!(null, version);
    assert_eq!(super::object(&null), object);
    // An id that is none is looked at under both names.
    assert!(matches!(parse(null.replace(id, "null").as_bytes()), Ok(Notification::Many(_))));
    // The same content uploaded again.
    assert_eq!(super::object(line(SEAWEEDFS, 18)).key, "large.bin");
    let with_bytes = r#""content":"QQ==","extended":{"Seaweed-X-Amz-Delete-Marker""#;
    let marker = line(SEAWEEDFS, 14);
    let marker = marker.replacen(r#""extended":{"Seaweed-X-Amz-Delete-Marker""#, with_bytes, 1);
    assert!(!ignored(&marker), "bytes behind the mark of a delete marker");
}

#[test]
fn a_version_of_seaweedfs_is_announced_and_its_file_where_there_is_no_such_version() {
    let version = object(line(SEAWEEDFS, 4));
    let id = "0000019a8f3e5c1d7b2e4f6a8c0d1e2f";
    assert_eq!((version.key.as_str(), version.version_id.as_deref()), ("in/a.pdf", Some(id)));
    let file = object(std::str::from_utf8(&as_file(&version).unwrap()).unwrap());
    assert_eq!((file.key, file.version_id), (format!("in/a.pdf.versions/v_{id}"), None));
    assert_eq!((file.size, file.file), (version.size, None));
    // An id that is none: both.
    let odd =
        r#"{"key":"/buckets/b/a.versions/v_1","event_type":"create","message":{"new_entry":{}}}"#;
    let Ok(Notification::Many(parts)) = parse(odd.as_bytes()) else { panic!() };
    let parts = parts.iter().map(|part| object(std::str::from_utf8(part).unwrap()));
    let names: Vec<_> = parts.map(|object| (object.key, object.version_id)).collect();
    let expected = [("a".to_owned(), Some("1".to_owned())), ("a.versions/v_1".to_owned(), None)];
    assert_eq!(names, expected);
    for key in [".versions/v_1", "a.versions/v_", "a.versions/b", "a.versions/v_/1", ".uploads/x"] {
        let body = format!(
            r#"{{"key":"/buckets/b/{key}","event_type":"create","message":{{"new_entry":{{}}}}}}"#
        );
        assert_eq!(object(&body).key, key);
    }
}

#[test]
fn only_an_update_that_surely_changes_no_bytes_is_ignored() {
    let metadata = line(SEAWEEDFS, 2);
    for (from, to) in [
        (r#""name":"a.pdf","chunks":[{"size":280"#, r#""name":"a.pdf","chunks":[{"size":281"#),
        (r#""chunks":[{"size":280"#, r#""chunks":[{"offset":1,"size":280"#),
        (r#""chunks":[{"size":280"#, r#""chunks":[{"cipher_key":"QQ==","size":280"#),
        (r#""chunks":[{"size":280"#, r#""chunks":7,"x":[{"size":280"#),
        (r#""chunks":[{"size":280"#, r#""content":"QQ==","chunks":[{"size":280"#),
        (
            r#""chunks":[{"size":280"#,
            r#""remote_entry":{"remote_e_tag":"e"},"chunks":[{"size":280"#,
        ),
        (r#""file_id":"656,"#, r#""fid":null,"x":"656,"#),
        (r#""old_entry":{"#, r#""old_entry":7,"x":{"#),
    ] {
        let changed = metadata.replacen(from, to, 1);
        assert_ne!(changed, metadata, "{from}");
        assert_eq!(object(&changed).key, "in/a.pdf", "{to}");
    }
    // The old entry may have the id of a chunk as text alone.
    let fid = r#","fid":{"volume_id":656,"file_key":235993927,"cookie":4235931407}"#;
    assert!(ignored(&metadata.replacen(fid, "", 1)));
    for damaged in ["656", "656,", "656,é235931407", "x,0e10fb47fc7b2f0f", "656,fc7b2f0f"] {
        let text = metadata.replacen(fid, "", 1).replacen("656,e10fb47fc7b2f0f", damaged, 1);
        assert_eq!(object(&text).key, "in/a.pdf", "{damaged}");
    }
}

#[test]
fn hostile_events_of_every_dialect_are_refused_without_a_crash() {
    for fixture in [SNS, EVENT_BRIDGE, CLOUD_EVENTS, SEAWEEDFS] {
        for whole in fixture.lines().map(str::as_bytes) {
            for end in (0..whole.len()).step_by(3) {
                assert!(parse(&whole[..end]).is_err(), "cut at {end}");
                let damaged = [&whole[..end], b"7", &whole[end + 1..]].concat();
                drop(parse(&damaged));
            }
        }
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for body in [
        sns(&deep),
        sns(&"x".repeat(10 << 20)),
        cloud_event(&format!(r#""data":{deep}"#)),
        cloud_event(&format!(r#""data_base64":"{}""#, "A".repeat(10 << 20))),
        format!(r#"{{"source":"aws.s3","detail-type":"Object Created","detail":{deep}}}"#),
        r#"{"event_type":"create"}"#.to_owned(),
        r#"{"event_type":"create","message":7}"#.to_owned(),
        r#"{"event_type":"create","key":"/buckets/b/k","message":{}}"#.to_owned(),
        r#"{"event_type":"create","key":7,"message":{"new_entry":{}}}"#.to_owned(),
        r#"{"event_type":"create","key":"/buckets/b/","message":{"new_entry":{}}}"#.to_owned(),
        r#"{"event_type":"create","key":"/buckets//k","message":{"new_entry":{}}}"#.to_owned(),
    ] {
        assert!(parse(body.as_bytes()).is_err(), "{}", &body[..body.len().min(90)]);
    }
    // The path is right, and so is the announcement.
    let entry =
        format!(r#"{{"key":"/buckets/b/k","event_type":"","message":{{"new_entry":{deep}}}}}"#);
    assert_eq!(object(&entry).key, "k");
}
