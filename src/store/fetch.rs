//! Opens one object for download: the right spelling, the right version, room on the temp disk.

use std::sync::Arc;

use aws_sdk_s3::operation::get_object::GetObjectOutput;

use super::arrival::{Arrival, FEW, Place, Received};
use super::fault::{self, Fault};
use super::spool::{self, Room};
use super::{Identity, Pin, Store};
use crate::event::ObjectRef;
use crate::failure::{Dependency, Failure, Kind, Stage};

/// What a GET came to.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// The bytes are on their way.
    Arrival(Box<Arrival>),
    /// There is no such object any more.
    Gone,
    /// Larger than what is scanned; nothing was downloaded.
    TooLarge(Identity),
    /// Archived, or encrypted with its owner's key.
    Unreadable(Identity),
}

/// The headers of a GET that was answered, its body unread.
struct Opened {
    identity: Identity,
    output: GetObjectOutput,
}

enum Answer {
    Opened(Box<Opened>),
    Gone,
    Unreadable,
}

impl Store {
    /// Opens what is under the name now, or the version that the notification names.
    ///
    /// # Errors
    /// Whatever keeps the bytes from being had.
    pub(crate) async fn open(&self, object: &ObjectRef) -> Result<Fetched, Failure> {
        // Where the notification leaves the spelling of the key open, the ETag decides; where it
        // does not either, the first spelling that exists. An upload under the other one has a
        // notification of its own.
        let mut existing = None;
        let mut failed = None;
        for key in &object.keys {
            match self.get(object, key).await {
                Ok(Answer::Opened(opened))
                    if object.keys.len() == 1 || same_etag(&opened.identity, object) =>
                {
                    return self.make_room(object, key, opened).await;
                }
                Ok(Answer::Opened(_) | Answer::Unreadable) => {
                    existing.get_or_insert(key);
                }
                Ok(Answer::Gone) => {}
                // Some stores deny what is not there; the other spelling may be.
                Err(failure) => {
                    failed.get_or_insert(failure);
                }
            }
        }
        if let Some(failure) = failed {
            return Err(failure);
        }
        let Some(key) = existing else { return Ok(Fetched::Gone) };
        match self.get(object, key).await? {
            Answer::Opened(opened) => self.make_room(object, key, opened).await,
            Answer::Gone => Ok(Fetched::Gone),
            Answer::Unreadable => self.unreadable(object, key).await,
        }
    }

    async fn get(&self, object: &ObjectRef, key: &str) -> Result<Answer, Failure> {
        let answer = self.open_version(object, key, object.version_id.as_deref()).await?;
        // Written before versioning was switched on, and covered by a newer upload since: the
        // announced bytes are in the slot `null`. The newer ones have a notification of their own.
        if let Answer::Opened(opened) = &answer
            && object.version_id.is_none()
            && object.etag.is_some()
            && opened.identity.version_id().is_some()
            && !same_etag(&opened.identity, object)
        {
            match self.open_version(object, key, Some("null")).await {
                Ok(Answer::Opened(below)) if same_etag(&below.identity, object) => {
                    return Ok(Answer::Opened(below));
                }
                Err(failure) if matches!(failure.kind, Kind::Suspect(_)) => return Err(failure),
                // Nothing to be had there: what the name stands for is scanned.
                _ => {}
            }
        }
        Ok(answer)
    }

    async fn open_version(
        &self,
        object: &ObjectRef,
        key: &str,
        version: Option<&str>,
    ) -> Result<Answer, Failure> {
        let get = self.client.get_object().bucket(&object.bucket).key(key);
        let output = match get.set_version_id(version.map(str::to_owned)).send().await {
            Ok(output) => output,
            Err(error) => {
                return match fault::of(Stage::Fetch, &error) {
                    Fault::Gone => Ok(Answer::Gone),
                    Fault::Unreadable => Ok(Answer::Unreadable),
                    fault => Err(fault.into_failure()),
                };
            }
        };
        let identity = Identity::new(
            &object.bucket,
            key,
            output.version_id(),
            output.e_tag(),
            output.content_length(),
        );
        // A page that an ingress shows while the store is away answers 200 as well. An object has an
        // ETag, and what was asked for by its version id is that version.
        let other = |asked: &str| match identity.version_id() {
            Some(found) => found != asked,
            None => object.etag.is_some() && !same_etag(&identity, object),
        };
        // What gateways make of a folder has none, and no bytes either.
        let folder = key.ends_with('/') && identity.length == Some(0);
        let nothing = identity.pin == Pin::Nothing && !folder;
        if nothing || version.is_some_and(|id| id != "null" && other(id)) {
            let detail = "an answer without ETag, or with another version than was asked for";
            let label = "body_of_unknown_object";
            return Err(Failure::suspect(Dependency::Store, Stage::Fetch, label, detail));
        }
        // Only a whole object of a known length can be told from one that broke off: a proxy that
        // answers with a part of it, or without a length, must not get half a file called clean.
        if output.content_range().is_some() || output.content_length().is_none_or(|n| n < 0) {
            let detail = "an answer without Content-Length, or with a part of the object";
            let label = "body_of_unknown_length";
            return Err(Failure::suspect(Dependency::Store, Stage::Fetch, label, detail));
        }
        Ok(Answer::Opened(Box::new(Opened { identity, output })))
    }

    /// Finds room for the body, and a temp file.
    async fn make_room(
        &self,
        object: &ObjectRef,
        key: &str,
        first: Box<Opened>,
    ) -> Result<Fetched, Failure> {
        let mut next = Some(first);
        let mut room: Option<Room> = None;
        loop {
            let Opened { identity, output } = match next.take() {
                Some(opened) => *opened,
                None => match self.get(object, key).await? {
                    Answer::Opened(opened) => *opened,
                    Answer::Gone => return Ok(Fetched::Gone),
                    Answer::Unreadable => return self.unreadable(object, key).await,
                },
            };
            let length = identity.bytes();
            if self.looks_cut(object, &identity).await? {
                let detail =
                    format!("the store sends {length} bytes and says that there are others");
                let label = "body_of_other_length";
                return Err(Failure::suspect(Dependency::Store, Stage::Fetch, label, detail));
            }
            if length > self.max_object {
                return Ok(Fetched::TooLarge(identity));
            }
            let reserved = match room.take().filter(|room| room.fits(length)) {
                Some(reserved) => reserved,
                None => match self.spool.reserve_now(length) {
                    Some(reserved) => reserved,
                    None => {
                        // The answer would go stale while waiting: ask again afterwards.
                        drop(output);
                        room = Some(self.spool.reserve(length).await?);
                        continue;
                    }
                },
            };
            let place = if length <= FEW {
                Place::Memory(Arc::default())
            } else {
                Place::File(Arc::new(spool::unnamed_file(self.temp_dir.clone()).await?))
            };
            let as_announced = is_announced(&identity, object);
            let arrival = Arrival::new(identity, as_announced, output.body, place, reserved);
            return Ok(Fetched::Arrival(Box::new(arrival)));
        }
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
        let head = self.client.head_object().bucket(&identity.bucket).key(&identity.key);
        match head.set_version_id(object.version_id.clone()).send().await {
            Ok(head) => {
                let length = head.content_length().and_then(|length| u64::try_from(length).ok());
                Ok(length != identity.length)
            }
            Err(error) => Err(fault::of(Stage::Fetch, &error).into_failure()),
        }
    }

    /// An object that no GET answers still has a name to tag. HEAD may know which bytes it has.
    async fn unreadable(&self, object: &ObjectRef, key: &str) -> Result<Fetched, Failure> {
        let head = self.client.head_object().bucket(&object.bucket).key(key);
        let identity = match head.set_version_id(object.version_id.clone()).send().await {
            Ok(head) => Identity::new(
                &object.bucket,
                key,
                head.version_id(),
                head.e_tag(),
                head.content_length(),
            ),
            // A customer's key is wanted for the HEAD as well. A version id is safe to tag by, a
            // bare name is not.
            Err(_) => Identity {
                pin: object.version_id.clone().map_or(Pin::Nothing, Pin::Version),
                ..Identity::new(&object.bucket, key, None, object.etag.as_deref(), None)
            },
        };
        Ok(Fetched::Unreadable(identity))
    }
}

/// Whether these are the bytes that the notification spoke of, as far as it told.
fn is_announced(identity: &Identity, object: &ObjectRef) -> bool {
    match &object.version_id {
        Some(version) => identity.version_id() == Some(version),
        None => object.etag.is_none() || same_etag(identity, object),
    }
}

fn same_etag(identity: &Identity, object: &ObjectRef) -> bool {
    identity.etag.is_some() && identity.etag == object.etag
}
