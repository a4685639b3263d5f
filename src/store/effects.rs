//! Tags and deletes exactly the bytes that were scanned.
//!
//! By version id where there is one: it names these bytes for ever. Else by `ETag`: compared right
//! before the effect and, after tagging, right behind it. Between the comparison and the effect
//! somebody may overwrite the object; stores that honour `If-Match` on DELETE close that window
//! for deletions, for tags S3 has no such condition.
//!
//! An effect is believed when the store shows it, not for a status code: what stands before a store may
//! answer 200 to everything while the store is away.

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_s3::config::Builder;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_sdk_s3::operation::delete_object::{DeleteObjectError, DeleteObjectOutput};
use aws_sdk_s3::types::{ObjectLockLegalHoldStatus, Tag, Tagging};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::fault::{self, Asked, Fault};
use super::key::given;
use super::{Identity, NULL, Pin, Store};
use crate::event::plain_etag;
use crate::failure::{Dependency, Failure, Kind, Reason, Stage};

/// S3's limit of tags on an object.
const MAX_TAGS: usize = 10;
/// How often one deletion is tried, each time after a comparison of its own.
const DELETE_TRIES: u32 = 3;
/// Before the next one.
const DELETE_PAUSE: Duration = Duration::from_millis(300);
/// So long a store that fails right behind a DELETE is asked again what came of it: a later delivery finds
/// nothing there and cannot tell whose deletion that was.
const CONFIRMATION: Duration = Duration::from_secs(20);
/// Before the first repeat; doubled for each further one.
const CONFIRMATION_PAUSE: Duration = Duration::from_millis(500);

/// What an effect came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// The scanned bytes carry the tag, or are gone.
    Done,
    /// Other bytes are there now; nothing of them was touched.
    Changed,
    /// The store does not let us.
    Denied,
    /// A rule of retention, or a legal hold, keeps the version.
    Locked,
    /// The object has its ten tags already.
    TagSetFull,
    /// The store has no tags.
    NoTagging,
    /// The store told nothing that could pin the bytes.
    NoIdentity,
}

/// Whether a difference in `Last-Modified` means other bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Modified {
    Counts,
    MayDiffer,
}

/// Where the scanned bytes are right now.
pub(super) enum Current {
    /// Under this version id, which the bucket may have given them since.
    Version(String),
    /// In the slot `null` of a bucket that has, or had, versions.
    NullVersion,
    /// Under the bare name.
    Name,
    /// Nowhere: other bytes are there.
    Changed,
    /// Nowhere: nothing is there.
    Nothing,
    Denied,
}

impl Store {
    /// Sets `key` to `value` among the object's tags, which stay.
    ///
    /// # Errors
    /// A fault that time may heal.
    pub(crate) async fn tag(
        &self,
        identity: &Identity,
        key: &str,
        value: &str,
    ) -> Result<Applied, Failure> {
        let (version, recheck, tags) = match &identity.pin {
            Pin::Version(version) => {
                (Some(version.clone()), None, self.tags(identity, Some(version)).await)
            }
            Pin::Etag { etag, .. } => {
                // Two round trips that need not wait for each other.
                let (current, tags) = tokio::join!(
                    self.compare(identity, etag, Stage::Tag, Modified::Counts),
                    self.tags(identity, None)
                );
                match current? {
                    Current::Name => (None, Some(etag), tags),
                    Current::NullVersion => {
                        let tags = self.tags(identity, Some(NULL)).await;
                        (Some(NULL.to_owned()), Some(etag), tags)
                    }
                    Current::Version(version) => {
                        let tags = self.tags(identity, Some(&version)).await;
                        (Some(version), None, tags)
                    }
                    Current::Changed | Current::Nothing => return Ok(Applied::Changed),
                    Current::Denied => return Ok(Applied::Denied),
                }
            }
            Pin::Nothing => return Ok(Applied::NoIdentity),
        };
        let mut tags = match tags {
            Ok(tags) => tags,
            Err(fault) => return self.settled(fault),
        };
        tags.retain(|tag| tag.key() != key);
        if tags.len() >= MAX_TAGS {
            return Ok(Applied::TagSetFull);
        }
        tags.push(tag(key, value)?);
        let set = self.set_tags(identity, version.as_deref(), tags).await;
        // A version id names these bytes for ever; under a bare name they may have been replaced
        // since the comparison, and then our tag sits on bytes that nobody scanned. Also when no answer
        // came: that does not say that nothing was done.
        let Some(etag) = recheck else {
            return set.map_or_else(|fault| self.settled(fault), |()| Ok(Applied::Done));
        };
        // Some stores take a new tag for a modification.
        let found = self.compare(identity, etag, Stage::Tag, Modified::MayDiffer).await;
        match (found, version.as_deref(), set) {
            (Ok(Current::Name), None, set) | (Ok(Current::NullVersion), Some(_), set) => {
                set.map_or_else(|fault| self.settled(fault), |()| Ok(Applied::Done))
            }
            (Ok(_), version, _) => {
                self.retract(identity, version, key, value).await;
                Ok(Applied::Changed)
            }
            (Err(failure), version, _) => {
                self.retract(identity, version, key, value).await;
                Err(failure)
            }
        }
    }

    /// Deletes the object so that it cannot be read any more, by whatever version id.
    ///
    /// # Errors
    /// A fault that time may heal.
    pub(crate) async fn delete(&self, identity: &Identity) -> Result<Applied, Failure> {
        match &identity.pin {
            Pin::Version(version) => self.delete_version(identity, version).await,
            Pin::Etag { etag, .. } => self.delete_by_etag(identity, etag).await,
            Pin::Nothing => Ok(Applied::NoIdentity),
        }
    }

    async fn delete_version(&self, identity: &Identity, version: &str) -> Result<Applied, Failure> {
        let delete = self.client.delete_object().bucket(&identity.bucket).key(given(&identity.key));
        match delete.version_id(version).send().await {
            Ok(deleted) if deleted.version_id() == Some(version) => Ok(Applied::Done),
            Ok(answer) => {
                self.confirm(identity, Some(version), answer.request_id().is_some()).await
            }
            Err(error) => match fault::of(Asked::Delete, &error) {
                Fault::Gone => self.confirm(identity, Some(version), false).await,
                Fault::Denied(_) if self.is_locked(identity, Some(version)).await => {
                    Ok(Applied::Locked)
                }
                // It may have been done all the same.
                Fault::Other(failure) if matches!(failure.kind, Kind::Suspect(_)) => {
                    match patiently(|| self.is_gone(identity, Some(version), false)).await {
                        Ok(true) => Ok(Applied::Done),
                        Ok(false) | Err(_) => Err(failure),
                    }
                }
                fault => self.settled(fault),
            },
        }
    }

    /// [`Applied::Done`] when the scanned bytes are gone.
    async fn confirm(
        &self,
        identity: &Identity,
        version: Option<&str>,
        told: bool,
    ) -> Result<Applied, Failure> {
        let gone = patiently(|| self.is_gone(identity, version, told)).await?;
        if gone { Ok(Applied::Done) } else { Err(undone()) }
    }

    /// Whether what was to be deleted cannot be found any more. A GET says so with a code; a HEAD could be
    /// answered by anything. `told`: the store itself said that it deleted something.
    async fn is_gone(
        &self,
        identity: &Identity,
        version: Option<&str>,
        told: bool,
    ) -> Result<bool, Failure> {
        let get = self.client.get_object().bucket(&identity.bucket).key(given(&identity.key));
        match get.set_version_id(version.map(str::to_owned)).send().await {
            Ok(found) if version.is_none_or(|version| version == NULL) => {
                let etag = found.e_tag().map(plain_etag).filter(|etag| !etag.is_empty());
                // Stores name each request; a page of something before them may have an ETag as well.
                let named = found.request_id().is_some();
                Ok(named && etag.is_some_and(|etag| Some(etag) != identity.etag.as_deref()))
            }
            Ok(_) => Ok(false),
            Err(error) => match fault::of(Asked::Get, &error) {
                Fault::Gone => Ok(true),
                // Some stores deny what is not there.
                Fault::Denied(_) if told => Ok(true),
                fault => Err(fault.into_failure()),
            },
        }
    }

    /// Whether a deletion is denied because of a rule of retention, which ends by itself, rather than for
    /// want of a right.
    async fn is_locked(&self, identity: &Identity, version: Option<&str>) -> bool {
        let head = self.client.head_object().bucket(&identity.bucket).key(given(&identity.key));
        head.set_version_id(version.map(str::to_owned)).send().await.is_ok_and(|head| {
            let now = SystemTime::now().into();
            head.object_lock_legal_hold_status() == Some(&ObjectLockLegalHoldStatus::On)
                || head.object_lock_retain_until_date().is_some_and(|until| *until > now)
        })
    }

    /// Each try compares anew right before it, and there are few of them.
    async fn delete_by_etag(&self, identity: &Identity, etag: &str) -> Result<Applied, Failure> {
        let (mut deleted, mut may_be_deleted) = (false, false);
        // By stores that do not know the condition, and by AWS together with a version id.
        let mut conditional = true;
        let mut last = undone();
        let mut pause = Duration::ZERO;
        for _ in 0..DELETE_TRIES {
            tokio::time::sleep(pause).await;
            pause += DELETE_PAUSE;
            let compare = || self.compare(identity, etag, Stage::Delete, Modified::Counts);
            let current = if may_be_deleted { patiently(compare).await } else { compare().await };
            let version = match current? {
                Current::Version(version) => {
                    // The same bytes, uploaded once more since. What was scanned is below them.
                    match self.delete_version(identity, &version).await? {
                        Applied::Done => deleted = true,
                        refused => return Ok(refused),
                    }
                    continue;
                }
                // Without it, deleting there leaves a marker.
                Current::NullVersion => Some(NULL),
                Current::Name => None,
                Current::Changed if deleted => return Ok(Applied::Done),
                Current::Nothing if deleted || may_be_deleted => {
                    return self.confirm(identity, None, deleted).await;
                }
                Current::Changed | Current::Nothing => return Ok(Applied::Changed),
                Current::Denied => return Ok(Applied::Denied),
            };
            let answer = self.delete_once(identity, version, conditional.then_some(etag)).await;
            may_be_deleted = true;
            match answer {
                Ok(answer) => match (answer.delete_marker(), answer.version_id()) {
                    // Versioning was switched on since the comparison: the marker hides the bytes, and
                    // perhaps a newer upload, but they can still be read by their version id. Take it
                    // away and look again.
                    (Some(true), Some(marker))
                        if version.is_none() && !matches!(marker, "" | NULL) =>
                    {
                        if self.delete_version(identity, marker).await? == Applied::Denied {
                            return Ok(Applied::Denied);
                        }
                    }
                    (_, Some(named)) if version == Some(named) => return Ok(Applied::Done),
                    _ => {
                        let told = answer.request_id().is_some();
                        if patiently(|| self.is_gone(identity, version, told)).await? {
                            return Ok(Applied::Done);
                        }
                        last = undone();
                    }
                },
                // A condition that is not met is a 412; this one is not understood.
                Err(error) if conditional && refuses_condition(&error) => {
                    (conditional, pause) = (false, Duration::ZERO);
                }
                Err(error) => match fault::of(Asked::Delete, &error) {
                    // The next comparison says what is there now.
                    Fault::Gone | Fault::NotFound(_) | Fault::Changed => {}
                    Fault::Other(failure) if matches!(failure.kind, Kind::Suspect(_)) => {
                        last = failure;
                    }
                    Fault::Denied(_) if self.is_locked(identity, version).await => {
                        return Ok(Applied::Locked);
                    }
                    fault => return self.settled(fault),
                },
            }
        }
        let compare = || self.compare(identity, etag, Stage::Delete, Modified::Counts);
        match patiently(compare).await? {
            Current::Nothing => self.confirm(identity, None, deleted).await,
            Current::Changed if deleted => Ok(Applied::Done),
            Current::Changed => Ok(Applied::Changed),
            _ => Err(last),
        }
    }

    /// Sent once: the SDK's own repeats would come without a comparison before them.
    async fn delete_once(
        &self,
        identity: &Identity,
        version: Option<&str>,
        etag: Option<&str>,
    ) -> Result<DeleteObjectOutput, SdkError<DeleteObjectError, HttpResponse>> {
        let once = Builder::new().retry_config(RetryConfig::disabled());
        let delete = self.client.delete_object().bucket(&identity.bucket).key(given(&identity.key));
        let delete = delete
            .set_version_id(version.map(str::to_owned))
            .set_if_match(etag.map(|etag| format!("\"{etag}\"")));
        delete.customize().config_override(once).send().await
    }

    /// Where the scanned bytes are: under the name, or, where versions were switched on since, in
    /// the slot `null` below it.
    async fn compare(
        &self,
        identity: &Identity,
        etag: &str,
        stage: Stage,
        modified: Modified,
    ) -> Result<Current, Failure> {
        // An uploader can make two objects of the same MD5, and so of the same ETag.
        let identity = match modified {
            Modified::Counts => Cow::Borrowed(identity),
            Modified::MayDiffer => Cow::Owned(Identity { modified: None, ..identity.clone() }),
        };
        let identity = &*identity;
        let null_only = matches!(identity.pin, Pin::Etag { null_version: true, .. });
        if null_only {
            return self.compare_at(identity, etag, stage, Some(NULL)).await.map(|(at, _)| at);
        }
        match self.compare_at(identity, etag, stage, None).await? {
            (Current::Changed, true) => {
                match self.compare_at(identity, etag, stage, Some(NULL)).await {
                    Ok((Current::Denied, _)) => Ok(Current::Changed),
                    Ok((at, _)) => Ok(at),
                    Err(failure) if matches!(failure.kind, Kind::Suspect(_)) => Err(failure),
                    // A second look that the store does not understand is none.
                    Err(_) => Ok(Current::Changed),
                }
            }
            (current, _) => Ok(current),
        }
    }

    /// Compares at the name or at a version; also tells whether a version is what was found there.
    pub(super) async fn compare_at(
        &self,
        identity: &Identity,
        etag: &str,
        stage: Stage,
        version: Option<&str>,
    ) -> Result<(Current, bool), Failure> {
        let head = self.client.head_object().bucket(&identity.bucket).key(given(&identity.key));
        match head.set_version_id(version.map(str::to_owned)).send().await {
            Ok(head) => {
                let now = Identity::new(
                    &identity.bucket,
                    &identity.key,
                    head.version_id(),
                    head.e_tag(),
                    head.content_length(),
                )
                .with_modified(head.last_modified());
                // Where something before the store answers, only the expected ETag is believed.
                let named = head.request_id().is_some();
                if now.etag.is_none() || !named && now.etag.as_deref() != Some(etag) {
                    let detail =
                        "HEAD answers without an ETag, or with another one and not as a store";
                    let dependency = Dependency::Store;
                    return Err(Failure::suspect(dependency, stage, Reason::StoreOdd, detail));
                }
                // The same ETag with another length means that the download was not whole. Proxies that
                // compress tell none.
                let lengths = identity.length.zip(now.length);
                let other_length = lengths.is_some_and(|(before, now)| before != now);
                let times = identity.modified.zip(now.modified);
                let other_time = times.is_some_and(|(before, now)| before != now);
                let is_version = now.version_id().is_some();
                if now.etag.as_deref() != Some(etag) || other_length || other_time {
                    return Ok((Current::Changed, is_version));
                }
                let current = match (now.pin, version) {
                    (Pin::Version(found), _) => Current::Version(found),
                    (Pin::Etag { null_version: true, .. }, _) | (_, Some(_)) => {
                        Current::NullVersion
                    }
                    _ => Current::Name,
                };
                Ok((current, is_version))
            }
            Err(error) => match fault::of(Asked::Head, &error) {
                // The answer to a HEAD has no body that could tell what is missing; the GET of
                // the next round does.
                Fault::Gone | Fault::NotFound(_) => Ok((Current::Nothing, false)),
                Fault::Changed => Ok((Current::Changed, false)),
                Fault::Denied(_) => {
                    self.denied(identity, version).await.map(|current| (current, false))
                }
                fault => Err(fault.into_failure()),
            },
        }
    }

    /// What to make of a HEAD that is denied: the same right allows a GET, whose refusal names a code.
    async fn denied(&self, identity: &Identity, version: Option<&str>) -> Result<Current, Failure> {
        let get = self.client.get_object().bucket(&identity.bucket).key(given(&identity.key));
        match get.set_version_id(version.map(str::to_owned)).send().await {
            Ok(_) => {
                let (dependency, detail) = (Dependency::Store, "HEAD is denied, and GET is not");
                Err(Failure::suspect(dependency, Stage::Fetch, Reason::StoreOdd, detail))
            }
            Err(error) => match fault::of(Asked::Get, &error) {
                Fault::Denied(_) => Ok(Current::Denied),
                Fault::Gone => Ok(Current::Nothing),
                fault => Err(fault.into_failure()),
            },
        }
    }

    async fn tags(&self, identity: &Identity, version: Option<&str>) -> Result<Vec<Tag>, Fault> {
        let get =
            self.client.get_object_tagging().bucket(&identity.bucket).key(given(&identity.key));
        match get.set_version_id(version.map(str::to_owned)).send().await {
            Ok(output) => {
                self.has_tags.store(true, Ordering::Relaxed);
                Ok(output.tag_set)
            }
            // Some stores have no empty set.
            Err(error) if error.code() == Some("NoSuchTagSet") => Ok(Vec::new()),
            Err(error) => Err(fault::of(Asked::GetTags, &error)),
        }
    }

    /// Replaces the set of tags.
    async fn set_tags(
        &self,
        identity: &Identity,
        version: Option<&str>,
        tags: Vec<Tag>,
    ) -> Result<(), Fault> {
        let tagging = Tagging::builder().set_tag_set(Some(tags.clone())).build();
        let tagging = tagging.map_err(|error| {
            Fault::Other(Failure::permanent(Stage::Tag, Reason::TagRequest, error))
        })?;
        let put =
            self.client.put_object_tagging().bucket(&identity.bucket).key(given(&identity.key));
        match put.set_version_id(version.map(str::to_owned)).tagging(tagging).send().await {
            Ok(answer) if answer.request_id().is_some() || answer.version_id().is_some() => Ok(()),
            // Stores name the request, or the version. Something else may have answered.
            Ok(_) => {
                let found = self.tags(identity, version).await?;
                if found.len() == tags.len() && tags.iter().all(|tag| found.contains(tag)) {
                    return Ok(());
                }
                let detail = "the tags were taken, and are not there";
                let dependency = Dependency::Store;
                Err(Fault::Other(Failure::suspect(
                    dependency,
                    Stage::Tag,
                    Reason::StoreOdd,
                    detail,
                )))
            }
            Err(error) => Err(fault::of(Asked::SetTags, &error)),
        }
    }

    fn settled(&self, fault: Fault) -> Result<Applied, Failure> {
        match fault {
            Fault::Gone | Fault::NotFound(_) | Fault::Changed => Ok(Applied::Changed),
            Fault::Denied(_) => Ok(Applied::Denied),
            Fault::Locked(_) => Ok(Applied::Locked),
            // Where tags were seen it is this object that cannot be tagged.
            Fault::Unsupported(failure)
                if failure.stage == Stage::Tag && !self.has_tags.load(Ordering::Relaxed) =>
            {
                if !self.warned_no_tags.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        detail = failure.detail,
                        "this store has no tags: verdicts are reported only; set TAG_FILES=false"
                    );
                }
                Ok(Applied::NoTagging)
            }
            fault => Err(fault.into_failure()),
        }
    }

    /// Takes our tag away from bytes that it was not meant for, and nothing else: somebody may have
    /// tagged them rightly since. They are scanned next, so a failure here heals itself; until then
    /// a missing tag is better than a wrong one.
    async fn retract(&self, identity: &Identity, version: Option<&str>, key: &str, value: &str) {
        let retracted = async {
            let mut tags = self.tags(identity, version).await?;
            let before = tags.len();
            tags.retain(|tag| tag.key() != key || tag.value() != value);
            if tags.len() == before {
                return Ok(());
            }
            self.set_tags(identity, version, tags).await
        };
        match retracted.await {
            Ok(()) | Err(Fault::Gone | Fault::NotFound(_) | Fault::Changed) => {}
            Err(fault) => tracing::warn!(
                failure = %fault.into_failure(),
                "a tag on overwritten bytes stays until they are scanned"
            ),
        }
    }
}

/// Looks again while the store fails, and gives its last answer.
async fn patiently<T, F>(look: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let until = Instant::now() + CONFIRMATION;
    let mut pause = CONFIRMATION_PAUSE;
    loop {
        match look().await {
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

/// Whether the store refuses to compare, rather than the object.
fn refuses_condition<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    let status = error.raw_response().map(|response| response.status().as_u16());
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or_default();
    status == Some(501)
        || (status == Some(400) && matches!(code, "" | "InvalidArgument" | "InvalidRequest"))
}

fn tag(key: &str, value: &str) -> Result<Tag, Failure> {
    let tag = Tag::builder().key(key).value(value).build();
    tag.map_err(|error| Failure::permanent(Stage::Tag, Reason::TagRequest, error))
}

/// A deletion that was answered as done, of what is still there.
fn undone() -> Failure {
    let detail = "the store says that it is deleted, and still shows it";
    Failure::suspect(Dependency::Store, Stage::Delete, Reason::DeleteUndone, detail)
}
