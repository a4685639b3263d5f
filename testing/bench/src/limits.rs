//! What clamd and the store reach without the daemon, with the same objects and number of streams
//! and as little overhead as possible: blocking threads, and nothing is signed, hashed or stored.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use peers::error::{Context, Error, Result};
use serde::Serialize;

use crate::connection::{ANSWER_TIMEOUT, Connection};
use crate::sets::{Object, Pool};
use crate::stats::{as_f64, u64_as_f64};

/// Bytes of a chunk, as the daemon sends them.
const CHUNK: usize = 128 << 10;
const UNFINISHED: &str = "not all objects went through";

/// So many objects in so many seconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Pace {
    pub(super) objects: usize,
    pub(super) bytes: u64,
    pub(super) seconds: f64,
}

impl Pace {
    /// Objects per second.
    pub(super) fn rate(&self) -> f64 {
        as_f64(self.objects) / self.seconds
    }

    /// Millions of bytes per second.
    pub(super) fn megabytes(&self) -> f64 {
        u64_as_f64(self.bytes) / self.seconds / 1e6
    }
}

/// Both at the same time, with the same objects. Neither gets ahead of the other by more than the
/// number of its streams.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Pair {
    pub(super) clamd: Pace,
    pub(super) store: Pace,
}

impl Pair {
    /// Objects per second that both reach.
    pub(super) fn rate(&self) -> f64 {
        self.clamd.rate().min(self.store.rate())
    }
}

/// The two services, and the load.
pub(super) struct Limits<'a> {
    pub(super) pool: &'a Pool,
    pub(super) clamd: &'a Path,
    /// `127.0.0.1:PORT`
    pub(super) store: &'a str,
    pub(super) slots: usize,
    /// Taken in order, each by the next free thread.
    pub(super) objects: &'a [&'a Object],
    /// The objects are repeated until this time has passed.
    pub(super) least: Duration,
}

/// How often a waiting thread checks whether the other side has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// One of two services that are measured at the same time.
#[derive(Default)]
struct Lane {
    taken: AtomicUsize,
    done: Mutex<usize>,
    advanced: Condvar,
    bytes: AtomicU64,
    over: OnceLock<Pace>,
}

impl Lane {
    /// Counts a finished object.
    fn advance(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.advanced.notify_all();
    }

    /// Waits until `count` objects are finished, or no more will be.
    fn wait_for(&self, count: usize, failed: &AtomicBool) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        while *done < count && self.over.get().is_none() && !failed.load(Ordering::Relaxed) {
            let waited = self.advanced.wait_timeout(done, POLL_INTERVAL);
            done = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Fixes the result as soon as `wanted` objects are finished; later ones do not count. Called
    /// when the shortest time has passed.
    fn end(&self, wanted: usize, elapsed: Duration) {
        let bytes = self.bytes.load(Ordering::Relaxed);
        let objects = *self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if objects >= wanted {
            self.over.get_or_init(|| Pace { objects, bytes, seconds: elapsed.as_secs_f64() });
        }
    }
}

impl Limits<'_> {
    /// clamd alone: INSTREAM of the same bytes from the page cache.
    pub(super) fn clamd_alone(&self) -> Result<Pace> {
        let (lane, failed) = (Lane::default(), AtomicBool::new(false));
        self.drive(&lane, None, &failed, || Ok(self.scanner()))?;
        lane.over.get().copied().context(UNFINISHED)
    }

    /// The store alone: GETs whose bodies are discarded.
    pub(super) fn store_alone(&self) -> Result<Pace> {
        let (lane, failed) = (Lane::default(), AtomicBool::new(false));
        self.drive(&lane, None, &failed, || Ok(self.getter()))?;
        lane.over.get().copied().context(UNFINISHED)
    }

    /// Both, at the rate of the slower one.
    pub(super) fn both(&self) -> Result<Pair> {
        let (scans, gets) = (Lane::default(), Lane::default());
        let failed = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let clamd =
                scope.spawn(|| self.drive(&scans, Some(&gets), &failed, || Ok(self.scanner())));
            let store = self.drive(&gets, Some(&scans), &failed, || Ok(self.getter()));
            clamd.join().map_err(|_| Error::new("a thread panicked"))?.and(store)
        })?;
        let pace = |lane: &Lane| lane.over.get().copied().context(UNFINISHED);
        Ok(Pair { clamd: pace(&scans)?, store: pace(&gets)? })
    }

    /// Runs `slots` threads, each with its own worker.
    fn drive<W: FnMut(&Object) -> Result<()>>(
        &self,
        lane: &Lane,
        other: Option<&Lane>,
        failed: &AtomicBool,
        worker: impl Fn() -> Result<W> + Sync,
    ) -> Result<()> {
        let start = Instant::now();
        let wanted = self.objects.len();
        let work = || {
            let mut worker = worker()?;
            loop {
                let number = lane.taken.fetch_add(1, Ordering::Relaxed);
                if let Some(other) = other {
                    other.wait_for((number + 1).saturating_sub(self.slots), failed);
                }
                let goes_on = number < wanted || start.elapsed() < self.least;
                if failed.load(Ordering::Relaxed) || !goes_on {
                    lane.end(wanted, start.elapsed());
                    return Ok(());
                }
                let object = self.objects[number % wanted];
                worker(object)?;
                lane.advance(object.size);
                if start.elapsed() >= self.least {
                    lane.end(wanted, start.elapsed());
                }
            }
        };
        let guarded = || {
            let outcome: Result<()> = work();
            if outcome.is_err() {
                // Otherwise the other lane would wait for this one for ever.
                failed.store(true, Ordering::Relaxed);
            }
            outcome
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.slots).map(|_| scope.spawn(guarded)).collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().map_err(|_| Error::new("a thread panicked"))?
            })
        })
    }

    /// Scans objects, each on its own connection, as the daemon does.
    fn scanner(&self) -> impl FnMut(&Object) -> Result<()> {
        let mut frame = vec![0; 4 + CHUNK];
        move |object| {
            let answer = self.instream(object, &mut frame).context("clamd alone")?;
            let found = answer.ends_with(" FOUND");
            let right = if object.infected { found } else { answer == "stream: OK" };
            right.then_some(()).context(format!("clamd's answer for {}: {answer}", object.key))
        }
    }

    fn instream(&self, object: &Object, frame: &mut [u8]) -> Result<String> {
        let mut stream = UnixStream::connect(self.clamd).context("clamd")?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).context("clamd")?;
        stream.write_all(b"zINSTREAM\0").context("clamd")?;
        let mut offset = 0;
        while offset < object.size {
            let length =
                u32::try_from((object.size - offset).min(CHUNK as u64)).context("chunk")?;
            let end = 4 + usize::try_from(length).context("chunk")?;
            frame[..4].copy_from_slice(&length.to_be_bytes());
            self.pool.read(object, offset, &mut frame[4..end])?;
            stream.write_all(&frame[..end]).context("clamd")?;
            offset += u64::from(length);
        }
        stream.write_all(&[0; 4]).context("clamd")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("clamd")?;
        Ok(answer.trim_end_matches('\0').to_owned())
    }

    /// Downloads objects over one persistent connection.
    fn getter(&self) -> impl FnMut(&Object) -> Result<()> {
        let mut connection = Connection::new(self.store);
        move |object| {
            let request =
                format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", object.signed_path, self.store);
            let length = connection.ask(request.as_bytes(), |_| Ok(())).context(&object.key)?;
            (length == object.size)
                .then_some(())
                .context(format!("{length} bytes of {}", object.key))
        }
    }
}
