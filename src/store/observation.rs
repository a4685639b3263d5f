//! What the answer to the GET says besides the bytes, while it is young.
//!
//! Before a tag is set the bytes are compared, and the other tags read, because S3 has no condition on
//! tagging and replaces the whole set. Both questions leave a gap until the PUT arrives. An answer to
//! the GET that is no older than that gap says as much: it names the bytes, and in
//! `x-amz-tagging-count` how many tags they have.
//!
//! S3 leaves that header out where there are no tags, but also where the credentials may not read them,
//! and some stores never send it. So a missing count means none only in a bucket that was seen to tell:
//! on an object that had none, and has them by our own request. An uploader's header of that name would
//! have been there before. Versions are learned about apart: they need a right of their own.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Identity;

/// How old an answer may be when the tags are set, from sending the GET. Between a comparison and its
/// tag as much time passes on a busy machine: docs/PERFORMANCE.md has the measurement.
const FRESH: Duration = Duration::from_millis(20);
/// How long a bucket counts as one that tells. Rights may be taken away.
const TOLD_FOR: Duration = Duration::from_mins(5);
/// A bucket that tells, or of which is not known whether it does, is tried again so often.
const TRIED_EVERY: Duration = Duration::from_mins(1);
/// One that does not, so often.
const TRIED_IN_VAIN_EVERY: Duration = Duration::from_mins(10);
/// Buckets that are remembered. Others are asked as if they did not tell.
const MAX_BUCKETS: usize = 1000;
/// Names that are remembered as tagged just now: more than can be tagged while an answer is fresh.
const MAX_TAGGED: usize = 1000;

/// What the answer to a GET said, and when that was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Observation {
    /// When the request was sent.
    pub(super) asked: Instant,
    /// As the store named it; no store was seen to name 0.
    pub(super) tag_count: Option<i32>,
}

impl Observation {
    /// Whether it may stand for a question that would be asked now.
    pub(super) fn is_fresh(&self) -> bool {
        self.age() < FRESH
    }

    /// Whether it will be fresh after one request more, as far as can be expected.
    pub(super) fn stays_fresh(&self) -> bool {
        self.age() < FRESH / 2
    }

    fn age(&self) -> Duration {
        self.asked.elapsed()
    }
}

/// Which buckets tell the number of tags.
#[derive(Debug, Default)]
pub(super) struct TagCounts {
    buckets: Mutex<HashMap<Place, Tried>>,
    tagged: Mutex<VecDeque<(Instant, u64)>>,
}

/// A bucket, and whether its objects are named with a version.
type Place = (String, bool);

#[derive(Debug, Clone, Copy)]
struct Tried {
    at: Instant,
    told: Told,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Unknown,
    Nothing,
    At(Instant),
}

impl TagCounts {
    /// Whether a missing count means that there are no tags.
    pub(super) fn are_told(&self, identity: &Identity) -> bool {
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let told = buckets.get(&place(identity)).map(|tried| tried.told);
        matches!(told, Some(Told::At(at)) if at.elapsed() < TOLD_FOR)
    }

    /// Whether to look again at an object that has just got its first tags. `true` is the answer to one
    /// caller alone.
    pub(super) fn is_due(&self, identity: &Identity) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(tried) = buckets.get_mut(&place(identity)) {
            let every = if tried.told == Told::Nothing { TRIED_IN_VAIN_EVERY } else { TRIED_EVERY };
            let due = now.duration_since(tried.at) >= every;
            if due {
                tried.at = now;
            }
            return due;
        }
        let has_room = buckets.len() < MAX_BUCKETS;
        if has_room {
            buckets.insert(place(identity), Tried { at: now, told: Told::Unknown });
        }
        has_room
    }

    /// Remembers what such a look has shown.
    pub(super) fn learn(&self, identity: &Identity, told: bool) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tried) = buckets.get_mut(&place(identity)) {
            tried.told = if told { Told::At(Instant::now()) } else { Told::Nothing };
        }
    }

    /// There were tags where the answer named none: perhaps they are new, perhaps the store does not tell
    /// any more.
    pub(super) fn doubt(&self, identity: &Identity) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tried) = buckets.get_mut(&place(identity)) {
            tried.told = Told::Unknown;
        }
    }

    /// Remembers that this process sets tags under this name now.
    pub(super) fn tags(&self, identity: &Identity) {
        let mut tagged = self.tagged.lock().unwrap_or_else(PoisonError::into_inner);
        if tagged.len() == MAX_TAGGED {
            tagged.pop_front();
        }
        tagged.push_back((Instant::now(), name(identity)));
    }

    /// Whether this process has set tags under this name since the answer was asked for, perhaps another
    /// verdict on the same bytes.
    pub(super) fn were_set_since(&self, identity: &Identity, observation: &Observation) -> bool {
        let tagged = self.tagged.lock().unwrap_or_else(PoisonError::into_inner);
        let name = name(identity);
        let mut since = tagged.iter().rev().take_while(|(at, _)| *at >= observation.asked);
        since.any(|(_, other)| *other == name)
    }
}

fn place(identity: &Identity) -> Place {
    (identity.bucket.clone(), identity.slot().is_some())
}

fn name(identity: &Identity) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&identity.bucket, &identity.key).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(bucket: &str, key: &str, version: Option<&str>) -> Identity {
        Identity::new(bucket, key, version, Some("e"), Some(1))
    }

    #[test]
    fn a_bucket_tells_once_it_was_seen_to() {
        let (counts, object) = (TagCounts::default(), at("a", "k", None));
        assert!(!counts.are_told(&object));
        assert!(counts.is_due(&object));
        assert!(!counts.is_due(&object), "somebody looks already");
        assert!(!counts.are_told(&object));
        counts.learn(&object, true);
        assert!(counts.are_told(&object));
        assert!(!counts.are_told(&at("b", "k", None)));
        assert!(!counts.are_told(&at("a", "k", Some("v"))), "another right");
        counts.learn(&object, false);
        assert!(!counts.are_told(&object), "a right may be taken away");
        counts.learn(&object, true);
        counts.doubt(&object);
        assert!(!counts.are_told(&object));
    }

    #[test]
    fn buckets_without_end_take_no_memory_without_end() {
        let counts = TagCounts::default();
        for number in 0..2 * MAX_BUCKETS {
            let due = counts.is_due(&at(&number.to_string(), "k", None));
            assert_eq!(due, number < MAX_BUCKETS);
        }
        assert_eq!(counts.buckets.lock().unwrap().len(), MAX_BUCKETS);
    }

    #[test]
    fn tags_that_this_process_sets_are_noticed() {
        let (counts, object) = (TagCounts::default(), at("a", "k", None));
        let before = Observation { asked: Instant::now(), tag_count: None };
        assert!(!counts.were_set_since(&object, &before));
        counts.tags(&object);
        assert!(counts.were_set_since(&object, &before));
        assert!(!counts.were_set_since(&at("a", "other", None), &before));
        let after = Observation { asked: Instant::now(), tag_count: None };
        assert!(!counts.were_set_since(&object, &after));
        for _ in 0..2 * MAX_TAGGED {
            counts.tags(&object);
        }
        assert_eq!(counts.tagged.lock().unwrap().len(), MAX_TAGGED);
    }

    #[test]
    fn an_answer_does_not_stay_fresh() {
        let asked = Instant::now().checked_sub(FRESH).unwrap();
        assert!(!Observation { asked, tag_count: None }.is_fresh());
        let ahead = Instant::now() + FRESH;
        assert!(Observation { asked: ahead, tag_count: None }.is_fresh());
    }
}
