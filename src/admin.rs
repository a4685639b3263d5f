//! The admin server: `/livez`, `/readyz`, `/metrics`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::config::{ADMIN_PORT, AdminAddress};
use crate::health::Health;
use crate::metrics::Metrics;

/// Connections open at once. Probes and scrapes need a handful; scans need the file descriptors.
const MAX_CONNECTIONS: usize = 64;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// Time to send the request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the whole connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Listens at `address`. The unspecified IPv6 address accepts IPv4 too, even where the host sets
/// `net.ipv6.bindv6only`.
///
/// # Errors
/// When the address cannot be used. [`AdminAddress::Everywhere`] is IPv4 alone on a host without
/// IPv6, and an error only when that cannot be used either.
pub(crate) fn listen(address: AdminAddress) -> io::Result<TcpListener> {
    match address {
        AdminAddress::At(address) => bind(address),
        AdminAddress::Everywhere => match bind((Ipv6Addr::UNSPECIFIED, ADMIN_PORT).into()) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                bind((Ipv4Addr::UNSPECIFIED, ADMIN_PORT).into())
            }
            listener => listener,
        },
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    }
    // Without it, a restart could not bind while old connections are in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop` is cancelled, one answer per connection.
///
/// A connection that sends no request is closed after [`HEADER_TIMEOUT`], so a bare TCP connect
/// works as a probe. Beyond [`MAX_CONNECTIONS`] the oldest is closed, so idle ones block no probe.
pub(crate) async fn serve(
    listener: TcpListener,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    // Oldest first.
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            // Most likely out of file descriptors: accepting again at once would spin.
            tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            continue;
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= MAX_CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        let (health, metrics) = (Arc::clone(&health), Arc::clone(&metrics));
        let serving = tokio::spawn(async move {
            let service = service_fn(move |request| {
                let reply = answer(&request, &health, &metrics);
                async move { Ok::<_, Infallible>(reply) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // A client that hangs up early is not an error here.
            drop(tokio::time::timeout(CONNECTION_TIMEOUT, connection).await);
        });
        open.push_back(serving.abort_handle());
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

    #[tokio::test]
    async fn the_unspecified_address_takes_ipv4_too() {
        let listener = listen(AdminAddress::At("[::]:0".parse().unwrap())).unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "::1"] {
            tokio::net::TcpStream::connect((host, port)).await.unwrap();
        }
        // An IPv4 address stays IPv4.
        let listener = listen(AdminAddress::At("127.0.0.1:0".parse().unwrap())).unwrap();
        assert!(listener.local_addr().unwrap().is_ipv4());
    }

    #[test]
    fn only_reading_is_allowed() {
        let request = Request::post("/livez").body(()).unwrap();
        let reply = answer(&request, &Health::default(), &Metrics::default());
        assert_eq!(reply.status(), StatusCode::METHOD_NOT_ALLOWED);
    }
}
