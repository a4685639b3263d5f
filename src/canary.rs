//! Proves that uploads are announced: puts canaries into the buckets and waits until they come back.
//!
//! A subscription that was lost is silent: nothing fails, and nothing is scanned. So one of all
//! replicas writes a clean object and the EICAR test file to each bucket, every now and then. Both
//! have to come back through the store's own notification, the engine and the effects.
//!
//! - `fact`: what the journal says about canaries, `ledger` what follows from it, `conclude` what a
//!   round finds; all pure;
//! - `prober`: does a round, and removes what it wrote;
//! - `board`: shows the findings, in every replica.
//!
//! A canary is known by what the journal announced before it was written: bucket, key and SHA-256,
//! until it is used once. Everything else below [`PREFIX`] is an ordinary object. So nobody can have
//! an object treated in another way by its name.

mod board;
mod conclude;
mod fact;
mod ledger;
mod prober;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use uuid::Uuid;

use self::board::Board;
pub(crate) use self::fact::End;
use self::fact::{Fact, PREFIX, Sample};
use self::ledger::Ledger;
use self::prober::Way;
use crate::config::CanarySettings;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::queue::{Inlet, Journal, JournalError, Session};
use crate::store::Store;

/// For a worker, to read the journal to its end or to append to it. A delivery waits for it.
const WORKER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a lost claim.
const CLAIM_PAUSE: Duration = Duration::from_secs(1);
/// Before a journal that failed is opened again.
const REOPEN_INTERVAL: Duration = Duration::from_secs(2);

/// The canaries of one replica; shared by the workers and the prober.
pub(crate) struct Canaries {
    settings: CanarySettings,
    policy: Arc<Policy>,
    store: Arc<Store>,
    health: Arc<Health>,
    board: Board,
    /// This replica's name in the journal.
    me: Uuid,
    state: Mutex<State>,
    /// Changes with each entry that was read.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    ledger: Ledger,
    /// The journal, once it was read to its end; what it says is in the ledger.
    journal: Option<Arc<Journal>>,
    /// When the last round began.
    begun: Option<Instant>,
    /// When the last round about each bucket ended.
    concluded: HashMap<String, Instant>,
}

impl Canaries {
    pub(crate) fn new(
        settings: CanarySettings,
        policy: Arc<Policy>,
        store: Arc<Store>,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let board = Board::new(Arc::clone(&health), metrics);
        let (me, changed) = (Uuid::new_v4(), watch::channel(()).0);
        Self { settings, policy, store, health, board, me, state: Mutex::default(), changed }
    }

    /// Follows the journal and does the rounds that this replica wins, for as long as the future is
    /// polled.
    pub(crate) async fn run(&self, session: &Session) -> Infallible {
        loop {
            let error = match session.journal().await {
                Ok((journal, reader)) => {
                    *self.state() = State::default();
                    let error = tokio::select! {
                        error = journal.follow(reader, |fact| self.take(fact)) => error,
                        error = self.work(&journal, session.inlet()) => error,
                    };
                    self.state().journal = None;
                    error.to_string()
                }
                Err(error) => error.to_string(),
            };
            self.board.suspend(Some(&error));
            tokio::time::sleep(REOPEN_INTERVAL).await;
        }
    }

    /// The session is lost, and with it the journal.
    pub(crate) fn session_lost(&self) {
        self.board.suspend(Some("the broker session was lost"));
    }

    /// Does rounds until the journal fails.
    async fn work(&self, journal: &Arc<Journal>, inlet: &Inlet) -> JournalError {
        let worked: Result<Infallible, JournalError> = async {
            journal.read_to_end().await?;
            self.caught_up(journal);
            loop {
                self.wait_until_due().await;
                match self.claim(journal).await? {
                    Some(round) => self.do_round(Way { journal, inlet }, round).await?,
                    None => tokio::time::sleep(CLAIM_PAUSE).await,
                }
            }
        }
        .await;
        match worked {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }

    /// Takes in an entry of the journal.
    fn take(&self, fact: Fact) {
        if !fact.is_genuine() {
            return;
        }
        let mut state = self.state();
        let before = state.ledger.claim();
        let concluded = match &fact {
            Fact::Concluded { bucket, .. } => Some(bucket.clone()),
            _ => None,
        };
        state.ledger.apply(fact);
        let live = state.journal.is_some();
        if let Some(claim) = state.ledger.claim().filter(|claim| Some(*claim) != before) {
            // Of what was read from the past only the clock tells when it was. A time in the future
            // counts as now.
            let age = if live { Duration::ZERO } else { age(claim.at) };
            state.begun = Instant::now().checked_sub(age.min(self.settings.every));
        }
        if let Some(bucket) = concluded.filter(|_| live) {
            if let Some(at) = state.concluded.get_mut(&bucket) {
                *at = Instant::now();
            }
            self.show(&state.ledger, &bucket);
        }
        drop(state);
        self.changed.send_replace(());
    }

    /// Everything in the journal was read: it can be relied upon, and shown.
    fn caught_up(&self, journal: &Arc<Journal>) {
        let mut state = self.state();
        state.journal = Some(Arc::clone(journal));
        for bucket in &self.settings.buckets {
            self.show(&state.ledger, bucket);
        }
    }

    fn show(&self, ledger: &Ledger, bucket: &str) {
        let configured = self.settings.buckets.iter().any(|ours| ours == bucket);
        if let Some(conclusion) = ledger.conclusions().get(bucket).filter(|_| configured) {
            self.board.show(bucket, conclusion.outcome, &conclusion.why);
        }
    }

    /// Whether canaries are reported as other objects are.
    pub(crate) fn are_reported(&self) -> bool {
        self.settings.report
    }

    /// Records that a worker has the notification of this object. Returns whether a canary is expected
    /// under its name.
    pub(crate) async fn arrived(&self, bucket: &str, key: &str) -> bool {
        // Not read to the end: nothing is decided by it.
        let expected = key.starts_with(PREFIX) && self.state().ledger.is_expected(bucket, key);
        if expected {
            let (bucket, key) = (bucket.to_owned(), key.to_owned());
            self.record(Fact::Arrived { bucket, key }).await;
        }
        expected
    }

    /// Whether these bytes are a canary that was not used yet. `false` too while the journal cannot
    /// be read: then it is scanned, acted upon and reported as any object is. A canary that is
    /// reported is a nuisance; an object that is not would be a way past the scanner.
    pub(crate) async fn is_canary(&self, bucket: &str, key: &str, sha256: Option<&str>) -> bool {
        let (Some(sha256), Some(journal)) = (sha256, self.journal()) else { return false };
        // The journal is asked only about what can be one.
        if ![Sample::Clean, Sample::Eicar].iter().any(|sample| sample.is(key, sha256)) {
            return false;
        }
        match tokio::time::timeout(WORKER_TIMEOUT, journal.read_to_end()).await {
            Ok(Ok(())) => self.state().ledger.is_canary(bucket, key, sha256),
            Ok(Err(error)) => {
                tracing::warn!(%error, "taken for an ordinary object");
                false
            }
            Err(_) => {
                tracing::warn!("the journal does not answer: taken for an ordinary object");
                false
            }
        }
    }

    /// Records how the work on a canary ended.
    pub(crate) async fn ended(&self, bucket: &str, key: &str, end: End) {
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        self.record(Fact::Ended { bucket, key, end }).await;
    }

    /// Records that the marker came.
    pub(crate) async fn marker_came(&self, id: Uuid) {
        self.record(Fact::MarkerCame { id }).await;
    }

    /// Appends a fact for the prober. Without it a round may end unproved; no scan depends on it.
    async fn record(&self, fact: Fact) {
        let Some(journal) = self.journal() else { return };
        match tokio::time::timeout(WORKER_TIMEOUT, journal.append(&fact)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "not recorded in the journal"),
            Err(_) => tracing::debug!("not recorded in the journal: no answer"),
        }
    }

    fn journal(&self) -> Option<Arc<Journal>> {
        self.state().journal.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long ago the second `at` since 1970 was, by this host's clock; zero for the future.
fn age(at: i64) -> Duration {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(at).unwrap_or_default());
    SystemTime::now().duration_since(at).unwrap_or_default()
}
