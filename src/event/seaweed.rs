//! Events of the filer of `SeaweedFS`, sent by its webhook. They tell of files, not of objects.
//!
//! Sources: `weed/notification/webhook/http.go` and `types.go`, `weed/filer/filer_notify.go`,
//! `weed/pb/filer_pb/filer.pb.go` and `weed/s3api/s3api_object_versioning.go` of
//! seaweedfs/seaweedfs. What the webhook of release 4.48 posts was compared. The type of an
//! event is not looked at: some releases call each update a rename.

use std::collections::HashMap;

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
/// A version without bytes has it, when it hides the versions before it.
const DELETE_MARKER: &str = "Seaweed-X-Amz-Delete-Marker";
/// Length of a version's id, hexadecimal digits.
const VERSION_ID_LENGTH: usize = 32;

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
    /// Of the filer's own metadata and of users', whose names begin with `X-Amz-Meta-`; in base64.
    #[serde(default, deserialize_with = "lenient")]
    extended: Option<HashMap<String, Value>>,
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

impl Stored {
    fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.content.is_empty() && self.remote_entry.is_none()
    }
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
            let is_folder = entry.is_directory == Some(true);
            let marks_deletion =
                entry.extended.as_ref().is_some_and(|it| it.contains_key(DELETE_MARKER));
            if (is_folder || marks_deletion) && stored.as_ref().is_some_and(Stored::is_empty) {
                return Ok(NOTHING.to_vec());
            }
            if is_folder {
                // A key that ends in `/` may have bytes, which the folder then keeps.
                path.push('/');
            }
            if unchanged { Vec::new() } else { created(&path, &entry) }
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

/// A file that may stand for a version can be an object of that name as well. Where the version's id is
/// a real one, the version is announced, and [its file](super::as_file) only when there is no such
/// version, since under the name of its file a version cannot be tagged. Else both are announced. The
/// file's own metadata does not decide it: an uploader can set the filer's names too.
fn created(path: &str, entry: &Entry) -> Vec<Value> {
    let Some((bucket, key)) = object(path) else { return Vec::new() };
    let size = entry.attributes.as_ref().map(|attributes| attributes.file_size);
    let size = size.filter(|size| *size > 0);
    let as_file = record("ObjectCreated", bucket, key, None, size);
    let Some((name, id)) = version(key) else { return vec![as_file] };
    let as_version = record("ObjectCreated", bucket, name, Some(id), size);
    let is_real = id.len() == VERSION_ID_LENGTH && id.bytes().all(|b| b.is_ascii_hexdigit());
    if is_real { vec![as_version] } else { vec![as_version, as_file] }
}

/// A version that was removed may uncover another one.
fn removed(path: &str) -> Vec<Value> {
    let versioned = object(path).and_then(|(bucket, key)| Some((bucket, version(key)?)));
    let record = |(bucket, (key, id))| record("ObjectRemoved:Delete", bucket, key, Some(id), None);
    versioned.map(record).into_iter().collect()
}

/// The path of the file of a version, below its bucket.
pub(super) fn file_of(key: &str, version: &str) -> String {
    format!("{key}{VERSIONS_SUFFIX}{VERSION_PREFIX}{version}")
}

pub(super) fn record(
    name: &str,
    bucket: &str,
    key: &str,
    version: Option<&str>,
    size: Option<u64>,
) -> Value {
    json!({ "eventName": name, "eventSource": key::FILER, "s3": {
        "bucket": { "name": bucket },
        "object": { "key": key, "versionId": version, "size": size },
    } })
}

/// Bucket and key of a file. Files outside of buckets are no objects; nor are the filer's own below
/// `/buckets/.system`: no bucket's name begins with a dot.
fn object(path: &str) -> Option<(&str, &str)> {
    let object = path.strip_prefix(BUCKETS)?.split_once('/')?;
    (!object.0.starts_with('.')).then_some(object)
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
