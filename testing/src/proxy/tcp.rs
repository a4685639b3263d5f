//! TCP connections, carried, cut or left in silence.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::error::{Context, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    Refuse,
    Silent,
}

/// Carries connections to one address; ends, and cuts them all, when dropped.
pub struct TcpProxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    cuts: watch::Sender<u64>,
    accepting: AbortHandle,
}

impl TcpProxy {
    /// A proxy on a free port in front of `upstream` (`127.0.0.1:PORT`).
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(upstream: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("proxy")?;
        let address = listener.local_addr().context("proxy")?;
        let (mode, cuts) = (watch::Sender::new(Mode::Pass), watch::Sender::new(0));
        let accepting =
            tokio::spawn(accept(listener, upstream.to_owned(), mode.subscribe(), cuts.subscribe()))
                .abort_handle();
        Ok(Self { address, mode, cuts, accepting })
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Carries everything, from now on; what lay in silence goes on.
    pub fn pass(&self) {
        self.mode.send_replace(Mode::Pass);
    }

    /// Cuts all connections with a reset; new ones are carried.
    pub fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }

    /// Cuts all connections, and new ones at once.
    pub fn refuse(&self) {
        self.mode.send_replace(Mode::Refuse);
        self.cut();
    }

    /// Carries nothing any more and closes nothing: a network that swallows packets.
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

async fn accept(
    listener: TcpListener,
    upstream: String,
    mode: watch::Receiver<Mode>,
    cuts: watch::Receiver<u64>,
) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (upstream, mode, mut cuts) = (upstream.clone(), mode.clone(), cuts.clone());
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
                tokio::select! {
                    carried = carry(from_client, to_server, mode.clone()) => carried,
                    carried = carry(from_server, to_client, mode) => carried,
                }
            };
            // However it ended, the client's side ends with it.
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
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        drop(mode.wait_for(|mode| *mode != Mode::Silent).await);
        let read = tokio::select! {
            biased;
            // What comes while it changes to silence must not slip through.
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
        to.write_all(&buffer[..read]).await?;
    }
}

/// The connection will end with a reset instead of a goodbye.
fn reset(stream: &TcpStream) {
    drop(socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)));
}
