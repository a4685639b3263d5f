//! Connects to clamd by TCP, trying several addresses.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustix::net::sockopt;
use tokio::net::TcpStream;

/// RFC 8305 section 8: the recommended Connection Attempt Delay.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Idle time before TCP keepalive probes. A scan may be silent for minutes, and a load balancer or
/// firewall may drop the connection silently.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// Time between keepalive probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Unanswered probes until the connection counts as lost.
const KEEPALIVE_PROBES: u32 = 3;

/// Connects to the first address of `host` that answers.
///
/// # Errors
/// When the name has no address, or no address takes a connection. The caller sets the deadline.
pub(super) async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses = tokio::net::lookup_host((host, port)).await?.collect();
    let stream = first(interleaved(addresses), TcpStream::connect).await?;
    // Chunks are written whole, so Nagle's algorithm would only delay the last one.
    stream.set_nodelay(true)?;
    // A host without keepalive can still scan.
    if let Err(error) = keep_alive(&stream) {
        tracing::debug!(%error, "no TCP keepalive towards clamd");
    }
    Ok(stream)
}

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(())
}

/// Orders addresses as the resolver did, alternating between IPv6 and IPv4 (RFC 8305 section 4), so
/// that a family without a route does not use up the deadline.
fn interleaved(addresses: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let preferred = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (ours, theirs): (VecDeque<_>, VecDeque<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == preferred);
    let mut queues = [ours, theirs];
    let mut order = VecDeque::new();
    while queues.iter().any(|queue| !queue.is_empty()) {
        order.extend(queues.iter_mut().filter_map(VecDeque::pop_front));
    }
    order
}

/// The first connection that succeeds. The next address is tried when the earlier ones failed or
/// did not answer within [`ATTEMPT_DELAY`]; those keep running (RFC 8305 section 5).
async fn first<T, F: Future<Output = io::Result<T>>>(
    mut addresses: VecDeque<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T> {
    let mut running = FuturesUnordered::new();
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        running.extend(addresses.pop_front().map(&connect));
        tokio::select! {
            answer = running.next() => match answer {
                Some(Ok(connection)) => return Ok(connection),
                Some(Err(error)) => failed = error,
                None => return Err(failed),
            },
            () = tokio::time::sleep(ATTEMPT_DELAY), if !addresses.is_empty() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn addresses(list: &[&str]) -> VecDeque<SocketAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns_in_the_resolvers_order() {
        let resolved =
            addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "10.0.0.1:1", "10.0.0.2:1"]).into();
        let order = addresses(&["[::1]:1", "10.0.0.1:1", "[::2]:1", "10.0.0.2:1", "[::3]:1"]);
        assert_eq!(interleaved(resolved), order);
        assert!(interleaved(Vec::new()).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_delays_the_next_by_a_quarter_of_a_second() {
        let started = Instant::now();
        let connect = |address: SocketAddr| async move {
            if address.is_ipv6() {
                std::future::pending::<()>().await;
            }
            Ok(address)
        };
        let all = addresses(&["[::1]:1", "[::2]:1", "10.0.0.1:1"]);
        assert_eq!(first(all, connect).await.unwrap(), "10.0.0.1:1".parse().unwrap());
        assert_eq!(started.elapsed(), ATTEMPT_DELAY * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_refuses_costs_no_time_and_a_slow_one_may_still_win() {
        let started = Instant::now();
        let connect = |address: SocketAddr| async move {
            match address.port() {
                1 => Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
                2 => {
                    tokio::time::sleep(Duration::from_millis(400)).await;
                    Ok(address.port())
                }
                _ => std::future::pending().await,
            }
        };
        let all = addresses(&["10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3"]);
        assert_eq!(first(all, connect).await.unwrap(), 2);
        assert_eq!(started.elapsed(), Duration::from_millis(400));
    }

    #[tokio::test]
    async fn without_an_address_that_takes_it_the_last_refusal_is_told() {
        let refuse = |_: SocketAddr| async {
            Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionRefused))
        };
        let refused = first(addresses(&["10.0.0.1:1", "10.0.0.2:1"]), refuse).await;
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let nothing = first(VecDeque::new(), refuse).await;
        assert_eq!(nothing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_connection_notices_that_it_was_dropped() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = tcp("localhost", listener.local_addr().unwrap().port()).await.unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), KEEPALIVE_IDLE);
        assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), KEEPALIVE_INTERVAL);
        assert!(stream.nodelay().unwrap());
    }
}
