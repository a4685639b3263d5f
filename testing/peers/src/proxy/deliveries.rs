//! Which notifications the broker delivered, when each was settled, and what the client publishes.
//! Read from the frames in transit, independently of the broker and its client.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::script::lock;
use crate::frames::{
    DELIVER, Frame, Frames, GET_OK, Open, PUBLISH, read_delivery, read_got, read_published,
};

/// One delivery of an upload's notification: from the store's exchange, from a retry queue's, or
/// from a sweep.
#[derive(Debug, Clone)]
pub struct Handed {
    /// The object's key, as the notification's `Key` has it.
    pub key: String,
    /// When the last byte of its body passed.
    pub at: Instant,
    /// When the client acknowledged or rejected it. The loss of its connection does not count.
    pub settled: Option<Instant>,
}

/// Gets the routing key and the body of what the client publishes. Returns whether it has seen enough.
pub(super) type Watch = Box<dyn FnMut(&str, &[u8]) -> bool + Send>;

/// The deliveries on all connections of a proxy.
#[derive(Default)]
pub(super) struct Deliveries {
    connections: AtomicUsize,
    book: Mutex<Book>,
    watch: Mutex<Option<Watch>>,
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

    /// Forgets all deliveries, also those that are not settled yet.
    pub(super) fn forget(&self) {
        *lock(&self.book) = Book::default();
    }

    /// Shows `watch` what the clients publish from now on, before it is forwarded.
    pub(super) fn watch(&self, watch: Option<Watch>) {
        *lock(&self.watch) = watch;
    }

    fn published(&self, key: &str, body: &[u8]) {
        let mut watch = lock(&self.watch);
        if watch.as_mut().is_some_and(|watch| watch(key, body)) {
            *watch = None;
        }
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
#[derive(Debug)]
struct Arriving {
    method: Method,
    length: u64,
    body: Vec<u8>,
}

/// How a message is on its way.
#[derive(Debug)]
enum Method {
    /// To the client, under this delivery tag.
    Delivered(u64),
    /// To the broker, with this routing key.
    Published(String),
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
            Frame::Basic { method, arguments } => match begins(*side, method, arguments) {
                Some(method) => {
                    arriving.insert(channel, Arriving { method, length: 0, body: Vec::new() });
                }
                None if *side == Side::Client => {
                    let mut book = lock(&deliveries.book);
                    for at in book.open.settle(*number, channel, method, arguments) {
                        book.handed[at].settled = Some(Instant::now());
                    }
                }
                None => {}
            },
            Frame::Content { length } => {
                if let Some(arrives) = arriving.get_mut(&channel) {
                    arrives.length = length;
                }
            }
            Frame::Body(part) => {
                let Some(arrives) = arriving.get_mut(&channel) else { return };
                arrives.body.extend(part);
                if (arrives.body.len() as u64) < arrives.length {
                    return;
                }
                let Some(Arriving { method, body, .. }) = arriving.remove(&channel) else { return };
                match method {
                    Method::Published(routing_key) => deliveries.published(&routing_key, &body),
                    Method::Delivered(tag) => {
                        let Some(key) = key(&body) else { return };
                        let mut book = lock(&deliveries.book);
                        let at = book.handed.len();
                        book.handed.push(Handed { key, at: Instant::now(), settled: None });
                        book.open.insert(*number, channel, tag, at);
                    }
                }
            }
        });
    }
}

/// The message that begins with this method, if one does.
fn begins(side: Side, method: u16, arguments: &[u8]) -> Option<Method> {
    match (side, method) {
        (Side::Broker, DELIVER) => Some(Method::Delivered(read_delivery(arguments)?.tag)),
        (Side::Broker, GET_OK) => Some(Method::Delivered(read_got(arguments)?.tag)),
        (Side::Client, PUBLISH) => {
            let key = read_published(arguments)?;
            Some(Method::Published(String::from_utf8_lossy(key).into_owned()))
        }
        _ => None,
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

    #[test]
    fn what_is_settled_after_it_was_forgotten_is_not_missed() {
        let deliveries = Arc::new(Deliveries::default());
        let [mut client, mut broker] = deliveries.connection();
        client.at(b"AMQP\0\0\x09\x01");
        broker.at(&delivery(1, br#"{"Key":"bucket/a"}"#));
        deliveries.forget();
        broker.at(&delivery(2, br#"{"Key":"bucket/b"}"#));
        client.at(&ack(1));
        let handed = deliveries.handed();
        assert!(handed.len() == 1 && handed[0].key == "b" && handed[0].settled.is_none());
    }

    #[test]
    fn a_message_that_was_asked_for_counts_too() {
        let deliveries = Arc::new(Deliveries::default());
        let [mut client, mut broker] = deliveries.connection();
        let body = br#"{"Key":"bucket/c"}"#;
        let got = [&[0, 60, 0, 71][..], &5u64.to_be_bytes(), &[0, 0, 0, 0, 0, 0, 0]].concat();
        let content = [&[0, 60, 0, 0][..], &(body.len() as u64).to_be_bytes(), &[0, 0]].concat();
        broker.at(&[frame(1, &got), frame(2, &content), frame(3, body)].concat());
        client.at(&[&b"AMQP\0\0\x09\x01"[..], &ack(5)].concat());
        let handed = deliveries.handed();
        assert!(handed.len() == 1 && handed[0].key == "c" && handed[0].settled.is_some());
    }

    #[test]
    fn what_the_client_publishes_is_shown_until_enough_was_seen() {
        let deliveries = Arc::new(Deliveries::default());
        let [mut client, _broker] = deliveries.connection();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let saw = Arc::clone(&seen);
        deliveries.watch(Some(Box::new(move |key, body| {
            lock(&saw).push((key.to_owned(), body.to_vec()));
            body == b"two"
        })));
        client.at(b"AMQP\0\0\x09\x01");
        for body in [b"one", b"two", b"too"] {
            let publish = [&[0, 60, 0, 40, 0, 0, 1, b'x', 1][..], b"k", &[0]].concat();
            let content = [&[0, 60, 0, 0][..], &3u64.to_be_bytes(), &[0, 0]].concat();
            client.at(&[frame(1, &publish), frame(2, &content), frame(3, body)].concat());
        }
        let expected = [b"one", b"two"].map(|body| ("k".to_owned(), body.to_vec()));
        assert_eq!(*lock(&seen), expected);
    }
}
