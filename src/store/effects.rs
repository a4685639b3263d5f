//! Tags and deletes exactly the bytes that were scanned.
//!
//! By version id where there is one: it names these bytes for ever. Else by `ETag`: compared right
//! before the effect and, after tagging, right behind it. Between the comparison and the effect
//! somebody may overwrite the object; stores that honour `If-Match` on DELETE close that window
//! for deletions, for tags S3 has no such condition.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{Tag, Tagging};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::fault::{self, Fault};
use super::{Identity, PROBE_TIMEOUT, Pin, Store};
use crate::failure::{Failure, Kind, Stage};

/// S3's limit of tags on an object.
const MAX_TAGS: usize = 10;
/// Deletions that met a delete marker, undone and tried again.
const DELETE_TRIES: u32 = 3;

/// What an effect came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// The scanned bytes carry the tag, or are gone.
    Done,
    /// Other bytes are there now; nothing of them was touched.
    Changed,
    /// The store does not let us.
    Denied,
    /// The object has its ten tags already.
    TagSetFull,
    /// The store told nothing that could pin the bytes.
    NoIdentity,
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
    Denied,
}

/// The version id `null`.
const NULL: &str = "null";

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
                    self.compare(identity, etag, Stage::Tag),
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
                    Current::Changed => return Ok(Applied::Changed),
                    Current::Denied => return Ok(Applied::Denied),
                }
            }
            Pin::Nothing => return Ok(Applied::NoIdentity),
        };
        let mut tags = match tags {
            Ok(tags) => tags,
            Err(fault) => return settled(fault),
        };
        tags.retain(|tag| tag.key() != key);
        if tags.len() >= MAX_TAGS {
            return Ok(Applied::TagSetFull);
        }
        tags.push(tag(key, value)?);
        if let Err(fault) = self.set_tags(identity, version.as_deref(), tags).await {
            return settled(fault);
        }
        // A version id names these bytes for ever; under a bare name they may have been replaced
        // since the comparison, and then our tag sits on bytes that nobody scanned.
        let Some(etag) = recheck else { return Ok(Applied::Done) };
        let found = self.compare(identity, etag, Stage::Tag).await;
        match (found, version.as_deref()) {
            (Ok(Current::Name), None) | (Ok(Current::NullVersion), Some(_)) => Ok(Applied::Done),
            (Ok(_), version) => {
                self.retract(identity, version, key, value).await;
                Ok(Applied::Changed)
            }
            (Err(failure), version) => {
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
        let delete = self.client.delete_object().bucket(&identity.bucket).key(&identity.key);
        match delete.version_id(version).send().await {
            Ok(_) => Ok(Applied::Done),
            Err(error) => match fault::of(Stage::Delete, &error) {
                Fault::Gone => Ok(Applied::Done),
                fault => settled(fault),
            },
        }
    }

    async fn delete_by_etag(&self, identity: &Identity, etag: &str) -> Result<Applied, Failure> {
        let (mut deleted_any, mut markers) = (false, 0);
        loop {
            let version = match self.compare(identity, etag, Stage::Delete).await? {
                Current::Version(version) => {
                    // The same bytes, uploaded once more since. What was scanned is below them.
                    match self.delete_version(identity, &version).await? {
                        Applied::Done => deleted_any = true,
                        refused => return Ok(refused),
                    }
                    continue;
                }
                // Without it, deleting there leaves a marker.
                Current::NullVersion => Some(NULL),
                Current::Name => None,
                Current::Changed if deleted_any => return Ok(Applied::Done),
                Current::Changed => return Ok(Applied::Changed),
                Current::Denied => return Ok(Applied::Denied),
            };
            let delete = || {
                let delete =
                    self.client.delete_object().bucket(&identity.bucket).key(&identity.key);
                delete.set_version_id(version.map(str::to_owned))
            };
            let sent = match delete().if_match(format!("\"{etag}\"")).send().await {
                // The condition itself is refused: by stores that do not know it, by AWS together
                // with a version id. A condition that is not met is a 412.
                Err(error) if refuses_condition(&error) => delete().send().await,
                sent => sent,
            };
            let deleted = match sent {
                Ok(deleted) => deleted,
                Err(error) => return settled(fault::of(Stage::Delete, &error)),
            };
            match (deleted.delete_marker(), deleted.version_id()) {
                // Versioning was switched on since the comparison: the marker hides the bytes, and
                // perhaps a newer upload, but they can still be read by their version id. Take it
                // away and look again.
                (Some(true), Some(marker)) if version.is_none() && !matches!(marker, "" | NULL) => {
                    if self.delete_version(identity, marker).await? == Applied::Denied {
                        return Ok(Applied::Denied);
                    }
                    markers += 1;
                    if markers == DELETE_TRIES {
                        let detail = "deletions keep leaving delete markers";
                        return Err(Failure::transient(Stage::Delete, "delete_marker", detail));
                    }
                }
                _ => return Ok(Applied::Done),
            }
        }
    }

    /// Where the scanned bytes are: under the name, or, where versions were switched on since, in
    /// the slot `null` below it.
    async fn compare(
        &self,
        identity: &Identity,
        etag: &str,
        stage: Stage,
    ) -> Result<Current, Failure> {
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
        let head = self.client.head_object().bucket(&identity.bucket).key(&identity.key);
        match head.set_version_id(version.map(str::to_owned)).send().await {
            Ok(head) => {
                let now = Identity::new(
                    &identity.bucket,
                    &identity.key,
                    head.version_id(),
                    head.e_tag(),
                    head.content_length(),
                );
                if now.length.is_none() {
                    let detail = "HEAD does not tell the length";
                    return Err(Failure::transient(stage, "head_without_length", detail));
                }
                // The same ETag with another length means that the download was not whole.
                let other_length = identity.length.is_some_and(|n| Some(n) != now.length);
                let is_version = now.version_id().is_some();
                if now.etag.as_deref() != Some(etag) || other_length {
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
            Err(error) => match fault::of(stage, &error) {
                // The answer to a HEAD has no body that could tell what is missing; the GET of
                // the next round does.
                Fault::Gone | Fault::NotFound(_) | Fault::Changed => Ok((Current::Changed, false)),
                Fault::Denied(_) => {
                    self.probe(PROBE_TIMEOUT).await.map(|()| (Current::Denied, false))
                }
                fault => Err(fault.into_failure()),
            },
        }
    }

    async fn tags(&self, identity: &Identity, version: Option<&str>) -> Result<Vec<Tag>, Fault> {
        let get = self.client.get_object_tagging().bucket(&identity.bucket).key(&identity.key);
        match get.set_version_id(version.map(str::to_owned)).send().await {
            Ok(output) => Ok(output.tag_set),
            // Some stores have no empty set.
            Err(error) if error.code() == Some("NoSuchTagSet") => Ok(Vec::new()),
            Err(error) => Err(fault::of(Stage::Tag, &error)),
        }
    }

    async fn set_tags(
        &self,
        identity: &Identity,
        version: Option<&str>,
        tags: Vec<Tag>,
    ) -> Result<(), Fault> {
        let tagging = Tagging::builder().set_tag_set(Some(tags)).build();
        let tagging = tagging
            .map_err(|error| Fault::Other(Failure::permanent(Stage::Tag, "tag_request", error)))?;
        let put = self.client.put_object_tagging().bucket(&identity.bucket).key(&identity.key);
        match put.set_version_id(version.map(str::to_owned)).tagging(tagging).send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(fault::of(Stage::Tag, &error)),
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

/// Whether the store refuses to compare, rather than the object.
fn refuses_condition<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    let status = error.raw_response().map(|response| response.status().as_u16());
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or_default();
    status == Some(501)
        || (status == Some(400) && matches!(code, "" | "InvalidArgument" | "InvalidRequest"))
}

fn tag(key: &str, value: &str) -> Result<Tag, Failure> {
    let tag = Tag::builder().key(key).value(value).build();
    tag.map_err(|error| Failure::permanent(Stage::Tag, "tag_request", error))
}

fn settled(fault: Fault) -> Result<Applied, Failure> {
    match fault {
        Fault::Gone | Fault::NotFound(_) | Fault::Changed => Ok(Applied::Changed),
        Fault::Denied(_) => Ok(Applied::Denied),
        fault => Err(fault.into_failure()),
    }
}
