//! A signature that finds something in too many objects.

use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use peers::error::{Context, Result};
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
        let is_infected = |upload: &Upload| upload.fate == Fate::Infected;
        world
            .expect("all infected objects are deleted or held", PATIENCE, async |world| {
                Ok(ended(world, is_infected).await?.open == 0)
            })
            .await?;
        let found = ended(world, is_infected).await?;
        if found.deleted > LIMIT {
            world.wrongs.push(format!("{} deleted, and {LIMIT} allowed", found.deleted));
        }
        // The kills must not have kept everything from being tried.
        if found.deleted < LIMIT / 2 || found.held < LIMIT {
            world.wrongs.push(format!("too few to show anything: {found:?}"));
        }
        confirm(world).await
    })
}

/// What has become of some objects.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub(super) clean: usize,
    pub(super) deleted: usize,
    /// Tagged, reported and parked.
    pub(super) held: usize,
    pub(super) open: usize,
}

pub(super) async fn ended(world: &World, is_meant: impl Fn(&Upload) -> bool) -> Result<Ended> {
    let mut found = Ended::default();
    let reports = world.taken();
    let is_held = |upload: &Upload| {
        let is_it = |report: &Value| {
            report["key"] == upload.key.as_str()
                && report["action"] == "tag"
                && report["surge"] == "held"
        };
        reports.iter().any(|taken| is_it(&taken.report))
    };
    for upload in world.ledger.uploads().into_iter().filter(|upload| is_meant(upload)) {
        let seen = see(world, &upload).await?;
        let count = match (seen.present, seen.tags.get(TAG).map(String::as_str)) {
            (false, _) => &mut found.deleted,
            (true, Some("clean")) => &mut found.clean,
            (true, Some("infected")) if is_held(&upload) => &mut found.held,
            (true, _) => &mut found.open,
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
async fn confirm(world: &World) -> Result<()> {
    let signature = world
        .taken()
        .into_iter()
        .find_map(|taken| taken.report["signature"].as_str().map(str::to_owned));
    let signature = signature.context("a signature")?;
    world.command(&["surge", "confirm", &signature]).await?.is_done("surge confirm")
}
