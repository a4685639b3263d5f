//! What a verdict means for the object. Pure.

use crate::config::PolicySettings;
use crate::scanner::Verdict;

/// What the tag and the report say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Clean,
    Infected,
    /// Not scanned, or not to a verdict.
    No,
}

impl Status {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Infected => "infected",
            Self::No => "no",
        }
    }
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

/// What is done to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing.
    No,
    Tag,
    Delete,
}

impl Action {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Tag => "tag",
            Self::Delete => "delete",
        }
    }
}

/// What follows from a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) status: Status,
    pub(crate) action: Action,
    pub(crate) report: bool,
}

/// What is known of the delivery besides its verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Circumstances {
    /// The object may have been reported before, by an attempt that did not get to its end.
    pub(crate) repeated: bool,
    /// The store said which bytes these are, so that an effect can be sure to reach them.
    pub(crate) pinned: bool,
}

/// Only infected objects are deleted. A repeated delivery reports its verdict even when clean, so
/// that an earlier report of something else cannot stand uncorrected.
pub(crate) fn plan(verdict: &Verdict, settings: &PolicySettings, how: Circumstances) -> Plan {
    let tag = if settings.tag_files && how.pinned { Action::Tag } else { Action::No };
    let status = Status::from(verdict);
    let (action, report) = match verdict {
        Verdict::Clean => (tag, settings.report_clean || how.repeated),
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
    use crate::scanner::Reason;

    #[test]
    fn the_whole_table() {
        use Action::{Delete, No, Tag};
        let infected = Verdict::Infected { signature: "X".to_owned() };
        let unscannable = Verdict::Unscannable { reason: Reason::Encrypted, heuristic: None };
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
                let how = Circumstances { repeated, pinned };
                let plans = [&Verdict::Clean, &infected, &unscannable]
                    .map(|verdict| plan(verdict, &settings, how));
                assert_eq!(plans.map(|p| p.action), actions, "{settings:?} {how:?}");
                assert_eq!(plans.map(|p| p.report), [report_clean || repeated, true, true]);
                assert_eq!(plans.map(|p| p.status), [Status::Clean, Status::Infected, Status::No]);
            }
        }
    }
}
