//! Reports on their way from the daemon: guaranteed to the webhook, best effort to queues on the
//! results exchange.

use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use peers::eicar::eicar;
use stack::{Amqp, Daemon, Stack};

use super::*;

/// A full queue of another application, bound to the results exchange.
async fn full_queue_of_a_stranger(amqp: &Amqp, daemon: &Daemon) {
    let queue = format!("{}-audit", daemon.names.prefix);
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let channel = amqp.channel().await.unwrap();
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.as_str().into(), durable, arguments).await.unwrap();
    let results = format!("{}.results", daemon.names.queue);
    bind(amqp, &queue, &results, "#").await;
    amqp.publish(&results, "other", b"full", &[]).await.unwrap();
    eventually("it is full", || async { amqp.count(&queue).await.unwrap() == Some(1) }).await;
}

async fn bind(amqp: &Amqp, queue: &str, exchange: &str, key: &str) {
    let channel = amqp.channel().await.unwrap();
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(queue.into(), exchange.into(), key.into(), options, none).await.unwrap();
}

#[tokio::test]
async fn a_full_queue_of_a_stranger_holds_up_no_scan_no_deletion_and_no_report() {
    let daemon = daemon(&[]).await;
    let amqp = Stack::from_env().amqp().await.unwrap();
    full_queue_of_a_stranger(&amqp, &daemon).await;
    daemon.s3().put("eicar", eicar()).await.unwrap();
    for n in 0..5 {
        daemon.s3().put(&format!("k{n}"), "x").await.unwrap();
    }
    gone(&daemon, "eicar").await;
    for n in 0..5 {
        assert_eq!(status(&daemon, &format!("k{n}")).await, "clean");
        daemon.reports_on(&format!("k{n}"), 1, SOON).await.unwrap();
    }
    daemon.reports_on("eicar", 1, SOON).await.unwrap();
    assert_eq!(daemon.reports().len(), 6, "each report once:\n{}", daemon.output());
    assert_eq!(metric(&daemon, "avscan_sessions_lost_total").await, 0);
    eventually("what that queue refused is counted", || async {
        metric(&daemon, "avscan_results_unconfirmed_total").await == 6
    })
    .await;
    let warnings = daemon.output().matches("not every queue").count();
    assert_eq!(warnings, 1, "{}", daemon.output());
}

#[tokio::test]
async fn without_a_webhook_a_deletion_is_kept_in_a_bounded_queue_before_it_is_done() {
    let daemon = daemon(&[("PUBLISH_URL", "")]).await;
    let amqp = Stack::from_env().amqp().await.unwrap();
    full_queue_of_a_stranger(&amqp, &daemon).await;
    daemon.s3().put("clean", "x").await.unwrap();
    daemon.s3().put("eicar", eicar()).await.unwrap();
    gone(&daemon, "eicar").await;
    assert_eq!(status(&daemon, "clean").await, "clean");
    let log = format!("{}.reports.log", daemon.names.queue);
    let kept = amqp.get_within(&log, SOON).await.unwrap();
    let report = kept.json().unwrap();
    assert_eq!((&report["key"], &report["action"]), (&"eicar".into(), &"delete".into()));
    assert_eq!(kept.properties.delivery_mode(), &Some(2));
    assert!(amqp.get(&log).await.unwrap().is_none(), "only deletions are kept");
    assert_eq!(metric(&daemon, "avscan_sessions_lost_total").await, 0);
}

/// The queue, exchange and binding of reports, as version 0.1 declared them.
async fn topology_of_0_1(amqp: &Amqp, queue: &str) {
    let channel = amqp.channel().await.unwrap();
    let results = format!("{queue}.results");
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let none = FieldTable::default();
    channel
        .exchange_declare(results.as_str().into(), ExchangeKind::Topic, durable, none)
        .await
        .unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(1_000_000_000));
    let reports = format!("{queue}.reports");
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(reports.as_str().into(), durable, arguments).await.unwrap();
    bind(amqp, &reports, &results, "#").await;
}

#[tokio::test]
async fn the_binding_of_version_0_1_is_removed_so_that_no_report_comes_twice() {
    let stack = Stack::from_env();
    let amqp = stack.amqp().await.unwrap();
    for webhook in [true, false] {
        let overrides: &[(&str, &str)] = if webhook { &[] } else { &[("PUBLISH_URL", "")] };
        let mut daemon = Daemon::prepare(&stack, binary(), overrides).await.unwrap();
        let queue = daemon.names.queue.clone();
        topology_of_0_1(&amqp, &queue).await;
        daemon.spawn().unwrap();
        daemon.wait_ready(SOON).await.unwrap();
        let results = format!("{queue}.results");
        let bound = amqp.offer(&results, "clean", b"{}", &[]).await.unwrap();
        assert!(!bound, "the reports queue is still bound");
        for n in 0..5 {
            daemon.s3().put(&format!("k{n}"), "x").await.unwrap();
        }
        for n in 0..5 {
            assert_eq!(status(&daemon, &format!("k{n}")).await, "clean");
            if webhook {
                daemon.reports_on(&format!("k{n}"), 1, SOON).await.unwrap();
            }
        }
        let all = daemon.reports().len();
        assert_eq!(all, if webhook { 5 } else { 0 }, "each once:\n{}", daemon.output());
    }
}
