//! Reads a list of a bucket to its end.

use std::sync::Arc;
use std::time::Duration;

use crate::failure::{Dependency, Failure, Kind, Reason, Stage};
use crate::store::{Listed, Listing, Mark, Store, Walk};

/// Waits before the repetitions of a page that the store did not give.
const DELAYS: [Duration; 4] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// Which list of a bucket names everything that is in it.
///
/// # Errors
/// When the store does not say whether the bucket has versions.
pub(crate) async fn listing_of(store: &Store, bucket: &str) -> Result<Listing, Failure> {
    again(|| store.listing_of(bucket)).await
}

/// Asks again after a failure that may pass.
async fn again<T, F>(ask: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    for delay in DELAYS {
        match ask().await {
            Err(Failure { kind: Kind::Suspect(_), .. }) => tokio::time::sleep(delay).await,
            answer => return answer,
        }
    }
    ask().await
}

/// The pages of a list, from a mark on.
pub(crate) struct Pages {
    store: Arc<Store>,
    walk: Walk,
    /// Where the next page begins; `None` after the last one.
    next: Option<Mark>,
    circle: Circle,
}

/// Finds out that marks repeat, in little memory: one mark is kept, and replaced by a later one after
/// twice as many steps as the time before (Brent, 1980). The order of marks tells nothing: SeaweedFS
/// lists `a/b` before `a-b`.
#[derive(Debug, Default)]
struct Circle {
    kept: Mark,
    steps: u64,
    limit: u64,
}

impl Pages {
    pub(crate) fn new(store: Arc<Store>, walk: Walk, start: Mark) -> Self {
        Self { store, walk, next: Some(start), circle: Circle::default() }
    }

    /// What the next page lists; `None` after the last one.
    ///
    /// # Errors
    /// When the page cannot be read, or the list goes in a circle.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Listed>>, Failure> {
        let Some(mark) = self.next.take() else { return Ok(None) };
        let page = again(|| self.store.page(&self.walk, &mark)).await?;
        if let Some(next) = &page.next
            && self.circle.closes(next)
        {
            let detail = "the list goes in a circle: it leads back to where it was";
            let (store, stage) = (Dependency::Store, Stage::Fetch);
            return Err(Failure::suspect(store, stage, Reason::StoreOdd, detail));
        }
        self.next = page.next;
        Ok(Some(page.objects))
    }
}

impl Circle {
    /// Takes the next mark; returns whether it was there before.
    fn closes(&mut self, mark: &Mark) -> bool {
        if self.limit > 0 && *mark == self.kept {
            return true;
        }
        self.steps += 1;
        if self.steps > self.limit {
            self.kept.clone_from(mark);
            self.limit = (self.limit * 2).max(1);
            self.steps = 0;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mark(number: usize) -> Mark {
        Mark::Token(number.to_string())
    }

    proptest! {
        #[test]
        fn a_circle_is_found_before_it_was_gone_round_four_times(
            start in 0_usize..200,
            length in 1_usize..200,
        ) {
            let mut circle = Circle::default();
            let marks = (0..start).chain((0..4 * (start + length)).map(|step| start + step % length));
            prop_assert!(marks.map(mark).any(|mark| circle.closes(&mark)));
        }

        #[test]
        fn a_list_without_a_circle_is_read_to_its_end(length in 0_usize..2000) {
            let mut circle = Circle::default();
            prop_assert!(!(0..length).map(mark).any(|mark| circle.closes(&mark)));
        }
    }
}
