//! The one recipe for HTTP clients, and the timeouts that the store's transport shares with it.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder, redirect};

use crate::tls::Trust;

/// Time to connect; in reqwest with the TLS handshake. A peer that is up answers within
/// milliseconds.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an unused connection is kept. Shorter than the idle timeout of common servers, so that
/// a kept connection is rarely found closed.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// When a silent connection is probed. A peer that vanished without closing is noticed.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// Whether a client obeys the proxy variables of the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proxy {
    /// For peers inside the deployment.
    Never,
    /// For the webhook, which may be anywhere.
    FromEnvironment,
}

/// Builds a client: certificates are verified against the platform's authorities and `trust`,
/// redirects are not followed (a redirected POST is not delivered), idle connections are kept.
/// Timeouts of whole requests are the caller's.
///
/// # Errors
/// When the TLS backend cannot be set up.
pub(crate) fn client(trust: &Trust, proxy: Proxy) -> reqwest::Result<Client> {
    let mut builder = recipe();
    let authorities: reqwest::Result<Vec<_>> =
        trust.authorities().iter().map(|der| Certificate::from_der(der)).collect();
    builder = builder.tls_certs_merge(authorities?);
    if proxy == Proxy::Never {
        builder = builder.no_proxy();
    }
    builder.build()
}

/// Builds a client for plain HTTP on this host. A URL's host `name` means the first of `addresses`
/// that takes a connection. No proxy is used, and no authorities are loaded: the platform may have
/// none.
///
/// # Errors
/// When the TLS backend cannot be set up.
pub(crate) fn local_client(name: &str, addresses: &[SocketAddr]) -> reqwest::Result<Client> {
    recipe().no_proxy().tls_certs_only([]).resolve_to_addrs(name, addresses).build()
}

#[expect(clippy::disallowed_methods, reason = "the one place")]
fn recipe() -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("bucket-av-scanner/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_keepalive(KEEPALIVE_INTERVAL)
        .pool_idle_timeout(IDLE_TIMEOUT)
}
