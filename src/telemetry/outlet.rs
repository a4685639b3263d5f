//! A destination of log lines, written by a thread of its own: a pipe that nobody reads, or a disk
//! that hangs, stops that thread alone.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of lines that may wait; further ones are lost.
const MAX_WAITING: usize = 1 << 20;
/// The same for audit lines: the half above [`MAX_WAITING`] is reserved for them.
const MAX_WAITING_AUDIT: usize = 2 * MAX_WAITING;

/// One destination. Clones share it.
#[derive(Clone)]
pub(super) struct Outlet(Arc<Shared>);

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Whether lines taken out of `lines` are being written.
    writing: bool,
    lost: Lost,
}

/// Numbers of lines lost since the last warning.
#[derive(Default)]
struct Lost {
    audit: u64,
    other: u64,
}

impl Outlet {
    /// Starts the thread that writes to `target`; `name` is its name in the log. Write errors are
    /// ignored: a closed pipe or a full disk must not stop scans.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start(
        name: &'static str,
        mut target: impl Write + Send + 'static,
    ) -> io::Result<Self> {
        let outlet = Self(Arc::default());
        let shared = Arc::clone(&outlet.0);
        thread::Builder::new().name(format!("log to {name}")).spawn(move || {
            loop {
                for line in shared.take() {
                    // Line by line, so that the process ends after a whole line.
                    drop(target.write_all(&line));
                }
                drop(target.flush());
                if let Some(Lost { audit, other }) = shared.written() {
                    tracing::warn!(audit, other, "log lines were lost: {name} did not take them");
                }
            }
        })?;
        Ok(outlet)
    }

    /// Queues `line`, or counts it as lost where too much waits already. Never blocks.
    pub(super) fn put(&self, line: &[u8], audit: bool) {
        let mut waiting = self.0.lock();
        let max = if audit { MAX_WAITING_AUDIT } else { MAX_WAITING };
        if waiting.bytes + line.len() <= max {
            waiting.bytes += line.len();
            waiting.lines.push_back(line.to_vec());
            drop(waiting);
            self.0.changed.notify_all();
        } else if audit {
            waiting.lost.audit += 1;
        } else {
            waiting.lost.other += 1;
        }
    }

    /// Waits until every line is written, at most until `end`.
    pub(super) fn flush(&self, end: Instant) {
        let mut waiting = self.0.lock();
        while !waiting.lines.is_empty() || waiting.writing {
            let left = end.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return;
            }
            let woken = self.0.changed.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lines to write next; blocks until there are some.
    fn take(&self) -> VecDeque<Vec<u8>> {
        let mut waiting = self.lock();
        while waiting.lines.is_empty() {
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.bytes = 0;
        waiting.writing = true;
        mem::take(&mut waiting.lines)
    }

    /// Marks the taken lines as written; returns what was lost meanwhile, once.
    fn written(&self) -> Option<Lost> {
        let mut waiting = self.lock();
        waiting.writing = false;
        self.changed.notify_all();
        let any = waiting.lost.audit + waiting.lost.other > 0;
        any.then(|| mem::take(&mut waiting.lost))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Writes one line for each message from `go`.
    struct Slow {
        go: mpsc::Receiver<()>,
        written: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            // A closed channel means that the test is over.
            self.go.recv().unwrap_or_default();
            drop(self.written.send(line.to_vec()));
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_beyond_the_limit_are_lost_but_audit_lines_have_a_reserve_of_their_own() {
        let (go, going) = mpsc::channel();
        let (written, lines) = mpsc::channel();
        let outlet = Outlet::start("x", Slow { go: going, written }).unwrap();
        outlet.put(b"first", false);
        while !outlet.0.lock().writing {
            thread::yield_now();
        }
        let long = vec![b'x'; MAX_WAITING / 4];
        for _ in 0..9 {
            outlet.put(&long, false);
        }
        for _ in 0..9 {
            outlet.put(&long, true);
        }
        assert_eq!(outlet.0.lock().lost.other, 5);
        assert_eq!(outlet.0.lock().lost.audit, 5);
        let soon = || Instant::now() + Duration::from_millis(20);
        outlet.flush(soon());
        assert!(lines.try_recv().is_err(), "it writes though nobody reads");
        for _ in 0..9 {
            go.send(()).unwrap();
        }
        outlet.flush(Instant::now() + Duration::from_secs(10));
        let all: Vec<Vec<u8>> = lines.try_iter().collect();
        assert_eq!((all.len(), &all[0][..], all[8].len()), (9, &b"first"[..], long.len()));
        assert_eq!(outlet.0.lock().lost.other, 0, "the loss is reported once");
    }
}
