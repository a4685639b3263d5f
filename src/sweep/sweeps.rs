//! What this replica knows of sweeps: follows the journal, and asks for those that are due.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, watch};

use super::fact::Fact;
use super::ledger::{Advice, Ledger, Sweep};
use super::selection::Selection;
use super::state::{Order, State, Why};
use super::watch::Watch;
use crate::clock;
use crate::config::{SweepSelect, SweepSettings};
use crate::health::{Health, RunningSweep};
use crate::queue::{Journal, JournalError, Session, WorkQueue};
use crate::trace::Trace;

/// For a worker, until the journal was opened and read to its end.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Before a journal that failed is opened again.
const REOPEN_INTERVAL: Duration = Duration::from_secs(2);
/// Between two looks at whether a sweep is due.
const DUE_INTERVAL: Duration = Duration::from_secs(1);
/// One that was asked for and did not begin is asked for again.
const ASK_INTERVAL: Duration = Duration::from_mins(1);
/// What must outlive the week that the journal keeps is appended again this often.
const KEEP_INTERVAL: Duration = Duration::from_hours(24);

/// The sweeps of one deployment, as this replica sees them.
pub(crate) struct Sweeps {
    /// `None`: none begins by itself.
    settings: Option<SweepSettings>,
    /// There is a key to verify receipts with.
    receipts: bool,
    ledger: Mutex<Ledger>,
    /// The journal, once it was read to its end.
    journal: watch::Sender<Option<Arc<Journal>>>,
    /// Somebody needs the journal.
    wanted: Notify,
    health: Arc<Health>,
    /// When this replica started, in milliseconds since 1970.
    started: i64,
}

impl Sweeps {
    pub(crate) fn new(
        settings: Option<SweepSettings>,
        receipts: bool,
        health: Arc<Health>,
    ) -> Self {
        let (journal, wanted) = (watch::Sender::new(None), Notify::new());
        let (ledger, started) = (Mutex::default(), clock::millis(SystemTime::now()));
        let sweeps = Self { settings, receipts, ledger, journal, wanted, health, started };
        // A journal that can never be read must show as well.
        sweeps.show_due();
        sweeps
    }

    /// Follows the journal from the moment on that it is there or somebody needs it, and asks for the
    /// sweeps that are due or stand still, for as long as the future is polled. `queue`: where sweeps
    /// are asked for.
    pub(crate) async fn run(&self, session: &Session, queue: &WorkQueue) -> Infallible {
        self.journal.send_replace(None);
        let mut last_error = None;
        loop {
            // One that cannot be asked for is as none: who needs it will hear why.
            if self.settings.is_none() && !session.has_journal().await.unwrap_or(false) {
                self.wanted.notified().await;
            }
            let error = match session.journal().await {
                Ok((journal, reader)) => {
                    *self.ledger() = Ledger::default();
                    let error = tokio::select! {
                        error = journal.follow(reader, |fact: Fact| self.apply(fact)) => error,
                        error = self.work(&journal, session, queue) => error,
                    };
                    error.to_string()
                }
                Err(error) => error.to_string(),
            };
            self.journal.send_replace(None);
            if last_error.as_ref() != Some(&error) {
                tracing::warn!(%error, "sweeps wait for the journal");
                last_error = Some(error);
            }
            tokio::time::sleep(REOPEN_INTERVAL).await;
        }
    }

    fn apply(&self, fact: Fact) {
        let mut ledger = self.ledger();
        ledger.apply(fact);
        let going_on = ledger.sweeps().iter().filter(|sweep| sweep.end.is_none());
        let shown: BTreeMap<_, _> = going_on.map(shown).collect();
        self.health.set_sweeps(shown);
    }

    async fn work(
        &self,
        journal: &Arc<Journal>,
        session: &Session,
        queue: &WorkQueue,
    ) -> JournalError {
        if let Err(error) = journal.read_to_end().await {
            return error;
        }
        self.journal.send_replace(Some(Arc::clone(journal)));
        let begin = async {
            match &self.settings {
                Some(settings) => self.begin_due(settings, journal, session, queue).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            error = begin => error,
            never = self.keep_going(session, queue) => match never {},
        }
    }

    /// Asks for the sweeps that are due.
    async fn begin_due(
        &self,
        settings: &SweepSettings,
        journal: &Journal,
        session: &Session,
        queue: &WorkQueue,
    ) -> JournalError {
        let mut kept: Option<Instant> = None;
        loop {
            if kept.is_none_or(|at| at.elapsed() > KEEP_INTERVAL) {
                if let Err(error) = self.keep(journal, &settings.buckets).await {
                    return error;
                }
                kept = Some(Instant::now());
            }
            // Its order decides, so it is read to its end first.
            if let Err(error) = journal.read_to_end().await {
                return error;
            }
            self.show_due();
            let due: Vec<State> =
                settings.buckets.iter().filter_map(|bucket| self.due(bucket, settings)).collect();
            for state in &due {
                tracing::info!(bucket = state.order.bucket, sweep = %state.sweep, "a sweep is due");
                ask(session, queue, state).await;
            }
            tokio::time::sleep(if due.is_empty() { DUE_INTERVAL } else { ASK_INTERVAL }).await;
        }
    }

    /// Publishes the page of each sweep again that stands still while no message of any waits.
    async fn keep_going(&self, session: &Session, queue: &WorkQueue) -> Infallible {
        let mut watch = Watch::default();
        loop {
            tokio::time::sleep(DUE_INTERVAL).await;
            let still: Vec<State> = {
                let ledger = self.ledger();
                let still = watch.still(ledger.sweeps(), Instant::now());
                still.into_iter().map(|sweep| sweep.awaited(self.receipts)).collect()
            };
            if still.is_empty() {
                continue;
            }
            // Their messages wait for an engine, a store or a replica, and are not lost.
            if session
                .publisher()
                .depth(&queue.with_retry())
                .await
                .is_ok_and(|waiting| waiting == 0)
            {
                for state in &still {
                    let (bucket, page) = (state.order.bucket.as_str(), state.page);
                    tracing::info!(bucket, sweep = %state.sweep, page, "a sweep stands still: its page is asked for again");
                    ask(session, queue, state).await;
                }
            }
        }
    }

    /// Appends the last sweep of each bucket again, so that the next one is not due early when the journal
    /// has dropped it.
    async fn keep(&self, journal: &Journal, buckets: &[String]) -> Result<(), JournalError> {
        let ended: Vec<_> = {
            let ledger = self.ledger();
            let last = buckets.iter().filter_map(|bucket| ledger.last_due(bucket));
            last.filter_map(|last| Some((last.clone(), last.end.clone()?))).collect()
        };
        for (Sweep { id: sweep, at, order, why, .. }, end) in ended {
            journal.append(&Fact::Begun { sweep, at, order, why }).await?;
            journal.append(&Fact::Ended { sweep, end }).await?;
        }
        Ok(())
    }

    /// Shows when the next sweep of each bucket is due. Where none is known, one has been due since this
    /// replica started.
    fn show_due(&self) {
        let Some(SweepSettings { buckets, every, .. }) = &self.settings else { return };
        let every = i64::try_from(every.as_millis()).unwrap_or(i64::MAX);
        let ledger = self.ledger();
        let due = buckets.iter().map(|bucket| {
            let last = ledger.last_due(bucket);
            let due = last.map_or(self.started, |last| last.at.saturating_add(every));
            (bucket.clone(), due)
        });
        self.health.set_sweeps_due(due.collect());
    }

    /// The sweep of the bucket that is due: the last one began long enough ago, by this host's clock. A
    /// time in the future counts as now.
    fn due(&self, bucket: &str, settings: &SweepSettings) -> Option<State> {
        let now = clock::millis(SystemTime::now());
        let ledger = self.ledger();
        let last = ledger.last_due(bucket);
        let age = last.map(|last| now.saturating_sub(last.at).max(0));
        let every = i64::try_from(settings.every.as_millis()).unwrap_or(i64::MAX);
        if age.is_some_and(|age| age < every) || ledger.running(bucket).is_some() {
            return None;
        }
        let why = Why::DueAfter(last.map(|last| last.id));
        let order = Order {
            bucket: bucket.to_owned(),
            prefix: String::new(),
            selection: match settings.select {
                SweepSelect::Missing => Selection::Missing,
                SweepSelect::ScannedBefore(age) => {
                    let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
                    Selection::ScannedBefore(now.saturating_sub(age))
                }
                SweepSelect::All => Selection::All,
            },
            uploaded_since: None,
            current_only: false,
            rate: None,
        };
        Some(State::first(now, order, why, self.receipts))
    }

    /// The journal, after everything in it was read.
    ///
    /// # Errors
    /// When it cannot be read, or not in time.
    pub(crate) async fn journal(&self) -> Result<Arc<Journal>, JournalError> {
        self.wanted.notify_one();
        let mut opened = self.journal.subscribe();
        let open = async {
            // Fails only without a sender, and we hold it.
            let opened = opened.wait_for(Option::is_some).await.ok()?;
            opened.clone()
        };
        let journal = tokio::time::timeout(OPEN_TIMEOUT, open).await.ok().flatten();
        let journal = journal.ok_or_else(|| JournalError::new("it is not open"))?;
        journal.read_to_end().await?;
        Ok(journal)
    }

    /// What to do with the message of a page. To be asked after [`Self::journal`].
    pub(crate) fn advice(&self, state: &State, repeated: bool) -> Advice {
        self.ledger().advice(state, repeated)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Publishes the message of a page.
async fn ask(session: &Session, queue: &WorkQueue, state: &State) {
    let Ok(body) = serde_json::to_vec(state) else { return };
    if let Err(failure) = session.publisher().announce(&queue.queue, &body, &Trace::default()).await
    {
        tracing::debug!(%failure, "the page of a sweep is not asked for");
    }
}

/// A sweep that goes on, for `/readyz`.
fn shown(known: &Sweep) -> (String, RunningSweep) {
    let Sweep { id, order, counts, .. } = known;
    let (sweep, prefix) = (id.to_string(), order.prefix.clone());
    let running =
        RunningSweep { sweep, prefix, listed: counts.listed, announced: counts.announced };
    (order.bucket.clone(), running)
}
