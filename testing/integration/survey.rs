//! What `check` finds out about buckets, and that it leaves them unchanged.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use peers::scripted::{Reply, Request, Server};
use rustix::process::{Pid, Signal, kill_process};
use stack::{Daemon, S3, Seaweed, Stack};

use super::commands::{command, text};
use super::*;

/// Runs `check`; returns the exit code and the lines about buckets.
async fn checked(arguments: &[&str], settings: &[(&str, &str)]) -> (Option<i32>, Vec<String>) {
    let output = command(&[&["check"], arguments].concat(), settings).await;
    let out = text(&output.stdout);
    let lines = out.lines().filter(|line| line.starts_with("bucket ")).map(str::to_owned);
    (output.status.code(), lines.collect())
}

fn says(lines: &[String], word: &str, part: &str) -> bool {
    lines.iter().any(|line| line.starts_with(&format!("bucket   {word}: ")) && line.contains(part))
}

#[tokio::test]
async fn the_gateways_bucket_is_tried_out_and_left_as_it_was() {
    let daemon = Daemon::prepare(&Stack::from_env(), binary(), &[]).await.unwrap();
    let s3 = daemon.s3();
    let (code, lines) = checked(&[&s3.bucket], &[]).await;
    assert_eq!((code, says(&lines, "note", "is empty")), (Some(0), true), "{lines:?}");
    s3.put("a key+with %41 ü", "x").await.unwrap();
    let (code, lines) = checked(&[&s3.bucket, "no-such-bucket"], &[]).await;
    assert_eq!((code, says(&lines, "ok", "tags of an object")), (Some(1), true), "{lines:?}");
    assert!(says(&lines, "FAILED", "no-such-bucket: cannot be listed"), "{lines:?}");
    let (code, lines) = checked(&["--write", &s3.bucket], &[]).await;
    assert_eq!(code, Some(0), "{lines:?}");
    for part in ["read back whole", "tags can be set", "HEAD tells", "removed again"] {
        assert!(says(&lines, "ok", part), "{part}: {lines:?}");
    }
    assert!(says(&lines, "note", "versions are off"), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("raises an event")), "{lines:?}");
    let keys: Vec<String> = s3.list().await.unwrap().into_iter().map(|entry| entry.key).collect();
    assert_eq!(keys, ["a key+with %41 ü"]);
}

async fn nothing_is_left(s3: &S3) {
    let left = s3.client.list_object_versions().bucket(&s3.bucket).send().await.unwrap();
    let markers = left.delete_markers();
    assert!(left.versions().is_empty() && markers.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_bucket_with_versions_is_tried_out_and_keeps_none() {
    let store = Seaweed::start().await.unwrap();
    let (access, secret) = store.keys();
    let settings = [
        ("MINIO_SERVER_URL", store.url()),
        ("MINIO_ACCESS_KEY_ID", access),
        ("MINIO_SECRET_ACCESS_KEY", secret),
    ];
    for (bucket, versions, word, told) in [
        ("trial-off", None, "note", "versions are off"),
        ("trial-on", Some(true), "ok", "versions are on"),
        ("trial-suspended", Some(false), "note", "suspended"),
    ] {
        let s3 = store.s3(bucket);
        s3.create_bucket().await.unwrap();
        if let Some(on) = versions {
            s3.set_versioning(on).await.unwrap();
        }
        let (code, lines) = checked(&["--write", bucket], &settings).await;
        assert_eq!(code, Some(0), "{lines:?}");
        assert!(says(&lines, word, told), "{lines:?}");
        assert!(says(&lines, "ok", "DELETE honours If-Match"), "{lines:?}");
        assert!(says(&lines, "ok", "removed again"), "{lines:?}");
        nothing_is_left(&s3).await;
    }
}

/// A store with at most one object and without tags. `odd` may replace any of its answers.
fn store(odd: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) -> Server {
    let there = AtomicBool::new(false);
    Server::start(move |request| {
        if request.path == "/" || request.path.starts_with("/?") {
            let none = "<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>";
            return Reply::new(200, none);
        }
        if let Some(reply) = odd(request) {
            return reply;
        }
        let path = request.path.as_str();
        let object = || Reply::new(200, BODY).header("etag", "\"e1\"");
        let exists = there.load(Ordering::SeqCst);
        match request.method.as_str() {
            _ if path.contains("tagging") => error(501, "NotImplemented"),
            "GET" if path.contains("list-type") => Reply::new(
                200,
                "<ListBucketResult><Contents><Key>k</Key></Contents></ListBucketResult>",
            ),
            "GET" if path.contains("versioning") => Reply::new(200, "<VersioningConfiguration/>"),
            "PUT" => {
                there.store(true, Ordering::SeqCst);
                Reply::new(200, "").header("etag", "\"e1\"")
            }
            "DELETE" => {
                there.store(false, Ordering::SeqCst);
                Reply::new(204, "")
            }
            "GET" if exists => object(),
            "HEAD" if exists => object().header("content-length", &BODY.len().to_string()),
            _ => error(404, "NoSuchKey"),
        }
    })
}

const BODY: &str = "Written by bucket-av-scanner check, which removes it again.\n";

fn error(status: u16, code: &str) -> Reply {
    Reply::new(status, format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>"))
}

#[tokio::test]
async fn a_store_without_tagging_is_named_with_the_setting_for_it() {
    for (status, code) in [(501, "NotImplemented"), (405, "MethodNotAllowed")] {
        let server =
            store(move |request| request.path.contains("tagging").then(|| error(status, code)));
        let url = ("MINIO_SERVER_URL", server.url());
        for arguments in [&["b"][..], &["--write", "b"]] {
            let (exit, lines) = checked(arguments, &[url]).await;
            assert_eq!(exit, Some(1), "{lines:?}");
            assert!(says(&lines, "FAILED", "set TAG_FILES=false"), "{lines:?}");
            let (exit, lines) = checked(arguments, &[url, ("TAG_FILES", "false")]).await;
            assert_eq!(exit, Some(0), "{lines:?}");
            assert!(says(&lines, "note", "no tagging"), "{lines:?}");
        }
        let reads = server.requests();
        let reads = reads.iter().filter(|request| request.method == "PUT").count();
        assert_eq!(reads, 4, "an object and its tags, twice");
    }
}

#[tokio::test]
async fn a_bucket_that_cannot_be_listed_is_named_and_is_no_failure() {
    let server =
        store(|request| request.path.contains("list-type").then(|| error(403, "AccessDenied")));
    let (code, lines) = checked(&["b"], &[("MINIO_SERVER_URL", server.url())]).await;
    assert_eq!(code, Some(0), "{lines:?}");
    assert!(says(&lines, "note", "check --write"), "{lines:?}");
    let writes = server.requests();
    assert!(writes.iter().all(|request| matches!(request.method.as_str(), "GET" | "HEAD")));
}

#[tokio::test]
async fn a_store_that_answers_oddly_is_described_and_the_object_removed() {
    type Odd = fn(&Request) -> Option<Reply>;
    let tagless = ("TAG_FILES", "false");
    let rows: [(Odd, &str, &str, i32); 6] = [
        (|_| None, "note", "DELETE ignores If-Match", 0),
        (
            |r| (r.method == "HEAD").then(|| Reply::new(200, "").header("etag", "\"e2\"")),
            "FAILED",
            "different ETags (e2 and e1)",
            1,
        ),
        (
            |r| {
                (r.method == "GET" && r.path.contains(".avscan"))
                    .then(|| error(403, "AccessDenied"))
            },
            "FAILED",
            "cannot be read: HTTP 403 AccessDenied",
            1,
        ),
        (
            |r| r.header("if-match").map(|_| error(501, "NotImplemented")),
            "note",
            "DELETE refuses If-Match",
            0,
        ),
        (
            |r| (r.method == "DELETE").then(|| error(403, "AccessDenied")),
            "FAILED",
            "could not be removed (HTTP 403 AccessDenied)",
            1,
        ),
        (
            |r| (r.method == "PUT").then(|| error(403, "AccessDenied")),
            "FAILED",
            "cannot be written: HTTP 403 AccessDenied",
            1,
        ),
    ];
    for (odd, word, part, exit) in rows {
        let server = store(odd);
        let settings = [("MINIO_SERVER_URL", server.url()), tagless];
        let (code, lines) = checked(&["--write", "b"], &settings).await;
        assert!(says(&lines, word, part), "{part}: {lines:?}");
        assert_eq!(code, Some(exit), "{part}: {lines:?}");
        let deletes = server.requests();
        let removed = deletes.iter().any(|request| request.method == "DELETE");
        // After a refused PUT there is nothing to remove.
        assert_eq!(removed, !part.contains("written"), "{part}");
    }
}

#[tokio::test]
async fn versions_and_delete_markers_of_the_trial_are_all_removed() {
    let removed = |request: &Request| request.path.contains("versionId=");
    let server = store(move |request| match request.method.as_str() {
        "PUT" if !request.path.contains("tagging") => {
            Some(Reply::new(200, "").header("etag", "\"e1\"").header("x-amz-version-id", "v1"))
        }
        // This store ignores If-Match.
        "DELETE" if !removed(request) => {
            let marker = Reply::new(204, "").header("x-amz-delete-marker", "true");
            Some(marker.header("x-amz-version-id", "m1"))
        }
        _ => None,
    });
    let settings = [("MINIO_SERVER_URL", server.url()), ("TAG_FILES", "false")];
    let (_, lines) = checked(&["--write", "b"], &settings).await;
    assert!(says(&lines, "note", "DELETE ignores If-Match: versions make up"), "{lines:?}");
    let requests = server.requests();
    for version in ["versionId=v1", "versionId=m1"] {
        let wanted = |r: &&Request| r.method == "DELETE" && r.path.contains(version);
        assert_eq!(requests.iter().filter(wanted).count(), 1, "{version}");
    }
}

#[tokio::test]
async fn an_interrupted_trial_removes_its_object() {
    for signal in [Signal::INT, Signal::TERM] {
        let server = store(|request| {
            let slow = request.path.contains("versioning");
            let answer = || Reply::new(200, "<VersioningConfiguration/>");
            slow.then(|| answer().after(Duration::from_secs(2)))
        });
        let settings = [("MINIO_SERVER_URL", server.url())];
        let daemon = Daemon::prepare(&Stack::from_env(), binary(), &settings).await.unwrap();
        let check = Command::new(BINARY)
            .args(["check", "--write", "b", "another"])
            .env_clear()
            .envs(daemon.env())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        eventually("the object is written", || async {
            server.requests().iter().any(|request| request.method == "PUT")
        })
        .await;
        let pid = Pid::from_raw(check.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        let output = check.wait_with_output().unwrap();
        let out = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{out}");
        assert!(out.contains("stopped before the end") && out.contains("removed again"), "{out}");
        let requests = server.requests();
        assert!(requests.iter().any(|request| request.method == "DELETE"), "{out}");
        assert!(!requests.iter().any(|request| request.path.starts_with("/another")), "{out}");
    }
}

#[tokio::test]
async fn wrong_arguments_and_a_wrong_configuration_have_their_own_codes() {
    assert_eq!(command(&["check", "--write"], &[]).await.status.code(), Some(2));
    assert_eq!(command(&["check", "--wrong", "b"], &[]).await.status.code(), Some(2));
    let wrong = [("SCAN_TIMEOUT", "0")];
    assert_eq!(command(&["check", "--write", "b"], &wrong).await.status.code(), Some(78));
}
