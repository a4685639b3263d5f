//! Fetches, tags, copies and deletes one exact version of an object; lists a bucket.
//!
//! The only room that knows S3. Every effect is tied to an [`Identity`]: what the store answered to
//! the GET whose body was scanned, never what the notification said.

mod aside;
mod back;
mod buffer;
mod client;
mod credentials;
mod disk_budget;
mod download;
mod effects;
mod fault;
mod fetch;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod identity;
mod inspect;
mod key;
mod observation;
mod own;
mod page;
mod probe;
mod request;
mod survey;
mod transport;
mod trial;
mod versions;

pub(crate) use self::aside::{Original, Place};
pub(crate) use self::back::{MAX_PUT, Restoration, Written, differing, naming_right};
pub(crate) use self::buffer::{Buffer, BufferReader};
pub(crate) use self::disk_budget::Claim;
pub(crate) use self::download::Downloaded;
pub(crate) use self::effects::{Applied, KeyValue, MAX_TAGS, Tagged, Tags};
pub(crate) use self::fetch::{Fetched, Look};
pub(crate) use self::identity::{Identity, Pin};
pub(crate) use self::inspect::TagsSeen;
pub(crate) use self::key::MAX_KEY;
pub(crate) use self::observation::Observation;
pub(crate) use self::own::{OwnFault, Removal};
pub(crate) use self::page::{Listed, Listing, Mark, Versioning, Walk};
pub(crate) use self::survey::{Bearing, Finding};

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use self::aside::CopyLimits;
use self::disk_budget::DiskBudget;
use self::observation::TagCounts;
use crate::config::StoreSettings;
use crate::tls::Trust;

/// The object store.
pub(crate) struct Store {
    client: aws_sdk_s3::Client,
    disk: DiskBudget,
    temp_dir: PathBuf,
    /// The largest object that is downloaded, in bytes.
    max_object: u64,
    copy_limits: CopyLimits,
    /// Bucket and key of the last successful downloads, newest first. A working store can still
    /// serve them, so a probe asks for these.
    last_good: Mutex<VecDeque<(String, String)>>,
    /// None of them could be read at the last probe. Until one can, a listing of the buckets does
    /// not prove that the store is back.
    last_good_failed: AtomicBool,
    /// Tags were read successfully once, so the store has them.
    has_tags: AtomicBool,
    /// The warning that the store has no tags was logged.
    warned_no_tags: AtomicBool,
    /// Buckets whose objects tell how many tags they have.
    tag_counts: TagCounts,
}

impl Store {
    /// Builds the client; nothing is sent yet.
    ///
    /// # Errors
    /// When the TLS settings cannot be used.
    pub(crate) async fn new(settings: &StoreSettings, trust: &Trust) -> Result<Self, String> {
        Ok(Self {
            client: client::build(settings, trust).await?,
            disk: DiskBudget::new(settings.spool),
            temp_dir: settings.temp_dir.clone(),
            max_object: settings.max_object,
            copy_limits: CopyLimits::S3,
            last_good: Mutex::default(),
            last_good_failed: AtomicBool::new(false),
            has_tags: AtomicBool::new(false),
            warned_no_tags: AtomicBool::new(false),
            tag_counts: TagCounts::default(),
        })
    }
}
