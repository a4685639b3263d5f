//! Deliveries are consumed only while every dependency works.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use super::context::Context;
use super::{Handler, RECHECK_INTERVAL, Worker, WorkerExit};
use crate::failure::{Dependency, Failure, Kind, Reason, Stage};
use crate::health::Part;
use crate::queue::Session;

const SHORT_TIMEOUT: Duration = Duration::from_secs(3);
const LONG_TIMEOUT: Duration = Duration::from_secs(20);
/// For an engine that is at work: to close the gate would throw that work away.
const WORKING_TIMEOUT: Duration = Duration::from_mins(1);

/// Interval of the full check while the gate is open.
const READY_INTERVAL: Duration = Duration::from_mins(2);
/// If no delivery finishes for this long, the dependencies are checked; the deadlines of the
/// deliveries themselves are much longer.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(3);

/// A probe that succeeded answers for other failures for this long.
const PROBE_REUSE: Duration = Duration::from_secs(1);

impl<H: Handler> Worker<H> {
    /// Waits until every dependency works; `None` when they do.
    pub(super) async fn open_gate(&self, session: &Session) -> Option<WorkerExit> {
        tokio::select! {
            () = self.slots.until_live_is_open() => {}
            () = self.shared.shutdown.cancelled() => return Some(WorkerExit::Drained),
            () = session.lost().cancelled() => return Some(WorkerExit::SessionLost),
        }
        // A check that began before the recovery may never be answered, so checks are short and
        // frequent. An engine that is only busy needs longer: a long check runs beside them.
        let mut long = Box::pin(self.handler.check_ready(LONG_TIMEOUT));
        let mut failed = false;
        loop {
            let ready = tokio::select! {
                ready = self.handler.check_ready(SHORT_TIMEOUT) => ready,
                ready = &mut long, if failed => {
                    long = Box::pin(self.handler.check_ready(LONG_TIMEOUT));
                    ready
                }
                () = self.shared.shutdown.cancelled() => return Some(WorkerExit::Drained),
                () = session.lost().cancelled() => return Some(WorkerExit::SessionLost),
            };
            let Err(failure) = ready else {
                self.was_ready.store(true, Ordering::Relaxed);
                return None;
            };
            if self.is_refusal(&failure) {
                return Some(WorkerExit::Refused(failure));
            }
            self.report_down(&failure);
            failed = true;
            tokio::select! {
                () = tokio::time::sleep(failure.pause.unwrap_or(RECHECK_INTERVAL)) => {}
                () = self.shared.shutdown.cancelled() => return Some(WorkerExit::Drained),
                () = session.lost().cancelled() => return Some(WorkerExit::SessionLost),
            }
        }
    }

    /// Whether these settings can never work. Credentials that worked before may work again.
    fn is_refusal(&self, failure: &Failure) -> bool {
        failure.kind == Kind::Permanent
            || (failure.reason == Reason::StoreCredentials
                && !self.was_ready.load(Ordering::Relaxed))
    }

    fn report_down(&self, failure: &Failure) {
        if let Kind::Suspect(dependency) | Kind::Down(dependency) = failure.kind {
            self.shared.health.down(Part::from(dependency), &failure.detail);
        }
    }

    /// Checks the dependencies every few minutes, and sooner when no delivery finishes. Closes the
    /// gate and returns when one of them is down.
    pub(super) async fn watch(self: Arc<Self>, context: Arc<Context>) {
        let mut checked = Instant::now();
        let mut finished = self.finished.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(PROGRESS_INTERVAL).await;
            let before = std::mem::replace(&mut finished, self.finished.load(Ordering::Relaxed));
            let answer = if checked.elapsed() > READY_INTERVAL {
                checked = Instant::now();
                self.handler.check_ready(WORKING_TIMEOUT).await
            } else if finished == before && self.in_work.load(Ordering::Relaxed) > 0 {
                self.check_progress().await
            } else {
                continue;
            };
            let Err(failure) = answer else { continue };
            match failure.kind {
                Kind::Suspect(dependency) | Kind::Down(dependency) => {
                    self.close_gate(&context, dependency, &failure);
                }
                _ => context.gate_closed.cancel(),
            }
            return;
        }
    }

    /// Closing the gate throws running work away, so a failed check is repeated.
    async fn check_progress(&self) -> Result<(), Failure> {
        if self.handler.check_progress().await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(RECHECK_INTERVAL).await;
        self.handler.check_progress().await
    }

    /// Finds out whether the dependency that may have caused `failure` works, and closes the gate if
    /// it does not. `true` if it works, or if none is suspected.
    pub(super) async fn check_cause(
        &self,
        failure: &Failure,
        work: &H::Work,
        context: &Context,
    ) -> bool {
        let (dependency, down) = match failure.kind {
            Kind::Down(dependency) => (dependency, failure.clone()),
            Kind::Suspect(dependency) => match self.probe(dependency, work, context).await {
                Ok(()) => return true,
                Err(down) => (dependency, down),
            },
            Kind::Permanent | Kind::Transient | Kind::Busy | Kind::Abandoned => return true,
        };
        self.close_gate(context, dependency, &down);
        false
    }

    /// Runs one probe at a time; its success answers for all failures of a moment.
    async fn probe(
        &self,
        suspect: Dependency,
        work: &H::Work,
        context: &Context,
    ) -> Result<(), Failure> {
        let mut last = context.last_probe.lock().await;
        if context.gate_closed.is_cancelled() {
            let kind = Kind::Down(suspect);
            return Err(Failure::new(kind, Stage::Scan, Reason::GateClosed, "the gate is closed"));
        }
        if last.is_some_and(|(asked, at)| asked == suspect && at.elapsed() < PROBE_REUSE) {
            return Ok(());
        }
        let probe = self.handler.probe(suspect, work);
        match AssertUnwindSafe(probe).catch_unwind().await {
            Ok(answer) => answer?,
            // A panic is caused by this object. It says nothing about the dependency, so the answer
            // is not reused.
            Err(_) => return Ok(()),
        }
        *last = Some((suspect, Instant::now()));
        Ok(())
    }

    /// Closes the gate, unless this consumer has already ended.
    fn close_gate(&self, context: &Context, dependency: Dependency, failure: &Failure) {
        if !context.is_over() && context.closed_for.set(dependency).is_ok() {
            self.report_down(failure);
            context.gate_closed.cancel();
        }
    }
}
