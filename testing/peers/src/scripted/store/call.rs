//! One request, read as a call of the S3 API.

use std::collections::BTreeMap;

use crate::scripted::http::Request;

/// An operation of the S3 API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names of the S3 API")]
pub enum Operation {
    ListBuckets,
    HeadBucket,
    CreateBucket,
    GetBucketVersioning,
    PutBucketVersioning,
    ListObjectsV2,
    ListObjectVersions,
    GetObject,
    HeadObject,
    PutObject,
    CopyObject,
    CreateMultipartUpload,
    UploadPartCopy,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    DeleteObject,
    GetObjectTagging,
    PutObjectTagging,
    DeleteObjectTagging,
    /// Any operation that this store does not implement; it answers 501.
    Other,
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    /// The operation.
    pub operation: Operation,
    /// Empty for `ListBuckets`.
    pub bucket: String,
    /// The bytes of the key, percent-decoded; empty for calls about a bucket.
    pub key: Vec<u8>,
    /// The version id that is asked for.
    pub version: Option<String>,
    /// The query, decoded.
    pub query: BTreeMap<String, String>,
    /// How many calls of this operation about this object, whatever its version, came before.
    pub count: usize,
    /// The request itself.
    pub request: Request,
}

impl Call {
    pub(super) fn parse(request: &Request) -> Self {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let query: BTreeMap<String, String> = query
            .split('&')
            .filter(|part| !part.is_empty())
            .map(|part| part.split_once('=').unwrap_or((part, "")))
            .map(|(name, value)| (text(name), text(&value.replace('+', " "))))
            .collect();
        let path = path.strip_prefix('/').unwrap_or(path);
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let (bucket, key) = (text(bucket), percent_decoded(key));
        let about = if bucket.is_empty() { 0 } else { 1 + usize::from(!key.is_empty()) };
        let asks = |name: &str| query.contains_key(name);
        let copies = request.headers.contains_key("x-amz-copy-source");
        let operation = match (about, request.method.as_str()) {
            (0, "GET") => Operation::ListBuckets,
            (1, "HEAD") => Operation::HeadBucket,
            (1, "GET") if asks("versioning") => Operation::GetBucketVersioning,
            (1, "PUT") if asks("versioning") => Operation::PutBucketVersioning,
            (1, "GET") if asks("versions") => Operation::ListObjectVersions,
            (1, "GET") if asks("list-type") => Operation::ListObjectsV2,
            (1, "PUT") if query.keys().all(|name| name == "x-id") => Operation::CreateBucket,
            (2, "GET") if asks("tagging") => Operation::GetObjectTagging,
            (2, "PUT") if asks("tagging") => Operation::PutObjectTagging,
            (2, "DELETE") if asks("tagging") => Operation::DeleteObjectTagging,
            (2, "GET") => Operation::GetObject,
            (2, "HEAD") => Operation::HeadObject,
            (2, "PUT") if copies && asks("partNumber") => Operation::UploadPartCopy,
            (2, "PUT") if copies => Operation::CopyObject,
            (2, "PUT") if query.keys().all(|name| name == "x-id") => Operation::PutObject,
            (2, "POST") if asks("uploads") => Operation::CreateMultipartUpload,
            (2, "POST") if asks("uploadId") => Operation::CompleteMultipartUpload,
            (2, "DELETE") if asks("uploadId") => Operation::AbortMultipartUpload,
            (2, "DELETE") => Operation::DeleteObject,
            _ => Operation::Other,
        };
        let version = query.get("versionId").cloned();
        Self { operation, bucket, key, version, query, count: 0, request: request.clone() }
    }

    /// Whether it is the same call about the same object.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (self.operation, &self.bucket, &self.key) == (other.operation, &other.bucket, &other.key)
    }

    /// A parameter of the query.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    /// The key as text, with what is not UTF-8 replaced.
    #[must_use]
    pub fn key_text(&self) -> String {
        String::from_utf8_lossy(&self.key).into_owned()
    }
}

fn text(encoded: &str) -> String {
    String::from_utf8_lossy(&percent_decoded(encoded)).into_owned()
}

/// A plus sign is kept: it means a space only in forms and queries.
pub(super) fn percent_decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = (*first == b'%').then(|| tail.get(..2)).flatten();
        let code = code.and_then(|two| std::str::from_utf8(two).ok());
        if let Some(byte) = code.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            bytes.push(byte);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded_to_bytes_and_plus_stays() {
        assert_eq!(percent_decoded("a+b%2Bc%FF%zz%"), b"a+b+c\xff%zz%");
    }
}
