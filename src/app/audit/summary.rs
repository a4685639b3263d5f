//! The result as data: what the text, the JSON and the page are made of.

use serde::Serialize;
use strum::{IntoEnumIterator, IntoStaticStr};

use super::parked::Parked;
use super::tally::{Example, Group, Tally};
use super::target::Target;
use crate::clock;
use crate::quantity::count;
use crate::receipt::{Database, Standing};

/// Databases that are named; the rest is summed up. A deployment gets one a day.
const MAX_DATABASES: usize = 30;
/// In seconds.
const DAY: i64 = 24 * 3600;

/// The result of an audit.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    /// Name and version of this program.
    pub(super) program: String,
    pub(super) targets: Vec<String>,
    /// Of the first target, only keys behind this one were looked at.
    pub(super) after: Option<String>,
    /// Of buckets with versions, only the current ones were looked at.
    pub(super) current_only: bool,
    /// The bytes of verified objects were read and compared.
    pub(super) hashed: bool,
    /// In RFC 3339, UTC.
    pub(super) began: String,
    /// In RFC 3339, UTC.
    pub(super) ended: String,
    pub(super) conclusion: Conclusion,
    /// The conclusion in one sentence.
    pub(super) sentence: String,
    pub(super) interrupted: Option<Interrupted>,
    pub(super) objects: u64,
    pub(super) bytes: u64,
    /// Objects that were removed while the audit ran, and are counted nowhere else.
    pub(super) gone: u64,
    /// Folders that the list names. They have no bytes, and are counted nowhere else.
    pub(super) folders: u64,
    /// Every standing, also where no object has it.
    pub(super) standings: Vec<StandingRow>,
    /// Objects whose standing could not be found out, by reason.
    pub(super) not_found_out: Vec<UnknownRow>,
    /// How recent a verdict had to be.
    pub(super) freshness: String,
    /// Valid receipts by database, the newest first.
    pub(super) databases: Vec<DatabaseRow>,
    /// Valid receipts by databases that are not named.
    pub(super) other_databases: u64,
    pub(super) parked: Option<Parked>,
}

/// What an audit comes to. The exit code follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub(super) enum Conclusion {
    /// Every object is verified clean, or released.
    Verified,
    /// Some object is not.
    NotVerified,
    /// Nothing speaks against an object, and of some the standing could not be found out.
    NotFoundOut,
    /// The end was not reached.
    Interrupted,
}

/// Why an audit ended before its end, and how to go on.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Interrupted {
    pub(super) why: String,
    /// The command that goes on.
    pub(super) go_on: String,
}

#[derive(Debug, Serialize)]
pub(super) struct StandingRow {
    pub(super) standing: &'static str,
    pub(super) meaning: &'static str,
    pub(super) objects: u64,
    pub(super) bytes: u64,
    pub(super) examples: Vec<Example>,
}

#[derive(Debug, Serialize)]
pub(super) struct UnknownRow {
    pub(super) reason: &'static str,
    pub(super) objects: u64,
    pub(super) bytes: u64,
    pub(super) examples: Vec<Example>,
}

#[derive(Debug, Serialize)]
pub(super) struct DatabaseRow {
    /// Empty where the engine named none.
    pub(super) version: String,
    /// In RFC 3339, UTC.
    pub(super) date: Option<String>,
    /// When the audit ended, in whole days.
    pub(super) age_days: Option<i64>,
    pub(super) receipts: u64,
}

impl Conclusion {
    pub(super) fn of(tally: &Tally, interrupted: bool) -> Self {
        let (objects, unknown) = (tally.objects(), tally.not_found_out());
        if interrupted {
            Self::Interrupted
        } else if tally.verified() + tally.released() + unknown < objects {
            Self::NotVerified
        } else if unknown > 0 {
            Self::NotFoundOut
        } else {
            Self::Verified
        }
    }

    /// One sentence for who signs it off, and one about what was left out: a part is not the whole.
    pub(super) fn sentence(self, tally: &Tally, left_out: Option<(&Target, &str)>) -> String {
        let mut said = self.about(tally);
        let released = tally.released();
        if released > 0 {
            said = format!("{said} Released by a person, though infected: {}.", count(released));
        }
        match left_out {
            Some((target, key)) => {
                let (target, key) = (target.shown(), key.escape_debug());
                format!("{said} Keys of {target} up to {key} were not looked at.")
            }
            None => said,
        }
    }

    fn about(self, tally: &Tally) -> String {
        let (objects, unknown) = (tally.objects(), tally.not_found_out());
        let bad = objects - tally.verified() - tally.released() - unknown;
        let all = count(objects);
        match self {
            Self::Verified if objects == 0 => "There is no object.".to_owned(),
            Self::Verified if tally.released() > 0 => {
                format!("Every object is verified clean, or released: {all} of {all}.")
            }
            Self::Verified => format!("Every object is verified clean: {all} of {all}."),
            Self::NotVerified if unknown > 0 => format!(
                "{} of {all} objects are not verified clean, and of {} more it could not be found out.",
                count(bad),
                count(unknown)
            ),
            Self::NotVerified => {
                format!("{} of {all} objects are not verified clean.", count(bad))
            }
            Self::NotFoundOut => format!(
                "Of {} of {all} objects it could not be found out; all others are verified clean.",
                count(unknown)
            ),
            Self::Interrupted => {
                format!("The audit did not come to its end. It looked at {all} objects.")
            }
        }
    }
}

impl DatabaseRow {
    /// The date and the age.
    pub(super) fn dated(&self) -> String {
        match (&self.date, self.age_days) {
            (Some(date), Some(1)) => format!("{date}, 1 day old"),
            (Some(date), Some(days)) => format!("{date}, {days} days old"),
            _ => "an unknown date".to_owned(),
        }
    }

    pub(super) fn name(&self) -> String {
        if self.version.is_empty() {
            "not named".to_owned()
        } else {
            self.version.escape_debug().to_string()
        }
    }
}

/// The rows of all standings.
pub(super) fn standings(tally: &mut Tally) -> Vec<StandingRow> {
    Standing::iter()
        .map(|standing| {
            let Group { objects, bytes, examples } =
                tally.standings.remove(&standing).unwrap_or_default();
            let meaning = meaning(standing);
            StandingRow { standing: standing.into_str(), meaning, objects, bytes, examples }
        })
        .collect()
}

/// The rows of what could not be found out.
pub(super) fn unknown(tally: &mut Tally) -> Vec<UnknownRow> {
    let rows = std::mem::take(&mut tally.unknown).into_iter();
    rows.map(|(reason, Group { objects, bytes, examples })| UnknownRow {
        reason,
        objects,
        bytes,
        examples,
    })
    .collect()
}

/// The newest databases, and the number of receipts by all others. `now` in seconds since 1970.
pub(super) fn databases(tally: &Tally, now: i64) -> (Vec<DatabaseRow>, u64) {
    let mut all: Vec<(&Database, u64)> =
        tally.databases.iter().map(|(database, count)| (database, *count)).collect();
    let number = |database: &Database| database.version.parse::<u64>().ok();
    all.sort_by_key(|(database, _)| std::cmp::Reverse((database.date, number(database))));
    let others = all.iter().skip(MAX_DATABASES).map(|(_, count)| count).sum();
    let named = all.into_iter().take(MAX_DATABASES).map(|(database, receipts)| DatabaseRow {
        version: database.version.clone(),
        date: database.date.map(clock::rfc3339_of_seconds),
        age_days: database.date.map(|date| now.saturating_sub(date).max(0) / DAY),
        receipts,
    });
    (named.collect(), others)
}

/// What a standing means for whoever reads a result.
const fn meaning(standing: Standing) -> &'static str {
    match standing {
        Standing::Verified => "a valid receipt says that these bytes are clean",
        Standing::Released => "a valid receipt says infected, and that a person has released it",
        Standing::Stale => {
            "the receipt says clean, and is too old, names a key that is not trusted, or binds \
             nothing but an ETag"
        }
        Standing::Never => "no receipt is about these bytes: not scanned, or not since",
        Standing::Forged => "something that is no receipt pretends to be one",
        Standing::Infected => "a valid receipt says that something was found",
        Standing::Unscannable => "a valid receipt says that it could not be scanned",
        Standing::Untaggable => "too many other tags: there is no room for a receipt",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(standings: &[(Standing, u64)], unknown: u64) -> Tally {
        let mut tally = Tally::default();
        for (standing, objects) in standings {
            let group = Group { objects: *objects, ..Group::default() };
            tally.standings.insert(*standing, group);
        }
        if unknown > 0 {
            tally.unknown.insert("store_denied", Group { objects: unknown, ..Group::default() });
        }
        tally
    }

    #[test]
    fn one_object_that_is_not_verified_is_enough() {
        use Conclusion::{Interrupted, NotFoundOut, NotVerified, Verified};
        for (standings, unknown, interrupted, expected) in [
            (&[][..], 0, false, Verified),
            (&[(Standing::Verified, 3)], 0, false, Verified),
            (&[(Standing::Verified, 3), (Standing::Released, 2)], 0, false, Verified),
            (&[(Standing::Released, 2)], 1, false, NotFoundOut),
            (&[(Standing::Released, 2), (Standing::Infected, 1)], 0, false, NotVerified),
            (&[(Standing::Verified, 3)], 1, false, NotFoundOut),
            (&[(Standing::Verified, 3), (Standing::Stale, 1)], 0, false, NotVerified),
            (&[(Standing::Verified, 3), (Standing::Never, 1)], 1, false, NotVerified),
            (&[(Standing::Verified, 3), (Standing::Never, 1)], 1, true, Interrupted),
            (&[(Standing::Verified, 3)], 0, true, Interrupted),
        ] {
            let tally = tally(standings, unknown);
            let conclusion = Conclusion::of(&tally, interrupted);
            assert_eq!(conclusion, expected, "{tally:?}");
            assert!(conclusion.sentence(&tally, None).ends_with('.'));
        }
        for standing in Standing::iter().filter(|standing| !standing.is_accepted()) {
            assert_eq!(Conclusion::of(&tally(&[(standing, 1)], 0), false), NotVerified);
        }
    }

    #[test]
    fn the_newest_databases_are_named() {
        let mut tally = Tally::default();
        for number in 0..40_i64 {
            let database = Database { version: number.to_string(), date: Some(number * 86_400) };
            tally.databases.insert(database, 2);
        }
        tally.databases.insert(Database::default(), 1);
        let (named, others) = databases(&tally, 41 * DAY + 7);
        assert_eq!(named[0].age_days, Some(2));
        assert_eq!((named.len(), named[0].version.as_str(), others), (30, "39", 21));
        assert_eq!(named[0].date.as_deref(), Some("1970-02-09T00:00:00Z"));
    }
}
