//! The rules of `RULES_FILE`: which action follows from which finding. The first rule that matches
//! wins. Pure.
//!
//! A rule chooses an action; it calls no finding clean and skips no scan. Whoever uploads chooses the
//! key, so a rule on the key can only make the action stronger: `relations` refuses any other.

mod draft;
mod file;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod relations;
#[cfg(test)]
mod tests;

use std::fmt;

use strum::{Display, IntoEnumIterator, IntoStaticStr};

use self::relations::Relations;
use super::Action;
use super::glob::Glob;
use crate::config::{PolicySettings, RulesText};
use crate::verdict::{UnscannableReason, Verdict};

/// The rules, checked.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// The file, for people; empty without one.
    pub(crate) path: String,
    list: Vec<Rule>,
    /// What an operator should know about them.
    pub(crate) warnings: Vec<String>,
}

/// One rule. A glob that it does not have matches everything.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) place: Place,
    bucket: Option<Glob>,
    key: Option<Glob>,
    /// Of infected objects.
    signature: Option<Glob>,
    /// Of unscannable ones.
    reason: Option<Glob>,
    infected: Option<Action>,
    unscannable: Option<Action>,
}

/// Where a rule stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// In the list; the first is 1.
    pub(crate) number: usize,
    /// In the file; where it begins.
    pub(crate) line: u64,
}

/// What rules are asked about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) key: &'a str,
    pub(crate) finding: Finding<'a>,
}

/// A verdict that rules are about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Finding<'a> {
    /// By this signature.
    Infected(&'a str),
    Unscannable(UnscannableReason),
}

/// What a rule has an action for; displayed by the name in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Display, IntoStaticStr)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub(crate) enum Kind {
    Infected,
    Unscannable,
}

/// What a rule matches on, by the name in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Display)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Field {
    Bucket,
    Key,
    Signature,
    Reason,
}

/// Why a rule does not apply.
#[derive(Debug)]
pub(crate) enum Miss<'a> {
    /// It has no action for what was found.
    NoAction(Kind),
    /// The name does not match.
    Differs(Field, &'a Glob),
}

/// All that is wrong with the file, a line each.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RuleProblems(Vec<String>);

impl Rules {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// Everything that is wrong with it. Of what is no YAML, or no list of rules, the first; and how
    /// rules relate is checked once each of them is right.
    pub(super) fn new(file: &RulesText, settings: &PolicySettings) -> Result<Self, RuleProblems> {
        let path = file.path.display().to_string();
        let drafts = file::read(&file.text).map_err(|fault| {
            RuleProblems(vec![located(&path, fault.line, fault.number, &fault.complaint)])
        })?;
        let at = |(place, text): &(Place, String)| {
            located(&path, Some(place.line), Some(place.number), text)
        };
        let mut list = Vec::new();
        let mut complaints = Vec::new();
        for draft in &drafts {
            match draft.check(settings) {
                Ok(rule) => list.push(rule),
                Err(wrong) => {
                    complaints.extend(wrong.into_iter().map(|text| (draft.place, text)));
                }
            }
        }
        let Relations { mut refused, warnings } = Relations::of(&list, settings);
        if complaints.is_empty() {
            complaints.append(&mut refused);
        }
        if !complaints.is_empty() {
            return Err(RuleProblems(complaints.iter().map(at).collect()));
        }
        Ok(Self { warnings: warnings.iter().map(at).collect(), path, list })
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The action of the first rule that matches.
    pub(super) fn choose(&self, subject: Subject<'_>) -> Option<Action> {
        self.list.iter().find_map(|rule| rule.apply(subject).ok())
    }

    /// Each rule up to the first that matches, and why it does, or does not.
    pub(crate) fn consider<'a>(
        &'a self,
        subject: Subject<'_>,
    ) -> Vec<(&'a Rule, Result<Action, Miss<'a>>)> {
        let mut matched = false;
        let judged = self.list.iter().map(|rule| (rule, rule.apply(subject)));
        judged.take_while(|(_, judged)| !std::mem::replace(&mut matched, judged.is_ok())).collect()
    }

    /// Whether a rule has such an action.
    pub(super) fn has(&self, such: impl Fn(Action) -> bool) -> bool {
        self.list.iter().flat_map(|rule| [rule.infected, rule.unscannable]).flatten().any(such)
    }
}

impl Rule {
    fn action(&self, kind: Kind) -> Option<Action> {
        match kind {
            Kind::Infected => self.infected,
            Kind::Unscannable => self.unscannable,
        }
    }

    /// Its action, if it matches.
    fn apply(&self, subject: Subject<'_>) -> Result<Action, Miss<'_>> {
        let Subject { bucket, key, finding } = subject;
        let kind = finding.kind();
        let action = self.action(kind).ok_or(Miss::NoAction(kind))?;
        let (field, glob, found) = match finding {
            Finding::Infected(signature) => (Field::Signature, &self.signature, signature),
            Finding::Unscannable(reason) => (Field::Reason, &self.reason, reason.into_str()),
        };
        let names = [
            (Field::Bucket, &self.bucket, bucket),
            (Field::Key, &self.key, key),
            (field, glob, found),
        ];
        for (field, glob, name) in names {
            if let Some(glob) = glob.as_ref().filter(|glob| !glob.matches(name)) {
                return Err(Miss::Differs(field, glob));
            }
        }
        Ok(action)
    }
}

impl<'a> Finding<'a> {
    /// Of a clean object there is none.
    pub(super) fn of(verdict: &'a Verdict) -> Option<Self> {
        match verdict {
            Verdict::Clean => None,
            Verdict::Infected { signature } => Some(Self::Infected(signature)),
            Verdict::Unscannable { reason, .. } => Some(Self::Unscannable(*reason)),
        }
    }

    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Infected(_) => Kind::Infected,
            Self::Unscannable(_) => Kind::Unscannable,
        }
    }
}

/// The reasons that rules are about: an object whose scans failed has no verdict, and is given up by
/// the same steps always.
pub(crate) fn ruled_reasons() -> impl Iterator<Item = UnscannableReason> {
    UnscannableReason::iter().filter(|reason| *reason != UnscannableReason::ScanFailed)
}

/// A line about the file.
fn located(path: &str, line: Option<u64>, number: Option<usize>, text: &str) -> String {
    let line = line.map(|line| format!(":{line}")).unwrap_or_default();
    let rule = number.map(|number| format!(" rule {number}:")).unwrap_or_default();
    format!("RULES_FILE {path}{line}:{rule} {text}")
}

/// What it matches on, for people.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = [
            (Field::Bucket, &self.bucket),
            (Field::Key, &self.key),
            (Field::Signature, &self.signature),
            (Field::Reason, &self.reason),
        ];
        let given = fields.iter().filter_map(|(field, glob)| Some((field, glob.as_ref()?)));
        let texts: Vec<String> = given.map(|(field, glob)| format!("{field} {glob}")).collect();
        f.write_str(if texts.is_empty() { "everything" } else { "" })?;
        f.write_str(&texts.join(", "))
    }
}

impl fmt::Display for Miss<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAction(kind) => write!(f, "has no action for {kind}"),
            Self::Differs(field, glob) => write!(f, "the {field} does not match {glob}"),
        }
    }
}

impl RuleProblems {
    pub(crate) fn lines(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for RuleProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}
