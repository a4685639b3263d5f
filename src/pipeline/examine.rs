//! Gets the bytes of an object and their verdict. Leaves no trace.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use super::{DEADLINE, Job, Pipeline};
use crate::event::Version;
use crate::failure::{Dependency, Failure, Kind, Reason, Stage};
use crate::metrics::Timed;
use crate::overview::Step;
use crate::report::{Examined, Trigger};
use crate::store::{Claim, Fetched, Identity};
use crate::verdict::{Status, UnscannableReason, Verdict};

/// Downloads of one round, when bodies break off. The SDK's own retries end at the headers.
const MAX_TRIES: u32 = 3;

/// What is there of the announced object.
pub(super) enum Found {
    Examined(Box<Examined>),
    Gone,
    /// A version that was scanned and acted upon a while ago.
    AppliedBefore,
    Versions(Vec<Version>),
}

impl Pipeline {
    /// Examines the object until the deadline or the cancellation. Fetch and scan leave no trace, so
    /// they can end at any point.
    pub(super) async fn examine_until(
        &self,
        job: &Job<'_>,
        deadline: Instant,
    ) -> Result<Found, Failure> {
        let scanning = AtomicBool::new(false);
        let examined = tokio::time::timeout_at(deadline.into(), self.examine(job, &scanning));
        let touched = |failure: Failure| {
            if scanning.load(Ordering::Relaxed) { failure.engine_touched() } else { failure }
        };
        tokio::select! {
            biased;
            () = job.cancelled.cancelled() => Err(touched(Failure::abandoned(Stage::Scan))),
            examined = examined => examined.unwrap_or_else(|_| {
                let detail = format!("not done after {} min", DEADLINE.as_secs() / 60);
                Err(touched(Failure::transient(Stage::Fetch, Reason::Deadline, detail)))
            }),
        }
    }

    async fn examine(&self, job: &Job<'_>, scanning: &AtomicBool) -> Result<Found, Failure> {
        let (started, clock) = (SystemTime::now(), Instant::now());
        let unread = |identity: Identity, reason, started| {
            Found::Examined(Box::new(Examined {
                identity,
                observation: None,
                trigger: job.trigger,
                verdict: Verdict::Unscannable { reason, heuristic: None },
                released: false,
                sha256: None,
                as_announced: true,
                surge: None,
                engine: None,
                started,
                finished: SystemTime::now(),
            }))
        };
        let claim = match job.trigger {
            Trigger::Sweep => Claim::Yielding,
            Trigger::Upload | Trigger::Canary => Claim::Firm,
        };
        let mut tries = 0;
        job.work.is_at(Step::Asking);
        let (downloaded, sha256, (verdict, engine)) = loop {
            let mut fetch = job.trace.call("fetch");
            let opened = self.store.open(job.object, job.look, claim).await;
            let download = match fetch.note(opened)? {
                Fetched::Download(download)
                    if job.object.uncovered && self.was_applied(&download.identity) =>
                {
                    return Ok(Found::AppliedBefore);
                }
                Fetched::Download(download) => download,
                Fetched::Gone => return Ok(Found::Gone),
                Fetched::Versions(versions) => return Ok(Found::Versions(versions)),
                Fetched::TooLarge(identity) => {
                    return Ok(unread(identity, UnscannableReason::TooLarge, started));
                }
                Fetched::Unreadable(identity) => {
                    return Ok(unread(identity, UnscannableReason::Unreadable, started));
                }
            };
            tries += 1;
            let (buffer, displaced) = (download.buffer(), download.displaced());
            let (received, total) = (download.received(), download.identity.bytes());
            job.work.is_at(Step::Fetching { received, total });
            let receiving = async {
                let downloaded = fetch.note(self.store.receive(*download).await)?;
                fetch.count("avscan.bytes", downloaded.length());
                drop(fetch);
                // Only from now on the engine may have all bytes, and scan them.
                scanning.store(true, Ordering::Relaxed);
                let fetched = clock.elapsed();
                job.work.is_at(Step::Scanning);
                let sha256 = downloaded.sha256().await?;
                Ok((downloaded, sha256, fetched))
            };
            let scanning = async {
                let mut scan = job.trace.call("scan");
                let (verdict, engine) =
                    scan.note(job.engine.scan(&buffer, job.attempt.number).await)?;
                scan.set("avscan.status", Status::from(&verdict).into_str());
                if let Some(signature) = verdict.finding() {
                    scan.text("avscan.signature", signature);
                }
                Ok((verdict, engine))
            };
            let done = async { tokio::try_join!(receiving, scanning) };
            let done = tokio::select! {
                done = done => done,
                failure = displaced => Err(failure),
            };
            match done {
                Ok(((downloaded, sha256, fetched), scanned)) => {
                    self.metrics.took(Timed::Fetch, fetched);
                    self.metrics.took(Timed::Scan, clock.elapsed().saturating_sub(fetched));
                    break (downloaded, sha256, scanned);
                }
                Err(failure)
                    if tries < MAX_TRIES && failure.kind == Kind::Suspect(Dependency::Store) =>
                {
                    tracing::debug!(%failure, tries, "the download broke off, trying again");
                }
                Err(failure) => return Err(failure),
            }
        };
        self.metrics.scanned_bytes.inc_by(downloaded.length());
        Ok(Found::Examined(Box::new(Examined {
            identity: downloaded.identity.clone(),
            observation: Some(downloaded.observation),
            trigger: job.trigger,
            verdict,
            released: false,
            sha256: Some(sha256),
            as_announced: downloaded.as_announced,
            surge: None,
            engine: Some(engine),
            started,
            finished: SystemTime::now(),
        })))
    }
}
