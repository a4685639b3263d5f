//! An engine that passed its self-test, and how far it is believed.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::proof::Proof;
use super::{
    Answer, Proved, Sample, Scanner, UnscannableReason, Verdict, Version, canary, expect_infected,
    fault, is_refusal, meaning,
};
use crate::failure::{Failure, Reason, Stage};
use crate::store::Buffer;

/// The engine's version is asked again when it is older than this.
const VERSION_SERVES: Duration = Duration::from_secs(2);
/// With `STRICT_LIMITS` the test of the limits is repeated when it is older than this.
const LIMITS_SERVE: Duration = Duration::from_secs(5);
/// The largest sample that is made to find out whether an engine refuses a size.
const LARGEST_SAMPLE: u64 = 64 << 20;
/// An object that may hang a clamav-rest by its size is sent again until this attempt.
const MAX_HANGING_ATTEMPTS: u32 = 3;

/// An engine that passed the self-test.
#[derive(Debug)]
pub(crate) struct Engine {
    protocol: Proved,
    timeout: Duration,
    strict_limits: bool,
    /// It calls the EICAR test file infected.
    finds: Proof,
    /// It calls a harmless text clean.
    spares: Proof,
    /// It reports its limits.
    tells_limits: Proof,
    limits_reported: AtomicBool,
    version_asked: Proof,
    version: std::sync::Mutex<Version>,
    /// The smallest size that a clamav-rest before 0.5 was seen to refuse for the size alone. It is
    /// forgotten with this engine at the next self-test, so that a raised limit is noticed.
    refused: AtomicU64,
}

/// What is known of the engine that gave a verdict.
#[derive(Debug, Clone)]
pub(crate) struct EngineState {
    /// The engine's name in reports.
    pub(crate) name: &'static str,
    /// With the older of the databases that it named before the scan and after its end.
    pub(crate) version: Version,
    /// It reported encrypted archives and exceeded limits when this was last tested.
    pub(crate) limits_reported: bool,
}

impl Engine {
    /// Ends the self-test of an engine that found EICAR in a scan begun at `begun`.
    ///
    /// # Errors
    /// When the engine does not call a harmless text clean, or does not answer.
    pub(super) async fn prove(
        protocol: Proved,
        scanner: &Scanner,
        begun: Instant,
    ) -> Result<Self, Failure> {
        let engine = Self {
            version: protocol.version().await.into(),
            protocol,
            timeout: scanner.timeout,
            strict_limits: scanner.strict_limits,
            finds: Proof::begun(begun),
            spares: Proof::begun(begun),
            tells_limits: Proof::begun(begun),
            limits_reported: AtomicBool::new(false),
            version_asked: Proof::begun(begun),
            refused: AtomicU64::new(u64::MAX),
        };
        engine.expect_clean().await?;
        engine.test_limits().await?;
        Ok(engine)
    }

    /// The engine's name in reports.
    pub(crate) const fn name(&self) -> &'static str {
        match self.protocol {
            Proved::ClamavRest(..) => "clamav-rest",
            Proved::Clamd(_) => "clamd",
        }
    }

    /// What it said of itself when last asked.
    pub(crate) fn version(&self) -> Version {
        self.version.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it reported encrypted archives and exceeded limits, instead of calling them clean,
    /// when that was last tested.
    pub(crate) fn limits_reported(&self) -> bool {
        self.limits_reported.load(Ordering::Relaxed)
    }

    /// The verdict on an object that may still be arriving, and what is known of the engine that
    /// gave it. The engine gets the end of the bytes when all of them are there. `attempt` is 1 for
    /// the first one at this object.
    ///
    /// # Errors
    /// Everything that is not an explicit verdict, with
    /// [`engine_touched`](Failure::engine_touched) set once bytes were on their way.
    pub(crate) async fn scan(
        &self,
        object: &Buffer,
        attempt: u32,
    ) -> Result<(Verdict, EngineState), Failure> {
        let scanned = async {
            let before = self.version_now().await;
            let verdict = meaning(self.scan_once_or_again(object).await?);
            self.confirm(&verdict).await.map_err(Failure::engine_touched)?;
            if matches!(verdict, Verdict::Infected { .. }) {
                self.expect_database(&before).await.map_err(Failure::engine_touched)?;
            }
            let version = before.older(self.version_now().await);
            let limits_reported = self.limits_reported();
            Ok((verdict, EngineState { name: self.name(), version, limits_reported }))
        };
        // How long the store takes is not the engine's fault.
        let overdue = async {
            object.complete().await;
            tokio::time::sleep(self.timeout).await;
        };
        tokio::select! {
            scanned = scanned => return scanned,
            () = overdue => {}
        }
        let detail = format!("no verdict within {} s", self.timeout.as_secs());
        let late = fault(Reason::EngineTimeout, detail).engine_touched();
        Err(match &self.protocol {
            Proved::ClamavRest(..) => self.hung(object.length(), attempt, late).await,
            Proved::Clamd(_) => late,
        })
    }

    async fn scan_once_or_again(&self, object: &Buffer) -> Result<Answer, Failure> {
        // clamd listens to a slow stream for as long as it comes, but not to one that brings nothing;
        // what stands before clamav-rest may not.
        if matches!(self.protocol, Proved::ClamavRest(..)) || object.is_in_memory() {
            object.complete().await;
        }
        let answer = self.protocol.scan(sample(object)).await?;
        // clamav-rest says 413 too when its clamd is down or crashes, and before 0.5 a 412 for much
        // else. It is believed when the engine works right before and right after it said so.
        if matches!(self.protocol, Proved::Clamd(_)) || !is_refusal(&answer) {
            return Ok(answer);
        }
        self.expect_eicar().await.map_err(Failure::engine_touched)?;
        let again = self.protocol.scan(sample(object)).await?;
        if is_refusal(&again) {
            self.expect_eicar().await.map_err(Failure::engine_touched)?;
        }
        if again != Answer::Garbled {
            return Ok(again);
        }
        let refused = self.refuses_size(object.length()).await.map_err(Failure::engine_touched)?;
        if refused {
            return Ok(Answer::TooLarge);
        }
        let detail = "clamav-rest answers 412 and hides what clamd said, and the size is not the \
                      reason: perhaps something was found under a name that this release cannot \
                      read; update clamav-rest to 0.5 or later";
        Err(Failure::permanent(Stage::Scan, Reason::EngineUnclear, detail).engine_touched())
    }

    /// Whether the engine, which works, refuses `length` bytes for their number alone: a harmless
    /// sample that is no larger is refused too.
    async fn refuses_size(&self, length: u64) -> Result<bool, Failure> {
        if length >= self.refused.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let size = length.min(LARGEST_SAMPLE);
        let refused = is_refusal(&self.protocol.scan(Sample::Zeros(size)).await?);
        if refused {
            self.expect_eicar().await?;
            self.refused.fetch_min(size, Ordering::Relaxed);
        }
        Ok(refused)
    }

    /// What it means that a clamav-rest does not answer in time. Releases of 2022 hang when clamd's
    /// limit is exceeded, so such an object must not be sent as often as one that failed by chance. A
    /// single time it may have been clamd that hung for a moment.
    async fn hung(&self, length: u64, attempt: u32, late: Failure) -> Failure {
        let patience = self.timeout.min(Duration::from_mins(1));
        let works = tokio::time::timeout(patience, self.expect_eicar()).await;
        if !matches!(works, Ok(Ok(()))) {
            return late;
        }
        let suspected = match tokio::time::timeout(patience, self.refuses_size(length)).await {
            // The limit may lie above the sample.
            Ok(Ok(false)) => length > LARGEST_SAMPLE,
            Ok(Err(_)) => false,
            // The sample is refused, or hangs too. Many scans at once may be the reason.
            Ok(Ok(true)) | Err(_) => true,
        };
        if !suspected || attempt < MAX_HANGING_ATTEMPTS {
            return late;
        }
        let detail = "clamav-rest does not answer for an object of this size: raise StreamMaxLength \
                      in clamd.conf, or update clamav-rest to 0.5 or later";
        Failure::permanent(Stage::Scan, Reason::EngineUnclear, detail).engine_touched()
    }

    /// The engine may have come back with another database since it was last seen to work: with an
    /// empty one it calls everything clean, with a bad signature everything infected. So a verdict
    /// is believed only after a test begun when it had been said.
    async fn confirm(&self, verdict: &Verdict) -> Result<(), Failure> {
        let answered = Instant::now();
        match verdict {
            Verdict::Clean => {
                self.finds.since(answered, self.expect_eicar()).await?;
                if !self.strict_limits {
                    return Ok(());
                }
                let recent = answered.checked_sub(LIMITS_SERVE).unwrap_or(answered);
                self.tells_limits.since(recent, self.test_limits()).await?;
                if self.limits_reported() {
                    return Ok(());
                }
                Err(fault(Reason::LimitsHidden, "the engine does not report its limits any more"))
            }
            Verdict::Infected { .. } => self.spares.since(answered, self.expect_clean()).await,
            Verdict::Unscannable { .. } => Ok(()),
        }
    }

    /// The version, asked again if the last answer is too old.
    async fn version_now(&self) -> Version {
        let now = Instant::now();
        let ask = async {
            let version = self.protocol.version().await;
            *self.version.lock().unwrap_or_else(PoisonError::into_inner) = version;
            Ok(())
        };
        let asked = self.version_asked.since(now.checked_sub(VERSION_SERVES).unwrap_or(now), ask);
        // Not knowing it is no fault.
        drop(asked.await);
        self.version()
    }

    /// What was found was found by another database than the harmless test was passed by, where the
    /// engine names another one by now.
    async fn expect_database(&self, before: &Version) -> Result<(), Failure> {
        let now = self.protocol.version().await.database;
        if now.is_some() && before.database.is_some() && now != before.database {
            return Err(fault(
                Reason::DatabaseChanged,
                "the database was replaced during the scan",
            ));
        }
        Ok(())
    }

    async fn expect_eicar(&self) -> Result<(), Failure> {
        expect_infected(self.protocol.scan(Sample::Bytes(canary::eicar())).await?)
    }

    async fn expect_clean(&self) -> Result<(), Failure> {
        let found = match meaning(self.protocol.scan(Sample::Bytes(canary::harmless())).await?) {
            Verdict::Clean => return Ok(()),
            Verdict::Infected { signature: name }
            | Verdict::Unscannable { heuristic: Some(name), .. } => name,
            Verdict::Unscannable { heuristic: None, .. } => "that it is too large".to_owned(),
        };
        Err(fault(
            Reason::EngineFindsEverything,
            format!(
                "the engine does not call a harmless text clean, it says {found}: a signature or \
                 YARA rule matches too much; nothing is deleted until that is mended"
            ),
        ))
    }

    /// Two files that a well-configured engine refuses to call clean.
    async fn test_limits(&self) -> Result<(), Failure> {
        let mut reported = true;
        for (sample, reason) in [
            (canary::encrypted_zip(), UnscannableReason::Encrypted),
            (canary::nested_zip(), UnscannableReason::LimitsExceeded),
        ] {
            let verdict = meaning(self.protocol.scan(Sample::Bytes(sample)).await?);
            reported &= matches!(verdict, Verdict::Unscannable { reason: r, .. } if r == reason);
        }
        self.limits_reported.store(reported, Ordering::Relaxed);
        Ok(())
    }
}

fn sample(object: &Buffer) -> Sample {
    Sample::Buffered { reader: object.reader(), length: object.length() }
}
