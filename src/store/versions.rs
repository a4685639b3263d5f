//! The versions of one key.

use std::collections::HashSet;

use aws_sdk_s3::types::{EncodingType, ObjectVersion};
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use percent_encoding::percent_decode_str;

use super::Store;
use super::fault::{self, Fault};
use super::identity::NULL;
use super::request::Request;
use crate::event::{ObjectRef, Version, plain_etag};
use crate::failure::{Failure, Reason, Stage};

/// Versions that one notification may have meant. A bound, so that one who uploads the same bytes again
/// and again does not multiply the work without end.
const MOST: usize = 250;
/// The same where it tells no `ETag`, or where no version has it.
const LATEST: usize = 10;
/// Pages of a list, of a thousand versions and markers each.
const PAGES: usize = 10;
/// Between an upload and what the store says of its time in the notification, in seconds.
const SAME_TIME: u64 = 2;

/// What a list of versions says about one key.
#[derive(Debug, Default)]
pub(super) struct Versions {
    /// Of all that are there.
    pub(super) ids: HashSet<String>,
    /// Those that may be meant, newest first: they have the announced `ETag`.
    pub(super) announced: Vec<Version>,
    latest: Vec<Version>,
}

impl Versions {
    /// The announced ones, else the latest ten.
    pub(super) fn announced_or_latest(self) -> Vec<Version> {
        if self.announced.is_empty() { self.latest } else { self.announced }
    }
}

impl Store {
    /// The versions of the object that its notification may have announced. `expected`: the key is known
    /// to have some.
    pub(super) async fn versions(
        &self,
        object: &ObjectRef,
        expected: bool,
    ) -> Result<Versions, Fault> {
        let (mut found, mut near, mut seen) = (Versions::default(), Vec::new(), false);
        let uploaded = object.event_time.as_deref().and_then(seconds);
        let mut markers = (None, None);
        for _ in 0..PAGES {
            // Keys may hold what XML cannot carry.
            let list = self
                .client
                .list_object_versions()
                .bucket(&object.bucket)
                .prefix(&object.key)
                .set_key_marker(markers.0)
                .set_version_id_marker(markers.1)
                .encoding_type(EncodingType::Url);
            let page =
                list.send().await.map_err(|error| fault::of(Request::ListVersions, &error))?;
            let is_ours = |key: Option<&str>| key.is_some_and(|key| names(key, &object.key));
            seen |= page.delete_markers().iter().any(|marker| is_ours(marker.key()));
            for version in page.versions.unwrap_or_default() {
                if !is_ours(version.key()) {
                    continue;
                }
                seen = true;
                let modified = version.last_modified().map(DateTime::secs);
                let version = read(version);
                found.ids.insert(version.id.clone());
                if object.etag.is_some() && version.etag == object.etag {
                    let times = modified.zip(uploaded);
                    if times.is_some_and(|(one, other)| one.abs_diff(other) <= SAME_TIME) {
                        near.push(version.clone());
                    }
                    found.announced.push(version);
                } else if found.latest.len() < LATEST {
                    found.latest.push(version);
                }
            }
            // The versions of a key come together, before those of longer keys; SeaweedFS lists some of
            // these first.
            let next = page.next_key_marker.unwrap_or_default();
            let goes_on = names(&next, &object.key) || (expected && !seen);
            if page.is_truncated != Some(true) || !goes_on {
                // The store's own times tell several uploads of the same bytes apart.
                if !near.is_empty() {
                    found.announced = near;
                }
                if found.announced.len() <= MOST {
                    return Ok(found);
                }
                break;
            }
            markers = (Some(decoded(&next)), page.next_version_id_marker);
        }
        let detail = "more versions of one key than are looked through, or with the announced ETag: let \
                      the store name versions in its notifications";
        Err(Fault::Other(Failure::permanent(Stage::Fetch, Reason::TooManyVersions, detail)))
    }
}

/// Since 1970.
pub(super) fn seconds(time: &str) -> Option<i64> {
    DateTime::from_str(time, Format::DateTime).ok().map(|time| time.secs())
}

/// Names in lists are encoded, by some stores as in a form.
fn names(listed: &str, key: &str) -> bool {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().is_ok_and(|text| text == key);
    listed == key || decoded(listed) || decoded(&listed.replace('+', " "))
}

/// A blank is a plus in a form, and a plus is encoded in both.
fn decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

fn read(version: ObjectVersion) -> Version {
    Version {
        id: version.version_id.filter(|id| !id.is_empty()).unwrap_or_else(|| NULL.to_owned()),
        etag: version.e_tag.as_deref().map(|etag| plain_etag(etag).to_owned()),
        size: version.size.and_then(|size| u64::try_from(size).ok()),
    }
}
