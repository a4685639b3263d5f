//! The temp disk: unnamed files, and one budget for all of them together.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use crate::failure::{Dependency, Failure, Kind, Reason, Stage};

const MIB: u64 = 1 << 20;
/// Longest wait for disk space. After it the message is better off in the shortest retry queue than
/// in one of the slots for deliveries in flight.
const RESERVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that a probe of the temp folder writes.
const PROBE_SIZE: usize = 256 * 1024;

/// Whether a download keeps its temp disk space while another one waits for some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    Firm,
    /// It is given up as soon as a firm one waits, and gets none meanwhile.
    Yielding,
}

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
    /// Firm claims that wait.
    waiting: watch::Sender<usize>,
}

/// Space for one download; given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    bytes: u64,
    /// Of a claim that yields: the firm ones that wait.
    yields_to: Option<watch::Receiver<usize>>,
    /// `Some` until dropped.
    permit: Option<OwnedSemaphorePermit>,
    freed: Arc<Notify>,
}

/// A firm claim that waits, until it is dropped.
struct Waiting<'a>(&'a DiskBudget);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|waiting| *waiting -= 1);
        self.0.freed.notify_waiters();
    }
}

impl Reservation {
    /// Waits until the space has to be given up.
    pub(super) fn displaced(&self) -> impl Future<Output = Failure> + Send + use<> {
        let waiting = self.yields_to.clone();
        async move {
            match waiting {
                // Fails only when the budget is dropped, which outlives all downloads.
                Some(mut waiting) => drop(waiting.wait_for(|waiting| *waiting > 0).await),
                None => std::future::pending().await,
            }
            busy()
        }
    }

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
        let waiting = watch::Sender::new(0);
        Self { budget, freed: Arc::default(), queued: AtomicU32::new(0), waiting }
    }

    /// Reserves `length` bytes if they are free now. All or nothing: two large downloads that hold
    /// half of their space each would wait for each other for ever.
    pub(super) fn reserve_now(&self, length: u64, claim: Claim) -> Option<Reservation> {
        if claim == Claim::Yielding && *self.waiting.borrow() > 0 {
            return None;
        }
        let permits = permits(length)?;
        let permit = Arc::clone(&self.budget).try_acquire_many_owned(permits).ok()?;
        Some(self.reservation(permits, permit, claim))
    }

    /// Reserves `length` bytes, waiting for them up to [`RESERVE_TIMEOUT`].
    ///
    /// # Errors
    /// [`Kind::Busy`] when they do not become free in time.
    pub(super) async fn reserve(&self, length: u64, claim: Claim) -> Result<Reservation, Failure> {
        let permits = permits(length).ok_or_else(busy)?;
        let is_firm = claim == Claim::Firm;
        let _waiting = is_firm.then(|| self.wait());
        let reserved = async {
            // In the semaphore's queue a claim that yields would keep firm ones from their space.
            if is_firm && (1..=permits).contains(&self.queued.load(Ordering::Relaxed)) {
                let acquired = Arc::clone(&self.budget).acquire_many_owned(permits).await.ok()?;
                self.queued.store(0, Ordering::Relaxed);
                return Some(self.reservation(permits, acquired, claim));
            }
            loop {
                let freed = self.freed.notified();
                if let Some(reservation) = self.reserve_now(length, claim) {
                    return Some(reservation);
                }
                freed.await;
            }
        };
        match tokio::time::timeout(RESERVE_TIMEOUT, reserved).await {
            Ok(reservation) => reservation.ok_or_else(busy),
            Err(_) => {
                if is_firm {
                    self.queued.fetch_max(permits, Ordering::Relaxed);
                }
                Err(busy())
            }
        }
    }

    fn wait(&self) -> Waiting<'_> {
        self.waiting.send_modify(|waiting| *waiting += 1);
        Waiting(self)
    }

    fn reservation(&self, permits: u32, permit: OwnedSemaphorePermit, claim: Claim) -> Reservation {
        let freed = Arc::clone(&self.freed);
        let yields_to = (claim == Claim::Yielding).then(|| self.waiting.subscribe());
        Reservation { bytes: u64::from(permits) * MIB, yields_to, permit: Some(permit), freed }
    }
}

fn busy() -> Failure {
    let detail = "other objects take the temp disk (SPOOL_SIZE)";
    Failure::new(Kind::Busy, Stage::Fetch, Reason::SpoolFull, detail)
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
        let first = budget.reserve_now(6 * MIB, Claim::Firm).expect("space for the first");
        assert!(first.fits(6 * MIB) && !first.fits(6 * MIB + 1));
        assert!(budget.reserve_now(5 * MIB, Claim::Firm).is_none());
        let busy = budget.reserve(5 * MIB, Claim::Firm).await.expect_err("no space");
        assert_eq!(busy.kind, Kind::Busy);
        drop(first);

        let budget = DiskBudget::new(10 * MIB);
        let first = budget.reserve_now(6 * MIB, Claim::Firm).expect("space for the first");
        let (waited, ()) = tokio::join!(budget.reserve(5 * MIB, Claim::Firm), async {
            // While one waits for much, others get what is left.
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(budget.reserve_now(4 * MIB, Claim::Firm).is_some());
            drop(first);
        });
        assert!(waited.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_smaller_ones_does_not_starve_a_larger_one() {
        let budget = DiskBudget::new(10 * MIB);
        let small = || async {
            let reservation = budget.reserve(4 * MIB, Claim::Firm).await;
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
                if budget.reserve(8 * MIB, Claim::Firm).await.is_ok() {
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

    /// Downloads of sweeps have all the space, each object as large as one may be.
    #[tokio::test(start_paused = true)]
    async fn a_firm_claim_waits_for_no_other_than_firm_ones() {
        for spool in [1, 2] {
            let budget = DiskBudget::new(spool * 1024 * MIB);
            let one = |claim| budget.reserve_now(1024 * MIB, claim);
            let held: Vec<_> = (0..spool).map(|_| one(Claim::Yielding).unwrap()).collect();
            let until_displaced = held.into_iter().map(async |reservation| {
                let busy = reservation.displaced().await;
                assert_eq!(busy.kind, Kind::Busy);
                // What is given up is at once wanted again.
                drop(reservation);
                assert!(budget.reserve_now(MIB, Claim::Yielding).is_none());
            });
            let began = tokio::time::Instant::now();
            let (firm, _) = tokio::join!(
                budget.reserve(1024 * MIB, Claim::Firm),
                futures_util::future::join_all(until_displaced)
            );
            let firm = firm.unwrap();
            assert_eq!(began.elapsed(), Duration::ZERO);
            // The rest is theirs again.
            assert_eq!(one(Claim::Yielding).is_some(), spool == 2);
            let waits = budget.reserve(1024 * MIB, Claim::Yielding);
            let (waited, ()) = tokio::join!(waits, async { drop(firm) });
            assert!(waited.is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_yields_and_waits_for_long_leaves_no_trace() {
        let budget = DiskBudget::new(10 * MIB);
        let firm = budget.reserve_now(4 * MIB, Claim::Firm).unwrap();
        assert!(budget.reserve(8 * MIB, Claim::Yielding).await.is_err());
        let waiting = budget.reserve(8 * MIB, Claim::Yielding);
        let small = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(budget.reserve_now(6 * MIB, Claim::Firm).is_some());
        };
        let (waited, ()) = tokio::join!(waiting, small);
        assert!(waited.is_err());
        drop(firm);
        assert!(budget.reserve_now(10 * MIB, Claim::Firm).is_some());
    }

    #[test]
    fn an_empty_object_takes_space_too_and_an_absurd_one_gets_none() {
        let budget = DiskBudget::new(MIB);
        let reservation = budget.reserve_now(0, Claim::Firm).expect("space");
        assert!(budget.reserve_now(0, Claim::Firm).is_none());
        drop(reservation);
        assert!(budget.reserve_now(u64::MAX, Claim::Firm).is_none());
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
