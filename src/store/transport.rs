//! The HTTP client for the SDK.
//!
//! The SDK's own client lets the read buffer of each connection grow to 400 KiB, without a setting
//! to change that. With many large objects at once these buffers would be most of the daemon's
//! memory.
//!
//! An answer contains what the uploader stored: metadata and headers in any number and in any
//! bytes. A scan needs none of it, and the SDK fails or panics on some of it. So only the headers
//! that are used reach the SDK.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::connection::{CaptureSmithyConnection, ConnectionMetadata};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::date_time::{DateTime, Format};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, http};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{self, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;

use crate::failure::chain;
use crate::http::{CONNECT_TIMEOUT, IDLE_TIMEOUT, KEEPALIVE_INTERVAL};
use crate::tls::Trust;

/// Longest duration of one try of a request, without the body of the answer.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(25);
/// Longest wait for the headers of an answer, connecting included.
const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// About the largest read buffer of a connection, in bytes. The headers of nearly all answers fit.
const BUFFER_SIZE: usize = 64 * 1024;
/// The same for an answer whose headers do not fit.
const LARGE_BUFFER_SIZE: usize = 4 * 1024 * 1024;
/// The most headers of such an answer. A header map cannot hold more than 24,576.
const MAX_HEADERS: usize = 20_000;

// The SDK fails on a date that is none.
const RETAIN_UNTIL: &str = "x-amz-object-lock-retain-until-date";
const LAST_MODIFIED: &str = "last-modified";
const TAG_COUNT: &str = "x-amz-tagging-count";
const LEGAL_HOLD: &str = "x-amz-object-lock-legal-hold";
const LOCK_MODE: &str = "x-amz-object-lock-mode";

/// The headers of an answer that are used: by this room, and by the SDK for its errors, its clock
/// and its retries. All others come from the uploader.
const KEPT_HEADERS: &[&str] = &[
    "connection",
    "content-length",
    "content-range",
    "date",
    "etag",
    LAST_MODIFIED,
    "location",
    "transfer-encoding",
    "x-amz-bucket-region",
    "x-amz-delete-marker",
    "x-amz-id-2",
    LEGAL_HOLD,
    LOCK_MODE,
    RETAIN_UNTIL,
    "x-amz-request-id",
    "x-amz-retry-after",
    "x-amz-version-id",
];

/// HTTP/1.1 over connections that are kept, with TLS or without.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    client: Http,
    /// For answers whose headers are too large for the other one.
    roomy: Http,
    proxy_variable: Option<&'static str>,
}

/// Asks for an answer's headers as they are, uploader's included: they are put here.
#[derive(Debug, Clone)]
pub(super) struct AllHeaders(pub(super) Arc<Mutex<Option<HeaderMap>>>);

/// How long this request waits for the headers of its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience(pub(super) Duration);

/// Gives a request something that is meant for this client.
#[derive(Debug)]
pub(super) struct With<T>(pub(super) T);

impl<T: fmt::Debug + Clone + Send + Sync + 'static> Intercept for With<T> {
    fn name(&self) -> &'static str {
        "With"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        context.request_mut().add_extension(self.0.clone());
        Ok(())
    }
}

type Http = legacy::Client<HttpsConnector<connect::HttpConnector>, SdkBody>;

impl Transport {
    /// Trusts `trust` besides the platform's authorities, and ignores the proxy variables, which
    /// are meant for the webhook; a failure to connect says so of `proxy_variable`.
    ///
    /// # Errors
    /// When the TLS backend cannot be set up.
    pub(super) fn new(trust: &Trust, proxy_variable: Option<&'static str>) -> Result<Self, String> {
        let tls = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("the TLS settings cannot be used: {error}"))?
            .with_root_certificates(trust.with_platform())
            .with_no_client_auth();
        let mut tcp = connect::HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE_INTERVAL));
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .http1_ignore_invalid_headers_in_responses(true)
            .http1_max_buf_size(BUFFER_SIZE);
        let client = builder.build(connector.clone());
        let roomy = builder
            .pool_max_idle_per_host(0)
            .http1_max_buf_size(LARGE_BUFFER_SIZE)
            .http1_max_headers(MAX_HEADERS)
            .build(connector);
        Ok(Self { client, roomy, proxy_variable })
    }

    /// Sends a request. A GET or HEAD is repeated with a larger buffer if the headers of the answer
    /// do not fit.
    async fn send(
        &self,
        request: http::Request<SdkBody>,
    ) -> Result<http::Response<Incoming>, legacy::Error> {
        let again = matches!(*request.method(), Method::GET | Method::HEAD).then(|| copy(&request));
        match (self.client.request(request).await, again) {
            (Err(error), Some(again)) if is_too_large(&error) => self.roomy.request(again).await,
            (answer, _) => answer,
        }
    }
}

/// A copy of a request without a body.
fn copy(request: &http::Request<SdkBody>) -> http::Request<SdkBody> {
    let mut copy = http::Request::new(SdkBody::empty());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy
}

fn is_too_large(error: &legacy::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<hyper::Error>());
    cause.is_some_and(hyper::Error::is_parse_too_large)
}

/// Removes the headers that are not used, and those that the SDK would misread.
fn without_uploader_headers<B>(mut answer: http::Response<B>) -> http::Response<B> {
    let mut used = HeaderMap::new();
    for name in KEPT_HEADERS {
        // A store sends these once. If there are two, the uploader stored one.
        let once = matches!(*name, RETAIN_UNTIL | LAST_MODIFIED | LOCK_MODE | LEGAL_HOLD);
        if once && answer.headers().get_all(*name).iter().count() > 1 {
            continue;
        }
        for value in answer.headers().get_all(*name) {
            let is_usable = |text| match *name {
                RETAIN_UNTIL => DateTime::from_str(text, Format::DateTime).is_ok(),
                LAST_MODIFIED => DateTime::from_str(text, Format::HttpDate).is_ok(),
                _ => true,
            };
            if value.to_str().is_ok_and(is_usable) {
                used.append(HeaderName::from_static(name), value.clone());
            }
        }
    }
    if let Some(count) = tag_count(answer.headers()) {
        used.insert(TAG_COUNT, count);
    }
    *answer.headers_mut() = used;
    answer
}

/// The number of tags. Only its absence is ever relied on, so what the SDK could not read, or what stands
/// there twice because the uploader stored one, must not be left out: it becomes a number that no object has.
fn tag_count(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut all = headers.get_all(TAG_COUNT).iter();
    let count = all.next()?;
    let is_number = count.to_str().is_ok_and(|text| text.parse::<i32>().is_ok());
    if is_number && all.next().is_none() {
        return Some(count.clone());
    }
    Some(HeaderValue::from_static("-1"))
}

impl HttpClient for Transport {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Transport {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let mut request = match request.try_into_http1x() {
            Ok(request) => request,
            Err(error) => {
                return HttpConnectorFuture::ready(Err(ConnectorError::user(error.into())));
            }
        };
        // The SDK uses this to close a connection after an error.
        let connection = capture_connection(&mut request);
        if let Some(capture) = request.extensions().get::<CaptureSmithyConnection>() {
            capture.set_connection_retriever(move || {
                let poisoned = connection.clone();
                connection.connection_metadata().as_ref()?;
                let poison = move || {
                    if let Some(connection) = poisoned.connection_metadata().as_ref() {
                        connection.poison();
                    }
                };
                Some(ConnectionMetadata::builder().proxied(false).poison_fn(poison).build())
            });
        }
        let patience = request.extensions().get::<Patience>().map_or(READ_TIMEOUT, |wait| wait.0);
        let wanted = request.extensions().get::<AllHeaders>().cloned();
        let transport = self.clone();
        HttpConnectorFuture::new(async move {
            match tokio::time::timeout(patience, transport.send(request)).await {
                Ok(Ok(answer)) => {
                    if let Some(AllHeaders(all)) = wanted {
                        let all = &mut *all.lock().unwrap_or_else(PoisonError::into_inner);
                        *all = Some(answer.headers().clone());
                    }
                    let answer = without_uploader_headers(answer).map(SdkBody::from_body_1_x);
                    HttpResponse::try_from(answer)
                        .map_err(|error| ConnectorError::other(error.into(), None))
                }
                Ok(Err(error)) => Err(unanswered(error, transport.proxy_variable)),
                Err(late) => Err(ConnectorError::timeout(late.into())),
            }
        })
    }
}

/// An error that the SDK may retry, unless the request itself is at fault.
fn unanswered(error: legacy::Error, proxy_variable: Option<&'static str>) -> ConnectorError {
    let is_user = |cause: &(dyn Error + 'static)| {
        cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_user)
    };
    if chain(&error).any(is_user) {
        return ConnectorError::user(error.into());
    }
    match proxy_variable {
        Some(variable) if error.is_connect() => {
            ConnectorError::io(Box::new(NoProxy { variable, error }))
        }
        _ => ConnectorError::io(error.into()),
    }
}

/// The store was not reached, and a proxy is configured that the operator may have meant for it.
#[derive(Debug, thiserror::Error)]
#[error("{variable} is set, but the store is reached without a proxy")]
struct NoProxy {
    variable: &'static str,
    #[source]
    error: legacy::Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of the number of tags in an answer with these.
    fn counted(counts: &[&str]) -> Option<String> {
        let mut answer = http::Response::new(());
        for count in counts {
            answer
                .headers_mut()
                .append(TAG_COUNT, HeaderValue::from_bytes(count.as_bytes()).unwrap());
        }
        let kept = without_uploader_headers(answer);
        let all: Vec<_> = kept.headers().get_all(TAG_COUNT).iter().collect();
        assert!(all.len() <= 1);
        all.first().map(|count| count.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_number_of_tags_is_never_lost() {
        assert_eq!(counted(&[]), None);
        assert_eq!(counted(&["2"]).unwrap(), "2");
        for odd in [&["many"][..], &[""], &["99999999999"], &["\u{e9}"], &["2", "2"], &["0", "x"]] {
            assert_eq!(counted(odd).unwrap(), "-1", "{odd:?}");
        }
    }
}
