//! Objects that change while the daemon works on them, at each step.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::LocalBoxFuture;
use peers::error::Result;
use peers::proxy::{Call, EngineFault, Fault, Hook, Op};
use stack::say;

use crate::ledger::{Ledger, OBJECTS};
use crate::samples::Fate;
use crate::scenario::Scenario;
use crate::world::{Bucket, World};

/// The steps at which an object is overwritten or removed.
const STEPS: [&str; 6] = [
    // Before the GET, and while its body arrives.
    "announced",
    "fetched",
    // While the engine scans.
    "scanned",
    // After the comparison, which is immediately before the effect.
    "compared",
    // When the effect arrives at the store: the other end of the same window.
    "striking",
    // After the effect and before the acknowledgement.
    "settling",
];

pub(super) fn all() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "overwritten",
            "overwritten or removed at each step; no versions, If-Match ignored",
            overwritten,
        )
        .short(),
        Scenario::new(
            "overwritten-if-match",
            "the same; no versions, If-Match honoured",
            overwritten,
        )
        .bucket(Bucket::Unversioned),
        Scenario::new("overwritten-versioned", "the same in a versioned bucket", overwritten)
            .bucket(Bucket::Versioned)
            .short(),
        Scenario::new("overwritten-unnamed", "versions that the events do not name", unnamed)
            .bucket(Bucket::Versioned),
        Scenario::new("overwritten-suspended", "the same with versioning suspended", overwritten)
            .bucket(Bucket::Suspended),
        Scenario::new(
            "overwritten-at-once",
            "overwritten while a tag is on its way that follows the GET at once; no versions",
            at_once,
        ),
        Scenario::new(
            "versioning-switched",
            "versioning goes on and off meanwhile; events name no version",
            switched,
        )
        .bucket(Bucket::Switched),
        Scenario::new(
            "delete-window",
            "infected, overwritten exactly between comparison and DELETE, If-Match ignored",
            window,
        ),
    ]
}

/// Overwrites or removes the object, as its key says.
fn strike(ledger: &Ledger, key: &str) -> Hook {
    let (ledger, key) = (ledger.clone(), key.to_owned());
    Box::pin(async move {
        let change = key.rsplit('-').next().unwrap_or_default().to_owned();
        // The ledger repeats an upload while the store is down.
        drop(match change.as_str() {
            "removed" => ledger.remove(&key).await,
            // Without a tag of its user: if the daemon replaces the set of tags at the same moment,
            // S3 keeps only the last set.
            "infected" => ledger.put_plain(&key, Fate::Infected).await.map(drop),
            _ => ledger.put_plain(&key, Fate::Clean).await.map(drop),
        });
    })
}

/// Sets the scripts of both proxies: each object's key names the step at which it changes, and how.
fn arm(world: &World) {
    let struck = Arc::new(Mutex::new(HashSet::new()));
    let once = move |key: &str| {
        struck.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned())
    };
    let (ledger, first) = (world.ledger.clone(), once.clone());
    world.store.script(move |call: &Call| {
        let before = match (call.key.split('-').next().unwrap_or_default(), call.op) {
            ("announced", Op::Get) | ("striking", Op::SetTags | Op::Delete) => true,
            ("fetched", Op::Get)
            | ("compared", Op::Head)
            | ("settling", Op::SetTags | Op::Delete) => false,
            _ => return Fault::Pass,
        };
        match (first(&call.key), before) {
            (false, _) => Fault::Pass,
            (true, true) => Fault::Before(strike(&ledger, &call.key)),
            (true, false) => Fault::After(strike(&ledger, &call.key)),
        }
    });
    let ledger = world.ledger.clone();
    world.engine.script(move |sha256| match ledger.by_sha256(sha256) {
        Some(upload) if upload.key.starts_with("scanned") && once(&upload.key) => {
            EngineFault::Then(strike(&ledger, &upload.key))
        }
        _ => EngineFault::Pass,
    });
}

/// Uploads thirty objects for each step, among others that do not change.
async fn struck_objects(world: &World) -> Result<()> {
    let removals =
        world.setup.bucket == Bucket::Gateway || world.setup.bucket == Bucket::Unversioned;
    for n in 0..30 {
        for step in STEPS {
            let fate = world.ledger.random(Fate::random);
            // Infected objects in the window of a store that ignores `If-Match` have a scenario of
            // their own.
            let window = world.setup.bucket == Bucket::Gateway
                && fate == Fate::Infected
                && matches!(step, "compared" | "striking");
            // The engine's limit may cost an attempt. If the version is not named, the next attempt
            // finds the newer bytes.
            let too_large = fate == Fate::TooLarge && !world.ledger.names_versions;
            let fate = if window || too_large { Fate::Clean } else { fate };
            let change = match world.ledger.random(|rng| rng.u32(0..3)) {
                0 if removals => "removed",
                1 => "infected",
                _ => "clean",
            };
            let key = format!("{step}-{n}-{change}");
            // One without tags may be tagged without another question.
            if n % 3 == 0 {
                world.ledger.put(&key, fate).await?;
            } else {
                world.ledger.put_plain(&key, fate).await?;
            }
        }
    }
    Ok(())
}

pub(super) fn overwritten(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    arm(world);
    Box::pin(async {
        world.while_feeding(OBJECTS / 2, 6, async |world| struck_objects(world).await).await?;
        unasked(world);
        Ok(())
    })
}

/// One object after the other and without tags, so that the answer to the GET is young enough to stand for
/// the comparison and for the GET of the tags.
fn at_once(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    arm(world);
    Box::pin(async {
        for n in 0..60 {
            let change = ["infected", "clean", "removed"][n % 3];
            world.ledger.put_small(&format!("striking-{n}-{change}"), Fate::Clean).await?;
            world.a_while(150..250).await;
        }
        if unasked(world) == 0 {
            world.wrongs.push("this machine is too slow: no tag follows a GET at once".to_owned());
        }
        Ok(())
    })
}

/// Says how many were struck with their tag on its way. Returns how many of them had been asked about by
/// the GET alone. A slow machine asks about all.
fn unasked(world: &World) -> usize {
    let (mut asked, mut tagged) = (HashSet::new(), HashMap::new());
    for said in world.store.said() {
        let key = said.call.key;
        match said.call.op {
            Op::Head | Op::Tags => drop(asked.insert(key)),
            Op::SetTags if key.starts_with("striking") => {
                let unasked = !asked.contains(&key);
                tagged.entry(key).or_insert(unasked);
            }
            _ => {}
        }
    }
    let (all, at_once) = (tagged.len(), tagged.into_values().filter(|unasked| *unasked).count());
    say!("    of {all} struck with their tag on its way, {at_once} asked about by the GET alone");
    at_once
}

fn unnamed(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.ledger.names_versions = false;
    arm(world);
    world.while_feeding(OBJECTS / 2, 6, async |world| struck_objects(world).await)
}

fn switched(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.ledger.names_versions = false;
    arm(world);
    world.while_feeding(OBJECTS / 2, 10, async |world| {
        let switching = async {
            for round in 0..12 {
                world.a_while(300..1200).await;
                world.set_versioning(round % 2 == 0).await?;
            }
            Ok(())
        };
        let (fed, switched) = tokio::join!(struck_objects(world), switching);
        fed.and(switched)?;
        Ok(())
    })
}

/// The case that no comparison can prevent if the store does not compare by itself.
fn window(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    let ledger = world.ledger.clone();
    world.store.script(move |call: &Call| {
        let strike = |ledger: &Ledger| -> Hook {
            let (ledger, key) = (ledger.clone(), call.key.clone());
            Box::pin(async move {
                drop(ledger.put_plain(&key, Fate::Clean).await);
                ledger.change(
                    |upload| upload.key == key && upload.fate == Fate::Clean,
                    |upload| upload.in_window = true,
                );
            })
        };
        let in_time = call.op == Op::Delete && call.before == 0;
        if in_time && call.key.starts_with("window") {
            return Fault::Before(strike(&ledger));
        }
        Fault::Pass
    });
    world.while_feeding(OBJECTS, 6, async |world| {
        for n in 0..20 {
            world.ledger.put(&format!("window-{n}"), Fate::Infected).await?;
        }
        Ok(())
    })
}
