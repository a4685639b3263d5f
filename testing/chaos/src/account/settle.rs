//! Waits until the work on everything has ended.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use peers::error::{Error, Result};

use crate::ledger::Upload;
use crate::samples::Fate;
use crate::tally::Expected;
use crate::world::{Bucket, World};

/// Parallel requests.
pub(super) const CONCURRENCY: usize = 8;
/// The name of the daemon's tag.
pub(crate) const TAG: &str = "scanned";

/// Longest time for the work after the last fault.
const PATIENCE: Duration = Duration::from_mins(3);

/// An object as it is in the store.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) present: bool,
    pub(crate) etag: String,
    pub(crate) tags: BTreeMap<String, String>,
}

/// Waits until the work on every upload has ended and the queues are empty. Returns the SHA-256 of
/// those for which it did not end in time.
pub(crate) async fn settle(world: &World, expected: Expected) -> Result<BTreeSet<String>> {
    let start = Instant::now();
    let mut open: Vec<Upload> = world.ledger.uploads();
    loop {
        // Hooks may have added and changed some.
        let now = world.ledger.uploads();
        if now.len() != open.len() {
            let done: HashSet<_> = now.iter().map(|upload| upload.sha256.clone()).collect();
            open.retain(|upload| done.contains(&upload.sha256));
        }
        let current: HashMap<_, _> =
            now.into_iter().map(|upload| (upload.sha256.clone(), upload)).collect();
        // Reports that the sink rejects stay in a queue, and are checked at the end.
        let reported = if expected.reports_park { HashSet::new() } else { reported(world) };
        let checks = open.iter().filter_map(|upload| current.get(&upload.sha256)).map(|upload| {
            let reported = &reported;
            async move {
                let ended = upload.over
                    || upload.in_window
                    || (due(reported, upload) && as_expected(upload, &see(world, upload).await?));
                Ok::<_, Error>((!ended).then(|| upload.clone()))
            }
        });
        let still: Vec<Option<Upload>> = stream::iter(checks.collect::<Vec<_>>())
            .buffered(CONCURRENCY)
            .collect::<Vec<_>>()
            .await
            .into_iter()
            .collect::<Result<_>>()?;
        open = still.into_iter().flatten().collect();
        if open.is_empty() && quiet(world).await? {
            return Ok(BTreeSet::new());
        }
        if start.elapsed() > PATIENCE {
            return Ok(open.into_iter().map(|upload| upload.sha256).collect());
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Whether no message waits for work. Reports may wait.
async fn quiet(world: &World) -> Result<bool> {
    let amqp = world.amqp().await?;
    for queue in ["", ".backlog", ".sweeps"].into_iter().flat_map(|lane| world.queues(lane)) {
        if amqp.count(&queue).await?.is_some_and(|count| count > 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Pairs of key and `ETag` with a report that the sink accepted.
fn reported(world: &World) -> HashSet<(String, String)> {
    let mut pairs = HashSet::new();
    for taken in world.taken() {
        let field = |name: &str| taken.report[name].as_str().unwrap_or_default().to_owned();
        pairs.insert((field("key"), field("etag")));
    }
    pairs
}

/// Whether the upload has its report. True as long as the sink accepts no reports at all.
fn due(reported: &HashSet<(String, String)>, upload: &Upload) -> bool {
    reported.is_empty() || reported.contains(&(upload.key.clone(), upload.etag.clone()))
}

pub(super) fn as_expected(upload: &Upload, seen: &Seen) -> bool {
    if upload.parks {
        return true;
    }
    match upload.fate {
        Fate::Infected => !seen.present,
        fate => seen.present && seen.tags.get(TAG).map(String::as_str) == Some(fate.status().0),
    }
}

/// Reads the current state of the upload.
pub(crate) async fn see(world: &World, upload: &Upload) -> Result<Seen> {
    let (client, bucket) = (&world.direct.client, &world.direct.bucket);
    // An upload without a version id has the version `null` in a bucket that keeps versions.
    let slot = match world.setup.bucket {
        Bucket::Gateway | Bucket::Unversioned => None,
        Bucket::Versioned | Bucket::Suspended | Bucket::Switched => Some("null".to_owned()),
    };
    let version = upload.version.clone().filter(|version| !version.is_empty()).or(slot);
    for _ in 0..20 {
        // The SDK refuses answers with a header that is not text.
        let head = world.direct.head_raw(&upload.key, version.as_deref()).await;
        let etag = match head {
            Ok(head) if head.status == 200 => head.text("etag").unwrap_or_default(),
            Ok(head) if matches!(head.status, 404 | 405) => return Ok(Seen::default()),
            // The store itself may have been restarted a moment ago.
            Ok(_) | Err(_) => {
                tokio::time::sleep(Duration::from_millis(300)).await;
                continue;
            }
        };
        let etag = etag.trim_matches('"').to_owned();
        let get = client.get_object_tagging().bucket(bucket).key(&upload.key);
        // The gateway answers 500 for a missing object, which may have been removed since the HEAD.
        let Ok(tags) = get.set_version_id(version.clone()).send().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let tags = tags.tag_set.into_iter().map(|tag| (tag.key, tag.value)).collect();
        return Ok(Seen { present: true, etag, tags });
    }
    Err(Error::new(format!("the store does not answer for {}", upload.key)))
}
