//! The status page: what this replica does, for people, read only.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, HOST, HeaderValue};
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
    if !paused {
        answer.headers_mut().insert("refresh", HeaderValue::from_static(REFRESH));
    }
    answer
}

/// Whether a `Host` header is an address, or the name that every host has for itself, with a port or
/// without.
fn names_this_host(host: &HeaderValue) -> bool {
    let Ok(host) = host.to_str() else { return false };
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) => name,
        _ => host,
    };
    match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(name) => name.parse::<Ipv6Addr>().is_ok(),
        None => name.eq_ignore_ascii_case("localhost") || name.parse::<Ipv4Addr>().is_ok(),
    }
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
        for host in
            ["localhost:8081", "LOCALHOST", "127.0.0.1:8081", "127.0.0.1", "[::1]:8081", "[::1]"]
        {
            assert_eq!(get("/", host).status(), StatusCode::OK, "{host}");
        }
        for host in [
            "evil.example:8081",
            "localhost.evil.example",
            "user@localhost",
            "localhost:8081x",
            "localhost:+80",
            "localhost:",
            "[localhost]",
            "[127.0.0.1",
            "::1",
            "",
        ] {
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
    fn nothing_is_loaded_run_kept_or_framed_whatever_the_answer() {
        let post = Request::post("/").header(HOST, "localhost").body(()).unwrap();
        for (status, answer) in [
            (StatusCode::OK, get("/", "localhost")),
            (StatusCode::NOT_FOUND, get("/other", "localhost")),
            (StatusCode::MISDIRECTED_REQUEST, get("/", "evil.example")),
            (StatusCode::METHOD_NOT_ALLOWED, answer(&post, &Shown::default(), true)),
        ] {
            assert_eq!(answer.status(), status);
            let header = |name: &str| answer.headers()[name].to_str().unwrap();
            let policy = header("content-security-policy");
            assert!(policy.starts_with("default-src 'none'"), "{policy}");
            assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
            assert_eq!(header("cache-control"), "no-store");
            assert_eq!(header("referrer-policy"), "no-referrer");
            assert_eq!(header("x-content-type-options"), "nosniff");
        }
    }
}
