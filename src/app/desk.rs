//! A session of a command at the broker, with all that the journal says of one matter.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::de::DeserializeOwned;
use tokio_util::task::AbortOnDropHandle;

use crate::config::Settings;
use crate::metrics::Metrics;
use crate::queue::{Journal, Session, Topology};

/// The session, and a ledger `L` of what was read.
pub(super) struct Desk<L> {
    pub(super) session: Session,
    pub(super) topology: Topology,
    pub(super) journal: Arc<Journal>,
    ledger: Arc<Mutex<L>>,
    /// Ends with the desk.
    #[expect(dead_code, reason = "held for its drop")]
    following: AbortOnDropHandle<()>,
}

impl<L: Send + 'static> Desk<L> {
    /// Returns once the journal was read to its end. `apply` takes an entry into the ledger. The error
    /// is one line.
    pub(super) async fn open<F: DeserializeOwned + Send + 'static>(
        settings: &Settings,
        ledger: L,
        apply: impl Fn(&mut L, F) + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let topology =
            Topology::new(&settings.broker, &settings.ladder, settings.publish.is_some());
        let metrics = Metrics::default();
        let session = Session::open(&settings.broker, &settings.trust, &topology, &metrics);
        let session = session.await.map_err(|error| error.to_string())?;
        let (journal, reader) = session.journal().await.map_err(|error| error.to_string())?;
        let ledger = Arc::new(Mutex::new(ledger));
        let (followed, facts) = (Arc::clone(&journal), Arc::clone(&ledger));
        let following = tokio::spawn(async move {
            drop(followed.follow(reader, |fact| apply(&mut lock(&facts), fact)).await);
        });
        journal.read_to_end().await.map_err(|error| error.to_string())?;
        let following = AbortOnDropHandle::new(following);
        Ok(Self { session, topology, journal, ledger, following })
    }

    /// What was read so far.
    pub(super) fn ledger(&self) -> MutexGuard<'_, L> {
        lock(&self.ledger)
    }
}

fn lock<L>(ledger: &Mutex<L>) -> MutexGuard<'_, L> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}
