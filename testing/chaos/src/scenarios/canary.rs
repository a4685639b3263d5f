//! What the source canary has to notice, and what it must not take for a lost subscription.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;
use lapin::types::FieldTable;
use peers::error::{Context, Result};
use peers::proxy::Fault;
use peers::scripted::{Reply, Server};
use stack::clamd::Database;
use stack::webhooks::Route;

use crate::ledger::{OBJECTS, joined};
use crate::scenario::{Scenario, sleep};
use crate::world::World;

const EVERY: &str = "10s";
const TWO_INTERVALS: Duration = Duration::from_secs(20);
/// For the first round, and for the one that proves the recovery.
const A_ROUND: Duration = Duration::from_secs(40);
/// Objects that come while every request to the store is slow.
const SLOW: usize = 120;

pub(super) fn all() -> Vec<Scenario> {
    let canary = |name, what, run| {
        Scenario::new(name, what, run).with("CANARY_EVERY", EVERY).with("CANARY_DEADLINE", "3s")
    };
    vec![
        canary(
            "canary-subscription",
            "the bucket's subscription is removed, and set again once that is noticed",
            subscription,
        )
        .alarms()
        .short(),
        canary(
            "canary-binding",
            "the queue's binding is removed again and again until that is noticed",
            binding,
        )
        .alarms(),
        canary(
            "canary-store-reset",
            "the store is restarted and has lost the bucket's subscription",
            store_reset,
        )
        .alarms()
        .store_fails(),
        canary(
            "canary-blind",
            "clamd comes back without its database until that is noticed",
            blind,
        )
        .recovers(),
        Scenario::new(
            "canary-quiet",
            "broker, store and engine fail in turn, and slow objects pile up: no alarm",
            quiet,
        )
        .store_fails()
        .deletions_unsaid(),
    ]
}

/// Whether every replica shows this of the bucket.
async fn shown(world: &World, up: bool) -> Result<bool> {
    let name = format!("avscan_source_up{{bucket=\"{}\"}} ", world.daemons[0].names.bucket);
    for daemon in &world.daemons {
        let page = daemon.page("/metrics").await?;
        let value = page.lines().find_map(|line| line.strip_prefix(name.as_str()));
        if value != Some(if up { "1" } else { "0" }) {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn expect_up(world: &mut World) -> Result<()> {
    world
        .expect("both replicas show the source up", A_ROUND, async |world| shown(world, true).await)
        .await
}

async fn expect_down(world: &mut World) -> Result<()> {
    let what = "both replicas show the source down";
    world.expect(what, TWO_INTERVALS, async |world| shown(world, false).await).await
}

/// Objects that have to be announced, so none while they are not.
async fn feed(world: &mut World) -> Result<()> {
    joined(world.ledger.feed(OBJECTS, Duration::from_secs(3))).await
}

fn subscription(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        expect_up(world).await?;
        world.unsubscribe().await?;
        expect_down(world).await?;
        world.direct.announce().await?;
        world.healed();
        expect_up(world).await?;
        feed(world).await
    })
}

fn store_reset(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        expect_up(world).await?;
        world.restart("gateway", None).await?;
        world.unsubscribe().await?;
        expect_down(world).await?;
        world.direct.announce().await?;
        world.healed();
        expect_up(world).await?;
        feed(world).await
    })
}

/// Publishes the store's events to its exchange, as MinIO's AMQP target does: a message that no queue
/// takes counts as sent. Source: `internal/event/target/amqp.go` of minio/minio.
async fn announce_by_amqp(world: &World) -> Result<Server> {
    let (events, mut received) = tokio::sync::mpsc::unbounded_channel::<Arc<Vec<u8>>>();
    let target = Server::start(move |request| {
        // The other end lives as long as the scenario.
        drop(events.send(Arc::clone(&request.body)));
        Reply::new(200, "")
    });
    let intakes = vec![target.url().trim_start_matches("http://").to_owned()];
    let names = world.daemons[0].names.clone();
    world.stack.route(&names.bucket, &Route { intakes, by_webhook_alone: false })?;
    let amqp = world.amqp().await?;
    tokio::spawn(async move {
        while let Some(event) = received.recv().await {
            drop(amqp.offer(&names.exchange, &names.routing_key, &event, &[]).await);
        }
    });
    Ok(target)
}

fn binding(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        let target = announce_by_amqp(world).await?;
        world.disks.push(Box::new(target));
        expect_up(world).await?;
        let channel = world.amqp().await?;
        let channel = channel.channel().await?;
        let names = world.daemons[0].names.clone();
        let began = Instant::now();
        // The daemon restores it by itself every 20 s.
        while !shown(world, false).await? {
            if began.elapsed() > TWO_INTERVALS {
                world.wrongs.push("the removed binding was not noticed".to_owned());
                break;
            }
            let (queue, exchange) = (names.queue.as_str().into(), names.exchange.as_str().into());
            let key = names.routing_key.as_str().into();
            let unbound = channel.queue_unbind(queue, exchange, key, FieldTable::default()).await;
            unbound.context("unbind")?;
            sleep(0.1).await;
        }
        world.healed();
        expect_up(world).await?;
        feed(world).await
    })
}

fn blind(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        expect_up(world).await?;
        world.restart_engine(Database::Nothing).await?;
        world
            .expect("both replicas say that the engine is blind", TWO_INTERVALS, async |world| {
                Ok(world.daemons.iter().all(|daemon| daemon.status("/readyz") == Some(503)))
            })
            .await?;
        let feeding = world.ledger.feed(OBJECTS, Duration::from_secs(3));
        world.restart_engine(Database::Eicar).await?;
        world.healed();
        joined(feeding).await?;
        expect_up(world).await?;
        Ok(())
    })
}

fn quiet(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        expect_up(world).await?;
        let feeding = world.ledger.feed(OBJECTS - SLOW, Duration::from_secs(40));
        world.restart("rabbitmq", None).await?;
        sleep(25.0).await;
        world.store.script(|_| Fault::Cut);
        sleep(15.0).await;
        world.store.pass();
        joined(feeding).await?;
        sleep(10.0).await;
        world.kill_engine().await;
        sleep(12.0).await;
        world.restart_engine(Database::Eicar).await?;
        sleep(20.0).await;
        // Every request to the store takes so long that more objects come than are worked on.
        world.store.script(|_| Fault::Late(Duration::from_millis(1500)));
        joined(world.ledger.feed_from(OBJECTS - SLOW, SLOW, Duration::from_secs(5))).await?;
        sleep(40.0).await;
        world.store.pass();
        expect_up(world).await?;
        Ok(())
    })
}
