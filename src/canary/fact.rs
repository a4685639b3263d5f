//! What the journal says about canaries.

use serde::{Deserialize, Serialize};
use strum::{Display, IntoStaticStr};
use uuid::Uuid;

use crate::policy::Action;
use crate::verdict::Status;

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
    /// What a round says about a bucket.
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

/// How the work on a canary ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub(crate) enum End {
    /// Scanned, and the effect is done.
    Applied { status: Status, action: Action },
    /// Not to its end; another attempt may follow.
    Failed { reason: String },
    /// The object was not there, or other bytes were.
    Gone,
}

/// What a round says about a bucket.
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
