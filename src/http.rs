//! The one recipe for HTTP clients of the scanner and the webhook.

use std::time::Duration;

use reqwest::{Certificate, Client, redirect};

/// Whether a client obeys the proxy variables of the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proxy {
    /// For peers inside the deployment.
    Never,
    /// For the webhook, which may be anywhere.
    FromEnvironment,
}

/// Builds a client: certificates are verified against the platform's authorities and `ca`,
/// redirects are not followed (a POST that is redirected is not delivered), idle connections are
/// kept alive. Timeouts of whole requests are the caller's.
///
/// # Errors
/// When the TLS backend cannot be set up.
pub(crate) fn client(ca: Option<&[u8]>, proxy: Proxy) -> reqwest::Result<Client> {
    let mut builder = Client::builder()
        .user_agent(concat!("bucket-av-scanner/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .connect_timeout(Duration::from_secs(5))
        .tcp_keepalive(Duration::from_secs(30))
        // Shorter than the idle timeout of common servers, so that a kept connection is rarely
        // found closed.
        .pool_idle_timeout(Duration::from_secs(20));
    if let Some(pem) = ca {
        builder = builder.tls_certs_merge(Certificate::from_pem_bundle(pem)?);
    }
    if proxy == Proxy::Never {
        builder = builder.no_proxy();
    }
    builder.build()
}
