//! Reports to the webhook.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use peers::eicar::eicar;
use peers::sink::{Reply, Sink};
use peers::zip;
use sha2::{Digest, Sha256};

use super::*;

#[tokio::test]
async fn reports_match_the_schema_and_the_facts() {
    let schema = std::fs::read_to_string("docs/report.schema.json").unwrap();
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
    let daemon = daemon(&[]).await;
    let contents = [
        ("clean", b"nothing".to_vec()),
        ("empty", Vec::new()),
        ("eicar", eicar()),
        ("secret.zip", zip::encrypted("s", 50)),
    ];
    for (key, content) in &contents {
        daemon.s3().put(key, content.clone()).await.unwrap();
    }
    for (key, content) in &contents {
        let received = daemon.reports_on(key, 1, SOON).await.unwrap().remove(0);
        let report = received.json();
        let errors: Vec<String> = validator.iter_errors(&report).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?} in {report}");
        let sha256: String =
            Sha256::digest(content).iter().fold(String::new(), |all, b| all + &format!("{b:02x}"));
        assert_eq!(report["sha256"], sha256);
        assert_eq!(report["size"], content.len());
        assert_eq!(report["attempt"], 1);
        assert_eq!(received.headers["webhook-id"], report["id"].as_str().unwrap());
        assert_eq!(received.headers["content-type"], "application/json");
    }
    // The schema does not accept everything.
    for (field, wrong) in [("status", "fine"), ("sha256", "x"), ("id", "1"), ("extra", "x")] {
        let mut report = daemon.reports_on("clean", 1, SOON).await.unwrap().remove(0).json();
        report[field] = wrong.into();
        assert!(!validator.is_valid(&report), "{field} may be {wrong}");
    }
}

#[tokio::test]
async fn reports_are_signed_and_authorized() {
    let secret = BASE64.encode([7; 32]);
    let whsec = format!("whsec_{secret}");
    let daemon =
        daemon(&[("PUBLISH_SECRET", &whsec), ("PUBLISH_AUTHORIZATION", "Bearer token-1")]).await;
    daemon.s3().put("k", "x").await.unwrap();
    let received = daemon.reports_on("k", 1, SOON).await.unwrap().remove(0);
    let headers = &received.headers;
    assert_eq!(headers["authorization"], "Bearer token-1");
    let signed =
        format!("{}.{}.{}", headers["webhook-id"], headers["webhook-timestamp"], received.body);
    let pad = |byte: u8| [[7 ^ byte; 32], [byte; 32]].concat();
    let inner = Sha256::digest([pad(0x36), signed.into_bytes()].concat());
    let mac = Sha256::digest([pad(0x5c), inner.to_vec()].concat());
    assert_eq!(headers["webhook-signature"], format!("v1,{}", BASE64.encode(mac)));
    assert!(!daemon.output().contains("token-1") && !daemon.output().contains(&secret));
}

#[tokio::test]
async fn clean_objects_are_reported_only_when_asked_for() {
    let daemon = daemon(&[("REPORT_CLEAN", "false")]).await;
    daemon.s3().put("clean", "x").await.unwrap();
    assert_eq!(status(&daemon, "clean").await, "clean");
    daemon.s3().put("eicar", eicar()).await.unwrap();
    daemon.reports_on("eicar", 1, SOON).await.unwrap();
    assert_eq!(daemon.reports().len(), 1);
}

#[tokio::test]
async fn without_a_webhook_others_may_bind_the_results_exchange() {
    use lapin::options::{QueueBindOptions, QueueDeclareOptions};
    use lapin::types::FieldTable;
    let daemon = daemon(&[("PUBLISH_URL", ""), ("REPORT_CLEAN", "true")]).await;
    let stack = stack::Stack::from_env();
    let amqp = stack.amqp().await.unwrap();
    let ours = format!("{}-mine", daemon.names.prefix);
    let results = format!("{}.results", daemon.names.queue);
    let channel = amqp.channel().await.unwrap();
    let (durable, none) =
        (QueueDeclareOptions { durable: true, ..Default::default() }, FieldTable::default());
    channel.queue_declare(ours.as_str().into(), durable, none.clone()).await.unwrap();
    channel
        .queue_bind(
            ours.as_str().into(),
            results.as_str().into(),
            "infected".into(),
            QueueBindOptions::default(),
            none,
        )
        .await
        .unwrap();
    daemon.s3().put("clean", "x").await.unwrap();
    daemon.s3().put("eicar", eicar()).await.unwrap();
    let message = amqp.get_within(&ours, SOON).await.unwrap();
    let report = message.json().unwrap();
    assert_eq!((&report["key"], &report["status"]), (&"eicar".into(), &"infected".into()));
    assert_eq!(amqp.count(&format!("{}.reports", daemon.names.queue)).await.unwrap(), None);
    gone(&daemon, "eicar").await;
}

#[tokio::test]
async fn a_rejected_report_is_parked_and_a_failed_one_tried_again() {
    let sink = Sink::start().await.unwrap();
    let url = format!("{}/hook", sink.url());
    sink.script(|_, received| match received.json()["key"].as_str() {
        Some("rejected") => Reply::status(422),
        Some("failing") if received.json()["attempt"] == 1 && tried_before(received) => {
            Reply::status(200)
        }
        Some("failing") => Reply::status(500),
        _ => Reply::status(200),
    });
    let daemon = daemon(&[("PUBLISH_URL", &url), ("RETRY_DELAYS", "1s,2s")]).await;
    daemon.s3().put("rejected", "x").await.unwrap();
    let amqp = stack::Stack::from_env().amqp().await.unwrap();
    let parked =
        amqp.get_within(&format!("{}.reports.dead", daemon.names.queue), SOON).await.unwrap();
    assert_eq!(parked.json().unwrap()["key"], "rejected");
    assert_eq!(parked.headers["avscan-reason"], "webhook_rejected");
    daemon.s3().put("failing", "x").await.unwrap();
    let failing = |r: &peers::sink::Received| r.key().as_deref() == Some("failing");
    let tries = sink.wait_for(2, SOON, failing).await.unwrap();
    assert_eq!(tries[0].headers["webhook-id"], tries[1].headers["webhook-id"]);
    assert_eq!(tries[0].body, tries[1].body);
}

/// Whether the report was posted before. Remembers it.
fn tried_before(received: &peers::sink::Received) -> bool {
    use std::collections::HashSet;
    use std::sync::{LazyLock, Mutex};
    static SEEN: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);
    !SEEN.lock().unwrap().insert(received.headers["webhook-id"].clone())
}

#[tokio::test]
async fn one_report_that_is_refused_for_ever_is_parked_and_slows_no_other() {
    let sink = Sink::start().await.unwrap();
    let url = format!("{}/hook", sink.url());
    // As a web application firewall does.
    sink.script(|_, received| {
        Reply::status(if received.body.contains("<script>") { 403 } else { 200 })
    });
    let daemon =
        daemon(&[("PUBLISH_URL", &url), ("RETRY_DELAYS", "1s,2s"), ("RETRY_LIMIT", "2")]).await;
    let bad = "x<script>alert(1)</script>.txt";
    daemon.s3().put(bad, "x").await.unwrap();
    let amqp = stack::Stack::from_env().amqp().await.unwrap();
    let dead = format!("{}.reports.dead", daemon.names.queue);
    let started = Instant::now();
    let (mut healthy, mut longest) = (0, Duration::ZERO);
    let parked = loop {
        assert!(started.elapsed() < SOON, "never parked:\n{}", daemon.output());
        if let Some(parked) = amqp.get(&dead).await.unwrap() {
            break parked;
        }
        let key = format!("k{healthy}");
        let uploaded = Instant::now();
        daemon.s3().put(&key, "x").await.unwrap();
        sink.wait_for(1, SOON, |r| r.key().as_deref() == Some(key.as_str())).await.unwrap();
        longest = longest.max(uploaded.elapsed());
        healthy += 1;
    };
    assert_eq!(parked.json().unwrap()["key"], bad);
    assert_eq!(parked.headers["avscan-reason"], "webhook_refused");
    assert_eq!(parked.headers["avscan-detail"], "HTTP 403");
    assert_eq!(parked.headers["avscan-attempt"], "3");
    assert!(longest < Duration::from_secs(2), "a healthy report took {longest:?}");
    assert!(!daemon.output().contains("webhook is down"), "{}", daemon.output());
    let refused = sink.received().iter().filter(|r| r.key().as_deref() == Some(bad)).count();
    // The first refusal is not counted as an attempt, the next three are.
    assert!((4..=6).contains(&refused), "{refused}");
    assert_eq!(sink.received().len() - refused, healthy, "each healthy one once");
}

#[tokio::test]
async fn a_lone_report_that_is_refused_is_kept_without_a_pause_and_logged_now_and_then() {
    let sink = Sink::start().await.unwrap();
    sink.answer(403);
    let url = format!("{}/hook", sink.url());
    let daemon = daemon(&[("PUBLISH_URL", &url), ("RETRY_DELAYS", "1s")]).await;
    daemon.s3().put("k", "x").await.unwrap();
    sink.wait_for(10, SOON, |_| true).await.unwrap();
    let output = daemon.output();
    let warned = |line: &&str| line.contains("put off again and again");
    assert_eq!(output.lines().filter(warned).count(), 1, "{output}");
    let line = output.lines().find(warned).unwrap();
    assert!(line.contains("webhook_refused") && line.contains("HTTP 403"), "{line}");
    assert!(!output.contains("webhook is down"), "{output}");
}

#[tokio::test]
async fn when_every_report_is_refused_none_is_parked_and_all_are_delivered_in_the_end() {
    let sink = Sink::start().await.unwrap();
    let url = format!("{}/hook", sink.url());
    for (status, reason) in [(403, "HTTP 403"), (410, "gone for good")] {
        sink.answer(status);
        let daemon =
            daemon(&[("PUBLISH_URL", &url), ("RETRY_DELAYS", "1s"), ("RETRY_LIMIT", "0")]).await;
        for n in 0..6 {
            daemon.s3().put(&format!("{status}-{n}"), "x").await.unwrap();
        }
        eventually("the webhook is logged as down", || async {
            let output = daemon.output();
            output.contains("webhook is down") && output.contains(reason)
        })
        .await;
        let ready = daemon.page("/readyz").await.unwrap();
        let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
        assert!(ready["degraded"]["webhook"].is_string(), "{ready}");
        if status == 410 {
            // The pause lasts minutes. The test can only show that it began.
            continue;
        }
        // Several rounds of refusals.
        sink.wait_for(15, SOON, |_| true).await.unwrap();
        sink.answer(200);
        eventually("all are delivered", || async {
            metric(&daemon, r#"avscan_reports_total{outcome="delivered"}"#).await == 6
        })
        .await;
        let amqp = stack::Stack::from_env().amqp().await.unwrap();
        let dead = format!("{}.reports.dead", daemon.names.queue);
        assert!(amqp.get(&dead).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_receiver_that_has_the_report_already_may_answer_with_a_conflict() {
    let sink = Sink::start().await.unwrap();
    let url = format!("{}/hook", sink.url());
    // The first answer is lost on the way.
    sink.script(|n, _| Reply::status(if n == 0 { 502 } else { 409 }));
    let daemon = daemon(&[("PUBLISH_URL", &url), ("RETRY_DELAYS", "1s")]).await;
    daemon.s3().put("k", "x").await.unwrap();
    eventually("it counts as delivered", || async {
        metric(&daemon, r#"avscan_reports_total{outcome="delivered"}"#).await == 1
    })
    .await;
    assert_eq!(sink.received().len(), 2);
}

#[tokio::test]
async fn a_dead_webhook_delays_no_scan_and_loses_no_report() {
    let sink = Sink::start().await.unwrap();
    sink.answer(503);
    let url = format!("{}/hook", sink.url());
    let daemon = daemon(&[("PUBLISH_URL", &url), ("RETRY_DELAYS", "1s")]).await;
    for n in 0..12 {
        daemon.s3().put(&format!("k{n}"), "x").await.unwrap();
    }
    for n in 0..12 {
        assert_eq!(status(&daemon, &format!("k{n}")).await, "clean");
    }
    assert_eq!(daemon.status("/readyz"), Some(200));
    sink.answer(200);
    for n in 0..12 {
        let key = format!("k{n}");
        let delivered = |r: &peers::sink::Received| r.key().as_deref() == Some(key.as_str());
        sink.wait_for(1, SOON, delivered).await.unwrap();
    }
    eventually("all are delivered", || async {
        metric(&daemon, r#"avscan_reports_total{outcome="delivered"}"#).await >= 12
    })
    .await;
}
