//! What is written, for people and for programs.

use super::*;

const HOSTILE: [&str; 14] = [
    " ",
    "\u{3000}",
    "a b",
    "a+b",
    "a%41",
    "<script>alert(1)</script>",
    "=cmd|'/c calc'!A1",
    "'quoted\"",
    "\u{1b}[2Jcleared",
    "line\nfeed",
    "tab\tbed",
    "\u{202e}backwards",
    "é/ü/日本",
    "?versionId=1",
];

/// What no terminal and no page may get.
fn is_harmless(text: &str) -> bool {
    let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    !text.contains(bad)
}

#[test]
fn hostile_keys_are_audited_and_harm_nobody() {
    let (signer, store) = (Signer::new(), Store::start());
    scripted(&signer, &store, "b", &HOSTILE);
    let settings = settings(store.url(), ("a", "s"), &signer);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (csv, json, html) = (at("out.csv"), at("out.json"), at("out.html"));
    let arguments = ["b", "--csv", &csv, "--json", &json, "--html", &html];
    let said = audit(&arguments, &settings);
    assert_eq!(said.code, 0, "{}", said.all());
    // And now none of them has one.
    for key in HOSTILE {
        store.put("b", key, Version::new("overwritten").tag("scanned", "clean"));
    }
    let said = audit(&arguments, &settings);
    assert_eq!(said.code, 1, "{}", said.all());
    assert!(is_harmless(&said.out), "{:?}", said.out);
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let found = standings(&read(&csv));
    assert_eq!(found.len(), HOSTILE.len());
    for key in HOSTILE {
        assert_eq!(found.get(key).map(String::as_str), Some("never"), "{key:?}");
    }
    assert!(read(&csv).contains("\"'=cmd|'/c calc'!A1\"") || read(&csv).contains(",'=cmd|'"));
    let json: serde_json::Value = serde_json::from_str(&read(&json)).unwrap();
    assert_eq!(json["conclusion"], "not_verified");
    let html = read(&html);
    assert!(is_harmless(&html) && !html.contains("<script"), "{html}");
    // No other files are left.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    // One address a line, and nothing else.
    let said = audit(&["b", "--list", "never"], &settings);
    assert_eq!((said.code, said.out.lines().count()), (1, HOSTILE.len()), "{}", said.all());
    assert!(is_harmless(&said.out) && said.out.lines().all(|line| line.starts_with("s3://b/")));
    assert!(audit(&["b", "--list", "verified"], &settings).out.is_empty());
}

#[test]
fn arguments_that_do_not_go_together_are_refused() {
    let (signer, store) = (Signer::new(), Store::start());
    let settings = settings(store.url(), ("a", "s"), &signer);
    let long = "k".repeat(1025);
    for (arguments, says) in [
        (&["b", "--after", &long][..], "1024 bytes"),
        (&[&format!("b/{long}")], "1024 bytes"),
        (&["b", "b/in"], "overlap"),
        (&["b", "--csv", "-", "--list", "never"], "standard output"),
        (&["b", "--json", "-", "--html", "-"], "standard output"),
        (&["b", "--list", "clean"], "known standings are verified, released"),
        (&[], "BUCKET"),
        (&["/x"], "BUCKET"),
    ] {
        let said = audit(arguments, &settings);
        assert!(said.code == 2 && said.err.contains(says), "{arguments:?} {}", said.all());
    }
    let wrong = [&settings[..], &[("SWEEP_CONCURRENCY", "0")]].concat();
    let said = audit(&["b"], &wrong);
    assert!(said.code == 78 && said.err.contains("SWEEP_CONCURRENCY"), "{}", said.all());
    let said = audit(&["b"], &settings[..3]);
    assert!(said.code == 78 && said.err.contains("--public-key"), "{}", said.all());
    let said = audit(&["b", "--public-key", "Cargo.toml"], &settings);
    let says = "--public-key Cargo.toml: it has to hold";
    assert!(said.code == 78 && said.err.starts_with(says), "{}", said.all());
}

/// Whatever cannot be written is said, at once where it can be known, and is no good end.
#[test]
fn results_that_cannot_be_written_are_no_good_end() {
    let (signer, store) = (Signer::new(), Store::start());
    scripted(&signer, &store, "b", &["k"]);
    let settings = settings(store.url(), ("a", "s"), &signer);
    for option in ["--csv", "--json", "--html"] {
        let said = audit(&["b", option, "/no/such/folder/x"], &settings);
        let line = "/no/such/folder/x cannot be written: entity not found\n";
        assert!(said.code == 3 && said.err == line, "{}", said.all());
    }
    assert_eq!(store.calls_on("b", "k").len(), 0);
    let full = |arguments: &[&str]| {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        command(arguments, &settings).stdout(full).output().unwrap()
    };
    for arguments in
        [&["b"][..], &["b", "--list", "verified"], &["b", "--json", "-"], &["b", "--csv", "-"]]
    {
        let output = full(arguments);
        assert_eq!(output.status.code(), Some(3), "{arguments:?} {}", text(&output.stderr));
    }
}

/// Nobody has to read what a command says.
#[test]
fn whoever_does_not_listen_gets_the_same_exit_code() {
    let (signer, store) = (Signer::new(), Store::start());
    scripted(&signer, &store, "b", &["k"]);
    let settings = settings(store.url(), ("a", "s"), &signer);
    for arguments in ["audit b --list verified", "audit b --json -", "audit b", "verify s3://b/k"] {
        for closed in ["2>&-", ">&-", "2>&- | true"] {
            let line = format!("set -o pipefail; {BINARY} {arguments} {closed}");
            let mut shell = Command::new("bash");
            shell.args(["-c", &line]).env_clear().envs(settings.iter().copied());
            let output = shell.env("PATH", "/usr/bin:/bin").output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{line}: {}", text(&output.stderr));
        }
    }
}

#[tokio::test]
async fn engine_and_broker_are_asked_where_they_are_configured_and_needed_nowhere() {
    let daemon = daemon(&[("RETRY_LIMIT", "0"), ("RETRY_DELAYS", "1s")]).await;
    notify(&daemon, b"garbage").await;
    let amqp = Stack::from_env().amqp().await.unwrap();
    let parked = format!("{}.dead", daemon.names.queue);
    eventually("it is parked", || async { amqp.count(&parked).await.unwrap() == Some(1) }).await;
    let (signer, store) = (Signer::new(), Store::start());
    scripted(&signer, &store, "b", &["k"]);
    let alone = settings(store.url(), ("a", "s"), &signer);
    let env = daemon.env();
    let broker: Vec<_> = env
        .iter()
        .filter(|(name, _)| name.starts_with("RABBITMQ_"))
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let engine = [("SCANNER", "clamd"), ("CLAMD_ENDPOINT", env["CLAMD_ENDPOINT"].as_str())];
    let not_judged = "ages were not judged, any valid receipt counts";
    let with = |more: &[(&'static str, &'static str)]| [&alone[..], more].concat();
    for (settings, code, says) in [
        (alone.clone(), 0, vec![not_judged, "neither RECEIPT_MAX_AGE nor CLAMD_ENDPOINT is set"]),
        ([&alone[..], &broker[..]].concat(), 0, vec!["1 notifications are parked in", "redrive"]),
        (
            [&alone[..], &broker[..], &[("RABBITMQ_PORT", "1")]].concat(),
            0,
            vec!["parked notifications are not known: the broker cannot be reached"],
        ),
        (
            with(&[("RABBITMQ_REGULAR_USER_NAME", "x")]),
            0,
            vec!["RABBITMQ_REGULAR_USER_PASS is required"],
        ),
        (with(&[("CLAMD_ENDPOINT", "http://a/?b")]), 0, vec![not_judged, "CLAMD_ENDPOINT must be"]),
        (
            with(&[("SCANNER", "clamd"), ("CLAMD_ENDPOINT", "tcp://127.0.0.1:1")]),
            0,
            vec![not_judged, "does not answer"],
        ),
        // The test database of the stack has another version than the receipt names.
        ([&alone[..], &engine[..]].concat(), 1, vec!["clean counts by database"]),
        (with(&[("RECEIPT_MAX_AGE", "1d")]), 0, vec!["clean counts if the scan began at"]),
    ] {
        let said = audit(&["b"], &settings);
        let all = says.iter().all(|part| said.out.contains(part));
        let no_answer = said.out.contains("does not name its database");
        assert!((said.code == code && all) || (code == 1 && no_answer), "{says:?} {}", said.all());
    }
    assert!(!audit(&["b"], &alone).out.contains("parked"));
    // Nothing was consumed.
    assert_eq!(amqp.count(&parked).await.unwrap(), Some(1));
}
