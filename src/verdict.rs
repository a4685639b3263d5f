//! What is known of an object's bytes. Pure.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumIter, EnumString, IntoStaticStr};

/// What an engine found out about the bytes of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The engine called every byte clean.
    Clean,
    /// The engine found something.
    Infected {
        /// The engine's name for what it found.
        signature: String,
    },
    /// Neither can be said.
    Unscannable {
        /// Why.
        reason: UnscannableReason,
        /// The engine's own name for it, where it reported one.
        heuristic: Option<String>,
    },
}

impl Verdict {
    /// The engine's name for what it found, or for what kept it from looking.
    pub(crate) fn finding(&self) -> Option<&str> {
        match self {
            Self::Clean => None,
            Self::Infected { signature } => Some(signature),
            Self::Unscannable { heuristic, .. } => heuristic.as_deref(),
        }
    }
}

/// Why an object has no verdict: in reports, metrics and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, EnumIter, IntoStaticStr, Serialize)]
#[strum(serialize_all = "snake_case", const_into_str)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UnscannableReason {
    /// Larger than `VOLUME_SIZE`, or than what the engine takes.
    TooLarge,
    /// It contains something encrypted.
    Encrypted,
    /// Unpacking it exceeds a limit of the engine.
    LimitsExceeded,
    /// Archived, or encrypted with its owner's key.
    Unreadable,
    /// All attempts failed.
    ScanFailed,
}

/// What the tag and the report say.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Display,
    EnumString,
    IntoStaticStr,
    Serialize,
    Deserialize,
)]
#[strum(serialize_all = "snake_case", const_into_str)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// Clean.
    Clean,
    /// Infected.
    Infected,
    /// Not scanned, or not to a verdict.
    No,
    /// Infected, and a person has released it.
    Released,
}

impl From<&Verdict> for Status {
    fn from(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Clean => Self::Clean,
            Verdict::Infected { .. } => Self::Infected,
            Verdict::Unscannable { .. } => Self::No,
        }
    }
}
