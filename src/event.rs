//! Parses a notification into the objects it announces. Pure.
//!
//! Understands the bodies of MinIO and its relatives, of Ceph and of AWS S3. What cannot be understood
//! is an error, never an empty answer: it ends in the dead-letter queue, where people can look at it.

mod key;

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// One object that a notification announces. Only bucket, key and version are acted upon; the rest
/// describes what was there when the store spoke and may be out of date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectRef {
    /// The bucket.
    pub(crate) bucket: String,
    /// The key, never empty.
    pub(crate) key: String,
    /// The version, where the notification names one; `null` is the slot of objects that were written
    /// while versioning was off or suspended. Never empty.
    pub(crate) version_id: Option<String>,
    /// What is announced is whatever the name stands for now: something that covered it was removed.
    pub(crate) uncovered: bool,
    /// The `ETag`, without quotes and without the mark of a weak one.
    pub(crate) etag: Option<String>,
    /// Bytes.
    pub(crate) size: Option<u64>,
    /// The store's own order of events for the key.
    pub(crate) sequencer: Option<String>,
    /// When it happened, as the store wrote it.
    pub(crate) event_time: Option<String>,
}

/// What a message says.
#[derive(Debug)]
pub(crate) enum Notification {
    /// An object was created.
    Object(Box<ObjectRef>),
    /// The same, but its key may be meant as it is written, or decoded: the store has to tell.
    Unsettled {
        /// With the key as it is written.
        written: Box<ObjectRef>,
        /// The key when it is decoded.
        decoded: String,
    },
    /// Several records: the bodies of messages with one record each.
    Many(Vec<Vec<u8>>),
    /// Nothing that concerns a scanner.
    Ignored,
}

/// Why a message cannot be read. `Display` quotes nothing of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("not JSON, or not the JSON of a notification")]
    NotANotification,
    #[error("JSON without Records")]
    NoRecords,
    #[error("more than {MAX_RECORDS} records in one message")]
    TooManyRecords,
    #[error("a record without eventName, or with one of the wrong type")]
    NoEventName,
    #[error("an event of an unknown kind")]
    UnknownEvent,
    #[error("a bucket name that no store has")]
    NoBucket,
    #[error("a key or version id longer than any store has")]
    TooLong,
    #[error("a created event without bucket and key, or with one of them of the wrong type")]
    NoObject,
}

/// Stores put one record into a message, AWS documents no bound. This one keeps a hostile message
/// from becoming millions.
const MAX_RECORDS: usize = 10_000;
/// Bytes of a key. S3 ends at 1024; what makes a URL of more than 64 KiB cannot be asked for at all.
const MAX_KEY: usize = 16 * 1024;
/// Bytes of a version id; S3 ends there.
const MAX_VERSION: usize = 1024;

/// What an event means for a scanner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// Bytes that nobody has looked at can be read.
    Creation,
    /// Something was removed; what lies below it may be readable now.
    Removal,
    Nothing,
}

/// Families of events that bring nothing new to scan.
/// Sources: the documentation of AWS S3 and Ceph, the sources of `MinIO` and `RustFS`.
const OTHER_FAMILIES: &[&str] = &[
    "ObjectAccessed",
    "ObjectTagging",
    "ObjectAcl",
    "ObjectAnnotation",
    "ObjectRestore",
    "ObjectTransition",
    "ObjectReplication",
    "ObjectSynced",
    "ObjectLock",
    "LifecycleTransition",
    "IntelligentTiering",
    "Replication",
    "ReducedRedundancyLostObject",
    "Scanner",
    "BucketCreated",
    "BucketRemoved",
];

/// Families of events that tell of a removal.
const REMOVALS: &[&str] =
    &["ObjectRemoved", "LifecycleExpiration", "LifecycleDelMarkerExpiration", "ObjectLifecycle"];

/// Changes of metadata that MinIO files under `ObjectCreated`. Our own tagging raises the first.
const METADATA_CHANGES: &[&str] =
    &["PutTagging", "DeleteTagging", "PutRetention", "PutLegalHold", "ACL"];

/// Bytes that arrived in other ways than by an upload: by replication between sites (Ceph), out of
/// an archive (AWS).
const OTHER_CREATIONS: &[&str] =
    &["ObjectSynced:Create", "Replication:Create", "ObjectRestore:Completed"];

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "Records", borrow, default, deserialize_with = "present")]
    #[expect(clippy::option_option, reason = "absent and null differ")]
    records: Option<Option<Vec<&'a RawValue>>>,
    /// MinIO: bucket and raw key of the only record.
    #[serde(rename = "Key", default, deserialize_with = "lenient")]
    key: Option<String>,
    /// AWS sends this once when notifications are set up.
    #[serde(rename = "Event", default, deserialize_with = "lenient")]
    event: Option<String>,
}

/// Tells an explicit `null` from an absent field.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<T>, D::Error> {
    T::deserialize(d).map(Some)
}

/// A field that only describes: of another type than expected, it counts as absent.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned>(d: D) -> Result<Option<T>, D::Error> {
    let raw = <Box<RawValue>>::deserialize(d)?;
    Ok(serde_json::from_str(raw.get()).ok())
}

/// RustFS wraps each record when it sends over AMQP.
/// Source: `crates/targets/src/target/amqp.rs` of rustfs/rustfs, August 2026.
#[derive(Deserialize)]
struct Wrapped<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
    #[expect(dead_code, reason = "tells the wrapping from a record that has a field `data`")]
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

/// Reads the body of one message.
///
/// # Errors
/// [`Malformed`] for everything that is neither a notification nor known to be harmless.
pub(crate) fn parse(body: &[u8]) -> Result<Notification, Malformed> {
    let (text, stand_in) = text(body);
    let (records, raw_path) = records(&text)?;
    match records.as_slice() {
        [] => Ok(Notification::Ignored),
        [record] => {
            let notification = single(unwrapped(record), raw_path.as_deref())?;
            match &notification {
                // Other metadata may be in any bytes, but this name is no object's.
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

/// The body without a byte-order mark. Stores copy metadata of uploads into their notifications, some
/// in whatever bytes it was sent: they must not keep the rest from being read. Where there are such
/// bytes, also the character that stands in for them, which is nowhere else in the text.
fn text(body: &[u8]) -> (Cow<'_, str>, Option<char>) {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    match String::from_utf8_lossy(body) {
        Cow::Borrowed(text) => (Cow::Borrowed(text), None),
        Cow::Owned(lossy) => {
            // Private use; one upload cannot hold all of them.
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

/// The records of a message, and MinIO's bucket and raw key.
fn records(text: &str) -> Result<(Vec<&RawValue>, Option<String>), Malformed> {
    // VersityGW sends the bare list.
    if text.trim_start().starts_with('[') {
        let records: Vec<&RawValue> =
            serde_json::from_str(text).map_err(|_| Malformed::NotANotification)?;
        return if records.is_empty() { Err(Malformed::NoRecords) } else { Ok((records, None)) };
    }
    let envelope: Envelope<'_> =
        serde_json::from_str(text).map_err(|_| Malformed::NotANotification)?;
    match envelope.records {
        Some(records) => Ok((records.unwrap_or_default(), envelope.key)),
        None if envelope.event.as_deref() == Some("s3:TestEvent") => Ok((Vec::new(), None)),
        None => Err(Malformed::NoRecords),
    }
}

fn unwrapped(record: &RawValue) -> &RawValue {
    serde_json::from_str(record.get()).map_or(record, |wrapped: Wrapped<'_>| wrapped.data)
}

/// A record is judged only when it is alone in its message, so that each one can be retried or
/// parked without the others.
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
        // Nobody waits for what a removal may have uncovered.
        Err(_) if meaning == Meaning::Removal => return Ok(Notification::Ignored),
        Err(_) => return Err(Malformed::NoObject),
    };
    let (bucket, object) = (s3.bucket.name, s3.object);
    let told = |text: Option<String>| text.filter(|text| !text.is_empty());
    let version_id = told(object.version_id);
    // Without a version the removal covers what lies below, if anything does.
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
    // What was removed is not what is there now.
    let about = |told: Option<String>| told.filter(|_| !uncovered);
    let written = Box::new(ObjectRef {
        bucket,
        key,
        version_id: about(version_id),
        uncovered,
        etag: about(told(object.etag.map(|etag| plain_etag(&etag).to_owned()))),
        size: object.size.filter(|_| !uncovered),
        sequencer: told(object.sequencer),
        event_time: told(time),
    });
    Ok(match decoded {
        Some(decoded) => Notification::Unsettled { written, decoded },
        None => Notification::Object(written),
    })
}

/// The value of an `ETag`: weak and strong ones of the same value name the same object, and a proxy may
/// turn one into the other. RFC 9110, 8.8.3.
pub(crate) fn plain_etag(etag: &str) -> &str {
    let etag = etag.trim();
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}

/// What any store has ever allowed. Anything else (an ARN, say) would mean something else to an S3
/// client.
fn is_bucket_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.len() <= 255 && name.chars().all(allowed) && name.chars().any(|c| c != '.')
}

fn meaning(name: &str) -> Result<Meaning, Malformed> {
    let name = name.strip_prefix("s3:").unwrap_or(name);
    let (family, kind) = name.split_once(':').unwrap_or((name, ""));
    match family {
        _ if OTHER_CREATIONS.contains(&name) => Ok(Meaning::Creation),
        "ObjectCreated" if METADATA_CHANGES.contains(&kind) => Ok(Meaning::Nothing),
        "ObjectCreated" => Ok(Meaning::Creation),
        // A marker was put on top, and hides.
        _ if REMOVALS.contains(&family) && kind.ends_with("MarkerCreated") => Ok(Meaning::Nothing),
        _ if REMOVALS.contains(&family) => Ok(Meaning::Removal),
        _ if OTHER_FAMILIES.contains(&family) => Ok(Meaning::Nothing),
        _ => Err(Malformed::UnknownEvent),
    }
}

/// The notification in `body`, which announces `object`, about exactly one object: its key settled, and
/// the version named if there is one. What else it says stays.
pub(crate) fn exact(body: &[u8], object: &ObjectRef, version: Option<&Version>) -> Vec<u8> {
    let mut record = template(body).unwrap_or_else(|| {
        let name = if object.uncovered { "ObjectRemoved:Delete" } else { "ObjectCreated:Put" };
        json!({ "eventName": name, "eventTime": object.event_time, "s3": {
            "bucket": { "name": object.bucket },
            "object": {
                "versionId": object.version_id.clone().or(object.uncovered.then(|| "null".to_owned())),
                "eTag": object.etag, "size": object.size, "sequencer": object.sequencer,
            },
        } })
    });
    record["s3"]["object"]["key"] = object.key.as_str().into();
    if let Some(Version { id, etag, size }) = version {
        record["eventName"] = "ObjectCreated:Version".into();
        record["s3"]["object"]["versionId"] = id.as_str().into();
        record["s3"]["object"]["eTag"] = etag.clone().into();
        record["s3"]["object"]["size"] = (*size).into();
    }
    let path = format!("{}/{}", object.bucket, object.key);
    json!({ "Key": path, "Records": [record] }).to_string().into_bytes()
}

/// The only record of a message, where it can be changed without changing what else is in it.
fn template(body: &[u8]) -> Option<Value> {
    let (text, _) = text(body);
    let (records, _) = records(&text).ok()?;
    let [record] = records.as_slice() else { return None };
    let record: Value = serde_json::from_str(unwrapped(record).get()).ok()?;
    record.pointer("/s3/object")?.is_object().then_some(record)
}

/// A version of an object, as a list of versions tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    /// Its id; `null` is a slot.
    pub(crate) id: String,
    /// Without quotes.
    pub(crate) etag: Option<String>,
    /// Bytes.
    pub(crate) size: Option<u64>,
}

#[cfg(test)]
mod tests;
