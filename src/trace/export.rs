//! Sends spans to the collector, in batches, by OTLP over HTTP.
//!
//! Spans wait in a queue with a limit; one more is dropped. So a collector that is down or slow costs
//! spans, and neither time nor memory. Nothing is sent twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use opentelemetry::Context;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use prost::Message;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Client, StatusCode};
use secrecy::ExposeSecret;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::config::{TraceSettings, header_list};
use crate::failure::causes;
use crate::http;
use crate::tls::Trust;

/// Spans that wait. With the longest names of objects they take some 5 MiB.
const MAX_WAITING: usize = 2048;
/// Spans of one request.
const MAX_BATCH: usize = 512;
/// A batch that is not full waits for more.
const BATCH_DELAY: Duration = Duration::from_secs(2);
/// For one request, with its answer.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Of an answer that is read, so that its connection can be kept.
const MAX_ANSWER: usize = 64 << 10;
/// Between two warnings.
const WARNING_INTERVAL: Duration = Duration::from_mins(1);

/// Where spans go when they end.
#[derive(Debug)]
pub(super) struct Outlet {
    spans: mpsc::Sender<SpanData>,
    /// A batch is full.
    full: Arc<Notify>,
    dropped: Arc<AtomicU64>,
}

/// Sends them on.
pub(super) struct Exporter {
    spans: mpsc::Receiver<SpanData>,
    full: Arc<Notify>,
    dropped: Arc<AtomicU64>,
    client: Client,
    settings: TraceSettings,
    resource: ResourceAttributesWithSchema,
    /// Spans that were lost since the last warning.
    lost: u64,
    warned: Option<Instant>,
}

/// The two ends of the queue.
///
/// # Errors
/// When the HTTP client cannot be set up.
pub(super) fn queue(
    settings: &TraceSettings,
    resource: &Resource,
    trust: &Trust,
) -> Result<(Outlet, Exporter), String> {
    let client = http::client(trust, http::Proxy::FromEnvironment).map_err(|e| causes(&e))?;
    let (sender, spans) = mpsc::channel(MAX_WAITING);
    let (full, dropped) = (Arc::<Notify>::default(), Arc::<AtomicU64>::default());
    let outlet = Outlet { spans: sender, full: Arc::clone(&full), dropped: Arc::clone(&dropped) };
    let (settings, resource) = (settings.clone(), resource.into());
    let (lost, warned) = (0, None);
    let exporter = Exporter { spans, full, dropped, client, settings, resource, lost, warned };
    Ok((outlet, exporter))
}

impl SpanProcessor for Outlet {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if self.spans.capacity() <= MAX_WAITING - MAX_BATCH {
            self.full.notify_one();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Exporter {
    /// Sends until `stop` is cancelled, and then what waits.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let first = tokio::select! {
                biased;
                first = self.spans.recv() => first,
                () = stop.cancelled() => None,
            };
            let Some(first) = first else { return };
            if self.spans.len() < MAX_BATCH {
                tokio::select! {
                    () = tokio::time::sleep(BATCH_DELAY) => {}
                    () = self.full.notified() => {}
                    () = stop.cancelled() => {}
                }
            }
            let mut batch = vec![first];
            while batch.len() < MAX_BATCH
                && let Ok(span) = self.spans.try_recv()
            {
                batch.push(span);
            }
            let count = batch.len() as u64;
            let sent = self.send(batch).await;
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                self.lose(dropped, "more than can wait");
            }
            if let Err(why) = sent {
                self.lose(count, &why);
            }
        }
    }

    async fn send(&self, batch: Vec<SpanData>) -> Result<(), String> {
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        let secret = self.settings.headers.as_ref().map(|headers| (headers, headers.held()));
        let mut headers = secret
            .as_ref()
            .and_then(|(_, held)| header_list(held.expose_secret()))
            .unwrap_or_default();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let request =
            self.client.post(self.settings.url.clone()).timeout(EXPORT_TIMEOUT).headers(headers);
        let answer = request.body(body).send().await;
        let mut answer = answer.map_err(|error| causes(&error.without_url()))?;
        let status = answer.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            && let Some((headers, held)) = secret
        {
            // The next batch goes with what the file has now.
            headers.replaced_after(&held);
        }
        let mut left = MAX_ANSWER;
        while let Ok(Some(chunk)) = answer.chunk().await {
            match left.checked_sub(chunk.len()) {
                Some(rest) => left = rest,
                None => break,
            }
        }
        if status.is_success() { Ok(()) } else { Err(format!("HTTP {}", status.as_u16())) }
    }

    /// Counts spans that were lost. Warns now and then.
    fn lose(&mut self, spans: u64, why: &str) {
        self.lost += spans;
        if self.warned.is_some_and(|at| at.elapsed() < WARNING_INTERVAL) {
            return;
        }
        tracing::warn!(
            spans = self.lost,
            "spans were dropped, scans go on ({why}): look at OTEL_EXPORTER_OTLP_ENDPOINT, which takes \
             OTLP over HTTP, usually at port 4318"
        );
        self.warned = Some(Instant::now());
        self.lost = 0;
    }
}
