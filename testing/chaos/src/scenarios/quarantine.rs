//! Moves into the quarantine bucket: faults at each of their steps.

mod step;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use peers::error::{Context, Error, Result};
use peers::proxy::{Call, Fault, Hook, Op, TcpProxy};

use self::step::{RECORD, STEPS, Step, silent};
use super::overwrites::overwritten;
use crate::account::{TAG, see};
use crate::ledger::{OBJECTS, Upload};
use crate::samples::Fate;
use crate::scenario::{Scenario, sleep};
use crate::world::{Bucket, World};

const DENIED: &str = "<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>";
const FULL: &str =
    "<Error><Code>XMinioStorageFull</Code><Message>Storage is full</Message></Error>";
const INTERNAL: &str = "<Error><Code>InternalError</Code><Message>Oh no</Message></Error>";
const SLOW_DOWN: &str = "<Error><Code>SlowDown</Code><Message>Please reduce</Message></Error>";
/// For a step to come, with replicas that are still starting.
const A_MOVE: Duration = Duration::from_mins(1);
/// For a proxy to notice that the process behind a connection is gone.
const NOTICED: Duration = Duration::from_secs(2);
/// For the tag of an object that cannot be moved yet.
const TAGGED: Duration = Duration::from_mins(1);
/// Rounds of all steps.
const ROUNDS: usize = 2;
/// Infected objects that are uploaded at each step, beside those of the load.
const MORE: usize = 4;

pub(super) fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("quarantine-killed", "kill -9 after each step of a move", killed)
            .quarantine()
            .deletions_unsaid(),
        Scenario::new(
            "quarantine-killed-versions",
            "the same in a versioned bucket, infected versions below a clean one too",
            killed,
        )
        .bucket(Bucket::Versioned)
        .quarantine()
        .deletions_unsaid(),
        Scenario::new(
            "quarantine-unnamed",
            "infected versions below clean ones, events name no version",
            unnamed,
        )
        .bucket(Bucket::Versioned)
        .quarantine(),
        Scenario::new(
            "quarantine-frozen",
            "a replica is stopped after each step of a move, the other one takes over, it goes on",
            frozen,
        )
        .quarantine(),
        faulty(Bucket::Gateway, "quarantine-faults"),
        faulty(Bucket::Unversioned, "quarantine-faults-if-match"),
        Scenario::new(
            "quarantine-overwritten",
            "overwritten or removed at each step; no versions, If-Match honoured",
            overwritten,
        )
        .bucket(Bucket::Unversioned)
        .quarantine(),
        Scenario::new(
            "quarantine-away",
            "the quarantine bucket is missing, full, slow, cut off, and back before attempts end",
            away,
        )
        .quarantine()
        // So that none is parked, which would tag it. Each attempt tags again, which is an event each time,
        // and the gateway sends one after the other.
        .without_canary()
        .with("RETRY_LIMIT", "40")
        .store_fails(),
        Scenario::new(
            "quarantine-denied",
            "the quarantine bucket is denied until all is parked; then redrive",
            denied,
        )
        .quarantine()
        .with("RETRY_LIMIT", "3"),
    ]
}

fn faulty(bucket: Bucket, name: &'static str) -> Scenario {
    let what = "requests of each move fail once: 5xx, cut, slow, or done and the answer lost";
    // A fault of each request, and an attempt more.
    let scenario = Scenario::new(name, what, faults).bucket(bucket).with("RETRY_LIMIT", "12");
    scenario.quarantine().store_fails().deletions_unsaid()
}

/// Kills the replica whose move has come there. Where that cannot be told before, both may die.
async fn kill_at(world: &mut World, step: Step, what: &str) -> Result<()> {
    let mut killed = Vec::new();
    if step == Step::Published {
        Step::silence(world);
        more(world, what).await?;
        killed.extend(silent(world, A_MOVE).await);
        for which in &killed {
            world.daemons[*which].kill();
        }
    } else {
        let held = step.hold(world);
        more(world, what).await?;
        if tokio::time::timeout(A_MOVE, held.reached).await.is_ok() {
            let which = world.ledger.random(|rng| rng.usize(0..2));
            killed.push(which);
            world.daemons[which].kill();
            if tokio::time::timeout(NOTICED, held.client).await.is_err() {
                killed.push(1 - which);
                world.daemons[1 - which].kill();
            }
        }
    }
    if killed.is_empty() {
        world.wrongs.push(format!("{what}: {step:?} never came"));
    }
    world.store.pass();
    // What a killed one had sent, and was held back, is lost with it.
    for which in &killed {
        world.brokers[*which].cut();
    }
    world.brokers.iter().for_each(TcpProxy::pass);
    for which in killed {
        world.daemons[which].spawn()?;
    }
    Ok(())
}

/// Uploads some infected objects; in a versioned bucket each below a clean version.
async fn more(world: &World, what: &str) -> Result<()> {
    for n in 0..MORE {
        let key = format!("{what}-{n}");
        world.ledger.put(&key, Fate::Infected).await?;
        if world.setup.bucket == Bucket::Versioned {
            world.ledger.put(&key, Fate::Clean).await?;
        }
    }
    Ok(())
}

fn killed(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.while_feeding(OBJECTS, 20, async |world| {
        for round in 0..ROUNDS {
            for step in STEPS {
                kill_at(world, step, &format!("{step:?}-{round}")).await?;
            }
        }
        Ok(())
    })
}

fn unnamed(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.ledger.names_versions = false;
    world.while_feeding(OBJECTS, 6, async |world| {
        for n in 0..10 {
            more(world, &format!("below-{n}")).await?;
        }
        Ok(())
    })
}

fn frozen(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.while_feeding(OBJECTS, 20, async |world| {
        for step in STEPS.into_iter().filter(|step| *step != Step::Published) {
            for which in 0..2 {
                let held = step.hold(world);
                more(world, &format!("{step:?}-{which}")).await?;
                if tokio::time::timeout(A_MOVE, held.reached).await.is_err() {
                    world.wrongs.push(format!("{step:?} never came"));
                    continue;
                }
                world.daemons[which].pause()?;
                world.brokers[which].cut();
                sleep(1.5).await;
                held.release.send_replace(true);
                world.daemons[which].resume()?;
            }
        }
        world.store.pass();
        Ok(())
    })
}

/// Each request of a move meets a fault the first time, or none.
fn faults(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    let (rng, bucket) = (world.ledger.clone(), world.direct.bucket.clone());
    let (source, held) = (format!("/{bucket}/"), format!("/{bucket}-held/"));
    let met = Arc::new(Mutex::new(HashSet::new()));
    let seen = Arc::clone(&met);
    world.store.script(move |call: &Call| {
        let is_deletion = call.op == Op::Delete && call.path.starts_with(&source);
        if call.before > 0 || !(is_deletion || call.path.starts_with(&held)) {
            return Fault::Pass;
        }
        let (fault, name) = match rng.random(|rng| rng.u32(0..9)) {
            0 => (Fault::Answer(500, INTERNAL), "500"),
            1 => (Fault::Answer(503, SLOW_DOWN), "503"),
            2 => (Fault::Cut, "cut"),
            3 => (Fault::Late(Duration::from_millis(700)), "late"),
            4 => (Fault::Lose([nothing(), nothing()]), "lost"),
            5 if call.op == Op::Get => (Fault::Half, "half"),
            _ => return Fault::Pass,
        };
        seen.lock().unwrap_or_else(PoisonError::into_inner).insert((call.op, name));
        fault
    });
    Box::pin(async move {
        world
            .while_feeding(OBJECTS, 8, async |world| {
                for n in 0..40 {
                    world.ledger.put(&format!("moved-{n}"), Fate::Infected).await?;
                }
                Ok(())
            })
            .await?;
        let each = async |_: &World| {
            let met = met.lock().unwrap_or_else(PoisonError::into_inner);
            let met_by = |op| met.iter().any(|(met, _)| *met == op);
            Ok([Op::Head, Op::Get, Op::Put, Op::Copy, Op::Delete].into_iter().all(met_by))
        };
        world.expect("each kind of request meets a fault", A_MOVE, each).await
    })
}

fn nothing() -> Hook {
    Box::pin(std::future::ready(()))
}

/// All requests in the quarantine bucket get a fault.
fn in_held(world: &World, fault: impl Fn(&Call) -> Fault + Send + Sync + 'static) {
    let held = format!("/{}-held", world.direct.bucket);
    world.store.script(
        move |call| {
            if call.path.starts_with(&held) { fault(call) } else { Fault::Pass }
        },
    );
}

fn infected(world: &World) -> Vec<Upload> {
    let uploads = world.ledger.uploads().into_iter();
    uploads.filter(|upload| upload.fate == Fate::Infected && !upload.over).collect()
}

/// Waits until every infected object is tagged, where it was uploaded.
async fn stay_tagged(world: &mut World) -> Result<()> {
    world
        .expect("every infected object stays and is tagged", TAGGED, async |world| {
            for upload in infected(world) {
                let seen = see(world, &upload).await?;
                if !seen.present {
                    return Err(Error::new(format!("{}: gone, with no copy", upload.key)));
                }
                if seen.tags.get(TAG).map(String::as_str) != Some("infected") {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await?;
    let held = world.held.as_ref().context("a quarantine bucket")?.list().await;
    let copies = held.unwrap_or_default().into_iter().filter(|entry| !entry.key.ends_with(RECORD));
    let copies = copies.count();
    if copies > 0 {
        world.wrongs.push(format!("{copies} copies in a bucket that takes none"));
    }
    Ok(())
}

fn away(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        let held = world.held.clone().context("a quarantine bucket")?;
        held.client.delete_bucket().bucket(&held.bucket).send().await.context("remove bucket")?;
        world
            .while_feeding(OBJECTS, 6, async |world| {
                more(world, "missing").await?;
                sleep(6.0).await;
                Ok(())
            })
            .await?;
        stay_tagged(world).await?;
        in_held(world, |call| match call.op {
            Op::Put | Op::Copy => Fault::Answer(507, FULL),
            _ => Fault::Pass,
        });
        held.create_bucket().await?;
        more(world, "full").await?;
        sleep(5.0).await;
        stay_tagged(world).await?;
        in_held(world, |_| Fault::Cut);
        more(world, "cut").await?;
        sleep(3.0).await;
        in_held(world, |_| Fault::Late(Duration::from_millis(900)));
        more(world, "slow").await?;
        sleep(3.0).await;
        world.store.pass();
        Ok(())
    })
}

fn denied(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        in_held(world, |_| Fault::Answer(403, DENIED));
        world.while_feeding(OBJECTS, 5, async |world| more(world, "denied").await).await?;
        let dead = format!("{}.dead", world.queue());
        let all = infected(world);
        let parked = async |world: &World| {
            let count = world.amqp().await?.count(&dead).await?.unwrap_or_default();
            let known = |upload: &Upload| {
                let is_it = |report: &serde_json::Value| {
                    report["key"] == upload.key.as_str() && report["error"] == "quarantine_denied"
                };
                world.taken().iter().any(|taken| is_it(&taken.report))
            };
            Ok(count as usize == all.len() && all.iter().all(known))
        };
        let what = "every infected object is parked, and reported as not moved";
        world.expect(what, Duration::from_mins(2), parked).await?;
        stay_tagged(world).await?;
        world.store.pass();
        world.command(&["redrive"]).await?.is_done("redrive")
    })
}
