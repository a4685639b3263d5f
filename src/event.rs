//! Parses a notification into the objects it announces. Pure.
//!
//! Understands the bodies of MinIO and its relatives and of AWS S3. What cannot be understood is
//! an error, never an empty answer: it ends in the dead-letter queue, where people can look at it.

mod key;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// One object that a notification announces. Only bucket, key and version are acted upon; the rest
/// describes what was there when the store spoke and may be out of date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectRef {
    /// The bucket.
    pub(crate) bucket: String,
    /// The key; more than one spelling where the notification leaves open whether it was encoded.
    /// Never empty, the likeliest first.
    pub(crate) keys: Vec<String>,
    /// The version, where the bucket has versions. Never empty and never `null`.
    pub(crate) version_id: Option<String>,
    /// The `ETag` without quotes.
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
    #[error("a JSON object without Records")]
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
    #[error("a created event without bucket and key, or with fields of the wrong type")]
    NoObject,
}

/// Stores put one record into a message, AWS documents no bound. This one keeps a hostile message
/// from becoming millions.
const MAX_RECORDS: usize = 10_000;
/// Bytes of a key. S3 ends at 1024; what makes a URL of more than 64 KiB cannot be asked for at all.
const MAX_KEY: usize = 16 * 1024;
/// Bytes of a version id; S3 ends there.
const MAX_VERSION: usize = 1024;

/// Families of events that do not create an object.
const OTHER_FAMILIES: &[&str] = &[
    "ObjectRemoved",
    "ObjectAccessed",
    "ObjectTagging",
    "ObjectAcl",
    "ObjectRestore",
    "ObjectTransition",
    "ObjectLock",
    "LifecycleExpiration",
    "LifecycleTransition",
    "IntelligentTiering",
    "Replication",
    "ReducedRedundancyLostObject",
    "Scanner",
    "BucketCreated",
    "BucketRemoved",
];

/// Changes of metadata that MinIO files under `ObjectCreated`. Our own tagging raises the first.
const METADATA_CHANGES: &[&str] =
    &["PutTagging", "DeleteTagging", "PutRetention", "PutLegalHold", "ACL"];

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "Records", borrow, default, deserialize_with = "present")]
    #[expect(clippy::option_option, reason = "absent and null differ")]
    records: Option<Option<Vec<&'a RawValue>>>,
    /// MinIO: bucket and raw key of the only record.
    #[serde(rename = "Key", default)]
    key: Option<String>,
    /// AWS sends this once when notifications are set up.
    #[serde(rename = "Event", default)]
    event: Option<String>,
}

/// Tells an explicit `null` from an absent field.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<T>, D::Error> {
    T::deserialize(d).map(Some)
}

#[derive(Deserialize)]
struct Named {
    #[serde(rename = "eventName")]
    name: String,
}

#[derive(Deserialize)]
struct Record {
    #[serde(rename = "eventTime", default)]
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
    #[serde(default)]
    size: Option<serde_json::Number>,
    #[serde(rename = "eTag", default)]
    etag: Option<String>,
    #[serde(rename = "versionId", default)]
    version_id: Option<String>,
    #[serde(default)]
    sequencer: Option<String>,
}

/// Reads the body of one message.
///
/// # Errors
/// [`Malformed`] for everything that is neither a notification nor known to be harmless.
pub(crate) fn parse(body: &[u8]) -> Result<Notification, Malformed> {
    let envelope: Envelope<'_> =
        serde_json::from_slice(body).map_err(|_| Malformed::NotANotification)?;
    let records = match envelope.records {
        Some(records) => records.unwrap_or_default(),
        None if envelope.event.as_deref() == Some("s3:TestEvent") => Vec::new(),
        None => return Err(Malformed::NoRecords),
    };
    match records.as_slice() {
        [] => Ok(Notification::Ignored),
        [record] => single(record, envelope.key.as_deref()),
        many if many.len() > MAX_RECORDS => Err(Malformed::TooManyRecords),
        many => Ok(Notification::Many(many.iter().map(|record| wrap(record)).collect())),
    }
}

/// A record is judged only when it is alone in its message, so that each one can be retried or
/// parked without the others.
fn wrap(record: &RawValue) -> Vec<u8> {
    [b"{\"Records\":[", record.get().as_bytes(), b"]}"].concat()
}

fn single(record: &RawValue, raw_path: Option<&str>) -> Result<Notification, Malformed> {
    let Named { name } = serde_json::from_str(record.get()).map_err(|_| Malformed::NoEventName)?;
    if !is_creation(&name)? {
        return Ok(Notification::Ignored);
    }
    let Record { time, s3 } =
        serde_json::from_str(record.get()).map_err(|_| Malformed::NoObject)?;
    let (bucket, object) = (s3.bucket.name, s3.object);
    if bucket.is_empty() || object.key.is_empty() {
        return Err(Malformed::NoObject);
    }
    if !is_bucket_name(&bucket) {
        return Err(Malformed::NoBucket);
    }
    let told = |text: Option<String>| text.filter(|text| !text.is_empty());
    let keys = key::spellings(&bucket, &object.key, raw_path);
    let version_is_long = object.version_id.as_ref().is_some_and(|id| id.len() > MAX_VERSION);
    if version_is_long || keys.iter().any(|key| key.len() > MAX_KEY) {
        return Err(Malformed::TooLong);
    }
    Ok(Notification::Object(Box::new(ObjectRef {
        keys,
        bucket,
        version_id: told(object.version_id).filter(|version| version != "null"),
        etag: told(object.etag.map(|etag| etag.trim_matches('"').to_owned())),
        size: object.size.and_then(|size| size.as_u64()),
        sequencer: told(object.sequencer),
        event_time: told(time),
    })))
}

/// What any store has ever allowed. Anything else (an ARN, say) would mean something else to an S3
/// client.
fn is_bucket_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.len() <= 255 && name.chars().all(allowed)
}

fn is_creation(name: &str) -> Result<bool, Malformed> {
    let name = name.strip_prefix("s3:").unwrap_or(name);
    let (family, kind) = name.split_once(':').unwrap_or((name, ""));
    match family {
        "ObjectCreated" => Ok(!METADATA_CHANGES.contains(&kind)),
        _ if OTHER_FAMILIES.contains(&family) => Ok(false),
        _ => Err(Malformed::UnknownEvent),
    }
}

#[cfg(test)]
mod tests;
