//! Events of the filer of `SeaweedFS`, sent by its webhook. They tell of files, not of objects.
//!
//! Sources: `weed/notification/webhook/http.go` and `types.go`, `weed/filer/filer_notify.go`,
//! `weed/pb/filer_pb/filer.pb.go` and `weed/s3api/s3api_object_versioning.go` of
//! seaweedfs/seaweedfs. The type of an event is not looked at: the filer calls each update a rename.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::envelope::NOTHING;
use super::{Malformed, key, lenient};

/// The folder of all buckets, as the filer has it by default.
const BUCKETS: &str = "/buckets/";
/// Version ID of key K is the file `K.versions/v_ID`.
const VERSIONS_SUFFIX: &str = ".versions";
const VERSION_PREFIX: &str = "/v_";

#[derive(Deserialize)]
struct Event<'a> {
    /// The path before the event.
    #[serde(default, deserialize_with = "lenient")]
    key: Option<String>,
    #[serde(borrow)]
    message: Message<'a>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    old_entry: Option<&'a RawValue>,
    #[serde(borrow, default)]
    new_entry: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "lenient")]
    new_parent_path: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default, deserialize_with = "lenient")]
    name: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    is_directory: Option<bool>,
    #[serde(default, deserialize_with = "lenient")]
    attributes: Option<Attributes>,
}

/// What decides which bytes a file has. Tags and other metadata are not part of it.
#[derive(Deserialize, PartialEq)]
struct Stored {
    #[serde(default)]
    chunks: Vec<Chunk>,
    /// Bytes that are kept beside the name, in base64.
    #[serde(default)]
    content: String,
    #[serde(default)]
    attributes: Attributes,
    /// Bytes that are kept in another store.
    #[serde(default)]
    remote_entry: Option<RemoteEntry>,
}

#[derive(Deserialize, PartialEq, Default)]
struct Attributes {
    #[serde(default)]
    file_size: u64,
}

#[derive(Deserialize, PartialEq)]
struct RemoteEntry {
    #[serde(default)]
    remote_e_tag: String,
    #[serde(default)]
    remote_size: i64,
}

/// A part of a file. A volume never changes the bytes of a file id.
#[derive(Deserialize, PartialEq)]
struct Chunk {
    #[serde(flatten, deserialize_with = "file_id")]
    id: FileId,
    #[serde(default)]
    offset: i64,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    cipher_key: String,
    #[serde(default)]
    is_compressed: bool,
    #[serde(default)]
    is_chunk_manifest: bool,
}

#[derive(Deserialize, PartialEq)]
struct FileId {
    #[serde(default)]
    volume_id: u32,
    #[serde(default)]
    file_key: u64,
    #[serde(default)]
    cookie: u32,
}

/// Whatever the event announces, as a list of records.
///
/// # Errors
/// [`Malformed`] for an event without the path of a file.
pub(super) fn open(text: &str) -> Result<Vec<u8>, Malformed> {
    let Event { key: old_path, message } =
        serde_json::from_str(text).map_err(|_| Malformed::NoObject)?;
    let records = match (message.old_entry, message.new_entry) {
        (None, None) => return Err(Malformed::NoObject),
        (Some(_), None) => removed(&old_path.ok_or(Malformed::NoObject)?),
        (old, Some(new)) => {
            let entry: Entry = serde_json::from_str(new.get()).map_err(|_| Malformed::NoObject)?;
            let mut path = match (message.new_parent_path, &entry.name) {
                (Some(parent), Some(name)) => Some(format!("{parent}/{name}")),
                (Some(_), None) => None,
                (None, _) => old_path.clone(),
            }
            .ok_or(Malformed::NoObject)?;
            let moved = old.is_some() && old_path.as_ref() != Some(&path);
            let stored = stored(new);
            let unchanged = !moved && old.is_some_and(|old| is_same(stored.as_ref(), old));
            if entry.is_directory == Some(true) {
                // A key that ends in `/` may have bytes, which the folder then keeps.
                path.push('/');
                let is_empty = |it: &Stored| it.chunks.is_empty() && it.content.is_empty();
                if stored.as_ref().is_some_and(is_empty) {
                    return Ok(NOTHING.to_vec());
                }
            }
            if unchanged { Vec::new() } else { created(&path, entry.attributes.as_ref()) }
        }
    };
    Ok(json!({ "Records": records }).to_string().into_bytes())
}

fn stored(entry: &RawValue) -> Option<Stored> {
    serde_json::from_str(entry.get()).ok()
}

/// Whether an entry has the bytes of the old one. What cannot be read is like nothing else.
fn is_same(new: Option<&Stored>, old: &RawValue) -> bool {
    new.is_some_and(|new| stored(old).as_ref() == Some(new))
}

/// A file that stands for a version can be an object of that name as well: both are announced.
fn created(path: &str, attributes: Option<&Attributes>) -> Vec<Value> {
    let Some((bucket, key)) = object(path) else { return Vec::new() };
    let size = attributes.map(|attributes| attributes.file_size).filter(|size| *size > 0);
    let versioned =
        version(key).map(|(key, id)| record("ObjectCreated", bucket, key, Some(id), size));
    versioned.into_iter().chain([record("ObjectCreated", bucket, key, None, size)]).collect()
}

/// A version that was removed may uncover another one.
fn removed(path: &str) -> Vec<Value> {
    let versioned = object(path).and_then(|(bucket, key)| Some((bucket, version(key)?)));
    let record = |(bucket, (key, id))| record("ObjectRemoved:Delete", bucket, key, Some(id), None);
    versioned.map(record).into_iter().collect()
}

fn record(name: &str, bucket: &str, key: &str, version: Option<&str>, size: Option<u64>) -> Value {
    json!({ "eventName": name, "eventSource": key::FILER, "s3": {
        "bucket": { "name": bucket },
        "object": { "key": key, "versionId": version, "size": size },
    } })
}

/// Bucket and key of a file. Files outside of buckets are no objects; the name of a bucket begins with
/// a letter or a digit, and the filer keeps files of its own in `/buckets/.system`.
fn object(path: &str) -> Option<(&str, &str)> {
    let object = path.strip_prefix(BUCKETS)?.split_once('/');
    object.filter(|(bucket, _)| !bucket.starts_with('.'))
}

/// The key and version id for which a file may stand.
fn version(key: &str) -> Option<(&str, &str)> {
    let (folder, id) = key.rsplit_once(VERSION_PREFIX)?;
    let key = folder.strip_suffix(VERSIONS_SUFFIX)?;
    (!key.is_empty() && !id.is_empty() && !id.contains('/')).then_some((key, id))
}

/// A chunk has its id as text, in parts, or both ways; the filer writes old and new entry
/// differently.
fn file_id<'de, D: Deserializer<'de>>(d: D) -> Result<FileId, D::Error> {
    #[derive(Deserialize)]
    struct Written {
        fid: Option<FileId>,
        file_id: Option<String>,
    }
    let Written { fid, file_id } = Written::deserialize(d)?;
    fid.or_else(|| from_text(&file_id?))
        .ok_or_else(|| serde::de::Error::custom("a chunk without id"))
}

/// `VOLUME,KEYCOOKIE`: key and cookie in hexadecimal, the cookie with 8 digits.
fn from_text(id: &str) -> Option<FileId> {
    let (volume, rest) = id.split_once(',')?;
    let (key, cookie) = rest.split_at_checked(rest.len().checked_sub(8)?)?;
    Some(FileId {
        volume_id: volume.parse().ok()?,
        file_key: u64::from_str_radix(key, 16).ok()?,
        cookie: u32::from_str_radix(cookie, 16).ok()?,
    })
}
