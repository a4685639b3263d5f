//! Entry points for fuzzers: the answers of engines.

use std::sync::OnceLock;

use bytes::Bytes;
use reqwest::StatusCode;
use serde::de::IgnoredAny;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

use super::clamav_rest::{Dialect, judge};
use super::clamd::instream;
use super::{Answer, Sample};

const CLEAN: &[u8] = b"stream: OK\0";
const TOO_LARGE: &[u8] = b"INSTREAM size limit exceeded. ERROR\0";
/// Bytes of a reply that are always read together.
const READ_AT_ONCE: usize = 512;
const NAME: &str = "x.bin";

/// The bytes of a reply of clamd: played as one piece, in two, and before the sample was sent.
/// Only the exact words are an answer, and of the early ones only that it is too large.
///
/// # Panics
/// When anything else becomes one.
pub fn clamd(reply: &[u8]) {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Builder::new_current_thread().enable_time().build().ok());
    let Some(runtime) = runtime else { return };
    runtime.block_on(async {
        match play(reply, None, false).await {
            None => {}
            Some(Answer::Clean) => assert_eq!(reply, CLEAN),
            Some(Answer::TooLarge) => assert_eq!(reply, TOO_LARGE),
            Some(Answer::Found(name)) => {
                let reply = if reply.len() > READ_AT_ONCE { to_its_end(reply) } else { reply };
                assert!(is_found(reply, &name), "{name:?}");
            }
            Some(Answer::Garbled) => panic!("clamd's own words are never garbled"),
        }
        // A reply ends at its NUL; what a later piece brings is not waited for.
        match play(reply, Some(reply.len() / 2), false).await {
            None => {}
            Some(Answer::Clean) => assert!(reply.starts_with(CLEAN)),
            Some(Answer::TooLarge) => assert!(reply.starts_with(TOO_LARGE)),
            Some(Answer::Found(name)) => {
                assert!(is_found(to_its_end(reply), &name), "{name:?}");
            }
            Some(Answer::Garbled) => panic!("clamd's own words are never garbled"),
        }
        match play(reply, None, true).await {
            None => {}
            Some(Answer::TooLarge) => assert_eq!(reply, TOO_LARGE),
            Some(verdict) => panic!("{verdict:?} before all bytes were sent"),
        }
    });
}

/// Up to its NUL, where a client may stop reading.
fn to_its_end(reply: &[u8]) -> &[u8] {
    let end = reply.iter().position(|byte| *byte == 0).map_or(0, |at| at + 1);
    &reply[..end]
}

fn is_found(reply: &[u8], name: &str) -> bool {
    !name.trim().is_empty() && reply == format!("stream: {name} FOUND\0").as_bytes()
}

async fn play(reply: &[u8], cut: Option<usize>, early: bool) -> Option<Answer> {
    const SAMPLE: usize = 4096;
    // The reply fits in, the sample does not: an early reply is there before all of it is sent.
    let (ours, mut theirs) = tokio::io::duplex(if early { SAMPLE } else { 64 * 1024 });
    let sample = Sample::Bytes(Bytes::from_static(&[b'x'; SAMPLE]));
    let engine = async move {
        if !early {
            // Command, length, sample, terminator.
            let mut request = vec![0; 10 + 4 + SAMPLE + 4];
            theirs.read_exact(&mut request).await.ok()?;
        }
        let (first, second) = reply.split_at(cut.unwrap_or(reply.len()));
        theirs.write_all(first).await.ok()?;
        tokio::task::yield_now().await;
        theirs.write_all(second).await.ok()?;
        theirs.shutdown().await.ok()
    };
    let (answer, _) = tokio::join!(instream(ours, sample), engine);
    answer.ok()
}

/// An answer of clamav-rest: a line of the dialect (`1` or `2`), a blank and the HTTP status, then
/// the body. Status and body must both say it for a verdict.
///
/// # Panics
/// When one of them alone becomes one.
pub fn clamav_rest(answer: &[u8]) {
    let Some(end) = answer.iter().position(|byte| *byte == b'\n') else { return };
    let (line, body) = (String::from_utf8_lossy(&answer[..end]), &answer[end + 1..]);
    let Some((dialect, status)) = line.split_once(' ') else { return };
    let dialect = if dialect == "1" { Dialect::V1 } else { Dialect::V2 };
    let Some(status) = status.parse().ok().and_then(|code| StatusCode::from_u16(code).ok()) else {
        return;
    };
    let says = |field: &str, value: &str| {
        assert!(serde_json::from_slice::<IgnoredAny>(body).is_ok(), "no JSON");
        // A number beyond f64 in a field that nobody reads is JSON, but not a `Value`.
        let Ok(json) = serde_json::from_slice::<Value>(body) else { return };
        let file = match dialect {
            Dialect::V1 => &json,
            Dialect::V2 => {
                assert_eq!(json.as_array().map(Vec::len), Some(1), "one file, one element");
                assert_eq!(json[0]["FileName"], NAME);
                &json[0]
            }
        };
        assert_eq!(file[field], value);
    };
    match judge(dialect, status, body, NAME) {
        Err(_) => {}
        Ok(Answer::TooLarge) => assert_eq!(status, 413),
        Ok(Answer::Garbled) => assert_eq!(status, 412),
        Ok(Answer::Clean) => {
            assert_eq!(status, 200);
            says("Status", "OK");
        }
        Ok(Answer::Found(name)) => {
            assert_eq!(status, 406);
            assert!(!name.trim().is_empty());
            says("Status", "FOUND");
            says("Description", &name);
        }
    }
}
