//! The admin server: `/livez`, `/readyz`, `/metrics`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::health::Health;
use crate::metrics::Metrics;

/// Connections served at once: probes and scrapes need a handful, and file descriptors are needed
/// for scans.
const MAX_CONNECTIONS: usize = 64;

/// Serves until `stop` is cancelled. Connections that send no request are dropped after a while, so
/// that a bare TCP connect works as a probe and costs nothing.
pub async fn serve(
    listener: TcpListener,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, most likely: asking again at once would spin.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let (health, metrics) = (Arc::clone(&health), Arc::clone(&metrics));
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let reply = answer(&request, &health, &metrics);
                async move { Ok::<_, Infallible>(reply) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(5))
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // A client that hangs up in the middle is no fault of ours.
            drop(tokio::time::timeout(Duration::from_secs(10), connection).await);
            drop(permit);
        });
    }
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
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(format));
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
    }
}
