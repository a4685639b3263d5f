//! Faults of the webhook. None of them may delay a scan, and no report may be lost.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;
use peers::error::Result;
use peers::proxy::TcpProxy;
use peers::sink::Reply;

use crate::ledger::{OBJECTS, joined};
use crate::samples::Fate;
use crate::scenario::{Scenario, sleep};
use crate::tally::Expected;
use crate::world::World;

/// Longest time until a report that is not refused arrives.
const DELIVERY: Duration = Duration::from_secs(5);

pub(super) fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("webhook-down", "nothing listens there during the whole run", down),
        Scenario::new("webhook-back", "nothing listens there for 8 s", back).recovering(),
        Scenario::new("webhook-500", "500 for 6 s, then now and then", server_errors),
        Scenario::new("webhook-429", "429 with Retry-After: 2 for 6 s", too_many),
        Scenario::new("webhook-400", "a part of the reports is rejected", rejected).parking(),
        Scenario::new(
            "webhook-refuses-one",
            "ten reports are answered 403 for ever, for a word in them",
            refuses_one,
        )
        .with("RETRY_LIMIT", "2")
        .parking(),
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
    world.while_feeding(OBJECTS, 6, async |world| {
        sleep(1.0).await;
        world.webhook.refuse();
        world.down_for(Duration::from_secs(8)).await?;
        world.webhook.pass();
        world.healed();
        Ok(())
    })
}

fn server_errors(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.while_feeding(OBJECTS, 6, async |world| {
        world.answer_reports(|_, _| Reply::status(500));
        sleep(6.0).await;
        let rng = world.ledger.clone();
        world.answer_reports(move |_, _| {
            Reply::status(if rng.random(|rng| rng.u32(0..8)) == 0 { 500 } else { 200 })
        });
        sleep(6.0).await;
        world.answer_reports(|_, _| Reply::status(200));
        Ok(())
    })
}

fn too_many(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.while_feeding(OBJECTS, 5, async |world| {
        world.answer_reports(|_, _| Reply::status(429).retry_after("2"));
        sleep(6.0).await;
        world.answer_reports(|_, _| Reply::status(200));
        Ok(())
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

/// As a web application firewall does. The other reports must not wait.
fn refuses_one(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    const REFUSED: usize = 10;
    const WORD: &str = "<script>";
    Box::pin(async {
        world.answer_reports(|_, received| {
            Reply::status(if received.body.contains(WORD) { 403 } else { 200 })
        });
        let fed = world.while_feeding(OBJECTS, 5, async |world| {
            for n in 0..REFUSED {
                world.ledger.put(&format!("{n}-{WORD}alert(1)</script>"), Fate::Clean).await?;
            }
            Ok(())
        });
        fed.await?;
        let limit = Duration::from_secs(40);
        let what = "the other reports are delivered";
        world.expect(what, limit, async |world| Ok(world.taken().len() >= OBJECTS)).await?;
        let dead = format!("{}.reports.dead", world.queue());
        let what = "exactly the refused reports are parked";
        world
            .expect(what, limit, async |world| {
                Ok(world.amqp().await?.count(&dead).await? == u32::try_from(REFUSED).ok())
            })
            .await?;
        let longest = longest_way(world);
        if longest > DELIVERY {
            let longest = longest.as_millis();
            world.wrongs.push(format!("a report came {longest} ms after its scan"));
        }
        Ok(())
    })
}

/// The longest time from a scan to its report at the webhook.
fn longest_way(world: &World) -> Duration {
    let scanned: HashMap<String, Instant> =
        world.engine.scans().into_iter().map(|scan| (scan.sha256, scan.at)).collect();
    let ways = world.taken().into_iter().filter_map(|taken| {
        let scanned = scanned.get(taken.report["sha256"].as_str()?)?;
        Some(taken.at.saturating_duration_since(*scanned))
    });
    ways.max().unwrap_or_default()
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
