//! Whether a person has released what was found.

use std::time::Duration;

use super::Pipeline;
use crate::failure::{Dependency, Failure, Kind};
use crate::receipt::{self, statement_of};
use crate::report::Examined;
use crate::store::Pin;

/// Waits before the tags are asked for again.
const DELAYS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(1)];

impl Pipeline {
    /// Marks a finding that has a valid release on the very bytes: of this SHA-256, under this name, about
    /// this finding.
    ///
    /// # Errors
    /// When the store as a whole does not answer. Where the tags of this object alone cannot be read, it
    /// counts as not released: otherwise that would be a way to keep what is infected.
    pub(super) async fn recognise_release(&self, examined: &mut Examined) -> Result<(), Failure> {
        let settings = &self.policy.settings;
        let (Some(finding), Some(sha256)) = (examined.verdict.finding(), &examined.sha256) else {
            return Ok(());
        };
        let identity = &examined.identity;
        let may_be_released = settings.tag_files
            && !self.keys.is_empty()
            && !examined.is_canary()
            && identity.pin != Pin::Nothing;
        if !may_be_released {
            return Ok(());
        }
        let mut read = self.store.read_tags(identity, None).await;
        for delay in DELAYS {
            if read.is_ok() {
                break;
            }
            tokio::time::sleep(delay).await;
            read = self.store.read_tags(identity, None).await;
        }
        match read {
            Ok(Ok(found)) => {
                let receipt_key = receipt::tag_key(&settings.tag_key);
                let stated = statement_of(&found.tags, &receipt_key, &self.keys, &found.identity);
                examined.released =
                    stated.is_some_and(|statement| statement.releases(sha256, finding));
                Ok(())
            }
            // Other bytes are there by now, or tags are denied or unknown here.
            Ok(Err(_)) => Ok(()),
            Err(failure) => {
                let concerns_this_alone = match failure.kind {
                    Kind::Transient | Kind::Permanent => true,
                    Kind::Suspect(Dependency::Store) => {
                        self.store.probe_after(&identity.bucket, &identity.key).await.is_ok()
                    }
                    _ => false,
                };
                if !concerns_this_alone {
                    return Err(failure);
                }
                tracing::warn!(%failure, "whether it is released cannot be read: it counts as not");
                Ok(())
            }
        }
    }
}
