//! The entries about surges in the journal.

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use uuid::Uuid;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub(crate) enum Fact {
    /// A replica reads the journal from now on: its time runs.
    #[serde(rename = "surge_began")]
    Began(Moment),
    /// An object is about to be deleted because of this signature.
    #[serde(rename = "surge_found")]
    Found {
        #[serde(flatten)]
        moment: Moment,
        signature: String,
        /// Of its content, in lower-case hexadecimal.
        sha256: String,
    },
    /// What is to be done about a signature: said by a person, or by the replica that counted too many
    /// contents. Appended again from time to time, so that the journal keeps it.
    #[serde(rename = "surge_ruled")]
    Ruled(Ruling),
    /// Everything else in the journal.
    #[serde(other)]
    Other,
}

/// When an entry was written, by the writer's own count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moment {
    /// The process, by a name that it chose at its start.
    pub(super) by: Uuid,
    /// Milliseconds since then.
    pub(super) running: u64,
}

/// What is to be done about a signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ruling {
    pub(crate) signature: String,
    /// Grows with each change. Of two with the same number the first in the journal stands.
    pub(crate) number: u64,
    pub(crate) state: State,
    /// When it was ruled, in milliseconds since 1970. For people alone.
    pub(crate) at: i64,
}

/// How deletions by a signature are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, Serialize, Deserialize)]
#[strum(serialize_all = "snake_case", const_into_str)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// They go on and are counted. Every signature begins so.
    Counted,
    /// They are held: there were too many of them.
    Held,
    /// They go on and are not counted: a person has said that the signature is right.
    Confirmed,
}
