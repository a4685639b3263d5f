//! The HTTP/1.1 server under the admin server and the intake: bounded connections, slow peers cut,
//! TLS where it is wanted.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// Pause after a failed accept.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// What a peer may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections open at once. Beyond it the oldest that has not been [preferred](Peer::prefer) is
    /// closed for a new one; where all are preferred, the new one is.
    pub(crate) connections: usize,
    /// Time for the TLS handshake, and for the headers of a request. Between two requests it is the
    /// time that an idle connection is kept.
    pub(crate) headers: Duration,
    /// Time for a whole connection; `None` keeps it for further requests.
    pub(crate) connection: Option<Duration>,
    /// Time for running requests after the stop.
    pub(crate) drain: Duration,
}

/// The connection that a request came by.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer(Arc<AtomicBool>);

impl Peer {
    /// Keeps the connection open before others, when there are too many: its peer is known.
    pub(crate) fn prefer(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_preferred(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Listens at `address`. The unspecified IPv6 address accepts IPv4 too, even where the host sets
/// `net.ipv6.bindv6only`.
///
/// # Errors
/// When the address cannot be used.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    }
    // Without it, a restart could not bind while old connections are in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Listens at `port` of every address of the host; IPv4 alone on a host without IPv6.
///
/// # Errors
/// When the port cannot be used.
pub(crate) fn listen_everywhere(port: u16) -> io::Result<TcpListener> {
    match listen((Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            listen((Ipv4Addr::UNSPECIFIED, port).into())
        }
        listener => listener,
    }
}

/// Answers requests by `handle` until `stop` is cancelled. A connection that sends no request is
/// closed after [`Limits::headers`], so a bare TCP connect works as a probe. `crowded` is called for
/// each connection that is closed because there are too many.
pub(crate) async fn serve<H, A>(
    listener: TcpListener,
    limits: Limits,
    tls: Option<TlsAcceptor>,
    handle: H,
    crowded: impl Fn(),
    stop: CancellationToken,
) where
    H: Fn(Request<Incoming>, Peer) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    // Oldest first.
    let mut open: VecDeque<(Peer, AbortHandle)> = VecDeque::new();
    let running = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let Ok((stream, _)) = accepted else {
            // Most likely out of file descriptors: accepting again at once would spin.
            tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            continue;
        };
        open.retain(|(_, connection)| !connection.is_finished());
        if open.len() >= limits.connections {
            crowded();
            let oldest = open.iter().position(|(peer, _)| !peer.is_preferred());
            match oldest.and_then(|oldest| open.remove(oldest)) {
                Some((_, connection)) => connection.abort(),
                None => continue,
            }
        }
        let peer = Peer::default();
        let connection =
            connection(stream, limits, tls.clone(), handle.clone(), peer.clone(), stop.clone());
        let within = limits.connection.unwrap_or(Duration::MAX);
        let task =
            running.spawn(async move { drop(tokio::time::timeout(within, connection).await) });
        open.push_back((peer, task.abort_handle()));
    }
    drop(listener);
    running.close();
    drop(tokio::time::timeout(limits.drain, running.wait()).await);
}

async fn connection<H, A>(
    stream: TcpStream,
    limits: Limits,
    tls: Option<TlsAcceptor>,
    handle: H,
    peer: Peer,
    stop: CancellationToken,
) where
    H: Fn(Request<Incoming>, Peer) -> A,
    A: Future<Output = Response<Full<Bytes>>>,
{
    // An answer is one small segment, so Nagle's algorithm would only delay it.
    drop(stream.set_nodelay(true));
    match tls {
        None => converse(stream, limits, handle, peer, stop).await,
        Some(tls) => match tokio::time::timeout(limits.headers, tls.accept(stream)).await {
            Ok(Ok(stream)) => converse(stream, limits, handle, peer, stop).await,
            Ok(Err(error)) => tracing::debug!(%error, "no TLS handshake"),
            Err(_) => tracing::debug!("no TLS handshake in time"),
        },
    }
}

async fn converse<S, H, A>(
    stream: S,
    limits: Limits,
    handle: H,
    peer: Peer,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Request<Incoming>, Peer) -> A,
    A: Future<Output = Response<Full<Bytes>>>,
{
    let service = service_fn(|request| {
        let answer = handle(request, peer.clone());
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers)
        .keep_alive(limits.connection.is_none())
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // A peer that hangs up early is not an error here.
    tokio::select! {
        ended = connection.as_mut() => drop(ended),
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            drop(connection.await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_unspecified_address_takes_ipv4_too() {
        let listener = listen("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "::1"] {
            TcpStream::connect((host, port)).await.unwrap();
        }
        // An IPv4 address stays IPv4.
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        assert!(listener.local_addr().unwrap().is_ipv4());
    }
}
