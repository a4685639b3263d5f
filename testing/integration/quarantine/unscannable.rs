//! What could not be scanned is moved where a rule says so.

use peers::scripted::store::error;
use peers::zip;

use super::restores::signing;
use super::*;
use crate::rules::RulesFile;

#[tokio::test]
async fn an_encrypted_archive_is_moved_by_a_rule_and_can_be_taken_back() {
    let rules = RulesFile::new("- unscannable: quarantine\n");
    let scene = signing(&[("RULES_FILE", rules.path())], |call, _| {
        let is_archived = call.operation == Operation::GetObject && call.key == b"archived";
        is_archived.then(|| error(403, "InvalidObjectState"))
    })
    .await;
    let archive = zip::encrypted("secret.txt", 50);
    let name = scene.held_from("secret.zip", Version::new(archive.clone()).tag("team", "x")).await;
    let reports = scene.reports("secret.zip", 1).await;
    assert_eq!(said(&reports[0]), ["no", "quarantine", "-"]);
    assert_eq!(reports[0]["reason"], "encrypted");
    let (copy, record) = scene.held().remove(0);
    assert_eq!(copy.body, archive);
    assert_eq!(record["signature"], "Heuristics.Encrypted.Zip");
    assert_eq!(record["tags"].as_array().unwrap().len(), 1, "{record}");

    // What was not read has no hash to prove a copy by.
    let (_, etag) = scene.store.put(BUCKET, "archived", Version::new("x"));
    scene.announce(BUCKET, "archived", &etag).await;
    let reports = scene.reports("archived", 1).await;
    assert_eq!(said(&reports[0]), ["no", "tag", "-"]);
    assert_eq!(reports[0]["reason"], "unreadable");
    assert_eq!(scene.store.current(BUCKET, "archived").unwrap().tag_value("scanned"), Some("no"));
    assert_eq!(scene.held().len(), 1);

    // Taken back, it is not moved again for the same reason.
    let (code, out, err) = scene.quarantine(&["restore", &name]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    let there = scene.store.current(BUCKET, "secret.zip").unwrap();
    scene.announce(BUCKET, "secret.zip", &there.etag).await;
    let reports = scene.reports("secret.zip", 2).await;
    assert_eq!(said(reports.last().unwrap()), ["released", "tag", "-"]);
    let stays = scene.store.current(BUCKET, "secret.zip").unwrap();
    assert_eq!((&stays.body, stays.tag_value("scanned")), (&archive, Some("released")));
    assert_eq!(stays.tag_value("team"), Some("x"));
}
