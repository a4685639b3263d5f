//! The faults, by the part that fails.

mod answers;
mod broker;
mod canary;
mod engine;
mod host;
mod intake;
mod messages;
mod overwrites;
mod processes;
mod quarantine;
mod signature;
mod store;
mod surge;
mod sweeps;
mod uploads;
mod webhook;

use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use peers::error::Result;

use crate::ledger::{OBJECTS, joined};
use crate::scenario::Scenario;
use crate::world::World;

/// All scenarios.
pub(super) fn all() -> Vec<Scenario> {
    let mut all = vec![Scenario::new("calm", "nothing fails; through clamav-rest", calm).rest()];
    all.extend(processes::all());
    all.extend(broker::all());
    all.extend(intake::all());
    all.extend(engine::all());
    all.extend(store::all());
    all.extend(answers::all());
    all.extend(overwrites::all());
    all.extend(uploads::all());
    all.extend(webhook::all());
    all.extend(host::all());
    all.extend(messages::all());
    all.extend(canary::all());
    all.extend(sweeps::all());
    all.extend(quarantine::all());
    all.extend(surge::all());
    all.extend(signature::all());
    all
}

fn calm(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async { joined(world.ledger.feed(OBJECTS, Duration::from_secs(3))).await })
}
