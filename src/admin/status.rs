//! The status page: what this replica does, for people, read only.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, HOST, HeaderName, HeaderValue};
use hyper::http::uri::Authority;
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::view::{self, Shown};
use super::{reply, text};
use crate::server::{self, Limits, Peer};

/// A few people look at it. Each answer closes its connection.
const LIMITS: Limits = Limits {
    connections: 16,
    headers: Duration::from_secs(5),
    connection: Some(Duration::from_secs(10)),
    drain: Duration::ZERO,
};
/// The query that keeps the page from being loaded again.
const PAUSED: &str = "refresh=off";
/// Seconds until the page is loaded again. In a header, as the page works without scripts; its first
/// link stops it.
const REFRESH: &str = "10";
/// It loads nothing, runs nothing, sends nothing and is shown in no frame.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// Listens at `address`.
///
/// # Errors
/// When the address cannot be used.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    server::listen(address)
}

/// Serves the page until `stop` is cancelled.
pub(crate) async fn serve(listener: TcpListener, shown: Shown, stop: CancellationToken) {
    let local =
        listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
    let shown = Arc::new(shown);
    let handle = move |request: Request<Incoming>, _: Peer| {
        let answer = answer(&request, &shown, local);
        async move { answer }
    };
    server::serve(listener, LIMITS, None, handle, || {}, stop).await;
}

/// `local`: only this host can reach the page.
fn answer<B>(request: &Request<B>, shown: &Shown, local: bool) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    // A page from elsewhere in a browser on this host could have its name mean this address, and read
    // along.
    if local && !request.headers().get(HOST).is_some_and(names_this_host) {
        let what = "the status page is for this host: open it as localhost or by its address\n";
        return text(StatusCode::MISDIRECTED_REQUEST, what);
    }
    if request.uri().path() != "/" {
        return text(StatusCode::NOT_FOUND, "the status page is at /\n");
    }
    let paused = request.uri().query() == Some(PAUSED);
    let mut answer = match view::html(shown, paused) {
        Ok(page) => reply(StatusCode::OK, "text/html; charset=utf-8", page),
        Err(error) => {
            tracing::error!(%error, "the status page cannot be made");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the page cannot be made, see the log\n")
        }
    };
    let headers = answer.headers_mut();
    for (name, value) in [
        ("cache-control", "no-store"),
        ("content-security-policy", POLICY),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    if !paused {
        headers.insert(HeaderName::from_static("refresh"), HeaderValue::from_static(REFRESH));
    }
    answer
}

/// Whether a `Host` header holds an address, or the name that every host has for itself.
fn names_this_host(host: &HeaderValue) -> bool {
    let authority = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    authority.is_some_and(|authority| {
        let name = authority.host().trim_start_matches('[').trim_end_matches(']');
        name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, host: &str) -> Response<Full<Bytes>> {
        let request = Request::get(path).header(HOST, host).body(()).unwrap();
        answer(&request, &Shown::default(), true)
    }

    #[test]
    fn a_local_page_answers_to_this_host_alone() {
        for host in ["localhost:8081", "LOCALHOST", "127.0.0.1:8081", "[::1]:8081"] {
            assert_eq!(get("/", host).status(), StatusCode::OK, "{host}");
        }
        for host in ["evil.example:8081", "localhost.evil.example", ""] {
            assert_eq!(get("/", host).status(), StatusCode::MISDIRECTED_REQUEST, "{host}");
        }
        let request = Request::get("/").body(()).unwrap();
        let local = answer(&request, &Shown::default(), true);
        assert_eq!(local.status(), StatusCode::MISDIRECTED_REQUEST);
        assert_eq!(answer(&request, &Shown::default(), false).status(), StatusCode::OK);
    }

    #[test]
    fn it_is_loaded_again_unless_that_is_stopped() {
        assert_eq!(get("/", "localhost").headers()["refresh"], REFRESH);
        assert!(!get("/?refresh=off", "localhost").headers().contains_key("refresh"));
        assert!(!get("/other", "localhost").headers().contains_key("refresh"));
        assert_eq!(get("/other", "localhost").status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn only_reading_is_allowed() {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::PATCH] {
            let request = Request::builder().method(method).header(HOST, "localhost");
            let answer = answer(&request.body(()).unwrap(), &Shown::default(), true);
            assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(answer.headers()[ALLOW], "GET, HEAD");
        }
    }

    #[test]
    fn nothing_is_loaded_run_kept_or_framed() {
        let answer = get("/", "localhost");
        let policy = answer.headers()["content-security-policy"].to_str().unwrap();
        assert!(
            policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'")
        );
        assert_eq!(answer.headers()["cache-control"], "no-store");
    }
}
