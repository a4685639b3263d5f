//! Remembers when a self-test was last passed.

use std::time::Instant;

use tokio::sync::Mutex;

use crate::failure::Failure;

/// When the last passed run of a self-test began. One run serves all scans that wait for it.
#[derive(Debug)]
pub(super) struct Proof(Mutex<Instant>);

impl Proof {
    /// A test that was passed and began at `begun`.
    pub(super) fn begun(begun: Instant) -> Self {
        Self(Mutex::new(begun))
    }

    /// Runs `test`, unless a run that began at `moment` or later was passed.
    ///
    /// # Errors
    /// Those of the test.
    pub(super) async fn since(
        &self,
        moment: Instant,
        test: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Failure> {
        self.since_after(moment, std::future::ready(()), test).await
    }

    /// The same, but the run waits for others to come that it can serve as well: until `gathered`.
    ///
    /// # Errors
    /// Those of the test.
    pub(super) async fn since_after(
        &self,
        moment: Instant,
        gathered: impl Future<Output = ()>,
        test: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Failure> {
        let mut proved = self.0.lock().await;
        if *proved < moment {
            gathered.await;
            let begun = Instant::now();
            test.await?;
            *proved = begun;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::failure::{Reason, Stage};

    #[tokio::test]
    async fn one_test_serves_all_that_waited_for_it_and_none_that_came_later() {
        let runs = AtomicUsize::new(0);
        let test = || async {
            runs.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(())
        };
        let proof = Proof::begun(Instant::now());
        let moment = Instant::now();
        let waiting = (0..5).map(|_| proof.since(moment, test()));
        assert!(futures_util::future::join_all(waiting).await.iter().all(Result::is_ok));
        assert_eq!(runs.load(Ordering::Relaxed), 1);
        proof.since(Instant::now(), test()).await.unwrap();
        assert_eq!(runs.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_test_that_waits_serves_those_that_come_meanwhile() {
        let runs = AtomicUsize::new(0);
        let test = || async {
            runs.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let proof = Proof::begun(Instant::now());
        let wait = || tokio::time::sleep(Duration::from_millis(20));
        let late = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            proof.since_after(Instant::now(), wait(), test()).await
        };
        let both = tokio::join!(proof.since_after(Instant::now(), wait(), test()), late);
        assert!(both.0.is_ok() && both.1.is_ok());
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_test_that_failed_proves_nothing() {
        let proof = Proof::begun(Instant::now());
        let moment = Instant::now();
        let failing = async { Err(Failure::transient(Stage::Scan, Reason::EngineReply, "x")) };
        assert!(proof.since(moment, failing).await.is_err());
        let failing = async { Err(Failure::transient(Stage::Scan, Reason::EngineReply, "x")) };
        assert!(proof.since(moment, failing).await.is_err());
    }
}
