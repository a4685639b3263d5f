//! What carries the requests of the SDK.
//!
//! The SDK's own client lets the read buffer of each connection grow to 400 KiB, and that cannot be
//! changed from outside. With many large objects at once these buffers would be most of the memory
//! that the daemon takes.

use std::error::Error;
use std::time::Duration;

use aws_smithy_runtime_api::client::connection::{CaptureSmithyConnection, ConnectionMetadata};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{self, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Until the headers of an answer are there, connecting included.
const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// Shorter than the idle timeout of common servers, so that a kept connection is rarely found
/// closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
const KEEPALIVE: Duration = Duration::from_secs(30);
/// About what a connection's read buffer grows to. The headers of an answer have to fit.
const BUFFER: usize = 64 * 1024;

/// HTTP/1.1 over connections that are kept, with TLS or without.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    client: legacy::Client<HttpsConnector<connect::HttpConnector>, SdkBody>,
    proxy_variable: Option<&'static str>,
}

impl Transport {
    /// Trusts `ca` (PEM) besides the platform's authorities, and ignores the proxy variables, which
    /// are meant for the webhook; a failure to connect says so of `proxy_variable`.
    ///
    /// # Errors
    /// When `ca` cannot be read.
    pub(super) fn new(
        ca: Option<&[u8]>,
        proxy_variable: Option<&'static str>,
    ) -> Result<Self, String> {
        let unusable = |error: &dyn Error| format!("the TLS settings cannot be used: {error}");
        let mut roots = RootCertStore::empty();
        // A platform without authorities, or with odd ones, is no fault where none are needed.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for certificate in CertificateDer::pem_slice_iter(ca.unwrap_or_default()) {
            let certificate = certificate.map_err(|error| unusable(&error))?;
            roots.add(certificate).map_err(|error| unusable(&error))?;
        }
        let tls = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = connect::HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .http1_max_buf_size(BUFFER)
            .build(connector);
        Ok(Self { client, proxy_variable })
    }
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
        // The SDK wants a connection that brought an error not to be used again.
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
        let answering = self.client.request(request);
        let proxy_variable = self.proxy_variable;
        HttpConnectorFuture::new(async move {
            match tokio::time::timeout(READ_TIMEOUT, answering).await {
                Ok(Ok(answer)) => HttpResponse::try_from(answer.map(SdkBody::from_body_1_x))
                    .map_err(|error| ConnectorError::other(error.into(), None)),
                Ok(Err(error)) => Err(unanswered(error, proxy_variable)),
                Err(late) => Err(ConnectorError::timeout(late.into())),
            }
        })
    }
}

/// Whatever is not the request's own fault may be tried again.
fn unanswered(error: legacy::Error, proxy_variable: Option<&'static str>) -> ConnectorError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(inner) = cause {
        if inner.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_user) {
            return ConnectorError::user(error.into());
        }
        cause = inner.source();
    }
    match proxy_variable {
        Some(variable) if error.is_connect() => {
            ConnectorError::io(Box::new(Direct { variable, error }))
        }
        _ => ConnectorError::io(error.into()),
    }
}

/// A store that was not reached, where a proxy may have been meant to reach it.
#[derive(Debug, thiserror::Error)]
#[error("{variable} is set, but the store is reached without a proxy")]
struct Direct {
    variable: &'static str,
    #[source]
    error: legacy::Error,
}
