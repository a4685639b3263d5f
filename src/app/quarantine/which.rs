//! Which copies a command is about.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use crate::clock;
use crate::policy::Glob;
use crate::quarantine::{Record, copy_of};

/// The name of a copy: the `quarantine_key` of its report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyName(pub(super) String);

/// What a record has to say for its copy to be meant.
#[derive(Debug, Clone, Default)]
pub struct Matching {
    /// A glob for the signature by which the object was infected.
    pub signature: Option<String>,
    /// The bucket that it was in.
    pub bucket: Option<String>,
    /// It was moved longer ago than this.
    pub older_than: Option<Duration>,
}

/// These copies, or those that match.
#[derive(Debug, Clone)]
pub enum Which {
    /// By name.
    Named(Vec<CopyName>),
    /// By what their records say.
    Matching(Matching),
}

impl Default for Which {
    fn default() -> Self {
        Self::Matching(Matching::default())
    }
}

impl FromStr for CopyName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match copy_of(text) {
            Some(name) => Ok(Self(name.to_owned())),
            None => Err("expected the quarantine_key of a report: 64 hexadecimal digits"),
        }
    }
}

impl Matching {
    /// Whether it leaves nothing out.
    pub(super) const fn is_everything(&self) -> bool {
        let Self { signature, bucket, older_than } = self;
        signature.is_none() && bucket.is_none() && older_than.is_none()
    }

    pub(super) fn holds(&self, record: &Record, now: SystemTime) -> bool {
        let Self { signature, bucket, older_than } = self;
        // A record whose time cannot be read is not known to be old.
        let is_older = |age: &Duration| {
            let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            clock::millis_of(&record.quarantined_at)
                .is_some_and(|at| at <= clock::millis(now).saturating_sub(age))
        };
        signature.as_ref().is_none_or(|glob| Glob::new(glob).matches(&record.signature))
            && bucket.as_ref().is_none_or(|bucket| *bucket == record.bucket)
            && older_than.as_ref().is_none_or(is_older)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_meant_only_where_everything_fits() {
        let record = |at: &str| {
            let json = serde_json::json!({
                "format": 1, "bucket": "b", "key": "k", "sha256": "5a", "signature": "Win.X-1",
                "quarantined_at": at, "report_id": uuid::Uuid::nil(), "headers": [], "tags": [],
                "left_out": [],
            });
            Record::read(json.to_string().as_bytes()).unwrap()
        };
        let now = clock::time_of(clock::millis_of("2026-11-29T12:00:00Z").unwrap());
        let hour = Duration::from_hours(1);
        let matching = |signature: Option<&str>, bucket: Option<&str>, older_than| Matching {
            signature: signature.map(str::to_owned),
            bucket: bucket.map(str::to_owned),
            older_than,
        };
        for (matching, expected) in [
            (matching(None, None, None), true),
            (matching(Some("Win.*"), Some("b"), Some(hour)), true),
            (matching(Some("Win"), None, None), false),
            (matching(Some("Win.*"), Some("c"), Some(hour)), false),
            (matching(None, None, Some(2 * hour)), false),
        ] {
            let record = record("2026-11-29T11:00:00Z");
            assert_eq!(matching.holds(&record, now), expected, "{matching:?}");
        }
        assert!(!matching(None, None, Some(hour)).holds(&record("long ago"), now));
    }
}
