//! Sets one tag and keeps the others.

use std::sync::atomic::Ordering;

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::operation::RequestId;
use aws_sdk_s3::types::{Tag, Tagging};

use super::Applied;
use super::compare::{Current, Modified};
use crate::failure::{Failure, Reason, Stage};
use crate::store::fault::{self, Fault};
use crate::store::identity::NULL;
use crate::store::request::Request;
use crate::store::{Identity, Pin, Store};

/// The most tags that S3 allows on an object.
const MAX_TAGS: usize = 10;

impl Store {
    /// Sets the tag `key` to `value`; the object's other tags stay.
    ///
    /// # Errors
    /// When a later attempt may succeed.
    pub(crate) async fn tag(
        &self,
        identity: &Identity,
        key: &str,
        value: &str,
    ) -> Result<Applied, Failure> {
        let tag = Tag::builder().key(key).value(value).build().map_err(unsendable)?;
        match &identity.pin {
            Pin::Version(version) => self.tag_version(identity, version, &tag).await,
            Pin::Etag { etag, .. } => self.tag_by_etag(identity, etag, &tag).await,
            Pin::Nothing => Ok(Applied::NoIdentity),
        }
    }

    /// Tags a version. Its bytes never change, so nothing has to be compared.
    async fn tag_version(
        &self,
        identity: &Identity,
        version: &str,
        tag: &Tag,
    ) -> Result<Applied, Failure> {
        let tags = match self.tags(identity, Some(version)).await {
            Ok(tags) => tags,
            Err(fault) => return self.effect_of(fault),
        };
        let Some(tags) = merged(tags, tag) else { return Ok(Applied::TagSetFull) };
        let set = self.set_tags(identity, Some(version), tags).await;
        set.map_or_else(|fault| self.effect_of(fault), |()| Ok(Applied::Done))
    }

    async fn tag_by_etag(
        &self,
        identity: &Identity,
        etag: &str,
        tag: &Tag,
    ) -> Result<Applied, Failure> {
        // Two requests that do not depend on each other.
        let (current, tags) = tokio::join!(
            self.compare(identity, etag, Stage::Tag, Modified::Compare),
            self.tags(identity, None)
        );
        let (version, tags) = match current? {
            Current::Name => (None, tags),
            Current::NullVersion => (Some(NULL), self.tags(identity, Some(NULL)).await),
            Current::Version(version) => return self.tag_version(identity, &version, tag).await,
            Current::Changed | Current::Nothing => return Ok(Applied::Changed),
            Current::Denied => return Ok(Applied::Denied),
        };
        match tags {
            Ok(tags) => match merged(tags, tag) {
                Some(tags) => self.tag_slot(identity, etag, version, tags, tag).await,
                None => Ok(Applied::TagSetFull),
            },
            Err(fault) => self.effect_of(fault),
        }
    }

    /// Sets `tags` on what is under the bare name, or in the slot `null`, and compares again: the
    /// bytes may have been replaced since the first comparison, and then the tag sits on bytes that
    /// nobody scanned. Also without an answer, because the request may still have been carried out.
    async fn tag_slot(
        &self,
        identity: &Identity,
        etag: &str,
        version: Option<&str>,
        tags: Vec<Tag>,
        tag: &Tag,
    ) -> Result<Applied, Failure> {
        let set = self.set_tags(identity, version, tags).await;
        // Some stores change Last-Modified with a new tag.
        let found = self.compare(identity, etag, Stage::Tag, Modified::Ignore).await;
        match (found, version) {
            (Ok(Current::Name), None) | (Ok(Current::NullVersion), Some(_)) => {
                set.map_or_else(|fault| self.effect_of(fault), |()| Ok(Applied::Done))
            }
            (Ok(_), version) => {
                self.retract(identity, version, tag).await;
                Ok(Applied::Changed)
            }
            (Err(failure), version) => {
                self.retract(identity, version, tag).await;
                Err(failure)
            }
        }
    }

    async fn tags(&self, identity: &Identity, version: Option<&str>) -> Result<Vec<Tag>, Fault> {
        match self.get_tags(identity, version).send().await {
            Ok(output) => {
                self.has_tags.store(true, Ordering::Relaxed);
                Ok(output.tag_set)
            }
            // Some stores answer this when there are none.
            Err(error) if error.code() == Some("NoSuchTagSet") => Ok(Vec::new()),
            Err(error) => Err(fault::of(Request::GetTags, &error)),
        }
    }

    /// Replaces all tags.
    async fn set_tags(
        &self,
        identity: &Identity,
        version: Option<&str>,
        tags: Vec<Tag>,
    ) -> Result<(), Fault> {
        let tagging = Tagging::builder().set_tag_set(Some(tags.clone())).build();
        let tagging = tagging.map_err(|error| Fault::Other(unsendable(error)))?;
        match self.put_tags(identity, version).tagging(tagging).send().await {
            Ok(answer) if answer.request_id().is_some() || answer.version_id().is_some() => Ok(()),
            // A store names the request or the version. Anything else may not be the store's
            // answer.
            Ok(_) => {
                let found = self.tags(identity, version).await?;
                if found.len() == tags.len() && tags.iter().all(|tag| found.contains(tag)) {
                    return Ok(());
                }
                let detail = "the tags were taken, and are not there";
                Err(Fault::Other(fault::suspect(Stage::Tag, Reason::StoreOdd, detail)))
            }
            Err(error) => Err(fault::of(Request::SetTags, &error)),
        }
    }

    /// Removes our tag from bytes that it was not meant for, and only ours: somebody may have
    /// tagged them rightly in the meantime. If this fails the tag stays until these bytes are
    /// scanned, which happens next; until then a missing tag is better than a wrong one.
    async fn retract(&self, identity: &Identity, version: Option<&str>, tag: &Tag) {
        let retracted = async {
            let mut tags = self.tags(identity, version).await?;
            let before = tags.len();
            tags.retain(|other| other.key() != tag.key() || other.value() != tag.value());
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

/// `tags` with `tag` set in them; `None` if the set is full.
fn merged(mut tags: Vec<Tag>, tag: &Tag) -> Option<Vec<Tag>> {
    tags.retain(|other| other.key() != tag.key());
    if tags.len() >= MAX_TAGS {
        return None;
    }
    tags.push(tag.clone());
    Some(tags)
}

/// A tag that the SDK cannot send.
fn unsendable(error: impl std::fmt::Display) -> Failure {
    Failure::permanent(Stage::Tag, Reason::TagRequest, error)
}
