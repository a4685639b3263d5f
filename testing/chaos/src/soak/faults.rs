//! What disturbs the load: faults of the scenarios, bursts, and a replica that ends.

use std::collections::VecDeque;
use std::time::Duration;

use peers::error::{Context, Error, Result};

use super::watch::Watch;
use crate::ledger::joined;
use crate::scenario::Scenario;
use crate::scenarios;
use crate::world::World;

/// Scenarios that leave everything as it was. Each uploads some hundred objects meanwhile.
const SCENARIOS: [&str; 12] = [
    "clamd-killed",
    "clamd-hung",
    "clamd-restarted",
    "clamd-reloading",
    "clamd-blind",
    "broker-cut",
    "broker-restarted",
    "store-503",
    "store-cut",
    "webhook-back",
    "webhook-500",
    "replica-frozen",
];

/// The replicas by name. Only the second one ends during the run: what grows slowly shows only in a
/// process that lives for hours.
pub(super) const REPLICAS: [&str; 2] = ["first", "second"];
const MORTAL: usize = 1;

/// Objects of a burst.
const BURST: usize = 500;
/// Notifications that come again.
const AGAIN: usize = 300;
const READY: Duration = Duration::from_mins(1);

/// One disturbance.
pub(super) enum Fault {
    Scenario(Scenario),
    Burst,
    /// Notifications of earlier uploads come again.
    Again,
    Terminated,
    Killed,
}

impl Fault {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Scenario(scenario) => scenario.name,
            Self::Burst => "burst",
            Self::Again => "announced-again",
            Self::Terminated => "replica-terminated",
            Self::Killed => "replica-killed",
        }
    }

    pub(super) fn what(&self) -> &'static str {
        match self {
            Self::Scenario(scenario) => scenario.what,
            Self::Burst => "500 objects within 5 s",
            Self::Again => "300 notifications of earlier uploads come again, some twice",
            Self::Terminated => "SIGTERM of the second replica, started again after some seconds",
            Self::Killed => "kill -9 of the second replica, started again after some seconds",
        }
    }

    /// Injects it, and returns when it is over.
    pub(super) async fn inject(&self, world: &mut World, watch: &Watch) -> Result<()> {
        match self {
            Self::Scenario(scenario) => (scenario.run)(world).await?,
            Self::Burst => joined(world.ledger.feed(BURST, Duration::from_secs(5))).await?,
            Self::Again => again(world).await?,
            Self::Terminated | Self::Killed => self.end_and_start(world, watch).await?,
        }
        // Some scenarios leave that to their end.
        world.engine.pass();
        world.store.pass();
        Ok(())
    }

    async fn end_and_start(&self, world: &mut World, watch: &Watch) -> Result<()> {
        if matches!(self, Self::Killed) {
            world.daemons[MORTAL].kill();
        } else {
            let code = world.daemons[MORTAL].terminate(Duration::from_mins(1)).await?;
            if code != 0 {
                return Err(Error::new(format!("a drained daemon exits with {code}")));
            }
        }
        world.a_while(1000..15_000).await;
        let daemon = &mut world.daemons[MORTAL];
        daemon.spawn()?;
        watch.begins(REPLICAS[MORTAL], daemon.pid().context("the daemon was started")?);
        daemon.wait_ready(READY).await
    }
}

async fn again(world: &World) -> Result<()> {
    let (amqp, names) = (world.amqp().await?, &world.daemons[0].names);
    let mut uploads = world.ledger.uploads();
    world.ledger.random(|rng| rng.shuffle(&mut uploads));
    for upload in uploads.iter().take(AGAIN) {
        let event = world.ledger.notification(upload);
        for _ in 0..world.ledger.random(|rng| rng.u32(1..=2)) {
            amqp.notify(&names.exchange, &names.routing_key, &event).await?;
        }
    }
    Ok(())
}

/// All faults in a random order, again and again, so that each comes about as often as the others.
pub(super) struct Deck(VecDeque<Fault>);

impl Deck {
    pub(super) fn new() -> Self {
        Self(VecDeque::new())
    }

    pub(super) fn next(&mut self, world: &World) -> Option<Fault> {
        if self.0.is_empty() {
            let mut all = all();
            world.ledger.random(|rng| rng.shuffle(&mut all));
            self.0.extend(all);
        }
        self.0.pop_front()
    }
}

fn all() -> Vec<Fault> {
    let mut all = vec![Fault::Burst, Fault::Again, Fault::Terminated, Fault::Killed];
    let scenarios = scenarios::all().into_iter();
    all.extend(scenarios.filter(|one| SCENARIOS.contains(&one.name)).map(Fault::Scenario));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_is_there_and_needs_no_world_of_its_own() {
        let all = all();
        assert_eq!(all.len(), SCENARIOS.len() + 4);
        for fault in &all {
            let Fault::Scenario(scenario) = fault else { continue };
            let usual = format!("{:?}", crate::setup::Setup::default());
            assert_eq!(format!("{:?}", scenario.setup), usual, "{}", scenario.name);
        }
    }
}
