//! Reads a request's body within its bounds, and makes the message of it. The message is pure.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use percent_encoding::percent_decode;
use serde::Serialize;
use serde_json::value::RawValue;

use super::answer::Answer;
use crate::trace::{TRACEPARENT, TRACESTATE, Trace};

/// Longest body, bytes; answers and docs name it. A notification of one object has about 1 KiB.
const MAX_BODY: usize = 1 << 20;
/// Time for the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Rest of a rejected body that is read: a sender that is still writing would lose the answer, since
/// closing with unread bytes resets the connection.
const MAX_DISCARDED: usize = 2 * MAX_BODY;
/// Time for it.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads a body of at most [`MAX_BODY`] within [`BODY_TIMEOUT`].
///
/// # Errors
/// The answer, where it is too large, has no length, or does not come whole.
pub(super) async fn read(headers: &HeaderMap, body: &mut Incoming) -> Result<Vec<u8>, Answer> {
    if !headers.contains_key(CONTENT_LENGTH) && !headers.contains_key(TRANSFER_ENCODING) {
        return Err(Answer::NoLength);
    }
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > MAX_BODY {
        return Err(Answer::TooLarge);
    }
    let read = async {
        let mut bytes = Vec::with_capacity(announced);
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return Err(Answer::Incomplete) };
            let Some(data) = frame.data_ref() else { continue };
            if bytes.len() + data.len() > MAX_BODY {
                return Err(Answer::TooLarge);
            }
            bytes.extend_from_slice(data);
        }
        Ok(bytes)
    };
    tokio::time::timeout(BODY_TIMEOUT, read).await.unwrap_or(Err(Answer::Incomplete))
}

/// Reads the rest of a rejected body. A sender that waits for `100 Continue` is not asked for it.
pub(super) async fn discard(headers: &HeaderMap, mut body: Incoming) {
    if headers.contains_key(EXPECT) {
        return;
    }
    let read = async {
        let mut left = MAX_DISCARDED;
        while let Some(Ok(frame)) = body.frame().await {
            let data = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(data) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    drop(tokio::time::timeout(DISCARD_TIMEOUT, read).await);
}

/// A structured event, of which our parser reads `specversion` and `data`; the rest is for people.
/// Source: the JSON format of CloudEvents 1.0, section 3.
#[derive(Serialize)]
struct Structured<'a> {
    #[serde(flatten)]
    attributes: std::collections::BTreeMap<&'a str, String>,
    data: &'a RawValue,
}

/// The message for the queue: the body, byte for byte; a CloudEvent in binary mode, whose attributes
/// are in headers, in the structured form.
/// Source: the HTTP binding of CloudEvents 1.0, sections 3.1 and 3.1.3.2.
///
/// # Errors
/// [`Answer::NotJson`].
pub(super) fn message<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<Cow<'a, [u8]>, Answer> {
    // RFC 8259 section 8.1: a byte order mark may be ignored.
    let json = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let data: &RawValue = serde_json::from_slice(json).map_err(|_| Answer::NotJson)?;
    if !headers.contains_key("ce-specversion") {
        return Ok(Cow::Borrowed(body));
    }
    // Of a header that is there twice, the first: names are unique in an event.
    let attributes = headers
        .keys()
        .filter_map(|header| {
            let name = header.as_str().strip_prefix("ce-")?;
            let value = percent_decode(headers.get(header)?.as_bytes());
            // A name of the format itself would be there twice.
            let reserved = matches!(name, "data" | "data_base64" | "");
            (!reserved).then(|| (name, value.decode_utf8_lossy().into_owned()))
        })
        .collect();
    let event = Structured { attributes, data };
    serde_json::to_vec(&event).map(Cow::Owned).map_err(|_| Answer::NotJson)
}

/// Where the sender says that the request belongs.
pub(super) fn trace(headers: &HeaderMap) -> Trace {
    let bytes = |name| headers.get(name).map(hyper::header::HeaderValue::as_bytes);
    Trace::read(bytes(TRACEPARENT), bytes(TRACESTATE))
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};
    use serde_json::{Value, json};

    use super::*;

    fn headers(pairs: &[(&'static str, &'static [u8])]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static [u8])| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn json_stays_as_it_is_byte_for_byte() {
        let none = HeaderMap::new();
        for body in [
            b"{ \"Records\" : [] }\n".as_slice(),
            b"\xef\xbb\xbf{\"a\": 1e400, \"a\": 2}",
            b"[]",
            b"null",
            &[b"[".repeat(100_000), b"]".repeat(100_000)].concat(),
        ] {
            assert_eq!(message(&none, body).unwrap(), body);
        }
        for body in
            [b"".as_slice(), b" ", b"{", b"{} {}", b"a=b", b"\xff", b"\"\xff\"", b"\xef\xbb\xbf"]
        {
            assert_eq!(message(&none, body), Err(Answer::NotJson), "{body:?}");
        }
    }

    #[test]
    fn a_binary_cloud_event_becomes_a_structured_one() {
        let headers = headers(&[
            ("ce-specversion", b"1.0"),
            ("ce-type", b"com.amazonaws.s3.ObjectCreated:Put"),
            ("ce-subject", b"k%C3%A4se \xff \""),
            ("ce-data", b"forged"),
            ("content-type", b"application/json"),
        ]);
        let body = br#"{"Records":[{"a":1.0e2}]}"#;
        let wrapped = message(&headers, body).unwrap();
        let value: Value = serde_json::from_slice(&wrapped).unwrap();
        assert_eq!(value["specversion"], "1.0");
        assert_eq!(value["subject"], "käse \u{fffd} \"");
        assert_eq!(value["data"], json!({"Records": [{"a": 1.0e2}]}));
        // The numbers too are as they were.
        assert!(String::from_utf8(wrapped.into_owned()).unwrap().contains("1.0e2"));
        assert_eq!(message(&headers, b"nope"), Err(Answer::NotJson));
    }
}
