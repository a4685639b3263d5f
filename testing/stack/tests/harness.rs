//! The stack does what its documentation says. Needs a running stack (`stack run --no-daemon --
//! cargo test -p stack`).
#![allow(clippy::disallowed_methods, reason = "the list in clippy.toml is about the daemon")]

use std::path::Path;
use std::time::Duration;

use peers::eicar::eicar;
use peers::{ClamavRest, notification, zip};
use reqwest::multipart::{Form, Part};
use stack::bridge::Route;
use stack::{Daemon, Stack};
use tokio::sync::Mutex;
use uuid::Uuid;

/// Some of these tests kill services that the others use.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

const SOON: Duration = Duration::from_secs(15);

fn unique() -> String {
    Uuid::new_v4().simple().to_string()
}

#[tokio::test]
async fn no_event_is_lost_whatever_is_down() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let stack = Stack::from_env();
    let id = unique();
    let (exchange, queue) = (format!("s3minio-test-{id}-x"), format!("s3minio-test-{id}-q"));
    let s3 = stack.s3().with_bucket(&format!("test-{id}"));
    s3.create_bucket().await.unwrap();
    let routing_key = "anything".to_owned();
    let route = Route::Publish { exchange: exchange.clone(), routing_key };
    stack.route(&s3.bucket, &route).await.unwrap();
    s3.announce().await.unwrap();
    let key = |message: &stack::amqp::Message| {
        message.json().unwrap()["Key"].as_str().unwrap().to_owned()
    };

    // There is no exchange to publish to yet.
    s3.put("early é+b", "x").await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let amqp = stack.amqp().await.unwrap();
    amqp.declare(&exchange, &queue, "anything").await.unwrap();
    let message = amqp.get_within(&queue, SOON).await.unwrap();
    assert_eq!(key(&message), format!("{}/early é+b", s3.bucket));
    assert_eq!(message.headers["minio-event"], "s3:ObjectCreated:Put");

    // Nothing answers the webhook.
    stack.service("bridge").kill().unwrap();
    s3.put("without bridge", "x").await.unwrap();
    stack.service("bridge").restart().unwrap();
    let message = amqp.get_within(&queue, SOON).await.unwrap();
    assert_eq!(key(&message), format!("{}/without bridge", s3.bucket));

    // The broker does not answer.
    stack.service("rabbitmq").pause().unwrap();
    s3.put("without broker", "x").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    stack.service("rabbitmq").resume().unwrap();
    let message = amqp.get_within(&queue, SOON).await.unwrap();
    assert_eq!(key(&message), format!("{}/without broker", s3.bucket));
    stack.route(&s3.bucket, &Route::Discard).await.unwrap();
}

#[tokio::test]
async fn events_come_once_and_soon() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let stack = Stack::from_env();
    let id = unique();
    let (exchange, queue) = (format!("s3minio-test-{id}-x"), format!("s3minio-test-{id}-q"));
    let amqp = stack.amqp().await.unwrap();
    amqp.declare(&exchange, &queue, "k").await.unwrap();
    let s3 = stack.s3().with_bucket(&format!("test-{id}"));
    s3.create_bucket().await.unwrap();
    stack.route(&s3.bucket, &Route::Publish { exchange, routing_key: "k".into() }).await.unwrap();
    s3.announce().await.unwrap();
    // Without the bridge's polling some of them would take three seconds.
    for number in 0..5 {
        s3.put(&number.to_string(), "x").await.unwrap();
        let _message = amqp.get_within(&queue, Duration::from_secs(1)).await.unwrap();
    }
    // The gateway calls for each of them too, at most three seconds later.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(amqp.count(&queue).await.unwrap(), Some(0));
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
