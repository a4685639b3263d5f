//! The objects that are worked on now, and how far each is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Word, lock};

/// The objects in work; each stays for as long as its [`Work`] lives.
#[derive(Debug, Default)]
pub(crate) struct InWork {
    next: AtomicU64,
    objects: Mutex<BTreeMap<u64, Entry>>,
    /// When the work on the last object ended.
    ended: Mutex<Option<Instant>>,
}

/// How the objects in work get on, all together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// How long the work on none of them has ended.
    pub(crate) no_result: Duration,
    /// How long none of them has ended, come to its next step, or received a byte.
    pub(crate) no_progress: Duration,
}

/// One object in work.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Bucket and key.
    pub(crate) object: String,
    /// What announced it.
    pub(crate) trigger: Word,
    pub(crate) since: Instant,
    pub(crate) step: Step,
    /// Since when it is at this step.
    at_step: Instant,
}

/// The bytes of a body that have arrived, kept up to date while they do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Received(Arc<Mutex<(u64, Option<Instant>)>>);

/// How far an object is.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Its GET is not answered yet.
    Asking,
    /// Its body is received, and scanned meanwhile.
    Fetching { received: Received, total: u64 },
    /// Everything is received; its verdict is waited for.
    Scanning,
    /// The verdict is applied and reported.
    Applying,
}

/// An object that is worked on.
#[derive(Debug)]
pub(crate) struct Work<'a> {
    all: &'a InWork,
    number: u64,
}

impl InWork {
    /// The work on an object begins.
    pub(crate) fn begin(&self, bucket: &str, key: &str, trigger: Word) -> Work<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let object = format!("{bucket}/{key}");
        let now = Instant::now();
        let entry = Entry { object, trigger, since: now, step: Step::Asking, at_step: now };
        lock(&self.objects).insert(number, entry);
        Work { all: self, number }
    }

    /// All of them, oldest first.
    pub(crate) fn list(&self) -> Vec<Entry> {
        lock(&self.objects).values().cloned().collect()
    }

    /// How they get on; `None` while nothing is in work.
    pub(crate) fn pace(&self) -> Option<Pace> {
        let objects = self.list();
        let begun = objects.iter().map(|entry| entry.since).min()?;
        let result = lock(&self.ended).map_or(begun, |ended| ended.max(begun));
        let progress = objects.iter().map(Entry::progressed).fold(result, Instant::max);
        Some(Pace { no_result: result.elapsed(), no_progress: progress.elapsed() })
    }
}

impl Entry {
    fn progressed(&self) -> Instant {
        match &self.step {
            Step::Fetching { received, .. } => {
                lock(&received.0).1.map_or(self.at_step, |at| at.max(self.at_step))
            }
            Step::Asking | Step::Scanning | Step::Applying => self.at_step,
        }
    }
}

impl Received {
    /// So many have arrived, the last of them just now.
    pub(crate) fn set(&self, bytes: u64) {
        *lock(&self.0) = (bytes, Some(Instant::now()));
    }

    pub(crate) fn bytes(&self) -> u64 {
        lock(&self.0).0
    }
}

impl Work<'_> {
    /// It goes on with this step.
    pub(crate) fn is_at(&self, step: Step) {
        if let Some(entry) = lock(&self.all.objects).get_mut(&self.number) {
            entry.step = step;
            entry.at_step = Instant::now();
        }
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        lock(&self.all.objects).remove(&self.number);
        *lock(&self.all.ended) = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_there_while_it_is_worked_on() {
        let all = InWork::default();
        let first = all.begin("b", "k", "upload");
        let second = all.begin("b", "k", "sweep");
        first.is_at(Step::Scanning);
        let list = all.list();
        assert!(matches!(list[0].step, Step::Scanning) && matches!(list[1].step, Step::Asking));
        assert_eq!((list[1].object.as_str(), list[1].trigger), ("b/k", "sweep"));
        drop(first);
        assert_eq!(all.list().len(), 1);
        drop(second);
        assert!(all.list().is_empty());
    }

    #[test]
    fn results_steps_and_bytes_are_progress() {
        let all = InWork::default();
        assert_eq!(all.pace(), None);
        let [first, second] = ["k", "l"].map(|key| all.begin("b", key, "upload"));
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        let age = || {
            for entry in lock(&all.objects).values_mut() {
                (entry.since, entry.at_step) = (ago(60), ago(40));
            }
        };
        let pace = || {
            let Pace { no_result, no_progress } = all.pace().unwrap();
            (no_result.as_secs(), no_progress.as_secs())
        };
        age();
        assert_eq!(pace(), (60, 40));
        second.is_at(Step::Scanning);
        assert_eq!(pace(), (60, 0));
        let received = Received::default();
        second.is_at(Step::Fetching { received: received.clone(), total: 9 });
        age();
        assert_eq!(pace(), (60, 40));
        *lock(&received.0) = (1, Some(ago(20)));
        assert_eq!(pace(), (60, 20));
        received.set(2);
        assert_eq!(pace(), (60, 0));
        drop(second);
        assert_eq!(pace(), (0, 0));
        *lock(&all.ended) = Some(ago(10));
        assert_eq!(pace(), (10, 10));
        // A pause in which nothing was in work does not count.
        *lock(&all.ended) = Some(ago(999));
        assert_eq!(pace(), (60, 40));
        drop(first);
        assert_eq!(all.pace(), None);
    }
}
