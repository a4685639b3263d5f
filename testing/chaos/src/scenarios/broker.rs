//! Faults of the broker and of the way to it.

use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use peers::error::{Context, Error, Result};
use peers::proxy::{EngineFault, TcpProxy};

use crate::ledger::{OBJECTS, joined};
use crate::scenario::{Scenario, sleep};
use crate::world::World;

pub(super) fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("broker-restarted", "the broker is stopped and started again", restarted),
        Scenario::new("broker-killed", "kill -9 of the broker, started again", killed),
        Scenario::new("broker-cut", "the connections to the broker are cut, again and again", cut)
            .short(),
        Scenario::new(
            "broker-black-hole",
            "nothing goes to or comes from the broker for 45 s",
            black_hole,
        ),
        Scenario::new("broker-alarm", "memory alarm: the broker takes no messages for 8 s", alarm),
        Scenario::new(
            "queue-deleted",
            "the queue is deleted while all of its messages are being worked on",
            queue_deleted,
        )
        .short(),
        Scenario::new(
            "stranger-full",
            "somebody's queue for the results is full and refuses them",
            stranger,
        ),
    ]
}

/// Bound to where everybody may listen; that it takes nothing must not matter to anybody else.
fn stranger(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        let amqp = world.amqp().await?;
        let (queue, results) =
            (format!("{}.stranger", world.queue()), format!("{}.results", world.queue()));
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        let channel = amqp.channel().await?;
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel
            .queue_declare(queue.as_str().into(), durable, arguments)
            .await
            .context("stranger")?;
        // What fills it comes by an exchange of its own: nobody else is to get that.
        let (own, none) = (format!("{queue}.own"), FieldTable::default);
        let options = ExchangeDeclareOptions::default();
        let declared =
            channel.exchange_declare(own.as_str().into(), ExchangeKind::Fanout, options, none());
        declared.await.context("stranger")?;
        for exchange in [own.as_str(), &results] {
            let options = QueueBindOptions::default();
            let (queue, exchange) = (queue.as_str().into(), exchange.into());
            let bound = channel.queue_bind(queue, exchange, "#".into(), options, none());
            bound.await.context("stranger")?;
        }
        amqp.publish(&own, "", b"unread", &[]).await?;
        joined(world.ledger.feed(OBJECTS, Duration::from_secs(4))).await?;
        let limit = Duration::from_secs(30);
        let reported = async |world: &World| Ok(world.taken().len() >= OBJECTS);
        world.expect("everything is reported", limit, reported).await?;
        let lost = world.metric("avscan_sessions_lost_total").await?;
        if lost > 0 {
            world.wrongs.push(format!("{lost} sessions were lost by somebody else's queue"));
        }
        Ok(())
    })
}

fn restarted(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.while_feeding(OBJECTS, 8, async |world| {
        sleep(3.0).await;
        world.restart("rabbitmq", None).await?;
        world.healed();
        Ok(())
    })
}

fn killed(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.while_feeding(OBJECTS, 8, async |world| {
        sleep(3.0).await;
        world.restart("rabbitmq", Some(Duration::ZERO)).await?;
        world.healed();
        Ok(())
    })
}

fn cut(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.while_feeding(OBJECTS, 10, async |world| {
        for _ in 0..10 {
            world.a_while(300..1200).await;
            let which = world.ledger.random(|rng| rng.usize(0..2));
            world.brokers[which].cut();
        }
        Ok(())
    })
}

fn black_hole(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.while_feeding(OBJECTS, 8, async |world| {
        sleep(3.0).await;
        world.brokers.iter().for_each(TcpProxy::black_hole);
        sleep(45.0).await;
        world.brokers.iter().for_each(TcpProxy::pass);
        world.healed();
        Ok(())
    })
}

fn alarm(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.while_feeding(OBJECTS, 8, async |world| {
        sleep(2.0).await;
        raise_alarm(world, Duration::from_secs(8)).await?;
        world.healed();
        Ok(())
    })
}

/// A memory alarm for so long.
pub(super) async fn raise_alarm(world: &World, time: Duration) -> Result<()> {
    let ctl = |level: &'static str| {
        let stack = world.stack.clone();
        tokio::task::spawn_blocking(move || {
            stack.rabbitmqctl(&["set_vm_memory_high_watermark", level]).map(drop)
        })
    };
    joined(ctl("0.000001")).await?;
    tokio::time::sleep(time).await;
    joined(ctl("0.4")).await
}

/// What lies ready in a queue that is deleted the broker destroys, and nobody can help it. What is
/// in flight and what comes later has to count.
fn queue_deleted(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        let amqp = world.amqp().await?;
        let mut fed = 0;
        for round in 0..5 {
            joined(feed_part(world, &mut fed, OBJECTS / 6)).await?;
            settled(world, fed).await?;
            // As many as there are slots, so that none stays ready.
            world.engine.script(|_| EngineFault::Then(Box::pin(sleep(2.5))));
            joined(feed_part(world, &mut fed, 6)).await?;
            wait_empty(world).await?;
            sleep(0.5).await;
            let queue = world.queue().to_owned();
            amqp.delete_queue(&queue).await.context(format!("round {round}"))?;
            world.engine.pass();
        }
        joined(feed_part(world, &mut fed, OBJECTS / 6 + 20)).await
    })
}

fn feed_part(world: &World, fed: &mut usize, count: usize) -> tokio::task::JoinHandle<Result<()>> {
    let from = *fed;
    *fed += count;
    world.ledger.feed_from(from, count, Duration::ZERO)
}

/// Waits until everything that was fed has been scanned, so that the queue is empty.
async fn settled(world: &World, fed: usize) -> Result<()> {
    for _ in 0..300 {
        let reports = world.taken().len();
        if reports >= fed {
            return wait_empty(world).await;
        }
        sleep(0.1).await;
    }
    Err(Error::new(format!("not everything was reported: {} of {fed}", world.taken().len())))
}

async fn wait_empty(world: &World) -> Result<()> {
    let amqp = world.amqp().await?;
    for _ in 0..300 {
        let counts = [amqp.count(world.queue()).await?, waiting(world, &amqp).await?];
        if counts.iter().all(|count| count.is_none_or(|count| count == 0)) {
            return Ok(());
        }
        sleep(0.1).await;
    }
    Err(Error::new("the queue does not get empty"))
}

async fn waiting(world: &World, amqp: &stack::Amqp) -> Result<Option<u32>> {
    let mut sum = 0;
    for queue in world.queues("").iter().skip(1) {
        sum += amqp.count(queue).await?.unwrap_or(0);
    }
    Ok(Some(sum))
}
