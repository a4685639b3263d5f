//! One page of a sweep: what it calls for, and where to go on.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::Stop;
use super::judge::{Finding, Judge};
use super::selection::{Pass, Selection};
use super::state::{Counts, State};
use crate::clock;
use crate::event::ObjectRef;
use crate::failure::{Failure, Kind, Reason, Stage};
use crate::store::{Identity, Listed, Mark, Walk};

/// A page that was read.
#[derive(Debug)]
pub(crate) struct Reading {
    /// What has to be scanned, in the order of the list.
    pub(crate) announce: Vec<ObjectRef>,
    pub(crate) counts: Counts,
    /// Where the next page begins; `None` after the last one.
    pub(crate) end: Option<Mark>,
    /// The store has no tags, so there is nothing to tell objects apart by.
    pub(crate) untagged: bool,
}

/// Reads the page that comes next, and judges `concurrency` objects of it at once.
///
/// # Errors
/// When the list cannot be read, or the store does not answer.
pub(crate) async fn read(
    judge: &Arc<Judge>,
    state: &State,
    concurrency: usize,
) -> Result<Reading, Failure> {
    let order = &state.order;
    let listing = judge.store.listing_of(&order.bucket).await?.narrowed(order.current_only);
    let walk = Walk { bucket: order.bucket.clone(), prefix: order.prefix.clone(), listing };
    let page = judge.store.page(&walk, &state.from).await?;
    let mut counts = state.counts;
    let (mut objects, mut nameless) = (Vec::new(), 0);
    for listed in page.objects {
        counts.listed = counts.listed.saturating_add(1);
        match listed {
            Listed::Object(identity) if is_too_old(&identity, order.uploaded_since) => {}
            Listed::Object(identity) => objects.push(identity),
            Listed::NoText(key) => {
                tracing::warn!(key, "its key is no text, so it cannot be scanned");
                nameless += 1;
            }
        }
    }
    counts.unknown = counts.unknown.saturating_add(nameless);
    let untagged = state.pass == Pass::Only;
    let (announce, untagged) = if untagged {
        (objects.iter().map(announced).collect(), true)
    } else {
        select(judge, state, objects, concurrency, &mut counts).await?
    };
    counts.announced = counts.announced.saturating_add(announce.len() as u64);
    Ok(Reading { announce, counts, end: page.next, untagged })
}

/// The objects that the sweep wants of these. `true`: all of them, because the store has no tags.
async fn select(
    judge: &Arc<Judge>,
    state: &State,
    objects: Vec<Identity>,
    concurrency: usize,
    counts: &mut Counts,
) -> Result<(Vec<ObjectRef>, bool), Failure> {
    let findings: Result<Vec<_>, Stop> = stream::iter(objects.clone())
        .map(|identity| {
            let judge = Arc::clone(judge);
            async move { judge.judge(&Listed::Object(identity)).await }
        })
        .buffered(concurrency)
        .try_collect()
        .await;
    let selection = state.order.selection;
    let findings = match findings {
        Ok(findings) => findings,
        Err(Stop::NoTags) if selection == Selection::All => {
            return Ok((objects.iter().map(announced).collect(), true));
        }
        Err(Stop::NoTags) => {
            let detail = "this store has no tags, so no object has a receipt: sweep with --all";
            return Err(Failure::new(
                Kind::Permanent,
                Stage::Tag,
                Reason::StoreUnsupported,
                detail,
            ));
        }
        Err(Stop::List(failure) | Stop::Down(failure)) => return Err(failure),
        Err(broken @ Stop::Broken(_)) => {
            return Err(Failure::transient(Stage::Tag, Reason::Panic, broken));
        }
    };
    let mut wanted = Vec::new();
    for (identity, finding) in objects.iter().zip(findings) {
        match finding {
            Finding::Judged(judged) => {
                let statement = judged.statement.as_ref();
                if selection.wants(state.pass, judged.standing, statement) {
                    wanted.push(announced(&judged.identity));
                }
            }
            Finding::Gone | Finding::NoText | Finding::Folder => {}
            // A second look would not tell more, and to leave it out would be a gap.
            Finding::Unknown(failure) => {
                tracing::debug!(key = identity.key, %failure, "its standing is not known");
                counts.unknown = counts.unknown.saturating_add(1);
                if state.pass == Pass::First {
                    wanted.push(announced(identity));
                }
            }
        }
    }
    Ok((wanted, false))
}

fn is_too_old(identity: &Identity, since: Option<i64>) -> bool {
    let times = identity.modified().zip(since);
    times.is_some_and(|(modified, since)| modified < since)
}

/// The object as a message announces it: exactly these bytes.
fn announced(identity: &Identity) -> ObjectRef {
    ObjectRef {
        bucket: identity.bucket.clone(),
        key: identity.key.clone(),
        version_id: identity.slot().map(str::to_owned),
        uncovered: false,
        etag: identity.etag.clone(),
        size: identity.length,
        sequencer: None,
        // A receipt may be about the time of the last change.
        event_time: identity.modified().map(clock::rfc3339_of_seconds),
        file: None,
    }
}
