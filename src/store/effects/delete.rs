//! Deletes an object so that the scanned bytes cannot be read any more, by any version id.

use std::time::{Duration, Instant, SystemTime};

use aws_sdk_s3::config::Builder;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_sdk_s3::operation::delete_object::{DeleteObjectError, DeleteObjectOutput};
use aws_sdk_s3::types::ObjectLockLegalHoldStatus;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::Applied;
use super::compare::{Current, Modified};
use crate::event::plain_etag;
use crate::failure::{Failure, Kind, Reason, Stage};
use crate::store::fault::{self, Fault};
use crate::store::identity::NULL;
use crate::store::request::Request;
use crate::store::{Identity, Pin, Store};

/// DELETE requests for one object, each after a comparison of its own.
const MAX_DELETE_TRIES: u32 = 3;
/// The wait before the second try; the third waits twice as long.
const DELETE_RETRY_INTERVAL: Duration = Duration::from_millis(300);
/// How long a store that fails right after a DELETE is asked whether the object is gone. A later
/// delivery could not tell: it finds nothing there, whoever deleted it.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(20);
/// The wait before the first repeat of that question; doubled for each further one.
const CONFIRM_INTERVAL: Duration = Duration::from_millis(500);

/// A deletion by `ETag`, from try to try.
struct Tries {
    /// A version with the scanned bytes was deleted.
    deleted: bool,
    /// A DELETE was sent, so the bytes may be gone whatever was answered.
    may_be_deleted: bool,
    /// Whether to send `If-Match`. Not all stores know it, and AWS refuses it with a version id.
    conditional: bool,
    /// Before the next try.
    pause: Duration,
    /// Why the last try failed.
    failure: Failure,
}

impl Store {
    /// Deletes the object so that it cannot be read any more, by any version id.
    ///
    /// # Errors
    /// When a later attempt may succeed.
    pub(crate) async fn delete(&self, identity: &Identity) -> Result<Applied, Failure> {
        match &identity.pin {
            Pin::Version(version) => self.delete_version(identity, version).await,
            Pin::Etag { etag, .. } => self.delete_by_etag(identity, etag).await,
            Pin::Nothing => Ok(Applied::NoIdentity),
        }
    }

    async fn delete_version(&self, identity: &Identity, version: &str) -> Result<Applied, Failure> {
        match self.delete_object(identity, Some(version)).send().await {
            Ok(deleted) if deleted.version_id() == Some(version) => Ok(Applied::Done),
            Ok(answer) => {
                self.confirm(identity, Some(version), answer.request_id().is_some()).await
            }
            Err(error) => match fault::of(Request::Delete, &error) {
                Fault::Gone => self.confirm(identity, Some(version), false).await,
                Fault::Denied(_) if self.is_locked(identity, Some(version)).await => {
                    Ok(Applied::Locked)
                }
                // The request may have been carried out all the same.
                Fault::Other(failure) if matches!(failure.kind, Kind::Suspect(_)) => {
                    match while_suspect(|| self.is_gone(identity, Some(version), false)).await {
                        Ok(true) => Ok(Applied::Done),
                        Ok(false) | Err(_) => Err(failure),
                    }
                }
                fault => self.effect_of(fault),
            },
        }
    }

    /// Deletes what is under the name as long as it has this `ETag`. Each try compares right before
    /// it.
    async fn delete_by_etag(&self, identity: &Identity, etag: &str) -> Result<Applied, Failure> {
        let mut tries = Tries {
            deleted: false,
            may_be_deleted: false,
            conditional: true,
            pause: Duration::ZERO,
            failure: not_deleted(),
        };
        for _ in 0..MAX_DELETE_TRIES {
            tokio::time::sleep(tries.pause).await;
            tries.pause += DELETE_RETRY_INTERVAL;
            if let Some(applied) = self.try_delete(identity, etag, &mut tries).await? {
                return Ok(applied);
            }
        }
        let compare = || self.compare(identity, etag, Stage::Delete, Modified::Compare);
        match while_suspect(compare).await? {
            Current::Nothing => self.confirm(identity, None, tries.deleted).await,
            Current::Changed if tries.deleted => Ok(Applied::Done),
            Current::Changed => Ok(Applied::Changed),
            _ => Err(tries.failure),
        }
    }

    /// Compares and deletes once. `None`: not done yet.
    async fn try_delete(
        &self,
        identity: &Identity,
        etag: &str,
        tries: &mut Tries,
    ) -> Result<Option<Applied>, Failure> {
        let compare = || self.compare(identity, etag, Stage::Delete, Modified::Compare);
        let current =
            if tries.may_be_deleted { while_suspect(compare).await } else { compare().await };
        let version = match current? {
            Current::Version(version) => {
                // The same bytes were uploaded again as a version; the scanned ones are below it.
                return match self.delete_version(identity, &version).await? {
                    Applied::Done => {
                        tries.deleted = true;
                        Ok(None)
                    }
                    refused => Ok(Some(refused)),
                };
            }
            // A DELETE without a version id would only add a delete marker.
            Current::NullVersion => Some(NULL),
            Current::Name => None,
            Current::Changed if tries.deleted => return Ok(Some(Applied::Done)),
            Current::Nothing if tries.deleted || tries.may_be_deleted => {
                return self.confirm(identity, None, tries.deleted).await.map(Some);
            }
            Current::Changed | Current::Nothing => return Ok(Some(Applied::Changed)),
            Current::Denied => return Ok(Some(Applied::Denied)),
        };
        let answer = self.delete_once(identity, version, tries.conditional.then_some(etag)).await;
        tries.may_be_deleted = true;
        match answer {
            Ok(answer) => self.after_delete(identity, version, &answer, tries).await,
            Err(error) => self.after_refusal(identity, version, &error, tries).await,
        }
    }

    /// Whether a DELETE that was answered with success deleted the scanned bytes.
    async fn after_delete(
        &self,
        identity: &Identity,
        version: Option<&str>,
        answer: &DeleteObjectOutput,
        tries: &mut Tries,
    ) -> Result<Option<Applied>, Failure> {
        match (answer.delete_marker(), answer.version_id()) {
            // Versioning was switched on after the comparison. The marker hides the bytes, and
            // perhaps a newer upload, but they can still be read by version id. Remove the marker
            // and compare again.
            (Some(true), Some(marker)) if version.is_none() && !matches!(marker, "" | NULL) => {
                let removed = self.delete_version(identity, marker).await?;
                Ok((removed == Applied::Denied).then_some(Applied::Denied))
            }
            (_, Some(named)) if version == Some(named) => Ok(Some(Applied::Done)),
            _ => {
                let confirmed = answer.request_id().is_some();
                if while_suspect(|| self.is_gone(identity, version, confirmed)).await? {
                    return Ok(Some(Applied::Done));
                }
                tries.failure = not_deleted();
                Ok(None)
            }
        }
    }

    /// What to do after a DELETE that was answered with an error, or not answered.
    async fn after_refusal(
        &self,
        identity: &Identity,
        version: Option<&str>,
        error: &SdkError<DeleteObjectError, HttpResponse>,
        tries: &mut Tries,
    ) -> Result<Option<Applied>, Failure> {
        if tries.conditional && refuses_condition(error) {
            tries.conditional = false;
            tries.pause = Duration::ZERO;
            return Ok(None);
        }
        match fault::of(Request::Delete, error) {
            // The next comparison finds out what is there now.
            Fault::Gone | Fault::NotFound(_) | Fault::Changed => Ok(None),
            Fault::Other(failure) if matches!(failure.kind, Kind::Suspect(_)) => {
                tries.failure = failure;
                Ok(None)
            }
            Fault::Denied(_) if self.is_locked(identity, version).await => {
                Ok(Some(Applied::Locked))
            }
            fault => self.effect_of(fault).map(Some),
        }
    }

    /// Sends one DELETE. The SDK does not repeat it, because a repeat needs a new comparison.
    async fn delete_once(
        &self,
        identity: &Identity,
        version: Option<&str>,
        etag: Option<&str>,
    ) -> Result<DeleteObjectOutput, SdkError<DeleteObjectError, HttpResponse>> {
        let once = Builder::new().retry_config(RetryConfig::disabled());
        let delete = self.delete_object(identity, version);
        let delete = delete.set_if_match(etag.map(|etag| format!("\"{etag}\"")));
        delete.customize().config_override(once).send().await
    }

    /// [`Applied::Done`] if the scanned bytes are gone. `confirmed` as for
    /// [`is_gone`](Self::is_gone).
    ///
    /// # Errors
    /// When they are still there, or the store gives no usable answer.
    async fn confirm(
        &self,
        identity: &Identity,
        version: Option<&str>,
        confirmed: bool,
    ) -> Result<Applied, Failure> {
        let gone = while_suspect(|| self.is_gone(identity, version, confirmed)).await?;
        if gone { Ok(Applied::Done) } else { Err(not_deleted()) }
    }

    /// Whether the deleted bytes cannot be found any more. Asked with a GET, whose answer names a
    /// code; the answer to a HEAD could be anybody's. `confirmed`: the store itself answered that
    /// it deleted something.
    ///
    /// # Errors
    /// When the store gives no usable answer.
    async fn is_gone(
        &self,
        identity: &Identity,
        version: Option<&str>,
        confirmed: bool,
    ) -> Result<bool, Failure> {
        match self.get_object(&identity.bucket, &identity.key, version).send().await {
            Ok(found) if version.is_none_or(|version| version == NULL) => {
                let etag = found.e_tag().map(plain_etag).filter(|etag| !etag.is_empty());
                // A store names the request. A proxy's page may have an ETag as well.
                let named = found.request_id().is_some();
                Ok(named && etag.is_some_and(|etag| Some(etag) != identity.etag.as_deref()))
            }
            Ok(_) => Ok(false),
            Err(error) => match fault::of(Request::Get, &error) {
                Fault::Gone => Ok(true),
                // Some stores deny access to what does not exist.
                Fault::Denied(_) if confirmed => Ok(true),
                fault => Err(fault.into_failure()),
            },
        }
    }

    /// Whether a deletion is denied because of retention or legal hold, rather than for want of a
    /// right. Retention ends by itself.
    async fn is_locked(&self, identity: &Identity, version: Option<&str>) -> bool {
        let head = self.head_object(&identity.bucket, &identity.key, version).send().await;
        head.is_ok_and(|head| {
            let now = SystemTime::now().into();
            head.object_lock_legal_hold_status() == Some(&ObjectLockLegalHoldStatus::On)
                || head.object_lock_retain_until_date().is_some_and(|until| *until > now)
        })
    }
}

/// Repeats `ask` while the store fails, up to [`CONFIRM_TIMEOUT`], and returns the last answer.
async fn while_suspect<T, F>(ask: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let until = Instant::now() + CONFIRM_TIMEOUT;
    let mut pause = CONFIRM_INTERVAL;
    loop {
        match ask().await {
            Err(failure)
                if matches!(failure.kind, Kind::Suspect(_)) && Instant::now() + pause < until =>
            {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            answer => return answer,
        }
    }
}

/// Whether the store does not support the condition of a request. One that is not met is a 412.
pub(in crate::store) fn refuses_condition<E: ProvideErrorMetadata>(
    error: &SdkError<E, HttpResponse>,
) -> bool {
    let status = error.raw_response().map(|response| response.status().as_u16());
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or_default();
    status == Some(501)
        || (status == Some(400) && matches!(code, "" | "InvalidArgument" | "InvalidRequest"))
}

/// A deletion that was answered with success, of what is still there.
fn not_deleted() -> Failure {
    let detail = "the store says that it is deleted, and still shows it";
    fault::suspect(Stage::Delete, Reason::DeleteUndone, detail)
}
