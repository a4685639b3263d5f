//! Counts what was found, in little memory.

use std::collections::BTreeMap;

use crate::app::verify::{Address, because};
use crate::receipt::{Database, Standing};
use crate::store::{Identity, Listed};
use crate::sweep::{Finding, Judged, Visited};

/// Examples that are kept of each kind.
const MAX_EXAMPLES: usize = 5;
/// The longest text of an example. A key has at most 1024 bytes, which may be escaped.
const MAX_EXAMPLE: usize = 2000;

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) standings: BTreeMap<Standing, Group>,
    /// Objects whose standing could not be found out, by reason.
    pub(super) unknown: BTreeMap<&'static str, Group>,
    /// Objects that were removed after they were listed.
    pub(super) gone: u64,
    /// Entries of the list that are folders, and have no bytes.
    pub(super) folders: u64,
    /// Valid receipts by the database that they name.
    pub(super) databases: BTreeMap<Database, u64>,
}

/// Objects of one kind.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) objects: u64,
    pub(super) bytes: u64,
    /// None are kept of verified objects.
    pub(super) examples: Vec<Example>,
}

/// One object, as text that a terminal and a page can show.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(super) struct Example {
    pub(super) address: String,
    pub(super) why: String,
}

impl Tally {
    pub(super) fn add(&mut self, visited: &Visited) {
        match (&visited.finding, &visited.listed) {
            (Finding::Judged(judged), _) => self.judged(judged),
            (Finding::Gone, _) => self.gone += 1,
            (Finding::Folder, _) => self.folders += 1,
            (Finding::Unknown(failure), Listed::Object(identity)) => {
                let group = self.unknown.entry(failure.reason.into_str()).or_default();
                group.add(identity.bytes());
                group.example(|| (address(identity), failure.detail.clone()));
            }
            (_, Listed::NoText(key)) => {
                let group = self.unknown.entry("key_no_text").or_default();
                group.add(0);
                group.example(|| (key.escape_debug().to_string(), NO_TEXT.to_owned()));
            }
            // Only a listed key that is no text leads here.
            (Finding::NoText, Listed::Object(_)) => {}
        }
    }

    fn judged(&mut self, judged: &Judged) {
        let group = self.standings.entry(judged.standing).or_default();
        group.add(judged.identity.bytes());
        if judged.standing != Standing::Verified {
            group.example(|| (address(&judged.identity), why(judged)));
        }
        // A release names no database.
        if let Some(statement) = judged.statement.as_ref().filter(|said| said.finding.is_none()) {
            match self.databases.get_mut(&statement.database) {
                Some(count) => *count += 1,
                None => drop(self.databases.insert(statement.database.clone(), 1)),
            }
        }
    }

    /// Objects that were looked at.
    pub(super) fn objects(&self) -> u64 {
        self.groups().map(|group| group.objects).sum()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.groups().fold(0, |sum, group| sum.saturating_add(group.bytes))
    }

    pub(super) fn verified(&self) -> u64 {
        self.standings.get(&Standing::Verified).map_or(0, |group| group.objects)
    }

    /// Objects that a person has released.
    pub(super) fn released(&self) -> u64 {
        self.standings.get(&Standing::Released).map_or(0, |group| group.objects)
    }

    pub(super) fn not_found_out(&self) -> u64 {
        self.unknown.values().map(|group| group.objects).sum()
    }

    fn groups(&self) -> impl Iterator<Item = &Group> {
        self.standings.values().chain(self.unknown.values())
    }
}

impl Group {
    const fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn example(&mut self, make: impl FnOnce() -> (String, String)) {
        if self.examples.len() < MAX_EXAMPLES {
            let (address, why) = make();
            let cut = |text: String| text.chars().take(MAX_EXAMPLE).collect();
            self.examples.push(Example { address: cut(address), why: cut(why) });
        }
    }
}

const NO_TEXT: &str = "its key is no text in UTF-8, so it cannot be asked for";

/// The address of an object as text.
pub(super) fn address(identity: &Identity) -> String {
    Address::of(identity).to_string()
}

/// Why an object has its standing.
pub(super) fn why(judged: &Judged) -> String {
    if judged.other_bytes {
        return "its bytes have another SHA-256 than its receipt says".to_owned();
    }
    because(judged.standing, judged.statement.as_ref())
}
