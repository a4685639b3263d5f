//! Faults of the engine, and of clamav-rest in front of it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use peers::error::{Context, Result};
use peers::proxy::{Call, EngineFault, Fault};
use stack::clamd::Database;

use crate::ledger::{OBJECTS, joined};
use crate::samples::Fate;
use crate::scenario::{Scenario, sleep};
use crate::world::World;

pub(super) fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("clamd-killed", "clamd is gone for 8 s", killed).short().recovers(),
        Scenario::new("clamd-killed-rest", "the same behind clamav-rest, which says 413", killed)
            .rest()
            .recovers(),
        Scenario::new("clamd-hung", "clamd is stopped for 14 s", hung).recovers(),
        Scenario::new("clamd-hung-rest", "the same behind clamav-rest", hung).rest().recovers(),
        Scenario::new("clamd-restarted", "clamd is restarted four times", restarted),
        Scenario::new("clamd-restarted-rest", "the same behind clamav-rest", restarted).rest(),
        Scenario::new("clamd-reloading", "clamd reloads its database all the time", reloading),
        Scenario::new("clamd-reloading-rest", "the same behind clamav-rest", reloading).rest(),
        Scenario::new(
            "clamd-blind",
            "clamd comes back without its database for 8 s: everything is OK to it",
            blind,
        )
        .recovers(),
        Scenario::new("clamd-blind-rest", "the same behind clamav-rest", blind)
            .rest()
            .short()
            .recovers(),
        Scenario::new(
            "engine-finds-all",
            "with a new database the engine finds something in every file for 6 s",
            finds_all,
        )
        .recovers(),
        Scenario::new("clamd-babble", "a part of clamd's answers is cut short or nonsense", babble),
        Scenario::new("crashing-file", "two files crash clamd each time", crashing),
        Scenario::new("rest-empty-200", "clamav-rest answers 200 with nothing", empty_200)
            .rest()
            .short(),
        Scenario::new("rest-truncated", "clamav-rest's JSON breaks off", truncated).rest(),
        Scenario::new("rest-drip", "clamav-rest answers a byte at a time", drip).rest(),
        Scenario::new("rest-413", "clamav-rest says 413 of every file for 6 s", too_large)
            .rest()
            .recovers(),
        Scenario::new("rest-down", "clamav-rest is gone for 6 s", rest_down).rest().recovers(),
    ]
}

fn killed(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.while_feeding(OBJECTS, 8, async |world| {
        sleep(2.0).await;
        world.kill_engine().await;
        world.down_for(Duration::from_secs(8)).await?;
        world.restart_engine(Database::Eicar).await?;
        world.healed();
        Ok(())
    })
}

fn hung(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.while_feeding(OBJECTS, 8, async |world| {
        sleep(2.0).await;
        world.clamd.lock().await.pause()?;
        world.down_for(Duration::from_secs(14)).await?;
        world.clamd.lock().await.resume()?;
        world.healed();
        Ok(())
    })
}

fn restarted(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.while_feeding(OBJECTS, 10, async |world| {
        for _ in 0..4 {
            world.a_while(1000..2500).await;
            world.restart_engine(Database::Eicar).await?;
        }
        Ok(())
    })
}

fn reloading(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.while_feeding(OBJECTS, 8, async |world| {
        for _ in 0..20 {
            world.a_while(200..600).await;
            world.clamd.lock().await.reload()?;
        }
        Ok(())
    })
}

fn blind(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.while_feeding(OBJECTS, 8, async |world| {
        sleep(2.0).await;
        world.restart_engine(Database::Nothing).await?;
        world.down_for(Duration::from_secs(8)).await?;
        world.restart_engine(Database::Eicar).await?;
        world.healed();
        Ok(())
    })
}

/// A signature that matches everything. Clean objects must stay.
fn finds_all(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.while_feeding(OBJECTS, 8, async |world| {
        sleep(2.0).await;
        // The version changes first: until the answers change, both are consistent.
        world.engine.set_version(Some("ClamAV 1.4.5/27999/Sat Jan  3 08:00:00 2026"));
        world
            .engine
            .script(|_| EngineFault::Say(b"stream: Win.Test.Everything-1 FOUND\0".to_vec()));
        world.down_for(Duration::from_secs(6)).await?;
        world.engine.pass();
        world.engine.set_version(None);
        world.healed();
        Ok(())
    })
}

fn babble(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    let rng = world.ledger.clone();
    world.engine.script(move |_| match rng.random(|rng| rng.u32(0..40)) {
        0 => EngineFault::Say(b"stream: O".to_vec()),
        1 => EngineFault::Say(b"stream: OK".to_vec()),
        2 => EngineFault::Say(Vec::new()),
        3 => EngineFault::Say(b"stream: OK FOUND OK\0".to_vec()),
        4 => EngineFault::Say(b"stream: Can't allocate memory ERROR\0".to_vec()),
        5 => EngineFault::Say(b"stream: OK\0stream: OK\0".to_vec()),
        6 => EngineFault::Crash(Box::pin(std::future::ready(()))),
        _ => EngineFault::Pass,
    });
    world.while_feeding(OBJECTS, 8, async |world| {
        sleep(10.0).await;
        world.engine.pass();
        Ok(())
    })
}

fn crashing(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        let (ledger, clamd) = (world.ledger.clone(), Arc::clone(&world.clamd));
        world.engine.script(move |sha256| {
            if !ledger.by_sha256(sha256).is_some_and(|upload| upload.key.starts_with("fatal")) {
                return EngineFault::Pass;
            }
            let clamd = Arc::clone(&clamd);
            EngineFault::Crash(Box::pin(async move {
                let mut clamd = clamd.lock().await;
                clamd.kill();
                // As a supervisor does.
                drop(clamd.restart(Database::Eicar).await);
            }))
        });
        for n in 0..2 {
            world.ledger.put(&format!("fatal-{n}"), Fate::Clean).await?;
        }
        world.ledger.change(|upload| upload.key.starts_with("fatal"), |upload| upload.parks = true);
        joined(world.ledger.feed(OBJECTS, Duration::from_secs(8))).await
    })
}

/// A part of the answers to scans is broken for some seconds.
async fn broken_rest(
    world: &mut World,
    broken: impl Fn(u32) -> Option<Fault> + Send + Sync + 'static,
) -> Result<()> {
    let rng = world.ledger.clone();
    let rest = world.rest.as_ref().context("clamav-rest")?;
    rest.script(move |call: &Call| {
        let scan = call.path.ends_with("/scan");
        let chance = rng.random(|rng| rng.u32(0..100));
        scan.then(|| broken(chance)).flatten().unwrap_or(Fault::Pass)
    });
    let fed = world.while_feeding(OBJECTS, 8, async |world| {
        sleep(8.0).await;
        if let Some(rest) = &world.rest {
            rest.pass();
        }
        world.healed();
        Ok(())
    });
    fed.await
}

fn empty_200(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(broken_rest(world, |chance| match chance {
        0..5 => Some(Fault::Answer(200, "[]")),
        5..10 => Some(Fault::Answer(200, "")),
        _ => None,
    }))
}

fn truncated(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(broken_rest(world, |chance| (chance < 10).then_some(Fault::Half)))
}

fn drip(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(broken_rest(world, |chance| {
        (chance < 10).then_some(Fault::Drip(Duration::from_millis(150)))
    }))
}

/// The answer of clamav-rest when it cannot reach its clamd.
fn too_large(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(rest_fails(world, || Fault::Answer(413, "File size limit exceeded")))
}

fn rest_down(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(rest_fails(world, || Fault::Cut))
}

/// All requests fail for six seconds.
async fn rest_fails(
    world: &mut World,
    fault: impl Fn() -> Fault + Send + Sync + 'static,
) -> Result<()> {
    let fed = world.while_feeding(OBJECTS, 8, async |world| {
        sleep(2.0).await;
        world.rest.as_ref().context("clamav-rest")?.script(move |_| fault());
        world.down_for(Duration::from_secs(6)).await?;
        world.rest.as_ref().context("clamav-rest")?.pass();
        world.healed();
        Ok(())
    });
    fed.await
}
