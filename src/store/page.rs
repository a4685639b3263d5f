//! Lists a bucket, one page at a time.

use aws_sdk_s3::types::{BucketVersioningStatus, EncodingType, Object, ObjectVersion};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use super::fault::{self, Fault};
use super::request::Request;
use super::{Identity, Store};
use crate::failure::{Failure, Reason};

/// Objects of one page, as S3 has it. The `JuiceFS` gateway was seen to give 3,950 in one page unless
/// it is asked for fewer, and a sweep announces a page as a whole.
const MAX_KEYS: i32 = 1_000;

/// Whether a bucket has versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Versioning {
    /// It has none, or the store knows none.
    Never,
    /// What is written becomes a version of its own.
    Enabled,
    /// Earlier versions are there. What is written replaces the one without an id.
    Suspended,
}

/// Which list of a bucket is read. Decided once for each bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listing {
    /// The objects: the bucket never had versions, or the store has none.
    Objects,
    /// All versions, without delete markers.
    Versions,
    /// Of each key the version that is current.
    CurrentVersions,
}

impl Listing {
    /// Of a bucket with versions the list of the current ones, if only those are wanted.
    #[must_use]
    pub(crate) fn narrowed(self, current_only: bool) -> Self {
        match self {
            Self::Versions if current_only => Self::CurrentVersions,
            listing => listing,
        }
    }
}

/// What is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Walk {
    pub(crate) bucket: String,
    /// What the keys begin with; empty for the whole bucket.
    pub(crate) prefix: String,
    pub(crate) listing: Listing,
}

/// Where a page begins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mark {
    #[default]
    Start,
    /// Behind this key.
    Key(String),
    /// Behind this version of the key.
    Version { key: String, version: String },
    /// Where the store said with the page before; means nothing to another walk.
    Token(String),
}

/// What a list names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listed {
    Object(Identity),
    /// Its key is no text. Such an object cannot be asked for; this is what the list says.
    NoText(String),
}

/// One page of a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) objects: Vec<Listed>,
    /// Where the next page begins; `None` after the last one.
    pub(crate) next: Option<Mark>,
}

/// What a list says of one object or version.
struct Entry {
    key: String,
    version: Option<String>,
    etag: Option<String>,
    size: Option<i64>,
    modified: Option<aws_smithy_types::DateTime>,
}

impl Store {
    /// Which list of the bucket names everything that is in it.
    ///
    /// # Errors
    /// When the store does not say whether the bucket has versions.
    pub(crate) async fn listing_of(&self, bucket: &str) -> Result<Listing, Failure> {
        Ok(match self.versioning_of(bucket).await? {
            // Suspended: earlier versions are still there.
            Versioning::Enabled | Versioning::Suspended => Listing::Versions,
            Versioning::Never => Listing::Objects,
        })
    }

    /// Whether the bucket has versions.
    ///
    /// # Errors
    /// When the store does not say.
    pub(crate) async fn versioning_of(&self, bucket: &str) -> Result<Versioning, Failure> {
        match self.client.get_bucket_versioning().bucket(bucket).send().await {
            Ok(answer) => Ok(match answer.status() {
                Some(BucketVersioningStatus::Enabled) => Versioning::Enabled,
                Some(BucketVersioningStatus::Suspended) => Versioning::Suspended,
                _ => Versioning::Never,
            }),
            Err(error) => match fault::of(Request::Versioning, &error) {
                Fault::Unsupported(_) => Ok(Versioning::Never),
                fault => Err(naming(fault, "s3:GetBucketVersioning")),
            },
        }
    }

    /// The page that begins at `mark`.
    ///
    /// # Errors
    /// When it cannot be had, or says not where to go on.
    pub(crate) async fn page(&self, walk: &Walk, mark: &Mark) -> Result<Page, Failure> {
        let page = match walk.listing {
            Listing::Objects => self.page_of_objects(walk, mark).await,
            Listing::Versions | Listing::CurrentVersions => self.page_of_versions(walk, mark).await,
        }?;
        // The same page again would be the next one for ever.
        if page.next.as_ref() == Some(mark) {
            return Err(no_next());
        }
        Ok(page)
    }

    async fn page_of_objects(&self, walk: &Walk, mark: &Mark) -> Result<Page, Failure> {
        let list = self.client.list_objects_v2().bucket(&walk.bucket).prefix(&walk.prefix);
        let list = match mark {
            Mark::Start => list,
            Mark::Key(key) | Mark::Version { key, .. } => list.start_after(key),
            Mark::Token(token) => list.continuation_token(token),
        };
        // Keys may contain what XML cannot carry.
        let page = list.max_keys(MAX_KEYS).encoding_type(EncodingType::Url).send().await;
        let page =
            page.map_err(|error| naming(fault::of(Request::List, &error), "s3:ListBucket"))?;
        let is_encoded = page.encoding_type() == Some(&EncodingType::Url);
        let end = page.contents().last().and_then(|object| decoded(object.key()?, is_encoded));
        let next = match (page.is_truncated(), page.next_continuation_token) {
            (Some(true), Some(token)) => Some(Mark::Token(token)),
            (Some(true), None) => Some(Mark::Key(end.ok_or_else(no_next)?)),
            (Some(false), _) => None,
            (None, _) => return Err(no_end()),
        };
        let objects = page.contents.unwrap_or_default().into_iter().map(Entry::from);
        let objects = objects.map(|entry| entry.read(&walk.bucket, is_encoded)).collect();
        Ok(Page { objects, next })
    }

    async fn page_of_versions(&self, walk: &Walk, mark: &Mark) -> Result<Page, Failure> {
        let list = self.client.list_object_versions().bucket(&walk.bucket).prefix(&walk.prefix);
        let list = match mark {
            Mark::Start | Mark::Token(_) => list,
            Mark::Key(key) => list.key_marker(key),
            Mark::Version { key, version } => list.key_marker(key).version_id_marker(version),
        };
        let page = list.max_keys(MAX_KEYS).encoding_type(EncodingType::Url).send().await;
        let page = page
            .map_err(|error| naming(fault::of(Request::List, &error), "s3:ListBucketVersions"))?;
        let is_encoded = page.encoding_type() == Some(&EncodingType::Url);
        let next = match (page.is_truncated(), page.next_key_marker) {
            (Some(true), Some(key)) => {
                let key = decoded(&key, is_encoded).ok_or_else(no_next)?;
                let version = page.next_version_id_marker.filter(|version| !version.is_empty());
                Some(match version {
                    Some(version) => Mark::Version { key, version },
                    None => Mark::Key(key),
                })
            }
            (Some(true), None) => return Err(no_next()),
            (Some(false), _) => None,
            (None, _) => return Err(no_end()),
        };
        let current = walk.listing == Listing::CurrentVersions;
        let objects = page.versions.unwrap_or_default().into_iter();
        let objects = objects
            // Of a store that does not say which one is current, all are looked at.
            .filter(|version| !current || version.is_latest() != Some(false))
            .map(|version| Entry::from(version).read(&walk.bucket, is_encoded))
            .collect();
        Ok(Page { objects, next })
    }
}

impl Entry {
    fn read(self, bucket: &str, is_encoded: bool) -> Listed {
        let Some(key) = decoded(&self.key, is_encoded) else { return Listed::NoText(self.key) };
        let (version, etag) = (self.version.as_deref(), self.etag.as_deref());
        let identity = Identity::new(bucket, &key, version, etag, self.size);
        Listed::Object(identity.with_modified(self.modified.as_ref()))
    }
}

impl From<Object> for Entry {
    fn from(object: Object) -> Self {
        Self {
            key: object.key.unwrap_or_default(),
            version: None,
            etag: object.e_tag,
            size: object.size,
            modified: object.last_modified,
        }
    }
}

impl From<ObjectVersion> for Entry {
    fn from(version: ObjectVersion) -> Self {
        Self {
            key: version.key.unwrap_or_default(),
            // An object of a time without versions has none in some lists, and is asked for by name.
            version: version.version_id,
            etag: version.e_tag,
            size: version.size,
            modified: version.last_modified,
        }
    }
}

/// A key of a list. Where the store says that it encodes them, it does as in a form: a blank is a
/// plus, and a plus is encoded. `None` for bytes that are no UTF-8.
pub(super) fn decoded(text: &str, is_encoded: bool) -> Option<String> {
    if !is_encoded {
        return Some(text.to_owned());
    }
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

/// The failure, with the right that is missing if the store denies the request.
fn naming(fault: Fault, right: &str) -> Failure {
    let denied = matches!(fault, Fault::Denied(_));
    let failure = fault.into_failure();
    if !denied {
        return failure;
    }
    Failure { detail: format!("allow {right}: {}", failure.detail), ..failure }
}

/// A list that was cut off is read like a whole one. All stores say whether theirs goes on.
pub(super) fn no_end() -> Failure {
    let detail = "the list does not say whether it goes on: it was cut off, or is none";
    fault::suspect(Request::List.stage(), Reason::StoreOdd, detail)
}

fn no_next() -> Failure {
    let detail = "the list goes on, and does not say where";
    fault::suspect(Request::List.stage(), Reason::StoreOdd, detail)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As stores write a key into a list.
    fn encoded(key: &str, blank: &str) -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./*".contains(&byte);
        key.bytes()
            .map(|byte| match byte {
                b' ' => blank.to_owned(),
                byte if plain(byte) => char::from(byte).to_string(),
                byte => format!("%{byte:02X}"),
            })
            .collect()
    }

    proptest! {
        #[test]
        fn keys_come_out_of_a_list_as_they_are(key in any::<String>()) {
            prop_assert_eq!(decoded(&encoded(&key, "+"), true), Some(key.clone()));
            prop_assert_eq!(decoded(&encoded(&key, "%20"), true), Some(key.clone()));
            prop_assert_eq!(decoded(&key, false), Some(key));
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_not_taken_for_another_key() {
        assert_eq!(decoded("a%FFb", true), None);
        assert_eq!(decoded("a%FFb", false), Some("a%FFb".to_owned()));
    }

    #[test]
    fn an_entry_has_the_identity_that_the_object_has() {
        let modified = aws_smithy_types::DateTime::from_millis(1_700_000_000_987);
        let object = Object::builder().key("a+b%2Bc").e_tag("\"e\"").size(3);
        let entry = Entry::from(object.last_modified(modified).build()).read("b", true);
        let identity = Identity::new("b", "a b+c", None, Some("e"), Some(3));
        let head = aws_smithy_types::DateTime::from_secs(1_700_000_000);
        assert_eq!(entry, Listed::Object(identity.with_modified(Some(&head))));
    }
}
