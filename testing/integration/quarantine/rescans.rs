//! What an engine does not find any more is listed, and restored.

use stack::Clamd;
use stack::clamd::Database;

use super::*;
use crate::commands::{command, text};

#[tokio::test]
async fn what_is_not_found_any_more_is_listed_and_released() {
    let content = b"a harmless spreadsheet, with a bad signature";
    let mut engine = Clamd::start(&[]).await.unwrap();
    engine.add_signature("Bad.Signature", content).await.unwrap();
    let folder = engine.socket().parent().unwrap().join("db");
    let socket = format!("unix://{}", engine.socket().display());
    let key_file = Stack::from_env().state().daemon_variables()["RECEIPT_KEY_FILE"].clone();
    let settings = [("CLAMD_ENDPOINT", socket.as_str()), ("RECEIPT_KEY_FILE", key_file.as_str())];
    let scene = scene(&settings, |_, _| None).await;
    let good = scene.held_from("good", Version::new(content)).await;
    let bad = scene.held_from("bad", Version::new(eicar())).await;
    let rescan = async |arguments: &[&str]| {
        let url = scene.store.url();
        let store = [("MINIO_SERVER_URL", url), ("QUARANTINE_BUCKET", QUARANTINE)];
        let settings = [&settings[..1], &store].concat();
        let output = command(&[&["quarantine"], arguments].concat(), &settings).await;
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, err) = rescan(&["rescan"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "0 of 2 are not found any more\n"), "{err}");

    // The lines that `show` prints, each alone, have ClamAV pass over it.
    let (_, shown, _) = rescan(&["show", &good]).await;
    for (start, file) in [("this content  ", "local.sfp"), ("the signature ", "local.ign2")] {
        let line = shown.lines().find_map(|line| line.strip_prefix(start)).unwrap();
        let line = line.split("  (").next().unwrap();
        std::fs::write(folder.join(file), format!("{line}\n")).unwrap();
        engine.restart(Database::Eicar).await.unwrap();
        let (code, out, err) = rescan(&["rescan"]).await;
        assert_eq!(code, Some(0), "{file} {out}{err}");
        assert!(out.starts_with(&format!("clean {good} Bad.Signature")), "{file} {out}{err}");
        assert!(out.ends_with("1 of 2 are not found any more\n"), "{file} {out}");
        std::fs::remove_file(folder.join(file)).unwrap();
    }
    std::fs::remove_file(folder.join("local.hsb")).unwrap();
    engine.restart(Database::Eicar).await.unwrap();
    assert!(scene.store.current(BUCKET, "good").is_none());
    let (code, out, err) = rescan(&["rescan", "--release-clean"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.starts_with(&format!("restored {good} ")), "{out}");
    let there = scene.store.current(BUCKET, "good").unwrap();
    assert_eq!(
        (there.body.as_slice(), there.tag_value("scanned")),
        (&content[..], Some("released"))
    );
    assert_eq!(scene.held().len(), 1);
    assert!(scene.store.current(QUARANTINE, &bad).is_some());
    // Its scan finds nothing, and says so.
    scene.announce(BUCKET, "good", &there.etag).await;
    eventually("it is clean", async || scene.tag("good").as_deref() == Some("clean")).await;
}
