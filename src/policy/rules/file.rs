//! Reads the list of rules out of YAML.

use std::cell::Cell;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_saphyr::{
    Error, MessageFormatter, Spanned, UserMessageFormatter, with_deserializer_from_str,
};

use super::Place;
use super::draft::{Draft, Fields};

/// More is not kept in view by people, and every pair of rules is compared.
pub(super) const MAX_RULES: usize = 200;

/// Why there is no list of rules.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) line: Option<u64>,
    pub(super) number: Option<usize>,
    pub(super) complaint: String,
}

/// Reads the rules, unchecked.
///
/// # Errors
/// The first reason why it is no list of rules.
pub(super) fn read(text: &str) -> Result<Vec<Draft>, Fault> {
    // The rule that is being read. The library's errors have a line alone.
    let reading = Cell::new(None);
    let read =
        with_deserializer_from_str(text, |yaml| List { reading: &reading }.deserialize(yaml));
    let rules = read.map_err(|error| fault(&error, reading.get()))?;
    if rules.is_empty() {
        return Err(Fault { line: None, number: None, complaint: "holds no rules".to_owned() });
    }
    if let Some(Draft { place, .. }) = rules.get(MAX_RULES) {
        let complaint = format!("is more than the {MAX_RULES} that are taken");
        return Err(Fault { line: Some(place.line), number: Some(place.number), complaint });
    }
    Ok(rules)
}

fn fault(error: &Error, number: Option<usize>) -> Fault {
    let error = error.without_snippet();
    let line = error.location().map(|location| location.line());
    let text = UserMessageFormatter.format_message(error);
    let complaint = text.lines().next().unwrap_or_default().to_owned();
    Fault { line, number, complaint }
}

/// The list.
struct List<'a> {
    reading: &'a Cell<Option<usize>>,
}

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = Vec<Draft>;

    fn deserialize<D: Deserializer<'de>>(self, yaml: D) -> Result<Self::Value, D::Error> {
        yaml.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = Vec<Draft>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of rules")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut drafts = Vec::new();
        loop {
            let number = drafts.len() + 1;
            let element = Element { reading: self.reading, number };
            let Some(draft) = list.next_element_seed(element)? else { return Ok(drafts) };
            drafts.push(draft);
        }
    }
}

/// One rule of the list.
struct Element<'a> {
    reading: &'a Cell<Option<usize>>,
    number: usize,
}

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = Draft;

    fn deserialize<D: Deserializer<'de>>(self, yaml: D) -> Result<Draft, D::Error> {
        let Self { reading, number } = self;
        reading.set(Some(number));
        let rule = Spanned::<Fields>::deserialize(yaml)?;
        reading.set(None);
        Ok(Draft { place: Place { number, line: rule.referenced.line() }, fields: rule.value })
    }
}
