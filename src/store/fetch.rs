//! Opens one object for download: the right version, room on the temp disk.

use std::sync::Arc;

use aws_sdk_s3::operation::RequestId;
use aws_sdk_s3::operation::get_object::GetObjectOutput;

use super::arrival::{Arrival, FEW, Place, Received};
use super::fault::{self, Asked, Fault};
use super::key::given;
use super::spool::{self, Room};
use super::versions::seconds;
use super::{Identity, NULL, Pin, Store};
use crate::event::{ObjectRef, Version};
use crate::failure::{Dependency, Failure, Kind, Reason, Stage};

/// What a GET came to.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// The bytes are on their way.
    Arrival(Box<Arrival>),
    /// There is no such object, or not any more. One answer alone does not prove it.
    Gone,
    /// Larger than what is scanned; nothing was downloaded.
    TooLarge(Identity),
    /// Archived, or encrypted with its owner's key.
    Unreadable(Identity),
    /// The notification names no version, and the bucket has several: each of these may be what it
    /// announced.
    Versions(Vec<Version>),
}

/// Whether the object was looked for before, and was not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    First,
    Last,
}

/// The headers of a GET that was answered, its body unread.
struct Opened {
    identity: Identity,
    output: GetObjectOutput,
}

enum Answer {
    Opened(Box<Opened>),
    Gone {
        /// A delete marker is what the name stands for.
        marker: bool,
    },
    Unreadable,
    Versions(Vec<Version>),
}

impl Store {
    /// Opens the version that the notification names, or what is under the name now.
    ///
    /// # Errors
    /// Whatever keeps the bytes from being had.
    pub(crate) async fn open(&self, object: &ObjectRef, look: Look) -> Result<Fetched, Failure> {
        let mut room: Option<Room> = None;
        loop {
            let opened = match self.get(object, look).await? {
                Answer::Opened(opened) => *opened,
                Answer::Gone { .. } => return Ok(Fetched::Gone),
                Answer::Unreadable => return self.unreadable(object).await,
                Answer::Versions(versions) => return Ok(Fetched::Versions(versions)),
            };
            let Opened { identity, output } = opened;
            let length = identity.bytes();
            if self.looks_cut(object, &identity).await? {
                let detail =
                    format!("the store sends {length} bytes and says that there are others");
                let reason = Reason::BodyOfOtherLength;
                return Err(Failure::suspect(Dependency::Store, Stage::Fetch, reason, detail));
            }
            if length > self.max_object {
                return Ok(Fetched::TooLarge(identity));
            }
            let (place, reserved) = if length <= FEW {
                (Place::Memory(Arc::default()), None)
            } else {
                let free = room.take().filter(|room| room.fits(length));
                let Some(reserved) = free.or_else(|| self.spool.reserve_now(length)) else {
                    // The answer would go stale while waiting: ask again afterwards.
                    drop(output);
                    room = Some(self.spool.reserve(length).await?);
                    continue;
                };
                let file = spool::unnamed_file(self.temp_dir.clone()).await?;
                (Place::File(Arc::new(file)), Some(reserved))
            };
            let as_announced = is_announced(&identity, object);
            let arrival = Arrival::new(identity, as_announced, output.body, place, reserved);
            return Ok(Fetched::Arrival(Box::new(arrival)));
        }
    }

    async fn get(&self, object: &ObjectRef, look: Look) -> Result<Answer, Failure> {
        let Some(version) = object.version_id.as_deref() else {
            return self.get_unnamed(object, look).await;
        };
        let answer = self.get_version(object, Some(version)).await?;
        if !matches!(answer, Answer::Gone { .. }) || object.etag.is_none() {
            return Ok(answer);
        }
        // Some stores announce ids that they do not know afterwards. What is under the name may be the
        // announced bytes, or a version below it.
        if let Answer::Opened(opened) = self.get_version(object, None).await?
            && same_etag(&opened.identity, object)
        {
            return Ok(Answer::Opened(opened));
        }
        if look == Look::First {
            return Ok(answer);
        }
        match self.versions(object, false).await {
            Ok(found) if !found.announced.is_empty() => Ok(Answer::Versions(found.announced)),
            Err(Fault::Other(failure)) if failure.kind != Kind::Transient => Err(failure),
            Ok(_) | Err(_) => Ok(answer),
        }
    }

    /// Opens what is under the name. In a bucket with versions the announced bytes may lie below it:
    /// below a newer upload, or below a delete marker. There they can be read by their version id, and
    /// come back under the name, unannounced, when what covers them is removed.
    async fn get_unnamed(&self, object: &ObjectRef, look: Look) -> Result<Answer, Failure> {
        let answer = self.get_version(object, None).await?;
        let current = match &answer {
            _ if object.uncovered => return Ok(answer),
            // A cache, or a node that is behind.
            Answer::Opened(opened) if look == Look::First && is_older(&opened.identity, object) => {
                return Ok(Answer::Gone { marker: false });
            }
            Answer::Opened(opened) => match &opened.identity.pin {
                Pin::Version(version) => Some(version.clone()),
                Pin::Etag { null_version: true, .. } => Some(NULL.to_owned()),
                Pin::Etag { .. } | Pin::Nothing => return Ok(answer),
            },
            // Not all stores tell of a marker.
            Answer::Gone { marker: false } if look == Look::First => return Ok(answer),
            Answer::Gone { .. } | Answer::Unreadable => None,
            Answer::Versions(_) => return Ok(answer),
        };
        let expected = current.is_some() || matches!(answer, Answer::Gone { marker: true });
        let found = match self.versions(object, expected).await {
            Ok(found) => found,
            Err(Fault::NotFound(_) | Fault::Gone) => return Ok(answer),
            Err(Fault::Other(failure)) if failure.kind != Kind::Transient => return Err(failure),
            Err(fault) => {
                return match &answer {
                    Answer::Opened(opened) if same_etag(&opened.identity, object) => Ok(answer),
                    Answer::Gone { marker: false } | Answer::Unreadable => Ok(answer),
                    _ => {
                        let detail = format!(
                            "the notification names no version, and the versions of the object \
                             cannot be listed (allow ListBucketVersions): {}",
                            fault.into_failure().detail
                        );
                        Err(Failure::permanent(Stage::Fetch, Reason::VersionsDenied, detail))
                    }
                };
            }
        };
        if current.as_ref().is_some_and(|id| id != NULL && !found.ids.contains(id)) {
            let detail = "a list of versions without the one that was just read";
            let reason = Reason::StoreOdd;
            return Err(Failure::suspect(Dependency::Store, Stage::Fetch, reason, detail));
        }
        let versions = found.announced_or_latest();
        match (versions.as_slice(), current) {
            ([], _) => Ok(answer),
            ([only], Some(current)) if only.id == current => Ok(answer),
            // No versions are kept there.
            ([only], None) if only.id == NULL && matches!(answer, Answer::Unreadable) => Ok(answer),
            _ => Ok(Answer::Versions(versions)),
        }
    }

    async fn get_version(
        &self,
        object: &ObjectRef,
        version: Option<&str>,
    ) -> Result<Answer, Failure> {
        let get = self.client.get_object().bucket(&object.bucket).key(given(&object.key));
        let output = match get.set_version_id(version.map(str::to_owned)).send().await {
            Ok(output) => output,
            Err(error) => {
                let marker = error.raw_response().is_some_and(|answer| {
                    answer.headers().get("x-amz-delete-marker").is_some_and(|text| text == "true")
                });
                return match fault::of(Asked::Get, &error) {
                    Fault::Gone => Ok(Answer::Gone { marker }),
                    Fault::Unreadable => Ok(Answer::Unreadable),
                    fault => Err(fault.into_failure()),
                };
            }
        };
        let identity = Identity::new(
            &object.bucket,
            &object.key,
            output.version_id(),
            output.e_tag(),
            output.content_length(),
        )
        .with_modified(output.last_modified());
        // A page that an ingress shows while the store is away answers 200 as well. An object has an
        // ETag, and what was asked for by its version id is that version.
        let other = |asked: &str| match identity.version_id() {
            Some(found) => found != asked,
            None => object.etag.is_some() && !same_etag(&identity, object),
        };
        // Stores name each request. Where something else answers, only the announced ETag is believed.
        let named = output.request_id().is_some();
        // What gateways make of a folder has none, and no bytes either.
        let folder = named && object.key.ends_with('/') && identity.length == Some(0);
        let nothing = identity.pin == Pin::Nothing && !folder;
        let page = !named && !same_etag(&identity, object);
        if nothing || page || version.is_some_and(|id| id != NULL && other(id)) {
            let detail = "an answer without ETag, or with another version than was asked for";
            let reason = Reason::BodyOfUnknownObject;
            return Err(Failure::suspect(Dependency::Store, Stage::Fetch, reason, detail));
        }
        // Only a whole object of a known length can be told from one that broke off: a proxy that
        // answers with a part of it, or without a length, must not get half a file called clean.
        if output.content_range().is_some() || output.content_length().is_none_or(|n| n < 0) {
            let detail = "an answer without Content-Length, or with a part of the object";
            let reason = Reason::BodyOfUnknownLength;
            return Err(Failure::suspect(Dependency::Store, Stage::Fetch, reason, detail));
        }
        Ok(Answer::Opened(Box::new(Opened { identity, output })))
    }

    /// Receives everything.
    ///
    /// # Errors
    /// When the body is not what was announced, or cannot be kept.
    pub(crate) async fn receive(&self, arrival: Arrival) -> Result<Received, Failure> {
        let received = arrival.receive().await?;
        self.remember_good(&received.identity);
        Ok(received)
    }

    /// Whether the body is not what HEAD says it is. Asked only where the notification announced
    /// these very bytes with another size: not every store announces the size that it sends.
    async fn looks_cut(&self, object: &ObjectRef, identity: &Identity) -> Result<bool, Failure> {
        let told = object.version_id.is_some() || object.etag.is_some();
        let same_size = object.size.is_none_or(|size| Some(size) == identity.length);
        if same_size || !told || !is_announced(identity, object) {
            return Ok(false);
        }
        let head = self.client.head_object().bucket(&identity.bucket).key(given(&identity.key));
        match head.set_version_id(identity.slot().map(str::to_owned)).send().await {
            Ok(head) => {
                let length = head.content_length().and_then(|length| u64::try_from(length).ok());
                match length {
                    Some(_) => Ok(length != identity.length),
                    None => Ok(self.length_by_range(identity).await? != identity.length),
                }
            }
            Err(error) => Err(fault::of(Asked::Head, &error).into_failure()),
        }
    }

    /// The length of an object whose HEAD does not tell it: the answer to a range does.
    async fn length_by_range(&self, identity: &Identity) -> Result<Option<u64>, Failure> {
        let get = self.client.get_object().bucket(&identity.bucket).key(given(&identity.key));
        let get = get.set_version_id(identity.slot().map(str::to_owned)).range("bytes=0-0");
        match get.send().await {
            // RFC 9110, 14.4: `bytes 0-0/1234`.
            Ok(part) => {
                Ok(part.content_range().and_then(|range| range.rsplit_once('/')?.1.parse().ok()))
            }
            Err(error) => Err(fault::of(Asked::Get, &error).into_failure()),
        }
    }

    /// An object that no GET answers still has a name to tag. HEAD may know which bytes it has.
    async fn unreadable(&self, object: &ObjectRef) -> Result<Fetched, Failure> {
        let (bucket, key) = (object.bucket.as_str(), object.key.as_str());
        let head = self.client.head_object().bucket(bucket).key(given(key));
        let identity = match head.set_version_id(object.version_id.clone()).send().await {
            Ok(head) => {
                Identity::new(bucket, key, head.version_id(), head.e_tag(), head.content_length())
            }
            Err(error) => match fault::of(Asked::Head, &error).into_failure() {
                failure if matches!(failure.kind, Kind::Suspect(_)) => return Err(failure),
                // A customer's key is wanted for the HEAD as well. A version id is safe to tag by, a
                // bare name is not.
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

/// Whether these are the bytes that the notification spoke of, as far as it told.
fn is_announced(identity: &Identity, object: &ObjectRef) -> bool {
    match object.version_id.as_deref() {
        Some(version) if identity.version_id() == Some(version) => true,
        Some(_) | None => object.etag.is_none() || same_etag(identity, object),
    }
}

/// Whether these are other bytes than the announced ones, and were there before them.
fn is_older(identity: &Identity, object: &ObjectRef) -> bool {
    let uploaded = object.event_time.as_deref().and_then(seconds);
    let older = identity.modified.zip(uploaded).is_some_and(|(at, uploaded)| at < uploaded - 2);
    older && object.etag.is_some() && !same_etag(identity, object)
}

fn same_etag(identity: &Identity, object: &ObjectRef) -> bool {
    identity.etag.is_some() && identity.etag == object.etag
}
