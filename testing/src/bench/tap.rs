//! A look into the daemon's connections to the broker: when each notification was handed over, and
//! when it was acknowledged.
//!
//! Nothing is asked of the daemon or the broker: the frames of AMQP 0-9-1 are read as they pass.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::error::{Context, Result};

const METHOD: u8 = 1;
const BASIC: u16 = 60;
const DELIVER: u16 = 60;
const ACK: u16 = 80;
const REJECT: u16 = 90;
const NACK: u16 = 120;
/// What a client says first, before any frame.
const GREETING: usize = 8;
/// Type, channel and length before a frame's payload, an end mark behind it.
const HEAD: usize = 7;
const TAIL: usize = 1;

/// One delivery.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) delivered: Instant,
    pub(super) acked: Option<Instant>,
}

/// What passed since the last [`Tap::take`].
#[derive(Debug, Default)]
pub(super) struct Record {
    /// In the order of delivery.
    pub(super) seen: Vec<Seen>,
    /// Deliveries that were given back or refused.
    pub(super) refused: usize,
    /// Deliveries that the broker had handed out before.
    pub(super) redelivered: usize,
    /// By connection, channel and delivery tag: which of `seen` it is.
    open: BTreeMap<(usize, u16, u64), usize>,
}

/// How far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) delivered: usize,
    pub(super) acked: usize,
}

struct Shared {
    /// Deliveries through any other exchange are none of ours: retries, reports.
    exchange: String,
    record: Mutex<Record>,
    progress: watch::Sender<Progress>,
}

/// The tap; connections end with it.
pub(super) struct Tap {
    port: u16,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

impl Tap {
    /// A tap in front of the broker at `upstream`, for what comes through `exchange`.
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

    /// Tells of every delivery and acknowledgement.
    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    /// What passed since the last time; it starts anew.
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

    fn delivery(&self, at: (usize, u16), arguments: &[u8]) {
        let now = Instant::now();
        let Some((tag, redelivered, exchange)) = read_delivery(arguments) else { return };
        if exchange != self.exchange.as_bytes() {
            return;
        }
        let mut record = self.record();
        let number = record.seen.len();
        record.open.insert((at.0, at.1, tag), number);
        record.seen.push(Seen { delivered: now, acked: None });
        record.redelivered += usize::from(redelivered);
        drop(record);
        self.progress.send_modify(|progress| progress.delivered += 1);
    }

    fn settled(&self, at: (usize, u16), method: u16, arguments: &[u8]) {
        let now = Instant::now();
        let Some((tag, flag)) = read_settlement(arguments) else { return };
        // `reject` has no `multiple`, but `requeue` in its place.
        let multiple = flag && method != REJECT;
        let mut record = self.record();
        let first = if multiple { 0 } else { tag };
        // Tag 0 with `multiple` means all that are open.
        let last = if multiple && tag == 0 { u64::MAX } else { tag };
        let range = (at.0, at.1, first)..=(at.0, at.1, last);
        let open: Vec<_> = record.open.range(range).map(|(at, number)| (*at, *number)).collect();
        for (at, number) in &open {
            record.open.remove(at);
            if method == ACK {
                record.seen[*number].acked = Some(now);
            } else {
                record.refused += 1;
            }
        }
        drop(record);
        if method == ACK && !open.is_empty() {
            self.progress.send_modify(|progress| progress.acked += open.len());
        }
    }
}

/// Delivery tag, whether it was delivered before, and the exchange it came through.
fn read_delivery(arguments: &[u8]) -> Option<(u64, bool, &[u8])> {
    let (length, rest) = arguments.split_first()?;
    let (tag, rest) = rest.get(usize::from(*length)..)?.split_first_chunk::<8>()?;
    let (redelivered, rest) = rest.split_first()?;
    let (length, rest) = rest.split_first()?;
    Some((u64::from_be_bytes(*tag), redelivered & 1 == 1, rest.get(..usize::from(*length))?))
}

/// Delivery tag and the flag behind it: whether all before it are meant as well.
fn read_settlement(arguments: &[u8]) -> Option<(u64, bool)> {
    let (tag, rest) = arguments.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*tag), rest.first()? & 1 == 1))
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
            let asked = carry(from_client, to_server, GREETING, |channel, method, arguments| {
                if matches!(method, ACK | REJECT | NACK) {
                    shared.settled((number, channel), method, arguments);
                }
            });
            let answered = carry(from_server, to_client, 0, |channel, method, arguments| {
                if method == DELIVER {
                    shared.delivery((number, channel), arguments);
                }
            });
            // Whichever side ends, the other one does.
            tokio::select! {
                ended = asked => ended,
                ended = answered => ended,
            }
        });
    }
}

/// One direction; `look` gets channel, method and arguments of every method of the class `basic`.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    greeting: usize,
    look: impl Fn(u16, u16, &[u8]),
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut frames = Frames { pending: VecDeque::new(), skip: greeting };
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        // First the look, so that no acknowledgement is seen before its delivery.
        frames.feed(&buffer[..read], &look);
        to.write_all(&buffer[..read]).await?;
    }
}

/// Frames out of bytes that come in any portions.
struct Frames {
    pending: VecDeque<u8>,
    /// Bytes to come that are of no interest.
    skip: usize,
}

impl Frames {
    fn feed(&mut self, bytes: &[u8], look: &impl Fn(u16, u16, &[u8])) {
        self.pending.extend(bytes);
        loop {
            let skipped = self.skip.min(self.pending.len());
            self.pending.drain(..skipped);
            self.skip -= skipped;
            let head = self.pending.make_contiguous();
            let Some((&[kind, c0, c1, l0, l1, l2, l3], rest)) = head.split_first_chunk::<HEAD>()
            else {
                return;
            };
            let length = u32::from_be_bytes([l0, l1, l2, l3]);
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if kind != METHOD {
                self.skip = HEAD + length + TAIL;
                continue;
            }
            let Some(payload) = rest.get(..length + TAIL) else { return };
            if let Some((&[k0, k1, m0, m1], arguments)) = payload.split_first_chunk::<4>()
                && u16::from_be_bytes([k0, k1]) == BASIC
            {
                look(u16::from_be_bytes([c0, c1]), u16::from_be_bytes([m0, m1]), arguments);
            }
            self.skip = HEAD + length + TAIL;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap();
        [&[kind][..], &channel.to_be_bytes(), &length.to_be_bytes(), payload, &[0xCE]].concat()
    }

    fn method(method: u16, arguments: &[u8]) -> Vec<u8> {
        [&BASIC.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat()
    }

    #[test]
    fn methods_are_found_however_the_bytes_arrive() {
        let deliver = [&[1, b'c'][..], &7u64.to_be_bytes(), &[1, 2], b"ex", &[1, b'k']].concat();
        let ack = [&9u64.to_be_bytes()[..], &[1]].concat();
        let all = [
            b"AMQP\0\0\x09\x01".to_vec(),
            frame(METHOD, 1, &method(DELIVER, &deliver)),
            frame(2, 1, &[0; 14]),
            frame(3, 1, b"a body"),
            frame(METHOD, 2, &method(ACK, &ack)),
        ]
        .concat();
        for step in 1..all.len() {
            let seen = RefCell::new(Vec::new());
            let mut frames = Frames { pending: VecDeque::new(), skip: GREETING };
            for part in all.chunks(step) {
                frames.feed(part, &|channel, method, arguments: &[u8]| {
                    let tag = match method {
                        DELIVER => read_delivery(arguments).map(|(tag, again, exchange)| {
                            assert_eq!((again, exchange), (true, &b"ex"[..]));
                            tag
                        }),
                        _ => read_settlement(arguments).map(|(tag, _)| tag),
                    };
                    seen.borrow_mut().push((channel, method, tag));
                });
            }
            assert_eq!(*seen.borrow(), [(1, DELIVER, Some(7)), (2, ACK, Some(9))], "step {step}");
        }
    }
}
