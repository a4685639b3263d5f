//! Brokers and queues in other states than the daemon expects.

use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use peers::proxy::TcpProxy;
use peers::scripted::Server;
use stack::{Amqp, Daemon, Stack};

use super::*;

async fn declare(amqp: &Amqp, queue: &str, arguments: &[(&str, AMQPValue)]) {
    let channel = amqp.channel().await.unwrap();
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert((*name).into(), value.clone());
    }
    channel.queue_declare(queue.into(), durable, table).await.unwrap();
}

#[tokio::test]
async fn classic_queues_are_declared_as_such_and_those_of_version_0_1_are_used() {
    let stack = Stack::from_env();
    let amqp = stack.amqp().await.unwrap();
    for made_by_0_1 in [false, true] {
        let classic = [("RABBITMQ_QUEUE_TYPE", "classic"), ("RETRY_DELAYS", "1s")];
        let mut daemon = Daemon::prepare(&stack, binary(), &classic).await.unwrap();
        let queue = daemon.names.queue.clone();
        if made_by_0_1 {
            let text = |value: &str| AMQPValue::LongString(value.into());
            for lane in [queue.clone(), format!("{queue}.reports")] {
                declare(&amqp, &lane, &[]).await;
                declare(&amqp, &format!("{lane}.dead"), &[]).await;
                let tier = [
                    ("x-message-ttl", AMQPValue::LongLongInt(1000)),
                    ("x-dead-letter-exchange", text(&format!("{queue}.internal"))),
                    ("x-dead-letter-routing-key", text(&lane)),
                ];
                declare(&amqp, &format!("{lane}.retry.1s"), &tier).await;
            }
        }
        daemon.spawn().unwrap();
        daemon.wait_ready(SOON).await.unwrap();
        daemon.s3().put("k", "x").await.unwrap();
        assert_eq!(status(&daemon, "k").await, "clean");
        daemon.reports_on("k", 1, SOON).await.unwrap();
        if !made_by_0_1 {
            let listed = stack.rabbitmqctl(&["list_queues", "name", "arguments"]).unwrap();
            // The journal is a stream, whatever the queues are.
            let is_ours = |line: &&str| line.starts_with(&queue) && !line.contains(".journal\t");
            let ours: Vec<_> = listed.lines().filter(is_ours).collect();
            assert!(ours.len() >= 6, "{listed}");
            for line in ours {
                assert!(line.contains("x-queue-type") && line.contains("classic"), "{line}");
            }
        }
    }
}

#[tokio::test]
async fn an_input_queue_that_drops_messages_is_used_with_a_warning() {
    let stack = Stack::from_env();
    let amqp = stack.amqp().await.unwrap();
    let mut daemon = Daemon::prepare(&stack, binary(), &[]).await.unwrap();
    let limit = [
        ("x-queue-type", AMQPValue::LongString("quorum".into())),
        ("x-delivery-limit", AMQPValue::LongLongInt(1_000_000_000)),
        ("x-max-length", AMQPValue::LongLongInt(10)),
    ];
    declare(&amqp, &daemon.names.queue, &limit).await;
    daemon.spawn().unwrap();
    daemon.wait_ready(SOON).await.unwrap();
    daemon.s3().put("k", "x").await.unwrap();
    assert_eq!(status(&daemon, "k").await, "clean");
    let output = daemon.output();
    let warned = |line: &str| line.contains("WARN") && line.contains("x-max-length");
    assert!(output.lines().any(warned), "{output}");
}

#[tokio::test]
async fn a_queue_as_the_daemon_declares_it_causes_no_warning() {
    let mut daemon = daemon(&[]).await;
    assert_eq!(daemon.terminate(SOON).await.unwrap(), 0);
    daemon.spawn().unwrap();
    daemon.wait_ready(SOON).await.unwrap();
    assert!(!daemon.output().contains("used as it is"), "{}", daemon.output());
}

/// A daemon whose connection to the broker can be broken, during a scan of some seconds.
async fn at_work(way: &TcpProxy, grace: &str) -> (Daemon, Server) {
    let engine = Server::start(|request| {
        let slow = request.body.windows(9).any(|part| part == b"take long");
        lax_v1(request).after(Duration::from_secs(if slow { 2 } else { 0 }))
    });
    let daemon = daemon(&[
        ("SCANNER", "clamav-rest"),
        ("CLAMD_ENDPOINT", engine.url()),
        ("RABBITMQ_PORT", &way.port().to_string()),
        ("SHUTDOWN_GRACE", grace),
    ])
    .await;
    daemon.s3().put("k", "take long").await.unwrap();
    eventually("it is scanned", || async {
        engine.requests().iter().any(|r| r.body.windows(9).any(|part| part == b"take long"))
    })
    .await;
    (daemon, engine)
}

#[tokio::test]
async fn a_broker_that_goes_while_the_daemon_stops_is_no_orderly_end() {
    let settings = Stack::from_env().settings().clone();
    for hangs in [false, true] {
        let way = TcpProxy::start(&format!("{}:{}", settings.amqp_host, settings.amqp_port))
            .await
            .unwrap();
        let (mut daemon, _engine) = at_work(&way, "4").await;
        if hangs {
            way.black_hole();
        }
        let stopped = async {
            eventually("it is stopping", || async { daemon.output().contains("stopping:") }).await;
            if !hangs {
                way.cut();
            }
        };
        let pid = daemon.pid().unwrap();
        let killed = std::process::Command::new("kill").arg(pid.to_string()).status().unwrap();
        assert!(killed.success());
        stopped.await;
        let began = Instant::now();
        assert_eq!(daemon.wait_exit(SOON).await.unwrap(), 1, "{}", daemon.output());
        // The grace period of 4 s, plus what compose allows beyond the daemon's default of 30 s.
        assert!(began.elapsed() < Duration::from_secs(4 + 14), "{:?}", began.elapsed());
        let output = daemon.output();
        assert!(!output.contains("everything settled"), "{output}");
        assert!(output.lines().last().unwrap().contains("will be redelivered"), "{output}");
    }
}

#[tokio::test]
async fn a_queue_that_was_deleted_is_declared_again_and_this_is_logged() {
    let daemon = daemon(&[]).await;
    let amqp = Stack::from_env().amqp().await.unwrap();
    let queue = daemon.names.queue.clone();
    amqp.delete_queue(&queue).await.unwrap();
    eventually("it is there again", || async { amqp.count(&queue).await.unwrap().is_some() }).await;
    let channel = amqp.channel().await.unwrap();
    // The daemon binds it itself. Binding it again changes nothing.
    let (exchange, key) = (daemon.names.exchange.as_str(), daemon.names.routing_key.as_str());
    let none = FieldTable::default();
    let options = QueueBindOptions::default();
    channel
        .queue_bind(queue.as_str().into(), exchange.into(), key.into(), options, none)
        .await
        .unwrap();
    daemon.s3().put("k", "x").await.unwrap();
    assert_eq!(status(&daemon, "k").await, "clean");
    assert!(daemon.output().contains("was deleted and is declared again"), "{}", daemon.output());
    assert_eq!(metric(&daemon, "avscan_sessions_lost_total").await, 0);
}
