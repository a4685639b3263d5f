//! What an earlier scan left on an object that a sweep announces.

use std::time::SystemTime;

use super::Pipeline;
use crate::clock;
use crate::event::ObjectRef;
use crate::receipt::{Freshness, Standing, Standings};
use crate::store::{Identity, TagsSeen};

impl Pipeline {
    /// Whether a receipt proves a verdict about these bytes whose scan began after `began`, in
    /// milliseconds since 1970: one request for the tags, none without a key. Where the store does not
    /// tell, the answer is no, and the scan finds out why.
    pub(crate) async fn was_scanned_since(&self, object: &ObjectRef, began: i64) -> bool {
        if self.keys.is_empty() {
            return false;
        }
        let identity = Identity::of_listed(object);
        let Ok(TagsSeen::Tags(tags)) = self.store.tags_of(&identity).await else { return false };
        let tag_key = &self.policy.settings.tag_key;
        let standings = Standings { keys: &self.keys, tag_key, freshness: Freshness::Any };
        let (standing, statement) = standings.of(&identity, &tags);
        // A later time than now was given by a clock that is wrong.
        let recent = began.saturating_add(1)..=clock::millis(SystemTime::now());
        let is_verdict = match standing {
            Standing::Verified
            | Standing::Released
            | Standing::Infected
            | Standing::Unscannable => true,
            Standing::Stale | Standing::Never | Standing::Forged | Standing::Untaggable => false,
        };
        is_verdict && statement.is_some_and(|statement| recent.contains(&statement.began))
    }
}
