//! The objects that are worked on now, and how far each is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::{Word, lock};

/// The objects in work; each stays for as long as its [`Work`] lives.
#[derive(Debug, Default)]
pub(crate) struct InWork {
    next: AtomicU64,
    objects: Mutex<BTreeMap<u64, Entry>>,
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
}

/// How far an object is.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Its GET is not answered yet.
    Asking,
    /// Its body is received, and scanned meanwhile.
    Fetching { received: Arc<AtomicU64>, total: u64 },
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
        let entry = Entry { object, trigger, since: Instant::now(), step: Step::Asking };
        lock(&self.objects).insert(number, entry);
        Work { all: self, number }
    }

    /// All of them, oldest first.
    pub(crate) fn list(&self) -> Vec<Entry> {
        lock(&self.objects).values().cloned().collect()
    }
}

impl Work<'_> {
    /// It goes on with this step.
    pub(crate) fn is_at(&self, step: Step) {
        if let Some(entry) = lock(&self.all.objects).get_mut(&self.number) {
            entry.step = step;
        }
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        lock(&self.all.objects).remove(&self.number);
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
}
