//! The lines that say what became of an object, in the log and on the status page.

use std::time::SystemTime;

use super::Pipeline;
use crate::event::ObjectRef;
use crate::failure::Reason;
use crate::overview::ResultLine;
use crate::policy::Action;
use crate::report::{EffectError, Examined, Trigger};
use crate::telemetry;
use crate::verdict::{Status, Verdict};

/// A line of the audit trail, before and after a deletion.
pub(super) fn audit(examined: &Examined, what: &str) {
    let version = examined.identity.version_id().unwrap_or_default();
    let sha256 = examined.sha256.as_deref().unwrap_or_default();
    let size = examined.identity.bytes();
    if let Verdict::Infected { signature } = &examined.verdict {
        tracing::warn!(target: telemetry::AUDIT, version, sha256, signature, size, "{what}");
    }
}

/// The same of a move; `key` is the name of the copy.
pub(super) fn audit_move(examined: &Examined, key: &str, what: &str) {
    let version = examined.identity.version_id().unwrap_or_default();
    let sha256 = examined.sha256.as_deref().unwrap_or_default();
    let size = examined.identity.bytes();
    if let Some(signature) = examined.verdict.finding() {
        tracing::warn!(
            target: telemetry::AUDIT,
            version,
            sha256,
            signature,
            size,
            quarantine_key = key,
            "{what}"
        );
    }
}

impl Pipeline {
    /// Shows the result of an object. Canaries are shown by their rounds.
    pub(super) fn show(&self, examined: &Examined, action: Action, error: Option<EffectError>) {
        if examined.is_canary() {
            return;
        }
        let identity = &examined.identity;
        let finding = match &examined.verdict {
            Verdict::Clean => None,
            Verdict::Infected { signature } => Some(signature.clone()),
            Verdict::Unscannable { reason, .. } => Some(reason.into_str().to_owned()),
        };
        self.overview.results.add(ResultLine {
            at: SystemTime::now(),
            bucket: identity.bucket.clone(),
            key: identity.key.clone(),
            version: identity.version_id().map(str::to_owned),
            size: identity.length,
            status: examined.status().into_str(),
            finding,
            action: action.into_str(),
            error: error.map(|error| error.into_str()),
            trigger: examined.trigger.into_str(),
        });
    }

    /// Shows an object that was given up without a verdict.
    pub(super) fn show_given_up(
        &self,
        object: &ObjectRef,
        trigger: Trigger,
        action: Action,
        reason: Reason,
    ) {
        self.overview.results.add(ResultLine {
            at: SystemTime::now(),
            bucket: object.bucket.clone(),
            key: object.key.clone(),
            version: object.version_id.clone(),
            size: object.size,
            status: Status::No.into_str(),
            finding: Some(reason.into_str().to_owned()),
            action: action.into_str(),
            error: None,
            trigger: trigger.into_str(),
        });
    }

    /// One line an object.
    pub(super) fn log_end(&self, examined: &Examined, action: Action) {
        let version = examined.identity.version_id().unwrap_or_default();
        let sha256 = examined.sha256.as_deref().unwrap_or_default();
        let size = examined.identity.bytes();
        match (&examined.verdict, action) {
            (Verdict::Infected { .. }, Action::Delete) => {
                audit(examined, "infected object deleted");
            }
            (Verdict::Infected { .. }, Action::Quarantine) => {
                let key = self.quarantine_key(examined, action, None).unwrap_or_default();
                audit_move(examined, &key, "infected object quarantined");
            }
            (Verdict::Unscannable { .. }, Action::Quarantine) => {
                let key = self.quarantine_key(examined, action, None).unwrap_or_default();
                audit_move(examined, &key, "unscannable object quarantined");
            }
            (Verdict::Clean, _) => tracing::info!(size, action = action.into_str(), "clean"),
            (Verdict::Infected { .. } | Verdict::Unscannable { .. }, _) if examined.released => {
                let signature = examined.verdict.finding();
                tracing::info!(version, sha256, signature, size, "found, and released");
            }
            (Verdict::Infected { signature }, _) => {
                tracing::warn!(
                    version,
                    sha256,
                    signature,
                    size,
                    action = action.into_str(),
                    "infected"
                );
            }
            (Verdict::Unscannable { reason, .. }, _) => {
                let (action, reason) = (action.into_str(), reason.into_str());
                tracing::warn!(version, size, action, reason, "not scanned");
            }
        }
    }
}
