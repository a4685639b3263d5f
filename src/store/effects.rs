//! Tags and deletes exactly the bytes that were scanned.
//!
//! By version id where there is one: it names the same bytes for ever. Otherwise by `ETag`, which
//! is compared right before the effect and, for a tag, right after it. Between comparison and
//! effect somebody may overwrite the object. A store that honours `If-Match` on DELETE closes this
//! window for deletions; S3 has no such condition for tags.
//!
//! A status code alone proves no effect: a proxy may answer 200 to everything while the store is
//! down. An effect counts when the store names what it did, or shows it when asked again.

pub(super) mod compare;
mod delete;
mod tag;

pub(super) use self::delete::refuses_condition;
pub(crate) use self::tag::{KeyValue, MAX_TAGS, Tagged, Tags};

use std::sync::atomic::Ordering;

use super::Store;
use super::fault::Fault;
use crate::failure::{Failure, Stage};

/// The outcome of an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// The scanned bytes carry the tag, or are gone.
    Done,
    /// Other bytes are there now; they were not touched.
    Changed,
    /// The store denies it.
    Denied,
    /// The version is under retention or legal hold.
    Locked,
    /// The object has ten other tags, the most that S3 allows.
    TagSetFull,
    /// The store does not support tags.
    NoTagging,
    /// The store sent nothing that identifies the bytes.
    NoIdentity,
}

impl Store {
    /// The outcome of an effect whose request failed.
    ///
    /// # Errors
    /// When a later attempt may succeed.
    fn effect_of(&self, fault: Fault) -> Result<Applied, Failure> {
        match fault {
            Fault::Gone | Fault::NotFound(_) | Fault::Changed => Ok(Applied::Changed),
            Fault::Denied(_) => Ok(Applied::Denied),
            Fault::Locked(_) => Ok(Applied::Locked),
            // A store that has shown tags before supports them; only this object cannot be tagged.
            Fault::Unsupported(failure)
                if failure.stage == Stage::Tag && !self.has_tags.load(Ordering::Relaxed) =>
            {
                if !self.warned_no_tags.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        detail = failure.detail,
                        "this store has no tags: verdicts are reported only; set TAG_FILES=false"
                    );
                }
                Ok(Applied::NoTagging)
            }
            fault => Err(fault.into_failure()),
        }
    }
}
