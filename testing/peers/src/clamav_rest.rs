//! A test double of clamav-rest, in front of a real clamd.
//!
//! It reproduces the original's misleading answers: a status says little, a dead engine can look
//! like a clean file, and an answer may come before the file has arrived. A client that reads the
//! double's answers correctly reads the original's correctly. The answers follow from what clamd
//! does: a test stops, pauses or kills clamd.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use serde::Serialize;

use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::error::{Context, Result};
use crate::web::{self, Answer};

mod engine;
mod form;

use engine::Engine;
use form::{Form, Piece};

/// The original's text for every fault of the connection to clamd before the whole file was sent.
const TOO_LARGE: &str = "File size limit exceeded";

/// The double inside the test's own process; it ends when dropped.
pub struct ClamavRest {
    url: String,
    server: AbortHandle,
}

impl ClamavRest {
    /// A double in front of the clamd at `clamd` (`127.0.0.1:PORT`), with both dialects, or with
    /// `/scan` only, as old releases have it.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(clamd: &str, only_v1: bool) -> Result<Self> {
        let listener = web::listen("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr().context("clamav-rest")?);
        let server = tokio::spawn(run(listener, clamd.to_owned(), only_v1)).abort_handle();
        Ok(Self { url, server })
    }

    /// Its address, `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for ClamavRest {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Runs the double as a process of its own.
///
/// # Errors
/// When it cannot listen.
pub async fn process(address: &str, clamd: &str, only_v1: bool) -> Result<()> {
    run(web::listen(address).await?, clamd.to_owned(), only_v1).await;
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V1,
    V2,
}

/// One item of an answer, and the status that it stands for.
struct Item {
    status: u16,
    word: &'static str,
    description: String,
    file_name: String,
}

/// An item as the client sees it, with the fields in the original's order.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Line<'a> {
    status: &'a str,
    description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_name: Option<&'a str>,
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("strings always serialize")
}

async fn run(listener: TcpListener, clamd: String, only_v1: bool) {
    let engine = Arc::new(Engine { address: clamd });
    web::serve(listener, move |request| {
        let engine = engine.clone();
        async move {
            let path = request.uri().path().to_owned();
            match (request.method().as_str(), path.as_str()) {
                ("POST", "/scan") => scan(request, &engine, Dialect::V1).await,
                ("POST", "/v2/scan") if !only_v1 => scan(request, &engine, Dialect::V2).await,
                ("GET", "/version") => Some(version(&engine).await),
                ("GET", "/v2/scan" | "/scan") => {
                    Some(web::answer(405, "text/plain", "Method Not Allowed\n"))
                }
                ("GET", "/") => Some(web::answer(200, "application/json", engine.stats().await)),
                _ => Some(web::answer(404, "text/plain", "404 page not found\n")),
            }
        }
    })
    .await;
}

async fn version(engine: &Engine) -> Answer {
    // The status is 200 whether clamd answers or not; only the body shows which.
    match engine.version().await {
        Ok(version) => web::answer(
            200,
            "application/json; charset=utf-8",
            json(&BTreeMap::from([("Clamav", version)])),
        ),
        Err(error) => web::answer(
            200,
            "text/plain; charset=utf-8",
            json(&BTreeMap::from([("Op", "dial".to_owned()), ("Err", error.to_string())])),
        ),
    }
}

async fn scan(request: Request<Incoming>, engine: &Engine, dialect: Dialect) -> Option<Answer> {
    let content_type = request.headers().get("content-type");
    let Some(boundary) = content_type.and_then(|value| form::boundary(value.to_str().ok()?)) else {
        let text = "request Content-Type isn't multipart/form-data\n";
        return Some(web::answer(500, "text/plain; charset=utf-8", text));
    };
    let body = request.into_body().into_data_stream();
    let mut form = Form::new(Box::pin(body.map(|frame| frame.map_err(drop))), &boundary);
    let mut items = Vec::new();
    loop {
        match form.next_part().await {
            // A form that breaks off between parts aborts the handler.
            Err(()) => return None,
            Ok(None) => break,
            Ok(Some(file_name)) if file_name.is_empty() => {
                // v1 skips the part and reports nothing.
                if dialect == Dialect::V2 {
                    let description = "MimePart FileName missing".to_owned();
                    items.push(Item { status: 422, word: "ERROR", description, file_name });
                }
            }
            Ok(Some(file_name)) => items.extend(scan_part(&mut form, engine, file_name).await),
        }
    }
    Some(respond(&items, dialect))
}

/// Sends one part to clamd; `None` when clamd closes the connection without an answer.
async fn scan_part(form: &mut Form, engine: &Engine, file_name: String) -> Option<Item> {
    let too_large = |file_name| {
        let description = TOO_LARGE.to_owned();
        Some(Item { status: 413, word: "PARSE ERROR", description, file_name })
    };
    let Ok(mut session) = engine.begin().await else {
        return too_large(file_name);
    };
    // Of an upload that breaks off, what arrived is scanned.
    while let Piece::Data(data) = form.next_piece().await {
        if session.send(&data).await.is_err() {
            return too_large(file_name);
        }
    }
    let Ok(line) = session.finish().await else {
        return too_large(file_name);
    };
    let (status, word, description) = read_line(&line?);
    Some(Item { status, word, description, file_name })
}

/// The original's text for every line that its pattern does not match. Releases before 0.5 pass on
/// nothing of the line.
const NO_MATCH: &str = "Regex had no matches";

/// Reads clamd's line with the original's pattern: a name without a colon, a colon, optionally a
/// text without a colon, and one of three words.
fn read_line(line: &str) -> (u16, &'static str, String) {
    let no_match = || (412, "PARSE ERROR", NO_MATCH.to_owned());
    let parsed =
        line.split_once(": ").filter(|(name, rest)| !name.contains(':') && !rest.contains(':'));
    let Some((_, rest)) = parsed else { return no_match() };
    let found =
        [(200, "OK"), (406, "FOUND"), (400, "ERROR")].into_iter().find_map(|(status, word)| {
            Some((status, word, rest.strip_suffix(word)?.trim_end().to_owned()))
        });
    found.unwrap_or_else(no_match)
}

fn respond(items: &[Item], dialect: Dialect) -> Answer {
    let last = items.iter().rev().map(|item| item.status).find(|status| *status != 200);
    let found = items.iter().any(|item| item.status == 406);
    let status = if found { 406 } else { last.unwrap_or(200) };
    let lines = items.iter().map(|item| Line {
        status: item.word,
        description: &item.description,
        file_name: (dialect == Dialect::V2).then_some(&*item.file_name),
    });
    let body: String = match dialect {
        Dialect::V1 => lines.map(|line| json(&line)).collect(),
        Dialect::V2 => json(&lines.collect::<Vec<_>>()),
    };
    let kind = if items.is_empty() {
        "text/plain; charset=utf-8"
    } else {
        "application/json; charset=utf-8"
    };
    let mut answer = web::answer(status, kind, Bytes::from(body));
    if dialect == Dialect::V1 {
        answer
            .headers_mut()
            .insert("deprecation", hyper::header::HeaderValue::from_static("version=v1"));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_does_not_parse_hides_even_a_find() {
        assert_eq!(read_line("stream: OK"), (200, "OK", String::new()));
        assert_eq!(read_line("stream: Eicar FOUND"), (406, "FOUND", "Eicar".into()));
        assert_eq!(read_line("stream: Can't allocate memory ERROR").0, 400);
        for line in [
            "stream: Sig:with colon FOUND",
            "COMMAND READ TIMED OUT",
            "INSTREAM size limit exceeded. ERROR",
        ] {
            assert_eq!(read_line(line), (412, "PARSE ERROR", NO_MATCH.into()), "{line}");
        }
    }
}
