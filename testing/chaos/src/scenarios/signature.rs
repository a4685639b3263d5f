//! The day of a bad signature: one that finds every zip archive is loaded under load, and taken away again.

mod restoring;

use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use peers::error::Result;
use peers::zip;
use serde_json::Value;
use stack::say;

use self::restoring::{as_uploaded, others_in_place, rescanned, restored};
use super::surge::ended;
use crate::account::{TAG, in_quarantine, see};
use crate::ledger::{OBJECTS, Upload, joined};
use crate::samples::Fate;
use crate::scenario::Scenario;
use crate::world::{Bucket, World};

/// Its name in the database, and what clamd calls it: those from elsewhere than its makers get an end.
const NAME: &str = "Bad.Zip";
const FOUND: &str = "Bad.Zip.UNOFFICIAL";
/// What the engine says of its database before, with and after it.
const VERSIONS: [&str; 3] = [
    "ClamAV 1.4.6/27899/Fri Nov 27 08:00:00 2026",
    "ClamAV 1.4.6/27900/Sat Nov 28 08:00:00 2026",
    "ClamAV 1.4.6/27901/Sat Nov 28 20:00:00 2026",
];
/// The default of `SURGE_LIMIT`. What is in work when it is reached is not added to it, as the journal
/// decides.
const LIMIT: usize = 50;
/// Archives that are scanned before the signature is there.
const EARLY: usize = 30;
/// The start of their keys.
const ARCHIVE: &str = "zip-";
/// Their lengths in bytes, in turn.
const LENGTHS: [usize; 3] = [1 << 10, 10 << 10, 100 << 10];
/// Characters of what a command says that did not succeed.
const MOST_SAID: usize = 300;
const PATIENCE: Duration = Duration::from_mins(2);

pub(super) fn all() -> Vec<Scenario> {
    let limited = |name, what, run| Scenario::new(name, what, run).with("SURGE_LIMIT", "50");
    // Restores need a store that honours If-None-Match.
    let kept = |name, what, run| {
        let scenario = limited(name, what, run).bucket(Bucket::Unversioned).quarantine();
        scenario.takes_large().with("SCAN_TIMEOUT", "120")
    };
    vec![
        limited(
            "bad-signature",
            "a signature that finds every zip is loaded under load; no quarantine",
            held,
        ),
        kept(
            "bad-signature-quarantine",
            "the same with one; kill -9 of the restore of all, 1 KiB to 70 MiB, ten times",
            moved,
        ),
        kept("bad-signature-1gib", "the same with an archive of 1 GiB", moved_large),
    ]
}

fn is_archive(upload: &Upload) -> bool {
    upload.key.starts_with(ARCHIVE)
}

/// Uploads archives, other clean objects and EICAR, fewer than the limit, and has the signature loaded
/// meanwhile. `large`: archives in parts, of so many MiB.
async fn loaded_under_load(world: &mut World, large: &[usize]) -> Result<()> {
    world.engine.set_version(Some(VERSIONS[0]));
    let feeding =
        world.ledger.feed_each(OBJECTS, Duration::from_secs(12), |ledger, n| async move {
            let put = match n % 10 {
                0..7 => ledger.put_archive(&format!("{ARCHIVE}{n:04}"), LENGTHS[n % 3]).await,
                7..9 => ledger.put(&format!("{n:04}-Clean"), Fate::Clean).await,
                _ => ledger.put(&format!("{n:04}-Infected"), Fate::Infected).await,
            };
            put.map(drop)
        });
    world
        .expect("some archives are called clean", PATIENCE, async |world| {
            let is_one = |report: &Value| {
                report["status"] == "clean"
                    && report["key"].as_str().is_some_and(|key| key.starts_with(ARCHIVE))
            };
            Ok(world.taken().iter().filter(|taken| is_one(&taken.report)).count() >= EARLY)
        })
        .await?;
    // The version changes first: until the answers change, both are consistent.
    world.engine.set_version(Some(VERSIONS[1]));
    world.clamd.lock().await.find_start(NAME, zip::LOCAL, true).await?;
    for mib in large {
        world.ledger.put_large_archive(&format!("{ARCHIVE}{mib}-mib"), *mib).await?;
    }
    joined(feeding).await
}

async fn taken_away(world: &World) -> Result<()> {
    world.engine.set_version(Some(VERSIONS[2]));
    world.clamd.lock().await.find_start(NAME, zip::LOCAL, false).await
}

/// The archives that are not where they were uploaded: found, and deleted or moved. From now on it is known
/// that these are to be gone, and no others.
async fn note_gone(world: &World) -> Result<Vec<Upload>> {
    let mut gone = Vec::new();
    for upload in world.ledger.uploads().into_iter().filter(is_archive) {
        if !see(world, &upload).await?.present {
            let is_it = |one: &Upload| one.sha256 == upload.sha256;
            world.ledger.change(is_it, |one| one.fate = Fate::Infected);
            gone.push(upload);
        }
    }
    Ok(gone)
}

/// At most the limit is deleted, the rest is held, and clean once the signature is gone.
fn held(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        loaded_under_load(world, &[]).await?;
        world
            .expect("each archive is clean, deleted or held", PATIENCE, async |world| {
                Ok(ended(world, is_archive).await?.open == 0)
            })
            .await?;
        let found = ended(world, is_archive).await?;
        say!("    {found:?}, of at most {LIMIT} deleted");
        if found.deleted > LIMIT {
            world.wrongs.push(format!("{} deleted, and {LIMIT} allowed", found.deleted));
        }
        if found.clean < EARLY || found.deleted < LIMIT / 2 || found.held < LIMIT {
            world.wrongs.push(format!("too few to show anything: {found:?}"));
        }
        note_gone(world).await?;
        let listed = world.command(&["surge", "list"]).await?;
        if !listed.out.contains(&format!("\"{FOUND}\" held")) {
            world.wrongs.push(format!("surge list says {:?}", listed.out));
        }
        taken_away(world).await?;
        done(world, &["surge", "clear", FOUND]).await?;
        done(world, &["redrive", "--reason", "surge_held"]).await.map(drop)
    })
}

/// What a command says that has to succeed. If it does not, that is one wrong beside those before it, which an
/// error would hide.
async fn done(world: &mut World, arguments: &[&str]) -> Result<String> {
    let said = world.command(arguments).await?;
    if let Err(error) = said.is_done(&arguments.join(" ")) {
        world.wrongs.push(error.to_string().chars().take(MOST_SAID).collect());
    }
    Ok(said.out)
}

fn moved(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(kept(world, &[6, 70], Duration::from_millis(300)))
}

fn moved_large(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(kept(world, &[1024], Duration::from_secs(3)))
}

/// All are moved, and come back as they were: while the signature is there, so that it is the release that
/// keeps them; and what is uploaded in their place meanwhile, once it is gone. `pace`: see [`restoring`].
async fn kept(world: &mut World, large: &[usize], pace: Duration) -> Result<()> {
    loaded_under_load(world, large).await?;
    until_moved(world).await?;
    let gone = note_gone(world).await?;
    let reports: Vec<_> = world.taken().into_iter().map(|taken| taken.report).collect();
    let wrongs = in_quarantine(world, &reports).await?;
    world.wrongs.extend(wrongs);
    say!("    {} archives are moved", gone.len());
    if gone.len() <= LIMIT {
        world.wrongs.push(format!("only {} archives were moved", gone.len()));
    }
    restored(world, &gone, pace).await?;
    as_uploaded(world, &gone, "released").await?;
    let others = others_in_place(world, &gone).await?;
    taken_away(world).await?;
    rescanned(world, &others).await?;
    // Each is scanned once more, by an engine that does not find it any more.
    let archives = || world.ledger.uploads().into_iter().filter(|one| is_archive(one) && !one.over);
    for upload in archives().filter(|upload| upload.restored) {
        world.ledger.change(|one| one.sha256 == upload.sha256, |one| one.fate = Fate::Clean);
        world.ledger.announce(&upload).await?;
    }
    let all: Vec<Upload> = archives().collect();
    as_uploaded(world, &all, "clean").await
}

/// Waits until whatever is found has gone, and its move was reported.
async fn until_moved(world: &mut World) -> Result<()> {
    let what = "each archive is clean or moved, and EICAR is moved";
    world
        .expect(what, PATIENCE, async |world| {
            for upload in world.ledger.uploads() {
                let is_meant = is_archive(&upload) || upload.fate == Fate::Infected;
                let is_clean =
                    see(world, &upload).await?.tags.get(TAG).is_some_and(|tag| tag == "clean");
                if is_meant && !is_clean && !is_moved(world, &upload).await? {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await
}

async fn is_moved(world: &World, upload: &Upload) -> Result<bool> {
    let is_it = |report: &Value| {
        report["action"] == "quarantine" && report["sha256"] == upload.sha256.as_str()
    };
    Ok(world.taken().iter().any(|taken| is_it(&taken.report)) && !see(world, upload).await?.present)
}
