//! How rules relate: which of them weaken what others would do, and which never apply.

use super::{Kind, Place, Rule, ruled_reasons};
use crate::config::PolicySettings;
use crate::policy::glob::Glob;
use crate::policy::{Action, by_default};
use crate::verdict::UnscannableReason;

/// What there is to say about a list of rules.
pub(super) struct Relations {
    pub(super) refused: Vec<(Place, String)>,
    pub(super) warnings: Vec<(Place, String)>,
}

impl Relations {
    pub(super) fn of(rules: &[Rule], settings: &PolicySettings) -> Self {
        let mut found = Self { refused: Vec::new(), warnings: Vec::new() };
        for (at, rule) in rules.iter().enumerate() {
            if let Some(place) = dead(rule, &rules[..at]) {
                let text = format!("never applies: rule {} comes first", place.number);
                found.warnings.push((rule.place, text));
            }
            for kind in [Kind::Infected, Kind::Unscannable] {
                let Some(action) = rule.action(kind) else { continue };
                if let Some((other, by)) = stronger(rule, action, &rules[at + 1..], kind, settings)
                {
                    found.weakening(rule, kind, action, other, &by);
                }
            }
        }
        found
    }

    /// The rule says `action`, where without it `other` would follow, which is stronger.
    fn weakening(&mut self, rule: &Rule, kind: Kind, action: Action, other: Action, by: &str) {
        if rule.key.is_some() {
            let text = format!(
                "the uploader chooses the key, so a rule on it can only make the action stronger: \
                 {kind} is {action} here, and {other} by {by}"
            );
            return self.refused.push((rule.place, text));
        }
        let (named, chosen) = match kind {
            Kind::Infected => (
                rule.signature.is_some(),
                "signature: of a file with several findings the engine names one, so an uploader \
                 may choose it",
            ),
            Kind::Unscannable => (rule.reason.is_some(), "reason, which an uploader may choose"),
        };
        if named {
            let text = format!("weakens by {chosen}; {kind} is {action} here, and {other} by {by}");
            self.warnings.push((rule.place, text));
        }
    }
}

/// The strongest action above `action` that could follow without the rule, and what says so.
fn stronger(
    rule: &Rule,
    action: Action,
    behind: &[Rule],
    kind: Kind,
    settings: &PolicySettings,
) -> Option<(Action, String)> {
    let mut strongest = (action, String::new());
    for other in behind {
        let Some(theirs) = other.action(kind) else { continue };
        if theirs > strongest.0 && overlap(rule, other, kind) {
            strongest =
                (theirs, format!("rule {} in line {}", other.place.number, other.place.line));
        }
        if covers(other, rule, kind) {
            return (strongest.0 > action).then_some(strongest);
        }
    }
    let (theirs, because) = by_default(kind, settings);
    if theirs > strongest.0 {
        strongest = (theirs, because.to_owned());
    }
    (strongest.0 > action).then_some(strongest)
}

/// A rule before this one that leaves it nothing.
fn dead(rule: &Rule, before: &[Rule]) -> Option<Place> {
    let mut last = None;
    for kind in [Kind::Infected, Kind::Unscannable] {
        if rule.action(kind).is_some() {
            let covers = |other: &&Rule| other.action(kind).is_some() && covers(other, rule, kind);
            last = Some(before.iter().find(covers)?.place);
        }
    }
    last
}

/// Whether there may be an object that both match.
fn overlap(one: &Rule, other: &Rule, kind: Kind) -> bool {
    let names = |one: Option<&Glob>, other: Option<&Glob>| match (one, other) {
        (Some(one), Some(other)) => one.overlaps(other),
        _ => true,
    };
    names(one.bucket.as_ref(), other.bucket.as_ref())
        && names(one.key.as_ref(), other.key.as_ref())
        && match kind {
            Kind::Infected => names(one.signature.as_ref(), other.signature.as_ref()),
            Kind::Unscannable => ruled_reasons().any(|reason| of(one, reason) && of(other, reason)),
        }
}

/// Whether `general` certainly matches all that `special` does.
fn covers(general: &Rule, special: &Rule, kind: Kind) -> bool {
    let names = |general: Option<&Glob>, special: Option<&Glob>| match (general, special) {
        (None, _) => true,
        (Some(general), Some(special)) => general.covers(special),
        (Some(general), None) => general.covers(&Glob::new("*")),
    };
    names(general.bucket.as_ref(), special.bucket.as_ref())
        && names(general.key.as_ref(), special.key.as_ref())
        && match kind {
            Kind::Infected => names(general.signature.as_ref(), special.signature.as_ref()),
            Kind::Unscannable => {
                ruled_reasons().all(|reason| of(general, reason) || !of(special, reason))
            }
        }
}

/// Whether the rule is about this reason.
fn of(rule: &Rule, reason: UnscannableReason) -> bool {
    rule.reason.as_ref().is_none_or(|glob| glob.matches(reason.into_str()))
}
