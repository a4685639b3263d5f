//! A signature that finds something in too many objects.

use std::process::Command;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use peers::error::{Context, Error, Result};
use serde_json::Value;

use crate::account::{TAG, see};
use crate::ledger::{OBJECTS, Upload};
use crate::samples::Fate;
use crate::scenario::Scenario;
use crate::world::World;

/// Of some sixty infected objects, each with another content.
const LIMIT: usize = 20;
const PATIENCE: Duration = Duration::from_mins(2);

pub(super) fn all() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "surge",
            "more infected objects than SURGE_LIMIT, kill -9 of either replica; then confirmed",
            held,
        )
        .with("SURGE_LIMIT", "20")
        .deletions_unsaid(),
    ]
}

/// At most the limit is deleted, whoever is killed when. The rest is tagged and parked, and deleted once
/// a person confirms the signature.
fn held(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        world
            .while_feeding(OBJECTS, 10, async |world| {
                for _ in 0..10 {
                    world.a_while(200..1100).await;
                    let which = world.ledger.random(|rng| rng.usize(0..2));
                    world.daemons[which].kill();
                    world.daemons[which].spawn()?;
                }
                Ok(())
            })
            .await?;
        world
            .expect("all infected objects are deleted or held", PATIENCE, async |world| {
                Ok(infected(world).await?.open == 0)
            })
            .await?;
        let found = infected(world).await?;
        if found.deleted > LIMIT {
            world.wrongs.push(format!("{} deleted, and {LIMIT} allowed", found.deleted));
        }
        // The kills must not have kept everything from being tried.
        if found.deleted < LIMIT / 2 || found.held < LIMIT {
            world.wrongs.push(format!("too few to show anything: {found:?}"));
        }
        confirm(world)
    })
}

/// What has become of the infected objects.
#[derive(Debug, Default)]
struct Infected {
    deleted: usize,
    /// Tagged, reported and parked.
    held: usize,
    open: usize,
}

async fn infected(world: &World) -> Result<Infected> {
    let mut found = Infected::default();
    let reports = world.taken();
    let is_held = |upload: &Upload| {
        let is_it = |report: &Value| {
            report["key"] == upload.key.as_str()
                && report["action"] == "tag"
                && report["surge"] == "held"
        };
        reports.iter().any(|taken| is_it(&taken.report))
    };
    for upload in world.ledger.uploads() {
        if upload.fate != Fate::Infected {
            continue;
        }
        let seen = see(world, &upload).await?;
        let is_tagged = seen.tags.get(TAG).is_some_and(|tag| tag == "infected");
        let count = match (seen.present, is_tagged && is_held(&upload)) {
            (false, _) => &mut found.deleted,
            (true, true) => &mut found.held,
            (true, false) => &mut found.open,
        };
        *count += 1;
    }
    let parked = world.amqp().await?.count(&format!("{}.dead", world.queue())).await?;
    let parked = usize::try_from(parked.unwrap_or_default()).unwrap_or(usize::MAX);
    // One that was killed between both may have parked a message twice.
    found.open += found.held.saturating_sub(parked);
    Ok(found)
}

/// Has the command do what a person would.
fn confirm(world: &World) -> Result<()> {
    let signature = world
        .taken()
        .into_iter()
        .find_map(|taken| taken.report["signature"].as_str().map(str::to_owned));
    let mut command = Command::new(&world.binary);
    command.args(["surge", "confirm", &signature.context("a signature")?]).env_clear();
    let done = command.envs(world.daemons[0].env()).output().context("surge confirm")?;
    let said = String::from_utf8_lossy(&done.stderr);
    done.status.success().then_some(()).ok_or_else(|| Error::new(format!("surge confirm: {said}")))
}
