//! Which spans there are, where they belong, and what is carried on.

use std::sync::{Arc, Mutex};

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanProcessor};

use super::*;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

#[derive(Debug, Clone, Default)]
struct Ended(Arc<Mutex<Vec<SpanData>>>);

impl SpanProcessor for Ended {
    fn on_start(&self, _span: &mut SdkSpan, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.lock().unwrap().push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

fn tracer(parent_based: bool, ratio: f64) -> (Tracer, Ended) {
    let ended = Ended::default();
    let provider = SdkTracerProvider::builder()
        .with_sampler(sampler(TraceSampler { parent_based, ratio }))
        .with_span_processor(ended.clone())
        .build();
    (Tracer(Some(provider.tracer("test"))), ended)
}

fn came(parent: &str) -> Trace {
    Trace::read(Some(parent.as_bytes()), Some(b"a=b"))
}

fn carried(trace: &Trace) -> Vec<(&'static str, String)> {
    trace.headers().collect()
}

fn parent(trace: &Trace) -> String {
    carried(trace)[0].1.clone()
}

#[test]
fn without_a_collector_a_trace_is_passed_on_as_it_came_and_no_span_is_made() {
    let mut trace = came(PARENT);
    let mut span = Tracer::default().process("q", &mut trace);
    span.set("a", "b");
    let (call, step, send) = (trace.call("c"), trace.step("s"), trace.send("q"));
    for span in [&span, &call, &step, &send] {
        assert!(span.0.is_none());
        let expected = [(TRACEPARENT, PARENT.to_owned()), (TRACESTATE, "a=b".to_owned())];
        assert_eq!(carried(&trace.within(span)), expected);
    }
    let mut none = Trace::default();
    drop(Tracer::default().process("q", &mut none));
    assert_eq!(carried(&none), []);
}

#[test]
fn what_belongs_to_a_message_is_below_its_span_and_that_below_the_senders() {
    let (tracer, ended) = tracer(true, 1.0);
    let mut trace = came(PARENT);
    let mut process = tracer.process("q", &mut trace);
    let carried = parent(&trace);
    process.object("bucket", "key");
    drop(trace.call("fetch"));
    drop(process);
    let ended = ended.0.lock().unwrap();
    let [fetch, process] = &ended[..] else { panic!("{ended:?}") };
    assert_eq!(process.name, "process q");
    assert_eq!((&process.span_kind, &fetch.span_kind), (&SpanKind::Consumer, &SpanKind::Client));
    assert_eq!(process.parent_span_id.to_string(), "00f067aa0ba902b7");
    assert!(process.parent_span_is_remote);
    assert_eq!(fetch.parent_span_id, process.span_context.span_id());
    assert_eq!(fetch.span_context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(process.span_context.trace_state().header(), "a=b");
    assert_eq!(carried, context::parent(&process.span_context));
    let attributes: Vec<_> =
        process.attributes.iter().map(|pair| (pair.key.as_str(), pair.value.as_str())).collect();
    for expected in [
        ("messaging.system", "rabbitmq"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", "q"),
        ("aws.s3.bucket", "bucket"),
        ("aws.s3.key", "key"),
    ] {
        assert!(attributes.iter().any(|(k, v)| (*k, v.as_ref()) == expected), "{attributes:?}");
    }
}

#[test]
fn what_is_not_sampled_is_carried_on_as_such() {
    // The sampler, what comes, and whether it is sent.
    let table = [
        (true, 1.0, Some(PARENT), true),
        (true, 1.0, Some(UNSAMPLED), false),
        (true, 1.0, None, true),
        (true, 0.0, Some(PARENT), true),
        (true, 0.0, None, false),
        (false, 1.0, Some(UNSAMPLED), true),
        (false, 0.0, Some(PARENT), false),
    ];
    for (parent_based, ratio, parent, sent) in table {
        let (tracer, ended) = tracer(parent_based, ratio);
        let mut trace = parent.map(came).unwrap_or_default();
        let process = tracer.process("q", &mut trace);
        let carried = super::tests::parent(&trace);
        drop(process);
        let case = format!("{parent_based} {ratio} {parent:?}");
        assert_eq!(!ended.0.lock().unwrap().is_empty(), sent, "{case}");
        assert!(carried.ends_with(if sent { "-01" } else { "-00" }), "{case}: {carried}");
        if let Some(parent) = parent {
            assert_eq!(carried[..36], parent[..36], "{case}");
        }
    }
}
