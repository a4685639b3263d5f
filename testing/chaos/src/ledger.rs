//! Everything that was uploaded, and the expected result.

mod parts;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use futures_util::{StreamExt, TryStreamExt, stream};
use md5::{Digest, Md5};
use peers::eicar::hex;
use peers::error::{Context, Error, Result};
use peers::notification;
use stack::{Amqp, S3};
use tokio::task::JoinHandle;

use crate::samples::{Fate, archive, content, sha256, small, tiny};
use crate::senders::Senders;

/// Fewest objects of a scenario.
pub(super) const OBJECTS: usize = 300;
/// Parallel uploads.
const CONCURRENCY: usize = 6;
/// A user's own tag, which must stay.
pub(super) const USER_TAG: (&str, &str) = ("owner", "somebody");
/// The name of a user's own metadata; its value is the SHA-256.
pub(super) const METADATA: &str = "sample";
/// A user's own content type.
pub(super) const CONTENT_TYPE: &str = "application/x-sample";

/// One upload.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Clone)]
pub(super) struct Upload {
    pub(super) key: String,
    /// As the store answered. `None` or `null` without a version id of its own.
    pub(super) version: Option<String>,
    pub(super) etag: String,
    pub(super) sha256: String,
    pub(super) fate: Fate,
    pub(super) user_tag: bool,
    /// Replaced or removed by its user since: nothing is expected for it any more.
    pub(super) over: bool,
    /// Its notification must end in the dead-letter queue.
    pub(super) parks: bool,
    /// It was put, on purpose, into the documented window of a store that ignores `If-Match`.
    pub(super) in_window: bool,
    /// It was moved into quarantine, and a person has taken it back.
    pub(super) restored: bool,
}

impl Upload {
    /// A version id that always means these bytes.
    pub(super) fn real_version(&self) -> Option<&str> {
        self.version.as_deref().filter(|version| !matches!(*version, "" | "null"))
    }
}

/// Sends the notifications that a store would send.
pub(super) enum Announcer {
    /// By this exchange, with this routing key.
    Exchange(Box<Amqp>, String, String),
    /// By webhooks.
    Webhooks(Senders),
}

/// Uploads, and records every upload. Cheap to clone.
#[derive(Clone)]
pub(super) struct Ledger {
    store: S3,
    /// For a store that announces nothing itself.
    announcer: Option<Arc<Announcer>>,
    /// Whether notifications name the version.
    pub(super) names_versions: bool,
    /// Before the keys of what [`Self::feed`] uploads from now on.
    pub(super) prefix: String,
    rng: Arc<Mutex<Rng>>,
    uploads: Arc<Mutex<Vec<Upload>>>,
}

impl Ledger {
    pub(super) fn new(store: S3, announcer: Option<Announcer>, rng: Rng) -> Self {
        Self {
            store,
            announcer: announcer.map(Arc::new),
            names_versions: true,
            prefix: String::new(),
            rng: Arc::new(Mutex::new(rng)),
            uploads: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Upload>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a random choice.
    pub(super) fn random<T>(&self, choose: impl FnOnce(&mut Rng) -> T) -> T {
        choose(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn uploads(&self) -> Vec<Upload> {
        self.lock().clone()
    }

    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// The upload with these bytes.
    pub(super) fn by_sha256(&self, sha256: &str) -> Option<Upload> {
        self.lock().iter().find(|upload| upload.sha256 == sha256).cloned()
    }

    /// The keys under which several uploads without a version of their own were announced.
    pub(super) fn shared_names(&self) -> HashSet<String> {
        let uploads = self.uploads();
        let unversioned = uploads.iter().filter(|upload| upload.real_version().is_none());
        let mut seen = HashSet::new();
        unversioned
            .filter(|upload| !seen.insert(&upload.key))
            .map(|upload| upload.key.clone())
            .collect()
    }

    pub(super) fn change(&self, which: impl Fn(&Upload) -> bool, change: impl Fn(&mut Upload)) {
        self.lock().iter_mut().filter(|upload| which(upload)).for_each(change);
    }

    /// Uploads one object of this fate; one in ten has a tag of its user.
    pub(super) async fn put(&self, key: &str, fate: Fate) -> Result<Upload> {
        let user_tag = self.random(|rng| rng.u32(0..10) == 0);
        self.upload(key, fate, user_tag).await
    }

    /// As [`Self::put`], without such a tag.
    pub(super) async fn put_plain(&self, key: &str, fate: Fate) -> Result<Upload> {
        self.upload(key, fate, false).await
    }

    /// As [`Self::put_plain`], at most 64 KiB.
    pub(super) async fn put_small(&self, key: &str, fate: Fate) -> Result<Upload> {
        let content = self.random(|rng| small(fate, rng));
        self.put_bytes(key, fate, false, content).await
    }

    /// Uploads many objects of some hundred bytes, without tags of a user, as fast as the store takes
    /// them. `fate` gets the number of the object.
    pub(super) async fn put_many(
        &self,
        prefix: &str,
        count: usize,
        fate: impl Fn(usize) -> Fate,
    ) -> Result<()> {
        let puts = (0..count).map(|n| {
            let (key, fate) = (format!("{prefix}{n:05}"), fate(n));
            async move {
                let content = self.random(|rng| tiny(fate, rng));
                self.put_bytes(&key, fate, false, content).await.map(drop)
            }
        });
        let mut puts = stream::iter(puts).buffer_unordered(CONCURRENCY);
        while let Some(put) = puts.next().await {
            put?;
        }
        Ok(())
    }

    /// Uploads with headers that are sent byte for byte. `None` when the store refuses the upload.
    pub(super) async fn put_odd(
        &self,
        key: &str,
        fate: Fate,
        headers: &[(String, Vec<u8>)],
    ) -> Result<Option<Upload>> {
        let content = self.random(|rng| content(fate, rng));
        let upload = self.enter_bytes(key, fate, false, &content);
        let answer = self.store.put_raw(key, &content, headers).await?;
        if answer.status != 200 {
            self.lock().retain(|entry| entry.sha256 != upload.sha256);
            return Ok(None);
        }
        let version = answer.text("x-amz-version-id");
        self.stored(upload, &answer.text("etag").unwrap_or_default(), version).await.map(Some)
    }

    async fn upload(&self, key: &str, fate: Fate, user_tag: bool) -> Result<Upload> {
        let content = self.random(|rng| content(fate, rng));
        self.put_bytes(key, fate, user_tag, content).await
    }

    /// Uploads a zip archive of this length, with a tag of its user.
    pub(super) async fn put_archive(&self, key: &str, length: usize) -> Result<Upload> {
        let content = self.random(|rng| archive(length, rng));
        self.put_bytes(key, Fate::Clean, true, content).await
    }

    async fn put_bytes(
        &self,
        key: &str,
        fate: Fate,
        user_tag: bool,
        content: Vec<u8>,
    ) -> Result<Upload> {
        let upload = self.enter_bytes(key, fate, user_tag, &content);
        let answer = loop {
            let put = self.store.client.put_object().bucket(&self.store.bucket).key(key);
            let tag = user_tag.then(tagging);
            let put = put.metadata(METADATA, &upload.sha256).content_type(CONTENT_TYPE);
            match put.set_tagging(tag).body(content.clone().into()).send().await {
                Ok(answer) => break answer,
                // The store itself may be down.
                Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
            }
        };
        self.stored(upload, &answer.e_tag.unwrap_or_default(), answer.version_id).await
    }

    fn enter_bytes(&self, key: &str, fate: Fate, user_tag: bool, content: &[u8]) -> Upload {
        let (etag, sha256) = (hex(&Md5::digest(content)), sha256(content));
        self.enter(key, fate, user_tag, etag, sha256)
    }

    /// Records an upload before it is sent: hooks may look it up as soon as the store has it.
    fn enter(&self, key: &str, fate: Fate, user_tag: bool, etag: String, sha256: String) -> Upload {
        let upload = Upload {
            key: key.to_owned(),
            version: None,
            etag,
            sha256,
            fate,
            user_tag,
            over: false,
            parks: false,
            in_window: false,
            restored: false,
        };
        self.lock().push(upload.clone());
        upload
    }

    /// Completes the record of an upload with the store's answer.
    async fn stored(
        &self,
        mut upload: Upload,
        etag: &str,
        version: Option<String>,
    ) -> Result<Upload> {
        if etag.trim_matches('"') != upload.etag {
            return Err(Error::new(format!("{}: the store's ETag is {etag}", upload.key)));
        }
        upload.version = version;
        for entry in self.lock().iter_mut().filter(|entry| entry.key == upload.key) {
            if entry.sha256 == upload.sha256 {
                entry.version.clone_from(&upload.version);
            } else if upload.real_version().is_none() && entry.real_version().is_none() {
                entry.over = true;
            }
        }
        self.announce(&upload).await?;
        Ok(upload)
    }

    /// Publishes the notification, for a store that announces nothing itself.
    pub(super) async fn announce(&self, upload: &Upload) -> Result<()> {
        self.publish(&self.notification(upload)).await
    }

    /// As [`Self::announce`], of an upload by somebody else, of which the name alone is known.
    pub(super) async fn announce_name(&self, key: &str) -> Result<()> {
        self.publish(&notification::put(&self.store.bucket, key, None, None)).await
    }

    async fn publish(&self, event: &serde_json::Value) -> Result<()> {
        match self.announcer.as_deref() {
            None => Ok(()),
            Some(Announcer::Exchange(amqp, exchange, routing_key)) => {
                amqp.notify(exchange, routing_key, event).await
            }
            Some(Announcer::Webhooks(senders)) => {
                senders.send(&event.to_string());
                Ok(())
            }
        }
    }

    /// Those who send webhooks, where there are any.
    pub(super) fn senders(&self) -> Option<&Senders> {
        match self.announcer.as_deref() {
            Some(Announcer::Webhooks(senders)) => Some(senders),
            _ => None,
        }
    }

    pub(super) fn notification(&self, upload: &Upload) -> serde_json::Value {
        let etag = Some(upload.etag.as_str());
        let mut event = notification::put(&self.store.bucket, &upload.key, None, etag);
        if let Some(version) = upload.version.as_ref().filter(|_| self.names_versions) {
            event["Records"][0]["s3"]["object"]["versionId"] = version.as_str().into();
        }
        event
    }

    /// Removes an object as its user.
    pub(super) async fn remove(&self, key: &str) -> Result<()> {
        self.change(|upload| upload.key == key, |upload| upload.over = true);
        let delete = self.store.client.delete_object().bucket(&self.store.bucket).key(key);
        delete.send().await.map(drop).context(format!("remove {key}"))
    }

    /// Removes every object that is still there, and forgets it.
    pub(super) async fn forget(&self) -> Result<()> {
        let keys: HashSet<String> = self.lock().drain(..).map(|upload| upload.key).collect();
        let removals = keys.iter().map(|key| self.store.delete(key));
        stream::iter(removals).buffer_unordered(CONCURRENCY).try_collect().await
    }

    /// Uploads `count` objects, spread over `time`.
    pub(super) fn feed(&self, count: usize, time: Duration) -> JoinHandle<Result<()>> {
        self.feed_from(0, count, time)
    }

    /// As [`Self::feed`], with numbers that start at `from`.
    pub(super) fn feed_from(
        &self,
        from: usize,
        count: usize,
        time: Duration,
    ) -> JoinHandle<Result<()>> {
        self.feed_each(count, time, move |ledger, n| async move {
            let fate = ledger.random(Fate::random);
            let key = format!("{}{:04}-{fate:?}", ledger.prefix, from + n);
            ledger.put(&key, fate).await.map(drop)
        })
    }

    /// Has `put` upload objects number 0 to `count`, spread over `time`.
    pub(super) fn feed_each<F: Future<Output = Result<()>> + Send>(
        &self,
        count: usize,
        time: Duration,
        put: impl Fn(Self, usize) -> F + Send + Sync + 'static,
    ) -> JoinHandle<Result<()>> {
        let ledger = self.clone();
        let start = tokio::time::Instant::now();
        tokio::spawn(async move {
            let puts = (0..count).map(|n| {
                #[expect(clippy::cast_precision_loss, reason = "some hundred")]
                let share = n as f64 / count as f64;
                let (put, at) = (put(ledger.clone(), n), start + time.mul_f64(share));
                async move {
                    tokio::time::sleep_until(at).await;
                    put.await
                }
            });
            let mut puts = stream::iter(puts).buffered(CONCURRENCY);
            while let Some(put) = puts.next().await {
                put?;
            }
            if let Some(senders) = ledger.senders() {
                senders.delivered().await;
            }
            Ok(())
        })
    }
}

/// A user's tag, as the header names it.
fn tagging() -> String {
    format!("{}={}", USER_TAG.0, USER_TAG.1)
}

/// Waits for a task that runs in the background.
pub(super) async fn joined(task: tokio::task::JoinHandle<Result<()>>) -> Result<()> {
    task.await.map_err(|error| peers::error::Error::new(error.to_string()))?
}
