//! Rules: what they decide about real objects, and which files of rules are refused.

use std::path::PathBuf;

use peers::zip;

use super::commands::{command, text};
use super::*;

/// A file of rules that is removed with the value.
pub(super) struct RulesFile(tempfile::NamedTempFile);

impl RulesFile {
    pub(super) fn new(text: &str) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Self(file)
    }

    pub(super) fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }
}

/// The signature of EICAR, and the action that followed.
async fn reported(daemon: &Daemon, key: &str) -> (String, String, String) {
    let report = daemon.reports_on(key, 1, SOON).await.unwrap().remove(0).json();
    let of = |field: &str| report[field].as_str().unwrap_or_default().to_owned();
    (of("status"), of("action"), of("signature"))
}

#[tokio::test]
async fn a_rule_by_signature_tags_what_would_be_deleted_and_one_by_key_deletes() {
    let rules = RulesFile::new(
        "- {key: '*.exe', infected: delete}\n- {signature: '*[Ee]icar*', infected: no}\n\
         - {signature: '*?ic?r*', infected: tag}\n- {reason: encrypted, unscannable: no}\n",
    );
    let daemon = daemon(&[("DELETE_FILE", "true"), ("RULES_FILE", rules.path())]).await;
    let output = daemon.output();
    assert!(output.contains(&format!("4 rules from {}", rules.path())), "{output}");
    assert!(output.contains("rule 3: weakens by signature"), "{output}");
    let s3 = daemon.s3();
    s3.put("kept.txt", eicar()).await.unwrap();
    s3.put("gone.exe", eicar()).await.unwrap();
    assert_eq!(status(&daemon, "kept.txt").await, "infected");
    gone(&daemon, "gone.exe").await;
    let (status_of, action, signature) = reported(&daemon, "kept.txt").await;
    assert_eq!((status_of.as_str(), action.as_str()), ("infected", "tag"));
    let (_, action, same) = reported(&daemon, "gone.exe").await;
    assert_eq!((action.as_str(), same), ("delete", signature.clone()));
    // Reported as such, and left without a tag.
    s3.put("secret.zip", zip::encrypted("s", 50)).await.unwrap();
    let (status_of, action, _) = reported(&daemon, "secret.zip").await;
    assert_eq!((status_of.as_str(), action.as_str()), ("no", "no"));
    assert!(s3.tags("secret.zip").await.unwrap().unwrap().is_empty());
    // What `explain` says is what was done.
    let bucket = &daemon.names.bucket;
    for (key, action, rule) in [("kept.txt", "tag", 3), ("gone.exe", "delete", 1)] {
        let object = format!("{bucket}/{key}");
        let arguments = ["explain", &object, "--signature", &signature];
        let answer =
            command(&arguments, &[("DELETE_FILE", "true"), ("RULES_FILE", rules.path())]).await;
        let told = text(&answer.stdout);
        assert!(answer.status.success(), "{told}");
        let expected = format!("{action}: by rule {rule} at {}:{rule}\n", rules.path());
        assert!(told.starts_with(&expected), "{told}");
    }
}

#[tokio::test]
async fn under_the_action_no_an_object_keeps_no_status_that_its_uploader_gave_it() {
    let rules = RulesFile::new("- {infected: no, unscannable: no}\n");
    let daemon = daemon(&[("RULES_FILE", rules.path())]).await;
    let s3 = daemon.s3();
    let tags = [("x-amz-tagging".to_owned(), b"scanned=clean&owner=me".to_vec())];
    for (key, bytes, expected) in
        [("eicar", eicar(), "infected"), ("secret.zip", zip::encrypted("s", 50), "no")]
    {
        let put = s3.put_raw(key, &bytes, &tags).await.unwrap();
        assert_eq!(put.status, 200, "{key}");
        let (status_of, action, _) = reported(&daemon, key).await;
        assert_eq!((status_of.as_str(), action.as_str()), (expected, "tag"), "{key}");
        let left = s3.tags(key).await.unwrap().unwrap();
        assert_eq!((left["scanned"].as_str(), left["owner"].as_str()), (expected, "me"));
        // Without a status there is nothing to correct.
        let bare = format!("bare-{key}");
        s3.put(&bare, bytes).await.unwrap();
        let (status_of, action, _) = reported(&daemon, &bare).await;
        assert_eq!((status_of.as_str(), action.as_str()), (expected, "no"), "{bare}");
        assert!(s3.tags(&bare).await.unwrap().unwrap().is_empty());
    }
}

#[tokio::test]
async fn rules_that_cannot_be_used_end_check_start_and_explain_with_78() {
    let weakening = RulesFile::new(
        "# ours\n- bucket: b\n  infected: delete\n\n- key: tmp/*\n  infected: tag\n",
    );
    let quarantine = RulesFile::new("- infected: quarantine\n- infected: x\n");
    let missing = PathBuf::from("/nowhere/rules.yaml");
    for (file, expected) in [
        (
            weakening.path(),
            vec![format!("{}:5: rule 2: the uploader chooses the key", weakening.path())],
        ),
        (
            quarantine.path(),
            vec![
                format!(
                    "{}:1: rule 1: infected: quarantine needs QUARANTINE_BUCKET",
                    quarantine.path()
                ),
                format!("{}:2: rule 2: infected must be one of", quarantine.path()),
            ],
        ),
        (missing.to_str().unwrap(), vec!["/nowhere/rules.yaml, which cannot be read".to_owned()]),
    ] {
        for arguments in [&["check"][..], &[], &["explain", "b/k", "--signature", "x"]] {
            let refused =
                command(arguments, &[("DELETE_FILE", "true"), ("RULES_FILE", file)]).await;
            let told = text(&refused.stdout) + &text(&refused.stderr);
            assert_eq!(refused.status.code(), Some(78), "{arguments:?}: {told}");
            for expected in &expected {
                assert!(told.contains(expected.as_str()), "{arguments:?} lacks {expected}: {told}");
            }
        }
    }
}

#[tokio::test]
async fn check_names_the_rules_and_what_they_weaken() {
    let rules = RulesFile::new("- {signature: PUA.*, infected: tag}\n");
    let good = command(&["check"], &[("DELETE_FILE", "true"), ("RULES_FILE", rules.path())]).await;
    let told = text(&good.stdout);
    assert!(good.status.success(), "{told}");
    assert!(told.contains(&format!("rules    ok: 1 in {}", rules.path())), "{told}");
    let warning = format!("warning  RULES_FILE {}:1: rule 1: weakens by signature", rules.path());
    assert!(told.contains(&warning), "{told}");
}

#[tokio::test]
async fn explain_needs_an_object_and_one_finding_and_nothing_else() {
    for (arguments, code) in [
        (&["explain", "b/k", "--signature", "PUA.X"][..], 0),
        (&["explain", "b/k", "--reason", "encrypted"], 0),
        (&["explain", "b/k"], 2),
        (&["explain", "b", "--signature", "x"], 2),
        (&["explain", "b/k", "--signature", "x", "--reason", "encrypted"], 2),
        (&["explain", "b/k", "--reason", "scan_failed"], 2),
    ] {
        let output =
            std::process::Command::new(BINARY).args(arguments).env_clear().output().unwrap();
        let told = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
    }
}

#[tokio::test]
async fn the_canary_expects_what_the_rules_choose_for_its_signature() {
    for action in ["no", "tag"] {
        let rules = RulesFile::new(&format!("- {{signature: '*?icar*', infected: {action}}}\n"));
        let overrides =
            [("CANARY_EVERY", "1h"), ("REPORT_CANARY", "true"), ("RULES_FILE", rules.path())];
        let mut daemon = Daemon::prepare(&Stack::from_env(), binary(), &overrides).await.unwrap();
        let bucket = daemon.names.bucket.clone();
        daemon.set_env("CANARY_BUCKETS", &bucket);
        daemon.spawn().unwrap();
        daemon.wait_ready(SOON).await.unwrap();
        eventually("the source is up", || async { daemon.output().contains("source is up") }).await;
        let of_eicar = |report: &serde_json::Value| report["status"] == "infected";
        eventually("EICAR is reported", || async {
            daemon.reports().iter().any(|report| of_eicar(&report.json()))
        })
        .await;
        let mut reports: Vec<_> =
            daemon.reports().iter().map(peers::sink::Received::json).collect();
        reports.retain(of_eicar);
        assert!(reports.iter().all(|report| report["action"] == action), "{reports:?}");
    }
}

/// The schema takes the example, and no file that the daemon refuses for the shape of a rule.
#[test]
fn the_schema_takes_the_example_and_refuses_what_is_no_rule() {
    let schema = std::fs::read_to_string("docs/rules.schema.json").unwrap();
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let example = std::fs::read_to_string("examples/rules.yaml").unwrap();
    let example: serde_json::Value = serde_saphyr::from_str(&example).unwrap();
    assert!(validator.is_valid(&example), "{example}");
    for good in [
        r#"[{"bucket": "b", "key": "*", "signature": "PUA.*", "infected": "no"}]"#,
        r#"[{"reason": "enc*", "unscannable": "tag"}, {"infected": "quarantine"}]"#,
        r#"[{"unscannable": "quarantine"}]"#,
        r#"[{"infected": "tag", "unscannable": "tag"}]"#,
    ] {
        assert!(validator.is_valid(&serde_json::from_str(good).unwrap()), "{good}");
    }
    for bad in [
        "[]",
        "{}",
        "null",
        r#"["x"]"#,
        "[{}]",
        r#"[{"bucket": "b"}]"#,
        r#"[{"bucket": "", "infected": "no"}]"#,
        r#"[{"bucket": null, "infected": "no"}]"#,
        r#"[{"bucket": ["b"], "infected": "no"}]"#,
        r#"[{"bukcet": "b", "infected": "no"}]"#,
        r#"[{"infected": "ignore"}]"#,
        r#"[{"infected": false}]"#,
        r#"[{"unscannable": "delete"}]"#,
        r#"[{"signature": "x", "unscannable": "no"}]"#,
        r#"[{"signature": "x", "infected": "no", "unscannable": "no"}]"#,
        r#"[{"reason": "encrypted", "infected": "no"}]"#,
        r#"[{"signature": "x", "reason": "encrypted", "infected": "no"}]"#,
    ] {
        assert!(!validator.is_valid(&serde_json::from_str(bad).unwrap()), "{bad}");
        // JSON is YAML.
        let file = RulesFile::new(bad);
        let refused = std::process::Command::new(BINARY)
            .args(["explain", "b/k", "--signature", "x"])
            .env_clear()
            .env("RULES_FILE", file.path())
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(78), "{bad}: {}", text(&refused.stdout));
    }
}

#[tokio::test]
async fn the_ready_made_example_is_taken() {
    let example = std::fs::canonicalize("examples/rules.yaml").unwrap();
    let held = format!("held-{}", uuid::Uuid::new_v4().simple());
    let settings = [
        ("DELETE_FILE", "false"),
        ("RULES_FILE", example.to_str().unwrap()),
        ("QUARANTINE_BUCKET", held.as_str()),
    ];
    let daemon = daemon(&settings).await;
    let quarantine = daemon.s3().with_bucket(&held);
    quarantine.create_bucket().await.unwrap();
    daemon.s3().put("eicar", eicar()).await.unwrap();
    gone(&daemon, "eicar").await;
    let report = daemon.reports_on("eicar", 1, SOON).await.unwrap()[0].json();
    assert_eq!(report["action"], "quarantine");
    let copy = report["quarantine_key"].as_str().unwrap();
    assert!(quarantine.head(copy).await.unwrap().is_some());
    for (signature, action) in
        [("PUA.Win.X", "tag"), ("Heuristics.X", "tag"), ("Win.X", "quarantine")]
    {
        let arguments = ["explain", "b/k", "--signature", signature];
        let answer = command(&arguments, &settings).await;
        let told = text(&answer.stdout);
        assert!(told.starts_with(&format!("{action}: by rule ")), "{told}");
    }
}
