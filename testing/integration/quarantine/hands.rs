//! What people do with the quarantine bucket.

use super::*;
use crate::commands::{command, text};

/// Exit code, standard output and errors of a command about the quarantine.
pub(super) async fn quarantine(
    store: &Store,
    arguments: &[&str],
    more: &[(&str, &str)],
) -> (Option<i32>, String, String) {
    let mut settings = vec![("MINIO_SERVER_URL", store.url()), ("QUARANTINE_BUCKET", QUARANTINE)];
    settings.extend(more);
    let output = command(&[&["quarantine"], arguments].concat(), &settings).await;
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

impl Scene {
    /// Has an infected object moved; returns the name of its copy.
    pub(super) async fn held_from(&self, key: &str, version: Version) -> String {
        let (_, etag) = self.store.put(BUCKET, key, version);
        self.announce(BUCKET, key, &etag).await;
        self.until_gone(key).await;
        let report = self.reports(key, 1).await.remove(0);
        report["quarantine_key"].as_str().unwrap().to_owned()
    }

    pub(super) async fn quarantine(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        quarantine(&self.store, arguments, &[]).await
    }
}

#[tokio::test]
async fn what_is_held_is_listed_and_shown() {
    let scene = scene(&[], |_, _| None).await;
    let odd = Version::new(eicar()).header("x-amz-meta-raw", [0xff, b'a']).tag("team", "b c");
    let first = scene.held_from("a\u{1b}[2J", odd).await;
    let second = scene.held_from("b", Version::new(eicar())).await;
    scene.store.put(QUARANTINE, "of somebody else", Version::new("x"));

    let (code, out, _) = scene.quarantine(&["list"]).await;
    assert_eq!((code, out.lines().count()), (Some(0), 3), "{out}");
    for (name, address) in [(&first, "s3://b/a\\u{1b}[2J"), (&second, "s3://b/b")] {
        let is_it = |line: &str| line.contains(name.as_str()) && line.ends_with(address);
        assert!(out.lines().any(is_it), "{out}");
    }
    assert!(out.ends_with("2 objects, 136 B, in held\n") && !out.contains('\u{1b}'), "{out}");
    let (_, out, _) = scene.quarantine(&["list", "--json"]).await;
    let rows: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut keys: Vec<_> = rows.iter().map(|row| row["record"]["key"].as_str().unwrap()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["a\u{1b}[2J", "b"]);
    assert!(rows.iter().all(|row| row["copy"] == true));
    let signature = rows[0]["record"]["signature"].as_str().unwrap();
    for (filter, found) in [
        (["--bucket", "b"], 2),
        (["--bucket", "c"], 0),
        (["--signature", signature], 2),
        (["--signature", "PUA.*"], 0),
        (["--older-than", "1d"], 0),
    ] {
        let (code, out, _) = scene.quarantine(&[&["list", "--json"][..], &filter].concat()).await;
        assert_eq!((code, out.lines().count()), (Some(0), found), "{filter:?} {out}");
    }

    let (code, out, _) = scene.quarantine(&["show", &first]).await;
    let sha256 = "275a021bbfb6489e54d471899f7db9d1663fc695ec2fe2a2c4538aabf651fd0f";
    assert_eq!(code, Some(0));
    let official = signature.strip_suffix(".UNOFFICIAL").unwrap();
    for line in [
        "from          s3://b/a\\u{1b}[2J".to_owned(),
        format!("signature     {signature}"),
        "header        x-amz-meta-raw: \u{fffd}a".to_owned(),
        "tag           team=b c".to_owned(),
        format!("this content  {sha256}:68:{official}  (a line for a file *.sfp of ClamAV)"),
        format!("the signature {official}  (a line for a file *.ign2 of ClamAV)"),
    ] {
        assert!(out.lines().any(|found| found == line), "{line}\n{out}");
    }
    let missing = "0".repeat(64);
    let (code, _, err) = scene.quarantine(&["show", &missing]).await;
    assert_eq!(code, Some(1));
    assert_eq!(err, format!("{missing}: nothing of this name is in held\n"));
}

#[tokio::test]
async fn arguments_that_mean_nothing_or_too_much_are_refused() {
    let store = Store::start();
    let name = "0".repeat(64);
    for arguments in [
        &["purge"][..],
        &["show", "nothing"],
        &["purge", &name, "--bucket", "b"],
        &["list", "--older-than", "long"],
    ] {
        let (code, out, err) = quarantine(&store, arguments, &[]).await;
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?} {err}");
    }
    let (code, _, err) = quarantine(&store, &["list"], &[("QUARANTINE_BUCKET", "")]).await;
    assert_eq!((code, err.as_str()), (Some(78), "QUARANTINE_BUCKET is required\n"));
    assert!(store.calls().is_empty());
}

#[tokio::test]
async fn a_store_that_denies_is_no_empty_quarantine() {
    let store = Store::start_with(|_, _| Some(store::error(403, "AccessDenied")));
    let name = "0".repeat(64);
    for arguments in [&["list"][..], &["show", &name], &["purge", &name]] {
        let (code, out, err) = quarantine(&store, arguments, &[]).await;
        assert_eq!((code, err.lines().count()), (Some(1), 1), "{out}{err}");
        assert!(err.contains("store_denied"), "{err}");
    }
}

#[tokio::test]
async fn what_is_purged_is_gone_in_every_version_and_the_rest_stays() {
    for versioning in [Versioning::Off, Versioning::Enabled] {
        let scene = scene(&[], |_, _| None).await;
        scene.store.with(|contents| contents.bucket(QUARANTINE).versioning = versioning);
        let first = scene.held_from("a", Version::new(eicar())).await;
        let second = scene.held_from("b", Version::new(eicar())).await;
        // Written twice, as after a crash.
        let record = format!("{first}.json");
        let again = scene.store.current(QUARANTINE, &record).unwrap();
        scene.store.put(QUARANTINE, &record, again);

        let (code, out, _) = scene.quarantine(&["purge", "--bucket", "b", "--dry-run"]).await;
        assert_eq!((code, out.lines().count()), (Some(0), 3), "{out}");
        assert_eq!(scene.held().len(), 2);
        let (code, out, err) = scene.quarantine(&["purge", &first]).await;
        assert_eq!(code, Some(0), "{out}{err}");
        assert!(out.starts_with(&format!("purged {first} ")) && out.ends_with("1 purged\n"));
        assert!(scene.store.versions(QUARANTINE, &first).is_empty());
        assert!(scene.store.versions(QUARANTINE, &record).is_empty());
        assert_eq!(scene.held().len(), 1);
        if versioning == Versioning::Enabled {
            // As a lifecycle, or somebody who names no version, removes it.
            scene.store.with(|contents| contents.bucket(QUARANTINE).delete(second.as_bytes()));
            assert!(scene.store.versions(QUARANTINE, &second).iter().any(|one| !one.is_marker));
        }
        let (code, out, _) = scene.quarantine(&["purge", "--signature", "*"]).await;
        assert!(code == Some(0) && out.starts_with(&format!("purged {second} ")), "{out}");
        for key in [second.clone(), format!("{second}.json")] {
            assert!(scene.store.versions(QUARANTINE, key).iter().all(|one| one.is_marker));
        }
    }
}

/// The record is the last that goes, so that what is left says what it was.
#[tokio::test]
async fn a_purge_that_was_interrupted_is_finished_by_the_next() {
    let scene = scene(&[], |call, _| {
        let record = call.operation == Operation::DeleteObject && call.key.ends_with(b".json");
        (record && call.count == 0).then(|| store::error(403, "AccessDenied"))
    })
    .await;
    let name = scene.held_from("a", Version::new(eicar())).await;
    let (code, out, err) = scene.quarantine(&["purge", &name]).await;
    assert_eq!((code, out.as_str()), (Some(1), "0 purged, 1 failed\n"));
    assert!(err.contains("s3:DeleteObject"), "{err}");
    assert!(scene.store.current(QUARANTINE, &name).is_none());
    let (_, out, _) = scene.quarantine(&["list"]).await;
    assert!(out.contains("its copy is not there any more"), "{out}");
    assert_eq!(scene.quarantine(&["purge", &name]).await.0, Some(0));
    assert!(scene.store.versions(QUARANTINE, format!("{name}.json")).is_empty());
}
