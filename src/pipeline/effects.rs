//! Applies a verdict and reports it, in the order that the promises rest on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::Instrument;

use super::lines::audit;
use super::surge::held_back;
use super::tagging::{self, Tagging};
use super::{Interrupted, Job, ObjectEnd, Pipeline};
use crate::event::ObjectRef;
use crate::failure::{Failure, Kind, Reason, Stage};
use crate::metrics::ReportEnd;
use crate::policy::{Action, Plan};
use crate::queue::{Outbox, Record};
use crate::report::{Attempt, EffectError, Examined, LAST_REPORT, Report, Trigger};
use crate::store::{Applied, Identity};
use crate::verdict::Status;

/// For the tag of an object that was given up, or could not be deleted.
const LAST_TAG_TIMEOUT: Duration = Duration::from_mins(1);

impl Pipeline {
    /// Applies the verdict and reports it. `None`: other bytes are there now.
    pub(super) async fn apply(
        &self,
        job: &Job<'_>,
        examined: &Examined,
    ) -> Result<Option<ObjectEnd>, Failure> {
        let plan = self.plan(examined, job.repeated);
        let plan = self.with_status_corrected(examined, plan).await?;
        let end = self.apply_plan(job, examined, plan).await?;
        Ok(end.map(|end| held_back(end, examined, plan)))
    }

    async fn apply_plan(
        &self,
        job: &Job<'_>,
        examined: &Examined,
        plan: Plan,
    ) -> Result<Option<ObjectEnd>, Failure> {
        let applied = match self.carry_out(job, examined, plan).await? {
            Tagging::Ended(applied) => applied,
            Tagging::Outranked => return self.outranked(job, examined, plan).await,
        };
        match applied {
            Applied::Done => {
                if plan.report && !plan.action.removes() {
                    self.report(job, examined, plan.action, None).await?;
                }
                self.record_applied(examined, plan.action).await;
                self.metrics.acted(plan.action.into());
                self.log_end(examined, plan.action);
                self.show(examined, plan.action, None);
                let newer = !examined.as_announced;
                Ok(Some(if newer { ObjectEnd::Superseded } else { ObjectEnd::Applied }))
            }
            Applied::Changed => Ok(None),
            Applied::NoTagging => {
                if plan.report {
                    let error = Some(EffectError::TagUnsupported);
                    self.report(job, examined, Action::No, error).await?;
                }
                self.record_applied(examined, Action::No).await;
                self.metrics.acted(Action::No.into());
                self.log_end(examined, Action::No);
                self.show(examined, Action::No, Some(EffectError::TagUnsupported));
                Ok(Some(ObjectEnd::Applied))
            }
            Applied::TagSetFull => self.refused(job, examined, plan, EffectError::TagSetFull).await,
            Applied::NoIdentity => self.refused(job, examined, plan, EffectError::NoIdentity).await,
            Applied::Locked if plan.action.removes() => {
                self.refused(job, examined, plan, EffectError::Locked).await
            }
            Applied::Denied if plan.action.removes() => {
                self.refused(job, examined, plan, EffectError::DeleteDenied).await
            }
            Applied::Denied | Applied::Locked => {
                self.refused(job, examined, plan, EffectError::TagDenied).await
            }
        }
    }

    /// The effect alone; for a deletion or a move its report before the deletion.
    async fn carry_out(
        &self,
        job: &Job<'_>,
        examined: &Examined,
        plan: Plan,
    ) -> Result<Tagging, Failure> {
        let identity = &examined.identity;
        match plan.action {
            Action::No => Ok(Tagging::Ended(Applied::Done)),
            Action::Tag => {
                self.tag(identity, examined.observation, tagging::statement(examined)).await
            }
            Action::Delete => {
                self.report(job, examined, Action::Delete, None).await?;
                audit(examined, "deleting");
                self.delete_or_tag(examined).await
            }
            Action::Quarantine => self.move_aside(job, examined).await,
        }
    }

    /// Deletes the object, or tags it until a later attempt can.
    pub(super) async fn delete_or_tag(&self, examined: &Examined) -> Result<Tagging, Failure> {
        let deleted = self.delete(&examined.identity).await;
        if deleted.is_err() {
            // It stays readable until then, so its tag has to say what it is.
            self.tag_instead(examined).await;
        }
        deleted.map(Tagging::Ended)
    }

    /// The receipt on the object says more than this verdict, so the object is left alone.
    async fn outranked(
        &self,
        job: &Job<'_>,
        examined: &Examined,
        plan: Plan,
    ) -> Result<Option<ObjectEnd>, Failure> {
        tracing::info!(status = plan.status.into_str(), "a newer verdict is on the object already");
        if plan.report {
            self.report(job, examined, Action::No, Some(EffectError::NewerVerdict)).await?;
        }
        self.record_applied(examined, Action::No).await;
        self.show(examined, Action::No, Some(EffectError::NewerVerdict));
        Ok(Some(ObjectEnd::Applied))
    }

    /// Reports that the effect is not possible.
    async fn refused(
        &self,
        job: &Job<'_>,
        examined: &Examined,
        plan: Plan,
        error: EffectError,
    ) -> Result<Option<ObjectEnd>, Failure> {
        self.give_up_effect(examined, error).await;
        self.report(job, examined, Action::No, Some(error)).await?;
        if self.record_refused(examined, error).await {
            return Ok(Some(ObjectEnd::CanaryRefused));
        }
        if error == EffectError::Locked {
            return Ok(Some(ObjectEnd::Locked));
        }
        let stage = if plan.action.removes() { Stage::Delete } else { Stage::Tag };
        Ok(Some(ObjectEnd::Refused { error, stage, status: plan.status }))
    }

    /// Reports a finding about bytes that were overwritten before it was applied. `reported`: the round
    /// that found them reported it.
    pub(super) async fn report_superseded(
        &self,
        job: &Job<'_>,
        examined: &Examined,
        reported: bool,
    ) -> Result<(), Failure> {
        let plan = self.plan(examined, job.repeated);
        // A deletion was reported before it was tried.
        if plan.status == Status::Clean || plan.action == Action::Delete || reported {
            return Ok(());
        }
        self.report(job, examined, Action::No, Some(EffectError::Superseded)).await
    }

    /// Ends an object whose attempts are used up: with the status `no` where it can be set, and one
    /// report. A verdict that is known is reported as such. `objects` is one, or the two that a
    /// notification may have meant. One that a sweep announced keeps its tags.
    ///
    /// # Errors
    /// When the report cannot be handed to the broker.
    pub(crate) async fn give_up(
        &self,
        objects: &[&ObjectRef],
        trigger: Trigger,
        attempt: Attempt,
        interrupted: &Interrupted,
        outbox: &Outbox,
    ) -> Result<(), Failure> {
        let Some(first) = objects.first() else { return Ok(()) };
        if self.is_in_quarantine(&first.bucket) {
            return Ok(());
        }
        if interrupted.known.as_ref().is_some_and(|known| self.is_unreported(known)) {
            return Ok(());
        }
        let report = if let Some(examined) = &interrupted.known {
            let error = match interrupted.failure.stage {
                Stage::Delete => EffectError::DeleteFailed,
                Stage::Quarantine if interrupted.failure.reason == Reason::StoreDenied => {
                    EffectError::QuarantineDenied
                }
                Stage::Quarantine => EffectError::QuarantineFailed,
                _ => EffectError::TagFailed,
            };
            self.give_up_effect(examined, error).await;
            let key = self.quarantine_key(examined, Action::No, Some(error));
            Report::of(first, examined, attempt, Action::No, Some(error)).with_quarantine_key(key)
        } else {
            let mut tagged = None;
            // What a sweep finds may have a receipt that says more.
            if self.policy.settings.tag_files && trigger != Trigger::Sweep {
                for object in objects {
                    let identity = announced(object);
                    let tagging = self.tag(&identity, None, tagging::unexamined());
                    let done = tokio::time::timeout(LAST_TAG_TIMEOUT, tagging).await;
                    if matches!(done, Ok(Ok(Tagging::Ended(Applied::Done)))) {
                        tagged = Some(*object);
                        break;
                    }
                }
            }
            let (object, action) = match tagged {
                Some(object) => (object, Action::Tag),
                None => (*first, Action::No),
            };
            self.show_given_up(object, trigger, action, interrupted.failure.reason);
            Report::of_failure(object, trigger, attempt, action)
        };
        self.send(outbox, report.at(attempt, LAST_REPORT)).await
    }

    /// Logs that the effect of a verdict is not possible. Instead of a deletion the object is tagged.
    async fn give_up_effect(&self, examined: &Examined, error: EffectError) {
        self.show(examined, Action::No, Some(error));
        let status = examined.status();
        if error.is_of_deletion() {
            self.tag_instead(examined).await;
        }
        let (status, error) = (status.into_str(), error.into_str());
        tracing::error!(status, error, "the verdict is known, but the object could not be changed");
    }

    /// Tags what could not be deleted.
    pub(super) async fn tag_instead(&self, examined: &Examined) {
        if !self.policy.settings.tag_files {
            return;
        }
        let tagging = self.tag(&examined.identity, None, tagging::statement(examined));
        match tokio::time::timeout(LAST_TAG_TIMEOUT, tagging).await {
            Ok(Ok(Tagging::Ended(Applied::Done))) => tracing::info!("tagged instead of deleted"),
            Ok(Ok(applied)) => tracing::warn!(?applied, "neither deleted nor tagged"),
            Ok(Err(failure)) => tracing::warn!(%failure, "neither deleted nor tagged"),
            Err(_) => tracing::warn!("neither deleted nor tagged, the store takes too long"),
        }
    }

    async fn delete(&self, identity: &Identity) -> Result<Applied, Failure> {
        let (store, identity) = (Arc::clone(&self.store), identity.clone());
        to_its_end(async move { store.delete(&identity).await }).await
    }

    /// Publishes the next report of this delivery.
    pub(super) async fn report(
        &self,
        job: &Job<'_>,
        examined: &Examined,
        action: Action,
        error: Option<EffectError>,
    ) -> Result<(), Failure> {
        if self.is_unreported(examined) {
            return Ok(());
        }
        let report = Report::of(job.object, examined, job.attempt, action, error);
        let report = report.with_quarantine_key(self.quarantine_key(examined, action, error));
        let number = job.reported.fetch_add(1, Ordering::Relaxed) + 1;
        self.send(job.outbox, report.at(job.attempt, number)).await
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
}

/// Runs an effect to its end, even if its caller is dropped: between a tag and the HEAD after it, that
/// would leave the tag on whatever is there. Each request of an effect has a deadline of its own.
pub(super) async fn to_its_end<T: Send + 'static>(
    effect: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::spawn(effect.in_current_span()).await {
        Ok(applied) => applied,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(Failure::transient(Stage::Tag, Reason::CutShort, error)),
        },
    }
}

/// The object as announced, for the tag `no`: it says nothing of scanned bytes, but must not reach newer
/// ones.
fn announced(object: &ObjectRef) -> Identity {
    Identity::of_announced(
        &object.bucket,
        &object.key,
        object.version_id.as_deref(),
        object.etag.as_deref(),
    )
}
