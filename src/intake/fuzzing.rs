//! What must hold of every request, for the fuzzer.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use hyper::Request;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{admit, body};
use crate::config::Secret;
use crate::event::{self, Malformed, Notification};

const TOKENS: [&str; 2] = ["first-token", "second"];

/// A request: a line with method and path, lines of headers, and behind a NUL the body. Only a known
/// token comes in; a body is kept byte for byte, or wrapped so that it announces the same.
///
/// # Panics
/// When one of these does not hold.
pub fn webhook(input: &[u8]) {
    let cut = input.iter().position(|byte| *byte == 0);
    let (head, bytes) = cut.map_or((input, &[][..]), |at| (&input[..at], &input[at + 1..]));
    let Some(head) = parse(head) else { return };
    let admitted = admit(&head, &Secret::from(TOKENS.join(" ").as_str()));
    if admitted.is_ok() {
        let shown = head.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let login = shown.trim_ascii().split(|byte| *byte == b' ').next_back().unwrap_or_default();
        let login = BASE64.decode(login).unwrap_or_default();
        let known = |token: &&str| {
            shown.trim_ascii().ends_with(token.as_bytes()) || login.ends_with(token.as_bytes())
        };
        assert!(TOKENS.iter().any(known), "{shown:?} comes in");
        assert_eq!((head.method.as_str(), head.uri.path()), ("POST", "/events"));
    }
    let Ok(message) = body::message(&head.headers, bytes) else {
        assert!(serde_json::from_slice::<Value>(bytes).is_err(), "JSON is refused");
        return;
    };
    if !head.headers.contains_key("ce-specversion") {
        assert_eq!(message, bytes);
        return;
    }
    let wrapped: &RawValue = serde_json::from_slice(&message).unwrap_or_else(|error| {
        panic!("wrapped into what is no JSON: {error}");
    });
    assert!(wrapped.get().len() >= bytes.trim_ascii().len().saturating_sub(3));
    if head.headers["ce-specversion"] == "1.0" {
        same(event::parse(bytes), event::parse(&message));
    }
}

fn same(bare: Result<Notification, Malformed>, wrapped: Result<Notification, Malformed>) {
    match (bare, wrapped) {
        (Ok(Notification::Object(bare)), Ok(Notification::Object(wrapped))) => {
            assert_eq!(bare, wrapped);
        }
        // Around this one there are as many wrappers as may be.
        (Ok(_), Err(Malformed::TooManyWrappers)) | (Err(_), _) => {}
        (Ok(Notification::Object(bare)), wrapped) => panic!("{bare:?} became {wrapped:?}"),
        (Ok(_), wrapped) => assert!(wrapped.is_ok(), "became {wrapped:?}"),
    }
}

fn parse(head: &[u8]) -> Option<Parts> {
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut words = lines.next()?.splitn(2, |byte| *byte == b' ');
    let mut request = Request::builder().method(words.next()?).uri(words.next()?);
    for line in lines {
        let at = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..at]).ok()?;
        let value = HeaderValue::from_bytes(line[at + 1..].trim_ascii()).ok()?;
        request = request.header(name, value);
    }
    Some(request.body(()).ok()?.into_parts().0)
}
