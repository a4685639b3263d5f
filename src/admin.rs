//! The admin server: `/livez`, `/readyz`, `/metrics`. Beside it, at an address of its own, the status
//! page: `status` serves it, `view` makes it.

pub(crate) mod status;
mod view;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) use self::view::Shown;
use crate::config::{ADMIN_PORT, AdminAddress};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::server::{self, Limits, Peer};

/// Probes and scrapes need a handful of connections; scans need the file descriptors. One answer for
/// each connection, so that idle ones block no probe.
const LIMITS: Limits = Limits {
    connections: 64,
    headers: Duration::from_secs(5),
    connection: Some(Duration::from_secs(10)),
    drain: Duration::ZERO,
};

/// With every answer, also those that say no: a browser keeps nothing of it, loads and runs nothing for
/// it, and shows it in no frame.
const SECURITY_HEADERS: [(&str, &str); 4] = [
    ("cache-control", "no-store"),
    (
        "content-security-policy",
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
    ),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
];

/// Listens at `address`.
///
/// # Errors
/// When the address cannot be used. [`AdminAddress::Everywhere`] is IPv4 alone on a host without
/// IPv6, and an error only when that cannot be used either.
pub(crate) fn listen(address: AdminAddress) -> io::Result<TcpListener> {
    match address {
        AdminAddress::At(address) => server::listen(address),
        AdminAddress::Everywhere => server::listen_everywhere(ADMIN_PORT),
    }
}

/// Serves until `stop` is cancelled.
pub(crate) async fn serve(
    listener: TcpListener,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let handle = move |request: Request<Incoming>, _: Peer| {
        let answer = answer(&request, &health, &metrics);
        async move { answer }
    };
    server::serve(listener, LIMITS, None, handle, || {}, stop).await;
}

fn answer<B>(request: &Request<B>, health: &Health, metrics: &Metrics) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
    }
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "alive\n"),
        "/readyz" => {
            let readiness = health.readiness();
            let status =
                if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            match serde_json::to_string_pretty(&readiness) {
                Ok(body) => reply(status, "application/json", body + "\n"),
                Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "not representable\n"),
            }
        }
        "/metrics" => match metrics.render(health) {
            Ok(body) => {
                let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                reply(StatusCode::OK, format, body)
            }
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "not representable\n"),
        },
        _ => text(StatusCode::NOT_FOUND, "/livez, /readyz or /metrics\n"),
    }
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    reply(status, "text/plain; charset=utf-8", body.to_owned())
}

fn reply(status: StatusCode, format: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format));
    for (name, value) in SECURITY_HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Part;

    fn get(path: &str, health: &Health) -> Response<Full<Bytes>> {
        answer(&Request::get(path).body(()).unwrap(), health, &Metrics::default())
    }

    #[test]
    fn readyz_tells_what_is_missing_and_turns_200() {
        let health = Health::default();
        assert_eq!(get("/readyz", &health).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(get("/livez", &health).status(), StatusCode::OK);
        for part in [Part::Broker, Part::Store, Part::Engine] {
            health.up(part);
        }
        assert_eq!(get("/readyz", &health).status(), StatusCode::OK);
        assert_eq!(get("/nope", &health).status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn only_reading_is_allowed() {
        let request = Request::post("/livez").body(()).unwrap();
        let reply = answer(&request, &Health::default(), &Metrics::default());
        assert_eq!(reply.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(reply.headers()["x-content-type-options"], "nosniff");
    }
}
