//! What a verdict means for the object. Pure.

use serde::{Deserialize, Serialize};
use strum::{Display, IntoStaticStr};

use crate::config::PolicySettings;
use crate::verdict::{Status, Verdict};

/// What is done to the object, weakest first: in reports and the log.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Display,
    IntoStaticStr,
    Serialize,
    Deserialize,
)]
#[strum(serialize_all = "snake_case", const_into_str)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// Nothing.
    No,
    /// The status becomes a tag.
    Tag,
    /// The exact version is copied into the quarantine bucket, and deleted where it was.
    Quarantine,
    /// The exact version is deleted.
    Delete,
}

/// What follows from a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) status: Status,
    pub(crate) action: Action,
    pub(crate) report: bool,
}

/// What is known besides the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Context {
    /// The object may have been reported before, by an attempt that was interrupted.
    pub(crate) repeated: bool,
    /// The store identified the bytes, so that an effect can be limited to them.
    pub(crate) pinned: bool,
    /// It is a canary of our own, which nobody wants back.
    pub(crate) canary: bool,
}

impl Action {
    /// Whether it takes the object away from where it was.
    pub(crate) const fn removes(self) -> bool {
        matches!(self, Self::Quarantine | Self::Delete)
    }
}

/// Only infected objects are moved or deleted. A repeated delivery is reported even when clean, so that an
/// earlier report that said something else is corrected.
pub(crate) fn plan(verdict: &Verdict, settings: &PolicySettings, context: Context) -> Plan {
    let tag = if settings.tag_files && context.pinned { Action::Tag } else { Action::No };
    let status = Status::from(verdict);
    let (action, report) = match verdict {
        Verdict::Clean => (tag, settings.report_clean || context.repeated),
        Verdict::Infected { .. } if settings.delete_file => {
            let kept = settings.quarantine_bucket.is_some() && !context.canary;
            (if kept { Action::Quarantine } else { Action::Delete }, true)
        }
        // Unlike the other two an infected object that cannot be tagged is worth a failure.
        Verdict::Infected { .. } if settings.tag_files => (Action::Tag, true),
        Verdict::Infected { .. } => (Action::No, true),
        Verdict::Unscannable { .. } => (tag, true),
    };
    Plan { status, action, report }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::UnscannableReason;

    #[test]
    fn the_whole_table() {
        use Action::{Delete, No, Quarantine, Tag};
        let infected = Verdict::Infected { signature: "X".to_owned() };
        let unscannable =
            Verdict::Unscannable { reason: UnscannableReason::Encrypted, heuristic: None };
        // delete_file, quarantine_bucket, tag_files, pinned, canary: action for clean, infected,
        // unscannable
        let table = [
            (true, false, true, true, false, [Tag, Delete, Tag]),
            (true, false, false, true, false, [No, Delete, No]),
            (true, false, true, false, false, [No, Delete, No]),
            (true, false, false, false, false, [No, Delete, No]),
            (true, false, true, true, true, [Tag, Delete, Tag]),
            (true, false, false, true, true, [No, Delete, No]),
            (true, false, true, false, true, [No, Delete, No]),
            (true, false, false, false, true, [No, Delete, No]),
            (true, true, true, true, false, [Tag, Quarantine, Tag]),
            (true, true, false, true, false, [No, Quarantine, No]),
            (true, true, true, false, false, [No, Quarantine, No]),
            (true, true, false, false, false, [No, Quarantine, No]),
            (true, true, true, true, true, [Tag, Delete, Tag]),
            (true, true, false, true, true, [No, Delete, No]),
            (true, true, true, false, true, [No, Delete, No]),
            (true, true, false, false, true, [No, Delete, No]),
            (false, false, true, true, false, [Tag, Tag, Tag]),
            (false, false, false, true, false, [No, No, No]),
            (false, false, true, false, false, [No, Tag, No]),
            (false, false, false, false, false, [No, No, No]),
            (false, false, true, true, true, [Tag, Tag, Tag]),
            (false, false, false, true, true, [No, No, No]),
            (false, false, true, false, true, [No, Tag, No]),
            (false, false, false, false, true, [No, No, No]),
            // Without DELETE_FILE the quarantine bucket changes nothing.
            (false, true, true, true, false, [Tag, Tag, Tag]),
            (false, true, false, true, false, [No, No, No]),
            (false, true, true, false, false, [No, Tag, No]),
            (false, true, false, false, false, [No, No, No]),
            (false, true, true, true, true, [Tag, Tag, Tag]),
            (false, true, false, true, true, [No, No, No]),
            (false, true, true, false, true, [No, Tag, No]),
            (false, true, false, false, true, [No, No, No]),
        ];
        for (delete_file, quarantine, tag_files, pinned, canary, actions) in table {
            for (report_clean, repeated) in
                [(false, false), (true, false), (false, true), (true, true)]
            {
                let settings = PolicySettings {
                    delete_file,
                    quarantine_bucket: quarantine.then(|| "quarantine".to_owned()),
                    tag_files,
                    tag_key: "scanned".to_owned(),
                    report_clean,
                };
                let context = Context { repeated, pinned, canary };
                let plans = [&Verdict::Clean, &infected, &unscannable]
                    .map(|verdict| plan(verdict, &settings, context));
                assert_eq!(plans.map(|p| p.action), actions, "{settings:?} {context:?}");
                assert_eq!(plans.map(|p| p.report), [report_clean || repeated, true, true]);
                assert_eq!(plans.map(|p| p.status), [Status::Clean, Status::Infected, Status::No]);
            }
        }
    }

    #[test]
    fn actions_are_ordered_by_what_they_do_to_the_object() {
        assert!(Action::No < Action::Tag);
        assert!(Action::Tag < Action::Quarantine);
        assert!(Action::Quarantine < Action::Delete);
    }
}
