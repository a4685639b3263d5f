//! Releases: a person's word that a finding about these bytes, under this name, is to be passed over.
//!
//! A release is a receipt of the status `released`. It names the finding where others name the database.
//! It is written in the same request as the object, so it binds bucket and key alone at first, besides
//! the SHA-256 and the finding; a scan that confirms both ties it to the bytes as every receipt is.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::binding::Binding;
use super::{Database, Found, Keys, SigningKey, Statement, check};
use crate::store::{Identity, KeyValue};
use crate::verdict::Status;

/// How far the time of a release and that of the object it was written with may be apart, in
/// milliseconds: the longest upload, and clocks that differ.
const WRITTEN_WITHIN: u64 = 2 * 3_600_000;
/// The bytes of a hash that name a finding.
const FINDING_BYTES: usize = 16;

/// A finding: the first bytes of the SHA-256 of the engine's name for it, in base64url.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReleasedFinding(String);

impl ReleasedFinding {
    pub(crate) fn of(signature: &str) -> Self {
        Self(BASE64_URL_SAFE_NO_PAD.encode(&Sha256::digest(signature)[..FINDING_BYTES]))
    }
}

impl fmt::Display for ReleasedFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ReleasedFinding {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(drop)?;
        if bytes.len() == FINDING_BYTES { Ok(Self(text.to_owned())) } else { Err(()) }
    }
}

impl Statement {
    /// The release of `signature` in bytes with this SHA-256, at a time in milliseconds since 1970.
    pub(crate) fn release(sha256: &str, signature: &str, at: i64) -> Self {
        Self {
            status: Status::Released,
            began: at,
            database: Database::default(),
            sha256: Some(sha256.to_owned()),
            finding: Some(ReleasedFinding::of(signature)),
        }
    }

    /// Whether it is the release of this finding in these bytes.
    pub(crate) fn releases(&self, sha256: &str, signature: &str) -> bool {
        self.status == Status::Released
            && self.sha256.as_deref() == Some(sha256)
            && self.finding == Some(ReleasedFinding::of(signature))
    }

    /// Signs a release for an object that is about to be written under this name.
    pub(crate) fn sign_for_name(&self, key: &SigningKey, bucket: &str, object: &str) -> String {
        let identity = Identity::new(bucket, object, None, None, None);
        self.sign_bound(key, &identity, Binding::NAME)
    }
}

/// What a release or a receipt among these tags says of the object, by a trusted key; also a release
/// that is bound to its name alone, if the object was written about then: whoever may set tags could
/// put it there again later.
pub(crate) fn statement_of(
    tags: &[KeyValue],
    receipt_key: &str,
    keys: &Keys,
    identity: &Identity,
) -> Option<Statement> {
    let (_, receipt) = tags.iter().find(|(key, _)| key == receipt_key)?;
    match check(receipt, keys, identity) {
        Found::Valid { statement, .. } => Some(statement),
        Found::ByName(statement) => {
            let written = identity.modified()?.saturating_mul(1000);
            (written.abs_diff(statement.began) <= WRITTEN_WITHIN).then_some(statement)
        }
        Found::OfAnotherObject | Found::OfAnUnknownKey | Found::Forged => None,
    }
}
