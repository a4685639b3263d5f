//! Scans that go on at the same time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// How long a self-test waits for other scans to end, in order to serve them as well.
const PATIENCE: Duration = Duration::from_millis(3);

/// The scans of one engine that have not been answered yet.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    scanning: AtomicUsize,
    answered: Notify,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Member<'a>(&'a Crowd);

impl Crowd {
    pub(super) fn join(&self) -> Member<'_> {
        self.scanning.fetch_add(1, Ordering::Relaxed);
        Member(self)
    }

    /// Waits until none is left, for [`PATIENCE`] at most; a scan that is alone does not wait.
    pub(super) async fn gone(&self) {
        let gone = async {
            loop {
                let answered = self.answered.notified();
                if self.scanning.load(Ordering::Relaxed) == 0 {
                    return;
                }
                answered.await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.ok();
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        self.0.scanning.fetch_sub(1, Ordering::Relaxed);
        self.0.answered.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_the_last_scan_and_without_it() {
        let crowd = Crowd::default();
        let start = tokio::time::Instant::now();
        crowd.gone().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        let (one, two) = (crowd.join(), crowd.join());
        drop(one);
        let ends = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            drop(two);
        };
        tokio::join!(crowd.gone(), ends);
        assert_eq!(start.elapsed(), Duration::from_millis(1));
        let _long = crowd.join();
        crowd.gone().await;
        assert!(start.elapsed() >= PATIENCE);
    }
}
