//! Secrets that change while the daemon runs.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use peers::scripted::Server;
use peers::sink::{Received, Sink};
use peers::{notification, sink};
use stack::Stack;
use std::sync::Arc;

use super::*;

/// Secret files, replaced as by an orchestrator: with a rename.
struct Secrets(tempfile::TempDir);

impl Secrets {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, text: &str) -> String {
        let (new, path) = (self.0.path().join("new"), self.path(name));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &path).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(self.0.path()).join(name)
    }
}

#[tokio::test]
async fn a_new_password_of_the_broker_is_taken_from_its_file() {
    let stack = Stack::from_env();
    let user = format!("rotating-{}", uuid::Uuid::new_v4().simple());
    let vhost = stack.settings().amqp_vhost.clone();
    stack.rabbitmqctl(&["add_user", &user, "first-1"]).unwrap();
    let rights = ["set_permissions", "-p", &vhost, &user, "^s3minio.*", "^s3minio.*", "^s3minio.*"];
    stack.rabbitmqctl(&rights).unwrap();
    let secrets = Secrets::new();
    let file = secrets.put("password", "first-1\n");
    let daemon = daemon(&[
        ("RABBITMQ_REGULAR_USER_NAME", &user),
        ("RABBITMQ_REGULAR_USER_PASS", ""),
        ("RABBITMQ_REGULAR_USER_PASS_FILE", &file),
    ])
    .await;
    stack.rabbitmqctl(&["change_password", &user, "second-2"]).unwrap();
    secrets.put("password", "second-2\n");
    stack.rabbitmqctl(&["close_all_user_connections", &user, "rotation"]).unwrap();
    eventually("the session is lost", || async {
        metric(&daemon, "avscan_sessions_lost_total").await > 0
    })
    .await;
    daemon.s3().put("k", "x").await.unwrap();
    assert_eq!(status(&daemon, "k").await, "clean");
    assert!(!daemon.output().contains("second-2"));
    drop(daemon);
    stack.rabbitmqctl(&["delete_user", &user]).unwrap();
}

/// A store that accepts one access key at a time. It refuses all others as S3 does: by an error
/// code, or by the status alone for an answer without a body.
fn store(rotated: Arc<AtomicBool>, rotate_at_get: bool) -> Server {
    Server::start(move |request| {
        let known = if rotated.load(Ordering::Relaxed) { "key-2/" } else { "key-1/" };
        let sent = request.header("authorization").unwrap_or_default();
        if !sent.contains(&format!("Credential={known}")) {
            let refusal = "<Error><Code>InvalidAccessKeyId</Code><Message>no</Message></Error>";
            return Reply::new(403, if request.method == "HEAD" { "" } else { refusal });
        }
        let tagging = request.path.contains("tagging");
        match request.method.as_str() {
            "GET" if request.path == "/" || request.path.starts_with("/?") => {
                Reply::new(200, "<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>")
            }
            "GET" if tagging => Reply::new(200, "<Tagging><TagSet/></Tagging>"),
            "GET" => {
                rotated.fetch_or(rotate_at_get, Ordering::Relaxed);
                Reply::new(200, "fine").header("etag", "\"e1\"")
            }
            "HEAD" => Reply::new(200, "").header("etag", "\"e1\"").header("content-length", "4"),
            _ => Reply::new(200, "").header("x-amz-request-id", "1A2B3C"),
        }
    })
}

#[tokio::test]
async fn new_keys_of_the_store_are_taken_from_their_files() {
    for rotate_at_get in [false, true] {
        let rotated = Arc::new(AtomicBool::new(false));
        let server = store(Arc::clone(&rotated), rotate_at_get);
        let secrets = Secrets::new();
        let (id, key) = (secrets.put("id", "key-1\n"), secrets.put("key", "secret-1\n"));
        let daemon = daemon(&[
            ("MINIO_SERVER_URL", server.url()),
            ("MINIO_ACCESS_KEY_ID", ""),
            ("MINIO_SECRET_ACCESS_KEY", ""),
            ("MINIO_ACCESS_KEY_ID_FILE", &id),
            ("MINIO_SECRET_ACCESS_KEY_FILE", &key),
            ("RETRY_DELAYS", "1s"),
            ("RETRY_LIMIT", "1"),
        ])
        .await;
        secrets.put("id", "key-2\n");
        secrets.put("key", "secret-2\n");
        rotated.fetch_or(!rotate_at_get, Ordering::Relaxed);
        notify(&daemon, notification::put("b", "k", Some(4), Some("e1")).to_string().as_bytes())
            .await;
        let report = daemon.reports_on("k", 1, SOON).await.unwrap().remove(0).json();
        assert_eq!((&report["status"], &report["action"]), (&"clean".into(), &"tag".into()));
        assert_eq!((&report["attempt"], &report["error"]), (&1.into(), &().into()));
        assert!(!daemon.output().contains("secret-2"));
    }
}

#[tokio::test]
async fn new_secrets_of_the_webhook_are_taken_from_their_files() {
    let whsec = |byte: u8| format!("whsec_{}", BASE64.encode([byte; 32]));
    let (sink, new) = (Sink::start().await.unwrap(), whsec(2));
    let takes = move |received: &Received| {
        let mut headers = reqwest::header::HeaderMap::new();
        for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
            headers.insert(name, received.headers[name].parse().unwrap());
        }
        let signed = standardwebhooks::Webhook::new(&new).unwrap();
        signed.verify(received.body.as_bytes(), &headers).is_ok()
            && received.headers["authorization"] == "Bearer second-2"
    };
    let url = format!("{}/hook", sink.url());
    let secrets = Secrets::new();
    let files = (secrets.put("sign", &whsec(1)), secrets.put("token", "Bearer first-1\n"));
    let daemon = daemon(&[
        ("PUBLISH_URL", &url),
        ("PUBLISH_SECRET", ""),
        ("PUBLISH_SECRET_FILE", &files.0),
        ("PUBLISH_AUTHORIZATION_FILE", &files.1),
    ])
    .await;
    let of = |key: &'static str| move |received: &Received| received.key().as_deref() == Some(key);
    daemon.s3().put("before", "x").await.unwrap();
    let first = sink.wait_for(1, SOON, of("before")).await.unwrap().remove(0);
    assert_eq!(first.headers["authorization"], "Bearer first-1");
    // Unusable values are ignored: the files may be written only in part.
    secrets.put("sign", "");
    secrets.put("token", "Bearer second\u{1}\n");
    for status in [401, 403] {
        sink.answer(status);
        daemon.s3().put("k", "x").await.unwrap();
        sink.wait_for(1, SOON, of("k")).await.unwrap();
        std::fs::remove_file(secrets.path("sign")).unwrap_or_default();
    }
    secrets.put("sign", &whsec(2));
    secrets.put("token", "Bearer second-2\n");
    let accepted = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&accepted);
    sink.script(move |_, received| {
        if takes(received) {
            seen.store(true, Ordering::Relaxed);
            return sink::Reply::status(200);
        }
        sink::Reply::status(401)
    });
    eventually("the new secrets are used", || async { accepted.load(Ordering::Relaxed) }).await;
    assert!(!daemon.output().contains("second-2"));
}
