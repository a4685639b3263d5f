//! A proxy for TCP connections that forwards, cuts or stalls them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::deliveries::{Deliveries, Handed, Look};
use crate::error::{Context, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    Refuse,
    Silent,
}

/// Forwards connections to one address; when dropped, stops and cuts them all.
pub struct TcpProxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    cuts: watch::Sender<u64>,
    deliveries: Option<Arc<Deliveries>>,
    accepting: AbortHandle,
}

impl TcpProxy {
    /// A proxy on a free port in front of `upstream` (`127.0.0.1:PORT`).
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(upstream: &str) -> Result<Self> {
        Self::listen(upstream, None).await
    }

    /// As [`TcpProxy::start`], in front of a broker: records the notifications that it delivers.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn to_broker(upstream: &str) -> Result<Self> {
        Self::listen(upstream, Some(Arc::default())).await
    }

    async fn listen(upstream: &str, deliveries: Option<Arc<Deliveries>>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("proxy")?;
        let address = listener.local_addr().context("proxy")?;
        let (mode, cuts) = (watch::Sender::new(Mode::Pass), watch::Sender::new(0));
        let way = Way {
            upstream: upstream.to_owned(),
            mode: mode.subscribe(),
            cuts: cuts.subscribe(),
            deliveries: deliveries.clone(),
        };
        let accepting = tokio::spawn(accept(listener, way)).abort_handle();
        Ok(Self { address, mode, cuts, deliveries, accepting })
    }

    /// The notifications that the broker behind it delivered so far; none when it is not in front
    /// of a broker.
    #[must_use]
    pub fn handed(&self) -> Vec<Handed> {
        self.deliveries.as_ref().map(|deliveries| deliveries.handed()).unwrap_or_default()
    }

    /// Forgets the notifications that the broker behind it delivered so far: not everything of a run
    /// of hours can be kept.
    pub fn forget(&self) {
        if let Some(deliveries) = &self.deliveries {
            deliveries.forget();
        }
    }

    /// Forwards nothing any more, in both directions, from the moment on that a client has published
    /// the first message of which `is_it` says so, by its routing key and body. That message is the
    /// last thing that is forwarded. Does nothing where it is not in front of a broker.
    pub fn silence_after(&self, is_it: impl Fn(&str, &[u8]) -> bool + Send + 'static) {
        let mode = self.mode.clone();
        let watch = move |key: &str, body: &[u8]| {
            let is_it = is_it(key, body);
            if is_it {
                mode.send_replace(Mode::Silent);
            }
            is_it
        };
        if let Some(deliveries) = &self.deliveries {
            deliveries.watch(Some(Box::new(watch)));
        }
    }

    /// Whether nothing is forwarded.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        *self.mode.borrow() == Mode::Silent
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Forwards everything from now on, and what was held back.
    pub fn pass(&self) {
        if let Some(deliveries) = &self.deliveries {
            deliveries.watch(None);
        }
        self.mode.send_replace(Mode::Pass);
    }

    /// Cuts all connections with a reset; new ones are forwarded.
    pub fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }

    /// Cuts all connections, and every new one immediately.
    pub fn refuse(&self) {
        self.mode.send_replace(Mode::Refuse);
        self.cut();
    }

    /// Forwards nothing and closes nothing, as a network that drops all packets.
    pub fn black_hole(&self) {
        self.mode.send_replace(Mode::Silent);
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

/// What the task of a connection needs.
#[derive(Clone)]
struct Way {
    upstream: String,
    mode: watch::Receiver<Mode>,
    cuts: watch::Receiver<u64>,
    deliveries: Option<Arc<Deliveries>>,
}

async fn accept(listener: TcpListener, way: Way) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Way { upstream, mode, mut cuts, deliveries } = way.clone();
        cuts.mark_unchanged();
        tokio::spawn(async move {
            if *mode.borrow() == Mode::Refuse {
                return reset(&client);
            }
            let mut client = client;
            let mut waiting = mode.clone();
            let carried = async {
                // An error means that the proxy is gone.
                drop(waiting.wait_for(|mode| *mode != Mode::Silent).await);
                let mut server = TcpStream::connect(&upstream).await?;
                drop(client.set_nodelay(true).and_then(|()| server.set_nodelay(true)));
                let (from_client, to_client) = client.split();
                let (from_server, to_server) = server.split();
                let looks = deliveries.map(|deliveries| deliveries.connection());
                let [asked, answered] = looks.map_or([None, None], |looks| looks.map(Some));
                tokio::select! {
                    carried = carry(from_client, to_server, mode.clone(), asked) => carried,
                    carried = carry(from_server, to_client, mode, answered) => carried,
                }
            };
            // When the forwarding ends for any reason, the client's side ends too.
            tokio::select! {
                _ = carried => {}
                _ = cuts.changed() => {}
            }
            reset(&client);
        });
    }
}

/// One direction, until its end or a fault.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut mode: watch::Receiver<Mode>,
    mut look: Option<Look>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        drop(mode.wait_for(|mode| *mode != Mode::Silent).await);
        let read = tokio::select! {
            biased;
            // Bytes that arrive while the mode changes to silence must not be forwarded.
            changed = mode.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                continue;
            }
            read = from.read(&mut buffer) => read?,
        };
        if read == 0 {
            return Ok(());
        }
        if let Some(look) = &mut look {
            look.at(&buffer[..read]);
        }
        to.write_all(&buffer[..read]).await?;
    }
}

/// Makes the connection end with a reset instead of an orderly close.
fn reset(stream: &TcpStream) {
    drop(socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)));
}
