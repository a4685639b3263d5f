//! Traces by OpenTelemetry, off by default: the spans of a message, and where they belong.
//!
//! A [`Trace`] travels with its message as a value: it is read from the message's headers, and what is
//! published or posted because of the message carries it on. Without a collector it is passed on as it
//! came; no span is made then, and nothing is started.
//!
//! Spans are made at a few places by name and not by a layer below `tracing`, which would see each span
//! and event of every library, and pay for it.

mod context;
mod export;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::time::Duration;

use opentelemetry::trace::{
    Span as _, SpanContext, SpanKind, Status, TraceContextExt, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, Span as SdkSpan};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::{TraceSampler, TraceSettings};
use crate::failure::Failure;
use crate::tls::Trust;

/// The header that says where something belongs.
pub(crate) const TRACEPARENT: &str = "traceparent";
/// The header that comes along, for those who wrote it.
pub(crate) const TRACESTATE: &str = "tracestate";

/// Longest wait at the end for spans that are not sent yet.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Makes spans, or none while traces are off. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tracer(Option<SdkTracer>);

/// Sends spans to the collector.
pub(crate) struct Sending(Option<(CancellationToken, JoinHandle<()>)>);

/// Starts to send spans, if traces are on.
///
/// # Errors
/// When the HTTP client cannot be set up.
pub(crate) fn start(
    settings: Option<&TraceSettings>,
    trust: &Trust,
) -> Result<(Tracer, Sending), String> {
    let Some(settings) = settings else { return Ok((Tracer::default(), Sending(None))) };
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let resource = Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", settings.service.clone()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("host.name", host),
        ])
        .build();
    let (outlet, exporter) = export::queue(settings, &resource, trust)?;
    let provider = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_sampler(sampler(settings.sampler))
        .with_span_processor(outlet)
        .build();
    let stop = CancellationToken::new();
    let sending = tokio::spawn(exporter.run(stop.clone()));
    let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME")).build();
    Ok((Tracer(Some(provider.tracer_with_scope(scope))), Sending(Some((stop, sending)))))
}

fn sampler(settings: TraceSampler) -> Sampler {
    let TraceSampler { parent_based, ratio } = settings;
    let root = Sampler::TraceIdRatioBased(ratio);
    if parent_based { Sampler::ParentBased(Box::new(root)) } else { root }
}

impl Sending {
    /// Sends what waits, for a bounded time.
    pub(crate) async fn finish(self, at_most: Duration) {
        let Some((stop, mut sending)) = self.0 else { return };
        stop.cancel();
        if tokio::time::timeout(at_most.min(FLUSH_TIMEOUT), &mut sending).await.is_err() {
            tracing::warn!("the last spans were not sent, the collector takes too long");
            sending.abort();
        }
    }
}

impl Tracer {
    /// Begins the span of a message from `queue`. From now on what `trace` is given to belongs to it.
    pub(crate) fn process(&self, queue: &str, trace: &mut Trace) -> Span {
        let Some(tracer) = &self.0 else { return Span(None) };
        let came = Trace { context: trace.context.take(), tracer: Some(tracer.clone()) };
        let span = came.message("process", queue, SpanKind::Consumer);
        *trace = came.within(&span);
        span
    }
}

/// Where something belongs, and who makes the spans below it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace {
    context: Option<SpanContext>,
    /// `None` while traces are off.
    tracer: Option<SdkTracer>,
}

impl Trace {
    /// What the headers of a message or a request say, if they are as specified.
    pub(crate) fn read(parent: Option<&[u8]>, state: Option<&[u8]>) -> Self {
        let context = parent.and_then(|parent| context::read(parent, state));
        Self { context, tracer: None }
    }

    /// The headers of what belongs here.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&'static str, String)> {
        let context = self.context.as_ref();
        let parent = context.map(|context| (TRACEPARENT, context::parent(context)));
        let state = context.and_then(context::state).map(|state| (TRACESTATE, state));
        parent.into_iter().chain(state)
    }

    /// Begins a span below this one, of a request to another system.
    pub(crate) fn call(&self, name: &'static str) -> Span {
        self.begin(SpanKind::Client, || name.into())
    }

    /// Begins a span below this one, of work of our own.
    pub(crate) fn step(&self, name: &'static str) -> Span {
        self.begin(SpanKind::Internal, || name.into())
    }

    /// Begins the span of a message that is published to `queue`.
    pub(crate) fn send(&self, queue: &str) -> Span {
        self.message("send", queue, SpanKind::Producer)
    }

    /// The same below `span`.
    pub(crate) fn within(&self, span: &Span) -> Self {
        let context = span.0.as_ref().map(|span| span.span_context().clone());
        Self { context: context.or_else(|| self.context.clone()), tracer: self.tracer.clone() }
    }

    /// Source of the names: <https://opentelemetry.io/docs/specs/semconv/messaging/rabbitmq/>
    fn message(&self, operation: &'static str, queue: &str, kind: SpanKind) -> Span {
        let mut span = self.begin(kind, || format!("{operation} {queue}").into());
        span.set("messaging.system", "rabbitmq");
        span.set("messaging.operation.name", operation);
        span.set("messaging.operation.type", operation);
        span.text("messaging.destination.name", queue);
        span
    }

    fn begin(&self, kind: SpanKind, name: impl FnOnce() -> Cow<'static, str>) -> Span {
        let Some(tracer) = &self.tracer else { return Span(None) };
        let parent = match &self.context {
            Some(context) => Context::new().with_remote_span_context(context.clone()),
            None => Context::new(),
        };
        let builder = tracer.span_builder(name()).with_kind(kind);
        Span(Some(Box::new(tracer.build_with_context(builder, &parent))))
    }
}

/// One span, which ends when it is dropped. Nothing, while traces are off.
#[derive(Debug, Default)]
pub(crate) struct Span(Option<Box<SdkSpan>>);

impl Span {
    /// Sets an attribute.
    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(name, value));
        }
    }

    /// Sets an attribute to a text that is copied only where it is recorded.
    pub(crate) fn text(&mut self, name: &'static str, text: &str) {
        if let Some(span) = &mut self.0
            && span.is_recording()
        {
            span.set_attribute(KeyValue::new(name, text.to_owned()));
        }
    }

    /// Sets an attribute to a count.
    pub(crate) fn count(&mut self, name: &'static str, count: impl TryInto<i64>) {
        self.set(name, count.try_into().unwrap_or(i64::MAX));
    }

    /// Notes which object it is about.
    /// Source of the names: <https://opentelemetry.io/docs/specs/semconv/object-stores/s3/>
    pub(crate) fn object(&mut self, bucket: &str, key: &str) {
        self.text("aws.s3.bucket", bucket);
        self.text("aws.s3.key", key);
    }

    /// Notes that it failed. `kind` is one of few words.
    pub(crate) fn failed(&mut self, kind: &'static str, detail: &str) {
        if let Some(span) = &mut self.0
            && span.is_recording()
        {
            span.set_attribute(KeyValue::new("error.type", kind));
            span.set_status(Status::error(detail.to_owned()));
        }
    }

    /// Notes whether it failed.
    pub(crate) fn note<T>(&mut self, result: Result<T, Failure>) -> Result<T, Failure> {
        if let Err(failure) = &result {
            self.failed(failure.reason.into_str(), &failure.detail);
        }
        result
    }
}
