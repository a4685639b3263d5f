//! Finds sweeps that stand still. The message of one may be lost, as when somebody purges its queue, and
//! then nothing else would ever move it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::ledger::Sweep;

/// How long nothing has to be heard of a sweep. A page may well take longer than that: to publish its
/// message again does no harm, because of two messages of a page one goes on.
const SILENCE: Duration = Duration::from_mins(1);

/// What was last heard of each sweep that goes on, and when, by this host's monotonic clock.
#[derive(Debug, Default)]
pub(super) struct Watch(HashMap<Uuid, (Option<u64>, Instant)>);

impl Watch {
    /// Those of the sweeps that stand still, each once in a while. To be asked now and then.
    pub(super) fn still<'a>(&mut self, sweeps: &'a [Sweep], now: Instant) -> Vec<&'a Sweep> {
        let going_on = || sweeps.iter().filter(|sweep| sweep.end.is_none());
        self.0.retain(|id, _| going_on().any(|sweep| sweep.id == *id));
        let is_still = |sweep: &&Sweep| {
            let heard = self.0.entry(sweep.id).or_insert((sweep.page(), now));
            let is_still =
                heard.0 == sweep.page() && now.saturating_duration_since(heard.1) >= SILENCE;
            if is_still || heard.0 != sweep.page() {
                *heard = (sweep.page(), now);
            }
            is_still
        };
        going_on().filter(is_still).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fact::Fact;
    use super::super::ledger::Ledger;
    use super::super::selection::Selection;
    use super::super::state::{Order, State, Why};
    use super::*;

    #[test]
    fn a_sweep_stands_still_when_no_page_of_it_was_read_for_a_while() {
        let order = Order {
            bucket: "b".to_owned(),
            prefix: String::new(),
            selection: Selection::Missing,
            uploaded_since: None,
            current_only: false,
            rate: None,
        };
        let first = State::first(1, order, Why::Asked, true);
        let (sweep, start) = (first.sweep, Instant::now());
        let State { began: at, order, why, .. } = first.clone();
        let (mut ledger, mut watch) = (Ledger::default(), Watch::default());
        ledger.apply(Fact::Begun { sweep, at, order, why });
        let mut still = |ledger: &Ledger, seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            let still = watch.still(ledger.sweeps(), now);
            still.into_iter().map(|sweep| sweep.awaited(true)).collect::<Vec<_>>()
        };
        let none: Vec<State> = Vec::new();
        assert_eq!(still(&ledger, 0), none);
        assert_eq!(still(&ledger, 59), none);
        assert_eq!(still(&ledger, 60), std::slice::from_ref(&first));
        assert_eq!(still(&ledger, 61), none);
        let next = State { page: 1, ..first.clone() };
        let (counts, page) = (next.counts, 0);
        let paged = Fact::Paged { sweep, page, counts, next: Some(Box::new(next.clone())) };
        ledger.apply(paged);
        assert_eq!(still(&ledger, 119), none);
        assert_eq!(still(&ledger, 178), none);
        assert_eq!(still(&ledger, 179), [next]);
        ledger.apply(Fact::Paged { sweep, page: 1, counts, next: None });
        assert_eq!(still(&ledger, 300), none);
    }
}
