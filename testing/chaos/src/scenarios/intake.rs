//! Faults around the intake, under the load of senders that keep what is not confirmed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use peers::error::Result;
use peers::proxy::{Fault, TcpProxy};

use super::broker::raise_alarm;
use crate::ledger::OBJECTS;
use crate::scenario::{Scenario, sleep};
use crate::world::World;

pub(super) fn all() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "intake-broker-down",
            "the broker is killed and down for 5 s under the load of two senders of webhooks",
            broker_down,
        )
        .senders(2, 1),
        Scenario::new(
            "intake-broker-alarm",
            "memory alarm for 8 s under the load of webhooks",
            broker_alarm,
        )
        .senders(1, 1),
        Scenario::new(
            "intake-broker-black-hole",
            "nothing goes to or comes from the broker for 45 s under the load of webhooks",
            broker_black_hole,
        )
        .senders(1, 1),
        Scenario::new(
            "intake-killed",
            "kill -9 of a replica between the broker's confirm and the answer to the webhook",
            killed,
        )
        .senders(1, 1)
        .deletions_unsaid()
        .short(),
        Scenario::new(
            "intake-repeats",
            "two senders send each event three times, and lose every third answer",
            repeats,
        )
        .senders(2, 3),
        Scenario::new(
            "intake-gateway-folder",
            "the broker is killed and down for 5 s; the gateway's folder keeps what is refused",
            gateway_folder,
        ),
    ]
}

/// The senders had to try again, or the fault did not strike.
fn struck(world: &mut World) {
    let failed = world.ledger.senders().map_or(0, crate::senders::Senders::failed);
    if failed == 0 {
        world.wrongs.push("no webhook was ever turned away".to_owned());
    }
}

fn feed_while_broker_is_down(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.while_feeding(OBJECTS, 8, async |world| {
        sleep(2.0).await;
        world.restart("rabbitmq", Some(Duration::from_secs(5))).await?;
        world.healed();
        Ok(())
    })
}

fn broker_down(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        feed_while_broker_is_down(world).await?;
        struck(world);
        Ok(())
    })
}

/// Nothing but the gateway's own calls brings events: what it gets no 200 for, it has to keep.
fn gateway_folder(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        world.daemons[0].by_webhook_alone()?;
        feed_while_broker_is_down(world).await?;
        let refused = world.metric("avscan_intake_total{outcome=\"unavailable\"}").await?;
        if refused == 0 {
            world.wrongs.push("no webhook was ever turned away".to_owned());
        }
        Ok(())
    })
}

fn broker_alarm(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        let fed = world.while_feeding(OBJECTS, 8, async |world| {
            sleep(2.0).await;
            raise_alarm(world, Duration::from_secs(8)).await?;
            world.healed();
            Ok(())
        });
        fed.await?;
        struck(world);
        Ok(())
    })
}

fn broker_black_hole(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        let fed = world.while_feeding(OBJECTS, 8, async |world| {
            sleep(3.0).await;
            world.brokers.iter().for_each(TcpProxy::black_hole);
            sleep(45.0).await;
            world.brokers.iter().for_each(TcpProxy::pass);
            world.healed();
            Ok(())
        });
        fed.await?;
        struck(world);
        Ok(())
    })
}

fn killed(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        let fed = world.while_feeding(OBJECTS, 10, async |world| {
            for round in 0..10 {
                world.a_while(300..900).await;
                let which = round % 2;
                // The next answer, which says that an event is in the queue, is held back until the
                // daemon is dead.
                let (held, mut is_held) = tokio::sync::watch::channel(false);
                let (dead, is_dead) = tokio::sync::watch::channel(false);
                let first = AtomicUsize::new(0);
                world.intakes[which].script(move |_| {
                    if first.fetch_add(1, Ordering::Relaxed) > 0 {
                        return Fault::Pass;
                    }
                    let (held, mut is_dead) = (held.clone(), is_dead.clone());
                    Fault::Lose([
                        Box::pin(async {}),
                        Box::pin(async move {
                            held.send_replace(true);
                            drop(is_dead.wait_for(|dead| *dead).await);
                        }),
                    ])
                });
                let strikes = is_held.wait_for(|held| *held);
                let struck = tokio::time::timeout(Duration::from_secs(5), strikes).await.is_ok();
                world.daemons[which].kill();
                dead.send_replace(true);
                world.daemons[which].spawn()?;
                world.intakes[which].pass();
                if !struck {
                    world.wrongs.push(format!("round {round}: no webhook was in the intake"));
                }
            }
            Ok(())
        });
        fed.await?;
        struck(world);
        Ok(())
    })
}

fn repeats(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        let count = Arc::new(AtomicUsize::new(0));
        for intake in &world.intakes {
            let count = Arc::clone(&count);
            intake.script(move |_| {
                if count.fetch_add(1, Ordering::Relaxed) % 3 == 2 {
                    Fault::Lose([Box::pin(async {}), Box::pin(async {})])
                } else {
                    Fault::Pass
                }
            });
        }
        world.while_feeding(OBJECTS, 8, async |_| Ok(())).await?;
        struck(world);
        Ok(())
    })
}
