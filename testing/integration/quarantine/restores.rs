//! What is restored is what was uploaded, covers nothing, and is not taken again.

mod broken_off;

use super::hands::quarantine;
use super::*;
use crate::commands::{command, text};

const RECEIPT: &str = "scanned-receipt";

/// The file with the key that the stack's daemons have.
fn key_file() -> String {
    Stack::from_env().state().daemon_variables()["RECEIPT_KEY_FILE"].clone()
}

/// As [`scene`], with receipts.
pub(super) async fn signing(
    overrides: &[(&str, &str)],
    hook: impl Fn(&Call, &mut Contents) -> Option<Reply> + Send + Sync + 'static,
) -> Scene {
    let file = key_file();
    scene(&[&[("RECEIPT_KEY_FILE", file.as_str())], overrides].concat(), hook).await
}

/// Whether a call writes an object of the source bucket.
fn restores(call: &Call) -> bool {
    call.operation == Operation::PutObject && call.bucket == BUCKET
}

/// Performs a call as a store that does not know `If-None-Match`.
fn unconditional(call: &Call, contents: &mut Contents) -> Reply {
    let mut call = call.clone();
    call.request.headers.remove("if-none-match");
    contents.answer(&call)
}

impl Scene {
    pub(super) fn receipt(&self, key: &str) -> String {
        self.store.current(BUCKET, key).unwrap().tag_value(RECEIPT).unwrap_or_default().to_owned()
    }

    /// The command about an object, with the daemon's key.
    async fn asked(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = command(arguments, &[("MINIO_SERVER_URL", self.store.url())]).await;
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    }
}

fn strange() -> Version {
    Version::new(eicar())
        .header("content-type", "text/odd; x=\"y\"")
        .header("content-disposition", "attachment; filename=\"a b\"")
        .header("expires", "never")
        .header("x-amz-meta-plain", "two  blanks")
        .header("x-amz-meta-utf8", "gr\u{fc}n")
        .header("x-amz-meta-raw", [b'a', 0xff])
        .tag("team", "b+c =d/\u{e4}")
        .tag("empty", "")
}

#[tokio::test]
async fn a_restored_object_is_as_it_was_and_is_not_taken_again() {
    let scene = signing(&[], |_, _| None).await;
    let (key, odd) = ("a b+c/\u{fc}?\u{1}", strange());
    let name = scene.held_from(key, odd.clone()).await;
    let (code, out, err) = scene.quarantine(&["restore", &name]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains(" without x-amz-meta-raw: see its record") && !out.contains('\u{1}'));
    let there = scene.store.current(BUCKET, key).unwrap();
    assert_eq!(there.body, odd.body);
    let mut headers = odd.headers.clone();
    headers.retain(|(name, _)| name != "x-amz-meta-raw");
    headers.sort();
    let mut found = there.headers.clone();
    found.sort();
    assert_eq!(found, headers);
    for (name, value) in odd.tags.iter().map(|(name, value)| (name.as_str(), value.as_str())) {
        assert_eq!(there.tag_value(name), Some(value));
    }
    assert_eq!(there.tag_value("scanned"), Some("released"));
    assert_eq!(there.tags.len(), 4);
    // What the store did not take back stays in the record.
    assert!(scene.store.current(QUARANTINE, &name).is_none());
    assert!(scene.store.current(QUARANTINE, format!("{name}.json")).is_some());

    // Its upload is announced, twice, and to another replica too.
    scene.announce(BUCKET, key, &there.etag).await;
    scene.announce(BUCKET, key, &there.etag).await;
    let reports = scene.reports(key, 2).await;
    let last = reports.last().unwrap();
    assert_eq!(said(last), ["released", "tag", "-"]);
    assert_eq!(last["signature"], reports[0]["signature"]);
    let stays = scene.store.current(BUCKET, key).unwrap();
    assert_eq!((&stays.body, stays.tag_value("scanned")), (&odd.body, Some("released")));
    assert_eq!(stays.tag_value("team"), Some("b+c =d/\u{e4}"));

    let address = format!("s3://{BUCKET}/{key}");
    let (code, line) = scene.asked(&["verify", "--download", &address]).await;
    assert!(code == Some(0) && line.starts_with("released: "), "{line}");
    let (code, page) = scene.asked(&["audit", BUCKET]).await;
    assert_eq!(code, Some(0), "{page}");
    assert!(
        page.contains("or released: 1 of 1. Released by a person, though infected: 1."),
        "{page}"
    );
    let (_, listed) = scene.asked(&["audit", BUCKET, "--list", "released"]).await;
    assert!(listed.contains("s3://b/a b+c/"), "{listed}");
    let (code, counted) = scene.asked(&["sweep", BUCKET, "--dry-run"]).await;
    assert!(code == Some(0) && counted.contains("0 would be announced"), "{counted}");
}

#[tokio::test]
async fn a_release_is_of_no_use_for_anything_else() {
    let scene = signing(&[], |_, _| None).await;
    let name = scene.held_from("k", Version::new(eicar())).await;
    let (code, out, err) = scene.quarantine(&["restore", &name, "--keep"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    assert_eq!(scene.held().len(), 1);
    let released = scene.store.current(BUCKET, "k").unwrap();
    let with_tags = |body: Vec<u8>| {
        let mut version = Version::new(body);
        version.tags.clone_from(&released.tags);
        version
    };
    // Other bytes with the same finding under that name, and the same bytes under another one.
    let mut longer = eicar();
    longer.extend_from_slice(b"\n");
    for (key, version) in [("k", with_tags(longer)), ("k2", with_tags(eicar()))] {
        let (_, etag) = scene.store.put(BUCKET, key, version);
        scene.announce(BUCKET, key, &etag).await;
        scene.until_gone(key).await;
    }
    // The same bytes under the same name again, with a status alone.
    let (_, etag) = scene.store.put(BUCKET, "k", Version::new(eicar()).tag("scanned", "released"));
    let (code, line) = scene.asked(&["verify", "s3://b/k"]).await;
    assert!(code == Some(1) && line.starts_with("never: "), "{line}");
    scene.announce(BUCKET, "k", &etag).await;
    scene.until_gone("k").await;
    // A daemon that does not know the key.
    let other = text(&command(&["receipt-key", "new"], &[]).await.stdout);
    let (code, _, err) = quarantine(
        &scene.store,
        &["restore", &name],
        &[("RECEIPT_KEY_FILE", ""), ("RECEIPT_KEY", &other)],
    )
    .await;
    assert_eq!(code, Some(0), "{err}");
    let etag = scene.store.current(BUCKET, "k").unwrap().etag;
    scene.announce(BUCKET, "k", &etag).await;
    scene.until_gone("k").await;
}

#[tokio::test]
async fn nothing_is_written_where_it_could_not_be_released() {
    let scene = signing(&[], |_, _| None).await;
    let mut full = Version::new(eicar());
    for number in 0..9 {
        full = full.tag(&format!("t{number}"), "x");
    }
    let name = scene.held_from("k", full).await;
    let before = scene.store.calls().len();
    for (settings, code, says) in [
        (&[("RECEIPT_KEY_FILE", "")][..], 78, "RECEIPT_KEY is required"),
        (&[("TAG_FILES", "false")], 78, "TAG_FILES=false"),
        (&[], 1, "it had 9 tags"),
    ] {
        let (found, out, err) = quarantine(&scene.store, &["restore", &name], settings).await;
        assert_eq!(found, Some(code), "{out}{err}");
        assert!(err.contains(says) && err.lines().count() == 1, "{err}");
    }
    let calls = scene.store.calls();
    assert!(calls[before..].iter().all(|call| call.request.method != "PUT"), "{calls:?}");
    for arguments in
        [&["restore", &name, "--as", ""][..], &["restore", "--bucket", "b", "--as", "x"]]
    {
        assert_eq!(scene.quarantine(arguments).await.0, Some(2), "{arguments:?}");
    }
    let fewer = ["restore", &name, "--without-tag", "t0"];
    let (code, out, _) = scene.quarantine(&[&fewer[..], &["--dry-run"]].concat()).await;
    assert!(code == Some(0) && out.starts_with("would restore "), "{out}");
    assert!(scene.store.current(BUCKET, "k").is_none());
    let (code, out, err) = scene.quarantine(&fewer).await;
    assert_eq!(code, Some(0), "{out}{err}");
    let there = scene.store.current(BUCKET, "k").unwrap();
    assert_eq!((there.tags.len(), there.tag_value("t1")), (10, Some("x")));
    assert!(scene.held().is_empty());
}

#[tokio::test]
async fn a_restore_covers_nothing_newer() {
    for versioning in [Versioning::Off, Versioning::Enabled] {
        let scene = signing(&[], |_, _| None).await;
        scene.store.with(|contents| contents.bucket(BUCKET).versioning = versioning);
        let mut old = Version::new("older");
        old.modified -= Duration::from_hours(1);
        if versioning == Versioning::Enabled {
            scene.store.put(BUCKET, "k", old);
        }
        let (id, etag) = scene.store.put(BUCKET, "k", Version::new(eicar()));
        let mut event = notification::put(BUCKET, "k", None, Some(&etag));
        if versioning == Versioning::Enabled {
            event["Records"][0]["s3"]["object"]["versionId"] = id.into();
        }
        notify(&scene.daemon, event.to_string().as_bytes()).await;
        let report = scene.reports("k", 1).await.remove(0);
        let name = report["quarantine_key"].as_str().unwrap();
        let is_bad = |version: &Version| version.body == eicar();
        eventually("it is moved", async || !scene.store.versions(BUCKET, "k").iter().any(is_bad))
            .await;

        let (newer, _) = scene.store.put(BUCKET, "k", Version::new("newer"));
        let (code, out, err) = scene.quarantine(&["restore", name]).await;
        assert_eq!((code, out.as_str()), (Some(1), "0 restored, 1 failed\n"), "{err}");
        assert!(err.contains("something else is there by now"), "{err}");
        assert_eq!(scene.store.current(BUCKET, "k").unwrap().body, b"newer");
        // Under another name.
        let (code, out, err) = scene.quarantine(&["restore", name, "--as", "k2", "--keep"]).await;
        assert_eq!(code, Some(0), "{out}{err}");
        assert_eq!(scene.tag("k2").as_deref(), Some("released"));
        // What is older than what was moved may be covered in a bucket with versions.
        scene.store.with(|contents| contents.bucket(BUCKET).remove(b"k", &newer));
        let (code, out, err) = scene.quarantine(&["restore", name]).await;
        assert_eq!(code, Some(0), "{out}{err}");
        assert_eq!(scene.store.current(BUCKET, "k").unwrap().body, eicar());
        let expected = if versioning == Versioning::Enabled { 2 } else { 1 };
        assert_eq!(scene.store.versions(BUCKET, "k").len(), expected);
    }
}

#[tokio::test]
async fn an_upload_in_the_same_moment_is_never_lost() {
    for (versioning, honours) in [
        (Versioning::Off, true),
        (Versioning::Off, false),
        (Versioning::Enabled, true),
        (Versioning::Enabled, false),
    ] {
        let scene = signing(&[], move |call, contents| {
            if call.operation != Operation::PutObject
                || call.request.header("if-none-match").is_none()
            {
                return None;
            }
            if restores(call) {
                contents.bucket(BUCKET).put(&call.key, Version::new("of a user"));
            }
            (!honours).then(|| unconditional(call, contents))
        })
        .await;
        scene.store.with(|contents| contents.bucket(BUCKET).versioning = versioning);
        let name = scene.held_from("k", Version::new(eicar())).await;
        // Where the condition is not honoured, it is not sent either, so the hook has to act itself.
        let (code, _, err) = scene.quarantine(&["restore", &name]).await;
        let case = format!("{versioning:?} {honours} {err}");
        match (versioning, honours) {
            (_, true) => {
                assert_eq!(code, Some(1), "{case}");
                assert!(err.contains("something was uploaded there meanwhile"), "{case}");
                assert_eq!(scene.store.current(BUCKET, "k").unwrap().body, b"of a user");
            }
            (Versioning::Off, false) => {
                assert_eq!(code, Some(1), "{case}");
                assert!(err.contains("ignores If-None-Match"), "{case}");
                assert!(scene.store.current(BUCKET, "k").is_none());
                // A name that nobody uses.
                let other = scene.quarantine(&["restore", &name, "--as", "k2", "--keep"]).await;
                assert_eq!(other.0, Some(0), "{other:?}");
            }
            (_, false) => assert_eq!(code, Some(0), "{case}"),
        }
        let left = scene.store.with(|contents| {
            let names = contents.bucket(QUARANTINE).iter().map(|(key, _)| key.len());
            names.collect::<Vec<_>>()
        });
        assert!(left.iter().all(|length| [64, 69].contains(length)), "{left:?}");
    }
}

#[tokio::test]
async fn where_the_condition_is_ignored_what_was_written_is_withdrawn() {
    let scene = signing(&[], |call, contents| {
        if call.operation != Operation::PutObject {
            return None;
        }
        if restores(call) {
            contents.bucket(BUCKET).put(&call.key, Version::new("of a user"));
        }
        Some(unconditional(call, contents))
    })
    .await;
    scene.store.with(|contents| contents.bucket(BUCKET).versioning = Versioning::Enabled);
    let name = scene.held_from("k", Version::new(eicar())).await;
    let (code, _, err) = scene.quarantine(&["restore", &name]).await;
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("what was written was withdrawn (Done)"), "{err}");
    let left = scene.store.versions(BUCKET, "k");
    assert_eq!((left.len(), left[0].body.as_slice()), (1, &b"of a user"[..]));
    assert_eq!(scene.held().len(), 1);
}

/// What has no version id would be replaced for good, though nothing seems to be there.
#[tokio::test]
async fn a_version_without_an_id_below_a_delete_marker_is_not_replaced() {
    let scene = signing(&[], |_, _| None).await;
    let name = scene.held_from("k", Version::new(eicar())).await;
    scene.store.put(BUCKET, "k", Version::new("of a user"));
    let set = |versioning| {
        scene.store.with(|contents| contents.bucket(BUCKET).versioning = versioning);
    };
    set(Versioning::Enabled);
    scene.store.with(|contents| contents.bucket(BUCKET).delete(b"k"));
    set(Versioning::Suspended);
    let (code, _, err) = scene.quarantine(&["restore", &name]).await;
    assert!(code == Some(1) && err.contains("versions are suspended"), "{err}");
    assert!(scene.store.versions(BUCKET, "k").iter().any(|one| one.body == b"of a user"));
    let (code, out, err) = scene.quarantine(&["restore", &name, "--as", "k2"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
}

#[tokio::test]
async fn a_copy_with_other_bytes_is_never_written_back() {
    let scene = signing(&[], |_, _| None).await;
    let name = scene.held_from("k", Version::new(eicar())).await;
    scene.store.with(|contents| {
        contents.bucket(QUARANTINE).version_mut(name.as_bytes(), None).unwrap().body[0] ^= 1;
    });
    let (code, _, err) = scene.quarantine(&["restore", &name]).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("the copy has other bytes than its record says"), "{err}");
    assert!(scene.store.current(BUCKET, "k").is_none());
}

/// Whoever can make a request for tags fail must not keep what is infected.
#[tokio::test]
async fn where_tags_cannot_be_read_a_finding_counts_as_not_released() {
    let scene = signing(&[], |call, _| {
        let asks = call.operation == Operation::GetObjectTagging && call.bucket == BUCKET;
        asks.then(|| store::error(500, "InternalError"))
    })
    .await;
    scene.upload("k").await;
    // The move does not need them, and says that they are not told.
    let report = scene.reports("k", 1).await.remove(0);
    assert_eq!(report["status"], "infected");
    assert!(scene.daemon.output().contains("it counts as not"), "{}", scene.daemon.output());
}
