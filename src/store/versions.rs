//! The versions of one key.

use std::collections::HashSet;

use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use aws_sdk_s3::types::{EncodingType, ObjectVersion};
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use percent_encoding::percent_decode_str;

use super::Store;
use super::fault::{self, Fault};
use super::identity::NULL;
use super::page::{decoded, no_end};
use super::request::Request;
use crate::event::{ObjectRef, Version, plain_etag};
use crate::failure::{Failure, Reason, Stage};

/// The most versions with the announced `ETag` that one notification may mean. Bounds the work that
/// somebody can cause by uploading the same bytes again and again.
const MAX_ANNOUNCED: usize = 250;
/// The most versions that a notification without an `ETag`, or with an `ETag` that no version has,
/// may mean.
const MAX_LATEST: usize = 10;
/// Pages of a list, with a thousand versions and markers each.
const MAX_PAGES: usize = 10;
/// Seconds that `Last-Modified` and the time in the notification of the same upload may differ.
const MAX_TIME_DIFFERENCE: u64 = 2;

/// What a list of versions says about one key.
#[derive(Debug, Default)]
pub(super) struct Versions {
    /// The ids of all versions.
    pub(super) ids: HashSet<String>,
    /// Those with the announced `ETag`, newest first.
    pub(super) announced: Vec<Version>,
    /// The newest ones without it.
    latest: Vec<Version>,
}

/// Reads the pages of a list.
struct Listing<'a> {
    object: &'a ObjectRef,
    /// The announced time of the upload, in seconds since 1970.
    uploaded: Option<i64>,
    found: Versions,
    /// Those of `found.announced` that were written at the announced time.
    same_time: Vec<Version>,
    /// A version or a marker of the key was on a page.
    seen: bool,
}

impl Versions {
    /// The announced ones or, without any, the latest ten.
    pub(super) fn announced_or_latest(self) -> Vec<Version> {
        if self.announced.is_empty() { self.latest } else { self.announced }
    }
}

impl Store {
    /// Lists the versions of the object that its notification may have announced. `expected`: the
    /// key is known to have some, so the list goes on until it has come to the key.
    ///
    /// # Errors
    /// When the list cannot be had, or is too long.
    pub(super) async fn versions(
        &self,
        object: &ObjectRef,
        expected: bool,
    ) -> Result<Versions, Fault> {
        let mut listing = Listing::new(object);
        let mut markers = (None, None);
        for _ in 0..MAX_PAGES {
            let list = self
                .client
                .list_object_versions()
                .bucket(&object.bucket)
                .prefix(&object.key)
                .set_key_marker(markers.0)
                .set_version_id_marker(markers.1)
                // Keys may contain what XML cannot carry.
                .encoding_type(EncodingType::Url);
            let page = list.send().await;
            let mut page = page.map_err(|error| fault::of(Request::ListVersions, &error))?;
            listing.read(&mut page);
            // The versions of a key come together, before those of longer keys; SeaweedFS lists
            // some of the longer ones first.
            let is_encoded = page.encoding_type() == Some(&EncodingType::Url);
            let next = page.next_key_marker.unwrap_or_default();
            let goes_on = names(&next, &object.key) || (expected && !listing.seen);
            let truncated = page.is_truncated.ok_or_else(|| Fault::Other(no_end()))?;
            if !truncated || !goes_on {
                let found = listing.finish();
                if found.announced.len() <= MAX_ANNOUNCED {
                    return Ok(found);
                }
                break;
            }
            // Bytes that are no text are of another key; the list is read on as far as may be.
            let next = decoded(&next, is_encoded).unwrap_or(next);
            markers = (Some(next), page.next_version_id_marker);
        }
        let detail = "more versions of one key than are looked through, or with the announced ETag: \
                      let the store name versions in its notifications";
        Err(Fault::Other(Failure::permanent(Stage::Fetch, Reason::TooManyVersions, detail)))
    }
}

impl<'a> Listing<'a> {
    fn new(object: &'a ObjectRef) -> Self {
        Self {
            object,
            uploaded: object.event_time.as_deref().and_then(seconds),
            found: Versions::default(),
            same_time: Vec::new(),
            seen: false,
        }
    }

    fn read(&mut self, page: &mut ListObjectVersionsOutput) {
        let object = self.object;
        let is_ours = |key: Option<&str>| key.is_some_and(|key| names(key, &object.key));
        self.seen |= page.delete_markers().iter().any(|marker| is_ours(marker.key()));
        for version in page.versions.take().unwrap_or_default() {
            if is_ours(version.key()) {
                self.seen = true;
                self.add(version);
            }
        }
    }

    fn add(&mut self, version: ObjectVersion) {
        let modified = version.last_modified().map(DateTime::secs);
        let version = read(version);
        self.found.ids.insert(version.id.clone());
        if self.object.etag.is_some() && version.etag == self.object.etag {
            let times = modified.zip(self.uploaded);
            if times.is_some_and(|(one, other)| one.abs_diff(other) <= MAX_TIME_DIFFERENCE) {
                self.same_time.push(version.clone());
            }
            self.found.announced.push(version);
        } else if self.found.latest.len() < MAX_LATEST {
            self.found.latest.push(version);
        }
    }

    fn finish(self) -> Versions {
        let Self { mut found, same_time, .. } = self;
        // The time tells several uploads of the same bytes apart.
        if !same_time.is_empty() {
            found.announced = same_time;
        }
        found
    }
}

/// A time of a notification in seconds since 1970.
pub(super) fn seconds(time: &str) -> Option<i64> {
    DateTime::from_str(time, Format::DateTime).ok().map(|time| time.secs())
}

/// Whether a listed name is `key`. Names in lists are percent-encoded, by some stores as in a form.
fn names(listed: &str, key: &str) -> bool {
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
