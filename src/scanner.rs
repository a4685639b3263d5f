//! Streams a download to an engine and reads its verdict. Fail closed: `Clean` and `Infected` are
//! said only when the engine said so in so many words, everything else is a failure.
//!
//! A scan needs an [`Engine`], and an [`Engine`] is only had from [`Scanner::open`], which tests it
//! in both directions first: it must call the EICAR test file infected (one with an empty database
//! calls everything clean) and a harmless text clean (one with a bad signature or rule calls
//! everything infected). Each verdict is believed only after the same test, begun after the verdict.

mod canary;
mod clamav_rest;
mod clamd;
mod connect;
mod engine;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod proof;
mod version;

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::config::{EngineAddress, ScannerSettings};
use crate::failure::{Dependency, Failure, Reason, Stage};
use crate::http;
use crate::store::BufferReader;
use crate::verdict::{UnscannableReason, Verdict};

pub(crate) use self::engine::{Engine, EngineState};
pub(crate) use self::version::Version;

/// What an engine answered, before anyone asks what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Clean,
    /// By a name that is one, see [`is_name`].
    Found(String),
    TooLarge,
    /// clamav-rest before 0.5 does not understand clamd's line and does not hand it on. It may say
    /// that the stream exceeds clamd's limit, that reading timed out, or even that something was
    /// found.
    Garbled,
}

/// The bytes of one scan.
enum Sample {
    Bytes(Bytes),
    Buffered {
        reader: BufferReader,
        length: u64,
    },
    /// So many zero bytes.
    Zeros(u64),
}

/// Where the engine is, not yet proved to work.
#[derive(Debug)]
pub(crate) struct Scanner {
    protocol: Protocol,
    timeout: Duration,
    strict_limits: bool,
}

#[derive(Debug, Clone)]
enum Protocol {
    ClamavRest(clamav_rest::Server),
    Clamd(clamd::Address),
}

#[derive(Debug)]
enum Proved {
    ClamavRest(clamav_rest::Server, clamav_rest::Dialect),
    Clamd(clamd::Address),
}

impl Scanner {
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub(crate) fn new(settings: &ScannerSettings, ca: Option<&[u8]>) -> reqwest::Result<Self> {
        let protocol = match &settings.engine {
            EngineAddress::ClamavRest(url) => {
                let client = http::client(ca, http::Proxy::Never)?;
                Protocol::ClamavRest(clamav_rest::Server::new(client, url.clone()))
            }
            EngineAddress::ClamdTcp(host, port) => {
                Protocol::Clamd(clamd::Address::Tcp(host.clone(), *port))
            }
            EngineAddress::ClamdUnix(path) => Protocol::Clamd(clamd::Address::Unix(path.clone())),
        };
        Ok(Self { protocol, timeout: settings.timeout, strict_limits: settings.strict_limits })
    }

    /// Proves within `patience` that the engine calls the EICAR test file infected and a harmless
    /// text clean, and learns what it says of itself and whether it reports its limits.
    ///
    /// # Errors
    /// When it does not, for whatever reason; of kind [`crate::failure::Kind::Suspect`].
    pub(crate) async fn open(&self, patience: Duration) -> Result<Engine, Failure> {
        let opened = async {
            let begun = Instant::now();
            let protocol = match &self.protocol {
                Protocol::ClamavRest(server) => {
                    let dialect = server.dialect(canary::eicar()).await?;
                    Proved::ClamavRest(server.clone(), dialect)
                }
                Protocol::Clamd(address) => {
                    let answer = address.scan(Sample::Bytes(canary::eicar())).await?;
                    expect_infected(answer)?;
                    Proved::Clamd(address.clone())
                }
            };
            Engine::prove(protocol, self, begun).await
        };
        tokio::time::timeout(patience.min(self.timeout), opened)
            .await
            .unwrap_or_else(|_| Err(fault(Reason::EngineTimeout, "no answer to the self-test")))
    }
}

impl Proved {
    async fn scan(&self, sample: Sample) -> Result<Answer, Failure> {
        match self {
            Self::ClamavRest(server, dialect) => server.scan(*dialect, sample).await,
            Self::Clamd(address) => address.scan(sample).await,
        }
    }

    /// Knowing the version is no condition of scanning.
    async fn version(&self) -> Version {
        let asked = async {
            match self {
                Self::ClamavRest(server, _) => server.version().await,
                Self::Clamd(address) => address.version().await,
            }
        };
        tokio::time::timeout(Duration::from_secs(5), asked).await.ok().flatten().unwrap_or_default()
    }
}

/// Whether the answer refuses the sample, or may do so.
fn is_refusal(answer: &Answer) -> bool {
    matches!(answer, Answer::TooLarge | Answer::Garbled)
}

/// Whether something was found by a name. clamd prints a name that is missing as `(null)`; nothing
/// may be deleted for that.
fn is_name(name: &str) -> bool {
    !matches!(name.trim(), "" | "(null)")
}

/// With `AlertExceedsMax` and `AlertEncrypted` clamd reports what it did not look into as if it had
/// found something. Nothing was found, so nothing may be deleted for it.
fn meaning(answer: Answer) -> Verdict {
    match answer {
        Answer::Clean => Verdict::Clean,
        // A garbled answer to an object never comes here, only one to a sample of the self-test.
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

/// Passes for the EICAR test file found by a name: an alert about a limit says that it was not
/// looked at.
fn expect_infected(answer: Answer) -> Result<(), Failure> {
    let detail = match meaning(answer) {
        Verdict::Infected { .. } => return Ok(()),
        Verdict::Clean => {
            "the engine calls the EICAR test file clean: its database is empty or not loaded".into()
        }
        Verdict::Unscannable { heuristic: Some(name), .. } => {
            format!("the engine does not look into the EICAR test file, it says {name}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_looked_into_is_unscannable_and_never_infected() {
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
