//! The throughput of one quorum queue when its consumer does no work.

use std::time::Instant;

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use peers::error::{Context, Result};
use serde::Serialize;

use crate::rig::Rig;
use crate::sets::Object;
use crate::stats::as_f64;

/// Notifications of each measurement.
const COUNT: usize = 20_000;
/// Most unacknowledged messages, as with many slots.
const PREFETCH: u16 = 64;

/// Messages per second.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Broker {
    pub(super) messages: usize,
    /// Published persistent and confirmed, without a consumer.
    pub(super) published: f64,
    /// Consumed and acknowledged one by one, without a publisher.
    pub(super) consumed: f64,
    /// Both at the same time.
    pub(super) through: f64,
}

/// Fills the work queue, empties it, then does both at the same time.
///
/// # Errors
/// When the broker refuses, or a message is missing.
pub(super) async fn run(rig: &Rig, objects: &[Object]) -> Result<Broker> {
    let all: Vec<&Object> = objects.iter().cycle().take(COUNT).collect();
    let rate = |start: Instant| as_f64(COUNT) / start.elapsed().as_secs_f64();
    let start = Instant::now();
    rig.announce(&all).await?;
    let published = rate(start);
    let start = Instant::now();
    empty(rig).await?;
    let consumed = rate(start);
    let start = Instant::now();
    let (announced, emptied) = tokio::join!(rig.announce(&all), empty(rig));
    announced.and(emptied)?;
    Ok(Broker { messages: COUNT, published, consumed, through: rate(start) })
}

async fn empty(rig: &Rig) -> Result<()> {
    let channel = rig.amqp.channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.context("prefetch")?;
    let (queue, tag) = (rig.daemon.names.queue.as_str().into(), "bench".into());
    let (options, arguments) =
        (BasicConsumeOptions::default(), lapin::types::FieldTable::default());
    let mut deliveries =
        channel.basic_consume(queue, tag, options, arguments).await.context("consume")?;
    for _ in 0..COUNT {
        let delivery = deliveries.next().await.context("the broker ended it")?;
        let delivery = delivery.context("delivery")?;
        delivery.ack(BasicAckOptions::default()).await.context("ack")?;
    }
    channel.close(200, "done".into()).await.context("close")
}
