//! The standing of one object.

use std::sync::Arc;
use std::time::Duration;

use super::Stop;
use crate::failure::{Failure, Kind, Reason, Stage};
use crate::receipt::{self, Freshness, Keys, Standing, Standings, Statement};
use crate::store::{Identity, Listed, Store, TagsSeen};

/// Waits before an object is looked at again, after a failure.
const DELAYS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// Judges objects.
pub(crate) struct Judge {
    pub(crate) store: Arc<Store>,
    pub(crate) keys: Arc<Keys>,
    /// The key of the status tag.
    pub(crate) tag_key: String,
    pub(crate) freshness: Freshness,
    /// Read the bytes of what is verified, and compare their SHA-256.
    pub(crate) hash: bool,
}

/// What was found out about an object.
#[derive(Debug)]
pub(crate) enum Finding {
    Judged(Judged),
    /// It was removed after it was listed.
    Gone,
    /// Its standing cannot be found out.
    Unknown(Failure),
    /// Its key is no text, so nothing can be asked about it.
    NoText,
    /// It is a folder, and has no bytes.
    Folder,
}

/// An object with its standing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) identity: Identity,
    pub(crate) standing: Standing,
    /// What its receipt says, if that is valid.
    pub(crate) statement: Option<Statement>,
    /// Its bytes have another SHA-256 than the receipt says.
    pub(crate) other_bytes: bool,
}

/// One look at an object.
enum Look {
    /// A valid receipt, or none at all.
    Sure(Judged),
    /// Its receipt does not fit: believed only if the object is still the one that was looked at.
    Doubtful(Judged),
    /// Other bytes are there now.
    Changed,
}

impl Judge {
    /// The standing of a listed object. What speaks against it is believed only after a second look:
    /// it may have been overwritten or tagged since it was listed.
    ///
    /// # Errors
    /// When the store has no tags, or does not answer any more.
    pub(crate) async fn judge(&self, listed: &Listed) -> Result<Finding, Stop> {
        let Listed::Object(listed) = listed else { return Ok(Finding::NoText) };
        if listed.is_folder() {
            return Ok(Finding::Folder);
        }
        let mut seen = listed.clone();
        let mut failed = match self.look(&seen).await? {
            Ok(Look::Sure(judged)) => {
                self.store.remember_good(&judged.identity);
                return Ok(Finding::Judged(judged));
            }
            Ok(Look::Doubtful(_) | Look::Changed) => None,
            Err(failure) => Some(failure),
        };
        let mut down = false;
        for (round, delay) in DELAYS.into_iter().enumerate() {
            if failed.is_some() {
                tokio::time::sleep(delay).await;
            }
            let current = match self.store.identify_again(listed).await {
                Ok(Some(current)) => current,
                Ok(None) => return Ok(Finding::Gone),
                Err(failure) => {
                    down = matches!(failure.kind, Kind::Suspect(_));
                    failed = Some(failure);
                    if down {
                        continue;
                    }
                    break;
                }
            };
            down = false;
            failed = match self.look(&current).await? {
                Ok(Look::Sure(judged)) => return Ok(Finding::Judged(judged)),
                Ok(Look::Doubtful(judged)) if current == seen => {
                    return Ok(Finding::Judged(judged));
                }
                Ok(Look::Doubtful(_) | Look::Changed) => None,
                // Only this object is concerned, and waiting does not help.
                Err(failure) if !matches!(failure.kind, Kind::Suspect(_)) && round > 0 => {
                    return Ok(Finding::Unknown(failure));
                }
                Err(failure) => Some(failure),
            };
            seen = current;
        }
        match failed {
            Some(failure) if down => {
                // One broken object must not end the walk over all others.
                let up = self.store.probe_after(&listed.bucket, &listed.key).await;
                up.map(|()| Finding::Unknown(failure)).map_err(Stop::Down)
            }
            Some(failure) => Ok(Finding::Unknown(failure)),
            None => {
                let detail = "it is overwritten again and again";
                let failure = Failure::transient(Stage::Tag, Reason::KeepsChanging, detail);
                Ok(Finding::Unknown(failure))
            }
        }
    }

    async fn look(&self, identity: &Identity) -> Result<Result<Look, Failure>, Stop> {
        let tags = match self.store.tags_of(identity).await {
            Ok(TagsSeen::Tags(tags)) => tags,
            Ok(TagsSeen::Unsupported) => return Err(Stop::NoTags),
            Ok(TagsSeen::Gone) => {
                let detail =
                    "the store has the object, and denies it when it is asked for its tags";
                let failure = Failure::transient(Stage::Tag, Reason::StoreNotFound, detail);
                return Ok(Err(failure));
            }
            Err(failure) => return Ok(Err(failure)),
        };
        let Self { keys, tag_key, freshness, .. } = self;
        let standings = Standings { keys, tag_key, freshness: freshness.clone() };
        let (standing, statement) = standings.of(identity, &tags);
        let judged = Judged { identity: identity.clone(), standing, statement, other_bytes: false };
        let has_receipt = || tags.iter().any(|(key, _)| *key == receipt::tag_key(tag_key));
        match standing {
            Standing::Verified | Standing::Released if self.hash => self.compare(judged).await,
            Standing::Forged => Ok(Ok(Look::Doubtful(judged))),
            // Without a receipt it makes no difference which bytes are there.
            Standing::Never if has_receipt() => Ok(Ok(Look::Doubtful(judged))),
            _ => Ok(Ok(Look::Sure(judged))),
        }
    }

    /// Reads the bytes, and compares them with the receipt.
    async fn compare(&self, judged: Judged) -> Result<Result<Look, Failure>, Stop> {
        let expected = judged.statement.as_ref().and_then(|statement| statement.sha256.clone());
        Ok(match self.store.sha256_of(&judged.identity).await {
            Ok(None) => Ok(Look::Changed),
            Ok(found) if found == expected => Ok(Look::Sure(judged)),
            Ok(Some(_)) => {
                let standing = Standing::Never;
                Ok(Look::Sure(Judged { standing, other_bytes: true, ..judged }))
            }
            Err(failure) => Err(failure),
        })
    }
}
