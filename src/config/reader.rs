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
    pub(super) fn problem(&mut self, name: &str, complaint: &str) {
        self.problems.push(Problem::new(name, complaint));
    }

    /// Complains that a setting is missing, unless it is there and was complained of already.
    pub(super) fn required(&mut self, name: &str) {
        let told = |problem: &Problem| problem.subject.to_uppercase().starts_with(name);
        if !self.problems.0.iter().any(told) {
            self.problem(name, "is required");
        }
    }

    pub(super) fn optional(&self, name: &str) -> Option<&str> {
        self.texts.values.get(name).map(String::as_str)
    }

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

    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.parse(name, "some text", |text| (!text.is_empty()).then(|| text.to_owned()))
    }

    pub(super) fn short(&mut self, name: &str, bytes: usize) -> Option<String> {
        self.parse(name, &format!("1 to {bytes} bytes of text"), |text| {
            (1..=bytes).contains(&text.len()).then(|| text.to_owned())
        })
    }

    /// Secrets are taken as they are: even their spaces may matter. Later ones from the same file
    /// have to be `usable`.
    pub(super) fn secret(&self, name: &'static str, usable: fn(&str) -> bool) -> Option<Secret> {
        let text = self.optional(name)?;
        Some(match self.texts.files.get(name) {
            Some(path) => Secret::from_file(text, name, path.clone(), usable),
            None => Secret::from(text),
        })
    }

    pub(super) fn flag(&mut self, name: &str) -> Option<bool> {
        self.parse(name, "true or false", |text| match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => None,
        })
    }

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
