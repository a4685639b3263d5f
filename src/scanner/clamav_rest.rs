//! clamav-rest's HTTP API in both dialects. A status code alone is never a verdict: the
//! service answers 200 with an empty list when its clamd dies after the upload, and 413 when its
//! clamd is down.
//! Source: <https://github.com/ajilach/clamav-rest>, releases of 2022 to 2026.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use reqwest::multipart::{Form, Part};
use reqwest::{Body, Client, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use url::Url;

use super::version::Version;
use super::{Answer, Sample, expect_infected, fault, host_fault, is_name, is_refusal};
use crate::failure::{Failure, Reason, causes, is_local};
use crate::store::BufferReader;

/// Bytes of an object sent at once.
const CHUNK: usize = 128 * 1024;
/// Characters of an unclear answer that are logged.
const MAX_QUOTED: usize = 200;
/// Size limit of an answer in bytes, far above that of an answer to one file.
const MAX_BODY: usize = 64 * 1024;

/// What releases before 0.5 answer when their pattern does not match clamd's line. Measured with
/// those of 2022 and January 2025.
const NO_MATCH: &str = "Regex had no matches";

/// The path that takes files, and the form of its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `/v2/scan`: a list with one element per file.
    V2,
    /// `/scan`: one object.
    V1,
}

/// A clamav-rest service.
#[derive(Debug, Clone)]
pub(super) struct Server {
    client: Client,
    base: Url,
}

/// The result for one file.
#[derive(Deserialize)]
struct Element {
    #[serde(rename = "Status", default)]
    status: String,
    #[serde(rename = "Description", default)]
    description: String,
    #[serde(rename = "FileName", default)]
    file_name: Option<String>,
}

/// Parses an element. Checks that it is an object, since serde would accept a list too.
fn object(element: &RawValue) -> Option<Element> {
    element.get().starts_with('{').then(|| serde_json::from_str(element.get()).ok()).flatten()
}

impl Server {
    pub(super) fn new(client: Client, base: Url) -> Self {
        Self { client, base }
    }

    /// The dialect in which this service calls `eicar` infected. A 404 alone does not rule a
    /// dialect out or in: any web server answers it.
    pub(super) async fn dialect(&self, eicar: Bytes) -> Result<Dialect, Failure> {
        let mut answers = Vec::new();
        for dialect in [Dialect::V2, Dialect::V1] {
            match self.scan(dialect, Sample::Bytes(eicar.clone())).await {
                // A wrong verdict is final: the other dialect uses the same engine.
                Ok(answer) => return expect_infected(answer).map(|()| dialect),
                Err(failure) => answers.push(failure),
            }
        }
        // The first failure may only mean that this release has no /v2/scan.
        let reason = answers.last().map_or(Reason::EngineReply, |failure| failure.reason);
        let details: Vec<String> = answers.iter().map(|failure| failure.detail.clone()).collect();
        Err(fault(reason, details.join("; ")))
    }

    /// Scans one sample. The caller sets the deadline.
    pub(super) async fn scan(&self, dialect: Dialect, sample: Sample) -> Result<Answer, Failure> {
        let url = self.url(match dialect {
            Dialect::V2 => "v2/scan",
            Dialect::V1 => "scan",
        });
        // A random name, compared with the answer's. An object's key would be read as a path.
        let file_name = format!("{}.bin", uuid::Uuid::new_v4().simple());
        let (body, length) = match sample {
            Sample::Bytes(bytes) => {
                let length = bytes.len() as u64;
                (stream::iter([Ok::<_, io::Error>(bytes)]).boxed(), length)
            }
            Sample::Buffered { reader, length } => (chunks(reader).boxed(), length),
            Sample::Zeros(length) => (zeros(length).boxed(), length),
        };
        let sent = Arc::new(AtomicU64::new(0));
        let tally = Arc::clone(&sent);
        let counted = body.inspect_ok(move |chunk| {
            tally.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        });
        // With a declared length, missing bytes break the request; a truncated file is not scanned.
        let part = Part::stream_with_length(Body::wrap_stream(counted), length)
            .file_name(file_name.clone());
        let request = self.client.post(url).multipart(Form::new().part("file", part));
        let response = request.send().await.map_err(|error| unanswered(&error))?;
        let status = response.status();
        let body = limited(response).await?;
        // An answer before the last byte is no verdict. The form's terminator follows that byte at
        // once.
        let answer = judge(dialect, status, &body, &file_name).map_err(Failure::engine_touched);
        if sent.load(Ordering::Relaxed) == length || answer.as_ref().is_ok_and(is_refusal) {
            return answer;
        }
        let detail = format!("HTTP {} before all bytes were sent", status.as_u16());
        Err(fault(Reason::EngineEarlyReply, detail).engine_touched())
    }

    /// The versions of engine and database, as far as this release tells them.
    pub(super) async fn version(&self) -> Option<Version> {
        #[derive(Deserialize)]
        struct Reply {
            #[serde(rename = "Clamav")]
            clamav: String,
            #[serde(rename = "Signature", default)]
            signature: Option<String>,
            #[serde(rename = "Signature_date", default)]
            signature_date: Option<String>,
        }
        let response = self.client.get(self.url("version")).send().await.ok()?;
        let body = limited(response).await.ok()?;
        let reply: Reply = serde_json::from_slice(&body).ok()?;
        let (database, date) = (reply.signature.as_deref(), reply.signature_date.as_deref());
        Some(Version::from_fields(&reply.clamav, database, date))
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{path}", self.base.path().trim_end_matches('/')));
        url
    }
}

fn chunks(reader: BufferReader) -> impl Stream<Item = io::Result<Bytes>> {
    stream::try_unfold(reader, async |mut reader| {
        let (mut chunk, got) = reader.read(vec![0; CHUNK], 0).await?;
        chunk.truncate(got);
        Ok((got > 0).then(|| (Bytes::from(chunk), reader)))
    })
}

fn zeros(length: u64) -> impl Stream<Item = io::Result<Bytes>> {
    const ZEROS: &[u8] = &[0; CHUNK];
    let (whole, rest) = (length / CHUNK as u64, length % CHUNK as u64);
    let rest = usize::try_from(rest).unwrap_or(0);
    let sizes = (0..whole).map(|_| CHUNK).chain((rest > 0).then_some(rest));
    stream::iter(sizes.map(|size| Ok(Bytes::from_static(&ZEROS[..size]))))
}

/// Reads an answer: the status and a well-formed body must both say the same.
///
/// # Errors
/// For every answer that is not exactly one of clamav-rest's.
pub(super) fn judge(
    dialect: Dialect,
    status: StatusCode,
    body: &[u8],
    file_name: &str,
) -> Result<Answer, Failure> {
    let unclear = || {
        let nothing = matches!((dialect, body), (Dialect::V2, b"[]") | (Dialect::V1, b""));
        let silent = status == StatusCode::OK && nothing;
        let reason = if silent { Reason::EngineSilent } else { Reason::EngineReply };
        let text: String = String::from_utf8_lossy(body).chars().take(MAX_QUOTED).collect();
        fault(reason, format!("HTTP {} with {text:?} is no verdict", status.as_u16()))
    };
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        return Ok(Answer::TooLarge);
    }
    let element = match dialect {
        Dialect::V2 => {
            let elements: Vec<&RawValue> = serde_json::from_slice(body).map_err(|_| unclear())?;
            let [element] = elements.as_slice() else { return Err(unclear()) };
            let element = object(element).ok_or_else(unclear)?;
            if element.file_name.as_deref() != Some(file_name) {
                return Err(unclear());
            }
            element
        }
        Dialect::V1 => {
            let element: &RawValue = serde_json::from_slice(body).map_err(|_| unclear())?;
            object(element).ok_or_else(unclear)?
        }
    };
    match (status, element.status.as_str()) {
        (StatusCode::OK, "OK") => Ok(Answer::Clean),
        (StatusCode::NOT_ACCEPTABLE, "FOUND") if is_name(&element.description) => {
            Ok(Answer::Found(element.description))
        }
        (StatusCode::PRECONDITION_FAILED, _) if element.description == NO_MATCH => {
            Ok(Answer::Garbled)
        }
        _ => Err(unclear()),
    }
}

/// The body, at most [`MAX_BODY`] bytes.
async fn limited(mut response: reqwest::Response) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unanswered(&error))? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_BODY {
            return Err(fault(Reason::EngineReply, "the answer is too long").engine_touched());
        }
    }
    Ok(body)
}

/// The failure of a request without a complete answer.
fn unanswered(error: &reqwest::Error) -> Failure {
    let detail = causes(error);
    if is_local(error) {
        return host_fault(Reason::HostResources, detail);
    }
    if error.is_connect() {
        return fault(Reason::EngineUnreachable, detail);
    }
    fault(Reason::EngineBrokeOff, detail).engine_touched()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "x.bin";

    fn v2(status: u16, body: &str) -> Result<Answer, Failure> {
        judge(Dialect::V2, StatusCode::from_u16(status).unwrap(), body.as_bytes(), NAME)
    }

    fn v1(status: u16, body: &str) -> Result<Answer, Failure> {
        judge(Dialect::V1, StatusCode::from_u16(status).unwrap(), body.as_bytes(), NAME)
    }

    #[test]
    fn status_and_body_together_are_a_verdict() {
        let found = Answer::Found("Eicar-Signature".to_owned());
        let clean = r#"[{"Status":"OK","Description":"","FileName":"x.bin"}]"#;
        assert_eq!(v2(200, clean).unwrap(), Answer::Clean);
        let infected = r#"[{"Status":"FOUND","Description":"Eicar-Signature","FileName":"x.bin"}]"#;
        assert_eq!(v2(406, infected).unwrap(), found);
        assert_eq!(v1(200, r#"{"Status":"OK","Description":""}"#).unwrap(), Answer::Clean);
        assert_eq!(v1(200, "{\"Status\":\"OK\"}\n").unwrap(), Answer::Clean);
        assert_eq!(
            v1(406, r#"{"Status":"FOUND","Description":"Eicar-Signature"}"#).unwrap(),
            found
        );
        assert_eq!(v2(413, "File size limit exceeded").unwrap(), Answer::TooLarge);
        assert_eq!(v1(413, "").unwrap(), Answer::TooLarge);
    }

    #[test]
    fn a_line_that_an_old_release_could_not_read_is_no_verdict_and_may_mean_anything() {
        let listed =
            r#"[{"Status":"PARSE ERROR","Description":"Regex had no matches","FileName":"x.bin"}]"#;
        assert_eq!(v2(412, listed).unwrap(), Answer::Garbled);
        let bare = r#"{"Status":"PARSE ERROR","Description":"Regex had no matches"}"#;
        assert_eq!(v1(412, bare).unwrap(), Answer::Garbled);
        assert_eq!(v1(412, r#"{"Description":"Regex had no matches"}"#).unwrap(), Answer::Garbled);
        for status in [200, 400, 406] {
            assert!(v2(status, listed).is_err() && v1(status, bare).is_err(), "{status}");
        }
    }

    #[test]
    fn saying_nothing_is_told_from_nonsense() {
        for (answer, silent) in [
            (v2(200, "[]"), true),
            (v1(200, ""), true),
            (v2(200, ""), false),
            (v1(200, "[]"), false),
            (v2(406, "[]"), false),
            (v2(200, "[null]"), false),
        ] {
            assert_eq!(answer.unwrap_err().reason == Reason::EngineSilent, silent);
        }
    }

    #[test]
    fn nothing_else_is() {
        let clean = r#"{"Status":"OK","Description":"","FileName":"x.bin"}"#;
        let infected = r#"{"Status":"FOUND","Description":"X","FileName":"x.bin"}"#;
        let list = |elements: &[&str]| format!("[{}]", elements.join(","));
        let other = r#"{"Status":"OK","Description":"","FileName":"y.bin"}"#;
        let unnamed = r#"{"Status":"OK","Description":""}"#;
        let null_find = r#"{"Status":"FOUND","Description":"(null)","FileName":"x.bin"}"#;
        let nameless_find = r#"{"Status":"FOUND","Description":" ","FileName":"x.bin"}"#;
        let twice = r#"{"Status":"OK","Status":"OK","FileName":"x.bin"}"#;
        let half = &list(&[clean])[..30];
        for (status, body) in [
            (200, ""),
            (200, "[]"),
            (200, "null"),
            (200, r#"[["OK","","x.bin"]]"#),
            (200, "OK"),
            (200, half),
            (200, clean),
            (200, &list(&[clean, clean])),
            (200, &list(&[other])),
            (200, &list(&[unnamed])),
            (200, &list(&[twice])),
            (200, &format!("{} x", list(&[clean]))),
            (200, &list(&[infected])),
            (206, &list(&[clean])),
            (204, ""),
            (301, &list(&[clean])),
            (406, ""),
            (406, "[]"),
            (406, "Not Acceptable"),
            (406, &list(&[clean])),
            (406, &list(&[other, infected])),
            (406, &list(&[nameless_find])),
            (406, &list(&[null_find])),
            (400, &list(&[infected])),
            (412, &list(&[infected])),
            (412, r#"[{"Status":"PARSE ERROR","Description":"x","FileName":"x.bin"}]"#),
            (404, "404 page not found"),
            (422, ""),
            (500, &list(&[infected])),
            (501, ""),
        ] {
            let answer = v2(status, body);
            assert!(answer.is_err(), "v2 {status} {body} gave {answer:?}");
        }
        for (status, body) in [
            (200, ""),
            (200, "[]"),
            (200, "{}"),
            (200, r#"["OK",""]"#),
            (200, &list(&[clean])),
            (200, &format!("{clean}{clean}")),
            (200, &format!("{clean}x")),
            (200, r#"{"Status":"FOUND","Description":"X"}"#),
            (200, r#"{"Status":"ok"}"#),
            (200, r#"{"Status":7}"#),
            (406, ""),
            (406, clean),
            (406, r#"{"Status":"FOUND","Description":""}"#),
            (406, r#"{"Status":"FOUND","Description":"(null)"}"#),
            (406, "406 Not Acceptable"),
            (400, clean),
            (412, infected),
        ] {
            let answer = v1(status, body);
            assert!(answer.is_err(), "v1 {status} {body} gave {answer:?}");
        }
    }
}
