//! Walks a bucket: the standing of each object, page by page, and where to go on.
//!
//! - `pages`: reads a list to its end, and never twice;
//! - `judge`: the standing of one object;
//! - [`walk`] joins both: many objects at once, and in the order of the list.

mod judge;
mod pages;

use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

pub(crate) use self::judge::{Finding, Judge, Judged};
pub(crate) use self::pages::{Pages, listing_of};
use crate::failure::Failure;
use crate::store::Listed;

/// Objects that may have begun, for each one that is worked on. An object that takes long holds up
/// those behind it, because they are returned in order.
const WINDOW: usize = 4;

/// Why a walk ends before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    #[error("this store has no tags, so no object has a receipt")]
    NoTags,
    #[error("the list cannot be read: {0}")]
    List(Failure),
    #[error("the store does not answer: {0}")]
    Down(Failure),
    /// A bug of ours.
    #[error("it broke: {0}")]
    Broken(String),
}

/// One object of a walk.
#[derive(Debug)]
pub(crate) struct Visited {
    pub(crate) listed: Listed,
    pub(crate) finding: Finding,
}

/// Judges all objects of the pages in their order, `concurrency` of them at once. Pages are read
/// ahead, so that nothing waits for them. Ends after the first error.
pub(crate) fn walk(
    judge: Arc<Judge>,
    pages: Pages,
    concurrency: usize,
) -> impl Stream<Item = Result<Visited, Stop>> {
    let slots = Arc::new(Semaphore::new(concurrency));
    objects(pages)
        .map(move |listed| {
            let (judge, slots) = (Arc::clone(&judge), Arc::clone(&slots));
            // A task of its own: one thread would not be enough for a fast store.
            let task = async move {
                let listed = listed.map_err(Stop::List)?;
                let _slot = slots.acquire().await;
                let finding = judge.judge(&listed).await?;
                Ok(Visited { listed, finding })
            };
            let task = AbortOnDropHandle::new(tokio::spawn(task));
            async move { task.await.unwrap_or_else(|error| Err(Stop::Broken(error.to_string()))) }
        })
        .buffered(concurrency.saturating_mul(WINDOW))
}

/// What the pages list. The next page is read while the objects of one are worked on.
fn objects(mut pages: Pages) -> impl Stream<Item = Result<Listed, Failure>> {
    let (sender, receiver) = mpsc::channel(1);
    let reading = tokio::spawn(async move {
        loop {
            let page = match pages.next().await {
                Ok(Some(page)) => Ok(page),
                Ok(None) => return,
                Err(failure) => Err(failure),
            };
            let failed = page.is_err();
            if sender.send(page).await.is_err() || failed {
                return;
            }
        }
    });
    let state = (receiver, AbortOnDropHandle::new(reading));
    let pages = stream::unfold(state, async |(mut receiver, reading)| {
        let page: Result<Vec<Listed>, Failure> = receiver.recv().await?;
        Some((page, (receiver, reading)))
    });
    pages.flat_map(|page| {
        let objects = match page {
            Ok(objects) => objects.into_iter().map(Ok).collect(),
            Err(failure) => vec![Err(failure)],
        };
        stream::iter(objects)
    })
}
