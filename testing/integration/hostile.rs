//! Uploads made to evade the scanner. Nothing that an uploader chooses may decide anything but the
//! verdict on the content.
//!
//! The objects are on a scripted store that returns them unchanged. They have any number of stored
//! headers of any bytes, and any keys and tags. A real daemon, broker and clamd must give each the
//! right result. Proptest makes them from a fixed seed, so that all runs are the same, and all
//! objects of one kind are scanned together. Nothing is shrunk: each object is an experiment of its
//! own, and all that fail are printed.

use std::collections::BTreeSet;
use std::fmt;

use peers::eicar::{eicar, hex};
use peers::notification;
use peers::scripted::Store;
use peers::scripted::store::{Version, Versioning};
use peers::sink::Received;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::Value;
use sha2::{Digest, Sha256};
use stack::Daemon;

use super::*;

const SEED: [u8; 32] = *b"nobody gets past, 28 Nov 2026 ..";
const MAX_KEY: usize = 1024;
const MAX_TAGS: usize = 10;
/// Until all objects of a kind have their result.
const PATIENCE: Duration = Duration::from_secs(20);

/// Headers that stores keep or send, and that are not about the bytes. An uploader chooses most of
/// these. None may have an effect.
const HEADERS: &[&str] = &[
    "Expires",
    "Cache-Control",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Content-Type",
    "Last-Modified",
    "eXPIRES",
    "x-amz-expiration",
    "x-amz-meta-",
    "x-amz-meta-content-length",
    "x-amz-meta-etag",
    "x-amz-meta-x-amz-version-id",
    "x-amz-missing-meta",
    "x-amz-mp-parts-count",
    "x-amz-object-lock-legal-hold",
    "x-amz-object-lock-mode",
    "x-amz-object-lock-retain-until-date",
    "x-amz-replication-status",
    "x-amz-server-side-encryption-bucket-key-enabled",
    "x-amz-storage-class",
    "x-amz-tagging-count",
    "x-amz-website-redirect-location",
    "x-rgw-object-type",
];

/// Keys that a careless parser misreads.
const KEYS: &[&str] = &[
    "/",
    "//",
    ".",
    "..",
    "\t",
    "\u{b}\u{b}",
    "\u{85}\u{2003}\u{3000}",
    "../../etc/passwd",
    "a/../b",
    "a//b",
    " ",
    "+",
    "%",
    "%2F",
    "%00",
    "%FF",
    "a+b c%20d%2Be",
    "?tagging",
    "?versionId=1",
    "a#b",
    "a&b=c;d",
    "\r\nx: y",
    "\u{1}\u{7f}\u{80}",
    "e\u{301}",
    "\u{e9}",
    "\u{feff}",
    "\u{202e}gpj.exe",
    "\u{ffff}\u{10ffff}",
    "<Key>&amp;</Key>",
    "${HOME}`id`",
];

/// One object, and the form of its notification.
#[derive(Clone)]
struct Upload {
    versioning: Versioning,
    key: String,
    content: Vec<u8>,
    infected: bool,
    headers: Vec<(String, Vec<u8>)>,
    tags: Vec<(String, String)>,
    announced: Announced,
}

/// The fields of the notification.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field that may be absent")]
struct Announced {
    /// The raw key at the top, as from MinIO.
    raw_key: bool,
    etag: bool,
    size: bool,
    version: bool,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const FEW: usize = 12;
        writeln!(f, "key {:?}, versioning {:?}", self.key, self.versioning)?;
        writeln!(f, "  {} bytes, infected: {}", self.content.len(), self.infected)?;
        writeln!(f, "  announced {:?}", self.announced)?;
        writeln!(f, "  {} tags {:?}", self.tags.len(), self.tags)?;
        write!(f, "  {} headers", self.headers.len())?;
        for (name, value) in self.headers.iter().take(FEW) {
            let cut = &value[..value.len().min(100)];
            write!(f, "\n    {name}: {} ({} bytes)", cut.escape_ascii(), value.len())?;
        }
        Ok(())
    }
}

impl Upload {
    fn bucket(&self) -> &'static str {
        match self.versioning {
            Versioning::Off => "plain",
            Versioning::Enabled => "versioned",
            Versioning::Suspended => "suspended",
        }
    }

    /// Whether there is no room for our tag. A tag of the same key leaves room.
    fn is_full(&self) -> bool {
        self.tags.iter().filter(|(key, _)| key != "scanned").count() >= MAX_TAGS
    }

    fn version(&self) -> Version {
        let mut version = Version::new(self.content.clone());
        version.headers.clone_from(&self.headers);
        version.tags.clone_from(&self.tags);
        version
    }

    fn notification(&self, version_id: &str, etag: &str) -> Value {
        let Announced { raw_key, etag: with_etag, size, version } = self.announced;
        let size = size.then_some(self.content.len() as u64);
        let etag = with_etag.then_some(etag);
        let mut event = notification::put(self.bucket(), &self.key, size, etag);
        if !raw_key {
            event.as_object_mut().unwrap().remove("Key");
        }
        if version && self.versioning != Versioning::Off {
            event["Records"][0]["s3"]["object"]["versionId"] = version_id.into();
        }
        event
    }

    /// What is wrong with the result, if anything.
    fn complaint(
        &self,
        store: &Store,
        reports: &[Value],
        parked: &BTreeSet<String>,
    ) -> Option<String> {
        let of_it = |r: &&Value| r["key"] == *self.key && r["bucket"] == self.bucket();
        let told: BTreeSet<String> = reports
            .iter()
            .filter(of_it)
            .map(|report| {
                ["status", "action", "error", "reason", "sha256"]
                    .map(|name| report[name].as_str().unwrap_or("-"))
                    .join("/")
            })
            .collect();
        let versions = store.versions(self.bucket(), &self.key);
        let tag = versions.last().and_then(|version| version.tag_value("scanned"));
        let untouched = versions.last().is_some_and(|version| version.tags == self.tags);
        let kept = versions.last().is_some_and(|version| {
            let theirs = self.tags.iter().filter(|(key, _)| key != "scanned");
            theirs.clone().all(|tag| version.tags.contains(tag))
                && version.tags.len() == (theirs.count() + 2).min(MAX_TAGS)
        });
        let is_parked = parked.contains(&self.key);
        let (expected, right) = if self.infected {
            ("infected/delete/-/-", versions.is_empty() && !is_parked)
        } else if self.is_full() {
            ("clean/no/tag_set_full/-", untouched && is_parked)
        } else {
            ("clean/tag/-/-", tag == Some("clean") && kept && !is_parked)
        };
        let expected = format!("{expected}/{}", hex(&Sha256::digest(&self.content)));
        (told != BTreeSet::from([expected]) || !right).then(|| {
            let (told, left) = (Vec::from_iter(told).join(", "), versions.len());
            format!("reported [{told}], {left} versions left, tag {tag:?}, parked: {is_parked}")
        })
    }
}

fn unlike_digits(value: &[u8]) -> bool {
    !value.iter().any(u8::is_ascii_digit)
}

/// Values of headers; `bytes` are the bytes that they may contain.
fn value(bytes: impl Strategy<Value = u8> + 'static) -> BoxedStrategy<Vec<u8>> {
    let nasty: Vec<Vec<u8>> = [
        &b""[..],
        b"\xff",
        b"Fri, 32 Foo 99999 25:61:61 GMT",
        b"attachment; filename=\"r\xe9sum\xe9.pdf\"",
        b"-",
        b"true, false",
        b"gzip, aws-chunked",
        b"\xf0\x9f\x92\xa9",
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    let arbitrary = vec(bytes, 1..80).prop_filter("a number means something", |v| unlike_digits(v));
    prop_oneof![1 => select(nasty), 2 => arbitrary].boxed()
}

/// The bytes that HTTP allows in a value.
fn allowed_byte() -> impl Strategy<Value = u8> {
    prop_oneof![0x20_u8..=0x7e, 0x80_u8..=0xff, Just(b'\t')]
}

/// The bytes that a careless store allows, too: all that do not end the line.
fn any_byte() -> impl Strategy<Value = u8> {
    (1_u8..=0xff).prop_filter("the line goes on", |byte| !matches!(byte, b'\r' | b'\n'))
}

fn headers(
    count: std::ops::RangeInclusive<usize>,
    value: BoxedStrategy<Vec<u8>>,
) -> BoxedStrategy<Vec<(String, Vec<u8>)>> {
    let named = (select(HEADERS), any::<u16>(), value);
    let numbered = named.prop_map(|(name, number, value)| match name {
        "x-amz-meta-" => (format!("{name}{number}"), value),
        name => (name.to_owned(), value),
    });
    vec(numbered, count).boxed()
}

/// More than the own limits of parsers, but few enough for the limit of a store that has one.
fn many_headers() -> BoxedStrategy<Vec<(String, Vec<u8>)>> {
    let metadata = (100_usize..1000).prop_map(|count| {
        (0..count).map(|n| (format!("x-amz-meta-{n}"), b"v".to_vec())).collect::<Vec<_>>()
    });
    metadata.boxed()
}

fn key() -> BoxedStrategy<String> {
    let any_text = vec(any::<char>().prop_filter("no store takes it", |c| *c != '\0'), 1..40);
    let long = (any::<char>().prop_filter("", |c| *c != '\0'), 900_usize..1100);
    prop_oneof![
        2 => (select(KEYS), "[a-z ]{1,3}").prop_map(|(key, more)| key.to_owned() + &more),
        2 => "\\PC{1,60}",
        2 => any_text.prop_map(String::from_iter),
        1 => long.prop_map(|(one, count)| one.to_string().repeat(count)),
    ]
    .prop_map(|mut key| {
        key.truncate(key.floor_char_boundary(MAX_KEY));
        key
    })
    .boxed()
}

fn misread_key() -> BoxedStrategy<String> {
    select(KEYS).prop_map(str::to_owned).boxed()
}

fn plain_key() -> BoxedStrategy<String> {
    "[a-z]{12}".boxed()
}

/// Keys and values of tags: letters, digits, spaces and some signs, of any script.
fn tags(count: std::ops::RangeInclusive<usize>) -> BoxedStrategy<Vec<(String, String)>> {
    let key = prop_oneof![8 => "[\\pL\\pN +\\-=._:/@]{1,20}", 1 => Just("scanned".to_owned())];
    let value = prop_oneof![4 => "[\\pL\\pN +\\-=._:/@]{0,40}", 1 => Just("clean".to_owned())];
    let tags = proptest::collection::btree_map(key, value, count);
    tags.prop_map(|tags| tags.into_iter().collect()).boxed()
}

fn upload(
    key: BoxedStrategy<String>,
    headers: BoxedStrategy<Vec<(String, Vec<u8>)>>,
    tags: BoxedStrategy<Vec<(String, String)>>,
) -> impl Strategy<Value = Upload> {
    let versioning = select(vec![Versioning::Off, Versioning::Enabled, Versioning::Suspended]);
    let announced = any::<[bool; 4]>().prop_map(|[raw_key, etag, size, version]| Announced {
        raw_key,
        etag,
        size,
        version,
    });
    let content = prop_oneof![
        (0_usize..3).prop_map(|spaces| (true, [eicar(), vec![b' '; spaces]].concat())),
        vec(any::<u8>(), 0..2000).prop_map(|bytes| (false, bytes)),
    ];
    (versioning, key, content, headers, tags, announced).prop_map(
        |(versioning, key, (infected, content), headers, tags, announced)| Upload {
            versioning,
            key,
            content,
            infected,
            headers,
            tags,
            announced,
        },
    )
}

/// Makes `count` uploads, none with a key of an earlier one.
fn uploads(
    runner: &mut TestRunner,
    taken: &mut BTreeSet<String>,
    count: usize,
    of: &impl Strategy<Value = Upload>,
) -> Vec<Upload> {
    let made = std::iter::repeat_with(|| of.new_tree(runner).unwrap().current());
    made.filter(|upload| taken.insert(upload.key.clone())).take(count).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_an_uploader_chooses_evades_the_scanner() {
    let few = || headers(1..=6, value(allowed_byte()));
    let none = || headers(0..=0, value(allowed_byte()));
    let kinds = [
        ("headers as HTTP allows them", 60, upload(plain_key(), few(), tags(0..=2)).boxed()),
        (
            "headers with control characters",
            40,
            upload(plain_key(), headers(1..=6, value(any_byte())), tags(0..=0)).boxed(),
        ),
        ("a great many headers", 12, upload(plain_key(), many_headers(), tags(0..=0)).boxed()),
        ("keys that are misread", KEYS.len(), upload(misread_key(), none(), tags(0..=0)).boxed()),
        ("keys", 50, upload(key(), none(), tags(0..=2)).boxed()),
        ("tags", 40, upload(plain_key(), none(), tags(8..=10)).boxed()),
        ("everything together", 30, upload(key(), few(), tags(0..=10)).boxed()),
    ];
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &SEED);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let store = Store::start();
    let daemon = daemon(&[
        ("MINIO_SERVER_URL", store.url()),
        ("RETRY_DELAYS", "1s"),
        ("RETRY_LIMIT", "1"),
        ("SCAN_CONCURRENCY", "16"),
    ])
    .await;
    let (mut taken, mut complaints) = (BTreeSet::new(), Vec::new());
    for (kind, count, strategy) in kinds {
        let uploads = uploads(&mut runner, &mut taken, count, &strategy);
        for complaint in scan_all(&store, &daemon, &uploads).await {
            complaints.push(format!("{kind}: {complaint}"));
        }
    }
    assert!(complaints.is_empty(), "{} got past:\n{}\n", complaints.len(), complaints.join("\n"));
}

/// Uploads and announces them; returns what is wrong with the results.
async fn scan_all(store: &Store, daemon: &Daemon, uploads: &[Upload]) -> Vec<String> {
    let amqp = Stack::from_env().amqp().await.unwrap();
    for upload in uploads {
        let (version_id, etag) = store.with(|contents| {
            let bucket = contents.bucket(upload.bucket());
            bucket.versioning = upload.versioning;
            bucket.put(upload.key.as_bytes(), upload.version())
        });
        let event = upload.notification(&version_id, &etag).to_string();
        let names = &daemon.names;
        amqp.publish(&names.exchange, &names.routing_key, event.as_bytes(), &[]).await.unwrap();
    }
    let dead = format!("{}.dead", daemon.names.queue);
    let mut parked = BTreeSet::new();
    let started = Instant::now();
    loop {
        while let Some(message) = amqp.get(&dead).await.unwrap() {
            let event = message.json().unwrap();
            let encoded = event["Records"][0]["s3"]["object"]["key"].as_str().unwrap().to_owned();
            let of_it = uploads.iter().find(|u| notification::form_encoded(&u.key) == encoded);
            parked.extend(of_it.map(|upload| upload.key.clone()));
        }
        let reports: Vec<Value> = daemon.reports().iter().map(Received::json).collect();
        let wrong: Vec<String> = uploads
            .iter()
            .filter_map(|upload| {
                let complaint = upload.complaint(store, &reports, &parked)?;
                Some(format!("{complaint}\n  {upload:?}"))
            })
            .collect();
        if wrong.is_empty() || started.elapsed() > PATIENCE {
            return wrong;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
