//! What is stored, and the operations of S3 on it.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::bucket::{Bucket, Version, Versioning};
use super::call::{Call, Operation, percent_decoded};
use super::listing;
use crate::scripted::http::Reply;

/// Most tags that an object can have.
const MAX_TAGS: usize = 10;

/// Everything the store holds, and the switches for its behaviour.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Contents {
    /// By name.
    pub buckets: BTreeMap<String, Bucket>,
    /// DELETE compares `If-Match`, also with the version `null`, as AWS (since 2025) and
    /// `SeaweedFS` 4.48 do. `false` for a store that ignores it, as the `JuiceFS` gateway and
    /// `MinIO` do.
    pub honours_if_match_on_delete: bool,
    /// GET and HEAD return the number of tags (`x-amz-tagging-count`), if there are any.
    pub counts_tags: bool,
    /// The answer to a copy tells its SHA-256 where that was asked for, as AWS does.
    pub tells_checksums: bool,
    /// A copy honours `If-None-Match`, as AWS does (since 2025). `false` for a store that ignores it.
    pub honours_if_none_match_on_copy: bool,
    /// Uploads in parts that are neither completed nor aborted, by id.
    pub uploads: BTreeMap<String, BTreeMap<u32, Vec<u8>>>,
}

impl Default for Contents {
    fn default() -> Self {
        Self {
            buckets: BTreeMap::new(),
            honours_if_match_on_delete: true,
            counts_tags: true,
            tells_checksums: true,
            honours_if_none_match_on_copy: true,
            uploads: BTreeMap::new(),
        }
    }
}

impl Contents {
    /// A bucket; it is made if it is not there.
    pub fn bucket(&mut self, name: &str) -> &mut Bucket {
        self.buckets.entry(name.into()).or_default()
    }

    /// Performs a call and answers it, without asking the hook.
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
            Operation::CopyObject
            | Operation::CreateMultipartUpload
            | Operation::UploadPartCopy
            | Operation::CompleteMultipartUpload
            | Operation::AbortMultipartUpload => return self.copying(call),
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

/// The object that a call is about. A delete marker gives 405 when the call names its id, and 404
/// when it is the current version.
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
    if header("x-amz-content-sha256").starts_with("STREAMING") {
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

pub(super) fn with_version(reply: Reply, versioning: Versioning, id: &str) -> Reply {
    match versioning {
        Versioning::Off => reply,
        Versioning::Enabled | Versioning::Suspended => reply.header("x-amz-version-id", id),
    }
}

pub(super) fn is_etag(wanted: &str, version: &Version) -> bool {
    wanted == "*" || wanted.trim_matches('"') == version.etag
}

/// Whether a header of an upload is stored, to be returned with the object.
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

fn http_date(at: OffsetDateTime) -> String {
    at.format(&Rfc2822).unwrap_or_default().replace("+0000", "GMT")
}
