//! Compares what is in the bucket with what was scanned.

use std::borrow::Cow;

use aws_sdk_s3::operation::RequestId;

use crate::failure::{Failure, Kind, Reason, Stage};
use crate::store::fault::{self, Fault};
use crate::store::identity::NULL;
use crate::store::request::Request;
use crate::store::{Identity, Pin, Store};

/// Where the scanned bytes are now.
pub(in crate::store) enum Current {
    /// At this version id. The bucket may have been given versions after the scan.
    Version(String),
    /// In the slot `null` of a bucket that has, or had, versions.
    NullVersion,
    /// Under the bare name.
    Name,
    /// Nowhere: other bytes are there.
    Changed,
    /// Nowhere: nothing is there.
    Nothing,
    /// Unknown: the store denies both HEAD and GET.
    Denied,
}

/// Whether another `Last-Modified` means other bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Modified {
    Compare,
    Ignore,
}

impl Store {
    /// Looks for the scanned bytes: under the name and, if a version covers them there, in the slot
    /// `null` below it. `stage` is that of the effect they are compared for.
    ///
    /// # Errors
    /// When the store gives no usable answer.
    pub(in crate::store) async fn compare(
        &self,
        identity: &Identity,
        etag: &str,
        stage: Stage,
        modified: Modified,
    ) -> Result<Current, Failure> {
        // The ETag is not enough: an uploader can create two objects with the same MD5.
        let identity = match modified {
            Modified::Compare => Cow::Borrowed(identity),
            Modified::Ignore => Cow::Owned(Identity { modified: None, ..identity.clone() }),
        };
        let identity = &*identity;
        let null_only = matches!(identity.pin, Pin::Etag { null_version: true, .. });
        if null_only {
            return self.compare_at(identity, etag, stage, Some(NULL)).await.map(|(at, _)| at);
        }
        match self.compare_at(identity, etag, stage, None).await? {
            (Current::Changed, true) => {
                match self.compare_at(identity, etag, stage, Some(NULL)).await {
                    Ok((Current::Denied, _)) => Ok(Current::Changed),
                    Ok((at, _)) => Ok(at),
                    Err(failure) if matches!(failure.kind, Kind::Suspect(_)) => Err(failure),
                    // The store does not understand the question, so there is no slot `null`.
                    Err(_) => Ok(Current::Changed),
                }
            }
            (current, _) => Ok(current),
        }
    }

    /// Compares at the name, or at `version`. Also returns whether the answer is about a real
    /// version.
    ///
    /// # Errors
    /// When the store gives no usable answer.
    pub(in crate::store) async fn compare_at(
        &self,
        identity: &Identity,
        etag: &str,
        stage: Stage,
        version: Option<&str>,
    ) -> Result<(Current, bool), Failure> {
        let Identity { bucket, key, .. } = identity;
        let head = match self.head_object(bucket, key, version).send().await {
            Ok(head) => head,
            Err(error) => {
                return match fault::of(Request::Head, &error) {
                    // A HEAD cannot say what is missing; the GET of the next round can.
                    Fault::Gone | Fault::NotFound(_) => Ok((Current::Nothing, false)),
                    Fault::Changed => Ok((Current::Changed, false)),
                    Fault::Denied(_) => {
                        self.check_denied(identity, version).await.map(|current| (current, false))
                    }
                    fault => Err(fault.into_failure()),
                };
            }
        };
        let now =
            Identity::new(bucket, key, head.version_id(), head.e_tag(), head.content_length())
                .with_modified(head.last_modified());
        // A store names the request. Of any other answer only the expected ETag is believed.
        let named = head.request_id().is_some();
        if now.etag.is_none() || !named && now.etag.as_deref() != Some(etag) {
            let detail = "HEAD answers without an ETag, or with another one and not as a store";
            return Err(fault::suspect(stage, Reason::StoreOdd, detail));
        }
        let is_version = now.version_id().is_some();
        if !is_same(identity, etag, &now) {
            return Ok((Current::Changed, is_version));
        }
        let current = match (now.pin, version) {
            (Pin::Version(found), _) => Current::Version(found),
            (Pin::Etag { null_version: true, .. }, _) | (_, Some(_)) => Current::NullVersion,
            _ => Current::Name,
        };
        Ok((current, is_version))
    }

    /// What a denied HEAD means. The same right allows a GET, and its refusal names a code.
    async fn check_denied(
        &self,
        identity: &Identity,
        version: Option<&str>,
    ) -> Result<Current, Failure> {
        match self.get_object(&identity.bucket, &identity.key, version).send().await {
            Ok(_) => {
                let detail = "HEAD is denied, and GET is not";
                Err(fault::suspect(Stage::Fetch, Reason::StoreOdd, detail))
            }
            Err(error) => match fault::of(Request::Get, &error) {
                Fault::Denied(_) => Ok(Current::Denied),
                Fault::Gone => Ok(Current::Nothing),
                fault => Err(fault.into_failure()),
            },
        }
    }
}

/// Whether `now` is what was scanned. Length and time count only where both are known: a proxy that
/// compresses sends no length. The same `ETag` with another length means that the download was not
/// whole.
fn is_same(scanned: &Identity, etag: &str, now: &Identity) -> bool {
    let lengths = scanned.length.zip(now.length);
    let times = scanned.modified.zip(now.modified);
    now.etag.as_deref() == Some(etag)
        && lengths.is_none_or(|(before, now)| before == now)
        && times.is_none_or(|(before, now)| before == now)
}
