//! Holds back the deletions of a surge: so many contents by one signature that it may be wrong.
//!
//! Before the report of a deletion its signature and SHA-256 are appended to the journal, and read back.
//! With more than `SURGE_LIMIT` distinct contents by one signature within `SURGE_WINDOW`, deletions by it
//! are held, in every replica, until a person says otherwise. The order of the journal decides, so of
//! deletions at the same time no more than the limit find themselves within it.
//!
//! - `fact`: what the journal says; `timeline`: its time; `ledger`: what follows; all pure;
//! - this file: what this replica knows, asks and shows.

mod fact;
mod ledger;
mod timeline;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, watch};
use uuid::Uuid;

use self::fact::Moment;
pub(crate) use self::fact::{Fact, Ruling, State};
pub(crate) use self::ledger::Ledger;
use crate::clock;
use crate::config::SurgeSettings;
use crate::failure::{Failure, Kind, Reason, Stage};
use crate::health::{Health, Note};
use crate::metrics::Metrics;
use crate::policy::Surge;
use crate::queue::{Journal, JournalError, Session};

/// For a delivery, until the journal is open and read to its end.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Before a journal that failed is opened again.
const REOPEN_INTERVAL: Duration = Duration::from_secs(2);
/// What must outlive the week that the journal keeps is appended again this often.
const KEEP_INTERVAL: Duration = Duration::from_hours(24);

/// The surges of one deployment, as this replica sees them.
pub(crate) struct Surges {
    /// What a surge means for a deletion here.
    means: Surge,
    /// This process in the journal, and since when it runs.
    me: Uuid,
    started: Instant,
    ledger: Mutex<Ledger>,
    /// The contents that this replica has appended and waits for, by signature and SHA-256; and whether
    /// their entry found the signature held. Those behind it may be read before the waiting one goes on.
    asked: Mutex<Asked>,
    /// The journal, once it was read to its end.
    journal: watch::Sender<Option<Arc<Journal>>>,
    /// The journal could not be opened the last time: nobody waits for it.
    away: AtomicBool,
    /// A ruling has to be appended.
    due: Notify,
    /// The journal does not take entries any more.
    broken: Notify,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

/// By signature and SHA-256; `None` until the entry was read.
type Asked = HashMap<(String, String), Option<bool>>;

impl Surges {
    /// `means`: what a surge means for a deletion.
    pub(crate) fn new(
        settings: &SurgeSettings,
        means: Surge,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let ledger = Mutex::new(Ledger::new(settings.limit, settings.window));
        let (me, started) = (Uuid::new_v4(), Instant::now());
        let (journal, away) = (watch::Sender::new(None), AtomicBool::new(false));
        let (due, broken) = (Notify::new(), Notify::new());
        let asked = Mutex::default();
        Self { means, me, started, ledger, asked, journal, away, due, broken, health, metrics }
    }

    /// Follows the journal, for as long as the future is polled.
    pub(crate) async fn run(&self, session: &Session) -> Infallible {
        self.journal.send_replace(None);
        let mut last_error = None;
        loop {
            let error = match session.journal().await {
                Ok((journal, reader)) => {
                    self.ledger().begin_again();
                    self.asked().clear();
                    let error = tokio::select! {
                        error = journal.follow(reader, |fact| self.take(fact)) => error,
                        error = self.work(&journal) => error,
                    };
                    error.to_string()
                }
                Err(error) => error.to_string(),
            };
            self.away.store(true, Ordering::Relaxed);
            self.journal.send_replace(None);
            self.show(Some(&error));
            if last_error.as_ref() != Some(&error) {
                tracing::warn!(%error, "the journal that counts deletions is away (SURGE_LIMIT)");
                last_error = Some(error);
            }
            tokio::time::sleep(REOPEN_INTERVAL).await;
        }
    }

    async fn work(&self, journal: &Arc<Journal>) -> JournalError {
        let worked: Result<Infallible, JournalError> = async {
            journal.read_to_end().await?;
            journal.append(&Fact::Began(self.moment())).await?;
            self.caught_up(journal);
            let (mut all, mut kept) = (true, Instant::now());
            loop {
                let now = clock::millis(SystemTime::now());
                let facts = self.ledger().to_append(all, now);
                for fact in facts {
                    journal.append_and_read(&fact).await?;
                }
                tokio::select! {
                    () = self.due.notified() => {}
                    () = self.broken.notified() => {
                        return Err(JournalError::new("an entry of a deletion was not taken"));
                    }
                    () = tokio::time::sleep_until((kept + KEEP_INTERVAL).into()) => {}
                }
                all = kept.elapsed() >= KEEP_INTERVAL;
                if all {
                    kept = Instant::now();
                }
            }
        }
        .await;
        match worked {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }

    /// Everything in the journal was read: it can be relied upon, and shown.
    fn caught_up(&self, journal: &Arc<Journal>) {
        self.away.store(false, Ordering::Relaxed);
        self.journal.send_replace(Some(Arc::clone(journal)));
        self.show(None);
        let ledger = self.ledger();
        ledger.rulings().filter(|ruling| ruling.state == State::Held).for_each(|r| self.tell(r));
    }

    /// Takes in an entry of the journal.
    fn take(&self, fact: Fact) {
        let ours = match &fact {
            Fact::Found { moment, signature, sha256 } if moment.by == self.me => {
                Some((signature.clone(), sha256.clone()))
            }
            _ => None,
        };
        let mut ledger = self.ledger();
        let news = ledger.apply(fact);
        if let Some(asked) = ours
            && let Some(held) = self.asked().get_mut(&asked)
        {
            *held = Some(ledger.state(&asked.0) == State::Held);
        }
        if ledger.has_due() {
            self.due.notify_one();
        }
        drop(ledger);
        // What was read from the past is shown once its end is reached.
        if let Some(ruling) = news.filter(|_| self.journal.borrow().is_some()) {
            self.tell(&ruling);
            self.show(None);
        }
    }

    /// Logs what is new about a signature.
    fn tell(&self, Ruling { signature, state, .. }: &Ruling) {
        match (state, self.means) {
            (State::Held, Surge::Held) => tracing::error!(
                signature,
                "surge: too many contents by one signature, deletions by it are held; if it is right: \
                 `surge confirm`, if not: `surge clear`"
            ),
            (State::Held, Surge::Alarm) => tracing::error!(
                signature,
                "surge: too many contents by one signature, and SURGE_WITHOUT_QUARANTINE=delete lets \
                 deletions by it go on"
            ),
            (State::Confirmed, _) => tracing::warn!(signature, "surge confirmed: deletions go on"),
            (State::Counted, _) => tracing::warn!(signature, "surge cleared: counted anew"),
        }
    }

    /// Shows what is held, and why nothing can be decided, in `/readyz` and metrics.
    fn show(&self, error: Option<&str>) {
        let ledger = self.ledger();
        let held = ledger.rulings().filter(|ruling| ruling.state == State::Held);
        let held: Vec<&str> = held.map(|ruling| ruling.signature.as_str()).collect();
        self.metrics.surges.set(i64::try_from(held.len()).unwrap_or(i64::MAX));
        let what = match self.means {
            Surge::Held => "deletions are held of",
            Surge::Alarm => "deletions go on of",
        };
        let lines = [
            (!held.is_empty()).then(|| format!("{what} {}", held.join(", "))),
            error.map(|error| match self.means {
                Surge::Held => format!("deletions wait: {error}"),
                Surge::Alarm => format!("deletions are not counted: {error}"),
            }),
        ];
        let lines: Vec<String> = lines.into_iter().flatten().collect();
        self.health.note(Note::Surge, (!lines.is_empty()).then(|| lines.join("; ")));
    }

    /// What is known about the signature of an object that is about to be deleted. Counts it before.
    ///
    /// # Errors
    /// [`Kind::Busy`]: that cannot be known now, so the object must not be deleted.
    pub(crate) async fn about(
        &self,
        signature: &str,
        sha256: &str,
    ) -> Result<Option<Surge>, Failure> {
        match (self.is_held(signature, sha256).await, self.means) {
            (Ok(held), means) => Ok(held.then_some(means)),
            (Err(error), Surge::Held) => {
                Err(Failure::new(Kind::Busy, Stage::Delete, Reason::JournalUnread, error))
            }
            // Nothing would be held.
            (Err(error), Surge::Alarm) => {
                tracing::warn!(%error, "a deletion is not counted for a surge");
                Ok(None)
            }
        }
    }

    async fn is_held(&self, signature: &str, sha256: &str) -> Result<bool, JournalError> {
        let journal = self.opened().await?;
        let held = self.ask(&journal, signature, sha256).await;
        if held.is_err() {
            self.broken.notify_one();
        }
        held
    }

    async fn ask(
        &self,
        journal: &Journal,
        signature: &str,
        sha256: &str,
    ) -> Result<bool, JournalError> {
        // What was read so far may be old: then it is looked at once more.
        if !self.is_to_be_counted(signature, sha256) {
            journal.read_to_end().await?;
        }
        if !self.is_to_be_counted(signature, sha256) {
            return Ok(self.ledger().state(signature) == State::Held);
        }
        let asked = (signature.to_owned(), sha256.to_owned());
        self.asked().entry(asked.clone()).or_insert(None);
        let (signature, sha256) = asked.clone();
        let found = Fact::Found { moment: self.moment(), signature, sha256 };
        let read = journal.append_and_read(&found).await;
        let held = self.asked().remove(&asked).flatten();
        read?;
        // Another deletion of the same content may have taken the answer along.
        Ok(held.unwrap_or_else(|| self.ledger().state(&asked.0) == State::Held))
    }

    fn is_to_be_counted(&self, signature: &str, sha256: &str) -> bool {
        self.ledger().is_to_be_counted(self.moment(), signature, sha256)
    }

    async fn opened(&self) -> Result<Arc<Journal>, JournalError> {
        let mut opened = self.journal.subscribe();
        if self.away.load(Ordering::Relaxed) && opened.borrow().is_none() {
            // Not waited for: that would take a slot from what can be scanned.
            return Err(JournalError::new("it is not open"));
        }
        let open = async {
            // Fails only without a sender, and we hold it.
            let opened = opened.wait_for(Option::is_some).await.ok()?;
            opened.clone()
        };
        let journal = tokio::time::timeout(OPEN_TIMEOUT, open).await.ok().flatten();
        journal.ok_or_else(|| JournalError::new("it is not open"))
    }

    fn moment(&self) -> Moment {
        let running = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Moment { by: self.me, running }
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
