use super::*;
use crate::verdict::UnscannableReason;

/// `quarantine`: there is a bucket for it.
fn settings(delete_file: bool, quarantine: bool, tag_files: bool) -> PolicySettings {
    PolicySettings {
        delete_file,
        quarantine_bucket: quarantine.then(|| "held".to_owned()),
        tag_files,
        tag_key: "scanned".to_owned(),
        report_clean: false,
    }
}

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
        for (report_clean, repeated) in [(false, false), (true, false), (false, true), (true, true)]
        {
            let settings =
                PolicySettings { report_clean, ..settings(delete_file, quarantine, tag_files) };
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
        let settings = self::settings(delete_file, true, true);
        let rules = RulesText { path: "rules.yaml".into(), text: text.to_owned() };
        Policy::new(settings, Some(&rules)).unwrap()
    };
    let infected = |signature: &str| Verdict::Infected { signature: signature.to_owned() };
    let encrypted = Verdict::Unscannable { reason: UnscannableReason::Encrypted, heuristic: None };
    // DELETE_FILE, rules, finding, action where the bytes are identified, and where they are not.
    let table = [
        (true, "- {signature: PUA.*, infected: tag}", infected("PUA.X"), Tag, Tag),
        (true, "- {signature: PUA.*, infected: no}", infected("PUA.X"), No, No),
        (true, "- {signature: PUA.*, infected: tag}", infected("Win.X"), Quarantine, Quarantine),
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
        let settings = self::settings(false, true, tag_files);
        let policy = Policy::new(settings, Some(&rules)).unwrap();
        assert_eq!(policy.quarantine(), Some("held"));
        let (bucket, key, repeated, canary) = ("b", "k", false, false);
        let (released, surge) = (false, Some(Surge::Held));
        let context = Context { bucket, key, repeated, pinned, canary, provable, released, surge };
        let plan = plan(&verdict, &policy, context);
        assert_eq!((plan.action, plan.status, plan.parked), (action, Status::No, false));
    }
}

#[test]
fn a_surge_holds_deletions_and_nothing_else() {
    use Action::{Delete, No, Quarantine, Tag};
    let infected = |signature: &str| Verdict::Infected { signature: signature.to_owned() };
    let encrypted = Verdict::Unscannable { reason: UnscannableReason::Encrypted, heuristic: None };
    let plans = |delete_file, quarantine: bool, tag_files, verdict: &Verdict, canary| {
        let settings = self::settings(delete_file, quarantine, tag_files);
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
        let settings = self::settings(delete_file, true, true);
        let policy = Policy::new(settings, Some(&rules)).unwrap();
        let (bucket, key, repeated, pinned, canary) = ("b", "k", false, true, false);
        let (released, surge) = (true, Some(Surge::Held));
        let provable = true;
        let context = Context { bucket, key, repeated, pinned, canary, provable, released, surge };
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
