//! What is kept of an object in the quarantine bucket: the name of its copy, and the record beside it.
//! Pure.

mod record;

pub(crate) use self::record::{Finding, Record};

use sha2::{Digest, Sha256};

use crate::store::Identity;

/// What a record has behind the name of its copy.
const SUFFIX: &str = ".json";
/// Tells these hashes from all others.
const LABEL: &str = "avscan-quarantine-1";

/// The name of the copy: a hash of where the bytes were and of the bytes themselves. So each retry, and
/// each replica, finds the same copy, and no key that an uploader chooses is too long or odd for it.
pub(crate) fn name(identity: &Identity, sha256: &str) -> String {
    let Identity { bucket, key, etag, .. } = identity;
    let modified = identity.modified().map(|at| at.to_string()).unwrap_or_default();
    let pin = match identity.version_id() {
        Some(version) => ["version", version, ""],
        None => ["etag", etag.as_deref().unwrap_or_default(), &modified],
    };
    let mut hash = Sha256::new();
    for part in [LABEL, bucket, key].into_iter().chain(pin).chain([sha256]) {
        // With its length, so that no two lists of parts are the same text.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hex::encode(hash.finalize())
}

/// The name of a copy that is meant by the name of something in the quarantine bucket: of the copy
/// itself, or of its record. `None` for the names of others.
pub(crate) fn copy_of(key: &str) -> Option<&str> {
    let name = key.strip_suffix(SUFFIX).unwrap_or(key);
    let is_hex = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
    (name.len() == 64 && name.bytes().all(is_hex)).then_some(name)
}

/// The name of the record beside a copy.
pub(crate) fn record_name(name: &str) -> String {
    format!("{name}{SUFFIX}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn at(bucket: &str, key: &str, version: Option<&str>, etag: &str, modified: i64) -> Identity {
        let identity = Identity::new(bucket, key, version, Some(etag), Some(1));
        identity.with_modified(Some(&aws_smithy_types::DateTime::from_secs(modified)))
    }

    #[test]
    fn the_name_of_a_copy_tells_apart_whatever_it_was_a_copy_of() {
        let names: HashSet<_> = [
            name(&at("b", "k", None, "e", 1), "s"),
            name(&at("b", "k", None, "e", 2), "s"),
            name(&at("b", "k", None, "f", 1), "s"),
            name(&at("b", "k", None, "e", 1), "t"),
            name(&at("b", "l", None, "e", 1), "s"),
            name(&at("c", "k", None, "e", 1), "s"),
            name(&at("bk", "", None, "e", 1), "s"),
            name(&at("", "bk", None, "e", 1), "s"),
            name(&at("b", "k", Some("e"), "e", 1), "s"),
            name(&at("b", "k", Some("v"), "e", 1), "s"),
        ]
        .into();
        assert_eq!(names.len(), 10);
        for name in &names {
            assert_eq!([copy_of(name), copy_of(&record_name(name))], [Some(name.as_str()); 2]);
            assert_eq!([copy_of(&name[1..]), copy_of(&name.to_uppercase())], [None; 2]);
            assert!(name.len() == 64 && name.chars().all(|c| c.is_ascii_hexdigit()), "{name}");
        }
    }

    #[test]
    fn a_version_has_one_name_whatever_else_changes() {
        let before = name(&at("b", "k", Some("v"), "e", 1), "s");
        assert_eq!(before, name(&at("b", "k", Some("v"), "f", 2), "s"));
        // `null` names a slot, whose bytes can be replaced.
        let null = |etag| name(&at("b", "k", Some("null"), etag, 1), "s");
        assert_eq!(null("e"), name(&at("b", "k", None, "e", 1), "s"));
        assert_ne!(null("e"), null("f"));
    }
}
