//! Looks at objects and changes nothing.

use std::sync::atomic::Ordering;

use sha2::{Digest, Sha256};

use super::effects::KeyValue;
use super::fault::{self, Fault};
use super::request::Request;
use super::{Identity, Store};
use crate::failure::{Failure, Reason, Stage};

/// The tags of an object, as far as the store tells them.
#[derive(Debug)]
pub(crate) enum TagsSeen {
    Tags(Vec<KeyValue>),
    /// There is no such object or version, or not any more.
    Gone,
    /// The store has no tags.
    Unsupported,
}

impl Store {
    /// What identifies the bytes that are under the name, or at the version; `None` if there are none.
    ///
    /// # Errors
    /// When the store does not say.
    pub(crate) async fn identify(
        &self,
        bucket: &str,
        key: &str,
        version: Option<&str>,
    ) -> Result<Option<Identity>, Failure> {
        match self.head_object(bucket, key, version).send().await {
            Ok(head) => {
                let length = head.content_length();
                let found = Identity::new(bucket, key, head.version_id(), head.e_tag(), length);
                Ok(Some(found.with_modified(head.last_modified())))
            }
            Err(error) => match fault::of(Request::Head, &error) {
                Fault::Gone | Fault::NotFound(_) => Ok(None),
                fault => Err(fault.into_failure()),
            },
        }
    }

    /// What identifies the bytes that are now where these were; `None` if there are none.
    ///
    /// # Errors
    /// When the store does not say.
    pub(crate) async fn identify_again(&self, old: &Identity) -> Result<Option<Identity>, Failure> {
        self.identify(&old.bucket, &old.key, old.slot()).await
    }

    /// The tags of these bytes.
    ///
    /// # Errors
    /// When the store does not say.
    pub(crate) async fn tags_of(&self, identity: &Identity) -> Result<TagsSeen, Failure> {
        match self.tags(identity, identity.slot()).await {
            Ok(tags) => {
                Ok(TagsSeen::Tags(tags.into_iter().map(|tag| (tag.key, tag.value)).collect()))
            }
            Err(Fault::Gone | Fault::NotFound(_)) => Ok(TagsSeen::Gone),
            Err(Fault::Unsupported(_)) if !self.has_tags.load(Ordering::Relaxed) => {
                Ok(TagsSeen::Unsupported)
            }
            Err(fault) => Err(fault.into_failure()),
        }
    }

    /// The SHA-256 of these bytes in hexadecimal, read without being kept; `None` if other bytes are
    /// there.
    ///
    /// # Errors
    /// When they cannot be read to their end.
    pub(crate) async fn sha256_of(&self, identity: &Identity) -> Result<Option<String>, Failure> {
        let Identity { bucket, key, .. } = identity;
        let mut answer = match self.get_object(bucket, key, identity.slot()).send().await {
            Ok(answer) => answer,
            Err(error) => match fault::of(Request::Get, &error) {
                Fault::Gone | Fault::NotFound(_) => return Ok(None),
                fault => return Err(fault.into_failure()),
            },
        };
        let length = answer.content_length();
        let found = Identity::new(bucket, key, answer.version_id(), answer.e_tag(), length)
            .with_modified(answer.last_modified());
        if found != *identity {
            return Ok(None);
        }
        let (mut hash, mut read) = (Sha256::new(), 0);
        let broken =
            |detail: String| Failure::transient(Stage::Fetch, Reason::BodyOfOtherLength, detail);
        while let Some(bytes) = answer.body.next().await {
            let bytes = bytes.map_err(|error| broken(error.to_string()))?;
            hash.update(&bytes);
            read += bytes.len() as u64;
        }
        if Some(read) != identity.length {
            return Err(broken(format!("{read} bytes came of {}", identity.bytes())));
        }
        Ok(Some(hex::encode(hash.finalize())))
    }
}
