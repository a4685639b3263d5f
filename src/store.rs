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
use std::sync::Arc;
use std::time::Duration;

use self::fault::Fault;
use self::spool::Spool;
use crate::config::StoreSettings;
use crate::failure::{Dependency, Failure, Stage};

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
        })
    }

    /// Whether the store is there and takes our credentials: HEAD of `object` (bucket and key), or
    /// a listing of buckets. An answer that concerns only this object or this right is a sign of
    /// life.
    ///
    /// # Errors
    /// The fault, of kind [`crate::failure::Kind::Suspect`].
    pub(crate) async fn probe(&self, object: Option<(&str, &str)>) -> Result<(), Failure> {
        let asked = async {
            if let Some((bucket, key)) = object {
                let head = self.client.head_object().bucket(bucket).key(key).send().await;
                match head.map_err(|error| fault::of(Stage::Fetch, &error)) {
                    // The answer to a HEAD has no body that could tell an object's 403 from one
                    // that says that our credentials are wrong.
                    Err(Fault::Denied(_)) => {}
                    answered => return answered.map(drop),
                }
            }
            let list = self.client.list_buckets().send().await;
            list.map(drop).map_err(|error| fault::of(Stage::Fetch, &error))
        };
        match tokio::time::timeout(Duration::from_secs(10), asked).await {
            Ok(Err(fault)) if fault.concerns_the_store() => Err(fault.into_failure()),
            Ok(_) => Ok(()),
            Err(_) => {
                let detail = "no answer within 10 s";
                Err(Failure::suspect(Dependency::Store, Stage::Fetch, "store_timeout", detail))
            }
        }
    }

    /// Whether this host can take another temp file.
    ///
    /// # Errors
    /// The fault, of kind [`crate::failure::Kind::Suspect`].
    pub(crate) async fn probe_temp(&self) -> Result<(), Failure> {
        spool::probe(self.temp_dir.clone()).await
    }
}
