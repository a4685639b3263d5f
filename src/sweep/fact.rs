//! What the journal says of sweeps.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::state::{Counts, Order, State, Why};

/// An entry of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub(crate) enum Fact {
    /// A sweep is accepted.
    #[serde(rename = "sweep_begun")]
    Begun {
        sweep: Uuid,
        /// When it was asked for, in milliseconds since 1970.
        at: i64,
        order: Order,
        why: Why,
    },
    /// A sweep is not accepted: this one of the same bucket goes on, or was the one that was due.
    #[serde(rename = "sweep_refused")]
    Refused { sweep: Uuid, because_of: Uuid },
    /// A page was read, and everything that it calls for is in the backlog.
    #[serde(rename = "sweep_paged")]
    Paged {
        sweep: Uuid,
        page: u64,
        counts: Counts,
        /// The page that comes next; absent when the sweep is done.
        next: Option<Box<State>>,
    },
    /// It ended before it was done.
    #[serde(rename = "sweep_ended")]
    Ended { sweep: Uuid, end: End },
}

/// How a sweep ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    Done,
    Cancelled,
    Failed(String),
}
