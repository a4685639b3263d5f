//! The temp disk: unnamed files, and one budget for all of them together.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::failure::{Dependency, Failure, Kind, Reason, Stage};

const MIB: u64 = 1 << 20;
/// Longest wait for disk space. After it the message is better off in the shortest retry queue than
/// in one of the slots for deliveries in flight.
const RESERVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that a probe of the temp folder writes.
const PROBE_SIZE: usize = 256 * 1024;

/// The temp disk space that all downloads share, counted in MiB. It outlives broker sessions,
/// because the files do. A download that waits for much space does not keep smaller ones from
/// getting theirs.
#[derive(Debug)]
pub(super) struct DiskBudget {
    budget: Arc<Semaphore>,
    /// Notified when space is given back.
    freed: Arc<Notify>,
    /// The most MiB that a reservation timed out on, 0 for none. The next one of at least as many
    /// waits in the semaphore's own queue; otherwise a stream of smaller ones could starve it.
    queued: AtomicU32,
}

/// Space for one download; given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    bytes: u64,
    /// `Some` until dropped.
    permit: Option<OwnedSemaphorePermit>,
    freed: Arc<Notify>,
}

impl Reservation {
    pub(super) fn fits(&self, length: u64) -> bool {
        length <= self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // The space has to be free before the others are notified.
        self.permit.take();
        self.freed.notify_waiters();
    }
}

impl DiskBudget {
    pub(super) fn new(bytes: u64) -> Self {
        let mebibytes = usize::try_from(bytes / MIB).unwrap_or(usize::MAX);
        let budget = Arc::new(Semaphore::new(mebibytes.min(Semaphore::MAX_PERMITS)));
        Self { budget, freed: Arc::default(), queued: AtomicU32::new(0) }
    }

    /// Reserves `length` bytes if they are free now. All or nothing: two large downloads that hold
    /// half of their space each would wait for each other for ever.
    pub(super) fn reserve_now(&self, length: u64) -> Option<Reservation> {
        let permits = permits(length)?;
        let permit = Arc::clone(&self.budget).try_acquire_many_owned(permits).ok()?;
        Some(self.reservation(permits, permit))
    }

    /// Reserves `length` bytes, waiting for them up to [`RESERVE_TIMEOUT`].
    ///
    /// # Errors
    /// [`Kind::Busy`] when they do not become free in time.
    pub(super) async fn reserve(&self, length: u64) -> Result<Reservation, Failure> {
        let busy = || {
            let detail = "other objects take the temp disk (SPOOL_SIZE)";
            Failure::new(Kind::Busy, Stage::Fetch, Reason::SpoolFull, detail)
        };
        let permits = permits(length).ok_or_else(busy)?;
        let reserved = async {
            if (1..=permits).contains(&self.queued.load(Ordering::Relaxed)) {
                let acquired = Arc::clone(&self.budget).acquire_many_owned(permits).await.ok()?;
                self.queued.store(0, Ordering::Relaxed);
                return Some(self.reservation(permits, acquired));
            }
            loop {
                let freed = self.freed.notified();
                if let Some(reservation) = self.reserve_now(length) {
                    return Some(reservation);
                }
                freed.await;
            }
        };
        match tokio::time::timeout(RESERVE_TIMEOUT, reserved).await {
            Ok(reservation) => reservation.ok_or_else(busy),
            Err(_) => {
                self.queued.fetch_max(permits, Ordering::Relaxed);
                Err(busy())
            }
        }
    }

    fn reservation(&self, permits: u32, permit: OwnedSemaphorePermit) -> Reservation {
        let freed = Arc::clone(&self.freed);
        Reservation { bytes: u64::from(permits) * MIB, permit: Some(permit), freed }
    }
}

/// MiB for `length` bytes, at least one; `None` when that is more than can be counted.
fn permits(length: u64) -> Option<u32> {
    u32::try_from(length.div_ceil(MIB).max(1)).ok()
}

/// Creates an unnamed file in `folder`. It vanishes even when the process is killed.
///
/// # Errors
/// When it cannot be created.
pub(super) async fn unnamed_file(folder: PathBuf) -> Result<File, Failure> {
    match tokio::task::spawn_blocking(move || tempfile::tempfile_in(folder)).await {
        Ok(Ok(file)) => Ok(file),
        Ok(Err(error)) => Err(temp_fault(&error)),
        Err(error) => Err(Failure::transient(Stage::Fetch, Reason::Panic, error)),
    }
}

/// Checks that a file can be created and written in `folder`.
///
/// # Errors
/// When it cannot.
pub(super) async fn probe(folder: PathBuf) -> Result<(), Failure> {
    let mut file = unnamed_file(folder).await?;
    match tokio::task::spawn_blocking(move || file.write_all(&vec![0; PROBE_SIZE])).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(temp_fault(&error)),
        Err(error) => Err(Failure::transient(Stage::Fetch, Reason::Panic, error)),
    }
}

/// A temp file that cannot be created, written or read.
pub(super) fn temp_fault(error: &io::Error) -> Failure {
    let detail = format!("temp file: {error}");
    Failure::suspect(Dependency::Host, Stage::Fetch, Reason::TempDisk, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn space_is_reserved_whole_and_a_long_wait_is_busy() {
        let budget = DiskBudget::new(10 * MIB);
        let first = budget.reserve_now(6 * MIB).expect("space for the first");
        assert!(first.fits(6 * MIB) && !first.fits(6 * MIB + 1));
        assert!(budget.reserve_now(5 * MIB).is_none());
        let busy = budget.reserve(5 * MIB).await.expect_err("no space");
        assert_eq!(busy.kind, Kind::Busy);
        drop(first);

        let budget = DiskBudget::new(10 * MIB);
        let first = budget.reserve_now(6 * MIB).expect("space for the first");
        let (waited, ()) = tokio::join!(budget.reserve(5 * MIB), async {
            // While one waits for much, others get what is left.
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(budget.reserve_now(4 * MIB).is_some());
            drop(first);
        });
        assert!(waited.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_smaller_ones_does_not_starve_a_larger_one() {
        let budget = DiskBudget::new(10 * MIB);
        let small = || async {
            let reservation = budget.reserve(4 * MIB).await;
            tokio::time::sleep(Duration::from_secs(4)).await;
            drop(reservation);
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
            // It is retried after 10 s, for an hour.
            for _ in 0..180 {
                if budget.reserve(8 * MIB).await.is_ok() {
                    return true;
                }
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
            false
        };
        let served =
            tokio::select! { () = one => false, () = other => false, served = large => served };
        assert!(served, "put off 180 times in an hour, without an attempt being counted");
    }

    #[test]
    fn an_empty_object_takes_space_too_and_an_absurd_one_gets_none() {
        let budget = DiskBudget::new(MIB);
        let reservation = budget.reserve_now(0).expect("space");
        assert!(budget.reserve_now(0).is_none());
        drop(reservation);
        assert!(budget.reserve_now(u64::MAX).is_none());
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
