//! Faults of the store.

use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use peers::error::Result;
use peers::proxy::{Call, Fault, Op};

use crate::ledger::{OBJECTS, joined};
use crate::samples::Fate;
use crate::scenario::{Scenario, sleep};
use crate::world::World;

const SLOW_DOWN: &str = "<Error><Code>SlowDown</Code><Message>Please reduce</Message></Error>";
const INTERNAL: &str = "<Error><Code>InternalError</Code><Message>Oh no</Message></Error>";
const DENIED: &str = "<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>";
const BAD_KEY: &str =
    "<Error><Code>InvalidAccessKeyId</Code><Message>No such key</Message></Error>";

pub(super) fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("store-killed", "the store itself is killed, and back after 5 s", killed)
            .store_fails(),
        Scenario::new("store-stopped", "the store itself is stopped for 15 s", stopped)
            .recovers()
            .store_fails(),
        Scenario::new("store-cut", "every connection to the store is cut for 7 s", cut)
            .recovers()
            .store_fails(),
        Scenario::new(
            "store-hung",
            "the store swallows all requests for 15 s, and never answers them",
            hung,
        )
        .recovers()
        .store_fails(),
        Scenario::new("store-slow", "every answer takes up to 0.7 s", slow)
            .with("SCAN_CONCURRENCY", "16"),
        Scenario::new("store-503", "503 for 6 s, then for a part of the requests", unavailable)
            .short()
            .store_fails(),
        Scenario::new("store-truncated", "bodies break off", truncated).store_fails(),
        Scenario::new("store-credentials", "the store rejects our key for 6 s", credentials)
            .recovers()
            .store_fails(),
        Scenario::new("store-500-object", "three objects answer 500 for ever", broken_objects)
            .with("RETRY_LIMIT", "3")
            .store_fails(),
        Scenario::new("store-403-tag", "tags of thirty objects are denied", tag_denied),
        Scenario::new("store-403-delete", "deletions of thirty objects are denied", delete_denied),
    ]
}

/// All requests get a fault for some time.
async fn for_some_time(
    world: &mut World,
    seconds: u64,
    fault: impl Fn() -> Fault + Send + Sync + 'static,
) -> Result<()> {
    let fed = world.while_feeding(OBJECTS, 7, async |world| {
        sleep(2.0).await;
        world.store.script(move |_| fault());
        world.down_for(Duration::from_secs(seconds)).await?;
        world.store.pass();
        world.healed();
        Ok(())
    });
    fed.await
}

fn killed(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.while_feeding(OBJECTS, 8, async |world| {
        sleep(3.0).await;
        world.restart("gateway", Some(Duration::from_secs(5))).await?;
        world.healed();
        // A store that is killed may not announce all uploads, which is not the daemon's fault.
        let (amqp, names) = (world.amqp().await?, world.daemons[0].names.clone());
        for upload in world.ledger.uploads() {
            let event = world.ledger.notification(&upload);
            amqp.notify(&names.exchange, &names.routing_key, &event).await?;
        }
        Ok(())
    })
}

fn stopped(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        joined(world.ledger.feed(OBJECTS / 2, Duration::from_secs(2))).await?;
        let feeding = world.ledger.feed_from(OBJECTS / 2, OBJECTS / 2, Duration::ZERO);
        sleep(0.3).await;
        world.stack.service("gateway").pause()?;
        world.down_for(Duration::from_secs(15)).await?;
        world.stack.service("gateway").resume()?;
        world.healed();
        joined(feeding).await
    })
}

fn cut(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(for_some_time(world, 7, || Fault::Cut))
}

fn hung(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(for_some_time(world, 15, || Fault::Hang))
}

fn credentials(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(for_some_time(world, 6, || Fault::Answer(403, BAD_KEY)))
}

fn slow(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        let rng = world.ledger.clone();
        world
            .store
            .script(move |_| Fault::Late(Duration::from_millis(rng.random(|rng| rng.u64(0..700)))));
        joined(world.ledger.feed(OBJECTS, Duration::from_secs(3))).await
    })
}

fn unavailable(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.while_feeding(OBJECTS, 8, async |world| {
        sleep(1.0).await;
        world.store.script(|_| Fault::Answer(503, SLOW_DOWN));
        sleep(6.0).await;
        world.healed();
        let rng = world.ledger.clone();
        world.store.script(move |_| match rng.random(|rng| rng.u32(0..10)) {
            0 => Fault::Answer(503, SLOW_DOWN),
            1 => Fault::Answer(500, INTERNAL),
            _ => Fault::Pass,
        });
        sleep(6.0).await;
        world.store.pass();
        Ok(())
    })
}

fn truncated(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    let rng = world.ledger.clone();
    world.store.script(move |call| {
        let chosen = rng.random(|rng| rng.u32(0..10)) < 4;
        if call.op == Op::Get && chosen { Fault::Half } else { Fault::Pass }
    });
    world.while_feeding(OBJECTS, 6, async |world| {
        sleep(9.0).await;
        world.store.pass();
        Ok(())
    })
}

fn broken_objects(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        world.store.script(|call: &Call| {
            if call.key.starts_with("broken") { Fault::Answer(500, INTERNAL) } else { Fault::Pass }
        });
        for n in 0..3 {
            world.ledger.put(&format!("broken-{n}"), Fate::Clean).await?;
        }
        world
            .ledger
            .change(|upload| upload.key.starts_with("broken"), |upload| upload.parks = true);
        joined(world.ledger.feed(OBJECTS, Duration::from_secs(5))).await
    })
}

/// One operation is denied for thirty objects. Their messages must be parked, with the verdict
/// reported.
async fn denied(world: &mut World, op: Op, fates: [Fate; 2]) -> Result<()> {
    world.store.script(move |call| {
        let denied = call.op == op && call.key.starts_with("denied");
        if denied { Fault::Answer(403, DENIED) } else { Fault::Pass }
    });
    let fed = world.while_feeding(OBJECTS, 6, async |world| {
        for n in 0..30 {
            world.ledger.put(&format!("denied-{n}"), fates[n % 2]).await?;
        }
        world
            .ledger
            .change(|upload| upload.key.starts_with("denied"), |upload| upload.parks = true);
        Ok(())
    });
    fed.await
}

fn tag_denied(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(denied(world, Op::SetTags, [Fate::Clean, Fate::Encrypted]))
}

fn delete_denied(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(denied(world, Op::Delete, [Fate::Infected, Fate::Infected]))
}
