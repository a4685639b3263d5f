//! Asks for the messages of one queue, one at a time, on a channel of its own.
//!
//! A message that is pushed in advance would wait at a replica that has no room for it, while others
//! have.

use std::time::Duration;

use lapin::options::BasicGetOptions;
use lapin::protocol::AMQPSoftError;
use lapin::{Channel, Connection, ErrorKind};
use tokio::time::timeout;

use super::consumer::Next;
use super::delivery::Delivery;
use super::error::soft;
use super::topology::WorkQueue;
use super::{ANSWER_TIMEOUT, CLOSE_TIMEOUT};

/// After the queue was found empty.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// Doubled up to this while it stays empty.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Pulls from one queue. The broker redelivers what is unsettled once the channel is closed.
pub(crate) struct Puller {
    channel: Channel,
    queue: String,
    pause: Duration,
}

impl Puller {
    /// Opens the channel.
    ///
    /// # Errors
    /// When the connection fails.
    pub(super) async fn open(
        connection: &Connection,
        work_queue: &WorkQueue,
    ) -> lapin::Result<Self> {
        let channel = connection.create_channel().await?;
        Ok(Self { channel, queue: work_queue.queue.clone(), pause: SHORTEST_PAUSE })
    }

    /// Asks for a message; `None` if there is none.
    pub(crate) async fn pull(&mut self) -> Option<Next> {
        let get = self.channel.basic_get(self.queue.as_str().into(), BasicGetOptions::default());
        match timeout(ANSWER_TIMEOUT, get).await {
            Ok(Ok(Some(message))) => {
                self.pause = SHORTEST_PAUSE;
                Some(Next::Delivery(Box::new(Delivery::new(message.delivery))))
            }
            Ok(Ok(None)) => None,
            Ok(Err(error)) => Some(ended_by(&error)),
            // A queue without its majority does not answer, and others do: this is not yet the end of
            // the session.
            Err(_) => {
                tracing::warn!(queue = self.queue, "no answer to basic.get");
                Some(Next::Closed { overdue: false })
            }
        }
    }

    /// Waits a moment, longer each time, until the queue is asked again.
    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// Closes the channel; the broker redelivers what is unsettled. Returns whether the broker
    /// answered. If so, it has received every acknowledgement sent before.
    pub(crate) async fn close(self) -> bool {
        let closed = timeout(CLOSE_TIMEOUT, self.channel.close(200, "bye".into())).await;
        matches!(closed, Ok(Ok(())))
    }
}

fn ended_by(error: &lapin::Error) -> Next {
    match (soft(error), error.kind()) {
        (Some(AMQPSoftError::NOTFOUND), _) => return Next::Cancelled,
        // The broker closed the channel before, while nothing was asked: most likely since a delivery
        // took longer than its `consumer_timeout`.
        (None, ErrorKind::InvalidChannel(_) | ErrorKind::InvalidChannelState(..)) => {
            tracing::warn!("the broker closed the channel of the backlog");
            return Next::Closed { overdue: true };
        }
        _ => {}
    }
    super::consumer::ended_by(error)
}
