//! Which fields of an object a receipt is about.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use strum::{EnumIter, IntoEnumIterator, IntoStaticStr};

use crate::store::Identity;

/// What tells the bytes from all others that the name ever had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, IntoStaticStr)]
#[strum(const_into_str)]
enum Pinned {
    /// The version id, which names the same bytes for ever.
    #[strum(serialize = "v")]
    Version,
    /// The `ETag`, and the time of the last change in whole seconds since 1970.
    #[strum(serialize = "em")]
    EtagAndModified,
    /// The `ETag` alone.
    #[strum(serialize = "e")]
    Etag,
    /// Nothing: the name alone, in a release.
    #[strum(serialize = "n")]
    Name,
}

/// The fields besides bucket and key; letters in the receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Binding {
    pinned: Pinned,
    /// `l`: the length in bytes as well.
    length: bool,
}

impl Binding {
    /// Bucket and key alone.
    pub(super) const NAME: Self = Self { pinned: Pinned::Name, length: false };

    /// The fields that identify the bytes. `modified`: the store does not change the time with a tag.
    pub(super) fn of(identity: &Identity, modified: bool) -> Self {
        let pinned = match (identity.version_id(), identity.modified()) {
            (Some(_), _) => Pinned::Version,
            (None, Some(_)) if modified => Pinned::EtagAndModified,
            (None, _) => Pinned::Etag,
        };
        Self { pinned, length: identity.length.is_some() }
    }

    /// Whether nothing but an `ETag`, often an MD5, tells the bytes from others.
    pub(super) const fn is_by_etag_alone(self) -> bool {
        matches!(self.pinned, Pinned::Etag)
    }

    /// The SHA-256 of bucket, key and these fields, each as a netstring (its length in bytes, a colon,
    /// the bytes, a comma), which no two different lists of fields share. `None` if the object does not
    /// have all of them. Source: <https://cr.yp.to/proto/netstrings.txt>
    pub(super) fn digest(self, identity: &Identity) -> Option<[u8; 32]> {
        let mut fields = vec![identity.bucket.clone(), identity.key.clone()];
        match self.pinned {
            Pinned::Version => fields.push(identity.version_id()?.to_owned()),
            Pinned::EtagAndModified | Pinned::Etag => fields.push(identity.etag.clone()?),
            Pinned::Name => {}
        }
        if self.pinned == Pinned::EtagAndModified {
            fields.push(identity.modified()?.to_string());
        }
        if self.length {
            fields.push(identity.length?.to_string());
        }
        let mut hash = Sha256::new();
        for field in fields {
            hash.update(format!("{}:{field},", field.len()));
        }
        Some(hash.finalize().into())
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.pinned.into_str())?;
        f.write_str(if self.length { "l" } else { "" })
    }
}

impl FromStr for Binding {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (letters, length) = match text.strip_suffix('l') {
            Some(letters) => (letters, true),
            None => (text, false),
        };
        let pinned = Pinned::iter().find(|pinned| pinned.into_str() == letters).ok_or(())?;
        Ok(Self { pinned, length })
    }
}
