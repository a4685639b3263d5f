//! What the uploader stored with an object: headers in any bytes, and tags.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::header::HeaderMap;

use super::of_quarantine;
use crate::failure::{Failure, Stage};
use crate::store::effects::compare::{Current, Modified};
use crate::store::fault::{self, Fault};
use crate::store::identity::NULL;
use crate::store::request::Request;
use crate::store::transport::{AllHeaders, With};
use crate::store::{Applied, Identity, KeyValue, Pin, Store};

/// The headers that S3 keeps for an uploader, besides the metadata.
const KEPT: &[&str] = &[
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
    "x-amz-missing-meta",
    "x-amz-website-redirect-location",
];
const METADATA: &str = "x-amz-meta-";

/// The scanned bytes, where they are now.
#[derive(Debug)]
pub(crate) struct Source {
    pub(super) identity: Identity,
    /// The slot to name in a request; `None` is the bare name.
    pub(super) slot: Option<String>,
}

/// What the uploader stored with the bytes.
#[derive(Debug)]
pub(crate) struct Original {
    /// In the order of the answer; names in lower case.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    /// `None` where the store does not tell them.
    pub(crate) tags: Option<Vec<KeyValue>>,
}

impl Store {
    /// Finds the scanned bytes, and what was stored with them. The inner error says why they cannot be
    /// copied.
    ///
    /// # Errors
    /// When a later attempt may succeed.
    pub(crate) async fn original(
        &self,
        identity: &Identity,
    ) -> Result<Result<(Source, Original), Applied>, Failure> {
        let source = match self.find_source(identity).await.map_err(of_quarantine)? {
            Ok(source) => source,
            Err(applied) => return Ok(Err(applied)),
        };
        let Some(headers) = self.all_headers(&source).await.map_err(of_quarantine)? else {
            return Ok(Err(Applied::Changed));
        };
        let tags = match self.tags(&source.identity, source.slot.as_deref()).await {
            Ok(tags) => Some(tags.into_iter().map(|tag| (tag.key, tag.value)).collect()),
            Err(Fault::Gone | Fault::NotFound(_)) => return Ok(Err(Applied::Changed)),
            Err(fault) if fault.concerns_the_store() => {
                return Err(of_quarantine(fault.into_failure()));
            }
            Err(fault) => {
                tracing::debug!(failure = %fault.into_failure(), "the tags are not told");
                None
            }
        };
        Ok(Ok((source, Original { headers, tags })))
    }

    /// The uploader's headers of these bytes; `None` if other bytes are there, or none.
    ///
    /// # Errors
    /// When the store does not say.
    pub(crate) async fn uploader_headers(
        &self,
        identity: &Identity,
    ) -> Result<Option<Vec<(String, Vec<u8>)>>, Failure> {
        let slot = identity.slot().map(str::to_owned);
        self.all_headers(&Source { identity: identity.clone(), slot }).await
    }

    async fn find_source(&self, identity: &Identity) -> Result<Result<Source, Applied>, Failure> {
        let at = |slot: Option<String>| Ok(Ok(Source { identity: identity.clone(), slot }));
        let etag = match &identity.pin {
            Pin::Version(version) => return at(Some(version.clone())),
            Pin::Nothing => return Ok(Err(Applied::NoIdentity)),
            Pin::Etag { etag, .. } => etag,
        };
        match self.compare(identity, etag, Stage::Quarantine, Modified::Compare).await? {
            Current::Name => at(None),
            Current::NullVersion => at(Some(NULL.to_owned())),
            Current::Version(version) => at(Some(version)),
            Current::Changed | Current::Nothing => Ok(Err(Applied::Changed)),
            Current::Denied => Ok(Err(Applied::Denied)),
        }
    }

    /// The uploader's headers; `None` if other bytes are there, or none.
    async fn all_headers(
        &self,
        source: &Source,
    ) -> Result<Option<Vec<(String, Vec<u8>)>>, Failure> {
        let Source { identity, slot } = source;
        let all = Arc::<Mutex<Option<HeaderMap>>>::default();
        let head = self.head_object(&identity.bucket, &identity.key, slot.as_deref()).customize();
        match head.interceptor(With(AllHeaders(Arc::clone(&all)))).send().await {
            Ok(head) if head.e_tag().map(crate::event::plain_etag) != identity.etag.as_deref() => {
                Ok(None)
            }
            Ok(_) => {
                let all = all.lock().unwrap_or_else(PoisonError::into_inner).take();
                Ok(Some(of_uploader(&all.unwrap_or_default())))
            }
            Err(error) => match fault::of(Request::Head, &error) {
                Fault::Gone | Fault::NotFound(_) | Fault::Changed => Ok(None),
                fault => Err(fault.into_failure()),
            },
        }
    }
}

/// Whether it is a header that S3 keeps for an uploader; the name in lower case.
pub(in crate::store) fn is_of_uploader(name: &str) -> bool {
    KEPT.contains(&name) || name.starts_with(METADATA)
}

fn of_uploader(all: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    all.iter()
        .filter(|(name, _)| is_of_uploader(name.as_str()))
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect()
}
