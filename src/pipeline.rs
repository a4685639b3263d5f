//! Runs one object through fetch, scan, plan and effects.
//!
//! The order of effects is what the promises rest on. An effect that leaves the evidence in place
//! (a tag) comes before its report; one that destroys it (a deletion) only after the broker has
//! confirmed the report. A crash at any point repeats work and loses none.
//!
//! `before` reads what an earlier scan left on the object, `examine` gets the bytes and their verdict,
//! `release` knows what a person has released, and `effects` applies it. This file repeats the last two when the object is overwritten in between.

mod before;
mod canaries;
mod effects;
mod examine;
mod lines;
mod quarantine;
mod release;
mod surge;
mod tagging;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use strum::IntoEnumIterator;
use tokio_util::sync::CancellationToken;

use self::examine::Found;
pub(crate) use self::tagging::tag;
use crate::canary::Canaries;
use crate::event::{ObjectRef, Version};
use crate::failure::{Failure, Reason, Stage};
use crate::metrics::{Metrics, Timed};
use crate::overview::{Overview, Step, Work};
use crate::policy::{self, Action, Context, Plan, Policy};
use crate::queue::Outbox;
use crate::receipt::Keys;
use crate::report::{Attempt, EffectError, Examined, Trigger};
use crate::scanner::Engine;
use crate::store::{Identity, Look, Pin, Store};
use crate::surge::Surges;
use crate::trace::Trace;
use crate::verdict::{Status, UnscannableReason, Verdict};

/// For fetching and scanning, all rounds together. With the effects a delivery stays well below the
/// half hour after which RabbitMQ takes it away by default.
const DEADLINE: Duration = Duration::from_mins(20);
/// For the effects of all rounds, after the deadline.
const EFFECTS_TIMEOUT: Duration = Duration::from_mins(4);
/// The same where objects are moved: a copy takes about as long as the download, and is read back. With
/// the deadline it is still below that half hour.
const MOVE_TIMEOUT: Duration = Duration::from_mins(8);
/// Versions that are remembered.
const MAX_KNOWN: usize = 256;
/// Rounds, when the object is overwritten between scan and effect.
const MAX_ROUNDS: u32 = 3;

/// The clients that the work on an object needs, and what was decided before.
pub(crate) struct Pipeline {
    /// Versions that were scanned and acted upon, newest first. Versions are immutable, so a removal
    /// that makes one of them current again needs no second scan.
    applied: Mutex<VecDeque<Identity>>,
    store: Arc<Store>,
    policy: Arc<Policy>,
    keys: Arc<Keys>,
    /// `None` while the canary is off.
    canaries: Option<Arc<Canaries>>,
    /// `None` where nothing is held.
    surges: Option<Arc<Surges>>,
    metrics: Arc<Metrics>,
    overview: Arc<Overview>,
}

/// One delivery of one object.
pub(crate) struct Job<'a> {
    pub(crate) object: &'a ObjectRef,
    /// What announced it.
    pub(crate) trigger: Trigger,
    pub(crate) look: Look,
    pub(crate) attempt: Attempt,
    /// The object may have been reported before.
    pub(crate) repeated: bool,
    pub(crate) engine: &'a Engine,
    /// Shows how far it is.
    pub(crate) work: &'a Work<'a>,
    pub(crate) outbox: &'a Outbox,
    /// Where its spans belong.
    pub(crate) trace: &'a Trace,
    /// Reports of this delivery so far.
    pub(crate) reported: AtomicU32,
    /// Ends fetch and scan, never an effect.
    pub(crate) cancelled: &'a CancellationToken,
}

/// How the work on an object ended.
#[derive(Debug)]
pub(crate) enum ObjectEnd {
    /// The verdict was applied, and reported where it is due.
    Applied,
    /// As above, of newer bytes than those announced.
    Superseded,
    /// The object does not exist, or not any more. One look alone does not prove it.
    Gone,
    /// It is in the quarantine bucket, and was not touched.
    QuarantineBucket,
    /// A rule of retention keeps the object. The verdict is reported, and the object tagged.
    Locked,
    /// Its deletion waits for a person: there is a surge of this signature. The verdict is reported, and
    /// the object tagged where that is possible.
    Held { signature: String },
    /// One of these versions, or all of them, are what was announced.
    Versions(Vec<Version>),
    /// The verdict is reported, its effect is not possible.
    Refused { error: EffectError, stage: Stage, status: Status },
    /// The same of a canary, whose round reports it.
    CanaryRefused,
}

/// A failure, and what was known by then.
#[derive(Debug)]
pub(crate) struct Interrupted {
    pub(crate) failure: Failure,
    /// The verdict, if the failure came after it.
    known: Option<Box<Examined>>,
}

impl From<Failure> for Interrupted {
    fn from(failure: Failure) -> Self {
        Self { failure, known: None }
    }
}

impl Pipeline {
    pub(crate) fn new(
        store: Arc<Store>,
        policy: Arc<Policy>,
        keys: Arc<Keys>,
        canaries: Option<Arc<Canaries>>,
        surges: Option<Arc<Surges>>,
        metrics: Arc<Metrics>,
        overview: Arc<Overview>,
    ) -> Self {
        // Growth from nothing shows only where there was a zero.
        Action::iter().for_each(|action| metrics.expect_action(action.into()));
        let applied = Mutex::default();
        Self { applied, store, policy, keys, canaries, surges, metrics, overview }
    }

    /// Shows that an object is worked on, for as long as the result lives.
    pub(crate) fn begin(&self, object: &ObjectRef, trigger: Trigger) -> Work<'_> {
        self.overview.in_work.begin(&object.bucket, &object.key, trigger.into_str())
    }

    /// Takes one object to its end.
    ///
    /// # Errors
    /// [`Interrupted`], when a later attempt may get further.
    pub(crate) async fn run(&self, job: &Job<'_>) -> Result<ObjectEnd, Interrupted> {
        if self.is_in_quarantine(&job.object.bucket) {
            tracing::warn!("nothing in QUARANTINE_BUCKET is scanned: do not subscribe its events");
            return Ok(ObjectEnd::QuarantineBucket);
        }
        // A canary has to come by its own notification, and a sweep says nothing about that.
        if job.trigger == Trigger::Sweep {
            return self.run_rounds(job).await;
        }
        match self.expecting(job.object).await {
            None => self.run_rounds(job).await,
            Some(canaries) => {
                let ended = self.run_rounds(job).await;
                canaries::record(canaries, job.object, &ended).await;
                ended
            }
        }
    }

    async fn run_rounds(&self, job: &Job<'_>) -> Result<ObjectEnd, Interrupted> {
        let deadline = Instant::now() + DEADLINE;
        let mut before: Option<(Box<Examined>, bool)> = None;
        let mut changed = false;
        for round in 1..=MAX_ROUNDS {
            let found = self.examine_until(job, deadline).await;
            if let Some((before, reported)) = before.take() {
                // HEAD and GET may name different ETags of the same bytes.
                let same = matches!(&found, Ok(Found::Examined(now)) if now.is_same(&before));
                if !same {
                    changed = true;
                    self.report_superseded(job, &before, reported).await?;
                }
            }
            let mut examined = match found? {
                Found::Examined(examined) => self.recognise(examined).await,
                Found::Gone => return Ok(ObjectEnd::Gone),
                Found::AppliedBefore => return Ok(ObjectEnd::Applied),
                Found::Versions(versions) => return Ok(ObjectEnd::Versions(versions)),
            };
            if let Err(failure) = self.recognise_release(&mut examined).await {
                return Err(Interrupted { failure, known: Some(examined) });
            }
            // What went wrong once may go wrong again, and the object may be in work elsewhere.
            if round > 1 || job.repeated || job.attempt.number > 1 {
                examined.observation = None;
            }
            self.count(&examined);
            if job.trigger == Trigger::Sweep && examined.trigger == Trigger::Canary {
                tracing::info!("a canary: left to its round");
                return Ok(ObjectEnd::Applied);
            }
            if let Err(failure) = self.ask_about_surge(&mut examined).await {
                return Err(Interrupted { failure, known: Some(examined) });
            }
            let reports = job.reported.load(Ordering::Relaxed);
            match self.apply_until(job, &examined, deadline).await {
                Ok(Some(end)) => {
                    if matches!(end, ObjectEnd::Applied) {
                        self.remember(examined.identity);
                    }
                    return Ok(end);
                }
                Ok(None) => {
                    tracing::info!(round, "overwritten meanwhile, scanning the new bytes");
                    before = Some((examined, job.reported.load(Ordering::Relaxed) > reports));
                }
                Err(failure) => return Err(Interrupted { failure, known: Some(examined) }),
            }
        }
        Err(self.not_settled(before.map(|(examined, _)| examined), changed))
    }

    /// Applies the verdict within the time for effects, which begins at `deadline`. `None`: other bytes
    /// are there now.
    async fn apply_until(
        &self,
        job: &Job<'_>,
        examined: &Examined,
        deadline: Instant,
    ) -> Result<Option<ObjectEnd>, Failure> {
        let started = Instant::now();
        job.work.is_at(Step::Applying);
        let mut span = job.trace.step("effects");
        let action = self.plan(examined, false).action;
        span.set("avscan.status", examined.status().into_str());
        span.set("avscan.action", <&str>::from(action));
        let time = match action {
            Action::Quarantine => MOVE_TIMEOUT,
            Action::No | Action::Tag | Action::Delete => EFFECTS_TIMEOUT,
        };
        let applied =
            tokio::time::timeout_at((deadline + time).into(), self.apply(job, examined)).await;
        self.metrics.took(Timed::Effects, started.elapsed());
        span.note(applied.unwrap_or_else(|_| {
            let minutes = (DEADLINE + time).as_secs() / 60;
            let detail = format!("effects not done after {minutes} min");
            Err(Failure::transient(self.stage_of_effect(examined), Reason::Deadline, detail))
        }))
    }

    /// The object was different in each round: its bytes, or only what HEAD says of them.
    fn not_settled(&self, last: Option<Box<Examined>>, changed: bool) -> Interrupted {
        match last {
            Some(known) if !changed => {
                let detail =
                    format!("HEAD shows other bytes than GET, in each of {MAX_ROUNDS} rounds");
                let stage = self.stage_of_effect(&known);
                let failure = Failure::transient(stage, Reason::IdentityUnstable, detail);
                Interrupted { failure, known: Some(known) }
            }
            _ => {
                let detail = format!("other bytes in each of {MAX_ROUNDS} rounds");
                Failure::transient(Stage::Fetch, Reason::KeepsChanging, detail).into()
            }
        }
    }

    fn stage_of_effect(&self, examined: &Examined) -> Stage {
        match self.plan(examined, false).action {
            Action::Quarantine => Stage::Quarantine,
            Action::Delete => Stage::Delete,
            Action::No | Action::Tag => Stage::Tag,
        }
    }

    /// What follows from the verdict.
    fn plan(&self, examined: &Examined, repeated: bool) -> Plan {
        let Identity { bucket, key, pin, .. } = &examined.identity;
        let (pinned, canary) = (*pin != Pin::Nothing, examined.is_canary());
        // A limit of time is exceeded because the engine is busy too: load must move no object.
        let exceeded = matches!(
            examined.verdict,
            Verdict::Unscannable { reason: UnscannableReason::LimitsExceeded, .. }
        );
        let provable =
            examined.sha256.is_some() && examined.verdict.finding().is_some() && !exceeded;
        let (released, surge) = (examined.released, examined.surge);
        let context = Context { bucket, key, repeated, pinned, canary, provable, released, surge };
        policy::plan(&examined.verdict, &self.policy, context)
    }

    /// Whether this is a version that was scanned and acted upon a while ago.
    fn was_applied(&self, identity: &Identity) -> bool {
        let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        identity.version_id().is_some() && applied.contains(identity)
    }

    fn remember(&self, identity: Identity) {
        if identity.version_id().is_some() {
            let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
            applied.truncate(MAX_KNOWN - 1);
            applied.push_front(identity);
        }
    }

    fn count(&self, examined: &Examined) {
        let reason = match examined.verdict {
            Verdict::Unscannable { reason, .. } => Some(reason.into_str()),
            Verdict::Clean | Verdict::Infected { .. } => None,
        };
        self.metrics.verdict(examined.status().into_str(), reason);
    }
}
