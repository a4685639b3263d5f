//! Objects and their versions, as a bucket holds them.

use std::collections::BTreeMap;
use std::fmt::Write;

use md5::{Digest, Md5};
use time::OffsetDateTime;

/// Whether a bucket keeps versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Versioning {
    /// Versions were never kept: answers carry no version id.
    #[default]
    Off,
    /// Each upload makes a version.
    Enabled,
    /// Versions were kept earlier: they stay, and uploads go to the version `null`.
    Suspended,
}

/// One bucket.
#[derive(Debug, Clone, Default)]
pub struct Bucket {
    /// To be changed as `PutBucketVersioning` does; stored versions stay.
    pub versioning: Versioning,
    objects: BTreeMap<Vec<u8>, Vec<Version>>,
    made: u64,
}

/// One version of an object, or a delete marker.
#[derive(Debug, Clone)]
pub struct Version {
    /// `null` for what was stored while versions were off or suspended.
    pub id: String,
    /// A delete marker: hides the versions below it, and has no content.
    pub is_marker: bool,
    /// The content.
    pub body: Vec<u8>,
    /// Without quotes; the MD5 of the content, if not set otherwise.
    pub etag: String,
    /// The headers stored with the object: any bytes, in this order, returned unchanged.
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

    pub(super) fn has_header(&self, name: &str) -> bool {
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

    /// The current version of a key; `None` also when that is a delete marker.
    #[must_use]
    pub fn current(&self, key: &[u8]) -> Option<&Version> {
        self.versions(key).last().filter(|version| !version.is_marker)
    }

    /// All versions of a key and its delete markers, oldest first.
    #[must_use]
    pub fn versions(&self, key: &[u8]) -> &[Version] {
        self.objects.get(key).map_or(&[], Vec::as_slice)
    }

    /// One version, to be changed; without an id the newest, also when that is a delete marker.
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

    /// There is only one version `null`.
    fn place(&mut self, key: &[u8], version: Version) {
        let versions = self.objects.entry(key.to_vec()).or_default();
        versions.retain(|other| other.id != "null" || version.id != "null");
        versions.push(version);
    }
}

fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(0).unwrap_or(now)
}
