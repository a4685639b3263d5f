//! Answers of the store that are lost, that come from something else, or that are outdated.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;
use peers::error::{Error, Result};
use peers::proxy::{Call, Fault, Hook, Op};

use crate::account::{TAG, see};
use crate::ledger::{Ledger, OBJECTS};
use crate::samples::Fate;
use crate::scenario::{Scenario, sleep};
use crate::world::World;

const SLOW_DOWN: &str = "<Error><Code>SlowDown</Code><Message>Please reduce</Message></Error>";
const NO_SUCH_KEY: &str =
    "<Error><Code>NoSuchKey</Code><Message>The key does not exist</Message></Error>";
/// A page of an ingress while the service behind it is redeployed.
const PAGE: &str = "<!DOCTYPE html><html><body><h1>Welcome</h1></body></html>";
/// Longest time for which bytes may carry a tag meant for others: the client's own repeats take up
/// to 3 s.
const WRONG_TAG: Duration = Duration::from_secs(4);
/// New bytes are scanned no earlier than this, so that only the daemon that set a wrong tag can
/// remove it before.
const NEXT_SCAN: Duration = Duration::from_secs(7);

pub(super) fn all() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "delete-503",
            "DELETE is answered 503, or done and its answer lost; overwritten before the next try",
            delete_503,
        )
        .store_fails(),
        Scenario::new(
            "tag-answer-lost",
            "tags set on bytes that were just overwritten, and the answers lost",
            tag_answer_lost,
        )
        .with("SCAN_CONCURRENCY", "16")
        .store_fails(),
        Scenario::new(
            "store-404-once",
            "thirty objects that are there are answered NoSuchKey once",
            not_found_once,
        ),
        Scenario::new("gone-is-gone", "thirty objects are removed before they are fetched", gone),
        Scenario::new(
            "page-200",
            "HTML with 200 instead of what the store says for 5 s, then with 403 for 4 s",
            page,
        )
        .store_fails()
        .deletions_unsaid(),
    ]
}

fn nothing() -> Hook {
    Box::pin(std::future::ready(()))
}

fn overwrite(ledger: &Ledger, key: &str, fate: Fate) -> Hook {
    let (ledger, key) = (ledger.clone(), key.to_owned());
    Box::pin(async move { drop(ledger.put_plain(&key, fate).await) })
}

/// The documented window is between a comparison and its DELETE. Here the overwrite is between two
/// DELETEs, so a clean object must stay.
fn delete_503(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    let ledger = world.ledger.clone();
    world.store.script(move |call: &Call| {
        if call.op != Op::Delete || call.before > 0 {
            return Fault::Pass;
        }
        let clean = || overwrite(&ledger, &call.key, Fate::Clean);
        match call.key.split('-').next().unwrap_or_default() {
            "refused" => Fault::Refuse(clean(), 503, SLOW_DOWN),
            "lost" => Fault::Lose([nothing(), clean()]),
            "alone" => Fault::Lose([nothing(), nothing()]),
            _ => Fault::Pass,
        }
    });
    world.while_feeding(OBJECTS, 6, async |world| {
        for n in 0..20 {
            world.ledger.put_plain(&format!("refused-{n}"), Fate::Infected).await?;
            world.ledger.put_plain(&format!("lost-{n}"), Fate::Infected).await?;
            if n % 2 == 0 {
                world.ledger.put_plain(&format!("alone-{n}"), Fate::Infected).await?;
            }
        }
        Ok(())
    })
}

/// Objects that are overwritten in `tag-answer-lost`.
const STRUCK: usize = 12;

fn tag_answer_lost(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    let ledger = world.ledger.clone();
    world.store.script(move |call: &Call| {
        if !call.key.starts_with("struck") {
            return Fault::Pass;
        }
        let fate = if call.key.ends_with('0') { Fate::Clean } else { Fate::Infected };
        match (call.op, call.before) {
            (Op::SetTags, 0) => Fault::Lose([overwrite(&ledger, &call.key, fate), nothing()]),
            (Op::SetTags, 1 | 2) => Fault::Lose([nothing(), nothing()]),
            (Op::Get, 1..) => Fault::Late(NEXT_SCAN),
            _ => Fault::Pass,
        }
    });
    world.while_feeding(OBJECTS, 6, async |world| {
        for n in 0..STRUCK {
            world.ledger.put_plain(&format!("struck-{n}"), Fate::Clean).await?;
        }
        let wrong = wrong_tags(world, STRUCK).await?;
        for (key, time) in wrong {
            if time > WRONG_TAG {
                let time = time.as_millis();
                world.wrongs.push(format!("{key}: tagged for {time} ms as other bytes"));
            }
        }
        Ok(())
    })
}

/// How long each of these objects carried a tag that the engine had not given its bytes. Measured
/// until the new bytes are scanned, when the right tag may follow.
async fn wrong_tags(world: &World, struck: usize) -> Result<HashMap<String, Duration>> {
    let (mut since, mut longest) = (HashMap::new(), HashMap::new());
    let end = Instant::now() + Duration::from_mins(1);
    while Instant::now() < end {
        let uploads = world.ledger.uploads();
        let all = uploads.iter().filter(|one| one.key.starts_with("struck"));
        let (old, new): (Vec<_>, Vec<_>) = all.partition(|one| one.over);
        // Read after each look at the store, so that it includes every scan from before the tag was
        // set.
        let said = |sha256: &str, ends: &str| {
            let scans = world.engine.scans();
            scans.iter().any(|scan| scan.sha256 == sha256 && scan.answer.ends_with(ends))
        };
        if old.len() == struck && new.len() == struck && new.iter().all(|one| said(&one.sha256, ""))
        {
            break;
        }
        for upload in new {
            let seen = see(world, upload).await?;
            let wrong = match seen.tags.get(TAG).map(String::as_str) {
                Some("clean") => !said(&upload.sha256, "OK"),
                Some("infected") => !said(&upload.sha256, "FOUND"),
                _ => false,
            };
            if wrong && seen.etag == upload.etag {
                let first: &mut Instant =
                    since.entry(upload.sha256.clone()).or_insert_with(Instant::now);
                longest.insert(upload.key.clone(), first.elapsed());
            }
        }
        sleep(0.1).await;
    }
    Ok(longest)
}

fn not_found_once(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.store.script(|call: &Call| {
        let first = call.op == Op::Get && call.before == 0;
        if first && call.key.starts_with("late") {
            Fault::Answer(404, NO_SUCH_KEY)
        } else {
            Fault::Pass
        }
    });
    world.while_feeding(OBJECTS, 5, async |world| {
        for n in 0..30 {
            let fate = if n % 3 == 0 { Fate::Infected } else { Fate::Clean };
            world.ledger.put(&format!("late-{n}"), fate).await?;
        }
        Ok(())
    })
}

fn gone(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    const GONE: usize = 30;
    Box::pin(async {
        let ledger = world.ledger.clone();
        world.store.script(move |call: &Call| {
            let first = call.op == Op::Get && call.before == 0;
            if !first || !call.key.starts_with("gone") {
                return Fault::Pass;
            }
            let (ledger, key) = (ledger.clone(), call.key.clone());
            Fault::Before(Box::pin(async move { drop(ledger.remove(&key).await) }))
        });
        let fed = world.while_feeding(OBJECTS, 5, async |world| {
            for n in 0..GONE {
                let fate = if n % 3 == 0 { Fate::Infected } else { Fate::Clean };
                world.ledger.put(&format!("gone-{n}"), fate).await?;
            }
            Ok(())
        });
        fed.await?;
        let ended = "thirty notifications ended as gone";
        let limit = Duration::from_secs(30);
        world
            .expect(ended, limit, async |world| {
                let gone = world.metric(r#"avscan_notifications_total{end="gone"}"#).await?;
                Ok(gone >= GONE as u64)
            })
            .await?;
        for taken in world.taken() {
            let key = taken.report["key"].as_str().unwrap_or_default();
            if key.starts_with("gone") {
                world.wrongs.push(format!("{key}: reported, but it was removed"));
            }
        }
        let dead = format!("{}.dead", world.queue());
        let parked = world.amqp().await?.count(&dead).await?.unwrap_or_default();
        if parked > 0 {
            return Err(Error::new(format!("{parked} parked, but nothing failed")));
        }
        Ok(())
    })
}

/// No object that exists may be logged as deleted, and no message may be parked as denied.
fn page(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    let half = |world: &World, status: u16, ops: fn(Op) -> bool| {
        let rng = world.ledger.clone();
        world.store.script(move |call: &Call| {
            let chosen = rng.random(fastrand::Rng::bool);
            if chosen && ops(call.op) { Fault::Answer(status, PAGE) } else { Fault::Pass }
        });
    };
    world.while_feeding(OBJECTS, 10, async move |world| {
        sleep(1.0).await;
        half(world, 200, |op| matches!(op, Op::Head | Op::Tags | Op::SetTags | Op::Delete));
        sleep(5.0).await;
        half(world, 403, |_| true);
        sleep(4.0).await;
        world.store.pass();
        Ok(())
    })
}
