//! Signs and checks receipts; says what an object's tags prove. Pure.
//!
//! A status tag can be written by anyone who may tag. A receipt cannot: a second tag, signed with a
//! key that only the scanner has, about exactly these bytes. `docs/RECEIPTS.md` is its format:
//!
//! ```text
//! 1:KEY-ID:STATUS:BEGAN:BINDS:DATABASE:SHA-256:OBJECT:SIGNATURE
//! ```
//!
//! - `keys`: the key that signs, and those that verify;
//! - `binding`: which fields of an object a receipt is about;
//! - `release`: receipts of what a person has released;
//! - `standing`: what an audit says of an object.

mod binding;
mod keys;
mod release;
mod standing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use self::binding::Binding;
pub(crate) use self::keys::{KeyError, Keys, SigningKey};
pub(crate) use self::release::{ReleasedFinding, statement_of};
pub(crate) use self::standing::{Freshness, Standing, Standings};
use crate::scanner::Version;
use crate::store::Identity;
use crate::verdict::Status;

/// Follows the key of the status tag.
const TAG_SUFFIX: &str = "-receipt";
/// The version of the format.
const FORMAT: &str = "1";
/// Goes in front of what is signed, so that a signature made for another purpose is none here.
const DOMAIN: &str = "bucket-av-scanner receipt\n";
/// The longest text of a database. With it a receipt has at most 256 characters, which is what S3
/// allows in the value of a tag.
const MAX_DATABASE: usize = 40;

/// The key of the receipt's tag, beside the status tag `tag_key`.
pub(crate) fn tag_key(tag_key: &str) -> String {
    format!("{tag_key}{TAG_SUFFIX}")
}

/// What a receipt says of the bytes that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statement {
    pub(crate) status: Status,
    /// When the scan began, in milliseconds since 1970.
    pub(crate) began: i64,
    pub(crate) database: Database,
    /// In hexadecimal; absent where nothing was read.
    pub(crate) sha256: Option<String>,
    /// What was found in the bytes, and released: with the status `released` alone, in place of the
    /// database.
    pub(crate) finding: Option<ReleasedFinding>,
}

/// The virus database that a verdict rests on.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Database {
    /// Empty where the engine named none.
    pub(crate) version: String,
    /// In seconds since 1970.
    pub(crate) date: Option<i64>,
}

/// A receipt that was found on an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// Signed by a trusted key, about these bytes.
    Valid {
        statement: Statement,
        /// It holds only as long as nobody replaces the bytes by others with the same `ETag`.
        by_etag_alone: bool,
    },
    /// A release signed by a trusted key, about this name: which bytes are under it, it does not say but
    /// by their SHA-256.
    ByName(Statement),
    /// Signed by a trusted key, about other bytes or another name.
    OfAnotherObject,
    /// It names a key that is not trusted, or not any more.
    OfAnUnknownKey,
    /// It is none, or its signature does not fit.
    Forged,
}

/// The parts of a receipt as text.
struct Parts<'a> {
    key_id: &'a str,
    status: &'a str,
    began: &'a str,
    binds: &'a str,
    database: &'a str,
    sha256: &'a str,
    object: &'a str,
}

impl Statement {
    /// Signs it as being about `identity`. Without `modified`, the time of the last change is not
    /// part of what identifies the bytes.
    pub(crate) fn sign(&self, key: &SigningKey, identity: &Identity, modified: bool) -> String {
        self.sign_bound(key, identity, Binding::of(identity, modified))
    }

    fn sign_bound(&self, key: &SigningKey, identity: &Identity, binding: Binding) -> String {
        let finding = self.finding.as_ref().map(ReleasedFinding::to_string);
        let sha256 = self.sha256.as_deref().and_then(|text| hex::decode(text).ok());
        let sha256 = sha256.map(|bytes| BASE64_URL_SAFE_NO_PAD.encode(bytes)).unwrap_or_default();
        let signed = [
            FORMAT,
            key.id(),
            self.status.into_str(),
            &self.began.to_string(),
            &binding.to_string(),
            &finding.unwrap_or_else(|| self.database.to_string()),
            &sha256,
            &object(binding, identity),
        ]
        .join(":");
        let signature = key.sign(format!("{DOMAIN}{signed}").as_bytes());
        format!("{signed}:{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }

    /// Whether this verdict has to stay when `other` is about to replace it: its scan began later,
    /// or used a newer database. A scan that began after `now` (milliseconds since 1970) was dated by
    /// a clock that is wrong, and then its time says nothing.
    pub(crate) fn outranks(&self, other: &Self, now: i64) -> bool {
        // A person's word is about one finding, and takes back no other verdict.
        let is_verdict = other.status == Status::Released && self.status != Status::Released;
        let later = self.began > other.began && self.began <= now;
        is_verdict || later || self.database.is_newer_than(&other.database)
    }
}

impl Database {
    fn is_newer_than(&self, other: &Self) -> bool {
        let number = |database: &Self| database.version.parse::<u64>().ok();
        matches!((number(self), number(other)), (Some(ours), Some(theirs)) if ours > theirs)
    }
}

impl From<&Version> for Database {
    fn from(version: &Version) -> Self {
        let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+');
        let date = version.database_date.map(time::OffsetDateTime::unix_timestamp);
        // A date takes at most 20 digits and a separator.
        let text = version.database.as_deref().unwrap_or_default();
        let version = text.chars().filter(is_plain).take(MAX_DATABASE - 21).collect();
        Self { version, date }
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.version)?;
        self.date.map_or(Ok(()), |date| write!(f, "@{date}"))
    }
}

impl FromStr for Database {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (version, date) = match text.split_once('@') {
            Some((version, date)) => (version, Some(date.parse().map_err(drop)?)),
            None => (text, None),
        };
        Ok(Self { version: version.to_owned(), date })
    }
}

/// Checks a receipt against the object that it was found on.
pub(crate) fn check(receipt: &str, keys: &Keys, identity: &Identity) -> Found {
    let Some((signed, signature)) = receipt.rsplit_once(':') else { return Found::Forged };
    let Some(parts) = Parts::of(signed) else { return Found::Forged };
    let Some(key) = keys.trusted(parts.key_id) else { return Found::OfAnUnknownKey };
    let message = format!("{DOMAIN}{signed}");
    let is_ours = BASE64_URL_SAFE_NO_PAD
        .decode(signature)
        .is_ok_and(|signature| key.verifies(message.as_bytes(), &signature));
    let read = || Some((parts.statement()?, Binding::from_str(parts.binds).ok()?));
    // What we sign can be read, so what cannot be read was not signed by us.
    let Some((statement, binding)) = is_ours.then(read).flatten() else { return Found::Forged };
    if parts.object.is_empty() || object(binding, identity) != parts.object {
        return Found::OfAnotherObject;
    }
    match (binding == Binding::NAME, statement.status) {
        (true, Status::Released) => Found::ByName(statement),
        // Never signed by us.
        (true, _) => Found::Forged,
        (false, _) => Found::Valid { statement, by_etag_alone: binding.is_by_etag_alone() },
    }
}

/// What the receipt is about, as text; empty if the object does not have all of the fields.
fn object(binding: Binding, identity: &Identity) -> String {
    binding.digest(identity).map(|hash| BASE64_URL_SAFE_NO_PAD.encode(hash)).unwrap_or_default()
}

impl<'a> Parts<'a> {
    fn of(signed: &'a str) -> Option<Self> {
        let mut parts = signed.split(':');
        let mut next = || parts.next();
        if next()? != FORMAT {
            return None;
        }
        let read = Self {
            key_id: next()?,
            status: next()?,
            began: next()?,
            binds: next()?,
            database: next()?,
            sha256: next()?,
            object: next()?,
        };
        parts.next().is_none().then_some(read)
    }

    fn statement(&self) -> Option<Statement> {
        let sha256 = match self.sha256 {
            "" => None,
            text => Some(hex::encode(BASE64_URL_SAFE_NO_PAD.decode(text).ok()?)),
        };
        let status = Status::from_str(self.status).ok()?;
        let (database, finding) = match status {
            Status::Released => (Database::default(), Some(self.database.parse().ok()?)),
            Status::Clean | Status::Infected | Status::No => (self.database.parse().ok()?, None),
        };
        Some(Statement { status, began: self.began.parse().ok()?, database, sha256, finding })
    }
}
