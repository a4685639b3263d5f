//! What to audit, and how to say where to go on.

use std::fmt::Write;
use std::str::FromStr;

use crate::store::MAX_KEY;

/// A bucket or a part of it, as `BUCKET`, `BUCKET/PREFIX` or the same with `s3://` before it. The
/// prefix as it is, not percent-encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub(in crate::app) bucket: String,
    /// What the keys begin with; empty for the whole bucket.
    pub(in crate::app) prefix: String,
}

impl FromStr for Target {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.strip_prefix("s3://").unwrap_or(text);
        let (bucket, prefix) = text.split_once('/').unwrap_or((text, ""));
        if bucket.is_empty() {
            return Err("expected BUCKET or BUCKET/PREFIX");
        }
        if prefix.len() > MAX_KEY {
            return Err("no key begins with it: a key has at most 1024 bytes");
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl Target {
    /// Whether some object lies in both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let (one, two) = (self.prefix.as_str(), other.prefix.as_str());
        self.bucket == other.bucket && (one.starts_with(two) || two.starts_with(one))
    }

    /// The target as text that a terminal and a page can show.
    pub(in crate::app) fn shown(&self) -> String {
        self.text().escape_debug().to_string()
    }

    /// The target as an argument of the command.
    pub(super) fn argument(&self) -> String {
        quoted(&self.text())
    }

    fn text(&self) -> String {
        if self.prefix.is_empty() {
            return self.bucket.clone();
        }
        format!("{}/{}", self.bucket, self.prefix)
    }
}

/// A word that a shell (bash, zsh, ksh) reads as this text, and a terminal takes for no command.
pub(super) fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
    if !text.is_empty() && !text.starts_with('=') && text.chars().all(is_plain) {
        return text.to_owned();
    }
    if text.chars().all(|c| c.is_ascii_graphic() || c == ' ' || c.is_alphanumeric()) {
        return format!("'{}'", text.replace('\'', r"'\''"));
    }
    let inside = text.bytes().fold(String::new(), |mut inside, byte| {
        match byte {
            b'\'' | b'\\' => inside.extend(['\\', char::from(byte)]),
            b' '..=b'~' => inside.push(char::from(byte)),
            // Three digits at most, so a digit behind it is no part of it. Writing to a string does not
            // fail.
            byte => drop(write!(inside, "\\{byte:03o}")),
        }
        inside
    });
    format!("$'{inside}'")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn target(bucket: &str, prefix: &str) -> Target {
        Target { bucket: bucket.to_owned(), prefix: prefix.to_owned() }
    }

    #[test]
    fn targets_name_a_bucket_and_a_prefix() {
        for (text, expected) in [
            ("b", Some(target("b", ""))),
            ("b/", Some(target("b", ""))),
            ("b/in/x y", Some(target("b", "in/x y"))),
            ("s3://b/in/", Some(target("b", "in/"))),
            ("b//", Some(target("b", "/"))),
            ("", None),
            ("/x", None),
            ("s3://", None),
        ] {
            assert_eq!(text.parse().ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_prefix_of_a_prefix_overlaps_it() {
        for (one, two, overlaps) in [
            (target("b", ""), target("b", "x"), true),
            (target("b", "x/"), target("b", "x"), true),
            (target("b", "x"), target("b", "y"), false),
            (target("b", "x"), target("c", "x"), false),
        ] {
            assert_eq!(one.overlaps(&two), overlaps, "{one:?} {two:?}");
            assert_eq!(two.overlaps(&one), overlaps, "{one:?} {two:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn a_shell_reads_a_quoted_key_as_it_is(key in "[^\0]{1,24}") {
            let script = format!("printf %s {}", quoted(&key));
            let output = Command::new("bash").args(["-c", &script]).output().unwrap();
            prop_assert_eq!(output.stdout, key.as_bytes());
            prop_assert!(!quoted(&key).contains(char::is_control));
        }
    }
}
