//! What `audit` finds in real and scripted stores. Receipts are signed here, after `docs/RECEIPTS.md`
//! and apart from the daemon's own code.

mod faults;
mod outputs;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::SystemTime;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::{StreamExt, stream};
use peers::proxy::EngineProxy;
use peers::scripted::store::{Store, Version};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use stack::{S3, Seaweed};

use super::commands::text;
use super::*;

const RECEIPT: &str = "scanned-receipt";
/// Objects that are verified, among those that deviate.
const MANY: usize = 2_000;
/// Of each kind.
const PLANTED: usize = 3;
const VERSION: &str = "ClamAV 1.4.6/27812/Sat Nov 28 08:27:00 2026";
const FRESH: &str = "27812@1795854420";

/// Signs receipts.
struct Signer {
    pem: String,
    pair: Ed25519KeyPair,
}

/// An object as a receipt binds it.
#[derive(Debug, Clone)]
struct Bound {
    bucket: String,
    key: String,
    /// The letters, and the fields that they stand for.
    binds: &'static str,
    fields: Vec<String>,
}

impl Signer {
    fn new() -> Self {
        let output =
            Command::new(BINARY).args(["receipt-key", "new"]).env_clear().output().unwrap();
        let pem = text(&output.stdout);
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
        Self { pem, pair }
    }

    fn sign(&self, bound: &Bound, status: &str, database: &str) -> String {
        let Bound { bucket, key, binds, fields } = bound;
        let all = [bucket, key].into_iter().chain(fields);
        let object: Vec<_> = all.map(|text| format!("{}:{text},", text.len())).collect();
        let object = object.concat();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let base64 = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let id = base64(&Sha256::digest(self.pair.public_key().as_ref())[..8]);
        let (hash, object) = (base64(&Sha256::digest(b"x")), base64(&Sha256::digest(object)));
        let signed = format!("1:{id}:{status}:{now}:{binds}:{database}:{hash}:{object}");
        let message = format!("bucket-av-scanner receipt\n{signed}");
        format!("{signed}:{}", base64(self.pair.sign(message.as_bytes()).as_ref()))
    }
}

/// What a command said.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn all(&self) -> String {
        format!("exit {}\n{}{}", self.code, self.out, self.err)
    }
}

/// Runs `audit` with these settings alone.
fn audit(arguments: &[&str], settings: &[(&str, &str)]) -> Said {
    let output = command(arguments, settings).output().unwrap();
    let code = output.status.code().unwrap();
    Said { code, out: text(&output.stdout), err: text(&output.stderr) }
}

fn command(arguments: &[&str], settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("audit").args(arguments).env_clear().envs(settings.iter().copied());
    command
}

/// The settings of a store, and the key.
fn settings<'a>(
    url: &'a str,
    keys: (&'a str, &'a str),
    signer: &'a Signer,
) -> Vec<(&'a str, &'a str)> {
    vec![
        ("MINIO_SERVER_URL", url),
        ("MINIO_ACCESS_KEY_ID", keys.0),
        ("MINIO_SECRET_ACCESS_KEY", keys.1),
        ("RECEIPT_KEY", &signer.pem),
    ]
}

/// The columns `key` and `standing` of a CSV file.
fn standings(csv: &str) -> BTreeMap<String, String> {
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    reader
        .records()
        .map(|record| {
            let record = record.unwrap();
            let key = record[1].strip_prefix('\'').unwrap_or(&record[1]);
            (key.to_owned(), record[5].to_owned())
        })
        .collect()
}

/// What a list says of an object, as receipts bind it.
async fn listed(s3: &S3) -> BTreeMap<String, Bound> {
    let mut objects = BTreeMap::new();
    let mut pages = s3.client.list_objects_v2().bucket(&s3.bucket).into_paginator().send();
    while let Some(page) = pages.next().await {
        for object in page.unwrap().contents.unwrap_or_default() {
            let (key, etag) = (object.key.unwrap(), object.e_tag.unwrap().replace('"', ""));
            let modified = object.last_modified.unwrap().secs().to_string();
            let fields = vec![etag, modified, object.size.unwrap().to_string()];
            let bucket = s3.bucket.clone();
            objects.insert(key.clone(), Bound { bucket, key, binds: "eml", fields });
        }
    }
    objects
}

/// A receipt with a wrong signature.
fn broken(receipt: &str) -> String {
    let mut bytes = receipt.to_owned().into_bytes();
    let at = bytes.len() - 3;
    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
    String::from_utf8(bytes).unwrap()
}

/// The kinds of deviations, with the standing of each.
const KINDS: [(&str, &str); 11] = [
    ("unscanned", "never"),
    ("forged", "forged"),
    ("copied", "never"),
    ("overwritten", "never"),
    ("receipt of another key", "never"),
    ("infected", "infected"),
    ("unscannable", "unscannable"),
    ("full", "untaggable"),
    ("stale", "stale"),
    ("removed", "never"),
    ("status alone", "never"),
];

#[tokio::test]
async fn deviations_among_many_objects_are_all_found_and_nothing_else() {
    let stack = Stack::from_env();
    let daemon = Daemon::prepare(&stack, binary(), &[("INTAKE_ADDR", "")]).await.unwrap();
    let (s3, signer) = (daemon.s3(), Signer::new());
    let name = |kind: &str, number: usize| format!("{kind}/{number:05}");
    let keys: Vec<String> = (0..MANY)
        .map(|number| name("good", number))
        .chain(KINDS.iter().flat_map(|(kind, _)| (0..PLANTED).map(move |n| name(kind, n))))
        .collect();
    let put = |key: String| {
        let s3 = &s3;
        async move { s3.put(&key, key.clone()).await.unwrap() }
    };
    stream::iter(keys.clone()).map(put).buffer_unordered(32).collect::<Vec<_>>().await;
    let bound = listed(&s3).await;
    assert_eq!(bound.len(), MANY + KINDS.len() * PLANTED);
    let tag = |key: String| {
        let kind = key.split('/').next().unwrap().to_owned();
        let genuine = signer.sign(&bound[&key], "clean", FRESH);
        let (status, receipt) = match kind.as_str() {
            "unscanned" | "copied" => return None,
            "forged" => ("clean", broken(&genuine)),
            "receipt of another key" => {
                ("clean", signer.sign(&bound[&name("good", 0)], "clean", FRESH))
            }
            "infected" => ("infected", signer.sign(&bound[&key], "infected", FRESH)),
            "unscannable" => ("no", signer.sign(&bound[&key], "no", FRESH)),
            "stale" => ("clean", signer.sign(&bound[&key], "clean", "27811@1795768020")),
            "good" if key.ends_with('7') => {
                ("clean", signer.sign(&bound[&key], "clean", "27813@1795940820"))
            }
            _ => ("clean", genuine),
        };
        let mut tags = vec![("scanned".to_owned(), status.to_owned())];
        match kind.as_str() {
            "full" => tags.extend((0..9).map(|n| (format!("t{n}"), "x".to_owned()))),
            "status alone" => {}
            _ => tags.push((RECEIPT.to_owned(), receipt)),
        }
        Some((key, tags))
    };
    let set = |(key, tags): (String, Vec<(String, String)>)| {
        let s3 = &s3;
        async move {
            let tags: Vec<_> = tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            s3.set_tags(&key, &tags).await.unwrap();
        }
    };
    let tagged: Vec<_> = keys.iter().cloned().filter_map(tag).collect();
    stream::iter(tagged).map(set).buffer_unordered(32).collect::<Vec<_>>().await;
    for number in 0..PLANTED {
        let source = format!("{}/{}", s3.bucket, name("good", number));
        let copy = s3.client.copy_object().bucket(&s3.bucket).copy_source(source);
        copy.key(name("copied", number)).send().await.unwrap();
        let key = name("overwritten", number);
        let tags = s3.tags(&key).await.unwrap().unwrap();
        let tags: Vec<_> = tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        s3.put(&key, "other").await.unwrap();
        s3.set_tags(&key, &tags).await.unwrap();
        let removed = s3.client.delete_object_tagging().bucket(&s3.bucket);
        removed.key(name("removed", number)).send().await.unwrap();
    }
    let expected: BTreeMap<String, String> = keys
        .iter()
        .map(|key| {
            let kind = key.split('/').next().unwrap();
            let standing = KINDS.iter().find(|(name, _)| *name == kind);
            (key.clone(), standing.map_or("verified", |(_, standing)| *standing).to_owned())
        })
        .collect();

    let engine = EngineProxy::start(&stack.settings().clamd_socket).await.unwrap();
    engine.set_version(Some(VERSION));
    let (env, endpoint) = (daemon.env(), format!("tcp://{}", engine.address()));
    let (access, secret) = (&env["MINIO_ACCESS_KEY_ID"], &env["MINIO_SECRET_ACCESS_KEY"]);
    let mut all = settings(&env["MINIO_SERVER_URL"], (access, secret), &signer);
    all.extend([("MINIO_REGION", env["MINIO_REGION"].as_str()), ("SCANNER", "clamd")]);
    all.push(("CLAMD_ENDPOINT", &endpoint));
    let arguments = [s3.bucket.as_str(), "--csv", "-"].map(str::to_owned);
    let settings: Vec<_> =
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let run = move || {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let settings: Vec<_> = settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        audit(&arguments, &settings)
    };
    // On a thread of its own: this one serves the engine's proxy.
    let said = tokio::task::spawn_blocking(run).await.unwrap();
    assert_eq!(said.code, 1, "{}", said.err);
    let found = standings(&said.out);
    let wrong: Vec<_> =
        expected.iter().filter(|(key, standing)| found.get(*key) != Some(standing)).collect();
    assert!(wrong.is_empty() && found.len() == expected.len(), "{wrong:?}\n{}", said.err);
    assert!(said.err.contains("by database 27812 of 2026-11-28T08:27:00Z"), "{}", said.err);
    // Each kind with examples, as addresses.
    for standing in ["never", "forged", "infected", "unscannable", "untaggable", "stale"] {
        assert!(said.err.contains(&format!("\n{standing}: ")), "{standing}\n{}", said.err);
    }
    assert!(said.err.contains(&format!("  s3://{}/forged/00000: ", s3.bucket)), "{}", said.err);
}

async fn with_versions(store: &Seaweed, bucket: &str) -> S3 {
    let s3 = store.s3(bucket);
    s3.create_bucket().await.unwrap();
    s3.set_versioning(true).await.unwrap();
    s3
}

#[tokio::test]
async fn every_version_has_a_standing_of_its_own() {
    let store = Seaweed::start().await.unwrap();
    let (s3, signer) = (with_versions(&store, "audited").await, Signer::new());
    let settings = settings(store.url(), store.keys(), &signer);
    for key in ["a-b", "a/b c+d", "deleted", "é"] {
        for number in 0..3 {
            let put = s3.client.put_object().bucket(&s3.bucket).key(key).body(b"x".to_vec().into());
            let version = put.send().await.unwrap().version_id.unwrap();
            if number == 1 {
                continue;
            }
            let bound = Bound {
                bucket: s3.bucket.clone(),
                key: key.to_owned(),
                binds: "vl",
                fields: vec![version.clone(), "1".to_owned()],
            };
            let receipt = signer.sign(&bound, "clean", FRESH);
            let tag = aws_sdk_s3::types::Tag::builder().key(RECEIPT).value(receipt).build();
            let tags = aws_sdk_s3::types::Tagging::builder().tag_set(tag.unwrap()).build();
            let put = s3.client.put_object_tagging().bucket(&s3.bucket).key(key);
            put.version_id(version).tagging(tags.unwrap()).send().await.unwrap();
        }
    }
    s3.delete("deleted").await.unwrap();
    let said = audit(&["audited", "--json", "-"], &settings);
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((said.code, &json["objects"]), (1, &12.into()), "{}", said.all());
    let counts: BTreeMap<_, _> = json["standings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["standing"].as_str().unwrap(), row["objects"].as_u64().unwrap()))
        .filter(|(_, objects)| *objects > 0)
        .collect();
    assert_eq!(counts, BTreeMap::from([("never", 4), ("verified", 8)]), "{}", said.all());
    assert!(said.err.contains("?versionId="), "{}", said.err);
    // The current ones are all verified. What is deleted is none.
    let said = audit(&["audited", "--current-only"], &settings);
    assert_eq!(said.code, 0, "{}", said.all());
    assert!(said.out.contains("Every object is verified clean: 3 of 3."), "{}", said.out);
    // A part of the bucket.
    let said = audit(&["s3://audited/a/", "--current-only"], &settings);
    assert!(said.code == 0 && said.out.contains("1 of 1."), "{}", said.all());
}

/// What stands for a folder in a list has no content that could be scanned. (`SeaweedFS` gives it an
/// `ETag`: there it is an object like any other.)
#[tokio::test]
async fn a_folder_is_no_object() {
    let stack = Stack::from_env();
    let daemon = Daemon::prepare(&stack, binary(), &[]).await.unwrap();
    let (s3, signer, env) = (daemon.s3(), Signer::new(), daemon.env());
    let keys = (&env["MINIO_ACCESS_KEY_ID"], &env["MINIO_SECRET_ACCESS_KEY"]);
    let mut settings = settings(&env["MINIO_SERVER_URL"], (keys.0, keys.1), &signer);
    settings.push(("MINIO_REGION", &env["MINIO_REGION"]));
    s3.put("d/", "").await.unwrap();
    let said = audit(&[&s3.bucket], &settings);
    assert_eq!(said.code, 0, "{}", said.all());
    assert!(said.out.contains("1 folders have no bytes"), "{}", said.all());
    s3.put("d/empty", "").await.unwrap();
    let said = audit(&[&s3.bucket], &settings);
    assert_eq!(said.code, 1, "{}", said.all());
    assert!(said.out.contains("1 of 1 objects are not"), "{}", said.all());
}

/// A scripted store, in which objects are verified.
fn scripted(signer: &Signer, store: &Store, bucket: &str, keys: &[&str]) {
    for key in keys {
        store.put(bucket, key, Version::new(*key));
        verify_now(signer, store, bucket, key);
    }
}

/// Gives an object of a scripted store a receipt.
fn verify_now(signer: &Signer, store: &Store, bucket: &str, key: &str) {
    store.with(|contents| {
        let version = contents.bucket(bucket).version_mut(key.as_bytes(), None).unwrap();
        let modified = version.modified.unix_timestamp().to_string();
        let fields = vec![version.etag.clone(), modified, version.body.len().to_string()];
        let bound = Bound { bucket: bucket.to_owned(), key: key.to_owned(), binds: "eml", fields };
        let receipt = signer.sign(&bound, "clean", FRESH);
        version.tags = vec![("scanned".into(), "clean".into()), (RECEIPT.into(), receipt)];
    });
}
