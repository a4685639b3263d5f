//! The settings of receipts.

use std::time::Duration;

use super::Secret;
use super::reader::Reader;

/// With it, the key of a receipt's tag has at most the 128 characters that S3 allows.
const MAX_TAG_KEY: usize = 120;
const MAX_AGE: Duration = Duration::from_hours(24 * 3650);

/// Signing and checking receipts.
#[derive(Debug, Clone)]
pub(crate) struct ReceiptSettings {
    /// The private key that signs, in PEM.
    pub(crate) key: Option<Secret>,
    /// Further public keys that verify, in PEM.
    pub(crate) trusted: Option<Secret>,
    /// A receipt of an older scan is stale; `None`: one by an older database than that in use.
    pub(crate) max_age: Option<Duration>,
}

impl Reader<'_> {
    pub(super) fn receipts(&mut self) -> Option<ReceiptSettings> {
        let key = self.secret("RECEIPT_KEY", super::settings::any);
        let trusted = self.secret("RECEIPT_TRUSTED_KEYS", super::settings::any);
        let max_age = match self.optional("RECEIPT_MAX_AGE") {
            Some(_) => Some(self.parse("RECEIPT_MAX_AGE", "1s to 3650d (s, m, h, d)", age)?),
            None => None,
        };
        let tag_key = self.optional("TAG_KEY").unwrap_or_default();
        if key.is_some() && tag_key.chars().count() > MAX_TAG_KEY {
            self.problem("TAG_KEY", "must have at most 120 characters with RECEIPT_KEY");
        }
        Some(ReceiptSettings { key, trusted, max_age })
    }
}

/// A number and `s`, `m`, `h` or `d`.
pub(crate) fn age(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.starts_with(['0', '+']) {
        return None;
    }
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return None,
    };
    let age = Duration::from_secs(digits.parse::<u64>().ok()?.checked_mul(seconds)?);
    (age <= MAX_AGE).then_some(age)
}
