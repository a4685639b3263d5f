//! Streams a download to an engine and reads its verdict. Fail closed: `Clean` and `Infected` are
//! said only when the engine said so in so many words, everything else is a failure.
//!
//! A scan needs an [`Engine`], and an [`Engine`] is only had from [`Scanner::open`], which makes it
//! call the EICAR test file infected first: an engine with an empty database calls everything
//! clean.

mod canary;
mod clamav_rest;
mod clamd;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod version;

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Mutex;

use crate::config::{EngineAddress, ScannerSettings};
use crate::failure::{Dependency, Failure, Stage};
use crate::http;
use crate::store::{Reader, Spooled};

pub(crate) use self::version::Version;

/// What is known of an object's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The engine said so of every byte.
    Clean,
    /// The engine found something, and this is its name for it.
    Infected {
        /// The engine's name for what it found.
        signature: String,
    },
    /// Neither can be said.
    Unscannable {
        /// Why.
        reason: Reason,
        /// The engine's own name for it, where it reported one.
        heuristic: Option<String>,
    },
}

/// Why an object could not be scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Larger than `VOLUME_SIZE`, or than what the engine takes.
    TooLarge,
    /// It contains something encrypted.
    Encrypted,
    /// Unpacking it exceeds a limit of the engine.
    LimitsExceeded,
    /// Archived, or encrypted with its owner's key.
    Unreadable,
    /// All attempts failed.
    ScanFailed,
}

impl Reason {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Encrypted => "encrypted",
            Self::LimitsExceeded => "limits_exceeded",
            Self::Unreadable => "unreadable",
            Self::ScanFailed => "scan_failed",
        }
    }
}

/// What an engine answered, before anyone asks what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Clean,
    Found(String),
    TooLarge,
}

/// The bytes of one scan.
enum Sample {
    Bytes(Bytes),
    Spooled { reader: Reader, length: u64 },
}

/// Where the engine is, not yet proved to work.
#[derive(Debug)]
pub(crate) struct Scanner {
    protocol: Protocol,
    timeout: Duration,
}

#[derive(Debug, Clone)]
enum Protocol {
    ClamavRest(clamav_rest::Server),
    Clamd(clamd::Address),
}

/// An engine that was seen to find the EICAR test file.
#[derive(Debug)]
pub(crate) struct Engine {
    protocol: Proved,
    timeout: Duration,
    /// When the last self-test that it passed was begun.
    proved: Mutex<Instant>,
    /// What it says of itself.
    pub(crate) version: Version,
    /// It reports encrypted archives and exceeded limits instead of calling them clean.
    pub(crate) limits_reported: bool,
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
        Ok(Self { protocol, timeout: settings.timeout })
    }

    /// Proves that the engine finds the EICAR test file within `patience`, and learns what it says
    /// of itself and whether it reports its limits.
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
                    expect_found(&answer)?;
                    Proved::Clamd(address.clone())
                }
            };
            let mut engine = Engine {
                version: protocol.version().await,
                protocol,
                timeout: self.timeout,
                proved: Mutex::new(begun),
                limits_reported: false,
            };
            engine.limits_reported = engine.reports_limits().await?;
            Ok(engine)
        };
        tokio::time::timeout(patience.min(self.timeout), opened)
            .await
            .unwrap_or_else(|_| Err(fault("engine_timeout", "no answer to the self-test")))
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

impl Engine {
    /// The engine's name in reports.
    pub(crate) const fn name(&self) -> &'static str {
        match self.protocol {
            Proved::ClamavRest(..) => "clamav-rest",
            Proved::Clamd(_) => "clamd",
        }
    }

    /// The verdict on an object that may still be arriving: an engine gets its end when all of it is
    /// there.
    ///
    /// # Errors
    /// Everything that is not an explicit verdict, with
    /// [`engine_touched`](Failure::engine_touched) set once bytes were on their way.
    pub(crate) async fn scan(&self, object: &Spooled) -> Result<Verdict, Failure> {
        let scanned = async {
            let answer = self.scan_once_or_again(object).await?;
            if answer == Answer::Clean {
                self.proved_since(Instant::now()).await?;
            }
            Ok(answer)
        };
        // How long the store takes is not the engine's fault.
        let overdue = async {
            object.whole().await;
            tokio::time::sleep(self.timeout).await;
        };
        tokio::select! {
            answer = scanned => Ok(meaning(answer?)),
            () = overdue => {
                let detail = format!("no verdict within {} s", self.timeout.as_secs());
                Err(fault("engine_timeout", detail).engine_touched())
            }
        }
    }

    async fn scan_once_or_again(&self, object: &Spooled) -> Result<Answer, Failure> {
        // clamd listens to a slow stream for as long as it comes, but not to one that brings nothing;
        // what stands before clamav-rest may not.
        if matches!(self.protocol, Proved::ClamavRest(..)) || object.comes_at_once() {
            object.whole().await;
        }
        let answer = self.protocol.scan(sample(object)).await?;
        // clamav-rest says 413 too when its clamd is down or crashes. It is believed when the
        // engine works right before and right after it said so.
        if answer != Answer::TooLarge || matches!(self.protocol, Proved::Clamd(_)) {
            return Ok(answer);
        }
        self.eicar().await.map_err(Failure::engine_touched)?;
        let again = self.protocol.scan(sample(object)).await?;
        if again == Answer::TooLarge {
            self.eicar().await.map_err(Failure::engine_touched)?;
        }
        Ok(again)
    }

    /// The engine may have come back with another database since it was last seen to work, and one
    /// with an empty database calls everything clean. So a clean is believed only after a self-test
    /// that was begun when it had been said; one serves all scans that wait for it.
    async fn proved_since(&self, answered: Instant) -> Result<(), Failure> {
        let mut proved = self.proved.lock().await;
        if *proved < answered {
            let begun = Instant::now();
            self.eicar().await.map_err(Failure::engine_touched)?;
            *proved = begun;
        }
        Ok(())
    }

    async fn eicar(&self) -> Result<(), Failure> {
        expect_found(&self.protocol.scan(Sample::Bytes(canary::eicar())).await?)
    }

    /// Two files that a well-configured engine refuses to call clean.
    async fn reports_limits(&self) -> Result<bool, Failure> {
        for (sample, reason) in [
            (canary::encrypted_zip(), Reason::Encrypted),
            (canary::nested_zip(), Reason::LimitsExceeded),
        ] {
            let answer = self.protocol.scan(Sample::Bytes(sample)).await?;
            match meaning(answer) {
                Verdict::Unscannable { reason: found, .. } if found == reason => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}

fn sample(object: &Spooled) -> Sample {
    Sample::Spooled { reader: object.reader(), length: object.length() }
}

/// With `AlertExceedsMax` and `AlertEncrypted` clamd reports what it did not look into as if it had
/// found something. Nothing was found, so nothing may be deleted for it.
fn meaning(answer: Answer) -> Verdict {
    match answer {
        Answer::Clean => Verdict::Clean,
        Answer::TooLarge => Verdict::Unscannable { reason: Reason::TooLarge, heuristic: None },
        Answer::Found(name) if name.starts_with("Heuristics.Limits.Exceeded") => {
            Verdict::Unscannable { reason: Reason::LimitsExceeded, heuristic: Some(name) }
        }
        Answer::Found(name) if name.starts_with("Heuristics.Encrypted.") => {
            Verdict::Unscannable { reason: Reason::Encrypted, heuristic: Some(name) }
        }
        Answer::Found(signature) => Verdict::Infected { signature },
    }
}

fn expect_found(answer: &Answer) -> Result<(), Failure> {
    match answer {
        Answer::Found(_) => Ok(()),
        Answer::Clean => Err(fault(
            "engine_blind",
            "the engine calls the EICAR test file clean: its database is empty or not loaded",
        )),
        Answer::TooLarge => Err(fault("engine_blind", "the engine refuses the EICAR test file")),
    }
}

/// A fault of the engine.
fn fault(label: &'static str, detail: impl std::fmt::Display) -> Failure {
    Failure::suspect(Dependency::Engine, Stage::Scan, label, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_looked_into_is_unscannable_and_never_infected() {
        for (name, reason) in [
            ("Heuristics.Limits.Exceeded.MaxFileSize", Reason::LimitsExceeded),
            ("Heuristics.Limits.Exceeded.MaxRecursion", Reason::LimitsExceeded),
            ("Heuristics.Limits.Exceeded", Reason::LimitsExceeded),
            ("Heuristics.Encrypted.Zip", Reason::Encrypted),
            ("Heuristics.Encrypted.PDF", Reason::Encrypted),
        ] {
            let heuristic = Some(name.to_owned());
            let unscannable = Verdict::Unscannable { reason, heuristic };
            assert_eq!(meaning(Answer::Found(name.to_owned())), unscannable);
        }
        for name in ["Win.Test.EICAR_HDB-1", "Heuristics.Phishing.Email", "(null)"] {
            let infected = Verdict::Infected { signature: name.to_owned() };
            assert_eq!(meaning(Answer::Found(name.to_owned())), infected);
        }
    }
}
