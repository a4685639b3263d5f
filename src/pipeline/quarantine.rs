//! Moves an object into the quarantine bucket.
//!
//! The record first, then the copy, then the report, and only then the deletion: at each point a crash
//! leaves the original, or a proved copy that a confirmed report names. A retry finds what is there
//! already.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::effects::to_its_end;
use super::lines::audit_move;
use super::tagging::{self, Tagging};
use super::{Job, Pipeline};
use crate::failure::{Failure, Kind, Reason, Stage};
use crate::policy::Action;
use crate::quarantine::{Finding, Record, name, record_name};
use crate::receipt;
use crate::report::{EffectError, Examined, Report};
use crate::store::{Applied, Identity, Place, Store};
use crate::verdict::Status;

impl Pipeline {
    /// Whether the object is in the quarantine bucket, where nothing is acted on.
    pub(super) fn is_in_quarantine(&self, bucket: &str) -> bool {
        self.policy.settings.quarantine_bucket.as_deref() == Some(bucket)
    }

    /// The name of the copy that a report is to tell: one was made where the action was to move the
    /// object, and the copy was not what failed.
    pub(super) fn quarantine_key(
        &self,
        examined: &Examined,
        action: Action,
        error: Option<EffectError>,
    ) -> Option<String> {
        let copied = action == Action::Quarantine
            || matches!(
                error,
                Some(EffectError::DeleteDenied | EffectError::DeleteFailed | EffectError::Locked)
            ) && self.plan(examined, false).action == Action::Quarantine;
        copied.then(|| name(&examined.identity, examined.sha256.as_deref().unwrap_or_default()))
    }

    /// Copies the object, reports it, and deletes the original.
    pub(super) async fn move_aside(
        &self,
        job: &Job<'_>,
        examined: &Examined,
    ) -> Result<Tagging, Failure> {
        if examined.status() == Status::No && self.policy.settings.tag_files {
            // Nothing speaks against it but that it was not scanned, and a later scan may have been.
            let tagged = self.tag(&examined.identity, None, tagging::statement(examined)).await?;
            if matches!(tagged, Tagging::Outranked | Tagging::Ended(Applied::Changed)) {
                return Ok(tagged);
            }
        }
        let copied = self.copy_aside(job, examined).await;
        let key = match copied {
            Ok(Ok(key)) => key,
            Ok(Err(applied)) => return Ok(Tagging::Ended(applied)),
            Err(failure) => {
                // It stays readable until a later attempt, so its tag has to say what it is.
                self.tag_instead(examined).await;
                return Err(failure);
            }
        };
        self.report(job, examined, Action::Quarantine, None).await?;
        audit_move(examined, &key, "quarantining");
        self.delete_or_tag(examined).await
    }

    /// The record and then the copy; its name.
    async fn copy_aside(
        &self,
        job: &Job<'_>,
        examined: &Examined,
    ) -> Result<Result<String, Applied>, Failure> {
        let (Some(bucket), Some(signature), Some(sha256)) =
            (&self.policy.settings.quarantine_bucket, examined.verdict.finding(), &examined.sha256)
        else {
            let detail = "neither bucket nor finding to move it by";
            return Err(Failure::permanent(Stage::Quarantine, Reason::StoreRequest, detail));
        };
        let store = Arc::clone(&self.store);
        let (identity, bucket) = (examined.identity.clone(), bucket.clone());
        let (signature, sha256) = (signature.to_owned(), sha256.clone());
        let engine = examined.engine.clone();
        let tag_key = self.policy.settings.tag_key.clone();
        let report = Report::of(job.object, examined, job.attempt, Action::Quarantine, None).id;
        to_its_end(async move {
            let engine = engine.as_ref();
            let finding = Finding { signature: &signature, sha256: &sha256, engine, report };
            let ours = [receipt::tag_key(&tag_key), tag_key];
            copy_aside(&store, &identity, &bucket, finding, &ours).await
        })
        .await
    }
}

/// The record, without the tags that are `ours`, and then the copy; its name.
async fn copy_aside(
    store: &Store,
    identity: &Identity,
    bucket: &str,
    finding: Finding<'_>,
    ours: &[String],
) -> Result<Result<String, Applied>, Failure> {
    let (source, mut original) = match store.original(identity).await? {
        Ok(found) => found,
        Err(Applied::Denied) => {
            let detail = "the store does not let the object be looked at";
            return Err(Failure::transient(Stage::Quarantine, Reason::StoreDenied, detail));
        }
        Err(applied) => return Ok(Err(applied)),
    };
    if let Some(tags) = &mut original.tags {
        tags.retain(|(key, _)| !ours.contains(key));
    }
    let key = name(identity, finding.sha256);
    let place = |key: String| Place { bucket: bucket.to_owned(), key };
    let beside = place(record_name(&key));
    let written = store.read_small(&beside).await?;
    let is_ours = |json: &Bytes| {
        let tells = |record: &Record| {
            record.is_of(identity, finding.sha256) && record.tells(finding, SystemTime::now())
        };
        Record::read(json).as_ref().is_some_and(tells)
    };
    if !written.as_ref().is_some_and(is_ours) {
        let json = serde_json::to_vec(&Record::new(identity, &original, finding));
        let json = json.map_err(|error| {
            Failure::new(Kind::Permanent, Stage::Quarantine, Reason::StoreRequest, error)
        })?;
        store.write_small(&beside, &json.into(), written.is_none()).await?;
    }
    let applied = store.copy_aside(&source, &place(key.clone()), finding.sha256).await?;
    Ok(if applied == Applied::Done { Ok(key) } else { Err(applied) })
}
