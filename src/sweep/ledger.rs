//! What is known of sweeps, from the journal alone. Pure: the same entries in the same order give the
//! same ledger in every replica.

use std::collections::VecDeque;

use uuid::Uuid;

use super::fact::{End, Fact};
use super::selection::Pass;
use super::state::{Counts, Order, State, Why};

/// Sweeps that are remembered. The journal keeps a week.
const MAX_SWEEPS: usize = 1_000;

/// What is known of one sweep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sweep {
    pub(crate) id: Uuid,
    pub(crate) order: Order,
    /// In milliseconds since 1970.
    pub(crate) at: i64,
    pub(crate) why: Why,
    /// The last page that was read.
    page: Option<u64>,
    /// The page behind it.
    next: Option<State>,
    pub(crate) counts: Counts,
    /// `None` while it goes on.
    pub(crate) end: Option<End>,
}

/// What to do with the message of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Advice {
    /// It is the first one: accept the sweep, and read the page.
    Accept,
    /// The bucket has this sweep already.
    Refuse(Uuid),
    /// Read the page.
    Read,
    /// It was read. The message of this one may not have been published.
    GoOnWith(Box<State>),
    /// Nothing: the sweep is over, or another message of it goes on.
    Drop,
}

/// All sweeps that the journal tells of, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    sweeps: Vec<Sweep>,
    /// The latest ones that were not accepted, oldest first, and because of which other.
    refused: VecDeque<(Uuid, Uuid)>,
}

impl Sweep {
    /// The last page that was read.
    pub(super) const fn page(&self) -> Option<u64> {
        self.page
    }

    /// The page that comes next. `receipts`: there is a key to verify receipts with.
    pub(super) fn awaited(&self, receipts: bool) -> State {
        self.next.clone().unwrap_or_else(|| {
            let first = State::first(self.at, self.order.clone(), self.why, receipts);
            State { sweep: self.id, ..first }
        })
    }

    /// The pass that the next page belongs to; `None` before the first page and after the last.
    pub(crate) fn pass(&self) -> Option<Pass> {
        self.next.as_ref().map(|next| next.pass)
    }
}

impl Ledger {
    /// Takes in the next entry of the journal.
    pub(crate) fn apply(&mut self, fact: Fact) {
        match fact {
            Fact::Begun { sweep, at, order, why } => {
                if self.sweep(sweep).is_none() {
                    self.add(sweep, at, order, why);
                }
            }
            Fact::Refused { sweep, because_of } => {
                if self.refused.len() >= MAX_SWEEPS {
                    self.refused.pop_front();
                }
                self.refused.push_back((sweep, because_of));
            }
            Fact::Paged { sweep, page, counts, next } => {
                // The journal may not have its beginning any more.
                if let (None, Some(next)) = (self.sweep(sweep), &next) {
                    self.add(sweep, next.began, next.order.clone(), next.why);
                }
                let Some(known) = self.sweep_mut(sweep) else { return };
                if known.end.is_none() && known.page.is_none_or(|before| before < page) {
                    known.page = Some(page);
                    known.counts = counts;
                    known.end = next.is_none().then_some(End::Done);
                    known.next = next.map(|next| *next);
                }
            }
            Fact::Ended { sweep, end } => {
                if let Some(known) = self.sweep_mut(sweep)
                    && known.end.is_none()
                {
                    known.end = Some(end);
                }
            }
        }
    }

    fn add(&mut self, id: Uuid, at: i64, order: Order, why: Why) {
        if self.sweeps.len() >= MAX_SWEEPS {
            // What goes on must not be forgotten, however old it is.
            let over = self.sweeps.iter().position(|sweep| sweep.end.is_some());
            self.sweeps.remove(over.unwrap_or(0));
        }
        let (page, next, counts, end) = (None, None, Counts::default(), None);
        self.sweeps.push(Sweep { id, order, at, why, page, next, counts, end });
    }

    /// What to do with the message of a page that is worked on now. `repeated`: this message, or one
    /// that it is a copy of, was worked on before.
    pub(crate) fn advice(&self, state: &State, repeated: bool) -> Advice {
        if self.refused_because_of(state.sweep).is_some() {
            return Advice::Drop;
        }
        let Some(known) = self.sweep(state.sweep) else { return self.about_new(state) };
        match (&known.end, known.page) {
            (Some(_), _) => Advice::Drop,
            (None, Some(page)) if page > state.page => Advice::Drop,
            // Of two messages of one page, as after a crash, one goes on.
            (None, Some(page)) if page == state.page => match &known.next {
                Some(next) if repeated => Advice::GoOnWith(Box::new(next.clone())),
                _ => Advice::Drop,
            },
            (None, _) => Advice::Read,
        }
    }

    fn about_new(&self, state: &State) -> Advice {
        // The journal may not know it any more. Then its message is all there is.
        if state.page > 0 {
            return Advice::Read;
        }
        let bucket = &state.order.bucket;
        if let Some(running) = self.running(bucket) {
            return Advice::Refuse(running.id);
        }
        match (state.why, self.last_due(bucket)) {
            (Why::DueAfter(before), Some(last)) if before != Some(last.id) => {
                Advice::Refuse(last.id)
            }
            _ => Advice::Accept,
        }
    }

    /// The sweep of this bucket that goes on.
    pub(crate) fn running(&self, bucket: &str) -> Option<&Sweep> {
        self.sweeps.iter().find(|sweep| sweep.end.is_none() && sweep.order.bucket == bucket)
    }

    /// The last sweep of this bucket by `SWEEP_EVERY`. By its own time: an entry that was appended again, so
    /// that the journal keeps it, has another place.
    pub(crate) fn last_due(&self, bucket: &str) -> Option<&Sweep> {
        let is_due =
            |sweep: &&Sweep| matches!(sweep.why, Why::DueAfter(_)) && sweep.order.bucket == bucket;
        self.sweeps.iter().filter(is_due).max_by_key(|sweep| sweep.at)
    }

    pub(crate) fn sweep(&self, id: Uuid) -> Option<&Sweep> {
        self.sweeps.iter().find(|sweep| sweep.id == id)
    }

    /// The sweep because of which this one was not accepted.
    pub(crate) fn refused_because_of(&self, id: Uuid) -> Option<Uuid> {
        self.refused.iter().find(|(refused, _)| *refused == id).map(|(_, because_of)| *because_of)
    }

    /// All that are remembered, oldest first.
    pub(crate) fn sweeps(&self) -> &[Sweep] {
        &self.sweeps
    }

    fn sweep_mut(&mut self, id: Uuid) -> Option<&mut Sweep> {
        self.sweeps.iter_mut().find(|sweep| sweep.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Mark;
    use crate::sweep::selection::Selection;

    fn order(bucket: &str) -> Order {
        Order {
            bucket: bucket.to_owned(),
            prefix: String::new(),
            selection: Selection::Missing,
            uploaded_since: None,
            current_only: false,
            rate: None,
        }
    }

    fn begin(bucket: &str, why: Why) -> State {
        State::first(1, order(bucket), why, true)
    }

    fn begun(state: &State) -> Fact {
        let State { sweep, began: at, order, why, .. } = state.clone();
        Fact::Begun { sweep, at, order, why }
    }

    fn paged(state: &State, next: Option<&State>) -> Fact {
        let State { sweep, page, counts, .. } = *state;
        Fact::Paged { sweep, page, counts, next: next.cloned().map(Box::new) }
    }

    fn after(state: &State) -> State {
        state.next(Some(Mark::Key("k".to_owned())), Counts::default()).unwrap()
    }

    #[test]
    fn a_crash_at_any_point_leaves_one_chain() {
        let mut ledger = Ledger::default();
        let first = begin("b", Why::Asked);
        assert_eq!(ledger.advice(&first, false), Advice::Accept);
        ledger.apply(begun(&first));
        // Before anything was done, and before the page was recorded: it is read again.
        assert_eq!(ledger.advice(&first, true), Advice::Read);
        let second = after(&first);
        ledger.apply(paged(&first, Some(&second)));
        // Recorded, but the next message may not be published.
        let go_on = Advice::GoOnWith(Box::new(second.clone()));
        assert_eq!(ledger.advice(&first, true), go_on);
        // It was, and the first one came once more: two messages of the second page.
        assert_eq!(ledger.advice(&second, false), Advice::Read);
        let third = after(&second);
        ledger.apply(paged(&second, Some(&third)));
        assert_eq!(ledger.advice(&second, false), Advice::Drop);
        assert_eq!(ledger.advice(&first, true), Advice::Drop);
        assert_eq!(ledger.advice(&third, false), Advice::Read);
        // A late entry of a page that was read by another replica changes nothing.
        ledger.apply(paged(&first, Some(&second)));
        assert_eq!(ledger.advice(&second, false), Advice::Drop);
        ledger.apply(paged(&third, None));
        for state in [&first, &second, &third] {
            assert_eq!(ledger.advice(state, true), Advice::Drop);
        }
        assert_eq!(ledger.sweep(first.sweep).unwrap().end, Some(End::Done));
        assert!(ledger.running("b").is_none());
    }

    #[test]
    fn a_bucket_has_one_sweep_at_a_time() {
        let mut ledger = Ledger::default();
        let (one, two, other) =
            (begin("b", Why::Asked), begin("b", Why::Asked), begin("c", Why::Asked));
        ledger.apply(begun(&one));
        assert_eq!(ledger.advice(&two, false), Advice::Refuse(one.sweep));
        assert_eq!(ledger.advice(&other, false), Advice::Accept);
        ledger.apply(Fact::Refused { sweep: two.sweep, because_of: one.sweep });
        ledger.apply(Fact::Ended { sweep: one.sweep, end: End::Cancelled });
        // Refused for good, also after the end of the other.
        assert_eq!(ledger.advice(&two, true), Advice::Drop);
        assert_eq!(ledger.refused_because_of(two.sweep), Some(one.sweep));
        assert_eq!(ledger.advice(&one, true), Advice::Drop);
        assert_eq!(ledger.advice(&begin("b", Why::Asked), false), Advice::Accept);
    }

    #[test]
    fn of_several_replicas_that_find_a_sweep_due_one_begins_it() {
        let mut ledger = Ledger::default();
        let due = |before| begin("b", Why::DueAfter(before));
        let (one, two) = (due(None), due(None));
        assert_eq!(ledger.advice(&one, false), Advice::Accept);
        ledger.apply(begun(&one));
        assert_eq!(ledger.advice(&two, false), Advice::Refuse(one.sweep));
        ledger.apply(paged(&one, None));
        // It is over, and the other message comes only now.
        assert_eq!(ledger.advice(&two, false), Advice::Refuse(one.sweep));
        assert_eq!(ledger.advice(&due(Some(one.sweep)), false), Advice::Accept);
        // One that somebody asks for has no period.
        assert_eq!(ledger.advice(&begin("b", Why::Asked), false), Advice::Accept);
    }

    #[test]
    fn what_is_appended_again_changes_nothing_and_serves_a_journal_without_its_beginning() {
        let mut ledger = Ledger::default();
        let at = |at, before| State::first(at, order("b"), Why::DueAfter(before), true);
        let old = at(1, None);
        let new = at(2, Some(old.sweep));
        let again = [begun(&old), Fact::Ended { sweep: old.sweep, end: End::Done }];
        for fact in [begun(&old), paged(&old, None)] {
            ledger.apply(fact);
        }
        for fact in again.clone() {
            ledger.apply(fact);
        }
        assert_eq!(ledger.sweeps().len(), 1);
        let mut later = Ledger::default();
        for fact in [begun(&new), paged(&new, None)].into_iter().chain(again) {
            later.apply(fact);
        }
        assert_eq!(later.last_due("b").unwrap().id, new.sweep);
        assert!(later.running("b").is_none());
    }

    #[test]
    fn a_sweep_that_goes_on_is_not_forgotten() {
        let mut ledger = Ledger::default();
        let long = begin("long", Why::Asked);
        ledger.apply(begun(&long));
        for _ in 0..=MAX_SWEEPS {
            let short = begin("b", Why::Asked);
            ledger.apply(begun(&short));
            ledger.apply(paged(&short, None));
        }
        assert_eq!(ledger.sweeps().len(), MAX_SWEEPS);
        assert_eq!(ledger.running("long").map(|sweep| sweep.id), Some(long.sweep));
    }

    #[test]
    fn a_sweep_outlives_the_beginning_of_the_journal() {
        let mut ledger = Ledger::default();
        let first = begin("b", Why::Asked);
        let (second, third) = (after(&first), after(&after(&first)));
        assert_eq!(ledger.advice(&second, false), Advice::Read);
        ledger.apply(paged(&second, Some(&third)));
        assert_eq!(ledger.running("b").unwrap().id, first.sweep);
        assert_eq!(ledger.advice(&second, false), Advice::Drop);
        assert_eq!(ledger.advice(&third, false), Advice::Read);
    }
}
