//! Receives reports of bucket-av-scanner: verifies the signature, answers at once, drops duplicates.
//!
//! ```sh
//! WEBHOOK_SECRET=whsec_… LISTEN=127.0.0.1:8000 cargo run --example webhook_receiver
//! ```
//!
//! This is a debug build of its own, which takes some minutes the first time.
//!
//! The daemon is given the same secret as `PUBLISH_SECRET`, and `PUBLISH_URL=http://127.0.0.1:8000/`.
//! Each report is printed once. What waits and what was seen is kept in memory: a receiver that must
//! not lose a report stores it before it answers, with `webhook-id` as a unique key.

#![expect(
    clippy::disallowed_methods,
    reason = "an example needs no configuration but two variables"
)]
#![expect(clippy::print_stdout, reason = "printing is all that this example does with a report")]

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value};
use standardwebhooks::{HEADER_WEBHOOK_ID, Webhook};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Reports are smaller: the longest key has 1024 bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// Time for a request to arrive.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Reports that are taken and not yet worked on.
const MAX_WAITING: usize = 1_000;
/// Ids that are remembered; the oldest is forgotten first.
const MAX_REMEMBERED: usize = 10_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let secret = std::env::var("WEBHOOK_SECRET").map_err(|_| "WEBHOOK_SECRET is not set")?;
    let address = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8000".into());
    let (sender, mut waiting) = mpsc::channel(MAX_WAITING);
    let receiver = Arc::new(Receiver {
        webhook: Webhook::new(&secret)?,
        seen: Mutex::default(),
        waiting: sender,
    });
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    // The work happens here, after the answer.
    tokio::spawn(async move {
        while let Some(report) = waiting.recv().await {
            print(&report);
        }
    });
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: it passes.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let receiver = receiver.clone();
        let service = service_fn(move |request| {
            let receiver = receiver.clone();
            async move {
                let mut response = Response::new(Empty::<Bytes>::new());
                *response.status_mut() = receiver.take(request).await;
                Ok::<_, Infallible>(response)
            }
        });
        tokio::spawn(async move {
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(READ_TIMEOUT);
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                println!("a connection ended: {error}");
            }
        });
    }
}

/// docs/report.schema.json has its fields.
type Report = Map<String, Value>;

struct Receiver {
    webhook: Webhook,
    seen: Mutex<Seen>,
    waiting: mpsc::Sender<Report>,
}

impl Receiver {
    /// The status says what the daemon does next: docs/REPORTS.md, "The webhook".
    async fn take(&self, request: Request<Incoming>) -> StatusCode {
        if request.method() != Method::POST {
            return StatusCode::METHOD_NOT_ALLOWED;
        }
        let (head, body) = request.into_parts();
        let body = Limited::new(body, MAX_BODY_BYTES).collect();
        let body = match tokio::time::timeout(READ_TIMEOUT, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            // Or broken off: then nobody reads the answer.
            Ok(Err(_)) => return StatusCode::PAYLOAD_TOO_LARGE,
            Err(_) => return StatusCode::REQUEST_TIMEOUT,
        };
        // Before anything of it is believed. Also refuses what is more than five minutes old.
        if let Err(error) = self.webhook.verify(&body, &head.headers) {
            println!("refused: {error}");
            // The daemon reads its secret again, keeps the report and sends it later.
            return StatusCode::UNAUTHORIZED;
        }
        let Ok(report) = serde_json::from_slice(&body) else {
            // The daemon parks this report: it is no better the next time.
            return StatusCode::BAD_REQUEST;
        };
        // A place first: a report that finds none is not to be remembered as seen.
        let Ok(place) = self.waiting.try_reserve() else {
            // The daemon waits a few seconds with all reports.
            return StatusCode::TOO_MANY_REQUESTS;
        };
        let id = head.headers.get(HEADER_WEBHOOK_ID).map_or(&b""[..], |id| id.as_bytes());
        if self.seen.lock().unwrap_or_else(PoisonError::into_inner).is_new(id) {
            place.send(report);
        }
        StatusCode::NO_CONTENT
    }
}

/// The ids of the latest reports.
#[derive(Default)]
struct Seen {
    ids: HashSet<Vec<u8>>,
    in_order: VecDeque<Vec<u8>>,
}

impl Seen {
    /// Whether the id comes for the first time.
    fn is_new(&mut self, id: &[u8]) -> bool {
        if !self.ids.insert(id.to_vec()) {
            return false;
        }
        self.in_order.push_back(id.to_vec());
        if self.in_order.len() > MAX_REMEMBERED
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

/// One line. Uploaders choose keys: as JSON, no key can break the line.
fn print(report: &Report) {
    let field = |name: &str| report.get(name).unwrap_or(&Value::Null);
    println!(
        "report {} {} {} {} {}",
        field("id"),
        field("status"),
        field("bucket"),
        field("key"),
        field("signature"),
    );
}
