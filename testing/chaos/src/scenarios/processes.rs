//! Faults of the daemon itself.

use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use peers::error::{Error, Result};
use peers::proxy::EngineFault;

use crate::ledger::OBJECTS;
use crate::scenario::{Scenario, sleep};
use crate::world::World;

pub(super) fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("daemon-killed", "kill -9 of either replica at random moments", killed)
            .short()
            .deletions_unsaid(),
        Scenario::new("daemon-terminated", "SIGTERM of either replica under load", terminated),
        Scenario::new(
            "replica-frozen",
            "a replica is stopped in mid-work, its messages go to the other one, it goes on",
            frozen,
        ),
    ]
}

fn killed(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.while_feeding(OBJECTS, 10, async |world| {
        for _ in 0..14 {
            world.a_while(200..1100).await;
            let which = world.ledger.random(|rng| rng.usize(0..2));
            world.daemons[which].kill();
            world.daemons[which].spawn()?;
        }
        Ok(())
    })
}

fn terminated(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.while_feeding(OBJECTS, 10, async |world| {
        for round in 0..8 {
            world.a_while(300..1500).await;
            let daemon = &mut world.daemons[round % 2];
            // A daemon that has just been started may not have installed its signal handler yet.
            daemon.wait_ready(Duration::from_secs(30)).await?;
            let code = daemon.terminate(Duration::from_mins(1)).await?;
            if code != 0 {
                return Err(Error::new(format!("a drained daemon exits with {code}")));
            }
            daemon.spawn()?;
        }
        Ok(())
    })
}

fn frozen(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.while_feeding(OBJECTS, 12, async |world| {
        let rng = world.ledger.clone();
        world.engine.script(move |_| {
            let pause = Duration::from_millis(rng.random(|rng| rng.u64(0..300)));
            EngineFault::Then(Box::pin(tokio::time::sleep(pause)))
        });
        for round in 0..6 {
            world.a_while(300..1000).await;
            let which = round % 2;
            world.daemons[which].pause()?;
            world.brokers[which].cut();
            sleep(1.5).await;
            world.daemons[which].resume()?;
        }
        Ok(())
    })
}
