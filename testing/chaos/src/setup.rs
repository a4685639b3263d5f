//! The settings that a scenario changes.

use crate::senders::Sending;

/// How the daemon speaks to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    Clamd,
    ClamavRest,
}

/// Which store, and whether it keeps versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bucket {
    /// Of `MinIO`'s lineage: announces by itself, has no versions, ignores `If-Match` on DELETE.
    Gateway,
    /// `SeaweedFS`; honours `If-Match` on DELETE.
    Unversioned,
    Versioned,
    Suspended,
    /// Versions are switched on and off while the daemon works.
    Switched,
}

/// The settings that a scenario changes.
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) engine: Engine,
    pub(super) bucket: Bucket,
    pub(super) settings: Vec<(&'static str, &'static str)>,
    /// The store's events come by webhooks.
    pub(super) sending: Option<Sending>,
    /// The daemons' standard output is a pipe that nothing reads.
    pub(super) unread_stdout: bool,
    /// Canaries are sent beside the scenario's own objects, where the store announces by itself.
    pub(super) canary: bool,
    /// Infected objects are moved to a quarantine bucket.
    pub(super) quarantine: bool,
    /// The engine takes objects as large as it can, and none has the fate of one that is too large.
    pub(super) takes_large: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            engine: Engine::Clamd,
            bucket: Bucket::Gateway,
            settings: Vec::new(),
            unread_stdout: false,
            sending: None,
            canary: true,
            quarantine: false,
            takes_large: false,
        }
    }
}
