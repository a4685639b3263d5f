//! Copies exactly the scanned bytes into another bucket, and proves the copy.
//!
//! The store copies; the bytes do not pass through here. A copy counts when the store's SHA-256 says
//! that it has the scanned bytes, or when it was read back and hashed. It is made only where nothing is
//! yet: what is there is the copy of an earlier attempt or of another replica, and is proved the same
//! way.

mod original;
mod parts;
mod small;
mod trial;

pub(super) use self::original::is_of_uploader;
pub(crate) use self::original::{Original, Source};
pub(super) use self::parts::CopyLimits;

use std::time::Duration;

use aws_sdk_s3::config::Builder;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::copy_object::{CopyObjectError, CopyObjectOutput};
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::effects::refuses_condition;
use super::fault::{self, Fault};
use super::key::for_sdk;
use super::request::Request;
use super::transport::{Patience, With};
use super::{Applied, Identity, Pin, Store};
use crate::failure::{Failure, Kind, Reason, Stage};

/// For one request that copies. A store answers when the copy is done.
const COPY_TIMEOUT: Duration = Duration::from_mins(4);
/// The condition that nothing is there yet.
const NOTHING: &str = "*";
/// What a key keeps unencoded in the header that names the source: S3's own list.
const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// Where a copy goes.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) bucket: String,
    pub(crate) key: String,
}

/// How a request to copy ended.
enum Copied {
    /// The store says that the copy has this SHA-256.
    Proved,
    /// It is there, or may be: to be proved.
    Unproved,
    /// The scanned bytes are not there any more.
    Changed,
}

impl Store {
    /// Copies the scanned bytes to `place`, unless they are there already.
    ///
    /// # Errors
    /// When a later attempt may succeed.
    pub(crate) async fn copy_aside(
        &self,
        source: &Source,
        place: &Place,
        sha256: &str,
    ) -> Result<Applied, Failure> {
        self.copy_and_prove(source, place, sha256).await.map_err(of_quarantine)
    }

    async fn copy_and_prove(
        &self,
        source: &Source,
        place: &Place,
        sha256: &str,
    ) -> Result<Applied, Failure> {
        if let Some(found) = self.look_at(place).await? {
            return self.prove(&found, sha256).await;
        }
        let copied = if source.identity.bytes() > self.copy_limits.whole {
            self.copy_parts(source, place).await?
        } else {
            self.copy_whole(source, place, sha256).await?
        };
        let Some(found) = self.look_at(place).await? else {
            return match copied {
                Copied::Changed => Ok(Applied::Changed),
                Copied::Proved | Copied::Unproved => {
                    let detail = "the copy was confirmed, and is not there";
                    Err(fault::suspect(Stage::Quarantine, Reason::StoreOdd, detail))
                }
            };
        };
        match copied {
            Copied::Proved if found.length == source.identity.length => Ok(Applied::Done),
            _ => self.prove(&found, sha256).await,
        }
    }

    /// What is at the place; `None` also where the store does not say so for want of a right.
    async fn look_at(&self, place: &Place) -> Result<Option<Identity>, Failure> {
        match self.identify(&place.bucket, &place.key, None).await {
            Err(failure) if failure.reason == Reason::StoreDenied => Ok(None),
            answer => answer,
        }
    }

    /// Reads the copy back. One that has other bytes is removed.
    async fn prove(&self, copy: &Identity, sha256: &str) -> Result<Applied, Failure> {
        let Some(found) = self.sha256_of(copy).await? else {
            let detail = "the copy was replaced while it was read back";
            return Err(Failure::transient(Stage::Quarantine, Reason::ObjectChanged, detail));
        };
        if found == sha256 {
            return Ok(Applied::Done);
        }
        let removed = self.delete(copy).await;
        let detail = "the copy has other bytes than were scanned";
        tracing::error!(key = copy.key, found, ?removed, "{detail}: removed");
        Err(Failure::transient(Stage::Quarantine, Reason::CopyDiffers, detail))
    }

    /// Copies in one request.
    async fn copy_whole(
        &self,
        source: &Source,
        place: &Place,
        sha256: &str,
    ) -> Result<Copied, Failure> {
        let sent = match self.copy_once(source, place, true).await {
            // Not all stores know the condition, or the checksum.
            Err(error) if refuses_condition(&error) => self.copy_once(source, place, false).await,
            sent => sent,
        };
        match sent {
            Ok(answer) => {
                let result = answer.copy_object_result();
                let is_proof = result.is_some_and(|result| {
                    result.checksum_type() != Some(&ChecksumType::Composite)
                        && result.checksum_sha256().and_then(hex_of).as_deref() == Some(sha256)
                });
                Ok(if is_proof { Copied::Proved } else { Copied::Unproved })
            }
            Err(error) => self.after_refusal_to_copy(fault::of(Request::Copy, &error), place).await,
        }
    }

    /// What an error in answer to a copy means. It may have been made all the same.
    async fn after_refusal_to_copy(&self, fault: Fault, place: &Place) -> Result<Copied, Failure> {
        match fault {
            // The source is gone or another one, or the copy is there by now.
            Fault::Gone | Fault::Changed => Ok(Copied::Changed),
            Fault::Other(failure) if matches!(failure.kind, Kind::Suspect(_)) => {
                match self.look_at(place).await {
                    Ok(Some(_)) => Ok(Copied::Unproved),
                    Ok(None) | Err(_) => Err(failure),
                }
            }
            fault => Err(fault.into_failure()),
        }
    }

    /// Sends one request to copy. The SDK does not repeat it: a repeat would find what the first one
    /// made.
    async fn copy_once(
        &self,
        source: &Source,
        place: &Place,
        conditional: bool,
    ) -> Result<CopyObjectOutput, SdkError<CopyObjectError, HttpResponse>> {
        let copy = self.client.copy_object().bucket(&place.bucket).key(for_sdk(&place.key));
        let copy = copy.copy_source(source.header()).set_copy_source_if_match(source.if_match());
        let copy = copy.set_if_none_match(conditional.then(|| NOTHING.to_owned()));
        let checksum = conditional.then_some(ChecksumAlgorithm::Sha256);
        let copy = copy.set_checksum_algorithm(checksum).customize();
        copy.config_override(patient()).interceptor(With(Patience(COPY_TIMEOUT))).send().await
    }
}

impl Source {
    /// The header that names it.
    fn header(&self) -> String {
        let Identity { bucket, key, .. } = &self.identity;
        let key = utf8_percent_encode(key, ENCODED);
        match &self.slot {
            Some(slot) => {
                format!("{bucket}/{key}?versionId={}", utf8_percent_encode(slot, NON_ALPHANUMERIC))
            }
            None => format!("{bucket}/{key}"),
        }
    }

    /// The condition that these are still the scanned bytes; a version needs none.
    fn if_match(&self) -> Option<String> {
        match &self.identity.pin {
            Pin::Etag { etag, .. } => Some(format!("\"{etag}\"")),
            Pin::Version(_) | Pin::Nothing => None,
        }
    }
}

/// For requests that are sent once and may take long.
fn patient() -> Builder {
    let timeouts = TimeoutConfig::builder()
        .operation_attempt_timeout(COPY_TIMEOUT)
        .operation_timeout(COPY_TIMEOUT)
        .build();
    Builder::new().retry_config(RetryConfig::disabled()).timeout_config(timeouts)
}

/// The same failure, at the stage that it belongs to here.
fn of_quarantine(failure: Failure) -> Failure {
    Failure { stage: Stage::Quarantine, ..failure }
}

/// A checksum as S3 writes it, in hexadecimal.
fn hex_of(base64: &str) -> Option<String> {
    STANDARD.decode(base64).ok().map(hex::encode)
}

#[cfg(test)]
mod tests;
