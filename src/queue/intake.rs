//! One consumer, and the deliveries that come from it.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Acker, Channel, Connection, Consumer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::timeout;

use super::topology::Lane;

/// Headers of copies that we publish: which attempt they are, and when the first one failed.
pub(super) const ATTEMPT: &str = "avscan-attempt";
pub(super) const DEFERRED: &str = "avscan-deferred";
pub(super) const FIRST_FAILURE: &str = "avscan-first-failure";
pub(super) const MISSED: &str = "avscan-missed";
pub(super) const REDRIVEN: &str = "avscan-redriven";

/// A broker that does not answer by then is treated as gone; its heartbeat tells later.
const ANSWER: Duration = Duration::from_secs(10);

/// One message.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// The message, as it came.
    pub(crate) body: Vec<u8>,
    /// Which attempt this is; the first is 1.
    pub(crate) attempt: u32,
    /// How often it was put off without an attempt being counted.
    pub(crate) deferred: u32,
    /// The object that it announces was not there when it was last looked for.
    pub(crate) missed: bool,
    /// How often it was parked and moved back.
    pub(crate) redriven: u32,
    /// It had been given to a consumer before, and that one did not settle it.
    pub(crate) redelivered: bool,
    /// How often it came back unsettled, where the broker counts that (quorum queues).
    pub(crate) returns: u32,
    pub(super) first_failure: Option<String>,
    pub(super) content_type: Option<ShortString>,
    pub(super) message_id: Option<ShortString>,
    acker: Acker,
}

impl Delivery {
    pub(super) fn new(raw: lapin::message::Delivery) -> Self {
        let headers = raw.properties.headers().as_ref();
        let header = |name: &str| headers.and_then(|h| h.inner().get(name));
        let attempt = header(ATTEMPT).and_then(integer).unwrap_or(1).max(1);
        let returns = header("x-delivery-count").and_then(integer).unwrap_or(0);
        let first_failure = match header(FIRST_FAILURE) {
            Some(AMQPValue::LongString(text)) => Some(text.to_string()).filter(|t| is_time(t)),
            _ => None,
        };
        let deferred = header(DEFERRED).and_then(integer).unwrap_or(0);
        let missed = header(MISSED).and_then(integer).is_some_and(|missed| missed > 0);
        let redriven = header(REDRIVEN).and_then(integer).unwrap_or(0);
        Self {
            attempt,
            deferred,
            missed,
            redriven,
            redelivered: raw.redelivered,
            returns,
            first_failure,
            content_type: raw.properties.content_type().clone(),
            message_id: raw.properties.message_id().clone(),
            acker: raw.acker,
            body: raw.data,
        }
    }

    /// An attempt at it has failed before, perhaps before it was parked and moved back.
    pub(crate) fn failed_before(&self) -> bool {
        self.attempt > 1 || self.first_failure.is_some()
    }

    /// The message id, for log lines and report ids of messages that have one.
    pub(crate) fn message_id(&self) -> Option<&str> {
        self.message_id.as_ref().map(ShortString::as_str)
    }

    /// Acknowledges. When the channel is gone the broker gives the message to somebody again, and
    /// nothing else can be done about it: delivery tags mean nothing on another channel.
    pub(super) async fn ack(&self) {
        match timeout(ANSWER, self.acker.ack(BasicAckOptions::default())).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => tracing::debug!("acknowledged too late, the message will come again"),
            Ok(Err(error)) => tracing::debug!(%error, "not acknowledged, it will come again"),
            Err(_) => tracing::debug!("not acknowledged in time, the message will come again"),
        }
    }
}

/// Headers may come from anybody: one that is not ours, or huge, must not get into our copies.
fn is_time(text: &str) -> bool {
    text.len() <= 40 && OffsetDateTime::parse(text, &Rfc3339).is_ok()
}

fn integer(value: &AMQPValue) -> Option<u32> {
    let number = match value {
        AMQPValue::LongLongInt(n) => *n,
        AMQPValue::LongInt(n) => i64::from(*n),
        AMQPValue::LongUInt(n) => i64::from(*n),
        AMQPValue::ShortInt(n) => i64::from(*n),
        AMQPValue::ShortUInt(n) => i64::from(*n),
        AMQPValue::ShortShortInt(n) => i64::from(*n),
        AMQPValue::ShortShortUInt(n) => i64::from(*n),
        _ => return None,
    };
    u32::try_from(number).ok()
}

/// What comes from a consumer.
pub(crate) enum Next {
    Delivery(Box<Delivery>),
    /// The broker ended it, and its channel stands: the queue was deleted. What was delivered exists
    /// nowhere else any more.
    Cancelled,
    /// Its channel or connection failed: the broker gives what was delivered to somebody again.
    Failed,
}

/// One consumer on a channel of its own. Closing the channel gives back what is unsettled.
pub(crate) struct Intake {
    channel: Channel,
    consumer: Consumer,
}

impl Intake {
    pub(super) async fn open(
        connection: &Connection,
        lane: &Lane,
        prefetch: u16,
    ) -> lapin::Result<Self> {
        let channel = connection.create_channel().await?;
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let consumer = channel
            .basic_consume(
                lane.queue.as_str().into(),
                ShortString::default(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await?;
        Ok(Self { channel, consumer })
    }

    /// The next delivery, or why there is none.
    pub(crate) async fn next(&mut self) -> Next {
        match self.consumer.next().await {
            Some(Ok(delivery)) => Next::Delivery(Box::new(Delivery::new(delivery))),
            None => {
                tracing::warn!("the broker ended the consumer: was its queue deleted?");
                Next::Cancelled
            }
            Some(Err(error)) => {
                tracing::warn!(error = crate::failure::causes(&error), "the consumer ended");
                Next::Failed
            }
        }
    }

    /// Asks the broker for no more. Deliveries already given out can still be settled.
    pub(crate) async fn stop(&self) {
        let cancel = self.channel.basic_cancel(self.consumer.tag(), BasicCancelOptions::default());
        if !matches!(timeout(ANSWER, cancel).await, Ok(Ok(()))) {
            tracing::debug!("the consumer was already gone");
        }
    }

    /// Closes the channel: the broker gives what is unsettled to other consumers.
    pub(crate) async fn close(self) {
        if !matches!(timeout(ANSWER, self.channel.close(200, "bye".into())).await, Ok(Ok(()))) {
            tracing::debug!("the channel was already closed");
        }
    }
}
