//! The keys of receipts, and the `receipt-key` command.

use std::process::ExitCode;

use secrecy::ExposeSecret;

use super::{BAD_CONFIGURATION, fail, say};
use crate::config::{Inspection, ReceiptSettings, Secret};
use crate::receipt::{KeyError, Keys, SigningKey};

/// The keys of these settings.
///
/// # Errors
/// When one of them cannot be used; names the setting.
pub(super) fn keys(settings: &ReceiptSettings) -> Result<Keys, String> {
    let held = |secret: &Option<Secret>| secret.as_ref().map(Secret::held);
    let (key, trusted) = (held(&settings.key), held(&settings.trusted));
    let text = |secret: &Option<secrecy::SecretString>| {
        secret.as_ref().map(|secret| secret.expose_secret().to_owned())
    };
    let keys = Keys::new(text(&key).as_deref(), text(&trusted).as_deref());
    keys.map_err(|error| error.to_string())
}

/// Prints a new private key in PEM.
#[must_use]
pub fn new_receipt_key() -> ExitCode {
    print(SigningKey::generate().and_then(|key| key.to_pem()))
}

/// Prints the public part of `RECEIPT_KEY` in PEM.
#[must_use]
pub fn public_receipt_key(settings: &Inspection) -> ExitCode {
    let keys = match keys(&settings.receipts) {
        Ok(keys) => keys,
        Err(error) => {
            return fail(error, BAD_CONFIGURATION);
        }
    };
    match keys.signing() {
        Some(key) => print(key.public_pem()),
        None => fail("RECEIPT_KEY, or RECEIPT_KEY_FILE, is required", BAD_CONFIGURATION),
    }
}

fn print(pem: Result<String, KeyError>) -> ExitCode {
    match pem {
        Ok(pem) => {
            say(pem.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => fail(error, 1),
    }
}
