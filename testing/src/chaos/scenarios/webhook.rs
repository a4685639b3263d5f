//! Faults of the webhook. None of them may hold up a scan, and no report may get lost.

use std::time::Duration;

use futures_util::future::LocalBoxFuture;

use super::{OBJECTS, Scenario, joined, sleep};
use crate::chaos::account::Expected;
use crate::chaos::world::World;
use crate::error::Result;
use crate::proxy::TcpProxy;
use crate::sink::Reply;

pub(super) fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("webhook-down", "nothing listens there during the whole run", down),
        Scenario::new("webhook-back", "nothing listens there for 8 s", back).recovering(),
        Scenario::new("webhook-500", "500 for 6 s, then now and then", server_errors),
        Scenario::new("webhook-429", "429 with Retry-After: 2 for 6 s", too_many),
        Scenario::new("webhook-400", "a part of the reports is rejected", rejected).parking(),
        Scenario::new("webhook-hanging", "a part of the requests is never answered", hanging),
    ]
}

impl Scenario {
    fn recovering(mut self) -> Self {
        self.expected = Expected { reports_recover: true, ..self.expected };
        self
    }

    fn parking(mut self) -> Self {
        self.expected = Expected { reports_park: true, ..self.expected };
        self
    }
}

fn down(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        TcpProxy::refuse(&world.webhook);
        joined(world.ledger.feed(OBJECTS, Duration::from_secs(4))).await
    })
}

fn back(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        let feeding = world.ledger.feed(OBJECTS, Duration::from_secs(6));
        sleep(1.0).await;
        world.webhook.refuse();
        world.down_for(Duration::from_secs(8)).await?;
        world.webhook.pass();
        world.healed();
        joined(feeding).await
    })
}

fn server_errors(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        let feeding = world.ledger.feed(OBJECTS, Duration::from_secs(6));
        world.answer_reports(|_, _| Reply::status(500));
        sleep(6.0).await;
        let rng = world.ledger.clone();
        world.answer_reports(move |_, _| {
            Reply::status(if rng.random(|rng| rng.u32(0..8)) == 0 { 500 } else { 200 })
        });
        sleep(6.0).await;
        world.answer_reports(|_, _| Reply::status(200));
        joined(feeding).await
    })
}

fn too_many(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        let feeding = world.ledger.feed(OBJECTS, Duration::from_secs(5));
        world.answer_reports(|_, _| Reply::status(429).retry_after("2"));
        sleep(6.0).await;
        world.answer_reports(|_, _| Reply::status(200));
        joined(feeding).await
    })
}

fn rejected(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        world.answer_reports(|_, received| {
            let rejected = received.key().is_some_and(|key| key.contains('7'));
            Reply::status(if rejected { 400 } else { 204 })
        });
        joined(world.ledger.feed(OBJECTS, Duration::from_secs(4))).await
    })
}

fn hanging(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        world.answer_reports(
            |before, _| {
                if before % 60 == 7 { Reply::hang() } else { Reply::status(200) }
            },
        );
        joined(world.ledger.feed(OBJECTS, Duration::from_secs(4))).await
    })
}
