//! Objects of our own: writes them, and removes them if they still are what was written.

use aws_sdk_s3::config::Builder;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use bytes::Bytes;

use super::survey::{brief, status};
use super::{Applied, Claim, Fetched, Look, Store, fault};
use crate::event::ObjectRef;
use crate::failure::{Failure, Reason};

/// Nothing that we write is longer, in bytes.
const MAX_OWN: u64 = 1024;
/// As S3 calls it.
const NO_BUCKET: &str = "NoSuchBucket";

/// Why an object of our own could not be written or removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OwnFault {
    /// A right is missing.
    #[error("a right is missing: allow s3:{right} ({answer})")]
    Denied {
        /// As S3 calls it, without the prefix.
        right: &'static str,
        /// What the store answered.
        answer: String,
    },
    /// There is no such bucket, so there is nothing in it either.
    #[error("there is no bucket of this name (NoSuchBucket)")]
    NoBucket,
    /// Anything else; it may pass.
    #[error("the store fails: {0}")]
    Failed(String),
}

/// What became of an object that was to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    /// It is not there, or not any more.
    Gone,
    /// Other bytes are there. They were left alone.
    NotOurs,
}

impl Store {
    /// Writes an object under a key that nobody else uses.
    ///
    /// # Errors
    /// When the store does not confirm it. It may be there all the same.
    pub(crate) async fn put_own(
        &self,
        bucket: &str,
        key: &str,
        body: Bytes,
    ) -> Result<(), OwnFault> {
        // A repeat by the SDK could write a second version of it.
        let once = Builder::new().retry_config(RetryConfig::disabled());
        let put = self.client.put_object().bucket(bucket).key(key).body(ByteStream::from(body));
        let put = put.content_type("text/plain").customize().config_override(once).send().await;
        put.map(drop).map_err(|error| refused("PutObject", &error))
    }

    /// Whether every new object of the bucket is kept by a rule of retention.
    ///
    /// # Errors
    /// When the store does not say.
    pub(crate) async fn keeps_new_objects(&self, bucket: &str) -> Result<bool, OwnFault> {
        let asked = self.client.get_object_lock_configuration().bucket(bucket).send().await;
        match asked {
            Ok(answer) => {
                let rule = answer.object_lock_configuration.and_then(|lock| lock.rule);
                Ok(rule.is_some_and(|rule| rule.default_retention.is_some()))
            }
            Err(error) => match (status(&error), error.code()) {
                (_, Some(NO_BUCKET)) => Err(OwnFault::NoBucket),
                // There is no such configuration, or the store has no such thing.
                (Some(404 | 405 | 501), _)
                | (_, Some("NotImplemented" | "InvalidRequest" | "MethodNotAllowed")) => Ok(false),
                _ => Err(refused("GetBucketObjectLockConfiguration", &error)),
            },
        }
    }

    /// Whether a worker has acted on an object of ours: it is gone, or has the tag `tag_key`. `false`
    /// where the store does not say.
    pub(crate) async fn was_acted_on(&self, bucket: &str, key: &str, tag_key: &str) -> bool {
        match self.client.get_object_tagging().bucket(bucket).key(key).send().await {
            Ok(answer) => answer.tag_set.iter().any(|tag| tag.key == tag_key),
            Err(error) => (status(&error), error.code()) == (Some(404), Some("NoSuchKey")),
        }
    }

    /// Opens what is under the key now.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) async fn open_current(&self, bucket: &str, key: &str) -> Result<Fetched, Failure> {
        let object = ObjectRef {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            version_id: None,
            // Versions below it are not asked for.
            uncovered: true,
            etag: None,
            size: None,
            sequencer: None,
            event_time: None,
            file: None,
        };
        self.open(&object, Look::First, Claim::Firm).await
    }

    /// Removes what is under the key, if these are the bytes with this SHA-256: exactly this version,
    /// or as long as the `ETag` is that of these bytes.
    ///
    /// # Errors
    /// When it may still be there.
    pub(crate) async fn remove_own(
        &self,
        bucket: &str,
        key: &str,
        sha256: &str,
    ) -> Result<Removal, OwnFault> {
        let get = |failure: Failure| of_failure("GetObject", &failure);
        let download = match self.open_current(bucket, key).await {
            Ok(Fetched::Download(download)) => download,
            Ok(Fetched::Gone) => return Ok(Removal::Gone),
            Ok(Fetched::TooLarge(_) | Fetched::Unreadable(_) | Fetched::Versions(_)) => {
                return Ok(Removal::NotOurs);
            }
            Err(failure) if failure.reason == Reason::StoreNotFound => {
                let missing = self.has_no_bucket(bucket, key).await;
                return Err(if missing { OwnFault::NoBucket } else { get(failure) });
            }
            Err(failure) => return Err(get(failure)),
        };
        if download.identity.bytes() > MAX_OWN {
            return Ok(Removal::NotOurs);
        }
        let downloaded = download.receive().await.map_err(get)?;
        if downloaded.sha256().await.map_err(get)? != sha256 {
            return Ok(Removal::NotOurs);
        }
        let right = match downloaded.identity.version_id() {
            Some(_) => "DeleteObjectVersion",
            None => "DeleteObject",
        };
        let deleted = self.delete(&downloaded.identity).await;
        match deleted.map_err(|failure| of_failure(right, &failure))? {
            Applied::Done => Ok(Removal::Gone),
            Applied::Changed => Ok(Removal::NotOurs),
            Applied::Denied => {
                Err(OwnFault::Denied { right, answer: "the deletion is denied".to_owned() })
            }
            refused => Err(OwnFault::Failed(format!("the object cannot be removed: {refused:?}"))),
        }
    }

    /// Whether the store says that there is no such bucket. Asked by the right that reading needs.
    async fn has_no_bucket(&self, bucket: &str, key: &str) -> bool {
        let asked = self.client.get_object().bucket(bucket).key(key).send().await;
        asked.is_err_and(|error| error.code() == Some(NO_BUCKET))
    }
}

fn refused<E>(right: &'static str, error: &SdkError<E, HttpResponse>) -> OwnFault
where
    E: ProvideErrorMetadata + RequestId + std::error::Error + 'static,
{
    let answer = brief(error);
    match (status(error), error.code()) {
        (_, Some(NO_BUCKET)) => OwnFault::NoBucket,
        (Some(403), _) => OwnFault::Denied { right, answer },
        _ => OwnFault::Failed(answer),
    }
}

fn of_failure(right: &'static str, failure: &Failure) -> OwnFault {
    // With it, the same fault would be news in each round.
    let answer = fault::without_request_id(&failure.detail).to_owned();
    match failure.reason {
        Reason::StoreDenied => OwnFault::Denied { right, answer },
        _ => OwnFault::Failed(answer),
    }
}
