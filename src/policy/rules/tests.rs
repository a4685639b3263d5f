use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::policy::by_default;

fn settings(delete_file: bool, tag_files: bool) -> PolicySettings {
    PolicySettings {
        delete_file,
        quarantine_bucket: None,
        tag_files,
        tag_key: "scanned".to_owned(),
        report_clean: false,
    }
}

fn read(text: &str, settings: &PolicySettings) -> Result<Rules, Vec<String>> {
    let file = RulesText { path: "/r.yaml".into(), text: text.to_owned() };
    Rules::new(&file, settings).map_err(|problems| problems.0)
}

fn rules(text: &str) -> Rules {
    read(text, &settings(true, true)).unwrap()
}

fn problems(text: &str) -> Vec<String> {
    read(text, &settings(true, true)).unwrap_err()
}

fn infected<'a>(bucket: &'a str, key: &'a str, signature: &'a str) -> Subject<'a> {
    Subject { bucket, key, finding: Finding::Infected(signature) }
}

fn unscannable<'a>(bucket: &'a str, key: &'a str, reason: UnscannableReason) -> Subject<'a> {
    Subject { bucket, key, finding: Finding::Unscannable(reason) }
}

#[test]
fn the_first_rule_that_matches_wins() {
    use UnscannableReason::{Encrypted, TooLarge, Unreadable};
    let rules = rules(
        "
- bucket: lab
  key: '*.exe'
  infected: delete
- bucket: lab
  infected: no
  unscannable: no
- {signature: PUA.*, infected: tag}
- {reason: too_*, unscannable: no}
- {bucket: mail, infected: tag, unscannable: tag}
",
    );
    for (subject, expected) in [
        (infected("lab", "a/b.exe", "Win.X"), Some(Action::Delete)),
        // All globs of a rule have to match.
        (infected("mail", "a/b.exe", "Win.X"), Some(Action::Tag)),
        (infected("lab", "a/b.txt", "PUA.X"), Some(Action::No)),
        (infected("uploads", "x", "PUA.X"), Some(Action::Tag)),
        // The case counts.
        (infected("uploads", "x", "pua.x"), None),
        (infected("uploads", "x", "Win.X"), None),
        (unscannable("uploads", "x", TooLarge), Some(Action::No)),
        (unscannable("uploads", "x", Encrypted), None),
        (unscannable("mail", "x", Encrypted), Some(Action::Tag)),
        // The first rule has no action for it.
        (unscannable("lab", "b.exe", Unreadable), Some(Action::No)),
    ] {
        assert_eq!(rules.choose(subject), expected, "{subject:?}");
    }
}

#[test]
fn yaml_keeps_what_is_written() {
    let rules =
        rules("- {bucket: 00123, key: yes, infected: delete}\n- {signature: 1e5, infected: no}");
    assert_eq!(rules.choose(infected("00123", "yes", "x")), Some(Action::Delete));
    assert_eq!(rules.choose(infected("b", "k", "1e5")), Some(Action::No));
    assert_eq!(rules.choose(infected("123", "true", "100000")), None);
}

#[test]
fn what_is_wrong_is_told_with_file_line_and_rule() {
    let long = format!("- infected: no\n- key: {}\n  infected: delete", "x".repeat(1025));
    let many = "- infected: delete\n".repeat(201);
    let at = "RULES_FILE /r.yaml";
    for (text, expected) in [
        ("", ": holds no rules"),
        ("# nothing", ": holds no rules"),
        ("[]", ": holds no rules"),
        ("rules: []", ":1: "),
        ("- infected: no\n- x", ":2: rule 2: "),
        ("- infected: no\n- bucket: [a]\n  infected: no", ":2: rule 2: "),
        ("- infected: no\n- infected: no\n  bukcet: b", ":3: rule 2: unknown field `bukcet`"),
        ("- bucket: a\n  infected: no\n  bucket: b", ":3: rule 1: duplicate"),
        // An empty field must not widen the rule.
        ("- bucket: ~\n  infected: no", ":1: rule 1: "),
        ("- infected: no\n  bucket:\n", ":2: rule 1: "),
        ("- bucket: ''\n  infected: no", ":1: rule 1: bucket must have 1 to 1024 characters"),
        (&long, ":2: rule 2: key must have 1 to 1024 characters"),
        ("- infected: no\n---\n- infected: tag", ":3: "),
        ("- infected: no\n infected: tag", ":2: "),
        ("- infected: \"no", ":1: rule 1: "),
        ("- *x", ":1: "),
        (&many, ":201: rule 201: is more than the 200"),
        ("- bucket: b", ":1: rule 1: needs an action: infected, unscannable, or both"),
        ("- infected: ignore", ":1: rule 1: infected must be one of no, tag, quarantine, delete"),
        ("- infected: No", ":1: rule 1: infected must be one of"),
        ("- infected: false", ":1: rule 1: infected must be one of"),
        ("- unscannable: clean", ":1: rule 1: unscannable must be one of"),
        ("- unscannable: delete", ":1: rule 1: unscannable: delete is not for what could not"),
        (
            "- {bucket: b, infected: quarantine}",
            ":1: rule 1: infected: quarantine needs QUARANTINE_BUCKET",
        ),
        (
            "- unscannable: quarantine",
            ":1: rule 1: unscannable: quarantine needs QUARANTINE_BUCKET",
        ),
        ("- {reason: '*', signature: '*', infected: no}", ":1: rule 1: has signature, which"),
        ("- {signature: x, unscannable: no}", ":1: rule 1: signature is not known of unscannable"),
        ("- {reason: encrypted, infected: no}", ":1: rule 1: reason is not known of infected"),
        ("- {reason: Encrypted, unscannable: no}", ":1: rule 1: reason matches none of too_large"),
        // It is no verdict.
        ("- {reason: scan_failed, unscannable: no}", ":1: rule 1: reason matches none of"),
    ] {
        let problems = problems(text);
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        assert!(problems[0].starts_with(&format!("{at}{expected}")), "{text}: {problems:?}");
        assert!(!problems[0].contains('\n'), "{problems:?}");
    }
    let several = problems("- {bucket: '', infected: x}\n\n- unscannable: quarantine");
    let of = |text: &str| several.iter().filter(|problem| problem.contains(text)).count();
    assert_eq!((several.len(), of(":1: rule 1:"), of(":3: rule 2:")), (3, 2, 1), "{several:?}");
    let bucket =
        PolicySettings { quarantine_bucket: Some("held".to_owned()), ..settings(false, true) };
    assert!(read("- infected: quarantine\n  unscannable: quarantine", &bucket).is_ok());
    let weaker = read("- {key: x, infected: quarantine}\n- infected: delete", &bucket).unwrap_err();
    assert!(weaker[0].contains("infected is quarantine here, and delete by rule 2"), "{weaker:?}");
    let untagged = read("- infected: tag", &settings(true, false)).unwrap_err();
    assert_eq!(untagged, [format!("{at}:1: rule 1: infected: tag needs TAG_FILES=true")]);
}

#[test]
fn a_rule_on_the_key_that_weakens_is_refused() {
    // DELETE_FILE, the rules, and whether they are refused.
    let table = [
        (true, "- {key: tmp/*, infected: tag}", true),
        (true, "- {key: tmp/*, infected: no}", true),
        (true, "- {key: tmp/*, infected: delete}", false),
        (true, "- {key: '*', infected: no}", true),
        (true, "- {bucket: b, key: x, signature: PUA.X, infected: tag}", true),
        (false, "- {key: tmp/*, infected: delete}", false),
        (false, "- {key: tmp/*, infected: tag}", false),
        (false, "- {key: tmp/*, infected: no}", true),
        (true, "- {key: tmp/*, unscannable: tag}", false),
        (true, "- {key: tmp/*, unscannable: no}", true),
        // The rule behind it decides, where it covers all.
        (
            true,
            "- {key: '*.exe', signature: PUA.*, infected: tag}\n- {signature: PUA.*, infected: no}",
            false,
        ),
        (
            true,
            "- {key: '*.exe', signature: PUA.X, infected: tag}\n- {signature: PUA.*, infected: no}",
            false,
        ),
        (
            true,
            "- {key: '*.exe', signature: PUA.*, infected: tag}\n- {signature: PUA.X, infected: no}",
            true,
        ),
        (true, "- {bucket: lab, key: x*, infected: tag}\n- {bucket: la?, infected: no}", false),
        (true, "- {bucket: la?, key: x*, infected: tag}\n- {bucket: lab, infected: no}", true),
        // A stronger rule behind it that may match the same object, on the key or not.
        (false, "- {key: a*, infected: tag}\n- {signature: Win.*, infected: delete}", true),
        (false, "- {key: a*, infected: tag}\n- {key: '*z', infected: delete}", true),
        (false, "- {key: a*, infected: tag}\n- {key: b*, infected: delete}", false),
        (
            false,
            "- {key: a*, bucket: x, infected: tag}\n- {key: a*, bucket: y, infected: delete}",
            false,
        ),
        (
            false,
            "- {key: a*, signature: PUA.*, infected: tag}\n- {signature: Win.*, infected: delete}",
            false,
        ),
        // One before it does not count: it is asked first.
        (false, "- {signature: Win.*, infected: delete}\n- {key: a*, infected: tag}", false),
        (
            true,
            "- {key: a*, reason: too_large, unscannable: tag}\n- {reason: '*', unscannable: no}",
            false,
        ),
        (
            true,
            "- {reason: '*', unscannable: no}\n- {key: a*, reason: too_large, unscannable: no}",
            true,
        ),
        (
            true,
            "- {key: a*, reason: '?nc*', unscannable: no}\n- {reason: enc*, unscannable: no}",
            false,
        ),
    ];
    for (delete_file, text, is_refused) in table {
        match read(text, &settings(delete_file, true)) {
            Ok(_) => assert!(!is_refused, "{text} is taken"),
            Err(problems) => {
                assert!(is_refused, "{text}: {problems:?}");
                assert_eq!(problems.len(), 1, "{text}: {problems:?}");
                let line = if text.starts_with("- {reason") { 2 } else { 1 };
                let start = format!(
                    "RULES_FILE /r.yaml:{line}: rule {line}: the uploader chooses the key, so a rule on it \
                     can only make the action stronger: "
                );
                assert!(problems[0].starts_with(&start), "{problems:?}");
            }
        }
    }
    let by_rule = read(
        "- {key: a, infected: tag}\n\n- {signature: W*, infected: delete}",
        &settings(false, true),
    );
    assert!(
        by_rule.unwrap_err()[0].ends_with("infected is tag here, and delete by rule 2 in line 3")
    );
    let by_setting = problems("- {key: a, infected: tag}");
    assert!(by_setting[0].ends_with("infected is tag here, and delete by DELETE_FILE=true"));
}

#[test]
fn what_weakens_by_signature_or_reason_and_what_never_applies_is_named() {
    // The rules, and the beginnings of the warnings.
    let table: [(&str, &[&str]); 8] = [
        ("- {signature: PUA.*, infected: tag}", &["1: rule 1: weakens by signature"]),
        ("- {signature: PUA.*, infected: delete}", &[]),
        ("- {bucket: lab, infected: no}", &[]),
        ("- {bucket: lab, signature: x, infected: no}", &["1: rule 1: weakens by signature"]),
        ("- {reason: encrypted, unscannable: no}", &["1: rule 1: weakens by reason"]),
        ("- {reason: encrypted, unscannable: tag}", &[]),
        (
            "- infected: tag\n- {bucket: b, infected: delete}\n- {bucket: b, unscannable: no}",
            &["2: rule 2: never applies: rule 1 comes first"],
        ),
        ("- infected: tag\n- {infected: delete, unscannable: no}", &[]),
    ];
    for (text, expected) in table {
        let warnings = rules(text).warnings;
        assert_eq!(warnings.len(), expected.len(), "{text}: {warnings:?}");
        for (warning, expected) in warnings.iter().zip(expected) {
            assert!(warning.starts_with(&format!("RULES_FILE /r.yaml:{expected}")), "{warning}");
        }
    }
}

/// Names of up to two characters.
const NAMES: [&str; 7] = ["", "a", "b", "aa", "ab", "ba", "bb"];

fn glob() -> impl Strategy<Value = Option<Glob>> {
    option::of("[ab?*]{1,2}".prop_map(|text| Glob::new(&text)))
}

fn rule() -> impl Strategy<Value = Rule> {
    let action = || select(vec![Action::No, Action::Tag, Action::Delete]);
    (glob(), glob(), glob(), action()).prop_map(|(bucket, key, signature, action)| Rule {
        place: Place { number: 0, line: 0 },
        bucket,
        key,
        signature,
        reason: None,
        infected: Some(action),
        unscannable: None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// In a list that is not refused each rule on the key gives at least what those behind it would, of
    /// whatever object; so no key has a weaker action than the rules without keys give.
    #[test]
    fn no_key_ever_weakens(list in vec(rule(), 1..5), delete_file: bool, tag_files: bool) {
        let settings = settings(delete_file, tag_files);
        let refused = !Relations::of(&list, &settings).refused.is_empty();
        let default = by_default(Kind::Infected, &settings).0;
        let first = |list: &[&Rule], subject| {
            list.iter().find_map(|rule| rule.apply(subject).ok()).unwrap_or(default)
        };
        let all: Vec<&Rule> = list.iter().collect();
        let keyless: Vec<&Rule> = list.iter().filter(|rule| rule.key.is_none()).collect();
        for bucket in NAMES {
            for key in NAMES {
                for signature in NAMES {
                    let subject = infected(bucket, key, signature);
                    for (at, rule) in all.iter().enumerate().filter(|(_, rule)| rule.key.is_some()) {
                        if let Ok(action) = rule.apply(subject) {
                            let weakens = action < first(&all[at + 1..], subject);
                            prop_assert!(refused || !weakens, "rule {} for {:?}", at + 1, subject);
                        }
                    }
                    let weaker = first(&all, subject) < first(&keyless, subject);
                    prop_assert!(refused || !weaker, "{:?}", subject);
                }
            }
        }
    }

    /// Of a list in which no rule on the key is weaker than any other action, none is refused.
    #[test]
    fn a_key_that_only_strengthens_is_taken(list in vec(rule(), 1..5), tag_files: bool) {
        let mut list = list;
        for rule in list.iter_mut().filter(|rule| rule.key.is_some()) {
            rule.infected = Some(Action::Delete);
        }
        prop_assert_eq!(Relations::of(&list, &settings(true, tag_files)).refused, []);
    }

    /// A warning that a rule never applies is true.
    #[test]
    fn a_rule_said_to_be_dead_is_dead(list in vec(rule(), 2..5)) {
        let mut list = list;
        for (at, rule) in list.iter_mut().enumerate() {
            rule.place.number = at + 1;
        }
        let warnings = Relations::of(&list, &settings(true, true)).warnings;
        for (place, _) in warnings.iter().filter(|(_, text)| text.starts_with("never")) {
            for (bucket, key) in NAMES.iter().flat_map(|b| NAMES.iter().map(move |k| (b, k))) {
                for signature in NAMES {
                    let subject = infected(bucket, key, signature);
                    let first = list.iter().find(|rule| rule.apply(subject).is_ok());
                    prop_assert_ne!(first.map(|rule| rule.place), Some(*place), "{:?}", subject);
                }
            }
        }
    }
}
