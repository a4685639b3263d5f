//! Runs one object through fetch, scan, plan and effects.
//!
//! The order of effects is what the promises rest on. An effect that leaves the evidence in place
//! (a tag) comes before its report; one that destroys it (a deletion) only after the broker has
//! confirmed the report. A crash at any point repeats work and loses none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::PolicySettings;
use crate::event::ObjectRef;
use crate::failure::{Dependency, Failure, Kind, Stage};
use crate::metrics::{Metrics, VerdictLabels};
use crate::policy::{self, Action, Circumstances};
use crate::queue::{Note, Outbox, Record};
use crate::report::{EngineInfo, Examined, Occasion, Report};
use crate::scanner::{Engine, Reason, Verdict};
use crate::store::{Applied, Fetched, Identity, Pin, Store};
use crate::telemetry;

/// Fetching and scanning, all rounds together. With the effects behind it a delivery stays well
/// below the half hour after which brokers take it away by default.
const DEADLINE: Duration = Duration::from_mins(20);
/// The effects of all rounds may take so much longer.
const EFFECTS: Duration = Duration::from_mins(4);
/// The tag of an object that was given up, or could not be deleted.
const LAST_TAG: Duration = Duration::from_mins(1);
/// Downloads of one round, when bodies break off. The SDK's own retries end at the headers.
const TRIES: u32 = 3;
/// Rounds, when the object is overwritten between scan and effect.
const ROUNDS: u32 = 3;

/// What one object needs from others, and what was decided before.
pub(crate) struct Pipeline {
    store: Arc<Store>,
    policy: PolicySettings,
    metrics: Arc<Metrics>,
}

/// One delivery of one object.
pub(crate) struct Job<'a> {
    pub(crate) object: &'a ObjectRef,
    pub(crate) occasion: Occasion,
    /// It may have been reported before.
    pub(crate) repeated: bool,
    pub(crate) engine: &'a Engine,
    pub(crate) outbox: &'a Outbox,
    /// Ends fetch and scan, never an effect.
    pub(crate) cancelled: &'a CancellationToken,
}

/// How an object ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The verdict was applied, and reported where it is due.
    Applied,
    /// As above, of newer bytes than those announced.
    Superseded,
    /// It does not exist any more.
    Gone,
    /// The verdict is reported, its effect is not possible.
    Refused(Note),
}

/// A failure, and what was known by then.
#[derive(Debug)]
pub(crate) struct Interrupted {
    pub(crate) failure: Failure,
    /// The verdict, when the failure struck after it.
    pub(crate) known: Option<Box<Examined>>,
}

impl From<Failure> for Interrupted {
    fn from(failure: Failure) -> Self {
        Self { failure, known: None }
    }
}

impl Pipeline {
    pub(crate) fn new(store: Arc<Store>, policy: PolicySettings, metrics: Arc<Metrics>) -> Self {
        Self { store, policy, metrics }
    }

    /// Takes one object to its end.
    ///
    /// # Errors
    /// [`Interrupted`], when a later attempt may come further.
    pub(crate) async fn run(&self, job: &Job<'_>) -> Result<Ended, Interrupted> {
        let deadline = Instant::now() + DEADLINE;
        let (mut uncovered, mut round) = (false, 1);
        while round <= ROUNDS {
            let Some(examined) = self.examine_until(job, deadline).await? else {
                return Ok(if uncovered { Ended::Applied } else { Ended::Gone });
            };
            self.count(&examined);
            let started = Instant::now();
            let applied =
                tokio::time::timeout_at((deadline + EFFECTS).into(), self.apply(job, &examined));
            let deletes =
                matches!(examined.verdict, Verdict::Infected { .. }) && self.policy.delete_file;
            let applied = applied.await.unwrap_or_else(|_| {
                let stage = if deletes { Stage::Delete } else { Stage::Tag };
                let minutes = (DEADLINE + EFFECTS).as_secs() / 60;
                let detail = format!("effects not done after {minutes} min");
                Err(Failure::transient(stage, "deadline", detail))
            });
            self.metrics.took("effects", started.elapsed());
            match applied {
                // A version was deleted that the notification did not name: the one below it is what
                // the name stands for now, and may be the one that was announced.
                Ok(Some(Ended::Applied | Ended::Superseded))
                    if deletes
                        && job.object.version_id.is_none()
                        && examined.identity.version_id().is_some() =>
                {
                    uncovered = true;
                }
                Ok(Some(ended)) => return Ok(ended),
                Ok(None) => {
                    tracing::info!(round, "overwritten meanwhile, scanning the new bytes");
                    round += 1;
                }
                Err(failure) => {
                    return Err(Interrupted { failure, known: Some(Box::new(examined)) });
                }
            }
        }
        let detail = format!("other bytes in each of {ROUNDS} rounds");
        Err(Failure::transient(Stage::Fetch, "keeps_changing", detail).into())
    }

    /// Fetch and scan may be given up at any point: they leave no trace.
    async fn examine_until(
        &self,
        job: &Job<'_>,
        deadline: Instant,
    ) -> Result<Option<Examined>, Failure> {
        let scanning = std::sync::atomic::AtomicBool::new(false);
        let examined = tokio::time::timeout_at(deadline.into(), self.examine(job, &scanning));
        let touched = |failure: Failure| {
            if scanning.load(std::sync::atomic::Ordering::Relaxed) {
                failure.engine_touched()
            } else {
                failure
            }
        };
        tokio::select! {
            biased;
            () = job.cancelled.cancelled() => Err(touched(Failure::abandoned(Stage::Scan))),
            examined = examined => examined.unwrap_or_else(|_| {
                let detail = format!("not done after {} min", DEADLINE.as_secs() / 60);
                Err(touched(Failure::transient(Stage::Fetch, "deadline", detail)))
            }),
        }
    }

    async fn examine(
        &self,
        job: &Job<'_>,
        scanning: &std::sync::atomic::AtomicBool,
    ) -> Result<Option<Examined>, Failure> {
        let started = clock::now();
        let clock = Instant::now();
        let unread = |identity: Identity, reason, started| Examined {
            identity,
            verdict: Verdict::Unscannable { reason, heuristic: None },
            sha256: None,
            as_announced: true,
            engine: None,
            started,
            finished: clock::now(),
        };
        let mut tries = 0;
        let (download, verdict) = loop {
            let arrival = match self.store.open(job.object).await? {
                Fetched::Arrival(arrival) => arrival,
                Fetched::Gone => return Ok(None),
                Fetched::TooLarge(identity) => {
                    return Ok(Some(unread(identity, Reason::TooLarge, started)));
                }
                Fetched::Unreadable(identity) => {
                    return Ok(Some(unread(identity, Reason::Unreadable, started)));
                }
            };
            tries += 1;
            let spooled = arrival.spooled();
            let receiving = async {
                let received = self.store.receive(*arrival).await?;
                // Only now an engine may have got all of it, and begin to scan.
                scanning.store(true, std::sync::atomic::Ordering::Relaxed);
                let fetched = clock.elapsed();
                Ok((received.hash().await?, fetched))
            };
            match tokio::try_join!(receiving, job.engine.scan(&spooled)) {
                Ok(((download, fetched), verdict)) => {
                    self.metrics.took("fetch", fetched);
                    self.metrics.took("scan", clock.elapsed().saturating_sub(fetched));
                    break (download, verdict);
                }
                Err(failure)
                    if tries < TRIES && failure.kind == Kind::Suspect(Dependency::Store) =>
                {
                    tracing::debug!(%failure, tries, "download broke off, once more");
                }
                Err(failure) => return Err(failure),
            }
        };
        self.metrics.scanned_bytes.inc_by(download.length());
        Ok(Some(Examined {
            identity: download.identity.clone(),
            verdict,
            sha256: Some(download.sha256.clone()),
            as_announced: download.as_announced,
            engine: Some(EngineInfo::from(job.engine)),
            started,
            finished: clock::now(),
        }))
    }

    /// Carries the verdict out and reports it. `None`: other bytes are there now.
    async fn apply(&self, job: &Job<'_>, examined: &Examined) -> Result<Option<Ended>, Failure> {
        let how =
            Circumstances { repeated: job.repeated, pinned: examined.identity.pin != Pin::Nothing };
        let plan = policy::plan(&examined.verdict, &self.policy, how);
        let report = Report::of(job.object, examined, job.occasion, plan.action, None);
        let (identity, status) = (&examined.identity, plan.status.as_str());
        let applied = match plan.action {
            Action::No => Applied::Done,
            Action::Tag => self.store.tag(identity, &self.policy.tag_key, status).await?,
            Action::Delete => {
                self.publish(job.outbox, &report, Record::Kept).await?;
                match self.store.delete(identity).await {
                    Ok(applied) => applied,
                    Err(failure) => {
                        // It stays readable until a later attempt: at least say what it is.
                        self.tag_instead(identity, status).await;
                        return Err(failure);
                    }
                }
            }
        };
        match applied {
            Applied::Done => {
                if plan.report && plan.action != Action::Delete {
                    self.publish(job.outbox, &report, Record::Reported).await?;
                }
                log_end(examined, plan.action);
                let ended = if examined.as_announced { Ended::Applied } else { Ended::Superseded };
                Ok(Some(ended))
            }
            Applied::Changed => {
                // What was found out about the bytes that are gone is still worth knowing.
                if plan.status != policy::Status::Clean && plan.action == Action::Tag {
                    let report = Report::of(
                        job.object,
                        examined,
                        job.occasion,
                        Action::No,
                        Some("superseded"),
                    );
                    self.publish(job.outbox, &report, Record::Reported).await?;
                }
                Ok(None)
            }
            Applied::Denied | Applied::TagSetFull | Applied::NoIdentity => {
                let error = match (applied, plan.action) {
                    (Applied::TagSetFull, _) => "tag_set_full",
                    (Applied::NoIdentity, _) => "no_identity",
                    (_, Action::Delete) => "delete_denied",
                    _ => "tag_denied",
                };
                self.give_up_effect(job.object, examined, job.occasion, job.outbox, error).await?;
                let stage = if plan.action == Action::Delete { Stage::Delete } else { Stage::Tag };
                let detail = format!("verdict {status}, but the object could not be changed");
                Ok(Some(Ended::Refused(Note { reason: error, stage, detail })))
            }
        }
    }

    /// The end of an object whose attempts are used up: the status `no` where it can be set, and
    /// one report. A verdict that was reached is reported as such.
    ///
    /// # Errors
    /// When the report cannot be handed to the broker.
    pub(crate) async fn give_up(
        &self,
        object: &ObjectRef,
        occasion: Occasion,
        interrupted: &Interrupted,
        outbox: &Outbox,
    ) -> Result<(), Failure> {
        if let Some(examined) = &interrupted.known {
            let error = match interrupted.failure.stage {
                Stage::Delete => "delete_failed",
                _ => "tag_failed",
            };
            return self.give_up_effect(object, examined, occasion, outbox, error).await;
        }
        let mut action = Action::No;
        if self.policy.tag_files {
            let tagged = async {
                for key in &object.keys {
                    let identity = announced(object, key);
                    let tagged = self.store.tag(&identity, &self.policy.tag_key, "no").await;
                    if matches!(tagged, Ok(Applied::Done)) {
                        return Action::Tag;
                    }
                }
                Action::No
            };
            action = tokio::time::timeout(LAST_TAG, tagged).await.unwrap_or(Action::No);
        }
        let report = Report::of_failure(object, occasion, action);
        self.publish(outbox, &report, Record::Reported).await
    }

    /// Reports a verdict whose effect is not possible. A deletion that is not falls back to the
    /// tag.
    async fn give_up_effect(
        &self,
        object: &ObjectRef,
        examined: &Examined,
        occasion: Occasion,
        outbox: &Outbox,
        error: &'static str,
    ) -> Result<(), Failure> {
        let status = policy::Status::from(&examined.verdict).as_str();
        let mut record = Record::Reported;
        if matches!(error, "delete_denied" | "delete_failed") {
            self.tag_instead(&examined.identity, status).await;
            record = Record::Kept;
        }
        tracing::error!(status, error, "the verdict is known, but the object could not be changed");
        let report = Report::of(object, examined, occasion, Action::No, Some(error));
        self.publish(outbox, &report, record).await
    }

    /// Tags what could not be deleted.
    async fn tag_instead(&self, identity: &Identity, status: &str) {
        if !self.policy.tag_files {
            return;
        }
        let tagged = self.store.tag(identity, &self.policy.tag_key, status);
        match tokio::time::timeout(LAST_TAG, tagged).await {
            Ok(Ok(Applied::Done)) => tracing::info!("tagged instead of deleted"),
            Ok(Ok(applied)) => tracing::warn!(?applied, "neither deleted nor tagged"),
            Ok(Err(failure)) => tracing::warn!(%failure, "neither deleted nor tagged"),
            Err(_) => tracing::warn!("neither deleted nor tagged, the store takes too long"),
        }
    }

    async fn publish(
        &self,
        outbox: &Outbox,
        report: &Report,
        record: Record,
    ) -> Result<(), Failure> {
        let json = serde_json::to_vec(report)
            .map_err(|error| Failure::new(Kind::Permanent, Stage::Report, "report_json", error))?;
        outbox.publish(record, report.status, &report.id.to_string(), &json).await?;
        self.metrics.report("queued");
        Ok(())
    }

    fn count(&self, examined: &Examined) {
        let status = policy::Status::from(&examined.verdict).as_str();
        let reason = match examined.verdict {
            Verdict::Unscannable { reason, .. } => reason.as_str(),
            Verdict::Clean | Verdict::Infected { .. } => "",
        };
        self.metrics.verdicts.get_or_create(&VerdictLabels { status, reason }).inc();
    }
}

/// What the notification announced, for a tag that says that nothing is known: it needs no scanned
/// bytes, only to stay away from newer ones.
fn announced(object: &ObjectRef, key: &str) -> Identity {
    let pin = match (&object.version_id, &object.etag) {
        (Some(version), _) => Pin::Version(version.clone()),
        (None, Some(etag)) => Pin::Etag { etag: etag.clone(), null_version: false },
        (None, None) => Pin::Nothing,
    };
    Identity {
        bucket: object.bucket.clone(),
        key: key.to_owned(),
        pin,
        etag: object.etag.clone(),
        // Some stores announce another one than they have.
        length: None,
    }
}

/// One line an object; a deletion's is the audit trail.
fn log_end(examined: &Examined, action: Action) {
    let version = examined.identity.version_id().unwrap_or_default();
    let sha256 = examined.sha256.as_deref().unwrap_or_default();
    let (size, action) = (examined.identity.bytes(), action.as_str());
    match &examined.verdict {
        Verdict::Clean => tracing::info!(size, action, "clean"),
        Verdict::Infected { signature } if action == "delete" => tracing::warn!(
            target: telemetry::AUDIT,
            version, sha256, signature, size, "infected object deleted"
        ),
        Verdict::Infected { signature } => {
            tracing::warn!(version, sha256, signature, size, action, "infected");
        }
        Verdict::Unscannable { reason, .. } => {
            tracing::warn!(version, size, action, reason = reason.as_str(), "not scanned");
        }
    }
}
