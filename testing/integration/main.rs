//! The daemon against a real `RabbitMQ`, a real clamd and real S3 servers. Needs a running stack:
//! `make test` starts one for this.
#![allow(clippy::disallowed_methods, reason = "the list in clippy.toml is about the daemon")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod audit;
mod backlog;
mod broker;
mod browser;
mod canary;
mod commands;
mod encryption;
mod endpoints;
mod engines;
mod evidence;
mod examples;
mod hostile;
mod intake;
mod lies;
mod limits;
mod logging;
mod messages;
mod monitoring;
mod outbox;
mod quarantine;
mod receipts;
mod reports;
mod rotation;
mod rules;
mod status;
mod stores;
mod surge;
mod survey;
mod sweeps;
mod traces;
mod trust;
mod verdicts;
mod versions;
mod webhooks;

use std::path::Path;
use std::time::{Duration, Instant};

use peers::eicar::eicar;
use peers::scripted::{Reply, Request};
use stack::{Daemon, Stack};

const BINARY: &str = env!("CARGO_BIN_EXE_bucket-av-scanner");
/// The first bytes of the harmless sample of the self-test.
const HARMLESS: &[u8] = b"A harmless text";
const SOON: Duration = Duration::from_secs(30);

fn binary() -> &'static Path {
    Path::new(BINARY)
}

async fn daemon(overrides: &[(&str, &str)]) -> Daemon {
    Daemon::start(&Stack::from_env(), binary(), overrides).await.unwrap()
}

/// Asks until the answer is true. Fails after [`SOON`], naming `what`.
async fn eventually<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let started = Instant::now();
    while !ask().await {
        assert!(started.elapsed() < SOON, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits for a tag of the object and returns its value.
async fn status(daemon: &Daemon, key: &str) -> String {
    let s3 = daemon.s3();
    let started = Instant::now();
    loop {
        let tags = s3.tags(key).await.unwrap().unwrap_or_default();
        if let Some(status) = tags.get("scanned") {
            return status.clone();
        }
        assert!(started.elapsed() < SOON, "{key} was never tagged:\n{}", daemon.output());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the object is deleted.
async fn gone(daemon: &Daemon, key: &str) {
    let s3 = daemon.s3();
    eventually("the object is deleted", || async { s3.head(key).await.unwrap().is_none() }).await;
}

/// Publishes a notification to the daemon, as its store does.
async fn notify(daemon: &Daemon, body: &[u8]) {
    let amqp = Stack::from_env().amqp().await.unwrap();
    let names = &daemon.names;
    amqp.publish(&names.exchange, &names.routing_key, body, &[]).await.unwrap();
}

/// The next message in the daemon's dead-letter queue.
async fn dead(daemon: &Daemon) -> stack::amqp::Message {
    let amqp = Stack::from_env().amqp().await.unwrap();
    amqp.get_within(&format!("{}.dead", daemon.names.queue), SOON).await.unwrap()
}

/// The value of a metric; 0 when it was never counted.
async fn metric(daemon: &Daemon, name: &str) -> u64 {
    let page = daemon.page("/metrics").await.unwrap();
    page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or_default()
}

/// An engine of clamav-rest's first dialect that finds EICAR and calls everything else clean, as
/// clamd with its default settings calls what it did not scan.
fn lax_v1(request: &Request) -> Reply {
    if request.path != "/scan" {
        return Reply::new(404, "404 page not found");
    }
    let eicar = eicar();
    if request.body.windows(eicar.len()).any(|part| part == eicar) {
        return Reply::new(406, r#"{"Status":"FOUND","Description":"Eicar"}"#);
    }
    Reply::new(200, r#"{"Status":"OK","Description":""}"#)
}
