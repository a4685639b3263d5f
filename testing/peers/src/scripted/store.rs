//! An S3 store in memory that a test can inspect, change and break.
//!
//! It answers as the API reference of Amazon S3 says (`GetObject`, `HeadObject`, `PutObject`,
//! `CopyObject`, uploads in parts that are copied, `DeleteObject`, `GetObjectTagging`, `PutObjectTagging`, `DeleteObjectTagging`, `ListBuckets`,
//! `HeadBucket`, `CreateBucket`, `GetBucketVersioning`, `PutBucketVersioning`, `ListObjectsV2`,
//! `ListObjectVersions`; the user guide for delete markers), by path-style addresses and without
//! checking signatures. Where stores differ there is a switch in [`Contents`], with what was
//! measured on `SeaweedFS` 4.48 and the `JuiceFS` gateway 1.4.2, which is of `MinIO`'s lineage.
//!
//! Stored headers and keys are bytes. Headers are returned as they are, as Ceph and `SeaweedFS` do.
//! A hook sees every call first. It may answer in the store's place, change what is stored, or let
//! the store answer ([`Contents::answer`]) and change that answer.

mod bucket;
mod call;
mod contents;
mod copying;
mod listing;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

pub use self::bucket::{Bucket, Version, Versioning};
pub use self::call::{Call, Operation};
pub use self::contents::{Contents, error};

use crate::scripted::http::{Reply, Server};

/// The store.
pub struct Store {
    server: Server,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    contents: Contents,
    calls: Vec<Call>,
}

impl Store {
    /// A store without buckets.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(|_, _| None)
    }

    /// A store whose hook is asked before each answer; `None` lets the store answer. Calls are
    /// handled one at a time, and the same call already sees what the hook changes. The hook must
    /// not use the [`Store`] itself: that would be a deadlock.
    #[must_use]
    pub fn start_with(
        hook: impl Fn(&Call, &mut Contents) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let shared: Arc<Mutex<Shared>> = Arc::default();
        let answering = shared.clone();
        let server = Server::start(move |request| {
            let mut shared = lock(&answering);
            let mut call = Call::parse(request);
            call.count = shared.calls.iter().filter(|earlier| earlier.is_like(&call)).count();
            shared.calls.push(call.clone());
            let reply = hook(&call, &mut shared.contents);
            reply.unwrap_or_else(|| shared.contents.answer(&call))
        });
        Self { server, shared }
    }

    /// Its address, `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        self.server.url()
    }

    /// Looks into the store, or changes it, between two calls.
    pub fn with<T>(&self, act: impl FnOnce(&mut Contents) -> T) -> T {
        act(&mut lock(&self.shared).contents)
    }

    /// Stores an object as an upload does, and returns its version id and its `ETag`; the bucket is
    /// made if it is not there.
    pub fn put(&self, bucket: &str, key: impl AsRef<[u8]>, version: Version) -> (String, String) {
        self.with(|contents| contents.bucket(bucket).put(key.as_ref(), version))
    }

    /// The current version of a key; `None` also when that is a delete marker.
    #[must_use]
    pub fn current(&self, bucket: &str, key: impl AsRef<[u8]>) -> Option<Version> {
        self.with(|contents| contents.bucket(bucket).current(key.as_ref()).cloned())
    }

    /// All versions of a key and its delete markers, oldest first.
    #[must_use]
    pub fn versions(&self, bucket: &str, key: impl AsRef<[u8]>) -> Vec<Version> {
        self.with(|contents| contents.bucket(bucket).versions(key.as_ref()).to_vec())
    }

    /// All calls so far, in the order in which they were answered.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.shared).calls.clone()
    }

    /// The calls about one object.
    #[must_use]
    pub fn calls_on(&self, bucket: &str, key: impl AsRef<[u8]>) -> Vec<Call> {
        let mut calls = self.calls();
        calls.retain(|call| call.bucket == bucket && call.key == key.as_ref());
        calls
    }

    /// Waits until there are `count` calls of one operation about one object.
    ///
    /// # Panics
    /// When they do not come in time; names the calls that came.
    #[must_use]
    pub fn wait_for(
        &self,
        operation: Operation,
        bucket: &str,
        key: impl AsRef<[u8]>,
        count: usize,
        limit: Duration,
    ) -> Vec<Call> {
        let end = Instant::now() + limit;
        loop {
            let all = self.calls_on(bucket, &key);
            let wanted: Vec<_> =
                all.iter().filter(|call| call.operation == operation).cloned().collect();
            if wanted.len() >= count {
                return wanted;
            }
            let came: Vec<_> = all.iter().map(|call| call.operation).collect();
            assert!(Instant::now() < end, "no {count} {operation:?} within {limit:?}: {came:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().expect("no hook panics")
}
