//! Records from the daemon's connections to the broker when each notification was delivered, and
//! when it was acknowledged.
//!
//! Neither the daemon nor the broker is asked: the frames of AMQP 0-9-1 are read in transit.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use peers::error::{Context, Result};
use peers::frames::{ACK, DELIVER, Frame, Frames, GET_OK, Open, read_delivery, read_got};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// `basic.get-empty`: the client asked for a message, and there was none.
const GET_EMPTY: u16 = 72;

/// One delivery.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) delivered: Instant,
    pub(super) acked: Option<Instant>,
    /// Number of the connection, and so of the daemon, that got it.
    pub(super) connection: usize,
}

/// Everything since the last [`Tap::take`].
#[derive(Debug, Default)]
pub(super) struct Record {
    /// In the order of delivery.
    pub(super) seen: Vec<Seen>,
    /// Deliveries that were rejected.
    pub(super) refused: usize,
    /// Deliveries that the broker marks as redelivered.
    pub(super) redelivered: usize,
    /// When each message of a backlog was acknowledged. The daemon asks for those one by one, and for
    /// no others.
    pub(super) backlog_acked: Vec<Instant>,
    /// When the daemon asked for one in vain.
    pub(super) backlog_empty: Vec<Instant>,
    /// Index into `seen`.
    open: Open<usize>,
    backlog_open: Open<()>,
}

/// Counts so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) delivered: usize,
    pub(super) acked: usize,
}

struct Shared {
    /// Deliveries through other exchanges, such as retries and reports, are not recorded.
    exchange: String,
    record: Mutex<Record>,
    progress: watch::Sender<Progress>,
}

/// The tap; its connections end with it.
pub(super) struct Tap {
    port: u16,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

impl Tap {
    /// A tap in front of the broker at `upstream`, for messages published to `exchange`.
    pub(super) async fn start(upstream: &str, exchange: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("tap")?;
        let port = listener.local_addr().context("tap")?.port();
        let shared = Arc::new(Shared {
            exchange: exchange.to_owned(),
            record: Mutex::default(),
            progress: watch::Sender::default(),
        });
        let accepting =
            tokio::spawn(accept(listener, upstream.to_owned(), Arc::clone(&shared))).abort_handle();
        Ok(Self { port, shared, accepting })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Changes with every delivery and acknowledgement.
    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    /// Returns the record since the last call, and starts a new one.
    pub(super) fn take(&self) -> Record {
        let record = std::mem::take(&mut *self.shared.record());
        self.shared.progress.send_replace(Progress::default());
        record
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delivery(&self, connection: usize, channel: u16, arguments: &[u8]) {
        let now = Instant::now();
        let Some(delivery) = read_delivery(arguments) else { return };
        if delivery.exchange != self.exchange.as_bytes() {
            return;
        }
        let mut record = self.record();
        let number = record.seen.len();
        record.open.insert(connection, channel, delivery.tag, number);
        record.seen.push(Seen { delivered: now, acked: None, connection });
        record.redelivered += usize::from(delivery.redelivered);
        drop(record);
        self.progress.send_modify(|progress| progress.delivered += 1);
    }

    fn pulled(&self, connection: usize, channel: u16, arguments: &[u8]) {
        if let Some(delivery) = read_got(arguments) {
            self.record().backlog_open.insert(connection, channel, delivery.tag, ());
        }
    }

    fn pulled_nothing(&self) {
        self.record().backlog_empty.push(Instant::now());
    }

    fn settled(&self, connection: usize, channel: u16, method: u16, arguments: &[u8]) {
        let now = Instant::now();
        let mut record = self.record();
        let settled = record.open.settle(connection, channel, method, arguments);
        for number in &settled {
            if method == ACK {
                record.seen[*number].acked = Some(now);
            } else {
                record.refused += 1;
            }
        }
        let pulled = record.backlog_open.settle(connection, channel, method, arguments);
        if method == ACK {
            record.backlog_acked.extend(pulled.iter().map(|()| now));
        }
        drop(record);
        if method == ACK && !settled.is_empty() {
            self.progress.send_modify(|progress| progress.acked += settled.len());
        }
    }
}

async fn accept(listener: TcpListener, upstream: String, shared: Arc<Shared>) {
    for number in 0.. {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (shared, upstream) = (Arc::clone(&shared), upstream.clone());
        tokio::spawn(async move {
            let server = TcpStream::connect(&upstream).await?;
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let asked = carry(from_client, to_server, Frames::of_client(), |channel, frame| {
                if let Frame::Basic { method, arguments } = frame {
                    shared.settled(number, channel, method, arguments);
                }
            });
            let answered = carry(from_server, to_client, Frames::of_server(), |channel, frame| {
                let Frame::Basic { method, arguments } = frame else { return };
                match method {
                    DELIVER => shared.delivery(number, channel, arguments),
                    GET_OK => shared.pulled(number, channel, arguments),
                    GET_EMPTY => shared.pulled_nothing(),
                    _ => {}
                }
            });
            // When one side ends, the other one does too.
            tokio::select! {
                ended = asked => ended,
                ended = answered => ended,
            }
        });
    }
}

/// Forwards one direction; `look` gets the channel and each frame.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut frames: Frames,
    look: impl Fn(u16, Frame<'_>),
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        // Recorded before it is forwarded, so that no acknowledgement is recorded before its
        // delivery.
        frames.feed(&buffer[..read], &look);
        to.write_all(&buffer[..read]).await?;
    }
}
