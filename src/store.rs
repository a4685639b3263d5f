//! Fetches, tags and deletes one exact version of an object.
//!
//! The only room that knows S3. What a later step may touch is named by an [`Identity`]: what the
//! GET answered about the very bytes that were downloaded, never what the notification said.

mod client;
mod effects;
mod fault;
mod fetch;
mod spool;

pub(crate) use self::effects::Applied;
pub(crate) use self::fetch::{Download, Fetched};

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_s3::error::ProvideErrorMetadata;

use self::spool::Spool;
use crate::config::StoreSettings;
use crate::failure::{Dependency, Failure, Stage};

/// A store that says nothing for this long is down.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Which bytes: what the store said about them when it handed them out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) pin: Pin,
    /// The `ETag` without quotes, where the store told one.
    pub(crate) etag: Option<String>,
    /// Bytes.
    pub(crate) length: u64,
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
        let etag = etag.map(|etag| etag.trim_matches('"')).filter(|etag| !etag.is_empty());
        let pin = match (version_id, etag) {
            (Some(version), _) if !matches!(version, "" | "null") => {
                Pin::Version(version.to_owned())
            }
            (version, Some(etag)) => {
                Pin::Etag { etag: etag.to_owned(), null_version: version == Some("null") }
            }
            (_, None) => Pin::Nothing,
        };
        Self {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            pin,
            etag: etag.map(str::to_owned),
            length: length.and_then(|n| u64::try_from(n).ok()).unwrap_or(0),
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
    /// Bucket and key of the last download that succeeded: what the store could do then, it should
    /// still be able to do.
    last_good: Mutex<Option<(String, String)>>,
}

impl Store {
    /// A client for the store; nothing is sent yet.
    ///
    /// # Errors
    /// When the TLS settings cannot be used.
    pub(crate) async fn new(settings: &StoreSettings, ca: Option<&[u8]>) -> Result<Self, String> {
        Ok(Self {
            client: client::build(settings, ca).await?,
            spool: Arc::new(Spool::new(settings.spool)),
            temp_dir: settings.temp_dir.clone(),
            max_object: settings.max_object,
            last_good: Mutex::default(),
        })
    }

    /// Whether the store is there and takes our credentials, by a listing of buckets. A listing
    /// that is denied is a sign of life.
    ///
    /// # Errors
    /// The fault, of kind [`crate::failure::Kind::Suspect`].
    pub(crate) async fn probe(&self) -> Result<(), Failure> {
        let down = |label, detail: String| {
            Err(Failure::suspect(Dependency::Store, Stage::Fetch, label, detail))
        };
        let list = self.client.list_buckets().send();
        match tokio::time::timeout(PROBE_TIMEOUT, list).await {
            Ok(Ok(list)) if list.buckets.is_some() || list.owner.is_some() => Ok(()),
            Ok(Ok(_)) => down("store_odd", "what answers there is no S3 store".to_owned()),
            Ok(Err(error)) => match (error.code(), fault::of(Stage::Fetch, &error)) {
                (_, fault) if fault.concerns_the_store() => Err(fault.into_failure()),
                (Some(_), _) => Ok(()),
                (None, fault) => down("store_odd", fault.into_failure().detail),
            },
            Err(_) => down("store_timeout", format!("no answer within {PROBE_TIMEOUT:?}")),
        }
    }

    /// Whether the store is up, asked after it failed on one object (bucket and key). If it is, the
    /// failure is the object's own: one broken object must not stop all others.
    ///
    /// # Errors
    /// The fault, of kind [`crate::failure::Kind::Suspect`].
    pub(crate) async fn probe_after(&self, bucket: &str, key: &str) -> Result<(), Failure> {
        let Err(failure) = self.probe_object(bucket, key).await else {
            // The answer to a HEAD has no body that could tell an object's 403 from one that says
            // that our credentials are wrong.
            return self.probe().await;
        };
        self.probe().await?;
        let good = self.last_good.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match good.filter(|good| (good.0.as_str(), good.1.as_str()) != (bucket, key)) {
            Some((bucket, key)) => self.probe_object(&bucket, &key).await,
            None => Err(failure),
        }
    }

    /// HEAD; any answer below 500 is a sign of life.
    async fn probe_object(&self, bucket: &str, key: &str) -> Result<(), Failure> {
        let head = self.client.head_object().bucket(bucket).key(key).send();
        match tokio::time::timeout(PROBE_TIMEOUT, head).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => match fault::of(Stage::Tag, &error) {
                fault if fault.concerns_the_store() => Err(fault.into_failure()),
                _ => Ok(()),
            },
            Err(_) => {
                let detail = format!("no answer within {PROBE_TIMEOUT:?}");
                Err(Failure::suspect(Dependency::Store, Stage::Fetch, "store_timeout", detail))
            }
        }
    }

    fn remember_good(&self, identity: &Identity) {
        let good = Some((identity.bucket.clone(), identity.key.clone()));
        *self.last_good.lock().unwrap_or_else(PoisonError::into_inner) = good;
    }

    /// Whether this host can take another temp file.
    ///
    /// # Errors
    /// The fault, of kind [`crate::failure::Kind::Suspect`].
    pub(crate) async fn probe_temp(&self) -> Result<(), Failure> {
        spool::probe(self.temp_dir.clone()).await
    }
}
