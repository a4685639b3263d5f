//! The settings of the intake.

use std::net::SocketAddr;
use std::path::Path;

use secrecy::ExposeSecret;

use super::reader::Reader;
use super::{Secret, Settings};
use crate::tls::ServerIdentity;

/// A token below this is warned about: 16 random characters cannot be guessed.
const SHORT_TOKEN: usize = 16;

/// The intake of webhooks.
#[derive(Debug, Clone)]
pub(crate) struct IntakeSettings {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The tokens that senders may present, separated by blanks.
    pub(crate) token: Secret,
    /// Its certificate; `None` is plain http.
    pub(crate) tls: Option<ServerIdentity>,
}

impl Reader<'_> {
    /// The outer `None` is a problem; the inner one means that there is no intake.
    #[expect(clippy::option_option, reason = "see above")]
    pub(super) fn intake(&mut self) -> Option<Option<IntakeSettings>> {
        if self.optional("INTAKE_ADDR").is_none() {
            return Some(None);
        }
        let address =
            self.parse("INTAKE_ADDR", "an address and port, as in 0.0.0.0:8082", |text| {
                text.parse().ok()
            });
        if self.optional("INTAKE_TOKEN").is_none() {
            self.problem("INTAKE_TOKEN", "is required beside INTAKE_ADDR");
        } else if self.optional("INTAKE_TOKEN").is_some_and(|text| !are_tokens(text)) {
            self.problem(
                "INTAKE_TOKEN",
                "must be printable ASCII; several are separated by blanks",
            );
        }
        let token = self.secret("INTAKE_TOKEN", are_tokens);
        let tls = self.identity();
        Some(Some(IntakeSettings { address: address?, token: token?, tls: tls? }))
    }

    #[expect(clippy::option_option, reason = "as above")]
    fn identity(&mut self) -> Option<Option<ServerIdentity>> {
        let (certificate, key) = ("INTAKE_TLS_CERT_FILE", "INTAKE_TLS_KEY_FILE");
        match (self.optional(certificate), self.optional(key)) {
            (None, None) => Some(None),
            (Some(_), None) => {
                self.problem(key, "is missing beside INTAKE_TLS_CERT_FILE");
                None
            }
            (None, Some(_)) => {
                self.problem(certificate, "is missing beside INTAKE_TLS_KEY_FILE");
                None
            }
            (Some(chain), Some(secret)) => {
                match ServerIdentity::read(Path::new(chain), Path::new(secret)) {
                    Ok(identity) => Some(Some(identity)),
                    Err(problem) => {
                        self.problem(&format!("{certificate} and {key}"), &problem);
                        None
                    }
                }
            }
        }
    }
}

/// One or more tokens, separated by blanks, that a header can carry.
fn are_tokens(text: &str) -> bool {
    let printable = |token: &str| token.bytes().all(|byte| byte.is_ascii_graphic());
    let mut tokens = text.split_ascii_whitespace().peekable();
    tokens.peek().is_some() && tokens.all(printable)
}

impl Settings {
    pub(super) fn warn_of_intake(&self, warnings: &mut Vec<String>) {
        let Some(intake) = &self.intake else { return };
        if intake.tls.is_none() && !intake.address.ip().is_loopback() {
            warnings.push(format!(
                "INTAKE_ADDR {} takes notifications and tokens over plain http: set \
                 INTAKE_TLS_CERT_FILE and INTAKE_TLS_KEY_FILE, or put it behind a proxy with TLS",
                intake.address
            ));
        }
        warnings.extend(intake.short_token());
    }
}

impl IntakeSettings {
    /// The warning that one of the tokens is short.
    pub(crate) fn short_token(&self) -> Option<String> {
        let held = self.token.held();
        let mut tokens = held.expose_secret().split_ascii_whitespace();
        tokens.any(|token| token.len() < SHORT_TOKEN).then(|| {
            format!(
                "INTAKE_TOKEN has a token of fewer than {SHORT_TOKEN} characters, which can be guessed"
            )
        })
    }
}
