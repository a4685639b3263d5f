use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const LIMIT: usize = 3;
const WINDOW: Duration = Duration::from_secs(10);

fn ledger() -> Ledger {
    Ledger::new(LIMIT, WINDOW)
}

fn moment(by: u128, running: u64) -> Moment {
    Moment { by: Uuid::from_u128(by), running }
}

fn found(running: u64, signature: &str, content: u32) -> Fact {
    let (signature, sha256) = (signature.to_owned(), content.to_string());
    Fact::Found { moment: moment(1, running), signature, sha256 }
}

/// What the ledger says that this ruling is, at some time.
fn ruled(ledger: &Ledger, signature: &str, state: State) -> Fact {
    Fact::Ruled(ledger.next(signature, state, 7))
}

fn trip(ledger: &mut Ledger, signature: &str) {
    for content in 0..=LIMIT {
        ledger.apply(found(0, signature, u32::try_from(content).unwrap()));
    }
    assert_eq!(ledger.state(signature), State::Held);
}

#[test]
fn one_content_more_than_the_limit_within_the_window_holds_its_signature_alone() {
    let mut ledger = ledger();
    for content in 1..=3 {
        assert_eq!(ledger.apply(found(0, "a", content)), None);
        assert_eq!(ledger.apply(found(0, "b", content)), None);
    }
    assert_eq!(ledger.state("a"), State::Counted);
    let held = ledger.apply(found(9_000, "a", 4)).unwrap();
    assert_eq!((held.signature.as_str(), held.number, held.state), ("a", 1, State::Held));
    assert_eq!((ledger.state("a"), ledger.state("b")), (State::Held, State::Counted));
    // It is not counted any more, and held however long ago that is.
    assert!(!ledger.is_to_be_counted(moment(1, 9_000), "a", "9"));
    assert_eq!(ledger.apply(found(90_000_000, "a", 5)), None);
    assert_eq!(ledger.state("a"), State::Held);
}

#[test]
fn one_content_a_thousand_times_is_one() {
    let mut ledger = ledger();
    for n in 0..1_000 {
        ledger.apply(found(n, "a", 1));
    }
    assert_eq!(ledger.state("a"), State::Counted);
    // For a while it need not even be counted again.
    assert!(!ledger.is_to_be_counted(moment(1, 1_500), "a", "1"));
    assert!(ledger.is_to_be_counted(moment(1, 1_500), "a", "2"));
    assert!(ledger.is_to_be_counted(moment(1, 2_500), "a", "1"));
}

#[test]
fn what_was_not_counted_again_still_counts_for_its_whole_window() {
    let mut ledger = ledger();
    ledger.apply(found(0, "a", 1));
    // Deleted once more now, and not written down.
    assert!(!ledger.is_to_be_counted(moment(1, 900), "a", "1"));
    for (running, content) in [(5_000, 2), (5_000, 3), (10_800, 4)] {
        ledger.apply(found(running, "a", content));
    }
    assert_eq!(ledger.state("a"), State::Held);
}

#[test]
fn contents_before_the_window_do_not_count() {
    let mut ledger = ledger();
    for content in 0..100 {
        ledger.apply(found(u64::from(content) * 5_000, "a", content));
    }
    assert_eq!(ledger.state("a"), State::Counted);
    // Seen again, an old one counts again.
    for content in [1, 2, 3] {
        ledger.apply(found(500_000, "a", content));
    }
    assert_eq!(ledger.state("a"), State::Held);
}

#[test]
fn confirmed_is_not_counted_and_cleared_is_counted_anew() {
    let mut ledger = ledger();
    trip(&mut ledger, "a");
    let confirmed = ruled(&ledger, "a", State::Confirmed);
    assert!(ledger.apply(confirmed).is_some());
    for content in 10..30 {
        ledger.apply(found(1, "a", content));
    }
    assert_eq!(ledger.state("a"), State::Confirmed);
    let cleared = ruled(&ledger, "a", State::Counted);
    ledger.apply(cleared);
    for content in 30..33 {
        assert_eq!(ledger.apply(found(1, "a", content)), None);
    }
    assert_eq!(ledger.apply(found(1, "a", 33)).map(|ruling| ruling.number), Some(4));
    assert_eq!(ledger.state("a"), State::Held);
}

#[test]
fn of_two_rulings_at_once_the_first_stands_and_what_is_said_again_changes_nothing() {
    let mut ledger = ledger();
    trip(&mut ledger, "a");
    let again = ledger.to_append(true, 5);
    let (confirmed, cleared) =
        (ruled(&ledger, "a", State::Confirmed), ruled(&ledger, "a", State::Counted));
    assert!(ledger.apply(confirmed).is_some());
    assert!(ledger.apply(cleared).is_none());
    // A replica that had not read the confirmation yet says once more that it is held.
    for fact in again {
        assert!(ledger.apply(fact).is_none());
    }
    assert_eq!(ledger.state("a"), State::Confirmed);
}

#[test]
fn a_hold_is_recorded_once_and_said_again_before_the_journal_drops_it() {
    let mut ledger = ledger();
    trip(&mut ledger, "a");
    let facts = ledger.to_append(false, 5);
    let [Fact::Ruled(ruling)] = facts.as_slice() else { panic!("{facts:?}") };
    assert_eq!((ruling.state, ruling.at), (State::Held, 5));
    ledger.apply(facts[0].clone());
    assert!(!ledger.has_due());
    for _ in 0..=KEPT_ENTRIES {
        assert_eq!(ledger.to_append(false, 6), []);
        ledger.apply(Fact::Other);
    }
    assert_eq!(ledger.to_append(false, 6), facts);
    // A journal without the beginning is enough, and so is one that was deleted.
    let mut late = self::ledger();
    late.apply(facts[0].clone());
    assert_eq!(late.state("a"), State::Held);
    late.begin_again();
    assert_eq!((late.state("a"), late.to_append(false, 6)), (State::Held, facts));
}

#[test]
fn what_is_held_is_never_forgotten() {
    let mut ledger = ledger();
    trip(&mut ledger, "held");
    for n in 0..3 * MAX_SIGNATURES {
        let name = n.to_string();
        ledger.apply(ruled(&ledger, &name, State::Held));
        ledger.apply(ruled(&ledger, &name, State::Counted));
    }
    assert_eq!(ledger.state("held"), State::Held);
    assert!(ledger.rulings().count() <= MAX_SIGNATURES);
}

#[test]
fn entries_are_read_as_they_were_written_and_those_of_others_are_passed_over() {
    let fact = found(3, "a", 1);
    let json = serde_json::to_string(&fact).unwrap();
    assert_eq!(serde_json::from_str::<Fact>(&json).unwrap(), fact);
    for other in [r#"{"kind":"mark"}"#, r#"{"kind":"sweep_begun","sweep":"x","at":[1]}"#] {
        assert_eq!(serde_json::from_str::<Fact>(other).unwrap(), Fact::Other);
    }
}

/// What a replica does: two signatures, few contents, time that passes, and a person.
#[derive(Debug, Clone)]
enum Step {
    Find { by: u128, signature: u8, content: u32, after: u64 },
    Rule { signature: u8, state: State },
    Again,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let find = (1_u128..4, 0_u8..2, 0_u32..6, prop_oneof![0_u64..400, 0_u64..6_000])
        .prop_map(|(by, signature, content, after)| Step::Find { by, signature, content, after });
    let states = prop_oneof![Just(State::Confirmed), Just(State::Counted)];
    let rule = (0_u8..2, states).prop_map(|(signature, state)| Step::Rule { signature, state });
    prop::collection::vec(prop_oneof![24 => find, 3 => rule, 2 => Just(Step::Again)], 1..150)
}

proptest! {
    /// Against a model that remembers everything: no window has more deleted contents than the limit
    /// unless a person said so, and nothing is held that has fewer within a window and its bit.
    #[test]
    fn the_limit_holds_in_every_window(steps in steps()) {
        let mut ledger = ledger();
        let mut now = 0_u64;
        // By signature, what was deleted and when, since the last ruling.
        let mut deleted: HashMap<String, Vec<(u64, u32)>> = HashMap::new();
        let mut journal = Vec::new();
        let mut append = |ledger: &mut Ledger, fact: Fact| {
            journal.push(fact.clone());
            ledger.apply(fact)
        };
        for by in 1..4 {
            // They began at other times.
            let fact = Fact::Began(moment(by, u64::try_from(by).unwrap() * 1_000_000));
            append(&mut ledger, fact);
        }
        for step in steps {
            match step {
                Step::Find { by, signature, content, after } => {
                    now += after;
                    let (signature, sha256) = (signature.to_string(), content.to_string());
                    let moment = moment(by, u64::try_from(by).unwrap() * 1_000_000 + now);
                    let was = ledger.state(&signature);
                    if ledger.is_to_be_counted(moment, &signature, &sha256) {
                        let signature = signature.clone();
                        append(&mut ledger, Fact::Found { moment, signature, sha256 });
                    }
                    let since = deleted.entry(signature.clone()).or_default();
                    let within = |since: &[(u64, u32)], window: u64| {
                        let recent = since.iter().filter(|(at, _)| now - at <= window);
                        recent.map(|(_, content)| *content).chain([content]).collect::<BTreeSet<_>>()
                    };
                    match ledger.state(&signature) {
                        State::Counted => {
                            prop_assert!(within(since, 10_000).len() <= LIMIT);
                            since.push((now, content));
                        }
                        State::Held if was == State::Counted => {
                            prop_assert!(within(since, 11_000).len() > LIMIT);
                        }
                        State::Held | State::Confirmed => {}
                    }
                }
                Step::Rule { signature, state } => {
                    let signature = signature.to_string();
                    let fact = ruled(&ledger, &signature, state);
                    append(&mut ledger, fact);
                    deleted.remove(&signature);
                }
                Step::Again => {
                    for fact in ledger.to_append(true, 1) {
                        append(&mut ledger, fact);
                    }
                }
            }
        }
        // Another replica that reads it later, and one that reads it without its beginning.
        let states = |ledger: &Ledger| ["0", "1"].map(|signature| ledger.state(signature));
        let mut late = self::ledger();
        for fact in journal {
            late.apply(fact);
        }
        prop_assert_eq!(states(&late), states(&ledger));
        let kept = ledger.to_append(true, 1);
        let mut shortened = self::ledger();
        for fact in kept {
            shortened.apply(fact);
        }
        prop_assert_eq!(states(&shortened), states(&ledger));
    }
}
