//! What is stored, and how S3 treats it.

use std::collections::BTreeMap;
use std::fmt::Write;

use md5::{Digest, Md5};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::super::Reply;
use super::call::{Call, Operation, percent_decoded};
use super::listing;

/// The tags that an object can have.
const MAX_TAGS: usize = 10;

/// Everything the store holds, and its habits.
#[derive(Debug, Clone)]
pub struct Contents {
    /// By name.
    pub buckets: BTreeMap<String, Bucket>,
    /// DELETE compares `If-Match`, as AWS since 2025 and `SeaweedFS` 4.48 do, with the version
    /// `null` as well. The `JuiceFS` gateway, as `MinIO`, ignores it: then `false`.
    pub honours_if_match_on_delete: bool,
    /// GET and HEAD say how many tags there are (`x-amz-tagging-count`), if any.
    pub counts_tags: bool,
}

impl Default for Contents {
    fn default() -> Self {
        Self { buckets: BTreeMap::new(), honours_if_match_on_delete: true, counts_tags: true }
    }
}

/// Whether a bucket keeps versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Versioning {
    /// It never did: answers carry no version id.
    #[default]
    Off,
    /// Each upload makes a version.
    Enabled,
    /// It did: uploads go to the slot `null`, and the versions stay.
    Suspended,
}

/// One bucket.
#[derive(Debug, Clone, Default)]
pub struct Bucket {
    /// Changed as `PutBucketVersioning` does; what is stored stays.
    pub versioning: Versioning,
    objects: BTreeMap<Vec<u8>, Vec<Version>>,
    made: u64,
}

/// One version of an object, or a delete marker.
#[derive(Debug, Clone)]
pub struct Version {
    /// `null` for what was stored while versions were off or suspended.
    pub id: String,
    /// Hides what is below it; has no content.
    pub is_marker: bool,
    /// The content.
    pub body: Vec<u8>,
    /// Without quotes; the MD5 of the content, if not set otherwise.
    pub etag: String,
    /// The headers stored with the object: any bytes, in this order, handed out as they are.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Its tags.
    pub tags: Vec<(String, String)>,
    /// When it was stored, in whole seconds.
    pub modified: OffsetDateTime,
}

impl Version {
    /// An object with this content.
    #[must_use]
    pub fn new(body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let etag = Md5::digest(&body).iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a string takes every write");
            text
        });
        Self {
            id: "null".into(),
            is_marker: false,
            body,
            etag,
            headers: Vec::new(),
            tags: Vec::new(),
            modified: now(),
        }
    }

    /// Stores a header with it.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Gives it a tag.
    #[must_use]
    pub fn tag(mut self, key: &str, value: &str) -> Self {
        self.tags.push((key.into(), value.into()));
        self
    }

    /// The value of a tag.
    #[must_use]
    pub fn tag_value(&self, key: &str) -> Option<&str> {
        self.tags.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn has_header(&self, name: &str) -> bool {
        self.headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name))
    }
}

impl Bucket {
    /// Stores a version as an upload does; returns its id and its `ETag`.
    pub fn put(&mut self, key: &[u8], mut version: Version) -> (String, String) {
        version.id = self.next_id();
        let told = (version.id.clone(), version.etag.clone());
        self.place(key, version);
        told
    }

    /// Deletes as DELETE without a version id does; returns the id of the delete marker, if that
    /// leaves one.
    pub fn delete(&mut self, key: &[u8]) -> Option<String> {
        if self.versioning == Versioning::Off {
            self.objects.remove(key);
            return None;
        }
        let marker = Version { id: self.next_id(), is_marker: true, ..Version::new("") };
        let id = marker.id.clone();
        self.place(key, marker);
        Some(id)
    }

    /// Removes one version, or delete marker, for good.
    pub fn remove(&mut self, key: &[u8], id: &str) -> Option<Version> {
        let versions = self.objects.get_mut(key)?;
        let removed = versions.iter().position(|version| version.id == id);
        let removed = removed.map(|at| versions.remove(at));
        if versions.is_empty() {
            self.objects.remove(key);
        }
        removed
    }

    /// What is under the name now; `None` also below a delete marker.
    #[must_use]
    pub fn current(&self, key: &[u8]) -> Option<&Version> {
        self.versions(key).last().filter(|version| !version.is_marker)
    }

    /// All versions of a key and its delete markers, oldest first.
    #[must_use]
    pub fn versions(&self, key: &[u8]) -> &[Version] {
        self.objects.get(key).map_or(&[], Vec::as_slice)
    }

    /// One version to change; without an id the newest, be it a marker.
    pub fn version_mut(&mut self, key: &[u8], id: Option<&str>) -> Option<&mut Version> {
        let mut versions = self.objects.get_mut(key)?.iter_mut();
        match id {
            Some(id) => versions.find(|version| version.id == id),
            None => versions.next_back(),
        }
    }

    /// All keys with their versions, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[Version])> {
        self.objects.iter().map(|(key, versions)| (key.as_slice(), versions.as_slice()))
    }

    fn next_id(&mut self) -> String {
        self.made += 1;
        match self.versioning {
            Versioning::Enabled => format!("{:032x}", self.made),
            Versioning::Off | Versioning::Suspended => "null".into(),
        }
    }

    /// The slot `null` is there once.
    fn place(&mut self, key: &[u8], version: Version) {
        let versions = self.objects.entry(key.to_vec()).or_default();
        versions.retain(|other| other.id != "null" || version.id != "null");
        versions.push(version);
    }
}

impl Contents {
    /// A bucket; it is made if it is not there.
    pub fn bucket(&mut self, name: &str) -> &mut Bucket {
        self.buckets.entry(name.into()).or_default()
    }

    /// What the store itself answers to a call, and does.
    pub fn answer(&mut self, call: &Call) -> Reply {
        let reply = self.perform(call).unwrap_or_else(|refusal| refusal);
        let reply = reply.header("x-amz-request-id", "scripted");
        if call.request.method == "HEAD" { reply.without_body() } else { reply }
    }

    fn perform(&mut self, call: &Call) -> Result<Reply, Reply> {
        match call.operation {
            Operation::ListBuckets => return Ok(listing::buckets(self.buckets.keys())),
            Operation::CreateBucket => {
                self.bucket(&call.bucket);
                return Ok(Reply::new(200, ""));
            }
            Operation::Other => return Err(error(501, "NotImplemented")),
            _ => {}
        }
        let (compares, counts) = (self.honours_if_match_on_delete, self.counts_tags);
        let bucket = self.buckets.get_mut(&call.bucket);
        let bucket = bucket.ok_or_else(|| error(404, "NoSuchBucket"))?;
        match call.operation {
            Operation::GetBucketVersioning => Ok(listing::versioning(bucket.versioning)),
            Operation::PutBucketVersioning => {
                let enabled = call.request.text().contains("<Status>Enabled</Status>");
                bucket.versioning =
                    if enabled { Versioning::Enabled } else { Versioning::Suspended };
                Ok(Reply::new(200, ""))
            }
            Operation::ListObjectsV2 => Ok(listing::objects(bucket, call)),
            Operation::ListObjectVersions => Ok(listing::versions(bucket, call)),
            Operation::GetObject | Operation::HeadObject => get(bucket, call, counts),
            Operation::PutObject => put(bucket, call),
            Operation::DeleteObject => delete(bucket, call, compares),
            Operation::GetObjectTagging => {
                found(bucket, call).map(|version| listing::tags(&version.tags))
            }
            Operation::PutObjectTagging => set_tags(bucket, call),
            Operation::DeleteObjectTagging => {
                found(bucket, call)?.tags.clear();
                Ok(Reply::new(204, ""))
            }
            _ => Ok(Reply::new(200, "")),
        }
    }
}

/// An answer that refuses: the status, and the code in the body that S3 sends with it.
#[must_use]
pub fn error(status: u16, code: &str) -> Reply {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
         <Message>{code}, says the scripted store</Message></Error>"
    );
    Reply::new(status, body).header("content-type", "application/xml")
}

/// The object that a call is about. A marker that is asked for by its id is no object, but its
/// method is what is not allowed; a marker on top makes the key one that is not there.
fn found<'a>(bucket: &'a mut Bucket, call: &Call) -> Result<&'a mut Version, Reply> {
    let asked = call.version.as_deref();
    let missing = if asked.is_some() && !bucket.versions(&call.key).is_empty() {
        "NoSuchVersion"
    } else {
        "NoSuchKey"
    };
    match bucket.version_mut(&call.key, asked) {
        None => Err(error(404, missing)),
        Some(marker) if marker.is_marker => {
            let reply = if asked.is_some() {
                error(405, "MethodNotAllowed").header("last-modified", &http_date(marker.modified))
            } else {
                error(404, "NoSuchKey")
            };
            Err(reply.header("x-amz-delete-marker", "true").header("x-amz-version-id", &marker.id))
        }
        Some(version) => Ok(version),
    }
}

fn get(bucket: &mut Bucket, call: &Call, counts_tags: bool) -> Result<Reply, Reply> {
    let has_versions = bucket.versioning != Versioning::Off;
    let version = found(bucket, call)?;
    let wanted = call.request.header("if-match");
    if wanted.is_some_and(|wanted| !is_etag(wanted, version)) {
        return Err(error(412, "PreconditionFailed"));
    }
    let mut reply = Reply::new(200, version.body.clone())
        .header("etag", &format!("\"{}\"", version.etag))
        .header("accept-ranges", "bytes");
    if !version.has_header("last-modified") {
        reply = reply.header("last-modified", &http_date(version.modified));
    }
    if !version.has_header("content-type") {
        reply = reply.header("content-type", "binary/octet-stream");
    }
    if has_versions {
        reply = reply.header("x-amz-version-id", &version.id);
    }
    if counts_tags && !version.tags.is_empty() && !version.has_header("x-amz-tagging-count") {
        reply = reply.header("x-amz-tagging-count", &version.tags.len().to_string());
    }
    let stored = version.headers.iter();
    Ok(stored.fold(reply, |reply, (name, value)| reply.raw_header(name.as_str(), value.clone())))
}

fn put(bucket: &mut Bucket, call: &Call) -> Result<Reply, Reply> {
    let current = bucket.current(&call.key);
    let (none, same) = (call.request.header("if-none-match"), call.request.header("if-match"));
    match (current, none, same) {
        (Some(_), Some("*"), _) => return Err(error(412, "PreconditionFailed")),
        (Some(now), _, Some(wanted)) if !is_etag(wanted, now) => {
            return Err(error(412, "PreconditionFailed"));
        }
        (None, _, Some(_)) => return Err(error(404, "NoSuchKey")),
        _ => {}
    }
    let header = |name| call.request.header(name).unwrap_or_default();
    if header("x-amz-content-sha256").starts_with("STREAMING")
        || call.request.headers.contains_key("x-amz-copy-source")
    {
        return Err(error(501, "NotImplemented"));
    }
    let mut version = Version::new(call.request.body.to_vec());
    let kept = call.request.headers.iter().filter(|(name, _)| is_stored(name));
    version.headers = kept.map(|(name, value)| (name.clone(), value.clone().into())).collect();
    let decoded = |text: &str| {
        String::from_utf8_lossy(&percent_decoded(&text.replace('+', " "))).into_owned()
    };
    let tags = header("x-amz-tagging").split('&').filter_map(|tag| tag.split_once('='));
    version.tags = tags.map(|(key, value)| (decoded(key), decoded(value))).collect();
    let (id, etag) = bucket.put(&call.key, version);
    let reply = Reply::new(200, "").header("etag", &format!("\"{etag}\""));
    Ok(with_version(reply, bucket.versioning, &id))
}

fn delete(bucket: &mut Bucket, call: &Call, compares: bool) -> Result<Reply, Reply> {
    let asked = call.version.as_deref();
    if let (true, Some(wanted), Ok(now)) =
        (compares, call.request.header("if-match"), found(bucket, call))
        && !is_etag(wanted, now)
    {
        return Err(error(412, "PreconditionFailed"));
    }
    let reply = Reply::new(204, "").header("content-length", "");
    let Some(id) = asked else {
        return Ok(match bucket.delete(&call.key) {
            Some(marker) => {
                reply.header("x-amz-delete-marker", "true").header("x-amz-version-id", &marker)
            }
            None => reply,
        });
    };
    let removed = bucket.remove(&call.key, id);
    let reply = with_version(reply, bucket.versioning, id);
    Ok(match removed {
        Some(version) if version.is_marker => reply.header("x-amz-delete-marker", "true"),
        _ => reply,
    })
}

fn set_tags(bucket: &mut Bucket, call: &Call) -> Result<Reply, Reply> {
    let version = found(bucket, call)?;
    let tags = listing::read_tags(&call.request.text());
    if tags.len() > MAX_TAGS {
        return Err(error(400, "BadRequest"));
    }
    version.tags = tags;
    let id = version.id.clone();
    Ok(with_version(Reply::new(200, ""), bucket.versioning, &id))
}

fn with_version(reply: Reply, versioning: Versioning, id: &str) -> Reply {
    match versioning {
        Versioning::Off => reply,
        Versioning::Enabled | Versioning::Suspended => reply.header("x-amz-version-id", id),
    }
}

fn is_etag(wanted: &str, version: &Version) -> bool {
    wanted == "*" || wanted.trim_matches('"') == version.etag
}

/// What an upload's header is kept for: to be handed out with the object.
fn is_stored(name: &str) -> bool {
    name.starts_with("x-amz-meta-")
        || matches!(
            name,
            "cache-control"
                | "content-disposition"
                | "content-encoding"
                | "content-language"
                | "content-type"
                | "expires"
                | "x-amz-storage-class"
                | "x-amz-website-redirect-location"
        )
}

fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(0).unwrap_or(now)
}

fn http_date(at: OffsetDateTime) -> String {
    at.format(&Rfc2822).unwrap_or_default().replace("+0000", "GMT")
}
