//! Where log lines go, with a thread that writes them: a pipe that nobody reads, or a disk that
//! hangs, stops that thread and nothing else.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of lines that wait; further ones are lost.
const ROOM: usize = 1 << 20;
/// The same for audit lines: others can never take it from them.
const AUDIT_ROOM: usize = 2 * ROOM;

/// One place that log lines are written to. Clones are the same place.
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
    /// Lines taken out of `lines` are being written.
    writing: bool,
    lost: Lost,
}

/// Counts of lines that found no room.
#[derive(Default)]
struct Lost {
    audit: u64,
    other: u64,
}

impl Outlet {
    /// Starts the thread that writes to `target`, which `name` says in the log. Errors end there: a
    /// log that cannot be written (a closed pipe, a full disk) must not stop scans.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(super) fn start(
        name: &'static str,
        mut target: impl Write + Send + 'static,
    ) -> io::Result<Self> {
        let outlet = Self(Arc::default());
        let shared = Arc::clone(&outlet.0);
        thread::Builder::new().name(format!("log to {name}")).spawn(move || {
            loop {
                for line in shared.take() {
                    // Line by line: what is written when the process ends is whole lines.
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

    /// Has `line` written, or counts it as lost where too much waits already. Never blocks.
    pub(super) fn put(&self, line: &[u8], audit: bool) {
        let mut waiting = self.0.lock();
        let room = if audit { AUDIT_ROOM } else { ROOM };
        if waiting.bytes + line.len() <= room {
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

    /// Waits until everything is written, but not beyond `end`.
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

    /// The lines to write next; waits for some.
    fn take(&self) -> VecDeque<Vec<u8>> {
        let mut waiting = self.lock();
        while waiting.lines.is_empty() {
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.bytes = 0;
        waiting.writing = true;
        mem::take(&mut waiting.lines)
    }

    /// What was lost meanwhile, to be told once there is room for it.
    fn written(&self) -> Option<Lost> {
        let mut waiting = self.lock();
        waiting.writing = false;
        self.changed.notify_all();
        let untold = waiting.lost.audit + waiting.lost.other > 0;
        untold.then(|| mem::take(&mut waiting.lost))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Writes one line each time it is told to.
    struct Slow {
        go: mpsc::Receiver<()>,
        written: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            // Without the other ends of the channels the test is over.
            self.go.recv().unwrap_or_default();
            drop(self.written.send(line.to_vec()));
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_beyond_the_room_are_lost_but_audit_lines_have_room_of_their_own() {
        let (go, going) = mpsc::channel();
        let (written, lines) = mpsc::channel();
        let outlet = Outlet::start("x", Slow { go: going, written }).unwrap();
        outlet.put(b"first", false);
        while !outlet.0.lock().writing {
            thread::yield_now();
        }
        let long = vec![b'x'; ROOM / 4];
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
        assert_eq!(outlet.0.lock().lost.other, 0, "the loss is told once");
    }
}
