//! What must hold of every file of rules, for the fuzzer.

use super::{Finding, Glob, Rule, Subject, ruled_reasons};
use crate::config::{PolicySettings, RulesText};
use crate::policy::{Action, Context, Policy, by_default, plan};
use crate::verdict::{Status, Verdict};

/// Names of each field that are tried: all combinations are.
const MAX_NAMES: usize = 8;

/// A file of rules. It is refused with reasons, or in force: then no key has a weaker action than the
/// rules without keys give, and a finding stays one.
///
/// # Panics
/// When one of these does not hold.
pub fn rules(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    for (delete_file, tag_files) in [(true, true), (false, true), (true, false), (false, false)] {
        let tag_key = "scanned".to_owned();
        let quarantine_bucket = tag_files.then(|| "held".to_owned());
        let settings = PolicySettings {
            delete_file,
            quarantine_bucket,
            tag_files,
            tag_key,
            report_clean: false,
        };
        let file = RulesText { path: "rules".into(), text: text.to_owned() };
        match Policy::new(settings, Some(&file)) {
            Ok(policy) => in_force(&policy),
            Err(problems) => {
                assert!(!problems.lines().is_empty(), "refused without a reason");
                for line in problems.lines() {
                    let one_line = line.starts_with("RULES_FILE rules:") && !line.contains('\n');
                    assert!(one_line, "{line:?}");
                }
            }
        }
    }
}

fn in_force(policy: &Policy) {
    let list = &policy.rules.list;
    assert!(!list.is_empty(), "a file without rules is in force");
    let buckets = names(list, |rule| rule.bucket.as_ref());
    let keys = names(list, |rule| rule.key.as_ref());
    let signatures = names(list, |rule| rule.signature.as_ref());
    let infected = signatures.into_iter().map(|signature| Verdict::Infected { signature });
    let unscannable =
        ruled_reasons().map(|reason| Verdict::Unscannable { reason, heuristic: None });
    let findings: Vec<Verdict> = infected.chain(unscannable).collect();
    for bucket in &buckets {
        for key in &keys {
            let (repeated, pinned, canary) = (false, true, false);
            let (provable, released, surge) = (true, false, None);
            let context =
                Context { bucket, key, repeated, pinned, canary, provable, released, surge };
            let clean = plan(&Verdict::Clean, policy, context);
            let tag = if policy.settings.tag_files { Action::Tag } else { Action::No };
            assert_eq!((clean.status, clean.action), (Status::Clean, tag));
            for verdict in &findings {
                let found = plan(verdict, policy, context);
                assert!(found.report && found.status != Status::Clean, "{verdict:?} became clean");
                let keyless = keyless(policy, bucket, key, verdict);
                assert!(found.action >= keyless, "{bucket:?}/{key:?} weakens {verdict:?}");
            }
        }
    }
}

/// The action by the rules that do not look at the key.
fn keyless(policy: &Policy, bucket: &str, key: &str, verdict: &Verdict) -> Action {
    let Some(finding) = Finding::of(verdict) else { return Action::No };
    let mut keyless = policy.rules.list.iter().filter(|rule| rule.key.is_none());
    let ruled = keyless.find_map(|rule| rule.apply(Subject { bucket, key, finding }).ok());
    ruled.unwrap_or_else(|| by_default(finding.kind(), &policy.settings).0)
}

/// Names that the globs match, and one that hardly any does.
fn names<'a>(list: &'a [Rule], glob: impl Fn(&'a Rule) -> Option<&'a Glob>) -> Vec<String> {
    let mut names = vec!["another".to_owned()];
    for glob in list.iter().filter_map(glob) {
        let text = glob.to_string().replace('?', "x");
        names.extend([text.replace('*', ""), text.replace('*', "xy")]);
    }
    names.truncate(MAX_NAMES);
    names
}
