//! Reads the parked messages of a queue, and moves them back or leaves them parked.
//!
//! A message can only be read by taking it out of its queue, and a quorum queue counts its return
//! as a failed delivery. So a message that stays parked is replaced too: a confirmed copy with the
//! same body and the same headers of ours, then the acknowledgement of the original. Order and
//! counts stay as they are. An interruption can leave one message twice, and none is lost.

use std::time::Duration;

use lapin::Channel;
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::types::FieldTable;

use super::ANSWER_TIMEOUT;
use super::delivery::Delivery;
use super::error::OpenError;
use super::headers::{self, History, RecordedFailure};
use super::publisher::Publisher;
use super::session::Session;
use super::topology::WorkQueue;
use crate::failure::Failure;

/// A quorum queue applies an acknowledgement a moment after it was sent.
const ACK_SETTLE_DELAY: Duration = Duration::from_millis(300);

/// The messages that were parked when [`Session::parked`] was called, oldest first.
pub(crate) struct ParkedMessages<'a> {
    channel: Channel,
    publisher: &'a Publisher,
    queue: String,
    dead: String,
    /// Messages still to read. Bounded at the start: those that stay parked are appended again.
    left: u32,
}

/// One parked message. Move it back or put it back: a dropped one is redelivered to the dead-letter
/// queue when the channel closes, and counted by the broker.
#[derive(Debug)]
pub(crate) struct ParkedMessage {
    /// Why it was parked.
    pub(crate) failure: RecordedFailure,
    delivery: Delivery,
    /// Our headers, unchanged.
    headers: FieldTable,
}

/// Why a redrive ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RedriveError {
    /// The broker failed or did not answer.
    #[error("{0}")]
    Broker(#[from] OpenError),
    /// A copy was not confirmed.
    #[error("{0}")]
    Publish(#[from] Failure),
    /// Nothing of this queue is parked.
    #[error("{0} has no dead-letter queue")]
    NoDeadLetters(String),
}

impl From<lapin::Error> for RedriveError {
    fn from(error: lapin::Error) -> Self {
        Self::Broker(error.into())
    }
}

impl Session {
    /// Opens the dead-letter queue of `work_queue`, and counts its messages.
    ///
    /// # Errors
    /// When the broker fails or does not answer within [`ANSWER_TIMEOUT`].
    pub(crate) async fn parked(
        &self,
        work_queue: &WorkQueue,
    ) -> Result<ParkedMessages<'_>, RedriveError> {
        let Some(dead) = &work_queue.dead else {
            return Err(RedriveError::NoDeadLetters(work_queue.queue.clone()));
        };
        let opened = async {
            let channel = self.channel().await?;
            let passive = QueueDeclareOptions { passive: true, ..Default::default() };
            let queue =
                channel.queue_declare(dead.as_str().into(), passive, FieldTable::default()).await?;
            Ok::<_, lapin::Error>((channel, queue.message_count()))
        };
        let (channel, left) = answer("queue.declare", opened).await?;
        Ok(ParkedMessages {
            channel,
            publisher: self.publisher(),
            queue: work_queue.queue.clone(),
            dead: dead.clone(),
            left,
        })
    }
}

impl ParkedMessages<'_> {
    /// The next message; `None` after the last one.
    ///
    /// # Errors
    /// When the broker fails or does not answer within [`ANSWER_TIMEOUT`].
    pub(crate) async fn next(&mut self) -> Result<Option<ParkedMessage>, RedriveError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let get = self.channel.basic_get(self.dead.as_str().into(), BasicGetOptions::default());
        let Some(message) = answer("basic.get", get).await? else {
            self.left = 0;
            return Ok(None);
        };
        let all = message.delivery.properties.headers().clone().unwrap_or_default();
        Ok(Some(ParkedMessage {
            failure: RecordedFailure::read(&all),
            headers: headers::own(&all),
            delivery: Delivery::new(message.delivery),
        }))
    }

    /// Moves `message` back to its work queue, where its attempts are counted from 1 again.
    ///
    /// # Errors
    /// When the copy is not confirmed or the original not acknowledged. Messages moved before stay
    /// moved.
    pub(crate) async fn move_back(&self, message: ParkedMessage) -> Result<(), RedriveError> {
        let history = &message.delivery.history;
        let moved = History {
            redriven: history.redriven.saturating_add(1),
            // Kept, so that the next attempt corrects what was reported of the failure.
            first_failure: history.first_failure.clone(),
            ..History::default()
        };
        self.replace(&self.queue, &message.delivery, moved.to_headers(None)).await
    }

    /// Leaves `message` parked, behind those not read yet. Only the broker's delivery count
    /// restarts.
    ///
    /// # Errors
    /// As [`Self::move_back`].
    pub(crate) async fn put_back(&self, message: ParkedMessage) -> Result<(), RedriveError> {
        self.replace(&self.dead, &message.delivery, message.headers).await
    }

    /// Waits until the last acknowledgement is applied. If the channel closed earlier, the original
    /// would be requeued beside its copy.
    pub(crate) async fn finish(self) {
        tokio::time::sleep(ACK_SETTLE_DELAY).await;
    }

    /// Publishes a copy to `queue`, waits for its confirm, then acknowledges the original.
    async fn replace(
        &self,
        queue: &str,
        original: &Delivery,
        headers: FieldTable,
    ) -> Result<(), RedriveError> {
        self.publisher.publish_copy(queue, &original.body, original, headers).await?;
        if original.ack().await {
            return Ok(());
        }
        let detail = "a message was not acknowledged, and is there twice now".to_owned();
        Err(OpenError::Unreachable(detail).into())
    }
}

impl ParkedMessage {
    /// The bytes of the message.
    pub(crate) fn body(&self) -> &[u8] {
        &self.delivery.body
    }

    /// The attempt after which it was parked.
    pub(crate) fn attempts(&self) -> u32 {
        self.delivery.history.attempt
    }
}

async fn answer<T>(
    method: &str,
    asked: impl Future<Output = lapin::Result<T>>,
) -> Result<T, RedriveError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(OpenError::Unreachable(format!("no answer to {method}")).into()),
    }
}
