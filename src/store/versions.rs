//! The versions of one key.

use aws_sdk_s3::types::{EncodingType, ObjectVersion};
use percent_encoding::percent_decode_str;

use super::fault::{self, Asked, Fault};
use super::{NULL, Store};
use crate::event::{ObjectRef, Version, plain_etag};

/// Versions that a notification which names none may have meant, by its `ETag`. A bound, so that one who
/// uploads the same bytes again and again does not multiply the work without end.
const MOST: usize = 100;
/// The same where it tells no `ETag`, or where no version has it.
const LATEST: usize = 10;

impl Store {
    /// The versions of the object that its notification may have announced, newest first: those with the
    /// announced `ETag`, else the latest ten.
    pub(super) async fn versions(&self, object: &ObjectRef) -> Result<Vec<Version>, Fault> {
        // The versions of a key come before those of longer keys, newest first, so that the first page is
        // enough. Keys may hold what XML cannot carry.
        let list = self
            .client
            .list_object_versions()
            .bucket(&object.bucket)
            .prefix(&object.key)
            .encoding_type(EncodingType::Url);
        let page = list.send().await.map_err(|error| fault::of(Asked::Versions, &error))?;
        let all = page.versions.unwrap_or_default();
        let all: Vec<Version> =
            all.into_iter().filter(|version| is_of(version, &object.key)).map(read).collect();
        let mut announced: Vec<Version> = all
            .iter()
            .filter(|version| object.etag.is_some() && version.etag == object.etag)
            .cloned()
            .collect();
        if announced.len() > MOST {
            tracing::warn!(
                versions = announced.len(),
                "only the latest {MOST} versions with the announced ETag are scanned: let the store \
                 name versions in its notifications"
            );
            announced.truncate(MOST);
        }
        if announced.is_empty() {
            announced = all.into_iter().take(LATEST).collect();
        }
        Ok(announced)
    }
}

/// Names in lists are encoded, by some stores as in a form.
fn is_of(version: &ObjectVersion, key: &str) -> bool {
    let Some(listed) = version.key() else { return false };
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().is_ok_and(|text| text == key);
    listed == key || decoded(listed) || decoded(&listed.replace('+', " "))
}

fn read(version: ObjectVersion) -> Version {
    Version {
        id: version.version_id.filter(|id| !id.is_empty()).unwrap_or_else(|| NULL.to_owned()),
        etag: version.e_tag.as_deref().map(|etag| plain_etag(etag).to_owned()),
        size: version.size.and_then(|size| u64::try_from(size).ok()),
    }
}
