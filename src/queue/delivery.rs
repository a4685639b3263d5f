//! One message as it was delivered.

use lapin::Acker;
use lapin::options::BasicAckOptions;
use lapin::types::ShortString;
use tokio::time::timeout;

use super::ANSWER_TIMEOUT;
use super::headers::{self, History};
use crate::trace::Trace;

/// A message that has to be settled once.
#[derive(Debug)]
#[expect(
    clippy::struct_field_names,
    reason = "`delivery_count` is the name that RabbitMQ gives it"
)]
pub(crate) struct Delivery {
    /// The bytes of the message, unchanged.
    pub(crate) body: Vec<u8>,
    /// The message was delivered before, and that consumer did not settle it.
    pub(crate) redelivered: bool,
    /// How often it was returned to the queue unsettled. Only quorum queues count this; else 0.
    pub(crate) delivery_count: u32,
    /// What happened to it before, from its headers.
    pub(crate) history: History,
    /// Where it belongs, from its headers; its copies too.
    pub(crate) trace: Trace,
    pub(super) content_type: Option<ShortString>,
    pub(super) message_id: Option<ShortString>,
    acker: Acker,
}

impl Delivery {
    pub(super) fn new(raw: lapin::message::Delivery) -> Self {
        let headers = raw.properties.headers().as_ref();
        Self {
            redelivered: raw.redelivered,
            delivery_count: headers::delivery_count(headers),
            history: History::read(headers),
            trace: headers::trace(headers),
            content_type: raw.properties.content_type().clone(),
            message_id: raw.properties.message_id().clone(),
            acker: raw.acker,
            body: raw.data,
        }
    }

    /// Whether an attempt failed before, perhaps before the message was parked and moved back.
    pub(crate) fn failed_before(&self) -> bool {
        self.history.attempt > 1 || self.history.first_failure.is_some()
    }

    /// Whether this message, or one that it is a copy of, was worked on before, perhaps up to its last
    /// step.
    pub(crate) fn worked_on_before(&self) -> bool {
        self.redelivered || self.failed_before() || self.history.deferred > 0
    }

    /// The AMQP message id, if the publisher set one.
    pub(crate) fn message_id(&self) -> Option<&str> {
        self.message_id.as_ref().map(ShortString::as_str)
    }

    /// Acknowledges the message. Returns whether the acknowledgement was sent. If not, the broker
    /// redelivers the message: a delivery tag is valid only on its own channel, so there is no
    /// second try.
    pub(super) async fn ack(&self) -> bool {
        let acked = timeout(ANSWER_TIMEOUT, self.acker.ack(BasicAckOptions::default())).await;
        matches!(acked, Ok(Ok(true)))
    }
}
