//! What `check` finds out about the quarantine bucket.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::Place;
use crate::store::own::Removal;
use crate::store::survey::{Finding, brief, status};
use crate::store::{Applied, Store};

const BODY: &[u8] = b"Written by bucket-av-scanner check, which removes it again.\n";

impl Store {
    /// Checks that the quarantine bucket is there. Changes nothing.
    pub(crate) async fn survey_quarantine(&self, quarantine: &str) -> Finding {
        match self.client.head_bucket().bucket(quarantine).send().await {
            Ok(_) => Finding::good("is there for QUARANTINE_BUCKET: check --write tries a copy"),
            Err(error) if status(&error) == Some(404) => Finding::missing(
                "is QUARANTINE_BUCKET and does not exist: infected objects would stay, tagged",
            ),
            Err(error) => Finding::note(format!(
                "is QUARANTINE_BUCKET and cannot be looked at ({}): check --write tries a copy",
                brief(&error)
            )),
        }
    }

    /// Copies an object of ours from `bucket` into the quarantine bucket, and removes both.
    pub(crate) async fn try_quarantine(
        &self,
        bucket: &str,
        key: &str,
        quarantine: &str,
    ) -> Vec<Finding> {
        let sha256 = hex::encode(Sha256::digest(BODY));
        let mut findings = vec![self.try_copy(bucket, key, quarantine, &sha256).await];
        for place in [bucket, quarantine] {
            match self.remove_own(place, key, &sha256).await {
                Ok(Removal::Gone) => {}
                Ok(Removal::NotOurs) => findings.push(Finding::missing(format!(
                    "other bytes are at {place}/{key} than were written"
                ))),
                Err(fault) => findings.push(Finding::missing(format!(
                    "{place}/{key} could not be removed ({fault}): remove it"
                ))),
            }
        }
        findings
    }

    async fn try_copy(&self, bucket: &str, key: &str, quarantine: &str, sha256: &str) -> Finding {
        let missing = |why: &dyn std::fmt::Display| {
            Finding::missing(format!(
                "an object cannot be copied into QUARANTINE_BUCKET ({why}): see docs/QUARANTINE.md \
                 for the rights; infected objects would stay, tagged"
            ))
        };
        let to = Place { bucket: quarantine.to_owned(), key: key.to_owned() };
        if let Err(fault) = self.put_own(bucket, key, Bytes::from_static(BODY)).await {
            return missing(&fault);
        }
        let identity = match self.identify(bucket, key, None).await {
            Ok(Some(identity)) => identity,
            Ok(None) => return missing(&"it was written, and is not there"),
            Err(failure) => return missing(&failure),
        };
        let source = match self.original(&identity).await {
            Ok(Ok((source, _))) => source,
            Ok(Err(applied)) => return missing(&format!("{applied:?}")),
            Err(failure) => return missing(&failure),
        };
        match self.copy_aside(&source, &to, sha256).await {
            Ok(Applied::Done) => {
                Finding::good("an object can be copied into QUARANTINE_BUCKET, and read back")
            }
            Ok(applied) => missing(&format!("{applied:?}")),
            Err(failure) => missing(&failure),
        }
    }
}
