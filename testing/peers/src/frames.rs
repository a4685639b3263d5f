//! AMQP 0-9-1 frames, read from bytes that arrive in any portions, and what the methods of the
//! class `basic` say about deliveries.
//!
//! Source: the specification's chapters 2.3.5 (frames) and 1.8 (`basic`),
//! <https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf>.

use std::collections::{BTreeMap, VecDeque};

const METHOD: u8 = 1;
const CONTENT: u8 = 2;
const BODY: u8 = 3;
const BASIC: u16 = 60;
/// `basic.publish`.
pub const PUBLISH: u16 = 40;
/// `basic.deliver`: the broker delivers a message.
pub const DELIVER: u16 = 60;
/// `basic.get-ok`: the broker delivers a message that the client asked for.
pub const GET_OK: u16 = 71;
/// `basic.ack`.
pub const ACK: u16 = 80;
/// `basic.reject`.
pub const REJECT: u16 = 90;
/// `basic.nack`.
pub const NACK: u16 = 120;
/// Length of the protocol header that a client sends before its first frame, in bytes.
const GREETING: usize = 8;
/// Length of a frame's header (type, channel, payload length), in bytes. The payload and an end
/// mark follow.
const HEAD: usize = 7;
const TAIL: usize = 1;

/// A frame with a method of the class `basic`, or with a part of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A method of the class `basic`, and its arguments.
    Basic {
        /// The number of the method.
        method: u16,
        /// Its arguments, as they came.
        arguments: &'a [u8],
    },
    /// The header of the content that belongs to a method.
    Content {
        /// Length of the body, in bytes.
        length: u64,
    },
    /// A part of the body.
    Body(&'a [u8]),
}

/// The frames of one direction of a connection.
pub struct Frames {
    pending: VecDeque<u8>,
    /// Bytes still to be skipped.
    skip: usize,
}

impl Frames {
    /// Reads what a client sends.
    #[must_use]
    pub fn of_client() -> Self {
        Self { pending: VecDeque::new(), skip: GREETING }
    }

    /// Reads what a broker sends.
    #[must_use]
    pub fn of_server() -> Self {
        Self { pending: VecDeque::new(), skip: 0 }
    }

    /// Takes the next bytes, and calls `look` with the channel and each frame that they complete.
    pub fn feed(&mut self, bytes: &[u8], mut look: impl FnMut(u16, Frame<'_>)) {
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
            if matches!(kind, METHOD | CONTENT | BODY) {
                let Some(payload) = rest.get(..length + TAIL) else { return };
                if let Some(frame) = read_frame(kind, &payload[..length]) {
                    look(u16::from_be_bytes([c0, c1]), frame);
                }
            }
            self.skip = HEAD + length + TAIL;
        }
    }
}

fn read_frame(kind: u8, payload: &[u8]) -> Option<Frame<'_>> {
    if kind == BODY {
        return Some(Frame::Body(payload));
    }
    let (class, rest) = payload.split_first_chunk::<2>()?;
    if u16::from_be_bytes(*class) != BASIC {
        return None;
    }
    let (second, rest) = rest.split_first_chunk::<2>()?;
    if kind == METHOD {
        return Some(Frame::Basic { method: u16::from_be_bytes(*second), arguments: rest });
    }
    Some(Frame::Content { length: u64::from_be_bytes(*rest.first_chunk::<8>()?) })
}

/// The arguments of `basic.deliver`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery<'a> {
    /// Its delivery tag.
    pub tag: u64,
    /// The broker delivered it before.
    pub redelivered: bool,
    /// The exchange it was published to.
    pub exchange: &'a [u8],
}

/// Reads the arguments of `basic.deliver`.
#[must_use]
pub fn read_delivery(arguments: &[u8]) -> Option<Delivery<'_>> {
    let (_consumer, rest) = short_string(arguments)?;
    read_got(rest)
}

/// Reads the arguments of `basic.get-ok`: those of `basic.deliver` without a consumer.
#[must_use]
pub fn read_got(arguments: &[u8]) -> Option<Delivery<'_>> {
    let (tag, rest) = arguments.split_first_chunk::<8>()?;
    let (redelivered, rest) = rest.split_first()?;
    let (exchange, _) = short_string(rest)?;
    Some(Delivery { tag: u64::from_be_bytes(*tag), redelivered: redelivered & 1 == 1, exchange })
}

/// Reads the routing key of `basic.publish`.
#[must_use]
pub fn read_published(arguments: &[u8]) -> Option<&[u8]> {
    let (_reserved, rest) = arguments.split_first_chunk::<2>()?;
    let (_exchange, rest) = short_string(rest)?;
    Some(short_string(rest)?.0)
}

/// A string with its length in one byte, and what follows.
fn short_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

/// Deliveries that are not settled yet, by connection, channel and delivery tag.
#[derive(Debug)]
pub struct Open<T>(BTreeMap<(usize, u16, u64), T>);

impl<T> Default for Open<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Open<T> {
    /// Adds a delivery to a connection's channel under its tag.
    pub fn insert(&mut self, connection: usize, channel: u16, tag: u64, delivery: T) {
        self.0.insert((connection, channel, tag), delivery);
    }

    /// Removes and returns what a client's method settles; nothing when the method settles nothing.
    pub fn settle(
        &mut self,
        connection: usize,
        channel: u16,
        method: u16,
        arguments: &[u8],
    ) -> Vec<T> {
        let read = arguments.split_first_chunk::<8>().filter(|(_, rest)| !rest.is_empty());
        let Some((tag, rest)) = read.filter(|_| matches!(method, ACK | REJECT | NACK)) else {
            return Vec::new();
        };
        let tag = u64::from_be_bytes(*tag);
        // `reject` has no `multiple`: the bit in its place is `requeue`.
        let multiple = rest[0] & 1 == 1 && method != REJECT;
        let first = if multiple { 0 } else { tag };
        // Tag 0 with `multiple` means all that are unsettled.
        let last = if multiple && tag == 0 { u64::MAX } else { tag };
        let range = (connection, channel, first)..=(connection, channel, last);
        let tags: Vec<_> = self.0.range(range).map(|(at, _)| *at).collect();
        tags.iter().filter_map(|at| self.0.remove(at)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap();
        [&[kind][..], &channel.to_be_bytes(), &length.to_be_bytes(), payload, &[0xCE]].concat()
    }

    fn method(method: u16, arguments: &[u8]) -> Vec<u8> {
        [&BASIC.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat()
    }

    #[test]
    fn frames_are_found_however_the_bytes_arrive() {
        let deliver = [&[1, b'c'][..], &7u64.to_be_bytes(), &[1, 2], b"ex", &[1, b'k']].concat();
        let ack = [&9u64.to_be_bytes()[..], &[1]].concat();
        let content = [&BASIC.to_be_bytes()[..], &[0, 0], &6u64.to_be_bytes(), &[0, 0]].concat();
        let all = [
            b"AMQP\0\0\x09\x01".to_vec(),
            frame(METHOD, 1, &method(DELIVER, &deliver)),
            frame(CONTENT, 1, &content),
            frame(BODY, 1, b"a body"),
            frame(8, 0, b""),
            frame(METHOD, 2, &method(ACK, &ack)),
        ]
        .concat();
        for step in 1..all.len() {
            let mut seen = Vec::new();
            let mut frames = Frames::of_client();
            for part in all.chunks(step) {
                frames.feed(part, |channel, frame| {
                    seen.push(match frame {
                        Frame::Basic { method: DELIVER, arguments } => {
                            let exchange: &[u8] = b"ex";
                            let wanted = Delivery { tag: 7, redelivered: true, exchange };
                            assert_eq!(read_delivery(arguments), Some(wanted));
                            (channel, "deliver".to_owned())
                        }
                        Frame::Basic { method, .. } => (channel, method.to_string()),
                        Frame::Content { length } => (channel, format!("content {length}")),
                        Frame::Body(body) => (channel, String::from_utf8_lossy(body).into_owned()),
                    });
                });
            }
            let seen: Vec<_> = seen.iter().map(|(channel, what)| (*channel, &**what)).collect();
            let wanted = [(1, "deliver"), (1, "content 6"), (1, "a body"), (2, "80")];
            assert_eq!(seen, wanted, "step {step}");
        }
    }

    #[test]
    fn a_settlement_covers_one_tag_or_all_up_to_it() {
        let settle = |method, tag: u64, flag| {
            let mut open = Open::default();
            for tag in 1..=4 {
                open.insert(0, 1, tag, tag);
            }
            open.insert(0, 2, 1, 10);
            open.insert(1, 1, 1, 20);
            open.settle(0, 1, method, &[&tag.to_be_bytes()[..], &[flag]].concat())
        };
        assert_eq!(settle(ACK, 2, 0), [2]);
        assert_eq!(settle(ACK, 2, 1), [1, 2]);
        assert_eq!(settle(NACK, 0, 1), [1, 2, 3, 4]);
        assert_eq!(settle(REJECT, 3, 1), [3]);
        assert_eq!(settle(DELIVER, 2, 1), [0; 0]);
    }
}
