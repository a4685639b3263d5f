//! The stack does what its documentation says. Needs a running stack (`stack run --no-daemon --
//! cargo test -p stack`).
#![allow(clippy::disallowed_methods, reason = "the list in clippy.toml is about the daemon")]

use std::path::Path;
use std::time::{Duration, Instant};

use peers::eicar::eicar;
use peers::{ClamavRest, notification, zip};
use reqwest::multipart::{Form, Part};
use stack::{Daemon, Stack};
use tokio::sync::Mutex;
use uuid::Uuid;

/// Some of these tests kill services that the others use.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

const SOON: Duration = Duration::from_secs(15);
/// With a repeated session, or behind others at the gateway.
const LATE: Duration = Duration::from_secs(40);

fn unique() -> String {
    Uuid::new_v4().simple().to_string()
}

#[tokio::test]
async fn no_event_is_lost_whatever_is_down() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let stack = Stack::from_env();
    let mut daemon = Daemon::prepare(&stack, &stack.built_daemon(), &[]).await.unwrap();
    let s3 = daemon.s3();

    // No intake to post to yet.
    s3.put("early é+b", "x").await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    daemon.spawn().unwrap();
    daemon.reports_on("early é+b", 1, LATE).await.unwrap();

    // Nothing answers the webhook.
    stack.service("webhooks").kill().unwrap();
    s3.put("without webhooks", "x").await.unwrap();
    stack.service("webhooks").restart().unwrap();
    daemon.reports_on("without webhooks", 1, LATE).await.unwrap();

    // The broker does not answer.
    stack.service("rabbitmq").pause().unwrap();
    s3.put("without broker", "x").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    stack.service("rabbitmq").resume().unwrap();
    daemon.reports_on("without broker", 1, LATE).await.unwrap();
}

#[tokio::test]
async fn events_come_once_and_soon_and_wait_for_nobody_else() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let stack = Stack::from_env();
    let binary = stack.built_daemon();
    let dead = Daemon::prepare(&stack, &binary, &[]).await.unwrap();
    dead.s3().put("k", "x").await.unwrap();
    let daemon = Daemon::start(&stack, &binary, &[]).await.unwrap();
    // The gateway itself would take three seconds now and then, and longer behind the one above.
    for number in 0..5 {
        daemon.s3().put(&number.to_string(), "x").await.unwrap();
        daemon.reports_on(&number.to_string(), 1, Duration::from_secs(2)).await.unwrap();
    }
    drop(dead);
    // The gateway calls for each of them too, after its wait for the dead one.
    eventually("the gateway's folder is empty", || waiting(&stack) == 0).await;
    // The uploads, and the tags that the daemon set.
    assert_eq!(accepted(&daemon).await, 10);
}

#[tokio::test]
async fn by_webhook_alone_the_gateway_itself_brings_the_events() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let stack = Stack::from_env();
    let mut first = Daemon::prepare(&stack, &stack.built_daemon(), &[]).await.unwrap();
    first.by_webhook_alone().unwrap();
    let mut second = first.replica(&[]).unwrap();
    first.s3().put("early", "x").await.unwrap();
    // Longer than it would take to read the event.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(waiting(&stack) > 0, "it was answered 2xx, and no daemon runs");
    second.spawn().unwrap();
    second.reports_on("early", 1, LATE).await.unwrap();
    second.kill();
    first.spawn().unwrap();
    first.wait_ready(LATE).await.unwrap();
    first.s3().put("late", "x").await.unwrap();
    first.reports_on("late", 1, LATE).await.unwrap();
}

/// Events that the gateway keeps.
fn waiting(stack: &Stack) -> usize {
    let folder = stack.dir().join("gateway/events/minio-webhook-1");
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

async fn accepted(daemon: &Daemon) -> u64 {
    let page = daemon.page("/metrics").await.unwrap_or_default();
    let line = "avscan_intake_total{outcome=\"accepted\"} ";
    page.lines().find_map(|text| text.strip_prefix(line)?.parse().ok()).unwrap_or_default()
}

async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LATE, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn notifications_can_be_published_by_hand() {
    let stack = Stack::from_env();
    let id = unique();
    let (exchange, queue) = (format!("s3minio-test-{id}-x"), format!("s3minio-test-{id}-q"));
    let amqp = stack.amqp().await.unwrap();
    assert_eq!(amqp.count(&queue).await.unwrap(), None);
    amqp.declare(&exchange, &queue, "k").await.unwrap();
    let event = notification::put("b", "k y", Some(3), Some("\"e\""));
    amqp.notify(&exchange, "k", &event).await.unwrap();
    assert!(amqp.notify(&exchange, "other", &event).await.is_err(), "unroutable is no success");
    let got = amqp.get_within(&queue, SOON).await.unwrap().json().unwrap();
    assert_eq!(got["Records"][0]["s3"]["object"]["key"], "k+y");
    amqp.notify(&exchange, "k", &event).await.unwrap();
    assert_eq!(amqp.purge(&queue).await.unwrap(), 1);
    amqp.delete_queue(&queue).await.unwrap();
    assert!(stack.rabbitmqctl(&["list_users"]).unwrap().contains("avscan"));
}

#[tokio::test]
async fn the_engine_reports_what_it_cannot_look_into() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let stack = Stack::from_env();
    let double = ClamavRest::start(&stack.settings().clamd_tcp, false).await.unwrap();
    let scan = async |content: Vec<u8>| {
        let part = Part::bytes(content).file_name("x");
        let request = reqwest::Client::new().post(format!("{}/v2/scan", double.url()));
        let answer = request.multipart(Form::new().part("f", part)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let rows = [
        (b"hello".to_vec(), 200, "\"OK\""),
        (eicar(), 406, "FOUND"),
        (zip::archive(&[("eicar.com", &eicar())]), 406, "Eicar"),
        (zip::encrypted("secret.txt", 100), 406, "Heuristics.Encrypted.Zip"),
        (zip::nested("a.txt", b"hello", 25), 406, "Heuristics.Limits.Exceeded.MaxRecursion"),
        (vec![0; 40_000_000], 200, "\"OK\""),
    ];
    for (content, status, word) in rows {
        let size = content.len();
        let answer = scan(content).await;
        assert!(answer.0 == status && answer.1.contains(word), "{size} bytes: {answer:?}");
    }
    stack.service("clamd").kill().unwrap();
    assert_eq!(scan(eicar()).await.0, 413);
    stack.service("clamd").restart().unwrap();
    assert_eq!(scan(eicar()).await.0, 406);
}

#[tokio::test]
async fn the_error_for_a_daemon_that_ends_has_the_end_of_its_log() {
    let stack = Stack::from_env();
    let error = Daemon::start(&stack, Path::new("/bin/false"), &[]).await.err().unwrap();
    assert!(error.to_string().contains("ended with 1"), "{error}");
    let error = Daemon::start(&stack, Path::new("/no/such/daemon"), &[]).await.err().unwrap();
    assert!(error.to_string().contains("/no/such/daemon"), "{error}");
}

#[tokio::test]
async fn daemons_side_by_side_see_their_own_objects_alone() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let stack = Stack::from_env();
    let binary = stack.built_daemon();
    let one = Daemon::start(&stack, &binary, &[]).await.unwrap();
    let mut other = Daemon::start(&stack, &binary, &[("DELETE_FILE", "false")]).await.unwrap();
    one.s3().put("bad", eicar()).await.unwrap();
    other.s3().put("bad", eicar()).await.unwrap();
    let deleted = one.reports_on("bad", 1, SOON).await.unwrap();
    assert_eq!(deleted[0].json()["action"], "delete");
    let tagged = other.reports_on("bad", 1, SOON).await.unwrap();
    assert_eq!(tagged[0].json()["action"], "tag");
    assert_eq!((one.reports().len(), other.reports().len()), (1, 1));
    assert!(other.s3().head("bad").await.unwrap().is_some());
    assert_eq!(other.terminate(SOON).await.unwrap(), 0);
    other.spawn().unwrap();
    other.wait_ready(SOON).await.unwrap();
    let pid = one.pid().unwrap();
    drop(one);
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "dropped, yet it runs");
}
