//! What a verdict means for the object. Pure.

mod glob;
mod rules;

use serde::{Deserialize, Serialize};
use strum::{Display, EnumIter, IntoStaticStr};

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
    EnumIter,
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
mod tests;
