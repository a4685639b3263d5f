//! What is known of canaries, from the journal alone. Pure: the same entries in the same order give
//! the same ledger in every replica.

use std::collections::{BTreeMap, HashMap, VecDeque};

use uuid::Uuid;

use super::fact::{End, Fact, Outcome, Sample};

/// Canaries that are remembered. A round has two for each bucket, and removes them.
const MAX_CANARIES: usize = 10_000;
/// Buckets that are remembered.
const MAX_BUCKETS: usize = 1_000;
/// The highest number of the first round that is read.
const MAX_FIRST_ROUND: u64 = 1 << 62;
/// Numbers that one claim may leave out.
const MAX_STEP: u64 = 1 << 32;
/// Markers that are remembered.
const MAX_MARKERS: usize = 1_000;
/// Objects of earlier rounds that one round removes from a bucket.
const MAX_LEFTOVERS: usize = 20;
/// A round of another replica may still be at work on its objects; after so many more it is over.
const FOREIGN_ROUNDS: u64 = 2;

/// Bucket and key.
type Name = (String, String);

/// What is known of one canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Canary {
    pub(super) round: u64,
    pub(super) by: Uuid,
    pub(super) sha256: String,
    pub(super) sample: Sample,
    pub(super) progress: Progress,
}

/// How far a canary has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
    /// No worker has said anything about it.
    Unseen,
    /// Its notification was taken.
    Arrived,
    /// As its last [`End`].
    Ended(End),
}

/// The replica that does a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) round: u64,
    pub(super) by: Uuid,
    /// Seconds since 1970, by the clock of that replica.
    pub(super) at: i64,
}

/// The latest result for a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Conclusion {
    round: u64,
    pub(super) outcome: Outcome,
    pub(super) why: String,
}

/// What is known of canaries.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    claim: Option<Claim>,
    canaries: HashMap<Name, Canary>,
    /// The names of all canaries, oldest first, with some that are removed.
    order: VecDeque<Name>,
    markers: VecDeque<Uuid>,
    conclusions: BTreeMap<String, Conclusion>,
}

impl Ledger {
    /// Takes in the next entry of the journal.
    pub(super) fn apply(&mut self, fact: Fact) {
        match fact {
            Fact::Claimed { round, by, at } => self.claimed(Claim { round, by, at }),
            Fact::Announced { round, by, bucket, key, sha256, sample } => {
                let progress = Progress::Unseen;
                self.announced((bucket, key), Canary { round, by, sha256, sample, progress });
            }
            Fact::Arrived { bucket, key } => {
                self.progressed(&(bucket, key), Progress::Arrived);
            }
            Fact::Ended { bucket, key, end } => {
                self.progressed(&(bucket, key), Progress::Ended(end));
            }
            Fact::MarkerCame { id } => {
                self.markers.truncate(MAX_MARKERS - 1);
                self.markers.push_front(id);
            }
            Fact::Concluded { round, bucket, outcome, why } => {
                // Of a round that nobody claimed there is no result.
                let is_claimed = self.claim.is_some_and(|last| round <= last.round);
                let before = self.conclusions.get(&bucket);
                let is_room = before.is_some() || self.conclusions.len() < MAX_BUCKETS;
                if is_claimed && is_room && before.is_none_or(|before| before.round <= round) {
                    self.conclusions.insert(bucket, Conclusion { round, outcome, why });
                }
            }
            Fact::Removed { bucket, key } => drop(self.canaries.remove(&(bucket, key))),
        }
    }

    /// The first claim of a round wins it. A replica that did not find the last claims any more, since
    /// the journal dropped them, begins anew and then follows the higher numbers of the others. A step
    /// is bounded, so that a wrong entry cannot use up all numbers.
    fn claimed(&mut self, claim: Claim) {
        let next = match self.claim {
            None => claim.round <= MAX_FIRST_ROUND,
            Some(last) => claim
                .round
                .checked_sub(last.round)
                .is_some_and(|step| (1..=MAX_STEP).contains(&step)),
        };
        if next {
            self.claim = Some(claim);
        }
    }

    /// A key is used once.
    fn announced(&mut self, name: Name, canary: Canary) {
        if self.canaries.contains_key(&name) {
            return;
        }
        self.order.push_back(name.clone());
        self.canaries.insert(name, canary);
        while self.order.len() > MAX_CANARIES
            && let Some(oldest) = self.order.pop_front()
        {
            self.canaries.remove(&oldest);
        }
    }

    /// What was applied stays applied: a repeated notification of it finds the object gone.
    fn progressed(&mut self, name: &Name, progress: Progress) {
        if let Some(canary) = self.canaries.get_mut(name)
            && !canary.is_used()
        {
            canary.progress = progress;
        }
    }

    /// The last round that was begun.
    pub(super) fn claim(&self) -> Option<Claim> {
        self.claim
    }

    pub(super) fn canary(&self, bucket: &str, key: &str) -> Option<&Canary> {
        self.canaries.get(&(bucket.to_owned(), key.to_owned()))
    }

    /// Whether the key is that of a canary that was not used yet.
    pub(super) fn is_expected(&self, bucket: &str, key: &str) -> bool {
        self.canary(bucket, key).is_some_and(|canary| !canary.is_used())
    }

    /// Whether these bytes under this key are a canary that was not used yet.
    pub(super) fn is_canary(&self, bucket: &str, key: &str, sha256: &str) -> bool {
        self.canary(bucket, key).is_some_and(|canary| !canary.is_used() && canary.sha256 == sha256)
    }

    pub(super) fn came(&self, marker: Uuid) -> bool {
        self.markers.contains(&marker)
    }

    /// The latest result for each bucket.
    pub(super) fn conclusions(&self) -> &BTreeMap<String, Conclusion> {
        &self.conclusions
    }

    /// Canaries of earlier rounds that may still be in the bucket, as key and SHA-256, oldest first:
    /// those of the replica `me`, and those that no other can be at work on.
    pub(super) fn leftovers(&self, bucket: &str, me: Uuid, round: u64) -> Vec<(String, String)> {
        let is_over = |canary: &Canary| {
            (canary.by == me && canary.round < round)
                || canary.round.saturating_add(FOREIGN_ROUNDS) <= round
        };
        let of_bucket = self.order.iter().filter(|(of, _)| of == bucket);
        let known = of_bucket.filter_map(|name| Some((&name.1, self.canaries.get(name)?)));
        known
            .filter(|(_, canary)| is_over(canary))
            .map(|(key, canary)| (key.clone(), canary.sha256.clone()))
            .take(MAX_LEFTOVERS)
            .collect()
    }
}

impl Canary {
    fn is_used(&self) -> bool {
        matches!(self.progress, Progress::Ended(End::Applied { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Action;
    use crate::verdict::Status;

    const ME: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    fn claimed(round: u64, by: Uuid) -> Fact {
        Fact::Claimed { round, by, at: 0 }
    }

    fn announced(round: u64, by: Uuid, key: &str) -> Fact {
        let (bucket, key, sha256) = ("b".to_owned(), key.to_owned(), format!("sha of {key}"));
        Fact::Announced { round, by, bucket, key, sha256, sample: Sample::Clean }
    }

    fn ended(key: &str, end: End) -> Fact {
        Fact::Ended { bucket: "b".to_owned(), key: key.to_owned(), end }
    }

    fn applied() -> End {
        End::Applied { status: Status::Clean, action: Action::Tag, signature: None }
    }

    fn ledger(facts: impl IntoIterator<Item = Fact>) -> Ledger {
        let mut ledger = Ledger::default();
        facts.into_iter().for_each(|fact| ledger.apply(fact));
        ledger
    }

    #[test]
    fn the_first_claim_of_the_next_round_wins() {
        let winner = |claims: &[(u64, Uuid)]| {
            let ledger = ledger(claims.iter().map(|(round, by)| claimed(*round, *by)));
            ledger.claim().map(|claim| (claim.round, claim.by))
        };
        assert_eq!(winner(&[]), None);
        // The journal may begin at any round.
        assert_eq!(winner(&[(7, OTHER), (7, ME)]), Some((7, OTHER)));
        assert_eq!(winner(&[(7, OTHER), (8, ME), (8, OTHER)]), Some((8, ME)));
        // Late, forged, or of a replica that has not read on.
        for odd in [0, 7, 8 + MAX_STEP, u64::MAX] {
            assert_eq!(winner(&[(7, OTHER), (odd, ME)]), Some((7, OTHER)), "{odd}");
        }
        assert_eq!(winner(&[(u64::MAX, OTHER), (0, ME)]), Some((0, ME)));
        // It began anew, and follows the others.
        assert_eq!(winner(&[(1, ME), (900, OTHER)]), Some((900, OTHER)));
    }

    #[test]
    fn a_canary_is_its_bucket_its_key_and_its_bytes_until_it_is_used() {
        let mut ledger = ledger([announced(1, ME, "k")]);
        let known = |ledger: &Ledger| ledger.is_canary("b", "k", "sha of k");
        assert!(known(&ledger));
        for (bucket, key, sha256) in
            [("c", "k", "sha of k"), ("b", "l", "sha of k"), ("b", "k", "other bytes")]
        {
            assert!(!ledger.is_canary(bucket, key, sha256));
        }
        for end in [End::Failed { reason: "x".to_owned() }, End::Gone] {
            ledger.apply(ended("k", end));
            assert!(known(&ledger), "a later attempt may get further");
        }
        ledger.apply(ended("k", applied()));
        assert!(!known(&ledger));
        // Nothing makes it new.
        ledger.apply(ended("k", End::Gone));
        ledger.apply(announced(2, ME, "k"));
        assert!(!known(&ledger));
        assert_eq!(ledger.canary("b", "k").unwrap().progress, Progress::Ended(applied()));
    }

    #[test]
    fn leftovers_are_those_that_nobody_can_be_at_work_on() {
        let mut ledger = ledger([
            announced(3, OTHER, "old"),
            announced(4, OTHER, "foreign"),
            announced(4, ME, "own"),
            announced(5, ME, "current"),
        ]);
        let keys = |ledger: &Ledger, bucket| {
            let all = ledger.leftovers(bucket, ME, 5);
            all.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(keys(&ledger, "b"), ["old", "own"]);
        assert!(keys(&ledger, "c").is_empty());
        ledger.apply(Fact::Removed { bucket: "b".to_owned(), key: "old".to_owned() });
        assert_eq!(keys(&ledger, "b"), ["own"]);
    }

    #[test]
    fn an_earlier_round_does_not_overrule_a_later_one() {
        let concluded = |round, outcome| Fact::Concluded {
            round,
            bucket: "b".to_owned(),
            outcome,
            why: String::new(),
        };
        let mut ledger =
            ledger([claimed(2, ME), concluded(2, Outcome::Down), concluded(1, Outcome::Up)]);
        assert_eq!(ledger.conclusions()["b"].outcome, Outcome::Down);
        // Nor does one that was not begun overrule all that come.
        ledger.apply(concluded(u64::MAX, Outcome::Up));
        assert_eq!(ledger.conclusions()["b"].outcome, Outcome::Down);
    }

    #[test]
    fn a_flood_of_announcements_does_not_fill_the_memory() {
        let ledger = ledger((0..MAX_CANARIES + 5).map(|n| announced(1, ME, &n.to_string())));
        assert_eq!((ledger.canaries.len(), ledger.order.len()), (MAX_CANARIES, MAX_CANARIES));
        assert!(!ledger.is_expected("b", "4") && ledger.is_expected("b", "5"));
    }
}
