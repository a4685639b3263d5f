//! Counts the messages that wait in the work queues, by passive declares, which need no right that
//! the daemon does not have anyway.

use lapin::options::QueueDeclareOptions;
use lapin::protocol::AMQPSoftError;
use lapin::types::FieldTable;
use lapin::{Channel, Connection};

use super::error::soft;
use super::topology::{Topology, WorkQueue};
use crate::health::QueueDepth;

/// Counts queue after queue on one channel, for as long as none is missing: the answer to that closes
/// the channel (AMQP 0-9-1), and the next queue is asked for on a new one.
pub(super) struct Counter<'a> {
    connection: &'a Connection,
    channel: Option<Channel>,
}

impl<'a> Counter<'a> {
    pub(super) fn new(connection: &'a Connection) -> Self {
        Self { connection, channel: None }
    }

    /// The messages of all work queues.
    ///
    /// # Errors
    /// When the broker fails.
    pub(super) async fn depths(&mut self, topology: &Topology) -> lapin::Result<Vec<QueueDepth>> {
        let Topology { notifications, backlog, sweeps, reports, .. } = topology;
        let mut depths = Vec::new();
        for work_queue in [notifications, backlog, sweeps].into_iter().chain(reports) {
            depths.push(self.depth(work_queue).await?);
        }
        Ok(depths)
    }

    async fn depth(&mut self, work_queue: &WorkQueue) -> lapin::Result<QueueDepth> {
        let mut missing = Vec::new();
        let ready = self.count(&work_queue.queue, &mut missing).await?;
        let mut retry = 0;
        for queue in &work_queue.retry {
            retry += self.count(queue, &mut missing).await?.unwrap_or_default();
        }
        let dead = match &work_queue.dead {
            Some(dead) => self.count(dead, &mut missing).await?,
            None => None,
        };
        Ok(QueueDepth { queue: work_queue.kind, ready, retry, dead, missing })
    }

    /// `None` for a queue that does not exist, which is added to the `missing` ones.
    async fn count(
        &mut self,
        queue: &str,
        missing: &mut Vec<String>,
    ) -> lapin::Result<Option<u64>> {
        let channel = match self.channel.take() {
            Some(channel) => channel,
            None => self.connection.create_channel().await?,
        };
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        match channel.queue_declare(queue.into(), options, FieldTable::default()).await {
            Ok(found) => {
                self.channel = Some(channel);
                Ok(Some(found.message_count().into()))
            }
            Err(error) if soft(&error) == Some(&AMQPSoftError::NOTFOUND) => {
                missing.push(queue.to_owned());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
