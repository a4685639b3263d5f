//! Counts the messages that wait in the work queues, by passive declares, which need no right that
//! the daemon does not have anyway.

use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

use super::topology::{Topology, WorkQueue};
use crate::health::QueueDepth;

/// Counts them one after the other, on one channel. It is closed by the broker after an error.
///
/// # Errors
/// When the broker fails, or one of the queues does not exist.
pub(super) async fn depths(
    channel: &Channel,
    topology: &Topology,
) -> lapin::Result<Vec<QueueDepth>> {
    let Topology { notifications, backlog, sweeps, reports, .. } = topology;
    let mut depths = Vec::new();
    for work_queue in [notifications, backlog, sweeps].into_iter().chain(reports) {
        depths.push(of(channel, work_queue).await?);
    }
    Ok(depths)
}

async fn of(channel: &Channel, work_queue: &WorkQueue) -> lapin::Result<QueueDepth> {
    let ready = count(channel, &work_queue.queue).await?;
    let mut retry = 0;
    for queue in &work_queue.retry {
        retry += count(channel, queue).await?;
    }
    let dead = match &work_queue.dead {
        Some(dead) => Some(count(channel, dead).await?),
        None => None,
    };
    Ok(QueueDepth { queue: work_queue.kind, ready, retry, dead })
}

async fn count(channel: &Channel, queue: &str) -> lapin::Result<u64> {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let found = channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
    Ok(found.message_count().into())
}
