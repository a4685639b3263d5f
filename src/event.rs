//! Parses a notification into the objects it announces. Pure.
//!
//! Reads the notifications of MinIO and its forks, of Ceph, of AWS S3 and of SeaweedFS, also wrapped
//! by SNS, EventBridge or CloudEvents. A message that cannot be read is an error, never an empty
//! result: it goes to the dead-letter queue.

mod envelope;
mod key;
mod marker;
mod meaning;
mod rewrite;
mod seaweed;
mod swept;

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use uuid::Uuid;

pub(crate) use self::marker::marker;
use self::meaning::{Meaning, meaning};
pub(crate) use self::rewrite::{as_file, exact};
pub(crate) use self::swept::{Swept, parse_swept, swept};

/// Records of one message. Stores send one, and AWS documents no limit; this one keeps a hostile
/// message from becoming millions.
const MAX_RECORDS: usize = 10_000;
/// Wrappers around one notification, such as SNS in a CloudEvent.
const MAX_WRAPPERS: usize = 3;
/// Longest key, in bytes. S3 allows 1024. Encoded, a key must fit into a URL of at most 64 KiB, or
/// it cannot be requested.
const MAX_KEY: usize = 16 * 1024;
/// Longest version id, in bytes; the limit of S3.
const MAX_VERSION: usize = 1024;

/// One object that a notification announces. Bucket, key and version id name it; the other fields
/// describe it at the time of the event and may be out of date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectRef {
    /// The bucket, never empty.
    pub(crate) bucket: String,
    /// The key, never empty.
    pub(crate) key: String,
    /// The version id, if the notification has one; never empty. `null` is the slot of objects that
    /// were written while versioning was off or suspended.
    pub(crate) version_id: Option<String>,
    /// A version or delete marker was removed, so an older version may be current now. What is
    /// announced is whatever the key names now.
    pub(crate) uncovered: bool,
    /// The `ETag`, without quotes and without `W/`.
    pub(crate) etag: Option<String>,
    /// The size in bytes.
    pub(crate) size: Option<u64>,
    /// The store's sequence number of events for the key.
    pub(crate) sequencer: Option<String>,
    /// The time of the event, as the store wrote it.
    pub(crate) event_time: Option<String>,
    /// The key of an object that may be meant where there is no such version: `SeaweedFS` keeps a
    /// version as a file, and a user can upload an object of the same name.
    pub(crate) file: Option<String>,
}

/// One version of an object, from a list of versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    /// The version id; `null` is the slot without versioning.
    pub(crate) id: String,
    /// The `ETag`, without quotes.
    pub(crate) etag: Option<String>,
    /// The size in bytes.
    pub(crate) size: Option<u64>,
}

/// The content of a message.
#[derive(Debug)]
pub(crate) enum Notification {
    /// An object was created.
    Object(Box<ObjectRef>),
    /// An object was created, but its key may be encoded or not.
    Unsettled {
        /// The object with the key as written.
        written: Box<ObjectRef>,
        /// The decoded key.
        decoded: String,
    },
    /// Several records: a body with one record for each.
    Many(Vec<Vec<u8>>),
    /// A message of our own, which shows that everything queued before it was taken.
    Marker(Uuid),
    /// Nothing to scan.
    Ignored,
}

/// Why a message cannot be read. `Display` contains nothing of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("not JSON, or not the JSON of a notification")]
    NotANotification,
    #[error("JSON without Records")]
    NoRecords,
    #[error("more than {MAX_RECORDS} records in one message")]
    TooManyRecords,
    #[error("more than {MAX_WRAPPERS} wrappers around a notification")]
    TooManyWrappers,
    #[error("a record without eventName, or with one of the wrong type")]
    NoEventName,
    #[error("an event of an unknown kind")]
    UnknownEvent,
    #[error("an invalid bucket name")]
    NoBucket,
    #[error("a key or version id longer than any store allows")]
    TooLong,
    #[error("a created event without bucket and key, or with one of them of the wrong type")]
    NoObject,
    #[error("not what a sweep announces")]
    NotSwept,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "Records", borrow, default, deserialize_with = "present")]
    #[expect(clippy::option_option, reason = "absent and null differ")]
    records: Option<Option<Vec<&'a RawValue>>>,
    /// MinIO: bucket and unencoded key of the only record.
    #[serde(rename = "Key", default, deserialize_with = "lenient")]
    key: Option<String>,
    /// A record without a list around it, as wrappers may carry one.
    #[serde(rename = "eventName", default, deserialize_with = "lenient")]
    name: Option<String>,
    /// AWS sends `s3:TestEvent` once when notifications are set up.
    #[serde(rename = "Event", default, deserialize_with = "lenient")]
    event: Option<String>,
}

/// The wrapper that RustFS puts around each record over AMQP.
/// Source: `crates/targets/src/target/amqp.rs` of rustfs/rustfs, August 2026.
#[derive(Deserialize)]
struct Wrapped<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
    #[expect(dead_code, reason = "distinguishes the wrapper from a record with a field `data`")]
    event_name: &'a RawValue,
}

#[derive(Deserialize)]
struct Named {
    #[serde(rename = "eventName")]
    name: String,
}

#[derive(Deserialize)]
struct Record {
    #[serde(rename = "eventSource", default, deserialize_with = "lenient")]
    source: Option<String>,
    #[serde(rename = "eventTime", default, deserialize_with = "lenient")]
    time: Option<String>,
    s3: Entity,
}

#[derive(Deserialize)]
struct Entity {
    bucket: Bucket,
    object: Object,
}

#[derive(Deserialize)]
struct Bucket {
    name: String,
}

#[derive(Deserialize)]
struct Object {
    key: String,
    #[serde(default, deserialize_with = "lenient")]
    size: Option<u64>,
    #[serde(rename = "eTag", default, deserialize_with = "lenient")]
    etag: Option<String>,
    #[serde(rename = "versionId", default)]
    version_id: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    sequencer: Option<String>,
}

/// The records of one message.
struct Message<'a> {
    records: Vec<&'a RawValue>,
    /// MinIO's `Key`.
    raw_path: Option<String>,
    /// Stands for bytes that are not UTF-8.
    stand_in: Option<char>,
}

/// Reads the body of one message.
///
/// # Errors
/// [`Malformed`] for everything but notifications and messages known to announce nothing.
pub(crate) fn parse(body: &[u8]) -> Result<Notification, Malformed> {
    read(body, announced).or_else(|malformed| match marker::read(body) {
        Some(id) => Ok(Notification::Marker(id)),
        None => Err(malformed),
    })
}

/// Reads the records of a message, out of what they are wrapped into.
fn read<T>(
    body: &[u8],
    then: impl FnOnce(Message<'_>) -> Result<T, Malformed>,
) -> Result<T, Malformed> {
    let mut body = Cow::Borrowed(body);
    let mut outer = None;
    for _ in 0..=MAX_WRAPPERS {
        let inner = {
            let (text, stand_in) = text(&body);
            outer = stand_in.or(outer);
            if let Some((records, raw_path)) = records(&text)? {
                return then(Message { records, raw_path, stand_in: outer });
            }
            envelope::open(&text)?
        };
        body = Cow::Owned(inner);
    }
    Err(Malformed::TooManyWrappers)
}

fn announced(message: Message<'_>) -> Result<Notification, Malformed> {
    let Message { records, raw_path, stand_in } = message;
    match records.as_slice() {
        [] => Ok(Notification::Ignored),
        [record] => {
            let notification = single(unwrapped(record), raw_path.as_deref())?;
            match &notification {
                // Metadata may contain any bytes, but a key with these is not the object's key.
                Notification::Object(object) | Notification::Unsettled { written: object, .. }
                    if stand_in.is_some_and(|stand_in| object.key.contains(stand_in)) =>
                {
                    Err(Malformed::NoObject)
                }
                _ => Ok(notification),
            }
        }
        many if many.len() > MAX_RECORDS => Err(Malformed::TooManyRecords),
        _ if stand_in.is_some() => Err(Malformed::NotANotification),
        many => Ok(Notification::Many(many.iter().map(|record| wrap(record)).collect())),
    }
}

/// Keeps an explicit `null` apart from an absent field.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<T>, D::Error> {
    T::deserialize(d).map(Some)
}

/// For optional fields: one of another type than expected counts as absent.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned>(d: D) -> Result<Option<T>, D::Error> {
    let raw = <Box<RawValue>>::deserialize(d)?;
    Ok(serde_json::from_str(raw.get()).ok())
}

/// The body as text, without a byte-order mark. Some stores copy the metadata of an upload into the
/// notification as the bytes that were sent, which may not be UTF-8; the rest must stay readable.
/// Such bytes are replaced by a character that occurs nowhere else in the text, returned beside it.
fn text(body: &[u8]) -> (Cow<'_, str>, Option<char>) {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    match String::from_utf8_lossy(body) {
        Cow::Borrowed(text) => (Cow::Borrowed(text), None),
        Cow::Owned(lossy) => {
            // A private-use character; key and metadata of one upload cannot contain all 6400.
            let unused = ('\u{e000}'..='\u{f8ff}').find(|c| !lossy.contains(*c));
            let stand_in = unused.unwrap_or(char::REPLACEMENT_CHARACTER);
            let mut text = String::with_capacity(lossy.len());
            for chunk in body.utf8_chunks() {
                text.push_str(chunk.valid());
                if !chunk.invalid().is_empty() {
                    text.push(stand_in);
                }
            }
            (Cow::Owned(text), Some(stand_in))
        }
    }
}

/// The records of a message, and MinIO's `Key` (bucket and unencoded key). `None` for a message of
/// another kind.
#[expect(clippy::type_complexity, reason = "two parts of a message")]
fn records(text: &str) -> Result<Option<(Vec<&RawValue>, Option<String>)>, Malformed> {
    // VersityGW sends the bare list.
    if text.trim_start().starts_with('[') {
        let records: Vec<&RawValue> =
            serde_json::from_str(text).map_err(|_| Malformed::NotANotification)?;
        let absent = records.is_empty();
        return if absent { Err(Malformed::NoRecords) } else { Ok(Some((records, None))) };
    }
    let envelope: Envelope<'_> =
        serde_json::from_str(text).map_err(|_| Malformed::NotANotification)?;
    Ok(match envelope.records {
        Some(records) => Some((records.unwrap_or_default(), envelope.key)),
        None if envelope.event.as_deref() == Some("s3:TestEvent") => Some((Vec::new(), None)),
        None if envelope.name.is_some() => {
            let record = serde_json::from_str(text).map_err(|_| Malformed::NotANotification)?;
            Some((vec![record], None))
        }
        None => None,
    })
}

/// The record inside RustFS' wrapper, or the record itself.
fn unwrapped(record: &RawValue) -> &RawValue {
    serde_json::from_str(record.get()).map_or(record, |wrapped: Wrapped<'_>| wrapped.data)
}

/// A message with this record alone. Each record becomes a message of its own, so that it is
/// retried and parked without the others.
fn wrap(record: &RawValue) -> Vec<u8> {
    [b"{\"Records\":[", record.get().as_bytes(), b"]}"].concat()
}

fn single(record: &RawValue, raw_path: Option<&str>) -> Result<Notification, Malformed> {
    let Named { name } = serde_json::from_str(record.get()).map_err(|_| Malformed::NoEventName)?;
    let meaning = meaning(&name)?;
    if meaning == Meaning::Nothing {
        return Ok(Notification::Ignored);
    }
    let Record { source, time, s3 } = match serde_json::from_str(record.get()) {
        Ok(record) => record,
        // A removal that cannot be read is no upload that waits for its scan.
        Err(_) if meaning == Meaning::Removal => return Ok(Notification::Ignored),
        Err(_) => return Err(Malformed::NoObject),
    };
    let (bucket, object) = (s3.bucket.name, s3.object);
    let non_empty = |text: Option<String>| text.filter(|text| !text.is_empty());
    let version_id = non_empty(object.version_id);
    // Without a version, the removal adds a delete marker or removes the only version. So no older
    // version becomes readable.
    let uncovered = meaning == Meaning::Removal;
    if uncovered && version_id.is_none() {
        return Ok(Notification::Ignored);
    }
    if bucket.is_empty() || object.key.is_empty() {
        return Err(Malformed::NoObject);
    }
    if !is_bucket_name(&bucket) {
        return Err(Malformed::NoBucket);
    }
    let (key, decoded) = key::spellings(&bucket, &object.key, raw_path, source.as_deref());
    let version_is_long = version_id.as_ref().is_some_and(|id| id.len() > MAX_VERSION);
    if version_is_long || key.len() > MAX_KEY {
        return Err(Malformed::TooLong);
    }
    // After a removal these fields describe what was removed, not what is current.
    let current = |text: Option<String>| text.filter(|_| !uncovered);
    let is_file = source.as_deref() == Some(key::FILER) && !uncovered;
    let file = version_id.as_ref().filter(|_| is_file).map(|id| seaweed::file_of(&key, id));
    let written = Box::new(ObjectRef {
        bucket,
        key,
        file,
        version_id: current(version_id),
        uncovered,
        etag: current(non_empty(object.etag.map(|etag| plain_etag(&etag).to_owned()))),
        size: object.size.filter(|_| !uncovered),
        sequencer: non_empty(object.sequencer),
        event_time: non_empty(time),
    });
    Ok(match decoded {
        Some(decoded) => Notification::Unsettled { written, decoded },
        None => Notification::Object(written),
    })
}

/// An `ETag` without quotes and without `W/`. Weak and strong ones of the same value name the same
/// object, since a proxy may turn one into the other. Source: RFC 9110, 8.8.3.
pub(crate) fn plain_etag(etag: &str) -> &str {
    let etag = etag.trim();
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}

/// Whether a store may have a bucket of this name. Other names, such as an ARN, have another
/// meaning for an S3 client.
fn is_bucket_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.len() <= 255 && name.chars().all(allowed) && name.chars().any(|c| c != '.')
}

#[cfg(test)]
mod tests;
