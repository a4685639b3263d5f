//! The state of a sweep between two pages: the body of the one message that it has in its queue.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::selection::{Pass, Selection};
use crate::store::Mark;

/// What somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) bucket: String,
    /// Empty for the whole bucket.
    pub(crate) prefix: String,
    pub(crate) selection: Selection,
    /// Only objects that changed at this time or later, in seconds since 1970.
    pub(crate) uploaded_since: Option<i64>,
    /// Only the current version of each object.
    pub(crate) current_only: bool,
    /// The most objects to announce in a second; `None`: as fast as they are scanned.
    pub(crate) rate: Option<u32>,
}

/// Why a sweep was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Why {
    /// By the command.
    Asked,
    /// By `SWEEP_EVERY`, as the one behind this sweep. Several replicas may ask; the first one is
    /// accepted.
    DueAfter(Option<Uuid>),
}

/// What was done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Objects and versions whose standing was looked at, in the pass that goes on.
    pub(crate) listed: u64,
    /// Of these, or of those of earlier passes, announced to be scanned.
    pub(crate) announced: u64,
    /// Objects whose standing could not be found out. They are announced.
    pub(crate) unknown: u64,
}

/// Where a sweep stands: the page that comes next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) sweep: Uuid,
    /// Grows with each page over all passes; the first is 0.
    pub(crate) page: u64,
    /// When the sweep began, in milliseconds since 1970. What was scanned since then is left out.
    pub(crate) began: i64,
    pub(crate) order: Order,
    pub(crate) why: Why,
    pub(crate) pass: Pass,
    /// Where the page begins.
    pub(crate) from: Mark,
    pub(crate) counts: Counts,
}

impl State {
    /// The first page.
    pub(crate) fn first(began: i64, order: Order, why: Why, receipts: bool) -> Self {
        let (sweep, pass) = (Uuid::new_v4(), Pass::first(receipts));
        let (from, counts) = (Mark::Start, Counts::default());
        Self { sweep, page: 0, began, order, why, pass, from, counts }
    }

    /// The page behind this one, which ends at `end`; `None` if the sweep is done.
    pub(crate) fn next(&self, end: Option<Mark>, counts: Counts) -> Option<Self> {
        let next = Self { page: self.page.saturating_add(1), counts, ..self.clone() };
        match end {
            Some(from) => Some(Self { from, ..next }),
            None => {
                let pass = self.order.selection.pass_after(self.pass)?;
                let counts = Counts { listed: 0, ..counts };
                Some(Self { pass, from: Mark::Start, counts, ..next })
            }
        }
    }
}
