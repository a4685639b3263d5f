//! How many objects are in work at once, and whose turn it is: live ones come first.
//!
//! A live delivery may use every slot at any time, whatever the backlog holds. A delivery of the
//! backlog begins only while fewer than all slots are taken, by either. So at worst, when live
//! messages come while the backlog holds all slots, twice as many objects are in work for a while.
//! As long as live ones keep coming, the backlog leaves a quarter of the slots alone: what it has in
//! work takes processor time of store and engine, so live ones wait for it all the same.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

/// A live delivery is expected for this long after the last one.
const LIVE_FOR: Duration = Duration::from_secs(1);

/// The slots of one worker.
#[derive(Debug)]
pub(crate) struct Slots {
    lane: Lane,
    shared: Arc<Shared>,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Its messages are pushed by the broker, and wait for nobody.
    Live,
    /// Its messages are asked for one by one, with a slot in hand that nobody else needs.
    Backlog,
}

#[derive(Debug)]
struct Shared {
    size: u16,
    /// The slots of live deliveries.
    live: Arc<Semaphore>,
    taken: watch::Sender<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    live: u16,
    backlog: u16,
    /// When a live delivery began.
    last_live: Option<Instant>,
    /// Live deliveries are consumed, so what the work depends on is up.
    open: bool,
}

/// One slot; given back when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    lane: Lane,
    shared: Arc<Shared>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Slots {
    /// Slots for `size` live deliveries at once.
    pub(crate) fn new(size: u16) -> Self {
        let live = Arc::new(Semaphore::new(usize::from(size)));
        let taken = watch::Sender::new(Taken::default());
        Self { lane: Lane::Live, shared: Arc::new(Shared { size, live, taken }) }
    }

    /// Those that the live worker leaves free.
    pub(crate) fn left_free(&self) -> Self {
        Self { lane: Lane::Backlog, shared: Arc::clone(&self.shared) }
    }

    pub(super) const fn lane(&self) -> Lane {
        self.lane
    }

    pub(super) fn size(&self) -> u16 {
        self.shared.size
    }

    /// Waits for a slot.
    pub(super) async fn acquire(&self) -> Slot {
        match self.lane {
            Lane::Live => {
                // Fails only on a closed semaphore, and this one is never closed.
                let permit = Arc::clone(&self.shared.live).acquire_owned().await.ok();
                self.shared.taken.send_modify(|taken| {
                    taken.live += 1;
                    taken.last_live = Some(Instant::now());
                });
                self.slot(permit)
            }
            Lane::Backlog => {
                let mut changes = self.shared.taken.subscribe();
                loop {
                    // Before the try, so that no change after it is missed.
                    changes.mark_unchanged();
                    if self.shared.taken.send_if_modified(|taken| self.shared.begin(taken)) {
                        return self.slot(None);
                    }
                    // Fails only without a sender, and there is one. Nothing changes when no live ones
                    // come any more.
                    drop(tokio::time::timeout(LIVE_FOR, changes.changed()).await);
                }
            }
        }
    }

    /// Says whether live deliveries are consumed. Of the backlog that says nothing.
    pub(super) fn set_open(&self, open: bool) {
        if self.lane == Lane::Live {
            self.shared.taken.send_modify(|taken| taken.open = open);
        }
    }

    /// For the backlog: waits until live deliveries are consumed.
    pub(super) async fn until_live_is_open(&self) {
        if self.lane == Lane::Backlog {
            drop(self.shared.taken.subscribe().wait_for(|taken| taken.open).await);
        }
    }

    /// Whether live deliveries come.
    pub(super) fn is_live(&self) -> bool {
        self.shared.taken.borrow().is_live()
    }

    /// Slots that live deliveries do not use.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.shared.live.available_permits()
    }

    fn slot(&self, permit: Option<OwnedSemaphorePermit>) -> Slot {
        Slot { lane: self.lane, shared: Arc::clone(&self.shared), _permit: permit }
    }
}

impl Taken {
    fn is_live(&self) -> bool {
        self.last_live.is_some_and(|last| last.elapsed() < LIVE_FOR)
    }
}

impl Shared {
    /// Takes a slot for the backlog, if there is one. Returns whether there was.
    fn begin(&self, taken: &mut Taken) -> bool {
        let most = if taken.is_live() { (self.size * 3 / 4).max(1) } else { self.size };
        let is_free = taken.open && taken.live.saturating_add(taken.backlog) < most;
        taken.backlog += u16::from(is_free);
        is_free
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.taken.send_modify(|taken| {
            let count = match self.lane {
                Lane::Live => &mut taken.live,
                Lane::Backlog => &mut taken.backlog,
            };
            *count = count.saturating_sub(1);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    fn open(size: u16) -> (Slots, Slots) {
        let live = Slots::new(size);
        live.set_open(true);
        let backlog = live.left_free();
        (live, backlog)
    }

    fn now(slots: &Slots) -> Option<Slot> {
        slots.acquire().now_or_never()
    }

    #[tokio::test]
    async fn a_live_delivery_never_waits_for_the_backlog() {
        for size in [1, 2, 5] {
            let (live, backlog) = open(size);
            let held: Vec<_> = (0..size).map(|_| now(&backlog).unwrap()).collect();
            assert!(now(&backlog).is_none(), "no more than there are");
            let taken: Vec<_> = (0..size).map(|_| now(&live).unwrap()).collect();
            assert!(now(&live).is_none(), "but for one of its own");
            drop(held);
            assert!(now(&backlog).is_none(), "live ones have them all");
            drop(taken);
            assert!(now(&backlog).is_some());
        }
    }

    #[tokio::test]
    async fn a_quarter_is_left_alone_while_live_deliveries_come() {
        for (size, most) in [(1, 1), (2, 1), (3, 2), (4, 3), (8, 6), (16, 12)] {
            let (live, backlog) = open(size);
            // Collected, so that all are held until they are counted.
            let hold = || std::iter::from_fn(|| now(&backlog)).collect::<Vec<_>>().len();
            assert_eq!(hold(), usize::from(size));
            drop(now(&live).unwrap());
            assert!(live.is_live() && backlog.is_live());
            assert_eq!(hold(), most, "{size}");
        }
        // Whoever waits goes on once no live ones come any more.
        let (live, backlog) = open(2);
        drop(now(&live).unwrap());
        let _held = now(&backlog).unwrap();
        let waited = tokio::time::timeout(LIVE_FOR * 3, backlog.acquire()).await;
        assert!(waited.is_ok() && !live.is_live());
    }

    #[tokio::test]
    async fn with_one_slot_the_backlog_works_between_live_messages() {
        let (live, backlog) = open(1);
        for _ in 0..3 {
            let first = now(&live).unwrap();
            assert!(now(&backlog).is_none());
            drop(first);
            let second = now(&backlog).unwrap();
            assert!(now(&backlog).is_none());
            drop(second);
        }
    }

    #[tokio::test]
    async fn nothing_of_the_backlog_begins_while_the_live_gate_is_closed() {
        let live = Slots::new(2);
        let backlog = live.left_free();
        // The backlog has no say in it.
        backlog.set_open(true);
        assert!(now(&backlog).is_none());
        assert!(backlog.until_live_is_open().now_or_never().is_none());
        live.set_open(true);
        assert!(now(&backlog).is_some());
        assert!(backlog.until_live_is_open().now_or_never().is_some());
        live.set_open(false);
        assert!(now(&backlog).is_none());
        // Live ones wait only for slots: the worker has its gate itself.
        assert!(now(&live).is_some() && live.until_live_is_open().now_or_never().is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_slot_that_becomes_free_is_missed_and_there_are_never_too_many() {
        let (live, backlog) = open(3);
        let (live, backlog) = (Arc::new(live), Arc::new(backlog));
        let most = Arc::new(AtomicUsize::new(0));
        let in_work = Arc::new(AtomicUsize::new(0));
        let work = |slots: &Arc<Slots>| {
            let (slots, most, in_work) =
                (Arc::clone(slots), Arc::clone(&most), Arc::clone(&in_work));
            tokio::spawn(async move {
                for _ in 0..500 {
                    let slot = slots.acquire().await;
                    if slot.lane == Lane::Backlog {
                        let now = in_work.fetch_add(1, Ordering::Relaxed) + 1;
                        most.fetch_max(now, Ordering::Relaxed);
                    }
                    tokio::task::yield_now().await;
                    if slot.lane == Lane::Backlog {
                        in_work.fetch_sub(1, Ordering::Relaxed);
                    }
                    drop(slot);
                }
            })
        };
        let all: Vec<_> = (0..4).flat_map(|_| [work(&live), work(&backlog)]).collect();
        let done = futures_util::future::try_join_all(all);
        tokio::time::timeout(Duration::from_mins(1), done).await.unwrap().unwrap();
        assert!(most.load(Ordering::Relaxed) <= 3);
        let left = live.shared.taken.borrow();
        assert_eq!((left.live, left.backlog), (0, 0));
    }
}
