//! Runs one object through fetch, scan, plan and effects.
//!
//! The order of effects is what the promises rest on. An effect that leaves the evidence in place
//! (a tag) comes before its report; one that destroys it (a deletion) only after the broker has
//! confirmed the report. A crash at any point repeats work and loses none.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::clock;
use crate::config::PolicySettings;
use crate::event::{ObjectRef, Version};
use crate::failure::{Dependency, Failure, Kind, Reason, Stage};
use crate::metrics::{Metrics, ReportEnd, Timed};
use crate::policy::{self, Action, Context};
use crate::queue::{Note, Outbox, Record};
use crate::report::{EffectError, EngineInfo, Examined, LAST_REPORT, Occasion, Report};
use crate::scanner::Engine;
use crate::store::{Applied, Fetched, Identity, Look, Pin, Store};
use crate::telemetry;
use crate::verdict::{Status, UnscannableReason, Verdict};

/// Fetching and scanning, all rounds together. With the effects behind it a delivery stays well
/// below the half hour after which brokers take it away by default.
const DEADLINE: Duration = Duration::from_mins(20);
/// The effects of all rounds may take so much longer.
const EFFECTS: Duration = Duration::from_mins(4);
/// The tag of an object that was given up, or could not be deleted.
const LAST_TAG: Duration = Duration::from_mins(1);
/// Downloads of one round, when bodies break off. The SDK's own retries end at the headers.
const TRIES: u32 = 3;
/// Versions that are remembered.
const KNOWN: usize = 256;
/// Rounds, when the object is overwritten between scan and effect.
const ROUNDS: u32 = 3;

/// What one object needs from others, and what was decided before.
pub(crate) struct Pipeline {
    /// Versions that were scanned and acted upon, newest first. They are immutable, so that a removal
    /// that uncovers one of them once more calls for nothing.
    ended: Mutex<VecDeque<Identity>>,
    store: Arc<Store>,
    policy: PolicySettings,
    metrics: Arc<Metrics>,
}

/// One delivery of one object.
pub(crate) struct Job<'a> {
    pub(crate) object: &'a ObjectRef,
    pub(crate) look: Look,
    pub(crate) occasion: Occasion,
    /// It may have been reported before.
    pub(crate) repeated: bool,
    pub(crate) engine: &'a Engine,
    pub(crate) outbox: &'a Outbox,
    /// How many reports this delivery has brought.
    pub(crate) reported: AtomicU32,
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
    /// It does not exist, or not any more. One look alone does not prove it.
    Gone,
    /// A rule of retention keeps it. The verdict is reported, and the object tagged.
    Locked,
    /// One of these versions, or all of them, are what was announced.
    Versions(Vec<Version>),
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
        Self { ended: Mutex::default(), store, policy, metrics }
    }

    /// Takes one object to its end.
    ///
    /// # Errors
    /// [`Interrupted`], when a later attempt may come further.
    pub(crate) async fn run(&self, job: &Job<'_>) -> Result<Ended, Interrupted> {
        let deadline = Instant::now() + DEADLINE;
        let mut before: Option<Box<Examined>> = None;
        let mut changed = false;
        for round in 1..=ROUNDS {
            let found = self.examine_until(job, deadline).await;
            if let Some(before) = before.take() {
                // HEAD and GET may tell different ETags of the same bytes.
                let same = matches!(&found, Ok(Found::Examined(now)) if now.is_same(&before));
                if !same {
                    changed = true;
                    self.report_superseded(job, &before).await?;
                }
            }
            let examined = match found? {
                Found::Examined(examined) => examined,
                Found::Gone => return Ok(Ended::Gone),
                Found::Known => return Ok(Ended::Applied),
                Found::Versions(versions) => return Ok(Ended::Versions(versions)),
            };
            self.count(&examined);
            let started = Instant::now();
            let applied =
                tokio::time::timeout_at((deadline + EFFECTS).into(), self.apply(job, &examined));
            let applied = applied.await.unwrap_or_else(|_| {
                let minutes = (DEADLINE + EFFECTS).as_secs() / 60;
                let detail = format!("effects not done after {minutes} min");
                Err(Failure::transient(self.stage_of_effect(&examined), Reason::Deadline, detail))
            });
            self.metrics.took(Timed::Effects, started.elapsed());
            match applied {
                Ok(Some(ended)) => {
                    if matches!(ended, Ended::Applied) && examined.identity.version_id().is_some() {
                        let mut known = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
                        known.truncate(KNOWN - 1);
                        known.push_front(examined.identity);
                    }
                    return Ok(ended);
                }
                Ok(None) => {
                    tracing::info!(round, "overwritten meanwhile, scanning the new bytes");
                    before = Some(examined);
                }
                Err(failure) => return Err(Interrupted { failure, known: Some(examined) }),
            }
        }
        match before {
            Some(known) if !changed => {
                let detail = format!("HEAD shows other bytes than GET, in each of {ROUNDS} rounds");
                let stage = self.stage_of_effect(&known);
                let failure = Failure::transient(stage, Reason::IdentityUnstable, detail);
                Err(Interrupted { failure, known: Some(known) })
            }
            _ => {
                let detail = format!("other bytes in each of {ROUNDS} rounds");
                Err(Failure::transient(Stage::Fetch, Reason::KeepsChanging, detail).into())
            }
        }
    }

    fn stage_of_effect(&self, examined: &Examined) -> Stage {
        match examined.verdict {
            Verdict::Infected { .. } if self.policy.delete_file => Stage::Delete,
            _ => Stage::Tag,
        }
    }

    /// Fetch and scan may be given up at any point: they leave no trace.
    async fn examine_until(&self, job: &Job<'_>, deadline: Instant) -> Result<Found, Failure> {
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
                Err(touched(Failure::transient(Stage::Fetch, Reason::Deadline, detail)))
            }),
        }
    }

    async fn examine(
        &self,
        job: &Job<'_>,
        scanning: &std::sync::atomic::AtomicBool,
    ) -> Result<Found, Failure> {
        let started = clock::now();
        let clock = Instant::now();
        let unread = |identity: Identity, reason, started| {
            Found::Examined(Box::new(Examined {
                identity,
                verdict: Verdict::Unscannable { reason, heuristic: None },
                sha256: None,
                as_announced: true,
                engine: None,
                started,
                finished: clock::now(),
            }))
        };
        let mut tries = 0;
        let (download, sha256, (verdict, engine)) = loop {
            let download = match self.store.open(job.object, job.look).await? {
                Fetched::Download(download)
                    if job.object.uncovered && self.knows(&download.identity) =>
                {
                    return Ok(Found::Known);
                }
                Fetched::Download(download) => download,
                Fetched::Gone => return Ok(Found::Gone),
                Fetched::Versions(versions) => return Ok(Found::Versions(versions)),
                Fetched::TooLarge(identity) => {
                    return Ok(unread(identity, UnscannableReason::TooLarge, started));
                }
                Fetched::Unreadable(identity) => {
                    return Ok(unread(identity, UnscannableReason::Unreadable, started));
                }
            };
            tries += 1;
            let buffer = download.buffer();
            let receiving = async {
                let downloaded = self.store.receive(*download).await?;
                // Only now an engine may have got all of it, and begin to scan.
                scanning.store(true, std::sync::atomic::Ordering::Relaxed);
                let fetched = clock.elapsed();
                let sha256 = downloaded.sha256().await?;
                Ok((downloaded, sha256, fetched))
            };
            let scanning = job.engine.scan(&buffer, job.occasion.attempt);
            match tokio::try_join!(receiving, scanning) {
                Ok(((download, sha256, fetched), scanned)) => {
                    self.metrics.took(Timed::Fetch, fetched);
                    self.metrics.took(Timed::Scan, clock.elapsed().saturating_sub(fetched));
                    break (download, sha256, scanned);
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
        Ok(Found::Examined(Box::new(Examined {
            identity: download.identity.clone(),
            verdict,
            sha256: Some(sha256),
            as_announced: download.as_announced,
            engine: Some(EngineInfo::from(engine)),
            started,
            finished: clock::now(),
        })))
    }

    fn knows(&self, identity: &Identity) -> bool {
        let known = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        identity.version_id().is_some() && known.contains(identity)
    }

    /// Carries the verdict out and reports it. `None`: other bytes are there now.
    async fn apply(&self, job: &Job<'_>, examined: &Examined) -> Result<Option<Ended>, Failure> {
        let context =
            Context { repeated: job.repeated, pinned: examined.identity.pin != Pin::Nothing };
        let plan = policy::plan(&examined.verdict, &self.policy, context);
        let report = Report::of(job.object, examined, job.occasion, plan.action, None);
        let (identity, status) = (&examined.identity, plan.status);
        let applied = match plan.action {
            Action::No => Applied::Done,
            Action::Tag => self.tag(identity, status).await?,
            Action::Delete => {
                self.publish(job, report.clone()).await?;
                audit(examined, "deleting");
                match self.delete(identity).await {
                    Ok(applied) => applied,
                    Err(failure) => {
                        // It stays readable until a later attempt: at least say what it is.
                        self.tag_instead(identity, status).await;
                        return Err(failure);
                    }
                }
            }
        };
        let error = match (applied, plan.action) {
            (Applied::Done, _) => {
                if plan.report && plan.action != Action::Delete {
                    self.publish(job, report).await?;
                }
                log_end(examined, plan.action);
                let ended = if examined.as_announced { Ended::Applied } else { Ended::Superseded };
                return Ok(Some(ended));
            }
            (Applied::Changed, _) => return Ok(None),
            (Applied::NoTagging, _) => {
                if plan.report {
                    let error = Some(EffectError::TagUnsupported);
                    let report = Report::of(job.object, examined, job.occasion, Action::No, error);
                    self.publish(job, report).await?;
                }
                log_end(examined, Action::No);
                return Ok(Some(Ended::Applied));
            }
            (Applied::TagSetFull, _) => EffectError::TagSetFull,
            (Applied::NoIdentity, _) => EffectError::NoIdentity,
            (Applied::Locked, Action::Delete) => EffectError::Locked,
            (Applied::Denied, Action::Delete) => EffectError::DeleteDenied,
            (Applied::Denied | Applied::Locked, _) => EffectError::TagDenied,
        };
        self.give_up_effect(examined, error).await;
        let report = Report::of(job.object, examined, job.occasion, Action::No, Some(error));
        self.publish(job, report).await?;
        if error == EffectError::Locked {
            return Ok(Some(Ended::Locked));
        }
        let stage = if plan.action == Action::Delete { Stage::Delete } else { Stage::Tag };
        let detail = format!("verdict {}, but the object could not be changed", status.into_str());
        Ok(Some(Ended::Refused(Note { reason: error.into_str(), stage, detail })))
    }

    /// What was found out about bytes that are gone is still worth knowing.
    async fn report_superseded(&self, job: &Job<'_>, examined: &Examined) -> Result<(), Failure> {
        let how = Context { repeated: job.repeated, pinned: true };
        let plan = policy::plan(&examined.verdict, &self.policy, how);
        if plan.status == Status::Clean || plan.action != Action::Tag {
            return Ok(());
        }
        let error = Some(EffectError::Superseded);
        let report = Report::of(job.object, examined, job.occasion, Action::No, error);
        self.publish(job, report).await
    }

    /// The end of an object whose attempts are used up: the status `no` where it can be set, and
    /// one report. A verdict that was reached is reported as such. `objects` are one, or the two that a
    /// notification may have meant.
    ///
    /// # Errors
    /// When the report cannot be handed to the broker.
    pub(crate) async fn give_up(
        &self,
        objects: &[&ObjectRef],
        occasion: Occasion,
        interrupted: &Interrupted,
        outbox: &Outbox,
    ) -> Result<(), Failure> {
        let Some(first) = objects.first() else { return Ok(()) };
        let report = if let Some(examined) = &interrupted.known {
            let error = match interrupted.failure.stage {
                Stage::Delete => EffectError::DeleteFailed,
                _ => EffectError::TagFailed,
            };
            self.give_up_effect(examined, error).await;
            Report::of(first, examined, occasion, Action::No, Some(error))
        } else {
            let mut tagged = None;
            if self.policy.tag_files {
                for object in objects {
                    let identity = announced(object);
                    let tagging = self.tag(&identity, Status::No);
                    let done = tokio::time::timeout(LAST_TAG, tagging).await;
                    if matches!(done, Ok(Ok(Applied::Done))) {
                        tagged = Some(*object);
                        break;
                    }
                }
            }
            match tagged {
                Some(object) => Report::of_failure(object, occasion, Action::Tag),
                None => Report::of_failure(first, occasion, Action::No),
            }
        };
        self.send(outbox, report.at(occasion, LAST_REPORT)).await
    }

    /// A verdict whose effect is not possible. A deletion that is not falls back to the tag.
    async fn give_up_effect(&self, examined: &Examined, error: EffectError) {
        let status = Status::from(&examined.verdict);
        if error.is_of_deletion() {
            self.tag_instead(&examined.identity, status).await;
        }
        let (status, error) = (status.into_str(), error.into_str());
        tracing::error!(status, error, "the verdict is known, but the object could not be changed");
    }

    /// Tags what could not be deleted.
    async fn tag_instead(&self, identity: &Identity, status: Status) {
        if !self.policy.tag_files {
            return;
        }
        match tokio::time::timeout(LAST_TAG, self.tag(identity, status)).await {
            Ok(Ok(Applied::Done)) => tracing::info!("tagged instead of deleted"),
            Ok(Ok(applied)) => tracing::warn!(?applied, "neither deleted nor tagged"),
            Ok(Err(failure)) => tracing::warn!(%failure, "neither deleted nor tagged"),
            Err(_) => tracing::warn!("neither deleted nor tagged, the store takes too long"),
        }
    }

    async fn tag(&self, identity: &Identity, status: Status) -> Result<Applied, Failure> {
        let (store, identity) = (Arc::clone(&self.store), identity.clone());
        let key = self.policy.tag_key.clone();
        to_its_end(async move { store.tag(&identity, &key, status.into_str()).await }).await
    }

    async fn delete(&self, identity: &Identity) -> Result<Applied, Failure> {
        let (store, identity) = (Arc::clone(&self.store), identity.clone());
        to_its_end(async move { store.delete(&identity).await }).await
    }

    async fn publish(&self, job: &Job<'_>, report: Report) -> Result<(), Failure> {
        let number = job.reported.fetch_add(1, Ordering::Relaxed) + 1;
        self.send(job.outbox, report.at(job.occasion, number)).await
    }

    async fn send(&self, outbox: &Outbox, report: Report) -> Result<(), Failure> {
        let json = serde_json::to_vec(&report).map_err(|error| {
            Failure::new(Kind::Permanent, Stage::Report, Reason::ReportJson, error)
        })?;
        let record = if report.is_of_deletion() { Record::Kept } else { Record::Reported };
        outbox.publish(record, report.status.into_str(), &report.id.to_string(), &json).await?;
        self.metrics.report(ReportEnd::Queued);
        Ok(())
    }

    fn count(&self, examined: &Examined) {
        let reason = match examined.verdict {
            Verdict::Unscannable { reason, .. } => Some(reason.into_str()),
            Verdict::Clean | Verdict::Infected { .. } => None,
        };
        self.metrics.verdict(Status::from(&examined.verdict).into_str(), reason);
    }
}

/// What a look at an object brought.
enum Found {
    Examined(Box<Examined>),
    Gone,
    /// A version that was scanned and acted upon a while ago.
    Known,
    Versions(Vec<Version>),
}

/// Runs an effect to its end, also when nobody waits for it any longer: a cut between a tag and the look
/// behind it would leave the tag on whatever is there. Each of its requests has a deadline of its own.
async fn to_its_end(
    effect: impl Future<Output = Result<Applied, Failure>> + Send + 'static,
) -> Result<Applied, Failure> {
    match tokio::spawn(effect.in_current_span()).await {
        Ok(applied) => applied,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(Failure::transient(Stage::Tag, Reason::CutShort, error)),
        },
    }
}

/// What the notification announced, for a tag that says that nothing is known: it needs no scanned
/// bytes, only to stay away from newer ones.
fn announced(object: &ObjectRef) -> Identity {
    Identity::of_announced(
        &object.bucket,
        &object.key,
        object.version_id.as_deref(),
        object.etag.as_deref(),
    )
}

/// A line of the audit trail: what is deleted, before it is, and when it is.
fn audit(examined: &Examined, what: &str) {
    let version = examined.identity.version_id().unwrap_or_default();
    let sha256 = examined.sha256.as_deref().unwrap_or_default();
    let size = examined.identity.bytes();
    if let Verdict::Infected { signature } = &examined.verdict {
        tracing::warn!(target: telemetry::AUDIT, version, sha256, signature, size, "{what}");
    }
}

/// One line an object.
fn log_end(examined: &Examined, action: Action) {
    let version = examined.identity.version_id().unwrap_or_default();
    let sha256 = examined.sha256.as_deref().unwrap_or_default();
    let size = examined.identity.bytes();
    match (&examined.verdict, action) {
        (Verdict::Infected { .. }, Action::Delete) => audit(examined, "infected object deleted"),
        (Verdict::Clean, _) => tracing::info!(size, action = action.into_str(), "clean"),
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
