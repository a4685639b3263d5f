//! Copies inside the store, whole and in parts.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::bucket::Version;
use super::call::{Call, Operation, percent_decoded};
use super::contents::{Contents, error, is_etag, with_version};
use crate::scripted::http::Reply;

impl Contents {
    pub(super) fn copying(&mut self, call: &Call) -> Result<Reply, Reply> {
        if !self.buckets.contains_key(&call.bucket) {
            return Err(error(404, "NoSuchBucket"));
        }
        let upload = call.parameter("uploadId").unwrap_or_default().to_owned();
        match call.operation {
            Operation::CopyObject => self.copy_whole(call),
            Operation::CreateMultipartUpload => {
                let upload = format!("upload-{}", self.uploads.len() + 1);
                self.uploads.insert(upload.clone(), std::collections::BTreeMap::new());
                Ok(xml(&format!(
                    "<InitiateMultipartUploadResult><UploadId>{upload}</UploadId>\
                     </InitiateMultipartUploadResult>"
                )))
            }
            Operation::UploadPartCopy => {
                let source = self.source(call)?;
                let number = call.parameter("partNumber").and_then(|number| number.parse().ok());
                let part = ranged(&source.body, call.request.header("x-amz-copy-source-range"));
                let (Some(number), Some(part)) = (number, part) else {
                    return Err(error(400, "InvalidArgument"));
                };
                let parts = self.uploads.get_mut(&upload);
                parts.ok_or_else(|| error(404, "NoSuchUpload"))?.insert(number, part.to_vec());
                Ok(xml("<CopyPartResult><ETag>\"part\"</ETag></CopyPartResult>"))
            }
            Operation::CompleteMultipartUpload => {
                self.refuse_if_there(call)?;
                let parts = self.uploads.remove(&upload);
                let parts = parts.ok_or_else(|| error(404, "NoSuchUpload"))?;
                let body: Vec<u8> = parts.into_values().flatten().collect();
                let bucket = self.bucket(&call.bucket);
                let (id, etag) = bucket.put(&call.key, Version::new(body));
                let reply = xml(&format!(
                    "<CompleteMultipartUploadResult><ETag>\"{etag}\"</ETag>\
                     </CompleteMultipartUploadResult>"
                ));
                Ok(with_version(reply, bucket.versioning, &id))
            }
            _ => {
                self.uploads.remove(&upload).ok_or_else(|| error(404, "NoSuchUpload"))?;
                Ok(Reply::new(204, ""))
            }
        }
    }

    fn copy_whole(&mut self, call: &Call) -> Result<Reply, Reply> {
        self.refuse_if_there(call)?;
        let source = self.source(call)?;
        let mut copy = Version::new(source.body.clone());
        (copy.headers, copy.tags) = (source.headers, source.tags);
        let asked = call.request.header("x-amz-checksum-algorithm") == Some("SHA256");
        let checksum = if asked && self.tells_checksums {
            let checksum = STANDARD.encode(Sha256::digest(&copy.body));
            format!("<ChecksumSHA256>{checksum}</ChecksumSHA256>")
        } else {
            String::new()
        };
        let bucket = self.bucket(&call.bucket);
        let (id, etag) = bucket.put(&call.key, copy);
        let reply =
            xml(&format!("<CopyObjectResult><ETag>\"{etag}\"</ETag>{checksum}</CopyObjectResult>"));
        Ok(with_version(reply, bucket.versioning, &id))
    }

    fn refuse_if_there(&mut self, call: &Call) -> Result<(), Reply> {
        let asked = call.request.header("if-none-match") == Some("*");
        let there = self.bucket(&call.bucket).current(&call.key).is_some();
        if asked && there && self.honours_if_none_match_on_copy {
            return Err(error(412, "PreconditionFailed"));
        }
        Ok(())
    }

    /// The version that the header names.
    fn source(&mut self, call: &Call) -> Result<Version, Reply> {
        let named = call.request.header("x-amz-copy-source").unwrap_or_default();
        let (path, version) = match named.split_once("?versionId=") {
            Some((path, version)) => (path, Some(version)),
            None => (named, None),
        };
        let path = path.trim_start_matches('/');
        let (bucket, key) = path.split_once('/').ok_or_else(|| error(400, "InvalidArgument"))?;
        let bucket = self.buckets.get_mut(bucket).ok_or_else(|| error(404, "NoSuchBucket"))?;
        let found = bucket.version_mut(&percent_decoded(key), version);
        let missing = if version.is_some() { "NoSuchVersion" } else { "NoSuchKey" };
        let found = found.filter(|version| !version.is_marker);
        let found = found.ok_or_else(|| error(404, missing))?;
        let wanted = call.request.header("x-amz-copy-source-if-match");
        if wanted.is_some_and(|wanted| !is_etag(wanted, found)) {
            return Err(error(412, "PreconditionFailed"));
        }
        Ok(found.clone())
    }
}

fn xml(body: &str) -> Reply {
    Reply::new(200, body).header("content-type", "application/xml")
}

/// The bytes that a header names as in `bytes=0-9`.
fn ranged<'a>(body: &'a [u8], header: Option<&str>) -> Option<&'a [u8]> {
    let (first, last) = header?.strip_prefix("bytes=")?.split_once('-')?;
    body.get(first.parse().ok()?..=last.parse().ok()?)
}
