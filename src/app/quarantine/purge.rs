//! `quarantine purge`: deletes copies for good.

use std::process::ExitCode;

use super::Which;
use super::bucket::{Bucket, Held};
use crate::failure::Failure;
use crate::quarantine::record_name;
use crate::store::{Applied, Identity, Place, Versioning};

/// Versions that may be under one name. A copy is made once, and a record rarely twice.
const MAX_VERSIONS: usize = 100;

pub(super) async fn purge(bucket: &Bucket, which: &Which, dry_run: bool) -> ExitCode {
    let tally = bucket
        .each(which, async |held| {
            if dry_run {
                return Ok(Some(format!("would purge {}", held.said())));
            }
            bucket.remove(&held).await.map(|()| Some(format!("purged {}", held.said())))
        })
        .await;
    tally.end(if dry_run { "would be purged" } else { "purged" })
}

impl Bucket {
    /// Deletes a copy and then its record. Interrupted in between it leaves the record, which says what
    /// the copy was.
    pub(super) async fn remove(&self, held: &Held) -> Result<(), String> {
        self.remove_copy(held).await?;
        self.clear(&record_name(&held.name)).await
    }

    /// Deletes a copy, and leaves its record.
    pub(super) async fn remove_copy(&self, held: &Held) -> Result<(), String> {
        self.clear(&held.name).await
    }

    /// Deletes whatever has this name, version by version, also below a delete marker.
    pub(super) async fn clear(&self, key: &str) -> Result<(), String> {
        for _ in 0..MAX_VERSIONS {
            match self.copy(key).await? {
                Some(found) => self.delete(&found).await?,
                None => return self.clear_below(key).await,
            }
        }
        Err(format!("{key}: more than {MAX_VERSIONS} versions: run it again"))
    }

    async fn clear_below(&self, key: &str) -> Result<(), String> {
        let failed = |failure: Failure| format!("{key}: {failure}");
        if self.store.versioning_of(&self.name).await.map_err(failed)? == Versioning::Never {
            return Ok(());
        }
        let place = Place { bucket: self.name.clone(), key: key.to_owned() };
        for version in self.store.versions_of(&place).await.map_err(failed)? {
            self.delete(&version).await?;
        }
        Ok(())
    }

    async fn delete(&self, found: &Identity) -> Result<(), String> {
        let key = &found.key;
        match self.store.delete(found).await {
            Ok(Applied::Done) => Ok(()),
            Ok(Applied::Changed) => Err(format!("{key}: replaced meanwhile, and left")),
            Ok(Applied::Locked) => {
                Err(format!("{key}: a rule of retention keeps it in {}", self.name))
            }
            Ok(refused) => Err(format!(
                "{key}: the store does not allow the deletion ({refused:?}): allow \
                 s3:DeleteObject, with versions s3:DeleteObjectVersion, in {}",
                self.name
            )),
            Err(failure) => Err(format!("{key}: {failure}")),
        }
    }
}
