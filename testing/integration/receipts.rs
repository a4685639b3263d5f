//! Receipts on real objects, and what `verify` says of them.

use std::process::{Command, Output};
use std::time::SystemTime;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use aws_sdk_s3::types::{BucketVersioningStatus, Tagging, VersioningConfiguration};
use aws_smithy_types::date_time::Format;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use peers::eicar::eicar;
use peers::scripted::Server;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use stack::place::checkout;
use stack::{S3, Seaweed};

use super::commands::text;
use super::*;

const RECEIPT: &str = "scanned-receipt";

/// What `verify` prints, and its exit code. Without the settings of broker, engine and webhook.
fn verify(daemon: &Daemon, object: &str, more: &[&str], env: &[(&str, &str)]) -> (i32, String) {
    let is_needed =
        |name: &str| name.starts_with("MINIO_") || name.starts_with("RECEIPT_") || name == "PATH";
    let output = Command::new(BINARY)
        .arg("verify")
        .arg(format!("s3://{}/{object}", daemon.names.bucket))
        .args(more)
        .env_clear()
        .envs(daemon.env().iter().filter(|(name, _)| is_needed(name)))
        .envs(env.iter().copied())
        .output()
        .unwrap();
    let code = output.status.code().unwrap();
    (code, text(&output.stdout) + &text(&output.stderr))
}

fn receipt_key(command: &str, env: &[(&str, &str)]) -> Output {
    let mut receipt_key = Command::new(BINARY);
    receipt_key.args(["receipt-key", command]).env_clear().envs(env.iter().copied());
    receipt_key.output().unwrap()
}

/// A receipt about an object, signed with the first key, that names the second. Written after
/// `docs/RECEIPTS.md`, apart from the daemon's own code.
async fn forge(signing: &str, named: &str, s3: &S3, key: &str, status: &str) -> String {
    let pair = |pem: &str| {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).unwrap();
        Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap()
    };
    let head = s3.client.head_object().bucket(&s3.bucket).key(key).send().await.unwrap();
    let etag = head.e_tag().unwrap().replace('"', "");
    let modified = head.last_modified().unwrap().secs().to_string();
    let length = head.content_length().unwrap().to_string();
    let fields = [s3.bucket.as_str(), key, &etag, &modified, &length];
    let netstrings = fields.map(|text| format!("{}:{text},", text.len()));
    let object = netstrings.concat();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    let base64 = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let id = base64(&Sha256::digest(pair(named).public_key().as_ref())[..8]);
    let (hash, object) = (base64(&Sha256::digest(b"x")), base64(&Sha256::digest(object)));
    let signed = format!("1:{id}:{status}:{now}:eml::{hash}:{object}");
    let signature = pair(signing).sign(format!("bucket-av-scanner receipt\n{signed}").as_bytes());
    format!("{signed}:{}", base64(signature.as_ref()))
}

async fn receipt(s3: &S3, key: &str) -> String {
    s3.tags(key).await.unwrap().unwrap()[RECEIPT].clone()
}

/// Writes our two tags as a user with the right to tag could.
async fn write(s3: &S3, key: &str, receipt: &str) {
    s3.set_tags(key, &[("scanned", "clean"), (RECEIPT, receipt)]).await.unwrap();
}

#[tokio::test]
async fn an_object_that_was_scanned_is_verified_with_the_public_key_alone() {
    let daemon = daemon(&[("DELETE_FILE", "false"), ("VOLUME_SIZE", "1")]).await;
    let s3 = daemon.s3();
    let key = "dir/a b+c é";
    s3.put(key, "hello").await.unwrap();
    s3.put("eicar", eicar()).await.unwrap();
    assert_eq!(status(&daemon, key).await, "clean");
    assert_eq!(status(&daemon, "eicar").await, "infected");

    let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let (code, line) = verify(&daemon, key, &["--download"], &[]);
    assert!(code == 0 && line.starts_with("verified: ") && line.contains(sha256), "{code} {line}");
    let (code, line) = verify(&daemon, "eicar", &[], &[]);
    assert!(code == 1 && line.starts_with("infected: "), "{code} {line}");
    let (code, line) = verify(&daemon, "nothing", &[], &[]);
    assert!(code == 3 && line.contains("no such object"), "{code} {line}");
    // An uploader chooses the key, and with it what it looks like.
    s3.put("twin", "hello").await.unwrap();
    s3.put("twin?versionId=null", "other").await.unwrap();
    assert_eq!(status(&daemon, "twin").await, "clean");
    assert_eq!(status(&daemon, "twin?versionId=null").await, "clean");
    s3.set_tags("twin?versionId=null", &[("scanned", "clean")]).await.unwrap();
    let (code, line) = verify(&daemon, "twin?versionId=null", &[], &[]);
    assert!(code == 3 && line.contains("an object has this whole key"), "{code} {line}");
    assert_eq!(verify(&daemon, "twin?versionId=null?versionId=null", &[], &[]).0, 1);
    assert_eq!(verify(&daemon, "twin", &[], &[]).0, 0);
    let (code, line) = verify(&daemon, key, &[], &[("MINIO_SERVER_URL", "http://127.0.0.1:1")]);
    assert!(code == 3 && line.lines().count() == 1, "{code} {line}");

    // The public key alone: as a setting, and as a file.
    let private = daemon.env()["RECEIPT_KEY_FILE"].clone();
    let public = receipt_key("public", &[("RECEIPT_KEY_FILE", &private)]);
    assert!(public.status.success());
    let pem = text(&public.stdout);
    let ours = [("RECEIPT_KEY_FILE", ""), ("RECEIPT_TRUSTED_KEYS", pem.as_str())];
    assert_eq!(verify(&daemon, key, &[], &ours).0, 0);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("public.pem").to_string_lossy().into_owned();
    std::fs::write(&file, &pem).unwrap();
    let named = ["--public-key", file.as_str()];
    assert_eq!(verify(&daemon, key, &named, &[("RECEIPT_KEY_FILE", "")]).0, 0);
    // Somebody else's key, none at all, and one that is none.
    let other = text(&receipt_key("new", &[]).stdout);
    let public = text(&receipt_key("public", &[("RECEIPT_KEY", &other)]).stdout);
    std::fs::write(&file, public).unwrap();
    let (code, line) = verify(&daemon, key, &named, &[]);
    assert!(code == 1 && line.starts_with("stale: "), "{code} {line}");
    let (code, line) = verify(&daemon, key, &[], &[("RECEIPT_KEY_FILE", "")]);
    assert!(code == 78 && line.contains("--public-key"), "{code} {line}");
    std::fs::write(&file, "none").unwrap();
    assert_eq!(verify(&daemon, key, &named, &[]).0, 78);

    // Too old.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let (code, line) = verify(&daemon, key, &[], &[("RECEIPT_MAX_AGE", "1s")]);
    assert!(code == 1 && line.starts_with("stale: "), "{code} {line}");
    assert_eq!(verify(&daemon, key, &[], &[("RECEIPT_MAX_AGE", "1d")]).0, 0);
}

#[tokio::test]
async fn nobody_can_write_a_receipt_or_carry_one_to_another_object() {
    let daemon = daemon(&[]).await;
    let s3 = daemon.s3();
    for (key, content) in [("one", "1"), ("two", "2"), ("copied", "3")] {
        s3.put(key, content).await.unwrap();
        assert_eq!(status(&daemon, key).await, "clean");
    }
    let genuine = receipt(&s3, "one").await;
    let mut changed = genuine.clone().into_bytes();
    let last = changed.len() - 3;
    changed[last] = if changed[last] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).unwrap();
    for (text, standing) in [
        (genuine.as_str(), "never"),
        (changed.as_str(), "forged"),
        ("clean", "forged"),
        ("", "forged"),
    ] {
        write(&s3, "two", text).await;
        let (code, line) = verify(&daemon, "two", &[], &[]);
        assert!(code == 1 && line.starts_with(&format!("{standing}: ")), "{text} {line}");
    }
    assert_eq!(verify(&daemon, "one", &[], &[]).0, 0);

    // Copied together with its tags, as S3 does by default, while nothing scans it.
    let mut daemon = daemon;
    daemon.terminate(SOON).await.unwrap();
    let source = format!("{}/copied", s3.bucket);
    let copy = s3.client.copy_object().bucket(&s3.bucket).key("copy").copy_source(source);
    copy.send().await.unwrap();
    assert_eq!(receipt(&s3, "copy").await, receipt(&s3, "copied").await);
    let (code, line) = verify(&daemon, "copy", &[], &[]);
    assert!(code == 1 && line.starts_with("never: "), "{line}");
    // Overwritten, and the tags written back.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for content in ["other", "1"] {
        s3.put("one", content).await.unwrap();
        write(&s3, "one", &genuine).await;
        let (code, line) = verify(&daemon, "one", &[], &[]);
        assert!(code == 1 && line.starts_with("never: "), "{content} {line}");
    }
}

#[tokio::test]
async fn an_object_with_many_tags_gets_its_status_alone() {
    let mut daemon =
        Daemon::prepare(&Stack::from_env(), binary(), &[("DELETE_FILE", "false")]).await.unwrap();
    let s3 = daemon.s3();
    for (key, count) in [("eight", 8), ("nine", 9)] {
        s3.put(key, "x").await.unwrap();
        let tags: Vec<_> = (0..count).map(|n| (format!("t{n}"), "x")).collect();
        let tags: Vec<_> = tags.iter().map(|(key, value)| (key.as_str(), *value)).collect();
        s3.set_tags(key, &tags).await.unwrap();
    }
    daemon.spawn().unwrap();
    daemon.wait_ready(SOON).await.unwrap();
    for (key, tags) in [("eight", 10), ("nine", 10)] {
        assert_eq!(status(&daemon, key).await, "clean");
        assert_eq!(s3.tags(key).await.unwrap().unwrap().len(), tags, "{key}");
    }
    assert_eq!(verify(&daemon, "eight", &[], &[]).0, 0);
    let (code, line) = verify(&daemon, "nine", &[], &[]);
    assert!(code == 1 && line.starts_with("untaggable: "), "{line}");
}

#[tokio::test]
async fn each_version_has_a_receipt_of_its_own() {
    let store = Seaweed::start().await.unwrap();
    let (access, secret) = store.keys();
    let daemon = daemon(&[
        ("MINIO_SERVER_URL", store.url()),
        ("MINIO_ACCESS_KEY_ID", access),
        ("MINIO_SECRET_ACCESS_KEY", secret),
        ("DELETE_FILE", "false"),
    ])
    .await;
    let s3 = store.s3(&daemon.names.bucket);
    s3.create_bucket().await.unwrap();
    let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled);
    let put = s3.client.put_bucket_versioning().bucket(&s3.bucket);
    put.versioning_configuration(enabled.build()).send().await.unwrap();
    let mut versions = Vec::new();
    for content in [b"old".to_vec(), eicar(), b"old".to_vec()] {
        let put = s3.client.put_object().bucket(&s3.bucket).key("k").body(content.into());
        versions.push(put.send().await.unwrap().version_id.unwrap());
    }
    for version in &versions {
        let event = peers::notification::put(&s3.bucket, "k", None, None);
        let mut event = event;
        event["Records"][0]["s3"]["object"]["versionId"] = version.as_str().into();
        notify(&daemon, event.to_string().as_bytes()).await;
    }
    daemon.reports_on("k", 3, SOON).await.unwrap();
    for (version, standing) in versions.iter().zip(["verified", "infected", "verified"]) {
        let (_, line) = verify(&daemon, &format!("k?versionId={version}"), &["--download"], &[]);
        assert!(line.starts_with(&format!("{standing}: ")), "{line}");
    }
    assert_eq!(verify(&daemon, "k", &[], &[]).0, 0);
    // The same bytes at another version.
    let old = s3.client.get_object_tagging().bucket(&s3.bucket).key("k").version_id(&versions[0]);
    let genuine = old.send().await.unwrap().tag_set;
    let tagging = Tagging::builder().set_tag_set(Some(genuine)).build().unwrap();
    let put = s3.client.put_object_tagging().bucket(&s3.bucket).key("k").version_id(&versions[2]);
    put.tagging(tagging).send().await.unwrap();
    let (code, line) = verify(&daemon, "k", &[], &[]);
    assert!(code == 1 && line.starts_with("never: "), "{line}");
}

/// The verdict of a replica that stood still for a while comes too late.
#[tokio::test]
async fn a_verdict_of_an_earlier_scan_replaces_no_later_one() {
    let engine = Server::start(|request: &Request| {
        let slow = request.body.windows(4).any(|part| part == b"slow");
        lax_v1(request).after(Duration::from_secs(if slow { 3 } else { 0 }))
    });
    let overrides = [("SCANNER", "clamav-rest"), ("CLAMD_ENDPOINT", engine.url())];
    let daemon = daemon(&overrides).await;
    let s3 = daemon.s3();
    s3.put("k", "slow").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let private = std::fs::read_to_string(&daemon.env()["RECEIPT_KEY_FILE"]).unwrap();
    let later = forge(&private, &private, &s3, "k", "infected").await;
    s3.set_tags("k", &[("scanned", "infected"), (RECEIPT, &later)]).await.unwrap();
    let report = daemon.reports_on("k", 1, SOON).await.unwrap()[0].json();
    assert_eq!(
        (report["status"].as_str(), report["error"].as_str(), report["action"].as_str()),
        (Some("clean"), Some("newer_verdict"), Some("no"))
    );
    assert_eq!(receipt(&s3, "k").await, later);
    let (code, line) = verify(&daemon, "k", &[], &[]);
    assert!(code == 1 && line.starts_with("infected: "), "{line}");
    // One of the same status stays as well, and then nothing is amiss.
    s3.put("same", "slow").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let later = forge(&private, &private, &s3, "same", "clean").await;
    s3.set_tags("same", &[("scanned", "clean"), (RECEIPT, &later)]).await.unwrap();
    let report = daemon.reports_on("same", 1, SOON).await.unwrap()[0].json();
    assert_eq!(
        (report["status"].as_str(), report["error"].as_str(), report["action"].as_str()),
        (Some("clean"), None, Some("tag"))
    );
    assert_eq!(receipt(&s3, "same").await, later);
    // Signed by another key, it stops nothing, whatever key it names.
    let other = text(&receipt_key("new", &[]).stdout);
    for (name, named) in [("a", &other), ("b", &private)] {
        s3.put(name, "slow").await.unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let forged = forge(&other, named, &s3, name, "infected").await;
        s3.set_tags(name, &[("scanned", "infected"), (RECEIPT, &forged)]).await.unwrap();
        let (code, line) = verify(&daemon, name, &[], &[]);
        let standing = if name == "a" { "stale" } else { "forged" };
        assert!(code == 1 && line.starts_with(standing), "{line}");
        eventually("it is replaced", || async { verify(&daemon, name, &[], &[]).0 == 0 }).await;
    }
}

/// What `docs/RECEIPTS.md` tells a shell to do, and the example in Python.
#[tokio::test]
async fn receipts_can_be_checked_without_this_program() {
    let daemon = daemon(&[]).await;
    let s3 = daemon.s3();
    let key = "dir/a b+c é";
    s3.put(key, "hello").await.unwrap();
    assert_eq!(status(&daemon, key).await, "clean");
    let private = daemon.env()["RECEIPT_KEY_FILE"].clone();
    let folder = tempfile::tempdir().unwrap();
    let public = receipt_key("public", &[("RECEIPT_KEY_FILE", &private)]).stdout;
    std::fs::write(folder.path().join("receipt-public.pem"), public).unwrap();
    let page = std::fs::read_to_string(checkout().join("docs/RECEIPTS.md")).unwrap();
    let script = page.split("```bash\n").nth(1).unwrap().split("```").next().unwrap();
    let head = s3.client.head_object().bucket(&s3.bucket).key(key).send().await.unwrap();
    let (etag, length) = (head.e_tag().unwrap().replace('"', ""), head.content_length().unwrap());
    let modified = head.last_modified().unwrap().fmt(Format::HttpDate).unwrap();
    let genuine = receipt(&s3, key).await;

    let shell = |receipt: &str| {
        let output = Command::new("bash")
            .args(["-c", script])
            .current_dir(folder.path())
            .envs([("RECEIPT", receipt), ("BUCKET", &s3.bucket), ("KEY", key), ("ETAG", &etag)])
            .envs([("LENGTH", length.to_string()), ("LAST_MODIFIED", modified.clone())])
            .output()
            .unwrap();
        text(&output.stdout) + &text(&output.stderr)
    };
    let said = shell(&genuine);
    assert!(said.contains("Signature Verified Successfully"), "{said}");
    let object = genuine.split(':').nth(7).unwrap();
    let last = format!("{object} is the object, and the receipt is about {object}\n");
    assert!(said.ends_with(&last), "{said}");
    assert!(!shell(&genuine.replace(":clean:", ":infected:")).contains("Successfully"));

    let python = |receipt: &str, key: &str| {
        let output = Command::new("python3")
            .arg(checkout().join("examples/verify_receipt.py"))
            .args(["receipt-public.pem", receipt, &s3.bucket, key])
            .args([&length.to_string(), &etag, &modified])
            .current_dir(folder.path())
            .env("PYTHONPATH", super::examples::python_packages())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .unwrap();
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    };
    let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    assert_eq!(python(&genuine, key), (true, format!("clean {sha256}\n")));
    assert!(!python(&genuine, "another").0);
    assert!(!python(&genuine.replace(":clean:", ":infected:"), key).0);
}

#[tokio::test]
async fn keys_that_cannot_be_used_are_refused() {
    for (name, value) in [
        ("RECEIPT_KEY", "nonsense"),
        ("RECEIPT_TRUSTED_KEYS", "nonsense"),
        ("RECEIPT_MAX_AGE", "1w"),
    ] {
        let overrides = [("RECEIPT_KEY_FILE", ""), (name, value)];
        let mut daemon = Daemon::prepare(&Stack::from_env(), binary(), &overrides).await.unwrap();
        daemon.spawn().unwrap();
        assert_eq!(daemon.wait_exit(SOON).await.unwrap(), 78, "{name}: {}", daemon.output());
        assert!(daemon.output().contains(name), "{}", daemon.output());
        assert!(!daemon.output().contains("nonsense"), "{}", daemon.output());
    }
    let missing = receipt_key("public", &[]);
    assert_eq!(missing.status.code(), Some(78));
    assert!(text(&missing.stderr).contains("RECEIPT_KEY"));
}
