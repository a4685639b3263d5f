//! The settings of receipts.

use std::time::Duration;

use super::Secret;
use super::reader::Reader;
use super::sweeps::age;

/// With it, the key of a receipt's tag has at most the 128 characters that S3 allows.
const MAX_TAG_KEY: usize = 120;

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
