//! Walks a bucket: the standing of each object, what to announce, where to go on.
//!
//! - `pages`: reads a list to its end, and never twice; `judge`: the standing of one object; [`walk`]
//!   joins both for an audit: many objects at once, in the order of the list.
//!
//! A sweep is a chain of messages in a queue of its own, one at a time: each is the [`State`] before a
//! page. To handle it means to read the page, to announce what it calls for into the backlog, and to
//! publish the state before the next page. The journal says which page was read last, so that after a
//! crash one chain goes on, and which sweep of a bucket goes on at all.
//!
//! - `selection`: which objects are announced; `state`: where a sweep stands; `page`: reads one page;
//! - `fact`: what the journal says of sweeps; `ledger`: what follows from it, pure; `watch`: which of
//!   them stand still; `sweeps`: what this replica knows of them.

mod fact;
mod judge;
mod ledger;
mod page;
mod pages;
mod selection;
mod state;
mod sweeps;
mod watch;

use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

pub(crate) use self::fact::{End, Fact};
pub(crate) use self::judge::{Finding, Judge, Judged};
pub(crate) use self::ledger::{Advice, Ledger, Sweep};
pub(crate) use self::page::read;
pub(crate) use self::pages::{Pages, listing_of};
pub(crate) use self::selection::{Pass, Selection};
pub(crate) use self::state::{Counts, Order, State, Why};
pub(crate) use self::sweeps::Sweeps;
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
    objects(|sender| read_to_end(pages, sender))
        .map(move |listed| {
            let (judge, slots) = (Arc::clone(&judge), Arc::clone(&slots));
            // A task of its own: one thread would not be enough for a fast store.
            let task = async move {
                let listed = listed?;
                let _slot = slots.acquire().await;
                let finding = judge.judge(&listed).await?;
                Ok(Visited { listed, finding })
            };
            let task = AbortOnDropHandle::new(tokio::spawn(task));
            async move { task.await.unwrap_or_else(|error| Err(Stop::Broken(error.to_string()))) }
        })
        .buffered(concurrency.saturating_mul(WINDOW))
}

/// Reads all pages, each while the objects of the one before are worked on.
async fn read_to_end(mut pages: Pages, sender: mpsc::Sender<Result<Vec<Listed>, Failure>>) {
    while let Some(page) = pages.next().await.transpose() {
        let failed = page.is_err();
        if sender.send(page).await.is_err() || failed {
            return;
        }
    }
}

/// What the pages list that `read` sends. If it breaks, that is an error, and not the end of the list.
fn objects<F>(
    read: impl FnOnce(mpsc::Sender<Result<Vec<Listed>, Failure>>) -> F,
) -> impl Stream<Item = Result<Listed, Stop>>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(1);
    let reading = AbortOnDropHandle::new(tokio::spawn(read(sender)));
    let pages = stream::unfold((receiver, Some(reading)), async |(mut receiver, reading)| {
        if let Some(page) = receiver.recv().await {
            return Some((page.map_err(Stop::List), (receiver, reading)));
        }
        let error = reading?.await.err()?;
        Some((Err(Stop::Broken(error.to_string())), (receiver, None)))
    });
    pages.flat_map(|page| {
        let objects = match page {
            Ok(objects) => objects.into_iter().map(Ok).collect(),
            Err(stop) => vec![Err(stop)],
        };
        stream::iter(objects)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_that_breaks_is_not_the_end_of_the_list() {
        for breaks in [false, true] {
            let listed: Vec<_> = objects(|sender| async move {
                let page = vec![Listed::NoText("k".to_owned())];
                sender.send(Ok(page)).await.unwrap();
                assert!(!breaks, "as the library does on an address that is too long");
            })
            .collect()
            .await;
            let ends = listed.iter().map(Result::is_ok).collect::<Vec<_>>();
            assert_eq!(ends, if breaks { vec![true, false] } else { vec![true] });
        }
    }
}
