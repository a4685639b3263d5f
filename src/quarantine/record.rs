//! The record beside a copy: where its bytes were, why they were moved, and what they had with them.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock;
use crate::scanner::EngineState;
use crate::store::{Identity, KeyValue, Original};

/// The version of the format. A reader refuses others.
const FORMAT: u32 = 1;
/// The most bytes of names and values of headers that are kept. S3 itself takes 8 KiB.
const MAX_HEADER_BYTES: usize = 64 * 1024;
/// The most names of headers that were left out.
const MAX_LEFT_OUT: usize = 100;
/// In milliseconds: a record that is older is written again by the next attempt.
const MAX_AGE: i64 = 3_600_000;
/// What is written in place of the tags, where the store did not tell them.
const TAGS: &str = "tags";

/// What is kept of an object beside its copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    format: u32,
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) version_id: Option<String>,
    etag: Option<String>,
    pub(crate) length: Option<u64>,
    /// RFC 3339.
    pub(crate) last_modified: Option<String>,
    pub(crate) sha256: String,
    pub(crate) signature: String,
    pub(crate) engine: Option<Engine>,
    /// When it was written (RFC 3339).
    pub(crate) quarantined_at: String,
    pub(crate) report_id: Uuid,
    /// What the uploader stored with the object, in the order of the answer.
    headers: Vec<Header>,
    tags: Vec<Tag>,
    /// What did not fit or was not told, by name.
    pub(crate) left_out: Vec<String>,
}

/// What was found in the object, and by whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finding<'a> {
    pub(crate) signature: &'a str,
    pub(crate) sha256: &'a str,
    pub(crate) engine: Option<&'a EngineState>,
    pub(crate) report: Uuid,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Engine {
    pub(crate) name: String,
    pub(crate) version: Option<String>,
    pub(crate) database_version: Option<String>,
    pub(crate) database_date: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    name: String,
    #[serde(flatten)]
    value: Text,
}

/// Bytes that are text nearly always.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Text {
    #[serde(rename = "value")]
    Plain(String),
    /// Of bytes that are no text.
    #[serde(rename = "base64")]
    Encoded(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Tag {
    key: String,
    value: String,
}

impl Record {
    pub(crate) fn new(identity: &Identity, original: &Original, finding: Finding<'_>) -> Self {
        let Finding { signature, sha256, engine, report } = finding;
        let (headers, mut left_out) = kept(&original.headers);
        if original.tags.is_none() {
            left_out.push(TAGS.to_owned());
        }
        let tag = |(key, value): &KeyValue| Tag { key: key.clone(), value: value.clone() };
        Self {
            format: FORMAT,
            bucket: identity.bucket.clone(),
            key: identity.key.clone(),
            version_id: identity.version_id().map(str::to_owned),
            etag: identity.etag.clone(),
            length: identity.length,
            last_modified: identity.modified().map(clock::rfc3339_of_seconds),
            sha256: sha256.to_owned(),
            signature: signature.to_owned(),
            engine: engine.map(Engine::from),
            quarantined_at: clock::now(),
            report_id: report,
            headers,
            tags: original.tags.iter().flatten().map(tag).collect(),
            left_out,
        }
    }

    /// Reads a record; `None` if it is none of this format.
    pub(crate) fn read(json: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(json).ok().filter(|record| record.format == FORMAT)
    }

    /// What the uploader stored with the object; a value that cannot be read is left out.
    pub(crate) fn headers(&self) -> Vec<(String, Vec<u8>)> {
        let read = |header: &Header| Some((header.name.clone(), header.value.bytes()?));
        self.headers.iter().filter_map(read).collect()
    }

    /// The uploader's tags.
    pub(crate) fn tags(&self) -> Vec<KeyValue> {
        self.tags.iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect()
    }

    /// Whether what it is about was last changed when this was.
    pub(crate) fn is_as_old_as(&self, identity: &Identity) -> bool {
        self.last_modified == identity.modified().map(clock::rfc3339_of_seconds)
    }

    /// Whether it tells this finding, of an attempt not long ago: later ones may find something else.
    pub(crate) fn tells(&self, finding: Finding<'_>, now: SystemTime) -> bool {
        let since = clock::millis(now).saturating_sub(MAX_AGE);
        self.signature == finding.signature
            && clock::millis_of(&self.quarantined_at).is_some_and(|at| at >= since)
    }

    /// Whether it is about exactly these bytes.
    pub(crate) fn is_of(&self, identity: &Identity, sha256: &str) -> bool {
        let described = self.version_id.as_deref() == identity.version_id()
            && self.etag == identity.etag
            && self.length == identity.length;
        described
            && self.bucket == identity.bucket
            && self.key == identity.key
            && self.sha256 == sha256
    }
}

impl From<&EngineState> for Engine {
    fn from(engine: &EngineState) -> Self {
        let version = &engine.version;
        Self {
            name: engine.name.to_owned(),
            version: version.engine.clone(),
            database_version: version.database.clone(),
            database_date: version.database_date.map(|date| clock::rfc3339(date.into())),
        }
    }
}

impl Text {
    fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) if !text.chars().any(char::is_control) => Self::Plain(text.to_owned()),
            _ => Self::Encoded(STANDARD.encode(bytes)),
        }
    }

    fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Plain(text) => Some(text.clone().into_bytes()),
            Self::Encoded(text) => STANDARD.decode(text).ok(),
        }
    }
}

/// The headers that fit, and the names of the others.
fn kept(headers: &[(String, Vec<u8>)]) -> (Vec<Header>, Vec<String>) {
    let mut room = MAX_HEADER_BYTES;
    let (mut kept, mut left_out, mut more) = (Vec::new(), Vec::new(), 0_usize);
    for (name, value) in headers {
        let size = name.len() + value.len();
        if size <= room {
            room -= size;
            kept.push(Header { name: name.clone(), value: Text::of(value) });
        } else if left_out.len() < MAX_LEFT_OUT {
            left_out.push(name.chars().take(128).collect());
        } else {
            more += 1;
        }
    }
    if more > 0 {
        left_out.push(format!("and {more} more"));
    }
    (kept, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let identity = Identity::new("b", "k\u{fc}", Some("v"), Some("\"e\""), Some(3));
        identity.with_modified(Some(&aws_smithy_types::DateTime::from_secs(1_795_824_000)))
    }

    fn record(headers: Vec<(String, Vec<u8>)>, tags: Option<Vec<KeyValue>>) -> Record {
        let finding =
            Finding { signature: "Eicar", sha256: "5a", engine: None, report: Uuid::nil() };
        Record::new(&identity(), &Original { headers, tags }, finding)
    }

    fn header(name: &str, value: &[u8]) -> (String, Vec<u8>) {
        (name.to_owned(), value.to_vec())
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_marks_what_is_no_text() {
        let headers = vec![
            header("content-type", b"text/plain"),
            header("x-amz-meta-a", b"\xff\xfe"),
            header("x-amz-meta-a", "\u{e4}".as_bytes()),
        ];
        let record = record(headers.clone(), Some(vec![("team".to_owned(), "x y".to_owned())]));
        let json = serde_json::to_value(&record).unwrap();
        assert_eq!(
            json["headers"],
            serde_json::json!([
                { "name": "content-type", "value": "text/plain" },
                { "name": "x-amz-meta-a", "base64": "//4=" },
                { "name": "x-amz-meta-a", "value": "\u{e4}" },
            ])
        );
        assert_eq!(json["tags"], serde_json::json!([{ "key": "team", "value": "x y" }]));
        assert_eq!(json["last_modified"], "2026-11-28T00:00:00Z");
        assert_eq!((&json["format"], &json["left_out"]), (&1.into(), &serde_json::json!([])));
        let read = Record::read(json.to_string().as_bytes()).unwrap();
        assert_eq!(read, record);
        assert!(read.is_of(&identity(), "5a"));
        assert_eq!(read.headers(), headers);
        assert_eq!(read.tags(), [("team".to_owned(), "x y".to_owned())]);
    }

    #[test]
    fn a_record_about_other_bytes_or_of_another_format_is_none() {
        let record = record(Vec::new(), None);
        assert!(!record.is_of(&identity(), "5b"));
        let mut other = identity();
        other.key = "k".to_owned();
        assert!(!record.is_of(&other, "5a"));
        let mut longer = identity();
        longer.length = Some(4);
        assert!(!record.is_of(&longer, "5a"));
        let mut json = serde_json::to_value(&record).unwrap();
        json["format"] = 2.into();
        assert_eq!(Record::read(json.to_string().as_bytes()), None);
        assert_eq!(Record::read(b"{}"), None);
    }

    #[test]
    fn a_record_of_another_finding_or_of_long_ago_is_written_again() {
        let record = record(Vec::new(), None);
        let of = |signature| Finding { signature, sha256: "5a", engine: None, report: Uuid::nil() };
        let now = SystemTime::now();
        assert!(record.tells(of("Eicar"), now));
        assert!(!record.tells(of("Eicar-2"), now));
        assert!(!record.tells(of("Eicar"), now + std::time::Duration::from_secs(3_610)));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let large = vec![b'x'; MAX_HEADER_BYTES];
        let mut headers = vec![header("x-amz-meta-large", &large), header("expires", b"never")];
        headers.extend((0..150).map(|_| header("x-amz-meta-again", &large)));
        let record = record(headers, None);
        assert_eq!(record.headers.len(), 1);
        assert_eq!(record.headers[0].name, "expires");
        let left_out = &record.left_out;
        assert_eq!((left_out.len(), left_out[0].as_str()), (102, "x-amz-meta-large"));
        assert_eq!(left_out[100..], ["and 51 more".to_owned(), TAGS.to_owned()]);
    }
}
