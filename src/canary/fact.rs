//! The entries about canaries in the journal.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use strum::{Display, IntoStaticStr};
use uuid::Uuid;

use crate::policy::Action;
use crate::scanner;
use crate::verdict::Status;

/// How the keys of canaries begin.
pub(super) const PREFIX: &str = ".avscan-canary/";

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub(super) enum Fact {
    /// A replica wants to do this round. The first claim of a round wins it.
    #[serde(rename = "canary_claimed")]
    Claimed {
        round: u64,
        /// The replica, by a name that it chose at its start.
        by: Uuid,
        /// Seconds since 1970. Says when the next round is due, and decides nothing.
        at: i64,
    },
    /// This object is about to be written.
    #[serde(rename = "canary_announced")]
    Announced {
        round: u64,
        by: Uuid,
        bucket: String,
        key: String,
        /// In lower-case hexadecimal.
        sha256: String,
        sample: Sample,
    },
    /// A worker has its notification.
    #[serde(rename = "canary_arrived")]
    Arrived { bucket: String, key: String },
    /// A worker is done with it, for this time.
    #[serde(rename = "canary_ended")]
    Ended { bucket: String, key: String, end: End },
    /// A worker has the marker, so what was queued before it was taken.
    #[serde(rename = "canary_marker_came")]
    MarkerCame { id: Uuid },
    /// The result of a round for a bucket.
    #[serde(rename = "canary_concluded")]
    Concluded { round: u64, bucket: String, outcome: Outcome, why: String },
    /// The object is not there any more, or not ours any more.
    #[serde(rename = "canary_removed")]
    Removed { bucket: String, key: String },
}

/// What a canary is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Display, Serialize, Deserialize)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub(super) enum Sample {
    /// A harmless text.
    Clean,
    /// The EICAR test file.
    Eicar,
}

impl Sample {
    /// The bytes of the canary of this name. They follow from it, so that the journal, into which
    /// others may write, cannot make anything else a canary.
    pub(super) fn body(self, key: &str) -> Bytes {
        match self {
            Self::Clean => format!("A harmless text of the source canary {key}\n").into(),
            // Not made unique: engines need not find EICAR with anything behind it. Its key is.
            Self::Eicar => scanner::eicar(),
        }
    }

    /// Whether a canary can have this name and this SHA-256.
    pub(super) fn is(self, key: &str, sha256: &str) -> bool {
        let name = key.strip_prefix(PREFIX);
        let random = |name: &str| {
            name.len() == 32 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        name.is_some_and(random) && sha256 == hex::encode(Sha256::digest(self.body(key)))
    }
}

impl Fact {
    /// Whether a replica can have written it.
    pub(super) fn is_genuine(&self) -> bool {
        match self {
            Self::Announced { key, sha256, sample, .. } => sample.is(key, sha256),
            _ => true,
        }
    }
}

/// How the work on a canary ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub(crate) enum End {
    /// Scanned, and the effect is done.
    Applied {
        status: Status,
        action: Action,
        /// Of an infected one: rules may depend on it.
        #[serde(default)]
        signature: Option<String>,
    },
    /// Not to its end; another attempt may follow.
    Failed { reason: String },
    /// The object was not there, or other bytes were.
    Gone,
}

/// The result of a round for a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, Serialize, Deserialize)]
#[strum(serialize_all = "snake_case", const_into_str)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// Its uploads are announced, scanned and acted upon.
    Up,
    /// They are not.
    Down,
    /// Nothing: the round could not be done, or not decided.
    Unproved,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_replica_would_write_is_announced() {
        let key = format!("{PREFIX}0123456789abcdef0123456789abcdef");
        let announced = |key: &str, sample: Sample, body: &[u8]| Fact::Announced {
            round: 1,
            by: Uuid::nil(),
            bucket: "b".to_owned(),
            key: key.to_owned(),
            sha256: hex::encode(Sha256::digest(body)),
            sample,
        };
        for sample in [Sample::Clean, Sample::Eicar] {
            assert!(announced(&key, sample, &sample.body(&key)).is_genuine());
            assert!(!announced(&key, sample, b"").is_genuine());
            assert!(!announced(&key, sample, b"other bytes").is_genuine());
        }
        for odd in ["data/_SUCCESS", PREFIX, &key[1..], &format!("{key}0"), &key.to_uppercase()] {
            assert!(!announced(odd, Sample::Eicar, &Sample::Eicar.body(odd)).is_genuine(), "{odd}");
        }
        let other = format!("{PREFIX}{}", "1".repeat(32));
        assert!(!announced(&key, Sample::Clean, &Sample::Clean.body(&other)).is_genuine());
    }
}
