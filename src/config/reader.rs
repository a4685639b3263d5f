//! Turns texts into values: numbers, flags, addresses, secrets.

use std::collections::HashMap;

use url::Url;

use super::address::http_url;
use super::source::Texts;
use super::{Problem, Problems, Secret};

/// Reads typed values out of texts. A value that cannot be read is recorded as a problem and read
/// as `None`, so that one pass finds every problem.
pub(super) struct Reader<'a> {
    pub(super) texts: &'a Texts,
    pub(super) env: &'a HashMap<String, String>,
    pub(super) problems: Problems,
}

impl Reader<'_> {
    /// Records a problem of the setting `name`.
    pub(super) fn problem(&mut self, name: &str, complaint: &str) {
        self.problems.push(Problem::new(name, complaint));
    }

    /// Records that a setting is missing, unless another problem names it already.
    pub(super) fn required(&mut self, name: &str) {
        let names_it = |problem: &Problem| problem.subject.to_uppercase().starts_with(name);
        if !self.problems.0.iter().any(names_it) {
            self.problem(name, "is required");
        }
    }

    /// The text of a setting that may be absent.
    pub(super) fn optional(&self, name: &str) -> Option<&str> {
        self.texts.values.get(name).map(String::as_str)
    }

    /// The value of a required setting; `expected` completes the sentence "must be …".
    pub(super) fn parse<T>(
        &mut self,
        name: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let Some(text) = self.texts.values.get(name) else {
            self.required(name);
            return None;
        };
        let value = parse(text.trim());
        if value.is_none() {
            self.problem(name, &format!("must be {expected}"));
        }
        value
    }

    /// Text that is not empty.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.parse(name, "some text", |text| (!text.is_empty()).then(|| text.to_owned()))
    }

    /// Text of at most `bytes` bytes that is not empty.
    pub(super) fn short(&mut self, name: &str, bytes: usize) -> Option<String> {
        self.parse(name, &format!("1 to {bytes} bytes of text"), |text| {
            (1..=bytes).contains(&text.len()).then(|| text.to_owned())
        })
    }

    /// A secret, not trimmed: spaces may be part of it. A later value from the same file replaces
    /// it only if it is `usable`.
    pub(super) fn secret(&self, name: &'static str, usable: fn(&str) -> bool) -> Option<Secret> {
        let text = self.optional(name)?;
        Some(match self.texts.files.get(name) {
            Some(path) => Secret::from_file(text, name, path.clone(), usable),
            None => Secret::from(text),
        })
    }

    pub(super) fn flag(&mut self, name: &str) -> Option<bool> {
        self.parse(name, "true or false", flag)
    }

    /// A whole number from `min` to `max`.
    pub(super) fn number(&mut self, name: &str, min: u64, max: u64) -> Option<u64> {
        self.parse(name, &format!("a whole number from {min} to {max}"), |text| {
            text.parse().ok().filter(|n| (min..=max).contains(n))
        })
    }

    pub(super) fn port(&mut self, name: &str) -> Option<u16> {
        self.number(name, 1, 65_535).and_then(|n| u16::try_from(n).ok())
    }

    pub(super) fn url(&mut self, name: &str) -> Option<Url> {
        self.parse(name, "an http or https URL without a user name or fragment", http_url)
    }
}

/// The value of a flag; `None` for what is none.
pub(super) fn flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}
