//! Fetches, tags and deletes one exact version of an object.
//!
//! The only room that knows S3. What a later step may touch is named by an [`Identity`]: what the
//! GET answered about the very bytes that were downloaded, never what the notification said.

mod arrival;
mod client;
mod credentials;
mod effects;
mod fault;
mod fetch;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod key;
mod spool;
mod survey;
mod transport;
mod trial;
mod versions;

pub(crate) use self::arrival::{Reader, Spooled};
pub(crate) use self::effects::Applied;
pub(crate) use self::fetch::{Fetched, Look};
pub(crate) use self::survey::{Bearing, Finding};

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::DateTime;
use tokio::time::error::Elapsed;

use self::fault::Asked;
use self::key::given;
use self::spool::Spool;
use crate::config::StoreSettings;
use crate::event::plain_etag;
use crate::failure::{Dependency, Failure, Reason, Stage};
use crate::tls::Trust;

/// A store that says nothing for this long is down.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// The version id of what was written while versioning was off or suspended: a slot, not bytes.
const NULL: &str = "null";
/// What `RustFS` was seen to call the same slot.
const NIL: &str = "00000000-0000-0000-0000-000000000000";

/// Objects that testify whether the store is up.
const WITNESSES: usize = 8;

/// Which bytes: what the store said about them when it handed them out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) pin: Pin,
    /// The `ETag` without quotes, where the store told one.
    pub(crate) etag: Option<String>,
    /// Bytes, where the store told it.
    pub(crate) length: Option<u64>,
    /// `Last-Modified` in seconds since 1970, where the store told it.
    modified: Option<i64>,
}

/// What makes sure that an effect reaches the scanned bytes and no others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pin {
    /// An immutable version of a versioned bucket.
    Version(String),
    /// The bytes under a name, told apart by `ETag`. `null` is the version id of objects that were
    /// written while versioning was off or suspended; it names a slot, not bytes.
    Etag {
        /// Quotes removed.
        etag: String,
        /// The store answered with the version id `null`.
        null_version: bool,
    },
    /// Nothing: no effect is possible.
    Nothing,
}

impl Identity {
    fn new(
        bucket: &str,
        key: &str,
        version_id: Option<&str>,
        etag: Option<&str>,
        length: Option<i64>,
    ) -> Self {
        let etag = etag.map(plain_etag).filter(|etag| !etag.is_empty());
        let pin = match (version_id.filter(|id| !id.is_empty()), etag) {
            (Some(version), _) if !matches!(version, NULL | NIL) => {
                Pin::Version(version.to_owned())
            }
            (version, Some(etag)) => {
                Pin::Etag { etag: etag.to_owned(), null_version: version.is_some() }
            }
            (_, None) => Pin::Nothing,
        };
        Self {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            pin,
            etag: etag.map(str::to_owned),
            length: length.and_then(|n| u64::try_from(n).ok()),
            modified: None,
        }
    }

    fn modified(mut self, modified: Option<&DateTime>) -> Self {
        self.modified = modified.map(DateTime::secs);
        self
    }

    /// What a notification announced, whose length some stores get wrong.
    pub(crate) fn of_announced(
        bucket: &str,
        key: &str,
        version_id: Option<&str>,
        etag: Option<&str>,
    ) -> Self {
        Self::new(bucket, key, version_id, etag, None)
    }

    /// Bytes, 0 where the store did not tell.
    pub(crate) fn bytes(&self) -> u64 {
        self.length.unwrap_or(0)
    }

    /// What to name in a request that means these bytes: the version id, or the slot `null`.
    fn slot(&self) -> Option<&str> {
        match &self.pin {
            Pin::Version(version) => Some(version),
            Pin::Etag { null_version: true, .. } => Some(NULL),
            Pin::Etag { null_version: false, .. } | Pin::Nothing => None,
        }
    }

    /// The version id, where the bucket has versions.
    pub(crate) fn version_id(&self) -> Option<&str> {
        match &self.pin {
            Pin::Version(version) => Some(version),
            Pin::Etag { .. } | Pin::Nothing => None,
        }
    }
}

/// The object store.
pub(crate) struct Store {
    client: aws_sdk_s3::Client,
    spool: Arc<Spool>,
    temp_dir: PathBuf,
    max_object: u64,
    /// Bucket and key of the last downloads that succeeded, newest first: what the store could do
    /// then, it should still be able to do.
    last_good: Mutex<VecDeque<(String, String)>>,
    /// It could do none of them, when it was last asked: a listing of buckets alone does not prove
    /// that the store is back.
    doubted: AtomicBool,
    /// It was seen to have tags.
    has_tags: AtomicBool,
    said_no_tagging: AtomicBool,
}

impl Store {
    /// A client for the store; nothing is sent yet.
    ///
    /// # Errors
    /// When the TLS settings cannot be used.
    pub(crate) async fn new(settings: &StoreSettings, trust: &Trust) -> Result<Self, String> {
        Ok(Self {
            client: client::build(settings, trust).await?,
            spool: Arc::new(Spool::new(settings.spool)),
            temp_dir: settings.temp_dir.clone(),
            max_object: settings.max_object,
            last_good: Mutex::default(),
            doubted: AtomicBool::new(false),
            has_tags: AtomicBool::new(false),
            said_no_tagging: AtomicBool::new(false),
        })
    }

    /// Whether the store is there and takes our credentials, asked for at most `patience`: by a
    /// listing of buckets and, if that was not enough lately, by one of the last objects that could
    /// be fetched. A listing that is denied is a sign of life.
    ///
    /// # Errors
    /// The fault, of kind [`crate::failure::Kind::Suspect`].
    pub(crate) async fn probe(&self, patience: Duration) -> Result<(), Failure> {
        let patience = patience.min(PROBE_TIMEOUT);
        self.probe_listing(patience).await?;
        if self.doubted.load(Ordering::Relaxed) {
            self.probe_any(&self.last_good(), patience).await.unwrap_or(Ok(()))?;
        }
        self.doubted.store(false, Ordering::Relaxed);
        Ok(())
    }

    async fn probe_listing(&self, patience: Duration) -> Result<(), Failure> {
        let down = |reason, detail: String| {
            Err(Failure::suspect(Dependency::Store, Stage::Fetch, reason, detail))
        };
        let list = self.client.list_buckets().send();
        match tokio::time::timeout(patience, list).await {
            Ok(Ok(list)) if list.buckets.is_some() || list.owner.is_some() => Ok(()),
            Ok(Ok(_)) => down(Reason::StoreOdd, "what answers there is no S3 store".to_owned()),
            Ok(Err(error)) => match (error.code(), fault::of(Asked::Buckets, &error)) {
                (_, fault) if fault.concerns_the_store() => Err(fault.into_failure()),
                (Some(_), _) => Ok(()),
                (None, fault) => down(Reason::StoreOdd, fault.into_failure().detail),
            },
            Err(_) => down(Reason::StoreTimeout, format!("no answer within {patience:?}")),
        }
    }

    /// Whether the store is up, asked after it failed on one object (bucket and key). If it is, the
    /// failure is the object's own: one broken object must not stop all others.
    ///
    /// # Errors
    /// The fault, of kind [`crate::failure::Kind::Suspect`].
    pub(crate) async fn probe_after(&self, bucket: &str, key: &str) -> Result<(), Failure> {
        let object = self.probe_object(bucket, key, PROBE_TIMEOUT).await;
        // The answer to a HEAD has no body that could tell an object's 403 from one that says that
        // our credentials are wrong.
        self.probe_listing(PROBE_TIMEOUT).await?;
        if object.is_ok() {
            return Ok(());
        }
        let mut others = self.last_good();
        others.retain(|(b, k)| (b.as_str(), k.as_str()) != (bucket, key));
        let answer = match self.probe_any(&others, PROBE_TIMEOUT).await {
            Some(answer) => answer,
            // Nothing was ever fetched: is at least the bucket answered for?
            None => self.probe_bucket(bucket).await,
        };
        self.doubted.store(answer.is_err(), Ordering::Relaxed);
        answer
    }

    /// HEAD; any answer below 500 is a sign of life.
    async fn probe_object(
        &self,
        bucket: &str,
        key: &str,
        patience: Duration,
    ) -> Result<(), Failure> {
        let head = self.client.head_object().bucket(bucket).key(given(key)).send();
        answered(tokio::time::timeout(patience, head).await)
    }

    /// Whether the store is up for any of these objects; `None` without one.
    async fn probe_any(
        &self,
        objects: &VecDeque<(String, String)>,
        patience: Duration,
    ) -> Option<Result<(), Failure>> {
        let probes =
            objects.iter().map(|(bucket, key)| Box::pin(self.probe_object(bucket, key, patience)));
        let probes: Vec<_> = probes.collect();
        if probes.is_empty() {
            return None;
        }
        Some(futures_util::future::select_ok(probes).await.map(|((), _)| ()))
    }

    async fn probe_bucket(&self, bucket: &str) -> Result<(), Failure> {
        let head = self.client.head_bucket().bucket(bucket).send();
        answered(tokio::time::timeout(PROBE_TIMEOUT, head).await)
    }

    fn last_good(&self) -> VecDeque<(String, String)> {
        self.last_good.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember_good(&self, identity: &Identity) {
        let good = (identity.bucket.clone(), identity.key.clone());
        let mut all = self.last_good.lock().unwrap_or_else(PoisonError::into_inner);
        if all.front() != Some(&good) {
            all.truncate(WITNESSES - 1);
            all.push_front(good);
        }
    }

    /// Whether this host can take another temp file.
    ///
    /// # Errors
    /// The fault, of kind [`crate::failure::Kind::Suspect`].
    pub(crate) async fn probe_temp(&self) -> Result<(), Failure> {
        let probed = tokio::time::timeout(PROBE_TIMEOUT, spool::probe(self.temp_dir.clone()));
        probed.await.unwrap_or_else(|_| {
            let detail = "the temp folder does not answer";
            Err(Failure::suspect(Dependency::Host, Stage::Fetch, Reason::TempDisk, detail))
        })
    }
}

/// Any answer below 500 is a sign of life.
fn answered<T, E>(
    answer: Result<Result<T, SdkError<E, HttpResponse>>, Elapsed>,
) -> Result<(), Failure>
where
    E: ProvideErrorMetadata + RequestId + std::error::Error + 'static,
{
    match answer {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => match fault::of(Asked::Head, &error) {
            fault if fault.concerns_the_store() => Err(fault.into_failure()),
            _ => Ok(()),
        },
        Err(_) => {
            let (dependency, stage) = (Dependency::Store, Stage::Fetch);
            Err(Failure::suspect(dependency, stage, Reason::StoreTimeout, "no answer in time"))
        }
    }
}
