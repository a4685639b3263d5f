//! The `explain` command: which rule decides on a finding, and why. Asks nobody.

use std::process::ExitCode;
use std::str::FromStr;

use super::{BAD_CONFIGURATION, complain, say};
use crate::config::Ruling;
use crate::policy::{Action, Finding, Kind, Policy, Subject, by_default, ruled_reasons};
use crate::verdict::UnscannableReason;

/// A finding in an object.
#[derive(Debug)]
pub struct Question {
    /// The object.
    pub object: ObjectName,
    /// What was found in it.
    pub finding: Found,
}

/// A bucket and a key, as `BUCKET/KEY`. The key as it is, not percent-encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName {
    bucket: String,
    key: String,
}

/// What was found.
#[derive(Debug)]
pub enum Found {
    /// This signature.
    Signature(String),
    /// That it cannot be scanned.
    Unscannable(Reason),
}

/// Why an object could not be scanned, by the name in reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason(UnscannableReason);

impl FromStr for ObjectName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((bucket, key)) if !bucket.is_empty() && !key.is_empty() => {
                Ok(Self { bucket: bucket.to_owned(), key: key.to_owned() })
            }
            _ => Err("expected BUCKET/KEY"),
        }
    }
}

impl FromStr for Reason {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        ruled_reasons().find(|reason| reason.into_str() == text).map(Self).ok_or_else(|| {
            let names: Vec<&str> = ruled_reasons().map(|reason| reason.into_str()).collect();
            format!("expected one of {}", names.join(", "))
        })
    }
}

/// Says what follows from the finding. Fails with 78 for rules that the daemon would refuse.
#[must_use]
pub fn explain(ruling: Ruling, question: &Question) -> ExitCode {
    let policy = match Policy::new(ruling.policy, ruling.rules.as_ref()) {
        Ok(policy) => policy,
        Err(problems) => {
            for line in problems.lines() {
                complain(line);
            }
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    answer(&policy, question).iter().for_each(say);
    ExitCode::SUCCESS
}

fn answer(policy: &Policy, question: &Question) -> Vec<String> {
    let Question { object: ObjectName { bucket, key }, finding } = question;
    let finding = match finding {
        Found::Signature(signature) => Finding::Infected(signature),
        Found::Unscannable(reason) => Finding::Unscannable(reason.0),
    };
    let rules = &policy.rules;
    let mut lines = Vec::new();
    let mut decided = None;
    for (rule, judged) in rules.consider(Subject { bucket, key, finding }) {
        let place = format!("rule {} at {}:{}", rule.place.number, rules.path, rule.place.line);
        match judged {
            Ok(action) => {
                lines.push(format!("{place}: applies to {rule}"));
                decided = Some((action, place));
            }
            Err(miss) => lines.push(format!("{place}: {miss}")),
        }
    }
    let (action, by) = decided.unwrap_or_else(|| {
        let (action, because) = by_default(finding.kind(), &policy.settings);
        let no_rule = if rules.is_empty() { "RULES_FILE is not set" } else { "no rule applies" };
        (action, format!("{because}, since {no_rule}"))
    });
    lines.insert(0, format!("{action}: by {by}"));
    if action == Action::Quarantine && finding.kind() == Kind::Unscannable {
        lines.push(
            "only what is encrypted is moved: too_large, unreadable and limits_exceeded are tagged"
                .to_owned(),
        );
    }
    if action == Action::No && policy.settings.tag_files {
        let text = "an object that has a status already is tagged all the same, so that it does \
                    not stay clean";
        lines.push(text.to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PolicySettings, RulesText};

    fn asked(object: &str, finding: Found) -> Vec<String> {
        let text = "\
- bucket: lab
  infected: no
- signature: PUA.*
  infected: tag
- key: '*.exe'
  infected: delete
";
        let settings = PolicySettings {
            delete_file: false,
            quarantine_bucket: None,
            tag_files: true,
            tag_key: "scanned".to_owned(),
            report_clean: false,
        };
        let rules = RulesText { path: "/r.yaml".into(), text: text.to_owned() };
        let policy = Policy::new(settings, Some(&rules)).unwrap();
        answer(&policy, &Question { object: object.parse().unwrap(), finding })
    }

    fn signature(text: &str) -> Found {
        Found::Signature(text.to_owned())
    }

    #[test]
    fn the_rule_is_named_and_those_before_it_with_what_does_not_match() {
        assert_eq!(
            asked("uploads/a/b.exe", signature("Win.X")),
            [
                "delete: by rule 3 at /r.yaml:5",
                "rule 1 at /r.yaml:1: the bucket does not match lab",
                "rule 2 at /r.yaml:3: the signature does not match PUA.*",
                "rule 3 at /r.yaml:5: applies to key *.exe",
            ]
        );
        let lab = asked("lab/x", signature("Win.X"));
        assert_eq!(
            lab[..2],
            ["no: by rule 1 at /r.yaml:1", "rule 1 at /r.yaml:1: applies to bucket lab"]
        );
        assert!(lab[2].contains("does not stay clean"), "{lab:?}");
    }

    #[test]
    fn without_a_rule_the_settings_are_named() {
        let lines = asked("uploads/x", signature("Win.X"));
        let by = "tag: by DELETE_FILE=false and TAG_FILES=true, since no rule applies";
        assert_eq!((lines[0].as_str(), lines.len()), (by, 4));
        let lines = asked("lab/x", Found::Unscannable("encrypted".parse().unwrap()));
        assert_eq!(lines[0], "tag: by TAG_FILES=true, since no rule applies");
        assert_eq!(lines[1], "rule 1 at /r.yaml:1: has no action for unscannable");
    }

    #[test]
    fn only_names_of_objects_and_reasons_are_taken() {
        for bad in ["", "b", "b/", "/k"] {
            assert!(bad.parse::<ObjectName>().is_err(), "{bad}");
        }
        assert_eq!("b//k".parse::<ObjectName>().unwrap().key, "/k");
        for bad in ["", "Encrypted", "scan_failed", "*"] {
            assert!(bad.parse::<Reason>().unwrap_err().contains("too_large, encrypted"), "{bad}");
        }
    }
}
