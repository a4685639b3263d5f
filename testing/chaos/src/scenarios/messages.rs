//! Messages that are invalid, come twice, or come in another order.

use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use peers::error::Result;

use crate::ledger::{OBJECTS, joined};
use crate::scenario::{Scenario, sleep};
use crate::world::World;

pub(super) fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("poison", "sixty unreadable messages among the good ones", poison).short(),
        Scenario::new(
            "duplicates",
            "each notification up to four times, shuffled, and again when all is over",
            duplicates,
        )
        .short(),
    ]
}

fn poison(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.while_feeding(OBJECTS, 5, async |world| {
        let amqp = world.amqp().await?;
        let names = world.daemons[0].names.clone();
        for n in 0..60 {
            world.a_while(10..120).await;
            let body = match n % 6 {
                0 => Vec::new(),
                1 => world.ledger.random(|rng| (0..5000).map(|_| rng.u8(..)).collect()),
                2 => format!(r#"{{"Records":[{{"eventName":"s3:ObjectCre{n}"#).into_bytes(),
                3 => format!("{{\"Service\":{n}}}").into_bytes(),
                4 => format!(
                    r#"{{"Records":[{{"eventName":"s3:ObjectCreated:Put","s3":{{"bucket":{{"name":"a/b"}},"object":{{"key":"{n}"}}}}}}]}}"#
                )
                .into_bytes(),
                _ => vec![b'['; 20_000 + n],
            };
            amqp.publish(&names.exchange, &names.routing_key, &body, &[]).await?;
            world.poison.push(body);
        }
        Ok(())
    })
}

fn duplicates(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        joined(world.ledger.feed(OBJECTS, Duration::from_secs(4))).await?;
        let (amqp, names) = (world.amqp().await?, world.daemons[0].names.clone());
        for pause in [0.0, 3.0] {
            sleep(pause).await;
            let mut copies = Vec::new();
            for upload in world.ledger.uploads() {
                let count = world.ledger.random(|rng| rng.usize(0..4));
                copies.extend(std::iter::repeat_n(world.ledger.notification(&upload), count));
            }
            world.ledger.random(|rng| rng.shuffle(&mut copies));
            for event in copies {
                amqp.notify(&names.exchange, &names.routing_key, &event).await?;
            }
        }
        Ok(())
    })
}
