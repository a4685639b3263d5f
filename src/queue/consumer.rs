//! One consumer on a channel of its own.

use futures_util::StreamExt;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection};
use tokio::time::timeout;

use super::CLOSE_TIMEOUT;
use super::delivery::Delivery;
use super::error::soft;
use super::topology::WorkQueue;

/// Consumes one queue. The broker redelivers what is unsettled once the channel is closed.
pub(crate) struct Consumer {
    channel: Channel,
    deliveries: lapin::Consumer,
}

/// What a consumer yields.
pub(crate) enum Next {
    /// A message.
    Delivery(Box<Delivery>),
    /// The broker cancelled the consumer; its channel is still open. Either the queue was deleted,
    /// and unsettled messages exist only here; or a delivery took longer than `consumer_timeout`
    /// (since `RabbitMQ` 4.3), or a permission was revoked.
    /// Source: <https://www.rabbitmq.com/docs/consumer-cancel>
    Cancelled,
    /// The broker closed the channel and redelivers what was unsettled.
    Closed {
        /// A delivery took longer than the broker's `consumer_timeout`.
        overdue: bool,
    },
    /// The connection failed. The broker redelivers what was unsettled.
    Failed,
}

impl Consumer {
    /// Starts to consume, with at most `prefetch` unsettled deliveries.
    ///
    /// # Errors
    /// When the connection fails or the broker refuses.
    pub(super) async fn open(
        connection: &Connection,
        work_queue: &WorkQueue,
        prefetch: u16,
    ) -> lapin::Result<Self> {
        let channel = connection.create_channel().await?;
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let deliveries = channel
            .basic_consume(
                work_queue.queue.as_str().into(),
                ShortString::default(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await?;
        Ok(Self { channel, deliveries })
    }

    /// Waits for the next delivery, or the reason why there is none.
    pub(crate) async fn next(&mut self) -> Next {
        match self.deliveries.next().await {
            Some(Ok(delivery)) => Next::Delivery(Box::new(Delivery::new(delivery))),
            None => Next::Cancelled,
            Some(Err(error)) => ended_by(&error),
        }
    }

    /// Cancels the consumer. Deliveries already received can still be settled.
    pub(crate) async fn stop(&self) {
        let tag = self.deliveries.tag();
        let cancel = self.channel.basic_cancel(tag, BasicCancelOptions::default());
        if !matches!(timeout(CLOSE_TIMEOUT, cancel).await, Ok(Ok(()))) {
            tracing::debug!("no answer to basic.cancel; the consumer may be gone already");
        }
    }

    /// Closes the channel; the broker redelivers what is unsettled. Returns whether the broker
    /// answered. If so, it has received every acknowledgement sent before.
    pub(crate) async fn close(self) -> bool {
        let closed = timeout(CLOSE_TIMEOUT, self.channel.close(200, "bye".into())).await;
        matches!(closed, Ok(Ok(())))
    }
}

pub(super) fn ended_by(error: &lapin::Error) -> Next {
    let line = crate::failure::causes(error);
    match soft(error) {
        // The only other cause would be an unknown delivery tag, and no tag is acknowledged twice.
        Some(AMQPSoftError::PRECONDITIONFAILED) => {
            tracing::error!(
                error = line,
                "a message took longer than the broker's consumer_timeout, so the broker \
                 redelivers all unsettled messages: raise consumer_timeout (30 min is enough)"
            );
            Next::Closed { overdue: true }
        }
        Some(_) => {
            tracing::warn!(error = line, "the broker closed the consumer's channel");
            Next::Closed { overdue: false }
        }
        None => {
            tracing::warn!(error = line, "the consumer ended");
            Next::Failed
        }
    }
}
