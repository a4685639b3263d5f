//! What is known of surges, from the journal alone. Pure: the same entries in the same order give the
//! same ledger in every replica.

use std::collections::{BTreeMap, HashMap};

use super::fact::{Fact, Moment, Ruling, State};
use super::timeline::Timeline;

/// Signatures that are remembered. Beyond it the ones whose hold is over are forgotten; those that are
/// held never.
const MAX_SIGNATURES: usize = 1_000;
/// A ruling is appended again after this many entries. The journal keeps at least six times as many.
const KEPT_ENTRIES: u64 = 5_000;
/// The largest step of the number of a ruling: a wrong entry must not use up all numbers.
const MAX_STEP: u64 = 1_000_000;
/// A content that was counted within this part of the window need not be counted again.
const FRESH_PART: u64 = 10;

/// The ledger of all signatures.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Contents of one signature within the window that are deleted; one more is a surge.
    limit: usize,
    /// In milliseconds.
    window: u64,
    timeline: Timeline,
    /// By signature, when each of its contents was last about to be deleted.
    contents: HashMap<String, HashMap<String, u64>>,
    /// When the contents of all signatures were last looked through.
    looked_through: u64,
    rulings: BTreeMap<String, Known>,
    /// Entries that were read.
    entries: u64,
}

/// A ruling that is in force.
#[derive(Debug)]
struct Known {
    ruling: Ruling,
    /// The number of the entry that said so last; `None` if only the counted contents say so.
    entry: Option<u64>,
}

impl Ledger {
    pub(crate) fn new(limit: usize, window: std::time::Duration) -> Self {
        Self {
            limit,
            window: u64::try_from(window.as_millis()).unwrap_or(u64::MAX),
            timeline: Timeline::default(),
            contents: HashMap::new(),
            looked_through: 0,
            rulings: BTreeMap::new(),
            entries: 0,
        }
    }

    /// The journal is read from its beginning again. What was ruled stays: the journal may have been
    /// deleted, and that must not end a hold.
    pub(crate) fn begin_again(&mut self) {
        self.timeline = Timeline::default();
        self.contents.clear();
        (self.looked_through, self.entries) = (0, 0);
        self.rulings.values_mut().for_each(|known| known.entry = None);
    }

    /// Takes in the next entry of the journal. Returns the ruling that is new by it.
    pub(crate) fn apply(&mut self, fact: Fact) -> Option<Ruling> {
        self.entries += 1;
        match fact {
            Fact::Began(moment) => {
                self.timeline.advance(moment);
                None
            }
            Fact::Found { moment, signature, sha256 } => self.count(moment, signature, sha256),
            Fact::Ruled(ruling) => self.rule(ruling, Some(self.entries)),
            Fact::Other => None,
        }
    }

    fn count(&mut self, moment: Moment, signature: String, sha256: String) -> Option<Ruling> {
        let now = self.timeline.advance(moment);
        self.look_through(now);
        if self.state(&signature) != State::Counted {
            return None;
        }
        let oldest = self.oldest(now);
        let contents = self.contents.entry(signature.clone()).or_default();
        contents.insert(sha256, now);
        if contents.len() <= self.limit {
            return None;
        }
        contents.retain(|_, at| *at >= oldest);
        if contents.len() <= self.limit {
            return None;
        }
        let number = self.number(&signature) + 1;
        // Whoever records it tells when.
        self.rule(Ruling { signature, number, state: State::Held, at: 0 }, None)
    }

    fn rule(&mut self, ruling: Ruling, entry: Option<u64>) -> Option<Ruling> {
        if ruling.number > self.number(&ruling.signature).saturating_add(MAX_STEP) {
            return None;
        }
        if let Some(known) = self.rulings.get_mut(&ruling.signature) {
            let same = ruling.number == known.ruling.number && ruling.state == known.ruling.state;
            if same && entry.is_some() {
                known.entry = entry;
                known.ruling.at = ruling.at;
            }
            if ruling.number <= known.ruling.number {
                return None;
            }
        }
        // Counted from here on, or not at all.
        self.contents.remove(&ruling.signature);
        if self.rulings.len() >= MAX_SIGNATURES {
            self.forget_one();
        }
        let known = Known { ruling: ruling.clone(), entry };
        self.rulings.insert(ruling.signature.clone(), known);
        Some(ruling)
    }

    fn forget_one(&mut self) {
        let over = |known: &&Known| known.ruling.state == State::Counted;
        let oldest = self.rulings.values().filter(over).min_by_key(|known| known.ruling.at);
        if let Some(signature) = oldest.map(|known| known.ruling.signature.clone()) {
            self.rulings.remove(&signature);
        }
    }

    /// Forgets what is older than the window, of all signatures, once in each window.
    fn look_through(&mut self, now: u64) {
        if now.saturating_sub(self.looked_through) < self.window {
            return;
        }
        self.looked_through = now;
        let oldest = self.oldest(now);
        self.contents.retain(|_, contents| {
            contents.retain(|_, at| *at >= oldest);
            !contents.is_empty()
        });
    }

    /// The beginning of the window that ends now, and a bit before it for contents that were not
    /// counted again because they were fresh.
    fn oldest(&self, now: u64) -> u64 {
        now.saturating_sub(self.window).saturating_sub(self.window / FRESH_PART)
    }

    /// Whether the deletion of this content has to be counted before it is decided upon.
    pub(crate) fn is_to_be_counted(&self, moment: Moment, signature: &str, sha256: &str) -> bool {
        let counted = self.contents.get(signature).and_then(|contents| contents.get(sha256));
        let now = self.timeline.at(moment);
        let is_fresh = counted.is_some_and(|at| now.saturating_sub(*at) < self.window / FRESH_PART);
        !is_fresh && self.state(signature) == State::Counted
    }

    /// How deletions by this signature are treated.
    pub(crate) fn state(&self, signature: &str) -> State {
        self.rulings.get(signature).map_or(State::Counted, |known| known.ruling.state)
    }

    fn number(&self, signature: &str) -> u64 {
        self.rulings.get(signature).map_or(0, |known| known.ruling.number)
    }

    /// The ruling that would change what is known of a signature.
    pub(crate) fn next(&self, signature: &str, state: State, at: i64) -> Ruling {
        let number = self.number(signature) + 1;
        Ruling { signature: signature.to_owned(), number, state, at }
    }

    /// All that was ruled, by signature.
    pub(crate) fn rulings(&self) -> impl Iterator<Item = &Ruling> {
        self.rulings.values().map(|known| &known.ruling)
    }

    /// The rulings that have to be appended, so that the journal has them and keeps them; dated `now` if
    /// they are new. `all`: also those that were said a short while ago.
    pub(crate) fn to_append(&self, all: bool, now: i64) -> Vec<Fact> {
        let due = self.rulings.values().filter(|known| all || self.is_due(known));
        let dated = |ruling: &Ruling| match ruling.at {
            0 => Ruling { at: now, ..ruling.clone() },
            _ => ruling.clone(),
        };
        due.map(|known| Fact::Ruled(dated(&known.ruling))).collect()
    }

    /// Whether a ruling has to be appended.
    pub(crate) fn has_due(&self) -> bool {
        self.rulings.values().any(|known| self.is_due(known))
    }

    fn is_due(&self, known: &Known) -> bool {
        known.entry.is_none_or(|entry| self.entries - entry > KEPT_ENTRIES)
    }
}

#[cfg(test)]
mod tests;
