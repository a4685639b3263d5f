//! An engine that passed its self-test, and the rules for believing its verdicts.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::crowd::Crowd;
use super::proof::Proof;
use super::{
    Answer, Proved, Sample, Scanner, UnscannableReason, Verdict, Version, expect_infected, fault,
    is_refusal, may_be_refusal, meaning, samples,
};
use crate::failure::{Failure, Reason, Stage};
use crate::store::Buffer;

/// A known version is used for this long before it is asked again.
const MAX_VERSION_AGE: Duration = Duration::from_secs(2);
/// With `STRICT_LIMITS`, a test of the limits is repeated when it is older than this.
const MAX_LIMITS_TEST_AGE: Duration = Duration::from_secs(5);
/// Size limit, in bytes, of a sample that tests whether an engine refuses a size.
const MAX_SAMPLE: u64 = 64 << 20;
/// How often such a sample is sent for an explicit refusal.
const MAX_SAMPLES: usize = 3;
/// Attempts for an object whose size may make clamav-rest hang.
const MAX_HANGING_ATTEMPTS: u32 = 3;

/// An engine that passed the self-test.
#[derive(Debug)]
pub(crate) struct Engine {
    protocol: Proved,
    timeout: Duration,
    strict_limits: bool,
    /// Those whose clean verdicts one test can confirm together.
    crowd: Crowd,
    /// That it calls the EICAR test file infected.
    eicar_test: Proof,
    /// That it calls a harmless text clean.
    harmless_test: Proof,
    /// Of its limits, whatever the result.
    limits_test: Proof,
    limits_reported: AtomicBool,
    version_asked: Proof,
    version: std::sync::Mutex<Version>,
    /// The smallest size in bytes that clamav-rest was seen to refuse for the size alone. The
    /// next self-test makes a new `Engine` without it, so a raised limit takes effect.
    refused: AtomicU64,
}

/// What is known of the engine that gave a verdict.
#[derive(Debug, Clone)]
pub(crate) struct EngineState {
    /// The engine's name in reports.
    pub(crate) name: &'static str,
    /// With the older of the databases reported before the scan and after its end.
    pub(crate) version: Version,
    /// Whether it reported encrypted archives and exceeded limits in the last test.
    pub(crate) limits_reported: bool,
}

impl Engine {
    /// Completes the self-test of an engine that found EICAR in a scan begun at `begun`.
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
            crowd: Crowd::default(),
            eicar_test: Proof::begun(begun),
            harmless_test: Proof::begun(begun),
            limits_test: Proof::begun(begun),
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

    /// The version it reported last.
    pub(crate) fn version(&self) -> Version {
        self.version.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it reported encrypted archives and exceeded limits in the last test, instead of
    /// calling them clean.
    pub(crate) fn limits_reported(&self) -> bool {
        self.limits_reported.load(Ordering::Relaxed)
    }

    /// Scans an object that may still be downloading; returns the verdict and the state of the
    /// engine that gave it. The engine gets the end of the bytes only after the download is
    /// complete. `attempt` is 1 for the first attempt at this object.
    ///
    /// # Errors
    /// Everything that is not an explicit verdict, with
    /// [`engine_touched`](Failure::engine_touched) set once bytes were sent.
    pub(crate) async fn scan(
        &self,
        object: &Buffer,
        attempt: u32,
    ) -> Result<(Verdict, EngineState), Failure> {
        let scanned = async {
            let before = self.version_now().await;
            let verdict = meaning(self.scan_once_or_again(object).await?);
            Box::pin(self.confirm(&verdict)).await.map_err(Failure::engine_touched)?;
            if matches!(verdict, Verdict::Infected { .. }) {
                self.expect_database(&before).await.map_err(Failure::engine_touched)?;
            }
            let version = before.older(self.version_now().await);
            let limits_reported = self.limits_reported();
            Ok((verdict, EngineState { name: self.name(), version, limits_reported }))
        };
        // The time limit starts when the download is complete: a slow store is not the engine's
        // fault.
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
        // clamd keeps a slow stream open as long as bytes arrive, but not a stalled one. A proxy in
        // front of clamav-rest may close even a slow one.
        if matches!(self.protocol, Proved::ClamavRest(..)) || object.is_in_memory() {
            object.complete().await;
        }
        // A large one takes too long to be waited for.
        let scanning = object.is_in_memory().then(|| self.crowd.join());
        let answer = self.protocol.scan(sample(object)).await;
        drop(scanning);
        // clamav-rest answers 413 also when its clamd is down or crashes, before 0.5 answers 412
        // for many reasons, and of a file above the limit it may say nothing at all. A refusal
        // counts only if the engine works right before and right after.
        if matches!(self.protocol, Proved::Clamd(_)) || !may_be_refusal(&answer) {
            return answer;
        }
        self.expect_eicar().await.map_err(Failure::engine_touched)?;
        let again = self.protocol.scan(sample(object)).await;
        if may_be_refusal(&again) {
            self.expect_eicar().await.map_err(Failure::engine_touched)?;
        }
        let unclear = match again {
            Ok(Answer::Garbled) => {
                let detail = "clamav-rest answers 412 and hides clamd's answer, and the size is \
                              not the reason: perhaps clamd found something under a name that this \
                              release cannot parse; update clamav-rest to 0.5 or later";
                Failure::permanent(Stage::Scan, Reason::EngineUnclear, detail).engine_touched()
            }
            Err(silent) if silent.reason == Reason::EngineSilent => silent,
            clear => return clear,
        };
        let refused = self.refuses_size(object.length()).await.map_err(Failure::engine_touched)?;
        if refused { Ok(Answer::TooLarge) } else { Err(unclear) }
    }

    /// Whether a working engine refuses `length` bytes for their number alone: it refuses a
    /// harmless sample of at most that size too, and says so.
    async fn refuses_size(&self, length: u64) -> Result<bool, Failure> {
        if length >= self.refused.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let size = length.min(MAX_SAMPLE);
        for _ in 0..MAX_SAMPLES {
            let answer = match self.protocol.scan(Sample::Zeros(size)).await {
                Err(silent) if silent.reason == Reason::EngineSilent => continue,
                answer => answer?,
            };
            let refused = is_refusal(&answer);
            if refused {
                self.expect_eicar().await?;
                self.refused.fetch_min(size, Ordering::Relaxed);
            }
            return Ok(refused);
        }
        Ok(false)
    }

    /// The failure of a clamav-rest that did not answer in time. Releases of 2022 hang when clamd's
    /// limit is exceeded, so an object of such a size is given up at attempt
    /// [`MAX_HANGING_ATTEMPTS`]; a single timeout may be a clamd that hung for a moment.
    async fn hung(&self, length: u64, attempt: u32, late: Failure) -> Failure {
        let timeout = self.timeout.min(Duration::from_mins(1));
        let works = tokio::time::timeout(timeout, self.expect_eicar()).await;
        if !matches!(works, Ok(Ok(()))) {
            return late;
        }
        let suspected = match tokio::time::timeout(timeout, self.refuses_size(length)).await {
            // The limit may be larger than the sample.
            Ok(Ok(false)) => length > MAX_SAMPLE,
            Ok(Err(_)) => false,
            // The sample is refused, or hangs too; many concurrent scans may be the reason.
            Ok(Ok(true)) | Err(_) => true,
        };
        if !suspected || attempt < MAX_HANGING_ATTEMPTS {
            return late;
        }
        let detail = "clamav-rest does not answer for an object of this size: raise StreamMaxLength \
                      in clamd.conf, or update clamav-rest to 0.5 or later";
        Failure::permanent(Stage::Scan, Reason::EngineUnclear, detail).engine_touched()
    }

    /// Confirms a verdict by a test begun after it. The engine may have restarted with another
    /// database since the last test: with an empty one it calls everything clean, with a bad
    /// signature everything infected.
    async fn confirm(&self, verdict: &Verdict) -> Result<(), Failure> {
        let answered = Instant::now();
        match verdict {
            Verdict::Clean => {
                self.eicar_test
                    .since_after(answered, self.crowd.gone(), self.expect_eicar())
                    .await?;
                if !self.strict_limits {
                    return Ok(());
                }
                let recent = answered.checked_sub(MAX_LIMITS_TEST_AGE).unwrap_or(answered);
                self.limits_test.since(recent, self.test_limits()).await?;
                if self.limits_reported() {
                    return Ok(());
                }
                Err(fault(Reason::LimitsHidden, "the engine no longer reports its limits"))
            }
            Verdict::Infected { .. } => {
                self.harmless_test.since(answered, self.expect_clean()).await
            }
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
        let asked = self.version_asked.since(now.checked_sub(MAX_VERSION_AGE).unwrap_or(now), ask);
        // Asking never fails: an unknown version is a valid answer.
        asked.await.ok();
        self.version()
    }

    /// Fails if the database was replaced since `before`: the finding and the passed harmless test
    /// would be of different databases.
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

    /// Fails unless the engine calls the EICAR test file infected.
    async fn expect_eicar(&self) -> Result<(), Failure> {
        expect_infected(self.protocol.scan(Sample::Bytes(samples::eicar())).await?)
    }

    /// Fails unless the engine calls a harmless text clean.
    async fn expect_clean(&self) -> Result<(), Failure> {
        let found = match meaning(self.protocol.scan(Sample::Bytes(samples::harmless())).await?) {
            Verdict::Clean => return Ok(()),
            Verdict::Infected { signature: name }
            | Verdict::Unscannable { heuristic: Some(name), .. } => name,
            Verdict::Unscannable { heuristic: None, .. } => "that it is too large".to_owned(),
        };
        Err(fault(
            Reason::EngineFindsEverything,
            format!(
                "the engine does not call a harmless text clean, it answers {found}: a signature or \
                 YARA rule matches too much; nothing is deleted until that is fixed"
            ),
        ))
    }

    /// Records whether the engine reports an encrypted and a deeply nested archive.
    async fn test_limits(&self) -> Result<(), Failure> {
        let mut reported = true;
        for (sample, reason) in [
            (samples::encrypted_zip(), UnscannableReason::Encrypted),
            (samples::nested_zip(), UnscannableReason::LimitsExceeded),
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
