//! Opens one object for download: the right version, with space reserved for it.

use std::sync::Arc;
use std::time::Instant;

use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::RequestId;
use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::buffer::{Backing, IN_MEMORY_MAX};
use super::disk_budget::{self, Claim, Reservation};
use super::download::{Download, Downloaded};
use super::fault::{self, Fault};
use super::identity::NULL;
use super::request::Request;
use super::versions::seconds;
use super::{Identity, Observation, Pin, Store};
use crate::event::{ObjectRef, Version};
use crate::failure::{Failure, Kind, Reason, Stage};

/// `Last-Modified` may be this many seconds before the time in the notification of the same upload.
const MAX_TIME_DIFFERENCE: i64 = 2;

/// The outcome of opening an object.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// The GET was answered; the body is not read yet.
    Download(Box<Download>),
    /// There is no such object, or no longer. One answer alone does not prove it.
    Gone,
    /// Larger than what is scanned; nothing was downloaded.
    TooLarge(Identity),
    /// Archived, or encrypted with its owner's key.
    Unreadable(Identity),
    /// The notification names no version, and the bucket has several: each of these may be what it
    /// announced.
    Versions(Vec<Version>),
}

/// Whether this is the first time that the object is looked for, or the last, after it was not
/// there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    First,
    Last,
}

/// The answer to a GET.
enum GetAnswer {
    /// The headers of a whole object, and its body unread.
    Object(Identity, Observation, Box<ByteStream>),
    Gone {
        /// The store says that a delete marker is there.
        marker: bool,
    },
    Unreadable,
    Versions(Vec<Version>),
}

impl Store {
    /// Opens the version that the notification names, or what is under the name now.
    ///
    /// # Errors
    /// When the store gives no usable answer, or there is no temp disk space.
    pub(crate) async fn open(
        &self,
        object: &ObjectRef,
        look: Look,
        claim: Claim,
    ) -> Result<Fetched, Failure> {
        let mut reserved: Option<Reservation> = None;
        loop {
            let (identity, observation, body) = match self.get(object, look).await? {
                GetAnswer::Object(identity, observation, body) => (identity, observation, body),
                GetAnswer::Gone { .. } => return Ok(Fetched::Gone),
                GetAnswer::Unreadable => return self.unreadable(object).await,
                GetAnswer::Versions(versions) => return Ok(Fetched::Versions(versions)),
            };
            let length = identity.bytes();
            if self.looks_cut(object, &identity).await? {
                let detail =
                    format!("the store sends {length} bytes and says that there are others");
                return Err(fault::suspect(Stage::Fetch, Reason::BodyOfOtherLength, detail));
            }
            if length > self.max_object {
                return Ok(Fetched::TooLarge(identity));
            }
            let (backing, reservation) = if length <= IN_MEMORY_MAX {
                (Backing::Memory(Arc::default()), None)
            } else {
                let fitting = reserved.take().filter(|reserved| reserved.fits(length));
                let Some(reservation) = fitting.or_else(|| self.disk.reserve_now(length, claim))
                else {
                    // This answer would be out of date after the wait, so the GET is repeated.
                    drop(body);
                    reserved = Some(self.disk.reserve(length, claim).await?);
                    continue;
                };
                let file = disk_budget::unnamed_file(self.temp_dir.clone()).await?;
                (Backing::File(Arc::new(file)), Some(reservation))
            };
            let as_announced = is_announced(&identity, object);
            let found = (identity, observation, as_announced);
            let download = Download::new(found, *body, backing, reservation);
            return Ok(Fetched::Download(Box::new(download)));
        }
    }

    /// Receives the whole body.
    ///
    /// # Errors
    /// When the body is not as long as announced, stops arriving, or cannot be stored.
    pub(crate) async fn receive(&self, download: Download) -> Result<Downloaded, Failure> {
        let downloaded = download.receive().await?;
        self.remember_good(&downloaded.identity);
        Ok(downloaded)
    }

    async fn get(&self, object: &ObjectRef, look: Look) -> Result<GetAnswer, Failure> {
        let Some(version) = object.version_id.as_deref() else {
            return self.get_without_version(object, look).await;
        };
        let answer = self.get_version(object, Some(version)).await?;
        if !matches!(answer, GetAnswer::Gone { .. }) || object.etag.is_none() {
            return Ok(answer);
        }
        // Some stores announce version ids that they do not know afterwards. The announced bytes
        // may be under the bare name, or a version below it.
        if let GetAnswer::Object(identity, observation, body) =
            self.get_version(object, None).await?
            && same_etag(&identity, object)
        {
            return Ok(GetAnswer::Object(identity, observation, body));
        }
        if look == Look::First {
            return Ok(answer);
        }
        match self.versions(object, false).await {
            Ok(found) if !found.announced.is_empty() => Ok(GetAnswer::Versions(found.announced)),
            Err(Fault::Other(failure)) if failure.kind != Kind::Transient => Err(failure),
            Ok(_) | Err(_) => Ok(answer),
        }
    }

    /// Opens what is under the name. In a bucket with versions the announced bytes may be below it:
    /// below a newer upload, or below a delete marker. There they can still be read by version id,
    /// and they come back under the name, unannounced, when what covers them is removed.
    async fn get_without_version(
        &self,
        object: &ObjectRef,
        look: Look,
    ) -> Result<GetAnswer, Failure> {
        let answer = self.get_version(object, None).await?;
        let current = match &answer {
            _ if object.uncovered => return Ok(answer),
            // The answer of a cache, or of a node that lags behind.
            GetAnswer::Object(identity, ..)
                if look == Look::First && is_older(identity, object) =>
            {
                return Ok(GetAnswer::Gone { marker: false });
            }
            GetAnswer::Object(identity, ..) => match identity.slot() {
                Some(version) => Some(version.to_owned()),
                None => return Ok(answer),
            },
            // Not all stores say that there is a delete marker.
            GetAnswer::Gone { marker: false } if look == Look::First => return Ok(answer),
            GetAnswer::Gone { .. } | GetAnswer::Unreadable => None,
            GetAnswer::Versions(_) => return Ok(answer),
        };
        let expected = current.is_some() || matches!(answer, GetAnswer::Gone { marker: true });
        let found = match self.versions(object, expected).await {
            Ok(found) => found,
            Err(fault) => return without_list(object, answer, fault),
        };
        if current.as_ref().is_some_and(|id| id != NULL && !found.ids.contains(id)) {
            let detail = "a list of versions without the one that was just read";
            return Err(fault::suspect(Stage::Fetch, Reason::StoreOdd, detail));
        }
        let versions = found.announced_or_latest();
        match (versions.as_slice(), current) {
            ([], _) => Ok(answer),
            ([only], Some(current)) if only.id == current => Ok(answer),
            // A bucket without versions.
            ([only], None) if only.id == NULL && matches!(answer, GetAnswer::Unreadable) => {
                Ok(answer)
            }
            _ => Ok(GetAnswer::Versions(versions)),
        }
    }

    async fn get_version(
        &self,
        object: &ObjectRef,
        version: Option<&str>,
    ) -> Result<GetAnswer, Failure> {
        let asked = Instant::now();
        let output = match self.get_object(&object.bucket, &object.key, version).send().await {
            Ok(output) => output,
            Err(error) => return refused(&error),
        };
        let identity = Identity::new(
            &object.bucket,
            &object.key,
            output.version_id(),
            output.e_tag(),
            output.content_length(),
        )
        .with_modified(output.last_modified());
        if !is_an_object(object, version, &identity, &output) {
            let detail = "an answer without ETag, or with another version than was asked for";
            return Err(fault::suspect(Stage::Fetch, Reason::BodyOfUnknownObject, detail));
        }
        // A bucket without versions answers with what the name has. What was announced is the file.
        if object.file.is_some() && identity.version_id().is_none() {
            return Ok(GetAnswer::Gone { marker: false });
        }
        // Only a whole object of a known length can be told from one that broke off. A proxy that
        // sends a part, or no length, must not get half a file called clean.
        if output.content_range().is_some() || output.content_length().is_none_or(|n| n < 0) {
            let detail = "an answer without Content-Length, or with a part of the object";
            return Err(fault::suspect(Stage::Fetch, Reason::BodyOfUnknownLength, detail));
        }
        let observation = Observation { asked, tag_count: output.tag_count() };
        Ok(GetAnswer::Object(identity, observation, Box::new(output.body)))
    }

    /// Whether HEAD tells another length than the body has. Asked only when the notification
    /// announced these very bytes with another size: some stores announce a size that they do not
    /// send.
    async fn looks_cut(&self, object: &ObjectRef, identity: &Identity) -> Result<bool, Failure> {
        let identified = object.version_id.is_some() || object.etag.is_some();
        let same_size = object.size.is_none_or(|size| Some(size) == identity.length);
        if same_size || !identified || !is_announced(identity, object) {
            return Ok(false);
        }
        let head = self.head_object(&identity.bucket, &identity.key, identity.slot());
        match head.send().await {
            Ok(head) => {
                let length = head.content_length().and_then(|length| u64::try_from(length).ok());
                match length {
                    Some(_) => Ok(length != identity.length),
                    None => Ok(self.length_by_range(identity).await? != identity.length),
                }
            }
            Err(error) => Err(fault::of(Request::Head, &error).into_failure()),
        }
    }

    /// The length in bytes of an object whose HEAD does not tell it. The answer to a range does.
    async fn length_by_range(&self, identity: &Identity) -> Result<Option<u64>, Failure> {
        let get = self.get_object(&identity.bucket, &identity.key, identity.slot());
        match get.range("bytes=0-0").send().await {
            // RFC 9110, 14.4: `bytes 0-0/1234`.
            Ok(part) => {
                Ok(part.content_range().and_then(|range| range.rsplit_once('/')?.1.parse().ok()))
            }
            Err(error) => Err(fault::of(Request::Get, &error).into_failure()),
        }
    }

    /// The identity of an object that no GET returns, so that it can be tagged. HEAD may know it.
    async fn unreadable(&self, object: &ObjectRef) -> Result<Fetched, Failure> {
        let ObjectRef { bucket, key, .. } = object;
        let head = self.head_object(bucket, key, object.version_id.as_deref());
        let identity = match head.send().await {
            Ok(head) => {
                Identity::new(bucket, key, head.version_id(), head.e_tag(), head.content_length())
            }
            Err(error) => match fault::of(Request::Head, &error).into_failure() {
                failure if matches!(failure.kind, Kind::Suspect(_)) => return Err(failure),
                // An object under a customer's key refuses the HEAD as well. Tagging by a version
                // id is safe, by a bare name it is not.
                _ => Identity {
                    pin: match object.version_id.as_deref() {
                        None | Some(NULL) => Pin::Nothing,
                        Some(version) => Pin::Version(version.to_owned()),
                    },
                    ..Identity::new(bucket, key, None, object.etag.as_deref(), None)
                },
            },
        };
        Ok(Fetched::Unreadable(identity))
    }
}

/// What an error in answer to a GET says about the object.
///
/// # Errors
/// When it says nothing about it.
fn refused(error: &SdkError<GetObjectError, HttpResponse>) -> Result<GetAnswer, Failure> {
    let marker = error.raw_response().is_some_and(|answer| {
        answer.headers().get("x-amz-delete-marker").is_some_and(|text| text == "true")
    });
    match fault::of(Request::Get, error) {
        Fault::Gone => Ok(GetAnswer::Gone { marker }),
        Fault::Unreadable => Ok(GetAnswer::Unreadable),
        fault => Err(fault.into_failure()),
    }
}

/// Whether the answer holds the object that was asked for. The page that an ingress shows while the
/// store is down has the status 200 as well.
fn is_an_object(
    object: &ObjectRef,
    version: Option<&str>,
    identity: &Identity,
    output: &GetObjectOutput,
) -> bool {
    // A store names the request. Of any other answer only the announced ETag is believed.
    let named = output.request_id().is_some();
    if !named && !same_etag(identity, object) {
        return false;
    }
    // A gateway's folder has no ETag, and no bytes either.
    let folder = named && object.key.ends_with('/') && identity.length == Some(0);
    if identity.pin == Pin::Nothing && !folder {
        return false;
    }
    match (version, identity.version_id()) {
        (None | Some(NULL), _) => true,
        (Some(asked), Some(found)) => found == asked,
        (Some(_), None) => object.etag.is_none() || same_etag(identity, object),
    }
}

/// The answer when the versions cannot be listed: the one there is, if no version can matter.
///
/// # Errors
/// When the announced bytes may be a version that is not seen.
fn without_list(object: &ObjectRef, answer: GetAnswer, fault: Fault) -> Result<GetAnswer, Failure> {
    let fault = match fault {
        Fault::NotFound(_) | Fault::Gone => return Ok(answer),
        Fault::Other(failure) if failure.kind != Kind::Transient => return Err(failure),
        fault => fault,
    };
    let is_enough = match &answer {
        GetAnswer::Object(identity, ..) => same_etag(identity, object),
        GetAnswer::Gone { marker } => !marker,
        GetAnswer::Unreadable => true,
        GetAnswer::Versions(_) => false,
    };
    if is_enough {
        return Ok(answer);
    }
    let detail = format!(
        "the notification names no version, and the versions of the object cannot be listed (allow \
         ListBucketVersions): {}",
        fault.into_failure().detail
    );
    Err(Failure::permanent(Stage::Fetch, Reason::VersionsDenied, detail))
}

/// Whether these are the announced bytes, as far as the notification identified them.
fn is_announced(identity: &Identity, object: &ObjectRef) -> bool {
    match object.version_id.as_deref() {
        Some(version) if identity.version_id() == Some(version) => true,
        Some(_) | None => object.etag.is_none() || same_etag(identity, object),
    }
}

/// Whether these are other bytes than the announced ones, written before them.
fn is_older(identity: &Identity, object: &ObjectRef) -> bool {
    let uploaded = object.event_time.as_deref().and_then(seconds);
    let times = identity.modified.zip(uploaded);
    let older = times.is_some_and(|(modified, uploaded)| modified < uploaded - MAX_TIME_DIFFERENCE);
    older && object.etag.is_some() && !same_etag(identity, object)
}

fn same_etag(identity: &Identity, object: &ObjectRef) -> bool {
    identity.etag.is_some() && identity.etag == object.etag
}
