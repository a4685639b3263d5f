//! What is needed to look at objects.

use std::collections::HashMap;

use super::reader::Reader;
use super::{BrokerSettings, Problems, ReceiptSettings, ScannerSettings, StoreSettings, source};
use crate::tls::Trust;

/// What is needed to look at objects, and what helps where it is there.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The object store.
    pub(crate) store: StoreSettings,
    /// The certificate authorities of `TLS_CA_FILE`.
    pub(crate) trust: Trust,
    /// The key of the status tag.
    pub(crate) tag_key: String,
    /// Whether the daemon reads and sets tags.
    pub(crate) tag_files: bool,
    /// `QUARANTINE_BUCKET`.
    pub(crate) quarantine_bucket: Option<String>,
    /// Receipts.
    pub(crate) receipts: ReceiptSettings,
    /// The engine whose database is in use, if `CLAMD_ENDPOINT` is set.
    pub(crate) engine: Extra<ScannerSettings>,
    /// The broker with the parked messages, if `RABBITMQ_REGULAR_USER_NAME` is set.
    pub(crate) broker: Extra<BrokerSettings>,
    /// Objects that a walk looks at at once.
    pub(crate) sweep_concurrency: Extra<u16>,
}

/// Settings that not every command needs.
#[derive(Debug, Clone)]
pub(crate) enum Extra<T> {
    Unset,
    Set(T),
    /// Set, and of no use.
    Wrong(Problems),
}

/// Reads what is needed to look at objects: such a command must not fail for a setting that only the
/// daemon needs.
///
/// # Errors
/// Every problem, not just the first.
#[expect(clippy::implicit_hasher, reason = "the environment is collected once, in main")]
pub fn inspection(env: &HashMap<String, String>) -> Result<Inspection, Problems> {
    let mut problems = Problems::default();
    let texts = source::read(env, &mut problems);
    let mut reader = Reader { texts: &texts, env, problems };
    match reader.inspection() {
        Some(inspection) if reader.problems.0.is_empty() => Ok(inspection),
        _ => Err(reader.problems),
    }
}

impl Reader<'_> {
    pub(super) fn inspection(&mut self) -> Option<Inspection> {
        let (store, trust) = (self.store(), self.trust());
        let (policy, receipts) = (self.policy(), self.receipts());
        let policy = policy?;
        let engine = self.extra("CLAMD_ENDPOINT", Self::scanner);
        let broker = self.extra("RABBITMQ_REGULAR_USER_NAME", Self::broker);
        let sweep_concurrency = self.aside(Self::sweep_concurrency);
        Some(Inspection {
            store: store?,
            trust: trust?,
            tag_key: policy.tag_key,
            tag_files: policy.tag_files,
            quarantine_bucket: policy.quarantine_bucket,
            receipts: receipts?,
            engine,
            broker,
            sweep_concurrency,
        })
    }

    /// Settings that are there if `name` is set, other than by default.
    fn extra<T>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> Option<T>) -> Extra<T> {
        if self.texts.given.contains(name) { self.aside(read) } else { Extra::Unset }
    }

    /// Reads settings whose problems concern nothing else.
    fn aside<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Extra<T> {
        let others = std::mem::take(&mut self.problems);
        let value = read(self);
        let problems = std::mem::replace(&mut self.problems, others);
        match value {
            Some(value) if problems.0.is_empty() => Extra::Set(value),
            _ => Extra::Wrong(problems),
        }
    }
}
