//! Which bytes an effect may touch.

use aws_smithy_types::DateTime;

use super::versions::seconds;
use crate::event::{ObjectRef, plain_etag};

/// The version id of an object that was written while versioning was off or suspended. It names a
/// slot whose bytes can be replaced, not a version.
pub(super) const NULL: &str = "null";
/// The version id that `RustFS` was seen to give the same slot.
const NIL: &str = "00000000-0000-0000-0000-000000000000";

/// Exactly these bytes, as the store described them in the answer to a GET or HEAD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) pin: Pin,
    /// The `ETag` without quotes, if the store sent one.
    pub(crate) etag: Option<String>,
    /// Length in bytes, if the store sent it.
    pub(crate) length: Option<u64>,
    /// `Last-Modified` in seconds since 1970, if the store sent it.
    pub(super) modified: Option<i64>,
}

/// What ties an effect to the scanned bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pin {
    /// An immutable version of a versioned bucket.
    Version(String),
    /// The bytes under a name, identified by their `ETag`. They can be replaced at any time.
    Etag {
        /// Without quotes.
        etag: String,
        /// The store answered with the version id `null`.
        null_version: bool,
    },
    /// Nothing: no effect is possible.
    Nothing,
}

impl Identity {
    pub(crate) fn new(
        bucket: &str,
        key: &str,
        version_id: Option<&str>,
        etag: Option<&str>,
        length: Option<i64>,
    ) -> Self {
        let etag = etag.map(plain_etag).filter(|etag| !etag.is_empty());
        let pin = match (version_id.filter(|id| !id.is_empty()), etag) {
            (Some(version), _) if !matches!(version, NULL | NIL) => {
                Pin::Version(version.to_owned())
            }
            (version, Some(etag)) => {
                Pin::Etag { etag: etag.to_owned(), null_version: version.is_some() }
            }
            (_, None) => Pin::Nothing,
        };
        Self {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            pin,
            etag: etag.map(str::to_owned),
            length: length.and_then(|n| u64::try_from(n).ok()),
            modified: None,
        }
    }

    /// Whether it stands for a folder, as the `JuiceFS` gateway lists those that were made as such: an
    /// object has an `ETag`, also one without content.
    pub(crate) fn is_folder(&self) -> bool {
        self.key.ends_with('/') && self.etag.is_none() && self.length == Some(0)
    }

    /// The same identity with the `Last-Modified` of the answer.
    pub(crate) fn with_modified(mut self, modified: Option<&DateTime>) -> Self {
        self.modified = modified.map(DateTime::secs);
        self
    }

    /// The identity that a notification announced. Without a length: some stores announce a wrong
    /// one.
    pub(crate) fn of_announced(
        bucket: &str,
        key: &str,
        version_id: Option<&str>,
        etag: Option<&str>,
    ) -> Self {
        Self::new(bucket, key, version_id, etag, None)
    }

    /// The identity of an object as a list shows it: its size is right, and `event_time` is when it
    /// was last changed.
    pub(crate) fn of_listed(object: &ObjectRef) -> Self {
        let ObjectRef { bucket, key, version_id, etag, size, .. } = object;
        let length = size.and_then(|size| i64::try_from(size).ok());
        let modified = object.event_time.as_deref().and_then(seconds);
        let identity = Self::new(bucket, key, version_id.as_deref(), etag.as_deref(), length);
        Self { modified, ..identity }
    }

    /// Length in bytes, 0 if the store did not send it.
    pub(crate) fn bytes(&self) -> u64 {
        self.length.unwrap_or(0)
    }

    /// `Last-Modified` in seconds since 1970, if the store sent it.
    pub(crate) const fn modified(&self) -> Option<i64> {
        self.modified
    }

    /// The version id to send in a request about these bytes: a real one, or `null`.
    pub(crate) fn slot(&self) -> Option<&str> {
        match &self.pin {
            Pin::Version(version) => Some(version),
            Pin::Etag { null_version: true, .. } => Some(NULL),
            Pin::Etag { null_version: false, .. } | Pin::Nothing => None,
        }
    }

    /// The real version id; `None` in a bucket without versions and for `null`.
    pub(crate) fn version_id(&self) -> Option<&str> {
        match &self.pin {
            Pin::Version(version) => Some(version),
            Pin::Etag { .. } | Pin::Nothing => None,
        }
    }
}
