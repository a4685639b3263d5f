//! What a verdict means for the object. Pure.

use serde::{Deserialize, Serialize};
use strum::{Display, IntoStaticStr};

use crate::config::PolicySettings;
use crate::verdict::{Status, Verdict};

/// What is done to the object: in reports and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Display, IntoStaticStr, Serialize, Deserialize)]
#[strum(serialize_all = "snake_case", const_into_str)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// Nothing.
    No,
    /// The status becomes a tag.
    Tag,
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
}

/// Only infected objects are deleted. A repeated delivery is reported even when clean, so that an
/// earlier report that said something else is corrected.
pub(crate) fn plan(verdict: &Verdict, settings: &PolicySettings, context: Context) -> Plan {
    let tag = if settings.tag_files && context.pinned { Action::Tag } else { Action::No };
    let status = Status::from(verdict);
    let (action, report) = match verdict {
        Verdict::Clean => (tag, settings.report_clean || context.repeated),
        Verdict::Infected { .. } if settings.delete_file => (Action::Delete, true),
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
        use Action::{Delete, No, Tag};
        let infected = Verdict::Infected { signature: "X".to_owned() };
        let unscannable =
            Verdict::Unscannable { reason: UnscannableReason::Encrypted, heuristic: None };
        // delete_file, tag_files, pinned: action for clean, infected, unscannable
        let table = [
            (true, true, true, [Tag, Delete, Tag]),
            (true, false, true, [No, Delete, No]),
            (false, true, true, [Tag, Tag, Tag]),
            (false, false, true, [No, No, No]),
            (true, true, false, [No, Delete, No]),
            (true, false, false, [No, Delete, No]),
            (false, true, false, [No, Tag, No]),
            (false, false, false, [No, No, No]),
        ];
        for (delete_file, tag_files, pinned, actions) in table {
            for (report_clean, repeated) in
                [(false, false), (true, false), (false, true), (true, true)]
            {
                let tag_key = "scanned".to_owned();
                let settings = PolicySettings { delete_file, tag_files, tag_key, report_clean };
                let context = Context { repeated, pinned };
                let plans = [&Verdict::Clean, &infected, &unscannable]
                    .map(|verdict| plan(verdict, &settings, context));
                assert_eq!(plans.map(|p| p.action), actions, "{settings:?} {context:?}");
                assert_eq!(plans.map(|p| p.report), [report_clean || repeated, true, true]);
                assert_eq!(plans.map(|p| p.status), [Status::Clean, Status::Infected, Status::No]);
            }
        }
    }
}
