//! Takes archives back out of quarantine, as people do.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use peers::error::{Context, Result};
use peers::proxy::{Call, Fault, Op};
use stack::say;

use super::{FOUND, LENGTHS, PATIENCE, done, is_moved};
use crate::account::{TAG, see};
use crate::ledger::{CONTENT_TYPE, METADATA, USER_TAG, Upload};
use crate::samples::Fate;
use crate::world::World;

/// How often a restore is killed.
const KILLS: u32 = 10;
/// How often a restored object is announced when all are there, so that either replica meets some.
const AGAIN: usize = 3;
/// Restored objects that are overwritten.
const OVERWRITTEN: usize = 5;
/// What the daemon counts of objects that it found, and left because they are released.
const RELEASED: &str = "avscan_verdicts_total{status=\"released\",reason=\"\"}";

/// Restores all that were moved, by a command that is killed again and again before it may finish: at some
/// time, or when it has just written some number of them, so that some are left for the end. It gets more
/// time at each start, `pace` more at most, as a large one may come first at each. What it writes is announced
/// at once, as stores do.
pub(super) async fn restored(world: &mut World, moved: &[Upload], pace: Duration) -> Result<()> {
    let written = announced_when_written(world);
    let each = moved.len() / usize::try_from(KILLS + 2).unwrap_or(usize::MAX);
    let restore = ["quarantine", "restore", "--signature", FOUND];
    for start in 1..=KILLS {
        let mut command = world.program(&restore);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().context("restore")?;
        let longest = (pace * start).mul_f64(world.ledger.random(Rng::f64));
        let most = written.load(Ordering::SeqCst) + world.ledger.random(|rng| rng.usize(1..=each));
        let began = Instant::now();
        while began.elapsed() < longest && written.load(Ordering::SeqCst) < most {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        child.kill().context("restore")?;
        child.wait().context("restore")?;
    }
    let out = done(world, &restore).await?;
    world.store.pass();
    let last = out.lines().last().unwrap_or_default();
    say!("    after {KILLS} kills: {last}, of {}", moved.len());
    let count = last.strip_suffix(" restored").and_then(|count| count.parse::<usize>().ok());
    // The kills must have come in the middle of it.
    if count.is_none_or(|count| count == 0 || count >= moved.len()) {
        world.wrongs.push(format!("too few to show anything: {last} of {}", moved.len()));
    }
    for upload in moved {
        are_restored(world, upload).await?;
    }
    for _ in 0..AGAIN {
        for upload in moved {
            world.ledger.announce_name(&upload.key).await?;
        }
    }
    let expected = u64::try_from(AGAIN * moved.len()).unwrap_or(u64::MAX);
    let what = "both replicas find what was restored, and leave it";
    world
        .expect(what, PATIENCE, async |world| Ok(world.metric(RELEASED).await? >= expected))
        .await?;
    for daemon in &world.daemons {
        let metrics = daemon.page("/metrics").await?;
        if !metrics.lines().any(|line| line.starts_with(RELEASED) && !line.ends_with(" 0")) {
            world.wrongs.push("a replica met nothing that was restored".to_owned());
        }
    }
    Ok(())
}

/// The store does not announce by itself. All that comes by this way is written by the command. Returns how
/// many were.
fn announced_when_written(world: &World) -> Arc<AtomicUsize> {
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let (ledger, source) = (world.ledger.clone(), format!("/{}/", world.direct.bucket));
    world.store.script(move |call: &Call| {
        if call.op != Op::Put || !call.path.starts_with(&source) {
            return Fault::Pass;
        }
        let (ledger, key, count) = (ledger.clone(), call.key.clone(), Arc::clone(&count));
        Fault::After(Box::pin(async move {
            drop(ledger.announce_name(&key).await);
            count.fetch_add(1, Ordering::SeqCst);
        }))
    });
    written
}

/// Notes that it was restored. What was uploaded in parts comes back in one piece, with another `ETag`.
async fn are_restored(world: &World, upload: &Upload) -> Result<()> {
    let etag = see(world, upload).await?.etag;
    let is_it = |one: &Upload| one.sha256 == upload.sha256;
    world.ledger.change(is_it, |one| {
        one.restored = true;
        one.etag.clone_from(&etag);
    });
    Ok(())
}

/// Waits until all have this status, and compares them with what was uploaded.
pub(super) async fn as_uploaded(
    world: &mut World,
    uploads: &[Upload],
    status: &'static str,
) -> Result<()> {
    let what = format!("archives with the status {status}");
    world
        .expect(&what, PATIENCE, async |world| {
            for upload in uploads {
                if see(world, upload).await?.tags.get(TAG).is_none_or(|tag| tag != status) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await?;
    for upload in uploads {
        if let Some(wrong) = differs(world, upload).await? {
            world.wrongs.push(format!("{}, {status}: {wrong}", upload.key));
        }
    }
    Ok(())
}

/// How an object is not as it was uploaded.
async fn differs(world: &World, upload: &Upload) -> Result<Option<String>> {
    let (store, key) = (&world.direct, &upload.key);
    if store.sha256(key).await?.as_ref() != Some(&upload.sha256) {
        return Ok(Some("other bytes, or none".to_owned()));
    }
    let head = store.client.head_object().bucket(&store.bucket).key(key).send().await;
    let head = head.context(format!("head {key}"))?;
    let mut tags = store.tags(key).await?.unwrap_or_default();
    tags.retain(|name, _| !name.starts_with(TAG));
    let expected = BTreeMap::from([(USER_TAG.0.to_owned(), USER_TAG.1.to_owned())]);
    let metadata = [(METADATA.to_owned(), upload.sha256.clone())].into();
    Ok(if head.metadata != Some(metadata) {
        Some(format!("the metadata {:?}", head.metadata))
    } else if head.content_type.as_deref() != Some(CONTENT_TYPE) {
        Some(format!("the content type {:?}", head.content_type))
    } else if tags != expected {
        Some(format!("the tags {tags:?}"))
    } else {
        None
    })
}

/// Uploads other archives under the names of some that were released: those are taken.
pub(super) async fn others_in_place(world: &mut World, moved: &[Upload]) -> Result<Vec<Upload>> {
    let mut others = Vec::new();
    for upload in moved.iter().take(OVERWRITTEN) {
        let other = world.ledger.put_archive(&upload.key, LENGTHS[0]).await?;
        world.ledger.change(|one| one.sha256 == other.sha256, |one| one.fate = Fate::Infected);
        others.push(other);
    }
    world
        .expect("other archives under these names are moved", PATIENCE, async |world| {
            for other in &others {
                if !is_moved(world, other).await? {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await?;
    Ok(others)
}

/// What the engine does not find any more is restored.
pub(super) async fn rescanned(world: &mut World, others: &[Upload]) -> Result<()> {
    let glob = format!("{}*", FOUND.trim_end_matches("UNOFFICIAL"));
    let rescan = ["quarantine", "rescan", "--signature", &glob, "--release-clean"];
    let out = done(world, &rescan).await?;
    let count = others.len();
    let last = out.lines().last().unwrap_or_default();
    if last != format!("{count} of {count} are not found any more") {
        world.wrongs.push(format!("rescan says {last:?}"));
    }
    for other in others {
        are_restored(world, other).await?;
    }
    as_uploaded(world, others, "released").await
}
