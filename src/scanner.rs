//! Streams a download to an engine and reads its verdict. Fail closed: `Clean` and `Infected` need
//! the engine's explicit words; everything else is a failure.
//!
//! A scan needs an [`Engine`], and only [`Scanner::open`] makes one, after a test in both
//! directions: it must call the EICAR test file infected (with an empty database it calls
//! everything clean) and a harmless text clean (with a bad signature or rule it calls everything
//! infected). A verdict is believed only after the same test, begun after the verdict.

mod clamav_rest;
mod clamd;
mod connect;
mod crowd;
mod engine;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod proof;
mod samples;
mod version;
mod watch;

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::config::{EngineAddress, ScannerSettings};
use crate::failure::{Dependency, Failure, Reason, Stage};
use crate::http;
use crate::store::BufferReader;
use crate::tls::Trust;
use crate::verdict::{UnscannableReason, Verdict};

pub(crate) use self::engine::{Engine, EngineState};
pub(crate) use self::samples::eicar;
pub(crate) use self::version::Version;
pub(crate) use self::watch::EngineWatch;

/// For a question about the version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// What an engine answered, not yet interpreted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Clean,
    /// With a usable name, see [`is_name`].
    Found(String),
    TooLarge,
    /// clamav-rest before 0.5 could not parse clamd's line, and hides it. The line may say that the
    /// stream exceeds clamd's limit, that reading timed out, or even that something was found.
    Garbled,
}

/// The bytes of one scan.
enum Sample {
    Bytes(Bytes),
    Buffered {
        reader: BufferReader,
        length: u64,
    },
    /// This number of zero bytes.
    Zeros(u64),
}

/// The engine's address, before any self-test.
#[derive(Debug)]
pub(crate) struct Scanner {
    protocol: Protocol,
    timeout: Duration,
    strict_limits: bool,
}

/// An engine that is not tested.
#[derive(Debug, Clone)]
enum Protocol {
    ClamavRest(clamav_rest::Server),
    Clamd(clamd::Server),
}

/// An engine that found EICAR, with what was learned about it.
#[derive(Debug)]
enum Proved {
    ClamavRest(clamav_rest::Server, clamav_rest::Dialect),
    Clamd(clamd::Server),
}

impl Scanner {
    /// The engine of the settings; nothing is sent yet.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub(crate) fn new(settings: &ScannerSettings, trust: &Trust) -> reqwest::Result<Self> {
        let protocol = match &settings.engine {
            EngineAddress::ClamavRest(url) => {
                let client = http::client(trust, http::Proxy::Never)?;
                Protocol::ClamavRest(clamav_rest::Server::new(client, url.clone()))
            }
            EngineAddress::Clamd(address) => Protocol::Clamd(clamd::Server::new(address.clone())),
        };
        Ok(Self { protocol, timeout: settings.timeout, strict_limits: settings.strict_limits })
    }

    /// Tests within `timeout` that the engine calls the EICAR test file infected and a harmless
    /// text clean; learns its version and whether it reports its limits.
    ///
    /// # Errors
    /// When the test fails, for any reason; of kind [`crate::failure::Kind::Suspect`].
    pub(crate) async fn open(&self, timeout: Duration) -> Result<Engine, Failure> {
        let opened = async {
            let begun = Instant::now();
            let protocol = match &self.protocol {
                Protocol::ClamavRest(server) => {
                    let dialect = server.dialect(samples::eicar()).await?;
                    Proved::ClamavRest(server.clone(), dialect)
                }
                Protocol::Clamd(server) => {
                    let answer = server.scan(Sample::Bytes(samples::eicar())).await?;
                    expect_infected(answer)?;
                    Proved::Clamd(server.clone())
                }
            };
            Engine::prove(protocol, self, begun).await
        };
        tokio::time::timeout(timeout.min(self.timeout), opened)
            .await
            .unwrap_or_else(|_| Err(fault(Reason::EngineTimeout, "no answer to the self-test")))
    }

    /// The version of the engine, which is not tested for it; `None` if it does not answer in time.
    pub(crate) async fn version(&self) -> Option<Version> {
        tokio::time::timeout(VERSION_TIMEOUT, self.protocol.version()).await.ok().flatten()
    }
}

impl Protocol {
    async fn version(&self) -> Option<Version> {
        match self {
            Self::ClamavRest(server) => server.version().await,
            Self::Clamd(server) => server.version().await,
        }
    }
}

impl Proved {
    async fn scan(&self, sample: Sample) -> Result<Answer, Failure> {
        match self {
            Self::ClamavRest(server, dialect) => server.scan(*dialect, sample).await,
            Self::Clamd(server) => server.scan(sample).await,
        }
    }

    /// The version, as far as the engine tells it in time: scanning does not depend on it.
    async fn version(&self) -> Version {
        let asked = async {
            match self {
                Self::ClamavRest(server, _) => server.version().await,
                Self::Clamd(server) => server.version().await,
            }
        };
        tokio::time::timeout(VERSION_TIMEOUT, asked).await.ok().flatten().unwrap_or_default()
    }
}

/// Whether the answer refuses the sample, or may do so.
fn is_refusal(answer: &Answer) -> bool {
    matches!(answer, Answer::TooLarge | Answer::Garbled)
}

/// Whether clamav-rest refuses the sample, or may do so: when its clamd closes the connection, a
/// moment decides whether it has an answer at all.
fn may_be_refusal(answer: &Result<Answer, Failure>) -> bool {
    match answer {
        Ok(answer) => is_refusal(answer),
        Err(failure) => failure.reason == Reason::EngineSilent,
    }
}

/// Whether `name` names a finding. clamd prints a missing name as `(null)`; nothing may be deleted
/// for that.
fn is_name(name: &str) -> bool {
    !matches!(name.trim(), "" | "(null)")
}

/// The verdict that an answer means. With `AlertExceedsMax` and `AlertEncrypted` clamd reports what
/// it did not scan as FOUND. Nothing was found, so such an object is unscannable, never infected.
fn meaning(answer: Answer) -> Verdict {
    match answer {
        Answer::Clean => Verdict::Clean,
        // A garbled answer gets here only for samples of the self-test, never for an object.
        Answer::TooLarge | Answer::Garbled => {
            Verdict::Unscannable { reason: UnscannableReason::TooLarge, heuristic: None }
        }
        Answer::Found(name) if name.starts_with("Heuristics.Limits.Exceeded") => {
            Verdict::Unscannable {
                reason: UnscannableReason::LimitsExceeded,
                heuristic: Some(name),
            }
        }
        Answer::Found(name) if name.starts_with("Heuristics.Encrypted.") => {
            Verdict::Unscannable { reason: UnscannableReason::Encrypted, heuristic: Some(name) }
        }
        Answer::Found(signature) => Verdict::Infected { signature },
    }
}

/// Passes only if the EICAR test file was found: an alert about a limit means that it was not
/// scanned.
fn expect_infected(answer: Answer) -> Result<(), Failure> {
    let detail = match meaning(answer) {
        Verdict::Infected { .. } => return Ok(()),
        Verdict::Clean => {
            "the engine calls the EICAR test file clean: its database is empty or not loaded".into()
        }
        Verdict::Unscannable { heuristic: Some(name), .. } => {
            format!("the engine does not scan the EICAR test file, it answers {name}")
        }
        Verdict::Unscannable { heuristic: None, .. } => {
            "the engine refuses the EICAR test file".to_owned()
        }
    };
    Err(fault(Reason::EngineBlind, detail))
}

/// A fault of the engine.
fn fault(reason: Reason, detail: impl std::fmt::Display) -> Failure {
    Failure::suspect(Dependency::Engine, Stage::Scan, reason, detail)
}

/// A fault of this host during a scan.
fn host_fault(reason: Reason, detail: impl std::fmt::Display) -> Failure {
    Failure::suspect(Dependency::Host, Stage::Scan, reason, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_scanned_is_unscannable_and_never_infected() {
        for (name, reason) in [
            ("Heuristics.Limits.Exceeded.MaxFileSize", UnscannableReason::LimitsExceeded),
            ("Heuristics.Limits.Exceeded.MaxRecursion", UnscannableReason::LimitsExceeded),
            ("Heuristics.Limits.Exceeded", UnscannableReason::LimitsExceeded),
            ("Heuristics.Encrypted.Zip", UnscannableReason::Encrypted),
            ("Heuristics.Encrypted.PDF", UnscannableReason::Encrypted),
        ] {
            let heuristic = Some(name.to_owned());
            let unscannable = Verdict::Unscannable { reason, heuristic };
            assert_eq!(meaning(Answer::Found(name.to_owned())), unscannable);
        }
        for name in ["Win.Test.EICAR_HDB-1", "Heuristics.Phishing.Email", "PUA.Win.Packer"] {
            let infected = Verdict::Infected { signature: name.to_owned() };
            assert_eq!(meaning(Answer::Found(name.to_owned())), infected);
        }
    }
}
