//! The disposition of messages.

use peers::notification;
use stack::{Daemon, Stack};

use super::*;

#[tokio::test]
async fn what_cannot_be_read_is_parked_byte_for_byte_with_the_reason() {
    let daemon = daemon(&[]).await;
    let garbage: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for body in [&b"{\"Records\":[{\"eventName\":\"s3:Obj"[..], &garbage, b"", b"{}"] {
        notify(&daemon, body).await;
        let parked = dead(&daemon).await;
        assert_eq!(parked.body, body);
        assert_eq!(parked.headers["avscan-reason"], "malformed");
        assert_eq!(parked.headers["avscan-stage"], "event");
    }
    assert!(daemon.page("/livez").await.is_ok());
}

#[tokio::test]
async fn ten_mebibytes_of_garbage_are_parked_and_the_daemon_goes_on() {
    let daemon = daemon(&[]).await;
    notify(&daemon, &vec![b'['; 10 << 20]).await;
    assert_eq!(dead(&daemon).await.body.len(), 10 << 20);
    daemon.s3().put("after", "x").await.unwrap();
    assert_eq!(status(&daemon, "after").await, "clean");
}

#[tokio::test]
async fn what_concerns_no_scanner_is_ignored() {
    let daemon = daemon(&[]).await;
    let bucket = &daemon.names.bucket;
    for name in ["s3:ObjectCreated:PutTagging", "s3:ObjectRemoved:Delete", "s3:ObjectAccessed:Get"]
    {
        let event = notification::event(name, bucket, "k", None, None);
        notify(&daemon, event.to_string().as_bytes()).await;
    }
    notify(&daemon, br#"{"Records":[]}"#).await;
    notify(&daemon, br#"{"Service":"Amazon S3","Event":"s3:TestEvent"}"#).await;
    eventually("all ignored", || async {
        metric(&daemon, r#"avscan_notifications_total{end="ignored"}"#).await >= 5
    })
    .await;
}

#[tokio::test]
async fn our_own_tagging_does_not_come_back_as_work() {
    let daemon = daemon(&[]).await;
    daemon.s3().put("once", "x").await.unwrap();
    status(&daemon, "once").await;
    eventually("the tagging's own event is ignored", || async {
        metric(&daemon, r#"avscan_notifications_total{end="ignored"}"#).await >= 1
    })
    .await;
    assert_eq!(metric(&daemon, r#"avscan_notifications_total{end="applied"}"#).await, 1);
}

#[tokio::test]
async fn a_thousand_records_in_one_message_are_a_thousand_objects() {
    let daemon = daemon(&[("SCAN_CONCURRENCY", "16"), ("RETRY_DELAYS", "1s")]).await;
    let s3 = daemon.s3();
    s3.put("real", "x").await.unwrap();
    status(&daemon, "real").await;
    s3.set_tags("real", &[("other", "x")]).await.unwrap();
    let record = |key: &str| notification::put(&s3.bucket, key, None, None)["Records"][0].take();
    let mut records: Vec<_> = (0..999).map(|n| record(&format!("gone-{n}"))).collect();
    records.push(record("real"));
    let message = serde_json::json!({ "Records": records });
    notify(&daemon, message.to_string().as_bytes()).await;
    assert_eq!(status(&daemon, "real").await, "clean");
    eventually("the other 999 are gone", || async {
        metric(&daemon, r#"avscan_notifications_total{end="gone"}"#).await >= 999
    })
    .await;
}

#[tokio::test]
async fn a_queue_that_was_there_before_is_used_as_it_is() {
    use lapin::options::QueueDeclareOptions;
    use lapin::types::FieldTable;
    let stack = Stack::from_env();
    let mut daemon = Daemon::prepare(&stack, binary(), &[]).await.unwrap();
    let amqp = stack.amqp().await.unwrap();
    let classic = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let queue = daemon.names.queue.as_str().into();
    let channel = amqp.channel().await.unwrap();
    channel.queue_declare(queue, classic, FieldTable::default()).await.unwrap();
    daemon.spawn().unwrap();
    daemon.wait_ready(SOON).await.unwrap();
    daemon.s3().put("k", "x").await.unwrap();
    assert_eq!(status(&daemon, "k").await, "clean");
}

#[tokio::test]
async fn a_queue_of_ours_with_other_arguments_stops_the_daemon_in_one_line() {
    use lapin::options::QueueDeclareOptions;
    use lapin::types::FieldTable;
    let stack = Stack::from_env();
    let mut daemon = Daemon::prepare(&stack, binary(), &[]).await.unwrap();
    let dead = format!("{}.dead", daemon.names.queue);
    let amqp = stack.amqp().await.unwrap();
    let classic = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let channel = amqp.channel().await.unwrap();
    channel.queue_declare(dead.as_str().into(), classic, FieldTable::default()).await.unwrap();
    daemon.spawn().unwrap();
    assert_eq!(daemon.wait_exit(SOON).await.unwrap(), 1);
    let last = daemon.output().lines().last().unwrap().to_owned();
    assert!(last.contains(&dead) && last.contains("remove"), "{last}");
}

#[tokio::test]
async fn a_killed_daemon_loses_nothing() {
    let mut daemon = daemon(&[]).await;
    let s3 = daemon.s3();
    for n in 0..40 {
        s3.put(&format!("k{n}"), vec![b'x'; 50_000]).await.unwrap();
        if n % 10 == 5 {
            daemon.kill();
            daemon.spawn().unwrap();
        }
    }
    for n in 0..40 {
        assert_eq!(status(&daemon, &format!("k{n}")).await, "clean");
    }
}

#[tokio::test]
async fn a_stop_during_work_is_not_logged_as_a_lost_session() {
    let mut daemon = daemon(&[("PUBLISH_URL", "")]).await;
    daemon.s3().put("large", vec![b'x'; 60 << 20]).await.unwrap();
    eventually("it is in work", || async {
        daemon.page("/metrics").await.unwrap().contains("avscan_in_flight 1")
    })
    .await;
    assert_eq!(daemon.terminate(SOON).await.unwrap(), 0);
    assert!(!daemon.output().contains("session lost"), "{}", daemon.output());
}

#[tokio::test]
async fn sigterm_drains_and_exits_with_zero() {
    let mut daemon = daemon(&[]).await;
    let s3 = daemon.s3();
    for n in 0..20 {
        s3.put(&format!("k{n}"), "x").await.unwrap();
    }
    assert_eq!(daemon.terminate(SOON).await.unwrap(), 0);
    assert!(daemon.output().contains("everything settled"));
    assert!(!daemon.output().contains("session lost"), "{}", daemon.output());
    daemon.spawn().unwrap();
    for n in 0..20 {
        assert_eq!(status(&daemon, &format!("k{n}")).await, "clean");
    }
}

#[tokio::test]
async fn two_replicas_share_the_work() {
    let first = daemon(&[("SCAN_CONCURRENCY", "1")]).await;
    let names = &first.names;
    let same = [
        ("SCAN_CONCURRENCY", "1"),
        ("RABBITMQ_QUEUE_NAME", names.queue.as_str()),
        ("RABBITMQ_TOPIC", names.exchange.as_str()),
        ("RABBITMQ_QUEUE_ROUTING_KEY", names.routing_key.as_str()),
    ];
    let second = daemon(&same).await;
    for n in 0..60 {
        first.s3().put(&format!("k{n}"), vec![b'x'; 20_000]).await.unwrap();
    }
    for n in 0..60 {
        assert_eq!(status(&first, &format!("k{n}")).await, "clean");
    }
    for daemon in [&first, &second] {
        let applied = metric(daemon, r#"avscan_notifications_total{end="applied"}"#).await;
        assert!(applied >= 1, "a replica had nothing to do");
    }
}

/// Makes a broker user for one test, with these permissions.
fn user(name: &str, configure: &str, write: &str, read: &str) {
    let stack = Stack::from_env();
    stack.rabbitmqctl(&["add_user", name, "secret"]).unwrap();
    let vhost = stack.settings().amqp_vhost.clone();
    stack.rabbitmqctl(&["set_permissions", "-p", &vhost, name, configure, write, read]).unwrap();
}

#[tokio::test]
async fn permissions_on_its_own_names_are_enough_and_a_missing_one_is_named() {
    let stack = Stack::from_env();
    let mut daemon = Daemon::prepare(&stack, binary(), &[]).await.unwrap();
    let (queue, exchange) = (daemon.names.queue.clone(), daemon.names.exchange.clone());
    let amqp = stack.amqp().await.unwrap();
    // The store's exchange exists. The permissions are those of the table in the README.
    let bystander = format!("{}-bystander", daemon.names.prefix);
    amqp.declare(&exchange, &bystander, "nothing").await.unwrap();
    let own = format!(r"^{queue}(\..*)?$");
    let read = format!(r"^({queue}(\..*)?|{exchange})$");
    let name = daemon.names.prefix.clone();
    user(&name, "^$", "^$", "^$");
    daemon.set_env("RABBITMQ_REGULAR_USER_NAME", &name);
    daemon.set_env("RABBITMQ_REGULAR_USER_PASS", "secret");
    daemon.spawn().unwrap();
    eventually("the missing queue is named", || async {
        daemon.output().contains(&format!("queue {queue}: create it"))
    })
    .await;
    assert_eq!(daemon.status("/readyz"), Some(503));
    let vhost = stack.settings().amqp_vhost.clone();
    stack.rabbitmqctl(&["set_permissions", "-p", &vhost, &name, &own, &own, &read]).unwrap();
    daemon.wait_ready(SOON).await.unwrap();
    daemon.s3().put("k", "x").await.unwrap();
    assert_eq!(status(&daemon, "k").await, "clean");
    daemon.reports_on("k", 1, SOON).await.unwrap();
    stack.rabbitmqctl(&["delete_user", &name]).unwrap();
}

#[tokio::test]
async fn foreign_headers_and_properties_break_nothing() {
    use lapin::BasicProperties;
    use lapin::options::BasicPublishOptions;
    use lapin::types::{AMQPValue, FieldTable};
    let daemon = daemon(&[]).await;
    daemon.s3().put("k", "x").await.unwrap();
    status(&daemon, "k").await;
    daemon.s3().set_tags("k", &[("other", "x")]).await.unwrap();
    let amqp = Stack::from_env().amqp().await.unwrap();
    let channel = amqp.channel().await.unwrap();
    let huge = AMQPValue::LongString("A".repeat(130_000).into());
    let event = notification::put(&daemon.names.bucket, "k", None, None).to_string();
    for (name, value, body) in [
        ("avscan-first-failure", huge.clone(), "garbage"),
        ("x-whatever", huge, "garbage"),
        ("avscan-attempt", AMQPValue::LongString("many".into()), event.as_str()),
        ("avscan-attempt", AMQPValue::LongLongInt(-7), event.as_str()),
        ("avscan-attempt", AMQPValue::LongLongInt(i64::MAX), event.as_str()),
    ] {
        let mut headers = FieldTable::default();
        headers.insert(name.into(), value);
        let properties = BasicProperties::default()
            .with_headers(headers)
            .with_delivery_mode(2)
            .with_priority(9)
            .with_expiration("600000".into());
        channel
            .basic_publish(
                daemon.names.exchange.as_str().into(),
                daemon.names.routing_key.as_str().into(),
                BasicPublishOptions::default(),
                body.as_bytes(),
                properties,
            )
            .await
            .unwrap();
    }
    for _ in 0..2 {
        assert_eq!(dead(&daemon).await.body, b"garbage");
    }
    assert_eq!(status(&daemon, "k").await, "clean");
    assert_eq!(metric(&daemon, "avscan_sessions_lost_total").await, 0);
}

#[tokio::test]
async fn a_failure_names_its_object_in_the_log() {
    let daemon = daemon(&[("RETRY_DELAYS", "1s"), ("RETRY_LIMIT", "1")]).await;
    let event = notification::put("no-such-bucket", "the key", None, None);
    notify(&daemon, event.to_string().as_bytes()).await;
    dead(&daemon).await;
    eventually("both lines name it", || async {
        let output = daemon.output();
        ["will be tried again", "parked in the dead-letter queue"].iter().all(|what| {
            output.lines().any(|line| {
                line.contains(what)
                    && line.contains("bucket=\"no-such-bucket\"")
                    && line.contains("key=\"the key\"")
            })
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_alarm_is_waited_out_while_reports_go_on() {
    let stack = Stack::from_env();
    let daemon = daemon(&[]).await;
    daemon.s3().put("before", "x").await.unwrap();
    status(&daemon, "before").await;
    stack.rabbitmqctl(&["set_vm_memory_high_watermark", "0.00001"]).unwrap();
    for n in 0..10 {
        daemon.s3().put(&format!("k{n}"), "x").await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    stack.rabbitmqctl(&["set_vm_memory_high_watermark", "0.4"]).unwrap();
    for n in 0..10 {
        assert_eq!(status(&daemon, &format!("k{n}")).await, "clean");
        daemon.reports_on(&format!("k{n}"), 1, SOON).await.unwrap();
    }
    assert_eq!(metric(&daemon, "avscan_sessions_lost_total").await, 0);
}

#[tokio::test]
async fn an_exchange_that_was_removed_comes_back_with_its_binding() {
    let daemon = daemon(&[]).await;
    let amqp = Stack::from_env().amqp().await.unwrap();
    let names = &daemon.names;
    let options = lapin::options::ExchangeDeleteOptions::default();
    let channel = amqp.channel().await.unwrap();
    channel.exchange_delete(names.exchange.as_str().into(), options).await.unwrap();
    // A message to a missing exchange is dropped without an error. This one is empty and announces
    // nothing.
    let announce = async || {
        let amqp = Stack::from_env().amqp().await.unwrap();
        amqp.offer(&names.exchange, &names.routing_key, br#"{"Records":[]}"#, &[]).await.unwrap()
    };
    assert!(!announce().await);
    eventually("it is bound again", announce).await;
    daemon.s3().put("later", "x").await.unwrap();
    assert_eq!(status(&daemon, "later").await, "clean");
    assert!(daemon.output().contains("was gone"), "{}", daemon.output());
}
