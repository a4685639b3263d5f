//! The temp disk: unnamed files and a budget for all of them together.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::failure::{Dependency, Failure, Kind, Reason, Stage};

const MIB: u64 = 1 << 20;
/// A wait longer than this is not worth a slot: the message goes to the shortest retry tier.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A budget of temp disk. It outlives broker sessions, because the files do. One that waits for much
/// of it keeps none that need less from getting theirs.
#[derive(Debug)]
pub(super) struct Spool {
    budget: Arc<Semaphore>,
    /// Told when room is given back.
    freed: Arc<Notify>,
    /// MiB that were waited for in vain: the next one that needs so many is served in turn, or a stream
    /// of objects that need less would keep it waiting for ever. 0 when there is none.
    in_turn: AtomicU32,
}

/// Room for one download; given back when dropped.
#[derive(Debug)]
pub(super) struct Room {
    bytes: u64,
    /// Given back before the others are told.
    permit: Option<OwnedSemaphorePermit>,
    freed: Arc<Notify>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.permit.take();
        self.freed.notify_waiters();
    }
}

impl Room {
    pub(super) fn fits(&self, length: u64) -> bool {
        length <= self.bytes
    }
}

impl Spool {
    pub(super) fn new(bytes: u64) -> Self {
        let mebibytes = usize::try_from(bytes / MIB).unwrap_or(usize::MAX);
        let budget = Arc::new(Semaphore::new(mebibytes.min(Semaphore::MAX_PERMITS)));
        Self { budget, freed: Arc::default(), in_turn: AtomicU32::new(0) }
    }

    /// Room for `length` bytes if it is free at once. Whole, or two large objects that each hold
    /// half of what they need would wait for each other for ever.
    pub(super) fn reserve_now(&self, length: u64) -> Option<Room> {
        let permits = permits(length)?;
        let permit = Arc::clone(&self.budget).try_acquire_many_owned(permits).ok()?;
        Some(self.room(permits, permit))
    }

    fn room(&self, permits: u32, permit: OwnedSemaphorePermit) -> Room {
        let freed = Arc::clone(&self.freed);
        Room { bytes: u64::from(permits) * MIB, permit: Some(permit), freed }
    }

    /// Room for `length` bytes, when there is some.
    ///
    /// # Errors
    /// [`Kind::Busy`] when the wait lasts.
    pub(super) async fn reserve(&self, length: u64) -> Result<Room, Failure> {
        let busy = || {
            let detail = "other objects take the temp disk (SPOOL_SIZE)";
            Failure::new(Kind::Busy, Stage::Fetch, Reason::SpoolFull, detail)
        };
        let permits = permits(length).ok_or_else(busy)?;
        let room = async {
            if (1..=permits).contains(&self.in_turn.load(Ordering::Relaxed)) {
                let acquired = Arc::clone(&self.budget).acquire_many_owned(permits).await.ok()?;
                self.in_turn.store(0, Ordering::Relaxed);
                return Some(self.room(permits, acquired));
            }
            loop {
                let freed = self.freed.notified();
                if let Some(room) = self.reserve_now(length) {
                    return Some(room);
                }
                freed.await;
            }
        };
        match tokio::time::timeout(LONGEST_WAIT, room).await {
            Ok(room) => room.ok_or_else(busy),
            Err(_) => {
                self.in_turn.fetch_max(permits, Ordering::Relaxed);
                Err(busy())
            }
        }
    }
}

fn permits(length: u64) -> Option<u32> {
    u32::try_from(length.div_ceil(MIB).max(1)).ok()
}

/// An unnamed file: it vanishes even when the process is killed.
pub(super) async fn unnamed_file(folder: PathBuf) -> Result<File, Failure> {
    match tokio::task::spawn_blocking(move || tempfile::tempfile_in(folder)).await {
        Ok(Ok(file)) => Ok(file),
        Ok(Err(error)) => Err(temp_fault(&error)),
        Err(error) => Err(Failure::transient(Stage::Fetch, Reason::Panic, error)),
    }
}

/// Whether a file of a few hundred KiB can be made and written.
pub(super) async fn probe(folder: PathBuf) -> Result<(), Failure> {
    let mut file = unnamed_file(folder).await?;
    match tokio::task::spawn_blocking(move || file.write_all(&vec![0; 256 * 1024])).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(temp_fault(&error)),
        Err(error) => Err(Failure::transient(Stage::Fetch, Reason::Panic, error)),
    }
}

pub(super) fn temp_fault(error: &std::io::Error) -> Failure {
    Failure::suspect(
        Dependency::Host,
        Stage::Fetch,
        Reason::TempDisk,
        format!("temp file: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn room_is_given_whole_and_a_lasting_wait_is_busy() {
        let spool = Spool::new(10 * MIB);
        let first = spool.reserve_now(6 * MIB).expect("room for the first");
        assert!(first.fits(6 * MIB) && !first.fits(6 * MIB + 1));
        assert!(spool.reserve_now(5 * MIB).is_none());
        let busy = spool.reserve(5 * MIB).await.expect_err("no room");
        assert_eq!(busy.kind, Kind::Busy);
        drop(first);

        let spool = Spool::new(10 * MIB);
        let first = spool.reserve_now(6 * MIB).expect("room for the first");
        let (waited, ()) = tokio::join!(spool.reserve(5 * MIB), async {
            // While one waits for much, others get the little that is there.
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(spool.reserve_now(4 * MIB).is_some());
            drop(first);
        });
        assert!(waited.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_smaller_ones_does_not_starve_a_larger_one() {
        let spool = Spool::new(10 * MIB);
        let small = || async {
            let room = spool.reserve(4 * MIB).await;
            tokio::time::sleep(Duration::from_secs(4)).await;
            drop(room);
        };
        let one = async {
            loop {
                small().await;
            }
        };
        let other = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            loop {
                small().await;
            }
        };
        let large = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            // It comes again after each delay of 10 s, an hour long.
            for _ in 0..180 {
                if spool.reserve(8 * MIB).await.is_ok() {
                    return true;
                }
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
            false
        };
        let served =
            tokio::select! { () = one => false, () = other => false, served = large => served };
        assert!(served, "180 times in an hour put off, not an attempt counted");
    }

    #[test]
    fn an_empty_object_takes_room_too_and_an_absurd_one_gets_none() {
        let spool = Spool::new(MIB);
        let room = spool.reserve_now(0).expect("room");
        assert!(spool.reserve_now(0).is_none());
        drop(room);
        assert!(spool.reserve_now(u64::MAX).is_none());
    }

    #[tokio::test]
    async fn temp_files_have_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = unnamed_file(folder.path().to_owned()).await.unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        drop(file);
    }

    #[tokio::test]
    async fn a_missing_temp_folder_is_a_fault_of_the_host() {
        let fault = unnamed_file("/nowhere/at/all".into()).await.expect_err("no folder");
        assert_eq!(fault.kind, Kind::Suspect(Dependency::Host));
    }
}
