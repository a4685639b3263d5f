//! The key behind which an audit that ended early can go on.

use crate::store::{Listed, Listing};

/// Follows a walk.
#[derive(Debug)]
pub(super) struct Position {
    listing: Listing,
    /// The last key of which everything is done.
    done: Option<String>,
    /// The key of the last object.
    current: Option<String>,
}

impl Position {
    pub(super) const fn new(listing: Listing, after: Option<String>) -> Self {
        Self { listing, done: after, current: None }
    }

    /// The next object is done.
    pub(super) fn passed(&mut self, listed: &Listed) {
        let Listed::Object(identity) = listed else { return };
        if self.current.as_ref() != Some(&identity.key) {
            let before = self.current.replace(identity.key.clone());
            self.done = before.or_else(|| self.done.take());
        }
    }

    /// The key to go on behind; `None` is the start.
    pub(super) fn after(&self) -> Option<&str> {
        match self.listing {
            Listing::Objects => self.current.as_ref().or(self.done.as_ref()),
            // More versions of the last key may follow.
            Listing::Versions | Listing::CurrentVersions => self.done.as_ref(),
        }
        .map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Identity;

    #[test]
    fn versions_of_one_key_are_done_when_another_key_comes() {
        let after = |listing, keys: &[&str]| {
            let mut position = Position::new(listing, Some("start".to_owned()));
            for key in keys {
                position.passed(&Listed::Object(Identity::new("b", key, None, None, None)));
            }
            position.after().map(str::to_owned)
        };
        for (keys, objects, versions) in [
            (&[][..], "start", "start"),
            (&["a"], "a", "start"),
            (&["a", "a"], "a", "start"),
            (&["a", "a", "b"], "b", "a"),
            (&["a", "b", "c", "c"], "c", "b"),
        ] {
            assert_eq!(after(Listing::Objects, keys).as_deref(), Some(objects), "{keys:?}");
            assert_eq!(after(Listing::Versions, keys).as_deref(), Some(versions), "{keys:?}");
        }
    }
}
