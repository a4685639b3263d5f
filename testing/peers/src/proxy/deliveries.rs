//! Which notifications the broker delivered, and when each was settled. Read from the frames in
//! transit, independently of the broker and its client.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::script::lock;
use crate::frames::{DELIVER, Frame, Frames, Open, read_delivery};

/// One `basic.deliver` of an upload's notification, from the store's exchange or from a retry
/// queue's.
#[derive(Debug, Clone)]
pub struct Handed {
    /// The object's key, as the notification's `Key` has it.
    pub key: String,
    /// When the last byte of its body passed.
    pub at: Instant,
    /// When the client acknowledged or rejected it. The loss of its connection does not count.
    pub settled: Option<Instant>,
}

/// The deliveries on all connections of a proxy.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    connections: AtomicUsize,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    handed: Vec<Handed>,
    open: Open<usize>,
}

impl Deliveries {
    pub(super) fn handed(&self) -> Vec<Handed> {
        lock(&self.book).handed.clone()
    }

    /// Observers for the two directions of a new connection: the client's and the broker's.
    pub(super) fn connection(self: &Arc<Self>) -> [Look; 2] {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        let look = |side, frames| Look {
            deliveries: Arc::clone(self),
            number,
            side,
            frames,
            arriving: HashMap::new(),
        };
        [look(Side::Client, Frames::of_client()), look(Side::Broker, Frames::of_server())]
    }
}

/// Which side sends. The broker confirms publishes with the same methods that settle deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Broker,
}

/// A message whose body is not complete.
#[derive(Debug, Default)]
struct Arriving {
    tag: u64,
    length: u64,
    body: Vec<u8>,
}

/// One direction of a connection.
pub(super) struct Look {
    deliveries: Arc<Deliveries>,
    number: usize,
    side: Side,
    frames: Frames,
    /// By channel.
    arriving: HashMap<u16, Arriving>,
}

impl Look {
    /// Takes the next bytes.
    pub(super) fn at(&mut self, bytes: &[u8]) {
        let Self { deliveries, number, side, frames, arriving } = self;
        frames.feed(bytes, |channel, frame| match frame {
            Frame::Basic { method: DELIVER, arguments } if *side == Side::Broker => {
                if let Some(delivery) = read_delivery(arguments) {
                    let arrives = Arriving { tag: delivery.tag, ..Arriving::default() };
                    arriving.insert(channel, arrives);
                }
            }
            Frame::Basic { .. } if *side == Side::Broker => {}
            Frame::Basic { method, arguments } => {
                let mut book = lock(&deliveries.book);
                for at in book.open.settle(*number, channel, method, arguments) {
                    book.handed[at].settled = Some(Instant::now());
                }
            }
            Frame::Content { length } => {
                if let Some(arrives) = arriving.get_mut(&channel) {
                    arrives.length = length;
                }
            }
            Frame::Body(part) => {
                let Some(arrives) = arriving.get_mut(&channel) else { return };
                arrives.body.extend(part);
                if arrives.body.len() as u64 >= arrives.length
                    && let Some(whole) = arriving.remove(&channel)
                    && let Some(key) = key(&whole.body)
                {
                    let mut book = lock(&deliveries.book);
                    let at = book.handed.len();
                    book.handed.push(Handed { key, at: Instant::now(), settled: None });
                    book.open.insert(*number, channel, whole.tag, at);
                }
            }
        });
    }
}

/// The key in an upload's notification in `MinIO`'s form. Reports have no `Key`. An event about new
/// tags, which the daemon's own tagging causes, is not an upload.
fn key(body: &[u8]) -> Option<String> {
    let event: serde_json::Value = serde_json::from_slice(body).ok()?;
    if event["EventName"].as_str().is_some_and(|name| name.ends_with("Tagging")) {
        return None;
    }
    event["Key"].as_str()?.split_once('/').map(|(_, key)| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap();
        [&[kind, 0, 1][..], &length.to_be_bytes(), payload, &[0xCE]].concat()
    }

    fn ack(tag: u64) -> Vec<u8> {
        frame(1, &[&[0, 60, 0, 80][..], &tag.to_be_bytes(), &[0]].concat())
    }

    fn delivery(tag: u64, body: &[u8]) -> Vec<u8> {
        let method = [&[0, 60, 0, 60, 0][..], &tag.to_be_bytes(), &[0, 0, 0]].concat();
        let content = [&[0, 60, 0, 0][..], &(body.len() as u64).to_be_bytes(), &[0, 0]].concat();
        let (first, second) = body.split_at(body.len() / 2);
        [frame(1, &method), frame(2, &content), frame(3, first), frame(3, second)].concat()
    }

    #[test]
    fn a_notification_is_in_hand_until_its_client_settles_it() {
        let deliveries = Arc::new(Deliveries::default());
        let [mut client, mut broker] = deliveries.connection();
        client.at(b"AMQP\0\0\x09\x01");
        broker.at(&delivery(1, br#"{"Key":"bucket/a/b"}"#));
        broker.at(&delivery(2, br#"{"key":"a report"}"#));
        broker.at(&delivery(4, br#"{"EventName":"s3:ObjectCreated:PutTagging","Key":"b/a/b"}"#));
        broker.at(&delivery(3, br#"{"Key":"bucket/c"}"#));
        // This confirms a publish of the client, and settles no delivery.
        broker.at(&ack(1));
        client.at(&ack(3));
        let handed = deliveries.handed();
        let seen: Vec<_> =
            handed.iter().map(|one| (one.key.as_str(), one.settled.is_some())).collect();
        assert_eq!(seen, [("a/b", false), ("c", true)]);
    }
}
