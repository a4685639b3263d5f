//! Sets our tags and keeps the others.

use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_sdk_s3::config::Builder;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::operation::RequestId;
use aws_sdk_s3::types::{Tag, Tagging};

use super::Applied;
use super::compare::{Current, Modified};
use crate::event::plain_etag;
use crate::failure::{Failure, Reason, Stage};
use crate::store::fault::{self, Fault};
use crate::store::identity::NULL;
use crate::store::request::Request;
use crate::store::{Identity, Observation, Pin, Store};

/// The most tags that S3 allows on an object.
pub(crate) const MAX_TAGS: usize = 10;

/// For the look whether a bucket tells the number of tags.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// Key and value of a tag.
pub(crate) type KeyValue = (String, String);

/// The scanned bytes as they were found, and their tags.
#[derive(Debug)]
pub(crate) struct Tagged {
    /// What identifies the bytes where they were found.
    pub(crate) identity: Identity,
    /// The slot to name in a request; `None` is the bare name.
    slot: Option<String>,
    pub(crate) tags: Vec<KeyValue>,
    /// The answer to the GET named no number of tags, and there are none. The next one has to, where the
    /// store tells.
    shows_first: bool,
    /// Nothing was asked: the answer to the GET was enough.
    pub(crate) unasked: bool,
}

/// The tags to set on the bytes, and to remove from them.
#[derive(Debug)]
pub(crate) struct Tags {
    pub(crate) set: Vec<KeyValue>,
    /// The keys of tags that must not stay.
    pub(crate) remove: Vec<String>,
    /// They say when the object was changed, so that must be as in [`Tagged::identity`] afterwards.
    pub(crate) bind_modified: bool,
}

impl Store {
    /// Finds the scanned bytes and reads their tags. What the answer to the GET said is not asked again
    /// while it is fresh. The inner error says why they cannot be tagged.
    ///
    /// # Errors
    /// When a later attempt may succeed.
    pub(crate) async fn read_tags(
        &self,
        identity: &Identity,
        observation: Option<Observation>,
    ) -> Result<Result<Tagged, Applied>, Failure> {
        let is_fresh = || observation.as_ref().is_some_and(Observation::is_fresh);
        let uncounted = observation.is_some_and(|observation| observation.tag_count.is_none());
        if uncounted
            && identity.pin != Pin::Nothing
            && self.tag_counts.are_told(identity)
            && !observation.is_some_and(|seen| self.tag_counts.were_set_since(identity, &seen))
            && is_fresh()
        {
            let slot = identity.slot().map(str::to_owned);
            let (identity, tags) = (identity.clone(), Vec::new());
            return Ok(Ok(Tagged { identity, slot, tags, shows_first: true, unasked: true }));
        }
        let (found, slot, tags) = match &identity.pin {
            // Its bytes never change, so nothing has to be compared.
            Pin::Version(version) => {
                let tags = self.tags(identity, Some(version)).await;
                (identity.clone(), Some(version.clone()), tags)
            }
            Pin::Etag { etag, .. } => {
                let compare = || self.compare(identity, etag, Stage::Tag, Modified::Compare);
                let stays_fresh = observation.as_ref().is_some_and(Observation::stays_fresh);
                let (current, tags) = if stays_fresh {
                    let tags = self.tags(identity, identity.slot()).await;
                    let current = match identity.slot() {
                        _ if !is_fresh() => compare().await?,
                        Some(_) => Current::NullVersion,
                        None => Current::Name,
                    };
                    (current, tags)
                } else {
                    // Two requests that do not depend on each other.
                    let (current, tags) =
                        tokio::join!(compare(), self.tags(identity, identity.slot()));
                    (current?, tags)
                };
                match current {
                    Current::Name => (identity.clone(), None, tags),
                    Current::NullVersion => {
                        let tags = match identity.slot() {
                            Some(_) => tags,
                            None => self.tags(identity, Some(NULL)).await,
                        };
                        (identity.clone(), Some(NULL.to_owned()), tags)
                    }
                    Current::Version(version) => {
                        let tags = self.tags(identity, Some(&version)).await;
                        let pin = Pin::Version(version.clone());
                        (Identity { pin, ..identity.clone() }, Some(version), tags)
                    }
                    Current::Changed | Current::Nothing => return Ok(Err(Applied::Changed)),
                    Current::Denied => return Ok(Err(Applied::Denied)),
                }
            }
            Pin::Nothing => return Ok(Err(Applied::NoIdentity)),
        };
        match tags {
            Ok(tags) => {
                let tags: Vec<_> = tags.into_iter().map(|tag| (tag.key, tag.value)).collect();
                if uncounted && !tags.is_empty() {
                    self.tag_counts.doubt(&found);
                }
                let shows_first = uncounted && tags.is_empty();
                Ok(Ok(Tagged { identity: found, slot, tags, shows_first, unasked: false }))
            }
            Err(fault) => self.effect_of(fault).map(Err),
        }
    }

    /// Sets tags on what was found; the object's other tags stay. `Applied::Changed`: other bytes are
    /// there now.
    ///
    /// # Errors
    /// When a later attempt may succeed.
    pub(crate) async fn write_tags(&self, found: &Tagged, tags: &Tags) -> Result<Applied, Failure> {
        let Tagged { identity, slot, .. } = found;
        let slot = slot.as_deref();
        let applied = self.write_and_compare(found, tags).await?;
        if applied == Applied::Done && found.shows_first && self.tag_counts.is_due(identity) {
            // Rare, so it need not make every tagging larger.
            let look = Box::pin(self.shows_count(identity, slot, tags.set.len()));
            if let Ok(Some(told)) = tokio::time::timeout(LOOK_TIMEOUT, look).await {
                self.tag_counts.learn(identity, told);
            }
        }
        Ok(applied)
    }

    /// Whether the answer to a GET tells that these bytes have so many tags; `None` when there is no
    /// answer about them, or when somebody else has tagged them meanwhile.
    async fn shows_count(
        &self,
        identity: &Identity,
        slot: Option<&str>,
        tags: usize,
    ) -> Option<bool> {
        let get = self.get_object(&identity.bucket, &identity.key, slot);
        // A part is enough, and an object without bytes has none.
        let part = (identity.bytes() > 0).then(|| "bytes=0-0".to_owned());
        let answer = get.set_range(part).send().await;
        let answer = answer.ok().filter(|answer| {
            let etag = answer.e_tag().map(plain_etag);
            etag == identity.etag.as_deref()
        })?;
        match answer.tag_count() {
            Some(count) if usize::try_from(count) == Ok(tags) => Some(true),
            Some(_) => None,
            None => Some(false),
        }
    }

    async fn write_and_compare(&self, found: &Tagged, tags: &Tags) -> Result<Applied, Failure> {
        let Tagged { identity, slot, .. } = found;
        let slot = slot.as_deref();
        let merged = match merged(&found.tags, tags) {
            Ok(Some(merged)) => merged,
            Ok(None) => return Ok(Applied::TagSetFull),
            Err(failure) => return Err(failure),
        };
        let set = self.set_tags(identity, slot, merged, !found.unasked).await;
        let Pin::Etag { etag, .. } = &identity.pin else {
            return set.map_or_else(|fault| self.effect_of(fault), |()| Ok(Applied::Done));
        };
        // Compared again, because the bytes may have been replaced since the first comparison, and
        // then the tags sit on bytes that nobody scanned. Also without an answer, because the request
        // may still have been carried out.
        // Some stores may change Last-Modified with a new tag.
        let modified = if tags.bind_modified { Modified::Compare } else { Modified::Ignore };
        let current = self.compare(identity, etag, Stage::Tag, modified).await;
        let same = current.map(|current| {
            matches!((current, slot), (Current::Name, None) | (Current::NullVersion, Some(_)))
        });
        match same {
            Ok(true) => set.map_or_else(|fault| self.effect_of(fault), |()| Ok(Applied::Done)),
            Ok(false) => {
                self.retract(identity, slot, &tags.set).await;
                Ok(Applied::Changed)
            }
            Err(failure) => {
                self.retract(identity, slot, &tags.set).await;
                Err(failure)
            }
        }
    }

    pub(in crate::store) async fn tags(
        &self,
        identity: &Identity,
        version: Option<&str>,
    ) -> Result<Vec<Tag>, Fault> {
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

    /// Replaces all tags. Where nothing was asked before, the SDK may not `repeat` the request: its answer
    /// would come too late.
    async fn set_tags(
        &self,
        identity: &Identity,
        version: Option<&str>,
        tags: Vec<Tag>,
        repeat: bool,
    ) -> Result<(), Fault> {
        self.tag_counts.tags(identity);
        let tagging = Tagging::builder().set_tag_set(Some(tags.clone())).build();
        let tagging = tagging.map_err(|error| Fault::Other(unsendable(error)))?;
        let put = self.put_tags(identity, version).tagging(tagging);
        let put = if repeat {
            put.send().await
        } else {
            let once = Builder::new().retry_config(RetryConfig::disabled());
            put.customize().config_override(once).send().await
        };
        match put {
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

    /// Removes our tags from bytes that they were not meant for, and only ours: somebody may have
    /// tagged them rightly in the meantime. If this fails the tags stay until these bytes are
    /// scanned, which happens next; until then a missing tag is better than a wrong one.
    async fn retract(&self, identity: &Identity, version: Option<&str>, ours: &[KeyValue]) {
        let retracted = async {
            let mut tags = self.tags(identity, version).await?;
            let before = tags.len();
            let is_ours =
                |tag: &Tag| ours.iter().any(|(key, value)| *key == tag.key && *value == tag.value);
            tags.retain(|tag| !is_ours(tag));
            if tags.len() == before {
                return Ok(());
            }
            self.set_tags(identity, version, tags, true).await
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

/// What the bytes have after it; `None` if the set is full.
///
/// # Errors
/// When a tag cannot be sent.
fn merged(found: &[KeyValue], tags: &Tags) -> Result<Option<Vec<Tag>>, Failure> {
    let stays = |(key, _): &&KeyValue| {
        !tags.set.iter().any(|(ours, _)| ours == key) && !tags.remove.contains(key)
    };
    let all: Vec<_> = found.iter().filter(stays).chain(&tags.set).collect();
    if all.len() > MAX_TAGS {
        return Ok(None);
    }
    let tag = |(key, value): &KeyValue| Tag::builder().key(key).value(value).build();
    let all: Result<Vec<_>, _> = all.into_iter().map(tag).collect();
    all.map(Some).map_err(unsendable)
}

/// A tag that the SDK cannot send.
fn unsendable(error: impl std::fmt::Display) -> Failure {
    Failure::permanent(Stage::Tag, Reason::TagRequest, error)
}
