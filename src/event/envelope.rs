//! Takes a notification out of what carries it: SNS, EventBridge, CloudEvents.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Malformed, Named, key, lenient, seaweed, wrap};

/// A message that announces nothing.
pub(super) const NOTHING: &[u8] = br#"{"Records":[]}"#;

/// The field by which each kind of message is told from the others.
#[derive(Deserialize)]
struct Marks<'a> {
    #[serde(rename = "Type", borrow, default)]
    sns: Option<&'a RawValue>,
    #[serde(rename = "specversion", borrow, default)]
    cloud_event: Option<&'a RawValue>,
    #[serde(rename = "detail-type", borrow, default)]
    event_bridge: Option<&'a RawValue>,
    #[serde(rename = "event_type", borrow, default)]
    filer: Option<&'a RawValue>,
}

/// Source: "HTTP/HTTPS notification JSON format" in the documentation of Amazon SNS.
#[derive(Deserialize)]
struct Sns {
    #[serde(rename = "Type")]
    kind: SnsKind,
    #[serde(rename = "Message", default, deserialize_with = "lenient")]
    message: Option<String>,
}

#[derive(Deserialize)]
enum SnsKind {
    Notification,
    SubscriptionConfirmation,
    UnsubscribeConfirmation,
}

/// Source: the JSON format of CloudEvents 1.0, and its adapter for AWS S3, whose `data` is one
/// record.
#[derive(Deserialize)]
struct CloudEvent<'a> {
    #[expect(dead_code, reason = "no other version is understood")]
    specversion: SpecVersion,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    data_base64: Option<String>,
}

#[derive(Deserialize)]
enum SpecVersion {
    #[serde(rename = "1.0")]
    One,
}

/// Source: "EventBridge event message structure" in the documentation of Amazon S3.
#[derive(Deserialize)]
struct EventBridge<'a> {
    #[expect(dead_code, reason = "events of other services are not understood")]
    source: EventBridgeSource,
    #[serde(rename = "detail-type")]
    kind: EventBridgeKind,
    #[serde(borrow, default)]
    time: Option<&'a RawValue>,
    #[serde(borrow, default)]
    detail: Option<&'a RawValue>,
}

#[derive(Deserialize)]
enum EventBridgeSource {
    #[serde(rename = "aws.s3")]
    S3,
}

#[derive(Deserialize)]
enum EventBridgeKind {
    #[serde(rename = "Object Created")]
    Created,
    #[serde(rename = "Object Restore Completed")]
    Restored,
    #[serde(rename = "Object Deleted")]
    Deleted,
    /// No new bytes.
    #[serde(
        rename = "Object Restore Initiated",
        alias = "Object Restore Expired",
        alias = "Object Tags Added",
        alias = "Object Tags Deleted",
        alias = "Object ACL Updated",
        alias = "Object Storage Class Changed",
        alias = "Object Access Tier Changed"
    )]
    Other,
}

#[derive(Deserialize)]
struct Detail<'a> {
    #[serde(borrow)]
    bucket: &'a RawValue,
    #[serde(borrow)]
    object: Object<'a>,
    #[serde(rename = "deletion-type", default, deserialize_with = "lenient")]
    deletion: Option<Deletion>,
}

#[derive(Deserialize)]
enum Deletion {
    #[serde(rename = "Delete Marker Created")]
    MarkerCreated,
    #[serde(other)]
    Removal,
}

/// Read by the names of EventBridge, written by those of a record. The values stay as they are.
#[derive(Deserialize, Serialize)]
struct Object<'a> {
    #[serde(borrow, default)]
    key: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    size: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[serde(rename(serialize = "eTag", deserialize = "etag"))]
    etag: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[serde(rename(serialize = "versionId", deserialize = "version-id"))]
    version_id: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    sequencer: Option<&'a RawValue>,
}

/// A record as `single` reads it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    event_name: &'static str,
    event_source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_time: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    s3: Option<Entity<'a>>,
}

#[derive(Serialize)]
struct Entity<'a> {
    bucket: &'a RawValue,
    object: Object<'a>,
}

/// The message inside another one, as the sender of the inner one wrote it or as a list of records.
///
/// # Errors
/// [`Malformed`] for a message of an unknown kind, or without one inside.
pub(super) fn open(text: &str) -> Result<Vec<u8>, Malformed> {
    let marks: Marks<'_> = serde_json::from_str(text).map_err(|_| Malformed::NotANotification)?;
    match marks {
        Marks { sns: Some(_), .. } => sns(text),
        Marks { cloud_event: Some(_), .. } => cloud_event(text),
        Marks { event_bridge: Some(_), .. } => event_bridge(text),
        Marks { filer: Some(_), .. } => seaweed::open(text),
        _ => Err(Malformed::NoRecords),
    }
}

fn sns(text: &str) -> Result<Vec<u8>, Malformed> {
    let Sns { kind, message } =
        serde_json::from_str(text).map_err(|_| Malformed::NotANotification)?;
    match kind {
        SnsKind::Notification => message.map(String::into_bytes).ok_or(Malformed::NotANotification),
        SnsKind::SubscriptionConfirmation | SnsKind::UnsubscribeConfirmation => {
            Ok(NOTHING.to_vec())
        }
    }
}

fn cloud_event(text: &str) -> Result<Vec<u8>, Malformed> {
    let event: CloudEvent<'_> =
        serde_json::from_str(text).map_err(|_| Malformed::NotANotification)?;
    match event {
        CloudEvent { data: Some(data), .. } => {
            let json = serde_json::from_str(data.get()).map(String::into_bytes);
            Ok(json.unwrap_or_else(|_| data.get().as_bytes().to_vec()))
        }
        CloudEvent { data_base64: Some(data), .. } => {
            BASE64.decode(data).map_err(|_| Malformed::NotANotification)
        }
        CloudEvent { .. } => Err(Malformed::NoRecords),
    }
}

fn event_bridge(text: &str) -> Result<Vec<u8>, Malformed> {
    let EventBridge { kind, time, detail, .. } =
        serde_json::from_str(text).map_err(|_| Malformed::UnknownEvent)?;
    // Some bridges put a record there, which says by itself what happened.
    let is_record = |detail: &&RawValue| serde_json::from_str::<Named>(detail.get()).is_ok();
    if let Some(record) = detail.filter(is_record) {
        return Ok(wrap(record));
    }
    let detail = detail.and_then(|detail| serde_json::from_str::<Detail<'_>>(detail.get()).ok());
    let deletion = detail.as_ref().and_then(|detail| detail.deletion.as_ref());
    let event_name = match (kind, deletion) {
        (EventBridgeKind::Created, _) => "ObjectCreated",
        (EventBridgeKind::Restored, _) => "ObjectRestore:Completed",
        (EventBridgeKind::Deleted, Some(Deletion::MarkerCreated)) => {
            "ObjectRemoved:DeleteMarkerCreated"
        }
        (EventBridgeKind::Deleted, Some(Deletion::Removal) | None) => "ObjectRemoved:Delete",
        (EventBridgeKind::Other, _) => return Ok(NOTHING.to_vec()),
    };
    let s3 = detail.map(|Detail { bucket, object, .. }| Entity { bucket, object });
    let event_source = key::EVENT_BRIDGE;
    let record = Record { event_name, event_source, event_time: time, s3 };
    let record = serde_json::value::to_raw_value(&record);
    record.map(|record| wrap(&record)).map_err(|_| Malformed::NotANotification)
}
