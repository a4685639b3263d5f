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
use super::{Identity, Pin, Store};
use crate::failure::{Failure, Stage};

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

/// What is under the name right now.
enum Current {
    /// The scanned bytes; their version id, if the bucket has versions by now.
    Same(Option<String>),
    Changed,
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
                    self.compare(identity, etag, Stage::Tag),
                    self.tags(identity, None)
                );
                match current? {
                    Current::Same(None) => (None, Some(etag), tags),
                    Current::Same(Some(version)) => {
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
        let users = tags.clone();
        tags.push(tag(key, value)?);
        if let Err(fault) = self.set_tags(identity, version.as_deref(), tags).await {
            return settled(fault);
        }
        // A version id names these bytes for ever; under a bare name they may have been replaced
        // since the comparison, and then our tag sits on bytes that nobody scanned.
        let Some(etag) = recheck else { return Ok(Applied::Done) };
        match self.compare(identity, etag, Stage::Tag).await {
            Ok(Current::Same(_)) => Ok(Applied::Done),
            Ok(Current::Changed | Current::Denied) => {
                self.retract(identity, users).await;
                Ok(Applied::Changed)
            }
            Err(failure) => {
                self.retract(identity, users).await;
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
            Pin::Etag { etag, null_version } => {
                self.delete_by_etag(identity, etag, *null_version).await
            }
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

    async fn delete_by_etag(
        &self,
        identity: &Identity,
        etag: &str,
        null_version: bool,
    ) -> Result<Applied, Failure> {
        for _ in 0..DELETE_TRIES {
            match self.compare(identity, etag, Stage::Delete).await? {
                Current::Same(Some(version)) => {
                    return self.delete_version(identity, &version).await;
                }
                Current::Same(None) => {}
                Current::Changed => return Ok(Applied::Changed),
                Current::Denied => return Ok(Applied::Denied),
            }
            let delete = || {
                let delete =
                    self.client.delete_object().bucket(&identity.bucket).key(&identity.key);
                // Without it, deleting in a bucket with suspended versions leaves a marker.
                delete.set_version_id(null_version.then(|| "null".to_owned()))
            };
            let sent = match delete().if_match(format!("\"{etag}\"")).send().await {
                // The condition itself is refused: by stores that do not know it, by AWS together
                // with a version id. A condition that is not met is a 412.
                Err(error) if is_bad_request(&error) => delete().send().await,
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
                (Some(true), Some(marker)) if !null_version && !matches!(marker, "" | "null") => {
                    if self.delete_version(identity, marker).await? == Applied::Denied {
                        return Ok(Applied::Denied);
                    }
                }
                _ => return Ok(Applied::Done),
            }
        }
        let detail = "deletions keep leaving delete markers";
        Err(Failure::transient(Stage::Delete, "delete_marker", detail))
    }

    /// Whether the scanned bytes are still what the name stands for.
    async fn compare(
        &self,
        identity: &Identity,
        etag: &str,
        stage: Stage,
    ) -> Result<Current, Failure> {
        let head = self.client.head_object().bucket(&identity.bucket).key(&identity.key);
        match head.send().await {
            Ok(head) => {
                let now = Identity::new(
                    &identity.bucket,
                    &identity.key,
                    head.version_id(),
                    head.e_tag(),
                    head.content_length(),
                );
                // The same ETag with another length means that the download was not whole.
                let same_length =
                    head.content_length().is_none_or(|_| now.length == identity.length);
                if now.etag.as_deref() != Some(etag) || !same_length {
                    return Ok(Current::Changed);
                }
                Ok(Current::Same(now.version_id().map(str::to_owned)))
            }
            Err(error) => match fault::of(stage, &error) {
                // The answer to a HEAD has no body that could tell what is missing; the GET of
                // the next round does.
                Fault::Gone | Fault::NotFound(_) | Fault::Changed => Ok(Current::Changed),
                Fault::Denied(_) => self.probe().await.map(|()| Current::Denied),
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

    /// Takes our tag away from bytes that it was not meant for. They are scanned next, so a
    /// failure here heals itself; until then a missing tag is better than a wrong one.
    async fn retract(&self, identity: &Identity, users: Vec<Tag>) {
        if let Err(fault) = self.set_tags(identity, None, users).await {
            tracing::warn!(failure = %fault.into_failure(), "a tag on overwritten bytes stays until they are scanned");
        }
    }
}

fn is_bad_request<E>(error: &SdkError<E, HttpResponse>) -> bool {
    let status = error.raw_response().map(|response| response.status().as_u16());
    matches!(status, Some(400 | 501))
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
