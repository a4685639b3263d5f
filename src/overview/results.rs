//! The last results.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::SystemTime;

use super::{Word, lock};

/// Results that are kept.
const KEPT: usize = 100;

/// The last results, newest first.
#[derive(Debug, Default)]
pub(crate) struct Results(Mutex<VecDeque<ResultLine>>);

/// What became of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResultLine {
    pub(crate) at: SystemTime,
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) version: Option<String>,
    /// In bytes, where it is known.
    pub(crate) size: Option<u64>,
    pub(crate) status: Word,
    /// The signature, or why it was not scanned.
    pub(crate) finding: Option<String>,
    pub(crate) action: Word,
    /// Why the action was not possible.
    pub(crate) error: Option<Word>,
    /// What announced it.
    pub(crate) trigger: Word,
}

impl Results {
    pub(crate) fn add(&self, line: ResultLine) {
        let mut lines = lock(&self.0);
        lines.truncate(KEPT - 1);
        lines.push_front(line);
    }

    /// All of them, newest first.
    pub(crate) fn list(&self) -> Vec<ResultLine> {
        lock(&self.0).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_hundred_are_kept() {
        let results = Results::default();
        for number in 0..250 {
            results.add(ResultLine {
                at: SystemTime::now(),
                bucket: "b".to_owned(),
                key: number.to_string(),
                version: None,
                size: None,
                status: "clean",
                finding: None,
                action: "tag",
                error: None,
                trigger: "upload",
            });
        }
        let list = results.list();
        assert_eq!((list.len(), list[0].key.as_str(), list[99].key.as_str()), (100, "249", "150"));
    }
}
