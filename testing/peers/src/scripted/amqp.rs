//! A broker with just enough AMQP 0-9-1 for one client, which breaks the protocol where a test says
//! so.
//!
//! Every method that needs an answer gets the usual one, and every publish to be confirmed an
//! acknowledgement, unless the script answers otherwise. Source of the methods and their order: the
//! AMQP 0-9-1 specification and `RabbitMQ`'s extensions to it (`confirm`, `basic.cancel` sent by
//! the broker).

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame};
use amq_protocol::protocol::{AMQPClass, basic, channel, confirm, connection, exchange, queue};

use super::wire::{Running, Wire, on_tcp};

/// The only class that carries content.
const BASIC: u16 = 60;
/// `no-route`: the reply code of `basic.return` for a message that no queue takes.
const NO_ROUTE: u16 = 312;

/// What a client sent.
#[derive(Debug, Clone)]
pub enum Sent {
    /// A method without content.
    Method(AMQPClass),
    /// A whole message; `tag` counts those of the channel from 1, as confirms do.
    Message {
        /// Its routing key.
        routing_key: String,
        /// Its number on this channel.
        tag: u64,
        /// Its body.
        body: Vec<u8>,
    },
}

/// What the script answers.
#[derive(Debug, Clone)]
pub enum Answer {
    /// As a broker would.
    Usual,
    /// These frames instead.
    Frames(Vec<AMQPFrame>),
    /// Nothing.
    Silence,
}

type Script = dyn Fn(u16, &Sent) -> Answer + Send + Sync;

/// A scripted broker; it ends when dropped.
pub struct Broker {
    address: SocketAddr,
    running: Running,
}

impl Broker {
    /// Answers as `script` says, which gets the channel and what came on it.
    pub fn start(script: impl Fn(u16, &Sent) -> Answer + Send + Sync + 'static) -> Self {
        let script: Arc<Script> = Arc::new(script);
        let (address, running) = on_tcp(Arc::new(move |wire, _: &Running| {
            // The client may close the connection at any time.
            drop(serve(wire, &*script));
        }));
        Self { address, running }
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.running.finish();
    }
}

/// The confirm of one publish.
#[must_use]
pub fn ack(channel: u16, tag: u64) -> AMQPFrame {
    let ack = basic::Ack { delivery_tag: tag, multiple: false };
    AMQPFrame::Method(channel, AMQPClass::Basic(basic::AMQPMethod::Ack(ack)))
}

/// The refusal of one publish.
#[must_use]
pub fn nack(channel: u16, tag: u64) -> AMQPFrame {
    let nack = basic::Nack { delivery_tag: tag, multiple: false, requeue: false };
    AMQPFrame::Method(channel, AMQPClass::Basic(basic::AMQPMethod::Nack(nack)))
}

/// The return of a message that no queue takes. A broker sends the confirm after it.
#[must_use]
pub fn returned(channel: u16, routing_key: &str, body: &[u8]) -> Vec<AMQPFrame> {
    let returned = basic::Return {
        reply_code: NO_ROUTE,
        reply_text: "NO_ROUTE".into(),
        exchange: "".into(),
        routing_key: routing_key.into(),
    };
    with_content(channel, basic::AMQPMethod::Return(returned), body)
}

/// A message for a consumer.
#[must_use]
pub fn deliver(channel: u16, consumer: &str, tag: u64, body: &[u8]) -> Vec<AMQPFrame> {
    let deliver = basic::Deliver {
        consumer_tag: consumer.into(),
        delivery_tag: tag,
        redelivered: false,
        exchange: "".into(),
        routing_key: "".into(),
    };
    with_content(channel, basic::AMQPMethod::Deliver(deliver), body)
}

/// A message for a client that asked for one.
#[must_use]
pub fn got(channel: u16, tag: u64, body: &[u8]) -> Vec<AMQPFrame> {
    let got = basic::GetOk {
        delivery_tag: tag,
        redelivered: false,
        exchange: "".into(),
        routing_key: "".into(),
        message_count: 0,
    };
    with_content(channel, basic::AMQPMethod::GetOk(got), body)
}

/// The answer to `basic.consume`.
#[must_use]
pub fn consuming(channel: u16, consumer: &str) -> AMQPFrame {
    let ok = basic::ConsumeOk { consumer_tag: consumer.into() };
    AMQPFrame::Method(channel, AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(ok)))
}

/// The broker cancels a consumer.
#[must_use]
pub fn cancel(channel: u16, consumer: &str) -> AMQPFrame {
    let cancel = basic::Cancel { consumer_tag: consumer.into(), nowait: true };
    AMQPFrame::Method(channel, AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)))
}

/// The broker closes a channel.
#[must_use]
pub fn close(channel: u16, code: u16, text: &str) -> AMQPFrame {
    let close =
        channel::Close { reply_code: code, reply_text: text.into(), class_id: 0, method_id: 0 };
    AMQPFrame::Method(channel, AMQPClass::Channel(channel::AMQPMethod::Close(close)))
}

fn with_content(channel: u16, method: basic::AMQPMethod, body: &[u8]) -> Vec<AMQPFrame> {
    let header = AMQPContentHeader {
        class_id: BASIC,
        body_size: body.len() as u64,
        properties: basic::AMQPProperties::default(),
    };
    vec![
        AMQPFrame::Method(channel, AMQPClass::Basic(method)),
        AMQPFrame::Header(channel, header),
        AMQPFrame::Body(channel, body.to_vec()),
    ]
}

/// A message that has not arrived whole.
struct Arriving {
    routing_key: String,
    length: u64,
    body: Vec<u8>,
}

fn serve(mut wire: Wire, script: &Script) -> std::io::Result<()> {
    let mut unread = Vec::new();
    let mut arriving: HashMap<u16, Arriving> = HashMap::new();
    let mut published: HashMap<u16, u64> = HashMap::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let (left, frame) = match parse_frame(unread.as_slice()) {
            Ok((rest, frame)) => (rest.len(), frame),
            Err(error) if error.is_incomplete() => {
                match wire.read(&mut buffer)? {
                    0 => return Ok(()),
                    read => unread.extend_from_slice(&buffer[..read]),
                }
                continue;
            }
            Err(error) => return Err(std::io::Error::other(format!("{error:?}"))),
        };
        unread.drain(..unread.len() - left);
        let number = frame.channel_id();
        let sent = match frame {
            AMQPFrame::ProtocolHeader(_) => {
                write(&mut wire, &[method(0, start())])?;
                continue;
            }
            AMQPFrame::Heartbeat | AMQPFrame::InvalidHeartbeat(_) => continue,
            AMQPFrame::Method(_, AMQPClass::Basic(basic::AMQPMethod::Publish(publish))) => {
                let routing_key = publish.routing_key.to_string();
                arriving.insert(number, Arriving { routing_key, length: 0, body: Vec::new() });
                continue;
            }
            AMQPFrame::Method(_, method) => Sent::Method(method),
            AMQPFrame::Header(_, header) => {
                let Some(message) = arriving.get_mut(&number) else { continue };
                message.length = header.body_size;
                if header.body_size > 0 {
                    continue;
                }
                whole(number, &mut arriving, &mut published)
            }
            AMQPFrame::Body(_, part) => {
                let Some(message) = arriving.get_mut(&number) else { continue };
                message.body.extend(part);
                if (message.body.len() as u64) < message.length {
                    continue;
                }
                whole(number, &mut arriving, &mut published)
            }
        };
        match script(number, &sent) {
            Answer::Usual => write(&mut wire, &usual(number, &sent))?,
            Answer::Frames(frames) => write(&mut wire, &frames)?,
            Answer::Silence => {}
        }
    }
}

fn whole(
    number: u16,
    arriving: &mut HashMap<u16, Arriving>,
    published: &mut HashMap<u16, u64>,
) -> Sent {
    let tag = published.entry(number).or_default();
    *tag += 1;
    let message = arriving.remove(&number);
    let (routing_key, body) = message.map(|m| (m.routing_key, m.body)).unwrap_or_default();
    Sent::Message { routing_key, tag: *tag, body }
}

fn write(wire: &mut Wire, frames: &[AMQPFrame]) -> std::io::Result<()> {
    for frame in frames {
        let written = gen_frame(frame)(WriteContext::from(Vec::new()));
        let (bytes, _) = written.map_err(|e| std::io::Error::other(format!("{e:?}")))?.into_inner();
        wire.write_all(&bytes)?;
    }
    Ok(())
}

fn method(channel: u16, class: AMQPClass) -> AMQPFrame {
    AMQPFrame::Method(channel, class)
}

fn start() -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::Start(connection::Start {
        version_major: 0,
        version_minor: 9,
        server_properties: amq_protocol::types::FieldTable::default(),
        mechanisms: "PLAIN".into(),
        locales: "en_US".into(),
    }))
}

/// What a broker answers when all is well.
fn usual(number: u16, sent: &Sent) -> Vec<AMQPFrame> {
    use AMQPClass::{Basic, Channel, Confirm, Connection, Exchange, Queue};
    let class = match sent {
        Sent::Message { tag, .. } => return vec![ack(number, *tag)],
        Sent::Method(class) => class,
    };
    let answer = match class {
        Connection(connection::AMQPMethod::StartOk(_)) => {
            let tune = connection::Tune { channel_max: 2047, frame_max: 131_072, heartbeat: 60 };
            Connection(connection::AMQPMethod::Tune(tune))
        }
        Connection(connection::AMQPMethod::Open(_)) => {
            Connection(connection::AMQPMethod::OpenOk(connection::OpenOk {}))
        }
        Connection(connection::AMQPMethod::Close(_)) => {
            Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {}))
        }
        Channel(channel::AMQPMethod::Open(_)) => {
            Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {}))
        }
        Channel(channel::AMQPMethod::Close(_)) => {
            Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}))
        }
        Exchange(exchange::AMQPMethod::Declare(_)) => {
            Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {}))
        }
        Queue(queue::AMQPMethod::Declare(declare)) => {
            let queue = declare.queue.clone();
            let ok = queue::DeclareOk { queue, message_count: 0, consumer_count: 0 };
            Queue(queue::AMQPMethod::DeclareOk(ok))
        }
        Queue(queue::AMQPMethod::Bind(_)) => Queue(queue::AMQPMethod::BindOk(queue::BindOk {})),
        Queue(queue::AMQPMethod::Unbind(_)) => {
            Queue(queue::AMQPMethod::UnbindOk(queue::UnbindOk {}))
        }
        Basic(basic::AMQPMethod::Qos(_)) => Basic(basic::AMQPMethod::QosOk(basic::QosOk {})),
        Basic(basic::AMQPMethod::Consume(_)) => return vec![consuming(number, "consumer")],
        Basic(basic::AMQPMethod::Get(_)) => Basic(basic::AMQPMethod::GetEmpty(basic::GetEmpty {})),
        Basic(basic::AMQPMethod::Cancel(cancel)) => {
            let consumer_tag = cancel.consumer_tag.clone();
            Basic(basic::AMQPMethod::CancelOk(basic::CancelOk { consumer_tag }))
        }
        Confirm(confirm::AMQPMethod::Select(_)) => {
            Confirm(confirm::AMQPMethod::SelectOk(confirm::SelectOk {}))
        }
        _ => return Vec::new(),
    };
    vec![method(number, answer)]
}
