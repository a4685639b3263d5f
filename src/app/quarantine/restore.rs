//! `quarantine restore`: writes copies back to where they were, released.
//!
//! The bytes are checked against the record before they are written, and read back afterwards; only then
//! the copy is removed. Interrupted at any point, the next run finds how far it came: an object that
//! carries the release is there already.

use std::process::ExitCode;
use std::time::SystemTime;

use tokio::sync::OnceCell;
use uuid::Uuid;

use super::bucket::{Bucket, Held};
use super::{BAD_ARGUMENTS, Restore, fail};
use crate::app::BAD_CONFIGURATION;
use crate::app::receipts::keys;
use crate::app::verify::Address;
use crate::clock;
use crate::config::Inspection;
use crate::failure::{Failure, Kind};
use crate::pipeline::tag;
use crate::quarantine::Record;
use crate::receipt::{self, Found, Keys, Statement, check, statement_of};
use crate::store::{
    Identity, KeyValue, MAX_KEY, MAX_PUT, MAX_TAGS, Place, Restoration, Store, TagsSeen,
    Versioning, Written, differing, naming_right,
};
use crate::verdict::Status;

/// Writes copies back.
pub(super) struct Restorer<'a> {
    bucket: &'a Bucket,
    store: &'a Store,
    keys: Keys,
    tag_key: String,
    what: Restore,
    /// The store refuses to write over something where it is asked to.
    honours_absence: OnceCell<bool>,
}

/// What is under the name that a copy is to get.
enum There {
    /// Nothing, or what may be covered.
    Free {
        /// An older version than what was moved.
        older: bool,
    },
    /// What is to be written, by an earlier run.
    Already(Identity),
}

pub(super) async fn restore(settings: &Inspection, bucket: &Bucket, what: Restore) -> ExitCode {
    if let Err(error) = what.check() {
        return fail(error, BAD_ARGUMENTS);
    }
    let which = what.which.clone();
    let end = if what.dry_run { "would be restored" } else { "restored" };
    let restorer = match Restorer::new(settings, bucket, what) {
        Ok(restorer) => restorer,
        Err(error) => return fail(error, BAD_CONFIGURATION),
    };
    bucket.each(&which, async |held| restorer.one(&held).await.map(Some)).await.end(end)
}

impl Restore {
    fn check(&self) -> Result<(), &'static str> {
        match (&self.as_key, &self.which) {
            (Some(key), _) if key.is_empty() || key.len() > MAX_KEY => {
                Err("--as: a key has 1 to 1024 bytes")
            }
            (Some(_), super::Which::Named(names)) if names.len() == 1 => Ok(()),
            (Some(_), _) => Err("--as goes with one NAME alone"),
            (None, _) => Ok(()),
        }
    }
}

impl<'a> Restorer<'a> {
    /// # Errors
    /// When nothing could be released.
    pub(super) fn new(
        settings: &Inspection,
        bucket: &'a Bucket,
        what: Restore,
    ) -> Result<Self, String> {
        let keys = keys(&settings.receipts)?;
        if keys.signing().is_none() {
            let line = "RECEIPT_KEY is required: a release is signed, and what is restored without \
                        one is taken again";
            return Err(line.to_owned());
        }
        if !settings.tag_files {
            let line = "TAG_FILES=false: a release is a tag, and the daemon would not read it";
            return Err(line.to_owned());
        }
        let (store, tag_key) = (&*bucket.store, settings.tag_key.clone());
        Ok(Self { bucket, store, keys, tag_key, what, honours_absence: OnceCell::new() })
    }

    /// Restores one copy. Both results are lines.
    pub(super) async fn one(&self, held: &Held) -> Result<String, String> {
        let record = held.record_or_why()?;
        let key = self.what.as_key.clone().unwrap_or_else(|| record.key.clone());
        let place = Place { bucket: record.bucket.clone(), key };
        let at = Address::new(&place.bucket, &place.key, None);
        let named = |why: String| format!("{}: {at}: {why}", held.name);
        let left_out = self.bring_back(held, record, &place).await.map_err(named)?;
        let (name, signature) = (&held.name, record.signature.escape_debug());
        if self.what.dry_run {
            return Ok(format!("would restore {name} {signature} to {at}"));
        }
        let left_out: Vec<_> = left_out.iter().chain(&record.left_out).cloned().collect();
        if !self.what.keep {
            self.bucket.remove_copy(held).await.map_err(named)?;
            if left_out.is_empty() {
                self.bucket.remove(held).await.map_err(named)?;
            }
        }
        let lost = if left_out.is_empty() {
            String::new()
        } else {
            let missing = left_out.join(", ");
            format!(" without {}: see its record", missing.escape_debug())
        };
        Ok(format!("restored {name} {signature} to {at}{lost}"))
    }

    /// Has the object written and verified; returns what the store did not take back, by name.
    async fn bring_back(
        &self,
        held: &Held,
        record: &Record,
        place: &Place,
    ) -> Result<Vec<String>, String> {
        let tags = self.uploader_tags(record)?;
        let versioning = self.store.versioning_of(&place.bucket).await;
        let versioning = versioning.map_err(|failure| failure.to_string())?;
        let keeps = versioning == Versioning::Enabled;
        // Before anything else is asked, so that whatever comes later is seen as such.
        let before = if keeps { self.versions(place).await? } else { Vec::new() };
        let identity = match self.find(place, record, keeps).await? {
            There::Already(identity) => identity,
            There::Free { .. } if !held.copy => {
                return Err("the copy is not there any more".to_owned());
            }
            There::Free { .. }
                if versioning == Versioning::Suspended
                    && self.versions(place).await?.iter().any(|one| one.version_id().is_none()) =>
            {
                let line = "versions are suspended, and what is below a delete marker there would be \
                            replaced: restore to another name with --as KEY";
                return Err(line.to_owned());
            }
            There::Free { .. } if self.what.dry_run => return Ok(Vec::new()),
            There::Free { older } => {
                let written = self.write(held, record, place, &tags, keeps, older).await?;
                if keeps {
                    self.withdraw_if_covering(place, &written, &before).await?;
                }
                written
            }
        };
        if self.what.dry_run {
            return Ok(Vec::new());
        }
        self.settle(&identity, record, &tags).await
    }

    /// The tags of the uploader that are to be set beside ours.
    fn uploader_tags(&self, record: &Record) -> Result<Vec<KeyValue>, String> {
        let ours = [self.tag_key.clone(), receipt::tag_key(&self.tag_key)];
        let mut tags = record.tags();
        tags.retain(|(key, _)| !ours.contains(key) && !self.what.without_tags.contains(key));
        if tags.len() + ours.len() > MAX_TAGS {
            let count = tags.len();
            return Err(format!(
                "it had {count} tags, and with the two of a release an object has at most \
                 {MAX_TAGS}: leave some out with --without-tag KEY"
            ));
        }
        Ok(tags)
    }

    async fn find(&self, place: &Place, record: &Record, keeps: bool) -> Result<There, String> {
        let Place { bucket, key } = place;
        let found = self.store.identify(bucket, key, None).await;
        let found = found.map_err(|failure| naming_right(&failure, "s3:GetObject"))?;
        let Some(found) = found else { return Ok(There::Free { older: false }) };
        let tags = self.tags_of(&found).await?;
        let receipt_key = receipt::tag_key(&self.tag_key);
        let stated = statement_of(&tags, &receipt_key, &self.keys, &found);
        if stated.is_some_and(|statement| is_restored(&statement, record)) {
            return Ok(There::Already(found));
        }
        if record.is_of(&found, &record.sha256) && record.is_as_old_as(&found) {
            // The daemon is about to delete it: to take it for restored would lose both.
            let line = "the very object is still there, its move is not finished: try again later, \
                        or have its notification moved back (redrive)";
            return Err(line.to_owned());
        }
        let moved = record.last_modified.as_deref().and_then(clock::millis_of);
        let older = found.modified().zip(moved).is_some_and(|(now, moved)| now < moved / 1000);
        if keeps && older {
            return Ok(There::Free { older: true });
        }
        Err("something else is there by now: restore to another name with --as KEY".to_owned())
    }

    async fn tags_of(&self, identity: &Identity) -> Result<Vec<KeyValue>, String> {
        match self.store.tags_of(identity).await {
            Ok(TagsSeen::Tags(tags)) => Ok(tags),
            Ok(TagsSeen::Gone) => Err("it changed meanwhile: try again".to_owned()),
            Ok(TagsSeen::Unsupported) => {
                Err("this store has no tags, so nothing can be released".to_owned())
            }
            Err(failure) => Err(naming_right(&failure, "s3:GetObjectTagging")),
        }
    }

    /// Writes the bytes, if they are what the record says.
    async fn write(
        &self,
        held: &Held,
        record: &Record,
        place: &Place,
        tags: &[KeyValue],
        keeps: bool,
        older: bool,
    ) -> Result<Identity, String> {
        let honours = *self.honours_absence.get_or_try_init(|| self.try_absence()).await?;
        if !honours && !keeps && self.what.as_key.is_none() {
            let line = "this store ignores If-None-Match, and the bucket keeps no versions: an \
                        upload at the same moment would be lost; restore to a new name with --as KEY";
            return Err(line.to_owned());
        }
        let copy = self.bucket.download(&held.name).await?;
        let found = copy.sha256().await.map_err(|failure| failure.to_string())?;
        if found != record.sha256 {
            let line = "the copy has other bytes than its record says: nothing was written";
            return Err(line.to_owned());
        }
        if copy.length() > MAX_PUT {
            return Err("larger than 5 GiB: copy it back by hand".to_owned());
        }
        let Some(key) = self.keys.signing() else { return Err("RECEIPT_KEY is required".into()) };
        let release = release(record).sign_for_name(key, &place.bucket, &place.key);
        let mut all = tags.to_vec();
        all.push((self.tag_key.clone(), Status::Released.to_string()));
        let released = (receipt::tag_key(&self.tag_key), release);
        all.push(released.clone());
        let (headers, only_if_absent) = (record.headers(), honours && !older);
        let what = Restoration { place, headers: &headers, tags: &all, only_if_absent };
        match self.store.write_back(copy.bytes(), &what).await {
            Ok(Written::Taken { version }) => {
                let written =
                    self.store.identify(&place.bucket, &place.key, version.as_deref()).await;
                let written = written.map_err(|failure| failure.to_string())?;
                let written =
                    written.ok_or("it was written, and is not there any more: the copy stays")?;
                // Without an id it is not known whose version the name stands for.
                if version.is_none() && !self.tags_of(&written).await?.contains(&released) {
                    return Err("something was uploaded there meanwhile: the copy stays".to_owned());
                }
                Ok(written)
            }
            Ok(Written::Occupied) => {
                Err("something was uploaded there meanwhile: the copy stays".to_owned())
            }
            Err(failure) => self.after_failure(failure, place, record, keeps).await,
        }
    }

    /// A request that was not answered may have been carried out all the same.
    async fn after_failure(
        &self,
        failure: Failure,
        place: &Place,
        record: &Record,
        keeps: bool,
    ) -> Result<Identity, String> {
        if matches!(failure.kind, Kind::Suspect(_))
            && let Ok(There::Already(identity)) = self.find(place, record, keeps).await
        {
            return Ok(identity);
        }
        Err(naming_right(&failure, "s3:PutObject and s3:PutObjectTagging"))
    }

    /// Whether the store honours the condition, with an object of ours in the quarantine bucket.
    async fn try_absence(&self) -> Result<bool, String> {
        let key = format!("avscan-restore-{}", Uuid::new_v4().simple());
        let place = Place { bucket: self.bucket.name.clone(), key };
        let honours = self.store.honours_absence(&place).await;
        let cleared = self.bucket.clear(&place.key).await;
        let right = format!("s3:PutObject in {}", self.bucket.name);
        let honours = honours.map_err(|failure| naming_right(&failure, &right))?;
        cleared.map(|()| honours)
    }

    async fn versions(&self, place: &Place) -> Result<Vec<Identity>, String> {
        self.store.versions_of(place).await.map_err(|failure| failure.to_string())
    }

    /// Takes away what was written if another upload came in the meantime, which it would hide.
    async fn withdraw_if_covering(
        &self,
        place: &Place,
        written: &Identity,
        before: &[Identity],
    ) -> Result<(), String> {
        let now = self.versions(place).await?;
        let is_ours = |one: &Identity| one.slot() == written.slot();
        let is_known = |one: &Identity| before.iter().any(|known| known.slot() == one.slot());
        // A list without ours says nothing of what else came.
        if now.iter().any(is_ours) && now.iter().all(|one| is_ours(one) || is_known(one)) {
            return Ok(());
        }
        let withdrawn = self.store.delete(written).await;
        Err(format!(
            "another upload came meanwhile: what was written was withdrawn ({}); the copy stays",
            withdrawn.map_or_else(|failure| failure.to_string(), |applied| format!("{applied:?}"))
        ))
    }

    /// Reads back what is there, and ties the release to it; returns what the store did not take.
    async fn settle(
        &self,
        identity: &Identity,
        record: &Record,
        tags: &[KeyValue],
    ) -> Result<Vec<String>, String> {
        let changed = || {
            "it was overwritten or taken away right after it was written: the copy stays".to_owned()
        };
        let found = self.store.sha256_of(identity).await;
        let found = found.map_err(|failure| failure.to_string())?.ok_or_else(changed)?;
        if found != record.sha256 {
            return Err("the store has other bytes than were written: the copy stays".to_owned());
        }
        let headers = self.store.uploader_headers(identity).await;
        let headers = headers.map_err(|failure| failure.to_string())?.ok_or_else(changed)?;
        let mut left_out = differing(&record.headers(), &headers);
        let there = self.tags_of(identity).await?;
        let missing = tags.iter().filter(|tag| !there.contains(tag));
        left_out.extend(missing.map(|(key, _)| format!("tag {key}")));
        let receipt_key = receipt::tag_key(&self.tag_key);
        let receipt = there.iter().find(|(key, _)| *key == receipt_key);
        let is_tied = receipt.is_some_and(|(_, receipt)| {
            matches!(check(receipt, &self.keys, identity), Found::Valid { .. })
        });
        if !is_tied {
            // The scan that its upload is about to get does the same.
            let release = release(record);
            let tied = tag(self.store, &self.keys, &self.tag_key, (identity, None), &release).await;
            tracing::debug!(?tied, "the release was tied to what is there");
        }
        Ok(left_out)
    }
}

fn release(record: &Record) -> Statement {
    let now = clock::millis(SystemTime::now());
    Statement::release(&record.sha256, &record.signature, now)
}

/// Whether an object of which a receipt says this is what was to be restored: released by an earlier
/// run, or scanned clean since. Both only after it was moved: until it is deleted, the object itself has
/// the receipts of before.
fn is_restored(statement: &Statement, record: &Record) -> bool {
    let is_since = clock::millis_of(&record.quarantined_at).is_some_and(|at| statement.began > at);
    let is_clean = statement.status == Status::Clean
        && statement.sha256.as_deref() == Some(record.sha256.as_str());
    is_since && (is_clean || statement.releases(&record.sha256, &record.signature))
}
