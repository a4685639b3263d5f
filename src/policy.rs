//! What a verdict means for the object. Pure.

mod glob;
mod rules;

use serde::{Deserialize, Serialize};
use strum::{Display, IntoStaticStr};

pub(crate) use self::glob::Glob;
#[cfg(any(test, fuzzing))]
pub(crate) use self::rules::fuzzing;
pub(crate) use self::rules::{Finding, Kind, RuleProblems, Rules, Subject, ruled_reasons};
use crate::config::{PolicySettings, RulesText};
use crate::verdict::{Status, Verdict};

/// What is done to the object: in reports and the log. The weakest first.
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

/// A surge of the signature that was found: so many contents by it that it may be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Surge {
    /// Deletions are held.
    Held,
    /// They go on.
    Alarm,
}

/// What decides on actions: rules, and the settings for what no rule matches.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) settings: PolicySettings,
    pub(crate) rules: Rules,
}

/// What follows from a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) status: Status,
    pub(crate) action: Action,
    pub(crate) report: bool,
    /// A deletion that is held and not replaced by a move: it waits for a person.
    pub(crate) parked: bool,
}

/// What is known besides the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Context<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) key: &'a str,
    /// The object may have been reported before, by an attempt that was interrupted.
    pub(crate) repeated: bool,
    /// The store identified the bytes, so that an effect can be limited to them.
    pub(crate) pinned: bool,
    /// It is a canary of our own, which nobody wants back.
    pub(crate) canary: bool,
    /// The bytes were read, the engine named what it found or what kept it from looking, and it would
    /// do so again: what was moved can be told and proved.
    pub(crate) provable: bool,
    /// A person has released this finding in these bytes.
    pub(crate) released: bool,
    /// The signature is in a surge.
    pub(crate) surge: Option<Surge>,
}

impl Action {
    /// Whether it takes the object away from where it was.
    pub(crate) const fn removes(self) -> bool {
        matches!(self, Self::Quarantine | Self::Delete)
    }
}

impl Policy {
    /// Reads the rules, if there are any.
    ///
    /// # Errors
    /// When they cannot be used.
    pub(crate) fn new(
        settings: PolicySettings,
        rules: Option<&RulesText>,
    ) -> Result<Self, RuleProblems> {
        let rules = rules.map(|text| Rules::new(text, &settings)).transpose()?.unwrap_or_default();
        Ok(Self { settings, rules })
    }

    /// Whether objects may be taken away from where they are.
    pub(crate) fn may_remove(&self) -> bool {
        self.settings.delete_file || self.rules.has(Action::removes)
    }

    /// Whether objects may be deleted that are kept nowhere.
    pub(crate) fn may_delete(&self) -> bool {
        let by_settings = self.settings.delete_file && self.settings.quarantine_bucket.is_none();
        by_settings || self.rules.has(|action| action == Action::Delete)
    }

    /// The bucket that objects may be moved to.
    pub(crate) fn quarantine(&self) -> Option<&str> {
        let bucket = self.settings.quarantine_bucket.as_deref()?;
        let by_settings = self.settings.delete_file;
        // A deletion that a surge holds becomes a move.
        let may_move = by_settings || self.rules.has(Action::removes);
        may_move.then_some(bucket)
    }
}

/// Only infected objects are moved or deleted, and not what a person has released. A repeated delivery is reported even when clean, so
/// that an earlier report that said something else is corrected.
pub(crate) fn plan(verdict: &Verdict, policy: &Policy, context: Context<'_>) -> Plan {
    let Policy { settings, rules } = policy;
    let Context { bucket, key, repeated, pinned, canary, provable, released, surge } = context;
    let finding = Finding::of(verdict);
    let mut parked = false;
    let action = match finding {
        // The finding stays one, and is reported.
        Some(_) if released => Action::Tag,
        None if settings.tag_files && pinned => Action::Tag,
        None => Action::No,
        Some(finding) => {
            let kind = finding.kind();
            let chosen = rules.choose(Subject { bucket, key, finding });
            let action = chosen.unwrap_or_else(|| by_default(kind, settings).0);
            let action = match (kind, action) {
                // One that is too large was not read, and stays where it is.
                (Kind::Unscannable, Action::Quarantine) if !provable || !pinned => {
                    by_default(kind, settings).0
                }
                (_, action) => action,
            };
            // Unlike the other two an infected object that cannot be tagged is worth a failure.
            let left = kind == Kind::Unscannable && action == Action::Tag && !pinned;
            match action {
                Action::Quarantine if canary => Action::Delete,
                Action::Delete if surge == Some(Surge::Held) && !canary => {
                    let held = held(settings);
                    parked = !held.removes();
                    held
                }
                _ if left => Action::No,
                action => action,
            }
        }
    };
    let report = finding.is_some() || settings.report_clean || repeated;
    let status =
        if released && finding.is_some() { Status::Released } else { Status::from(verdict) };
    Plan { status, action, report, parked }
}

/// The action instead of a deletion that is held.
fn held(settings: &PolicySettings) -> Action {
    match (&settings.quarantine_bucket, settings.tag_files) {
        (Some(_), _) => Action::Quarantine,
        (None, true) => Action::Tag,
        (None, false) => Action::No,
    }
}

/// The action that no rule chose, and the settings that say so.
pub(crate) fn by_default(kind: Kind, settings: &PolicySettings) -> (Action, &'static str) {
    match (kind, settings.delete_file, settings.tag_files) {
        (Kind::Infected, true, _) if settings.quarantine_bucket.is_some() => {
            (Action::Quarantine, "DELETE_FILE=true and QUARANTINE_BUCKET")
        }
        (Kind::Infected, true, _) => (Action::Delete, "DELETE_FILE=true"),
        (Kind::Infected, false, true) => (Action::Tag, "DELETE_FILE=false and TAG_FILES=true"),
        (Kind::Infected, false, false) => (Action::No, "DELETE_FILE=false and TAG_FILES=false"),
        (Kind::Unscannable, _, true) => (Action::Tag, "TAG_FILES=true"),
        (Kind::Unscannable, _, false) => (Action::No, "TAG_FILES=false"),
    }
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
                let policy = Policy::new(settings, None).unwrap();
                let (released, surge) = (false, None);
                let (bucket, key, provable) = ("b", "k", true);
                let context =
                    Context { bucket, key, repeated, pinned, canary, provable, released, surge };
                let plans = [&Verdict::Clean, &infected, &unscannable]
                    .map(|verdict| plan(verdict, &policy, context));
                assert_eq!(plans.map(|p| p.action), actions, "{policy:?} {context:?}");
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

    #[test]
    fn rules_come_before_the_settings_and_change_no_status_and_no_report() {
        use Action::{Delete, No, Quarantine, Tag};
        let policy = |delete_file, text: &str| {
            let settings = PolicySettings {
                delete_file,
                quarantine_bucket: Some("held".to_owned()),
                tag_files: true,
                tag_key: "scanned".to_owned(),
                report_clean: false,
            };
            let rules = RulesText { path: "rules.yaml".into(), text: text.to_owned() };
            Policy::new(settings, Some(&rules)).unwrap()
        };
        let infected = |signature: &str| Verdict::Infected { signature: signature.to_owned() };
        let encrypted =
            Verdict::Unscannable { reason: UnscannableReason::Encrypted, heuristic: None };
        // DELETE_FILE, rules, finding, action where the bytes are identified, and where they are not.
        let table = [
            (true, "- {signature: PUA.*, infected: tag}", infected("PUA.X"), Tag, Tag),
            (true, "- {signature: PUA.*, infected: no}", infected("PUA.X"), No, No),
            (
                true,
                "- {signature: PUA.*, infected: tag}",
                infected("Win.X"),
                Quarantine,
                Quarantine,
            ),
            (true, "- {signature: PUA.*, infected: delete}", infected("PUA.X"), Delete, Delete),
            (
                false,
                "- {signature: Win.*, infected: quarantine}",
                infected("Win.X"),
                Quarantine,
                Quarantine,
            ),
            (false, "- {signature: Win.*, infected: delete}", infected("Win.X"), Delete, Delete),
            (false, "- {signature: Win.*, infected: delete}", infected("PUA.X"), Tag, Tag),
            (true, "- {bucket: b, unscannable: no}", encrypted.clone(), No, No),
            (true, "- {bucket: b, unscannable: tag}", encrypted.clone(), Tag, No),
            (true, "- {bucket: c, unscannable: no}", encrypted, Tag, No),
            (true, "- {infected: no, unscannable: no}", Verdict::Clean, Tag, No),
        ];
        for (delete_file, text, verdict, pinned, unpinned) in table {
            let policy = policy(delete_file, text);
            for (pinned, action) in [(true, pinned), (false, unpinned)] {
                let (bucket, key, repeated, canary) = ("b", "k", false, false);
                let (released, surge) = (false, None);
                let provable = true;
                let context =
                    Context { bucket, key, repeated, pinned, canary, provable, released, surge };
                let (status, report) = (Status::from(&verdict), verdict != Verdict::Clean);
                let expected = Plan { status, action, report, parked: false };
                assert_eq!(plan(&verdict, &policy, context), expected, "{text} {verdict:?}");
            }
        }
    }

    #[test]
    fn what_was_not_scanned_is_moved_only_where_its_copy_can_be_proved() {
        use Action::{No, Quarantine, Tag};
        let reason = UnscannableReason::Encrypted;
        let verdict = Verdict::Unscannable { reason, heuristic: Some("Heuristics.X".to_owned()) };
        let rules = RulesText { path: "r".into(), text: "- unscannable: quarantine".to_owned() };
        let table = [
            (true, true, true, Quarantine),
            (true, true, false, Quarantine),
            (true, false, true, Tag),
            (true, false, false, No),
            (false, true, true, No),
            (false, false, false, No),
        ];
        for (pinned, provable, tag_files, action) in table {
            let settings = PolicySettings {
                delete_file: false,
                quarantine_bucket: Some("held".to_owned()),
                tag_files,
                tag_key: "scanned".to_owned(),
                report_clean: false,
            };
            let policy = Policy::new(settings, Some(&rules)).unwrap();
            assert_eq!(policy.quarantine(), Some("held"));
            let (bucket, key, repeated, canary) = ("b", "k", false, false);
            let (released, surge) = (false, Some(Surge::Held));
            let context =
                Context { bucket, key, repeated, pinned, canary, provable, released, surge };
            let plan = plan(&verdict, &policy, context);
            assert_eq!((plan.action, plan.status, plan.parked), (action, Status::No, false));
        }
    }

    #[test]
    fn a_surge_holds_deletions_and_nothing_else() {
        use Action::{Delete, No, Quarantine, Tag};
        let infected = |signature: &str| Verdict::Infected { signature: signature.to_owned() };
        let encrypted =
            Verdict::Unscannable { reason: UnscannableReason::Encrypted, heuristic: None };
        let plans = |delete_file, quarantine: bool, tag_files, verdict: &Verdict, canary| {
            let settings = PolicySettings {
                delete_file,
                quarantine_bucket: quarantine.then(|| "held".to_owned()),
                tag_files,
                tag_key: "scanned".to_owned(),
                report_clean: false,
            };
            let text = "- {signature: Gone.*, infected: delete}";
            let rules = RulesText { path: "rules.yaml".into(), text: text.to_owned() };
            let policy = Policy::new(settings, Some(&rules)).unwrap();
            let (bucket, key, repeated, pinned) = ("b", "k", false, true);
            [None, Some(Surge::Alarm), Some(Surge::Held)].map(|surge| {
                let context = Context {
                    bucket,
                    key,
                    repeated,
                    pinned,
                    canary,
                    provable: true,
                    released: false,
                    surge,
                };
                let plan = plan(verdict, &policy, context);
                (plan.action, plan.parked)
            })
        };
        let (any, gone) = (infected("Any"), infected("Gone.X"));
        // DELETE_FILE, a quarantine, TAG_FILES, verdict, a canary: the action; and where it is held.
        let table = [
            (true, false, true, &any, false, Delete, (Tag, true)),
            (true, false, false, &any, false, Delete, (No, true)),
            (true, true, true, &any, false, Quarantine, (Quarantine, false)),
            (true, true, true, &gone, false, Delete, (Quarantine, false)),
            (false, true, true, &gone, false, Delete, (Quarantine, false)),
            (false, false, true, &gone, false, Delete, (Tag, true)),
            (false, false, true, &any, false, Tag, (Tag, false)),
            (true, false, true, &any, true, Delete, (Delete, false)),
            (true, true, true, &any, true, Delete, (Delete, false)),
            (true, false, true, &encrypted, false, Tag, (Tag, false)),
            (true, false, true, &Verdict::Clean, false, Tag, (Tag, false)),
        ];
        for (delete_file, quarantine, tag_files, verdict, canary, action, held) in table {
            let plans = plans(delete_file, quarantine, tag_files, verdict, canary);
            let case = format!("{delete_file} {quarantine} {tag_files} {verdict:?} {canary}");
            assert_eq!(plans, [(action, false), (action, false), held], "{case}");
        }
    }

    #[test]
    fn a_released_finding_is_tagged_and_reported_whatever_else_decides() {
        let rules = RulesText {
            path: "rules.yaml".into(),
            text: "- {signature: Win.*, infected: delete}".to_owned(),
        };
        for delete_file in [true, false] {
            let settings = PolicySettings {
                delete_file,
                quarantine_bucket: Some("held".to_owned()),
                tag_files: true,
                tag_key: "scanned".to_owned(),
                report_clean: false,
            };
            let policy = Policy::new(settings, Some(&rules)).unwrap();
            let (bucket, key, repeated, pinned, canary) = ("b", "k", false, true, false);
            let (released, surge) = (true, Some(Surge::Held));
            let provable = true;
            let context =
                Context { bucket, key, repeated, pinned, canary, provable, released, surge };
            let plan_of = |verdict: &Verdict| plan(verdict, &policy, context);
            for signature in ["Win.X", "PUA.X"] {
                let (status, action) = (Status::Released, Action::Tag);
                let expected = Plan { status, action, report: true, parked: false };
                let verdict = Verdict::Infected { signature: signature.to_owned() };
                assert_eq!(plan_of(&verdict), expected);
            }
            assert_eq!(plan_of(&Verdict::Clean).status, Status::Clean);
        }
    }
}
