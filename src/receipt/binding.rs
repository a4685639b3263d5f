//! Which fields of an object a receipt is about.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::store::{Identity, Pin};

/// The fields besides bucket and key. A letter for each is part of the receipt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Binding {
    /// `v`: the version id, which names the same bytes for ever.
    version: bool,
    /// `e`: the `ETag`, without a version id.
    etag: bool,
    /// `m`: the time of the last change, in whole seconds since 1970.
    modified: bool,
    /// `l`: the length in bytes.
    length: bool,
}

impl Binding {
    /// The fields that identify the bytes. `modified`: the store does not change the time with a tag.
    pub(super) fn of(identity: &Identity, modified: bool) -> Self {
        let version = identity.version_id().is_some();
        Self {
            version,
            etag: matches!(identity.pin, Pin::Etag { .. }),
            modified: modified && !version && identity.modified().is_some(),
            length: identity.length.is_some(),
        }
    }

    /// Whether an object has all of these fields.
    pub(super) fn fits(self, identity: &Identity) -> bool {
        (self.version || self.etag)
            && (!self.version || identity.version_id().is_some())
            && (!self.etag || identity.etag.is_some())
            && (!self.modified || identity.modified().is_some())
            && (!self.length || identity.length.is_some())
    }

    /// Nothing but an `ETag`, often an MD5, tells the bytes from others.
    pub(super) const fn is_by_etag_alone(self) -> bool {
        !self.version && !self.modified
    }

    /// The SHA-256 of bucket, key and these fields, each as a netstring (its length in bytes, a colon,
    /// the bytes, a comma), which no two different lists of fields share. Source:
    /// <https://cr.yp.to/proto/netstrings.txt>
    pub(super) fn digest(self, identity: &Identity) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut field = |text: &str| hash.update(format!("{}:{text},", text.len()));
        field(&identity.bucket);
        field(&identity.key);
        if self.version {
            field(identity.version_id().unwrap_or_default());
        }
        if self.etag {
            field(identity.etag.as_deref().unwrap_or_default());
        }
        if self.modified {
            field(&identity.modified().unwrap_or_default().to_string());
        }
        if self.length {
            field(&identity.length.unwrap_or_default().to_string());
        }
        hash.finalize().into()
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters =
            [('v', self.version), ('e', self.etag), ('m', self.modified), ('l', self.length)];
        letters.iter().filter(|(_, bound)| *bound).try_for_each(|(letter, _)| write!(f, "{letter}"))
    }
}

impl FromStr for Binding {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let has = |letter| text.contains(letter);
        let binding =
            Self { version: has('v'), etag: has('e'), modified: has('m'), length: has('l') };
        if binding.to_string() == text { Ok(binding) } else { Err(()) }
    }
}
