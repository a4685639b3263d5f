//! A client of the store.

mod signed;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, Credentials, Region, RequestChecksumCalculation,
    ResponseChecksumValidation,
};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketVersioningStatus, Event, NotificationConfiguration, QueueConfiguration, Tag, Tagging,
    VersioningConfiguration,
};
use peers::eicar::hex;
use peers::error::{Context, Error, Result};
use sha2::{Digest, Sha256};

use self::signed::Account;
pub use self::signed::RawAnswer;
use crate::state::Settings;

/// The gateway's name for its only webhook.
const WEBHOOK: &str = "arn:minio:sqs::1:webhook";

/// The bucket that the stack's own daemon moves infected objects to.
pub(crate) const QUARANTINE: &str = "quarantine";

/// A client of one bucket.
#[derive(Debug, Clone)]
pub struct S3 {
    /// The client below, for everything that has no method here.
    pub client: Client,
    /// The bucket of all methods.
    pub bucket: String,
    account: Account,
}

/// The answer to a HEAD of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its length in bytes.
    pub size: i64,
    /// Its entity tag, with the quotes that the store puts around it.
    pub etag: Option<String>,
    /// Its version, where the bucket has versions.
    pub version_id: Option<String>,
    /// Its content type.
    pub content_type: Option<String>,
}

/// One entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The object's key.
    pub key: String,
    /// Its length in bytes.
    pub size: i64,
}

impl S3 {
    /// A client of the stack's own bucket.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let Settings { s3_url, s3_access_key, s3_secret_key, s3_region, bucket, .. } = settings;
        Self::at(s3_url, s3_access_key, s3_secret_key, s3_region, bucket)
    }

    /// A client of any bucket of any store.
    #[must_use]
    pub fn at(url: &str, access_key: &str, secret_key: &str, region: &str, bucket: &str) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(5))
            .read_timeout(Duration::from_mins(2))
            .build();
        let config = Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region.to_owned()))
            .endpoint_url(url)
            .force_path_style(true)
            .credentials_provider(Credentials::new(access_key, secret_key, None, None, "stack"))
            .timeout_config(timeouts)
            // Stores of MinIO's lineage refuse the newer checksums in a streamed upload.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        let account = Account {
            url: url.to_owned(),
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            region: region.to_owned(),
        };
        Self { client: Client::from_conf(config), bucket: bucket.to_owned(), account }
    }

    /// A client of another bucket of the same store.
    #[must_use]
    pub fn with_bucket(&self, bucket: &str) -> Self {
        Self { bucket: bucket.to_owned(), ..self.clone() }
    }

    /// Makes the bucket; an existing one is no error.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn create_bucket(&self) -> Result<()> {
        let made = self.client.create_bucket().bucket(&self.bucket).send().await;
        match made {
            Err(error) if error.code() != Some("BucketAlreadyOwnedByYou") => {
                Err(with_causes(&error)).context(format!("create bucket {}", self.bucket))
            }
            _ => Ok(()),
        }
    }

    /// Gives the bucket versions, or suspends them.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn set_versioning(&self, on: bool) -> Result<()> {
        let status =
            if on { BucketVersioningStatus::Enabled } else { BucketVersioningStatus::Suspended };
        let configuration = VersioningConfiguration::builder().status(status).build();
        let put = self.client.put_bucket_versioning().bucket(&self.bucket);
        let put = put.versioning_configuration(configuration).send().await;
        put.map_err(|error| with_causes(&error)).context(format!("versions of {}", self.bucket))?;
        Ok(())
    }

    /// Makes the store announce every new object of the bucket by its webhook.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn announce(&self) -> Result<()> {
        let queue = QueueConfiguration::builder()
            .id("webhooks")
            .queue_arn(WEBHOOK)
            .events(Event::S3ObjectCreated)
            .build()
            .context("notification")?;
        let wanted = NotificationConfiguration::builder().queue_configurations(queue).build();
        self.client
            .put_bucket_notification_configuration()
            .bucket(&self.bucket)
            .notification_configuration(wanted)
            .send()
            .await
            .map_err(|error| with_causes(&error))
            .context(format!("notifications of {}", self.bucket))?;
        Ok(())
    }

    /// Uploads bytes; returns the `ETag`.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn put(&self, key: &str, content: impl Into<Vec<u8>>) -> Result<String> {
        self.put_body(key, ByteStream::from(content.into())).await
    }

    /// Uploads bytes with headers in any bytes, as no SDK would send them. Names are in lower case.
    ///
    /// # Errors
    /// When the store cannot be reached. A refusal is returned as an answer.
    pub async fn put_raw(
        &self,
        key: &str,
        content: &[u8],
        headers: &[(String, Vec<u8>)],
    ) -> Result<RawAnswer> {
        self.account.send("PUT", (&self.bucket, key, None), headers, content).await
    }

    /// The answer to a HEAD of an object, or of one of its versions, byte for byte.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn head_raw(&self, key: &str, version: Option<&str>) -> Result<RawAnswer> {
        self.account.send("HEAD", (&self.bucket, key, version), &[], b"").await
    }

    /// The bytes of a request about an object, signed; a store takes them for some minutes. `query` is
    /// sorted by name, and each name has a `=`.
    #[must_use]
    pub fn signed(&self, method: &str, key: &str, query: &str, content: &[u8]) -> Vec<u8> {
        self.account.request(method, (&self.bucket, key, query), &[], content)
    }

    /// Uploads a file without reading it into memory; returns the `ETag`.
    ///
    /// # Errors
    /// When the file cannot be read or the store refuses.
    pub async fn put_file(&self, key: &str, file: &Path) -> Result<String> {
        let body = ByteStream::from_path(file).await.context(file.display())?;
        self.put_body(key, body).await
    }

    /// Uploads a body from any source; returns the `ETag`.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn put_body(&self, key: &str, body: ByteStream) -> Result<String> {
        let put = self.client.put_object().bucket(&self.bucket).key(key).body(body).send().await;
        let answer = put.map_err(|error| with_causes(&error)).context(format!("put {key}"))?;
        Ok(answer.e_tag.unwrap_or_default())
    }

    /// Downloads an object; `None` when there is no such object.
    ///
    /// # Errors
    /// When the store refuses or the answer breaks off.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let got = self.client.get_object().bucket(&self.bucket).key(key).send().await;
        let Some(answer) = present(got).context(format!("get {key}"))? else {
            return Ok(None);
        };
        let body = answer.body.collect().await.context(format!("get {key}"))?;
        Ok(Some(body.to_vec()))
    }

    /// The SHA-256 of an object, in lower-case hexadecimal, without keeping its bytes; `None` when there is
    /// no such object.
    ///
    /// # Errors
    /// When the store refuses or the answer breaks off.
    pub async fn sha256(&self, key: &str) -> Result<Option<String>> {
        let got = self.client.get_object().bucket(&self.bucket).key(key).send().await;
        let Some(answer) = present(got).context(format!("get {key}"))? else {
            return Ok(None);
        };
        let (mut body, mut hash) = (answer.body, Sha256::new());
        while let Some(chunk) = body.try_next().await.context(format!("get {key}"))? {
            hash.update(&chunk);
        }
        Ok(Some(hex(&hash.finalize())))
    }

    /// Asks for an object's metadata; `None` when there is no such object.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn head(&self, key: &str) -> Result<Option<Head>> {
        let head = self.client.head_object().bucket(&self.bucket).key(key).send().await;
        Ok(present(head).context(format!("head {key}"))?.map(|head| Head {
            size: head.content_length.unwrap_or_default(),
            etag: head.e_tag,
            version_id: head.version_id,
            content_type: head.content_type,
        }))
    }

    /// The tags of an object; `None` when there is no such object.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn tags(&self, key: &str) -> Result<Option<BTreeMap<String, String>>> {
        // The gateway answers 500 when asked for the tags of a missing object.
        if self.head(key).await?.is_none() {
            return Ok(None);
        }
        let tags = self.client.get_object_tagging().bucket(&self.bucket).key(key).send().await;
        let gone =
            matches!(&tags, Err(SdkError::ServiceError(_))) && self.head(key).await?.is_none();
        if gone {
            return Ok(None);
        }
        let tags = tags.map_err(|error| with_causes(&error)).context(format!("tags of {key}"))?;
        Ok(Some(tags.tag_set.into_iter().map(|tag| (tag.key, tag.value)).collect()))
    }

    /// Sets the whole set of tags of an object.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn set_tags(&self, key: &str, tags: &[(&str, &str)]) -> Result<()> {
        let mut set = Vec::new();
        for (name, value) in tags {
            set.push(Tag::builder().key(*name).value(*value).build().context("tag")?);
        }
        let set = Tagging::builder().set_tag_set(Some(set)).build().context("tags")?;
        let put = self.client.put_object_tagging().bucket(&self.bucket).key(key).tagging(set);
        put.send().await.map_err(|error| with_causes(&error)).context(format!("tag {key}"))?;
        Ok(())
    }

    /// Deletes an object; a missing one is no error.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let gone = self.client.delete_object().bucket(&self.bucket).key(key).send().await;
        gone.map_err(|error| with_causes(&error)).context(format!("delete {key}"))?;
        Ok(())
    }

    /// All objects of the bucket.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn list(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut pages = self.client.list_objects_v2().bucket(&self.bucket).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page
                .map_err(|error| with_causes(&error))
                .context(format!("list {}", self.bucket))?;
            entries.extend(page.contents.unwrap_or_default().into_iter().map(|object| Entry {
                key: object.key.unwrap_or_default(),
                size: object.size.unwrap_or_default(),
            }));
        }
        Ok(entries)
    }
}

/// Makes the stack's buckets; the events of the one that is scanned are sent by the webhook.
///
/// # Errors
/// When the store refuses.
pub async fn prepare_bucket(settings: &Settings) -> Result<()> {
    let s3 = S3::new(settings);
    s3.create_bucket().await?;
    s3.with_bucket(QUARANTINE).create_bucket().await?;
    s3.announce().await
}

/// `None` when the store answers 404.
fn present<T, E>(answer: std::result::Result<T, SdkError<E>>) -> Result<Option<T>>
where
    E: std::error::Error + Send + Sync + 'static,
{
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.raw_response().is_some_and(|raw| raw.status().as_u16() == 404) => {
            Ok(None)
        }
        Err(error) => Err(with_causes(&error)),
    }
}

/// The SDK's errors only say "service error" unless the whole chain is printed.
fn with_causes<E>(error: &SdkError<E>) -> Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    Error::new(DisplayErrorContext(error).to_string())
}
