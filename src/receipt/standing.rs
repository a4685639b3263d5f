//! What an object's tags prove of it.

use strum::{Display, EnumIter, EnumString, IntoStaticStr};

use super::{Database, Found, Keys, Statement, check};
use crate::store::{Identity, KeyValue, MAX_TAGS};
use crate::verdict::Status;

/// What an audit says of an object.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Display,
    EnumIter,
    EnumString,
    IntoStaticStr,
)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub(crate) enum Standing {
    /// A valid receipt says clean, by a database that is recent enough.
    Verified,
    /// A valid receipt says infected, and that a person has released it.
    Released,
    /// A valid receipt says clean, and that is not enough: an old database, a key that is not trusted
    /// any more, or bytes that only an `ETag` identifies.
    Stale,
    /// No receipt is about these bytes.
    Never,
    /// Something that is no receipt of ours pretends to be one.
    Forged,
    /// A valid receipt says infected.
    Infected,
    /// A valid receipt says that it could not be scanned.
    Unscannable,
    /// Too many other tags for a receipt, or no tags at all in this store.
    Untaggable,
}

impl Standing {
    /// Whether nothing speaks against it: clean, or released.
    pub(crate) const fn is_accepted(self) -> bool {
        matches!(self, Self::Verified | Self::Released)
    }
}

/// How recent a verdict has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Any verdict counts.
    Any,
    /// By this database, or one as new.
    Database(Database),
    /// The scan began at this time or later, in milliseconds since 1970.
    Since(i64),
}

/// Says what tags prove.
#[derive(Debug)]
pub(crate) struct Standings<'a> {
    pub(crate) keys: &'a Keys,
    /// The key of the status tag.
    pub(crate) tag_key: &'a str,
    pub(crate) freshness: Freshness,
}

impl Standings<'_> {
    /// The standing of an object with these tags, and what its receipt says if it is valid.
    pub(crate) fn of(
        &self,
        identity: &Identity,
        tags: &[KeyValue],
    ) -> (Standing, Option<Statement>) {
        let receipt_key = super::tag_key(self.tag_key);
        let receipt = tags.iter().find(|(key, _)| *key == receipt_key);
        let Some((_, receipt)) = receipt else {
            let others = tags.iter().filter(|(key, _)| key != self.tag_key).count();
            let has_room = others + 2 <= MAX_TAGS;
            return (if has_room { Standing::Never } else { Standing::Untaggable }, None);
        };
        match check(receipt, self.keys, identity) {
            Found::Forged => (Standing::Forged, None),
            // Which bytes it is about is known once they were scanned.
            Found::OfAnotherObject | Found::ByName(_) => (Standing::Never, None),
            Found::OfAnUnknownKey => (Standing::Stale, None),
            Found::Valid { statement, by_etag_alone } => {
                let standing = match statement.status {
                    Status::Infected => Standing::Infected,
                    Status::No => Standing::Unscannable,
                    // Of bytes that were not read nobody can say that they are clean.
                    Status::Clean | Status::Released if statement.sha256.is_none() => {
                        Standing::Never
                    }
                    Status::Released if by_etag_alone => Standing::Stale,
                    Status::Released => Standing::Released,
                    Status::Clean if by_etag_alone || !self.is_fresh(&statement) => Standing::Stale,
                    Status::Clean => Standing::Verified,
                };
                (standing, Some(statement))
            }
        }
    }

    fn is_fresh(&self, statement: &Statement) -> bool {
        match &self.freshness {
            Freshness::Any => true,
            Freshness::Database(current) => {
                statement.database == *current || statement.database.is_newer_than(current)
            }
            Freshness::Since(since) => statement.began >= *since,
        }
    }
}
