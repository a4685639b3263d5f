//! Traces: one from the upload to the webhook, whoever works on it, and none where it is off.

use std::collections::BTreeMap;
use std::process::Command;

use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use peers::notification;
use peers::scripted::{Reply, Server};
use prost::Message;

use super::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A span, as the collector got it.
#[derive(Debug, Clone)]
struct Span {
    service: String,
    name: String,
    kind: SpanKind,
    trace: String,
    id: String,
    parent: String,
    failed: bool,
    attributes: BTreeMap<String, String>,
}

struct Collector(Server);

impl Collector {
    fn start() -> Self {
        Self(Server::start(|_| Reply::new(200, "")))
    }

    fn url(&self) -> &str {
        self.0.url()
    }

    fn spans(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        for request in self.0.requests() {
            assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/traces"));
            assert_eq!(request.header("content-type"), Some("application/x-protobuf"));
            let batch = ExportTraceServiceRequest::decode(request.body.as_slice()).unwrap();
            for of_service in batch.resource_spans {
                let resource = attributes(of_service.resource.unwrap().attributes);
                for span in of_service.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    spans.push(Span {
                        service: resource["service.name"].clone(),
                        kind: span.kind(),
                        name: span.name,
                        trace: hex(&span.trace_id),
                        id: hex(&span.span_id),
                        parent: hex(&span.parent_span_id),
                        failed: span.status.is_some_and(|s| s.code() == StatusCode::Error),
                        attributes: attributes(span.attributes),
                    });
                }
            }
        }
        spans
    }

    /// Waits for this many spans of one trace.
    async fn trace(&self, trace: &str, count: usize) -> Vec<Span> {
        let of_it = || {
            let spans = self.spans().into_iter();
            spans.filter(|span| span.trace == trace).collect::<Vec<_>>()
        };
        eventually(&format!("{count} spans of {trace}"), || async { of_it().len() >= count }).await;
        of_it()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn attributes(
    pairs: Vec<opentelemetry_proto::tonic::common::v1::KeyValue>,
) -> BTreeMap<String, String> {
    let text = |value| match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    };
    pairs.into_iter().map(|pair| (pair.key, text(pair.value.unwrap().value))).collect()
}

fn one<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let mut named = spans.iter().filter(|span| span.name == name);
    let found = named.next().unwrap_or_else(|| panic!("no span {name} in {spans:#?}"));
    assert!(named.next().is_none(), "several spans {name} in {spans:#?}");
    found
}

/// Trace and span that a header names.
fn named(traceparent: &str) -> (String, String) {
    let parts: Vec<_> = traceparent.split('-').collect();
    assert_eq!((parts.len(), parts[0]), (4, "00"), "{traceparent}");
    (parts[1].to_owned(), parts[2].to_owned())
}

/// The header that came with the report about `key`.
async fn reported(daemon: &Daemon, key: &str) -> Option<String> {
    let report = daemon.reports_on(key, 1, SOON).await.unwrap().remove(0);
    report.headers.get("traceparent").cloned()
}

/// A notification about `key` with one header.
async fn notify_with(daemon: &Daemon, key: &str, header: AMQPValue) {
    let amqp = Stack::from_env().amqp().await.unwrap();
    let body = notification::put(&daemon.names.bucket, key, None, None).to_string();
    let mut headers = FieldTable::default();
    headers.insert("traceparent".into(), header);
    let properties = BasicProperties::default().with_headers(headers);
    let (exchange, routing) = (&daemon.names.exchange, &daemon.names.routing_key);
    let channel = amqp.channel().await.unwrap();
    let (exchange, routing) = (exchange.as_str().into(), routing.as_str().into());
    let options = BasicPublishOptions::default();
    let published =
        channel.basic_publish(exchange, routing, options, body.as_bytes(), properties).await;
    published.unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_infected_upload_is_one_trace_from_the_message_to_the_webhook() {
    let collector = Collector::start();
    let daemon = daemon(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=a%20b"),
        ("OTEL_SERVICE_NAME", "scans"),
    ])
    .await;
    daemon.s3().put("a/eicar é", eicar()).await.unwrap();
    let (trace, courier) = named(&reported(&daemon, "a/eicar é").await.unwrap());
    let spans = collector.trace(&trace, 7).await;
    assert_eq!(spans.len(), 7, "{spans:#?}");
    let queue = &daemon.names.queue;
    let message = one(&spans, &format!("process {queue}"));
    let send = one(&spans, &format!("send {queue}.reports"));
    let report = one(&spans, &format!("process {queue}.reports"));
    assert_eq!(message.parent, "");
    for (span, parent, kind) in [
        (one(&spans, "fetch"), message, SpanKind::Client),
        (one(&spans, "scan"), message, SpanKind::Client),
        (one(&spans, "effects"), message, SpanKind::Internal),
        (send, message, SpanKind::Producer),
        (report, send, SpanKind::Consumer),
        (one(&spans, "courier"), report, SpanKind::Client),
    ] {
        assert_eq!((&span.parent, span.kind), (&parent.id, kind), "{span:#?}");
    }
    assert_eq!(one(&spans, "courier").id, courier);
    for span in &spans {
        assert!(!span.failed, "{span:#?}");
        assert_eq!(span.service, "scans");
    }
    assert_eq!(message.attributes["aws.s3.bucket"], daemon.names.bucket);
    assert_eq!(message.attributes["aws.s3.key"], "a/eicar é");
    assert_eq!(message.attributes["messaging.system"], "rabbitmq");
    assert_eq!(message.attributes["messaging.destination.name"], *queue);
    assert_eq!(message.attributes["avscan.disposition"], "ack");
    assert_eq!(one(&spans, "fetch").attributes["avscan.bytes"], eicar().len().to_string());
    assert_eq!(one(&spans, "scan").attributes["avscan.status"], "infected");
    assert!(one(&spans, "scan").attributes["avscan.signature"].to_lowercase().contains("eicar"));
    assert_eq!(one(&spans, "effects").attributes["avscan.action"], "delete");
    assert_eq!(one(&spans, "courier").attributes["http.response.status_code"], "200");
    assert!(collector.0.requests().iter().all(|request| request.header("x-tenant") == Some("a b")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_that_comes_with_a_notification_goes_on_and_a_hostile_one_is_ignored() {
    let collector = Collector::start();
    // The notifications are the test's own.
    let daemon =
        daemon(&[("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()), ("INTAKE_ADDR", "")]).await;
    daemon.s3().put("good", "x").await.unwrap();
    notify_with(&daemon, "good", AMQPValue::LongString(PARENT.into())).await;
    assert_eq!(named(&reported(&daemon, "good").await.unwrap()).0, TRACE);
    let spans = collector.trace(TRACE, 7).await;
    let message = one(&spans, &format!("process {}", daemon.names.queue));
    assert_eq!(message.parent, "00f067aa0ba902b7");
    let text = |text: String| AMQPValue::LongString(text.into());
    let hostile = [
        text(String::new()),
        text(PARENT[..54].to_owned()),
        text(PARENT.to_uppercase()),
        text(PARENT.replace(TRACE, &"0".repeat(32))),
        text(format!("{PARENT}{}", "a".repeat(10 << 10))),
        AMQPValue::LongString(vec![0xff; 55].into()),
        AMQPValue::LongLongInt(7),
        AMQPValue::ByteArray(PARENT.as_bytes().to_vec().into()),
    ];
    for (number, header) in hostile.into_iter().enumerate() {
        let key = format!("hostile-{number}");
        daemon.s3().put(&key, "x").await.unwrap();
        notify_with(&daemon, &key, header).await;
        let (trace, _) = named(&reported(&daemon, &key).await.unwrap());
        assert_ne!(trace, TRACE, "{key}");
        let spans = collector.trace(&trace, 7).await;
        let message = one(&spans, &format!("process {}", daemon.names.queue));
        assert_eq!((message.parent.as_str(), spans.len()), ("", 7), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_by_another_replica_is_in_the_same_trace() {
    let collector = Collector::start();
    let engine = Server::start(|request| {
        let fails = request.body.windows(9).any(|part| part == b"fail once");
        if fails && request.path == "/scan" { Reply::new(500, "broken") } else { lax_v1(request) }
    });
    let working = Server::start(lax_v1);
    let mut first = daemon(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()),
        ("OTEL_SERVICE_NAME", "first"),
        ("SCANNER", "clamav-rest"),
        ("CLAMD_ENDPOINT", engine.url()),
        ("RETRY_DELAYS", "5s"),
    ])
    .await;
    first.s3().put("k", "fail once").await.unwrap();
    let amqp = Stack::from_env().amqp().await.unwrap();
    let retry = format!("{}.retry.5s", first.names.queue);
    eventually("it waits", || async { amqp.count(&retry).await.unwrap() == Some(1) }).await;
    assert_eq!(first.terminate(SOON).await.unwrap(), 0);
    let mut second = first
        .replica(&[("OTEL_SERVICE_NAME", "second"), ("CLAMD_ENDPOINT", working.url())])
        .unwrap();
    second.spawn().unwrap();
    second.wait_ready(SOON).await.unwrap();
    let (trace, _) = named(&reported(&second, "k").await.unwrap());
    // Message, fetch and scan of the first attempt; all seven of the second.
    let spans = collector.trace(&trace, 10).await;
    let process = format!("process {}", first.names.queue);
    let attempt = |number: &str| {
        let is_it =
            |span: &&Span| span.name == process && span.attributes["avscan.attempt"] == number;
        spans.iter().find(is_it).unwrap_or_else(|| panic!("{spans:#?}"))
    };
    let (one, two) = (attempt("1"), attempt("2"));
    assert_eq!((one.service.as_str(), two.service.as_str()), ("first", "second"));
    assert_eq!((one.parent.as_str(), &two.parent), ("", &one.id));
    assert!(one.failed && !two.failed);
    assert_eq!(one.attributes["avscan.disposition"], "retry");
    let failed = |span: &&Span| span.name == "scan" && span.parent == one.id;
    assert!(spans.iter().find(failed).unwrap().failed, "{spans:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_and_redriven_messages_stay_in_their_trace() {
    let collector = Collector::start();
    let daemon =
        daemon(&[("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()), ("INTAKE_ADDR", "")]).await;
    let amqp = Stack::from_env().amqp().await.unwrap();
    let names = &daemon.names;
    let headers = [("traceparent", PARENT), ("tracestate", "rojo=1")];
    amqp.publish(&names.exchange, &names.routing_key, b"garbage", &headers).await.unwrap();
    let dead = format!("{}.dead", names.queue);
    eventually("it is parked", || async { amqp.count(&dead).await.unwrap() == Some(1) }).await;
    for dry in [true, false] {
        // By a command that knows of no collector.
        let mut redrive = Command::new(BINARY);
        redrive.arg("redrive").env_clear().envs(daemon.env());
        redrive.env_remove("OTEL_EXPORTER_OTLP_ENDPOINT").args(dry.then_some("--dry-run"));
        let output = redrive.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let spans = collector.trace(TRACE, 2).await;
    eventually("it is parked again", || async { amqp.count(&dead).await.unwrap() == Some(1) })
        .await;
    let parked = amqp.get(&dead).await.unwrap().unwrap();
    assert_eq!(parked.headers["avscan-redriven"], "1");
    assert_eq!(parked.headers["tracestate"], "rojo=1");
    let (trace, span) = named(&parked.headers["traceparent"]);
    assert_eq!((trace.as_str(), &span), (TRACE, &spans[1].id));
    assert_eq!(spans[1].parent, spans[0].id);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_sampled_is_not_sent() {
    let collector = Collector::start();
    let mut daemon = daemon(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()),
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0"),
    ])
    .await;
    daemon.s3().put("k", "x").await.unwrap();
    let header = reported(&daemon, "k").await.unwrap();
    assert!(header.ends_with("-00"), "{header}");
    // What waits is sent before the exit.
    assert_eq!(daemon.terminate(SOON).await.unwrap(), 0);
    assert!(collector.0.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_a_trace_is_passed_on_and_none_begins() {
    let daemon = daemon(&[("INTAKE_ADDR", "")]).await;
    for (key, header) in [("with", Some(PARENT)), ("without", None)] {
        daemon.s3().put(key, "x").await.unwrap();
        match header {
            Some(parent) => notify_with(&daemon, key, AMQPValue::LongString(parent.into())).await,
            None => {
                let body = notification::put(&daemon.names.bucket, key, None, None);
                notify(&daemon, body.to_string().as_bytes()).await;
            }
        }
        assert_eq!(reported(&daemon, key).await.as_deref(), header);
    }
}

/// The daemon's resident memory, KiB.
fn memory(daemon: &Daemon) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", daemon.pid().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Has one object scanned again and again; the time it took.
async fn scan(daemon: &Daemon, times: u64) -> Duration {
    let amqp = Stack::from_env().amqp().await.unwrap();
    let names = &daemon.names;
    let body = notification::put(&names.bucket, "k", None, None).to_string();
    let counter = r#"avscan_notifications_total{end="applied"}"#;
    let before = metric(daemon, counter).await;
    let started = Instant::now();
    for _ in 0..times {
        amqp.publish(&names.exchange, &names.routing_key, body.as_bytes(), &[]).await.unwrap();
    }
    eventually("all are scanned", || async { metric(daemon, counter).await >= before + times })
        .await;
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_down_or_hangs_stops_nothing() {
    let hanging = Server::start_forgetful(|_| Reply::hang());
    let settings = [("INTAKE_ADDR", ""), ("SHUTDOWN_GRACE", "10")];
    let usual = daemon(&settings).await;
    usual.s3().put("k", "x").await.unwrap();
    scan(&usual, 20).await;
    let rate = scan(&usual, 200).await;
    drop(usual);
    for (collector, hangs) in [("http://127.0.0.1:1", false), (hanging.url(), true)] {
        let mut settings = settings.to_vec();
        settings.push(("OTEL_EXPORTER_OTLP_ENDPOINT", collector));
        let mut daemon = daemon(&settings).await;
        daemon.s3().put("k", "x").await.unwrap();
        scan(&daemon, 20).await;
        let (before, mut slowest) = (memory(&daemon), Duration::ZERO);
        // Seven spans each: more than may wait.
        for _ in 0..2 {
            slowest = slowest.max(scan(&daemon, 200).await);
        }
        assert!(slowest < rate * 2 + Duration::from_secs(1), "{slowest:?} and not {rate:?}");
        let grown = memory(&daemon).saturating_sub(before);
        assert!(grown < 12 << 10, "{grown} KiB more");
        let started = Instant::now();
        assert_eq!(daemon.terminate(SOON).await.unwrap(), 0, "{}", daemon.output());
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
        let output = daemon.output();
        let warnings = output.lines().filter(|line| line.contains("spans were")).count();
        assert!((1..=3).contains(&warnings), "{hangs}: {output}");
    }
}
