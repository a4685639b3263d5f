//! The settings and how they are read. All problems are reported at once, by name and expectation,
//! never with the value.

mod address;
mod canary;
mod duration;
mod idle;
mod inspection;
mod intake;
mod quarantine;
mod reader;
mod receipts;
mod rules;
mod secret;
mod settings;
mod source;
mod surge;
mod sweeps;
mod traces;
mod variables;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

pub(crate) use self::canary::CanarySettings;
pub(crate) use self::inspection::Extra;
pub use self::inspection::{Inspection, inspection};
pub(crate) use self::intake::IntakeSettings;
pub(crate) use self::receipts::ReceiptSettings;
pub(crate) use self::rules::RulesText;
pub use self::rules::{Ruling, ruling};
pub(crate) use self::secret::Secret;
pub(crate) use self::surge::{SurgeSettings, WithoutQuarantine};
pub(crate) use self::sweeps::{SweepSelect, SweepSettings};
pub use self::sweeps::{age, day};
pub(crate) use self::traces::{TraceSampler, TraceSettings, header_list};
pub use self::variables::{VARIABLES, Variable};
use crate::retry::Ladder;
use crate::tls::Trust;

const GIB: u64 = 1 << 30;
/// The admin server's default port.
pub(crate) const ADMIN_PORT: u16 = 8080;

/// All settings, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The object store.
    pub(crate) store: StoreSettings,
    /// The broker.
    pub(crate) broker: BrokerSettings,
    /// The antivirus engine.
    pub(crate) scanner: ScannerSettings,
    /// What follows from a verdict.
    pub(crate) policy: PolicySettings,
    /// The rules before these settings, if there are any.
    pub(crate) rules: Option<RulesText>,
    /// When deletions by one signature are too many; `None` never.
    pub(crate) surge: Option<SurgeSettings>,
    /// The webhook. Without one, reports of deletions are kept in a queue, and the others go to the
    /// results exchange alone.
    pub(crate) publish: Option<PublishSettings>,
    /// The intake of webhooks, if there is one.
    pub(crate) intake: Option<IntakeSettings>,
    /// The source canary, if it is on.
    pub(crate) canary: Option<CanarySettings>,
    /// Receipts.
    pub(crate) receipts: ReceiptSettings,
    /// Sweeps that begin by themselves, if any do.
    pub(crate) sweeps: Option<SweepSettings>,
    /// Objects that a sweep looks at at once.
    pub(crate) sweep_concurrency: u16,
    /// The retry ladder.
    pub(crate) ladder: Ladder,
    /// The certificate authorities of `TLS_CA_FILE`.
    pub(crate) trust: Trust,
    /// The address of the admin server.
    pub(crate) health_addr: AdminAddress,
    /// The address of the status page, if it is served.
    pub(crate) status_addr: Option<SocketAddr>,
    /// Where spans go, if traces are on.
    pub(crate) traces: Option<TraceSettings>,
    /// Time to finish running objects after SIGTERM.
    pub(crate) shutdown_grace: Duration,
    /// How to log.
    pub log: LogSettings,
}

/// Where the admin server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminAddress {
    /// At port 8080 of every address of the host, IPv6 and IPv4.
    Everywhere,
    /// At this address and port.
    At(SocketAddr),
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everywhere => write!(f, "[::]:{ADMIN_PORT}"),
            Self::At(address) => address.fmt(f),
        }
    }
}

/// The object store.
#[derive(Debug, Clone)]
pub(crate) struct StoreSettings {
    /// The endpoint.
    pub(crate) url: Url,
    /// Access key and secret key; `None` means the AWS credential chain.
    pub(crate) keys: Option<(Secret, Secret)>,
    /// The region that requests are signed for.
    pub(crate) region: String,
    /// A proxy variable that is set; the store is reached without it.
    pub(crate) proxy_variable: Option<&'static str>,
    /// Size limit of a download, bytes.
    pub(crate) max_object: u64,
    /// Temp disk for all objects in flight, bytes.
    pub(crate) spool: u64,
    /// Folder for temp files.
    pub(crate) temp_dir: PathBuf,
}

/// The broker and the names in it.
#[derive(Debug, Clone)]
pub(crate) struct BrokerSettings {
    /// Host name or address.
    pub(crate) host: String,
    /// TCP port.
    pub(crate) port: u16,
    /// Whether to connect by amqps.
    pub(crate) tls: bool,
    /// User name.
    pub(crate) user: String,
    /// Password.
    pub(crate) password: Secret,
    /// Virtual host.
    pub(crate) vhost: String,
    /// The queue of notifications; every other name is derived from it.
    pub(crate) queue: String,
    /// The routing key that the store publishes with.
    pub(crate) routing_key: String,
    /// The exchange that the store publishes to.
    pub(crate) exchange: String,
    /// The type of that exchange where the daemon declares it.
    pub(crate) exchange_type: ExchangeType,
    /// The type of the queues that the daemon declares.
    pub(crate) queue_type: QueueType,
}

/// The type of the store's exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExchangeType {
    Topic,
    Direct,
    Fanout,
}

/// The type of the queues that the daemon declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueType {
    Quorum,
    Classic,
}

/// The antivirus engine.
#[derive(Debug, Clone)]
pub(crate) struct ScannerSettings {
    /// Its address and protocol.
    pub(crate) engine: EngineAddress,
    /// Number of objects scanned at once.
    pub(crate) concurrency: u16,
    /// Time limit for one scan.
    pub(crate) timeout: Duration,
    /// Refuse an engine that does not report encrypted archives and exceeded limits.
    pub(crate) strict_limits: bool,
    /// Age beyond which the virus database is warned about; `None` never.
    pub(crate) database_max_age: Option<Duration>,
}

/// The engine's address and protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EngineAddress {
    /// clamav-rest, at this base URL.
    ClamavRest(Url),
    /// clamd itself.
    Clamd(ClamdAddress),
}

/// Where clamd listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ClamdAddress {
    /// Host and port.
    Tcp(String, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for ClamdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// What follows from a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PolicySettings {
    /// Delete infected objects.
    pub(crate) delete_file: bool,
    /// Where infected objects are moved to instead.
    pub(crate) quarantine_bucket: Option<String>,
    /// Tag objects with their status.
    pub(crate) tag_files: bool,
    /// The key of that tag.
    pub(crate) tag_key: String,
    /// Report clean objects too.
    pub(crate) report_clean: bool,
}

/// The webhook.
#[derive(Debug, Clone)]
pub(crate) struct PublishSettings {
    /// Where reports are POSTed.
    pub(crate) url: Url,
    /// The signing secret.
    pub(crate) secret: Option<Secret>,
    /// The `Authorization` header.
    pub(crate) authorization: Option<Secret>,
}

/// How to log.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// The most verbose level written.
    pub(crate) level: tracing::Level,
    /// JSON lines instead of text.
    pub(crate) json: bool,
    /// A file that gets the lines as well.
    pub(crate) file: Option<PathBuf>,
}

/// One problem of the configuration: the setting, and what is expected of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Problem {
    subject: String,
    complaint: String,
}

impl Problem {
    fn new(subject: impl Into<String>, complaint: impl Into<String>) -> Self {
        Self { subject: subject.into(), complaint: complaint.into() }
    }
}

/// All problems of the configuration, one line each. Never contains a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    pub(crate) fn one_line(&self) -> String {
        self.to_string().replace('\n', "; ")
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Problem { subject, complaint }) in self.0.iter().enumerate() {
            let end = if i + 1 < self.0.len() { "\n" } else { "" };
            write!(f, "{subject} {complaint}{end}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The settings, and what an operator should know about them.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Warnings to log.
    pub(crate) warnings: Vec<String>,
    /// The effective settings by name, secrets masked.
    pub(crate) effective: BTreeMap<&'static str, String>,
}

/// Reads and checks the configuration from `env` and the files that it names.
///
/// # Errors
/// Every problem, not just the first.
#[expect(clippy::implicit_hasher, reason = "the environment is collected once, in main")]
pub fn load(env: &HashMap<String, String>) -> Result<Loaded, Problems> {
    let mut problems = Problems::default();
    let texts = source::read(env, &mut problems);
    let effective = VARIABLES
        .iter()
        .filter_map(|v| texts.values.get(v.name).map(|text| (v, text)))
        .map(|(v, text)| (v.name, if v.secret { "***".to_owned() } else { masked_url(text) }))
        .collect();
    let mut warnings = texts.warnings.clone();
    let mut reader = reader::Reader { texts: &texts, env, problems };
    let settings = reader.settings();
    match settings {
        Some(settings) if reader.problems.0.is_empty() => {
            settings.warn(&texts, &mut warnings);
            Ok(Loaded { settings, warnings, effective })
        }
        _ => Err(reader.problems),
    }
}

/// Reads the admin server's address alone: a health check must not fail for a setting that only the
/// daemon needs.
///
/// # Errors
/// When the address is not valid.
#[expect(clippy::implicit_hasher, reason = "the environment is collected once, in main")]
pub fn health_addr(env: &HashMap<String, String>) -> Result<AdminAddress, Problems> {
    let texts = source::read(env, &mut Problems::default());
    let mut reader = reader::Reader { texts: &texts, env, problems: Problems::default() };
    reader.health_addr().ok_or(reader.problems)
}

/// Masks what follows the host of a URL: a webhook's path or query often carries a token.
fn masked_url(text: &str) -> String {
    match Url::parse(text) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            format!("{}://***", url.scheme())
        }
        Ok(url) if url.has_host() && (url.path().len() > 1 || url.query().is_some()) => {
            let port = url.port().map(|p| format!(":{p}")).unwrap_or_default();
            format!("{}://{}{port}/***", url.scheme(), url.host_str().unwrap_or_default())
        }
        _ => text.to_owned(),
    }
}

impl Settings {
    /// A warning about deletions, which `cause` allows, where nobody is told of them.
    pub(crate) fn unreported_deletions(&self, cause: &str) -> Option<String> {
        self.publish.is_none().then(|| {
            format!(
                "{cause} without PUBLISH_URL: deletions are recorded in the log and in the queue \
                 {}.reports.log alone, which keeps the newest 10,000 reports",
                self.broker.queue
            )
        })
    }

    fn warn(&self, texts: &source::Texts, warnings: &mut Vec<String>) {
        if self.store.keys.is_none() {
            warnings.push(format!(
                "no MINIO_ACCESS_KEY_ID: using the AWS credential chain against {}",
                self.store.url
            ));
        }
        if self.policy.delete_file {
            warnings.extend(self.unreported_deletions("DELETE_FILE=true"));
        }
        warnings.extend(self.idle_quarantine());
        self.warn_of_intake(warnings);
        let open = self.status_addr.filter(|address| !address.ip().to_canonical().is_loopback());
        if let Some(address) = open {
            warnings.push(format!(
                "STATUS_ADDR {address} can be reached from other hosts: the status page names objects \
                 and has no login"
            ));
        }
        self.warn_of_idle(texts, warnings);
        let free = rustix::fs::statvfs(&self.store.temp_dir)
            .map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        if free < self.store.spool {
            warnings.push(format!(
                "SPOOL_SIZE is {} MiB, but TMPDIR has only {} MiB free: downloads may fail and be \
                 retried later",
                self.store.spool >> 20,
                free >> 20
            ));
        }
        // Each object in work has connections and a temp file; a sweep may double their number.
        let wanted = 60 + 2 * 6 * u64::from(self.scanner.concurrency);
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        if files.is_some_and(|files| files < wanted) {
            warnings.push(format!(
                "the limit of open files (ulimit -n) should be at least {wanted} for SCAN_CONCURRENCY"
            ));
        }
        // clamd reads at most 2 GiB less 3 bytes of a stream, whatever StreamMaxLength says.
        if self.store.max_object > 2 * GIB {
            warnings.push(
                "VOLUME_SIZE is above 2: clamd scans at most 2 GiB, so larger objects are \
                 downloaded and then reported as unscannable"
                    .to_owned(),
            );
        }
    }
}

#[cfg(test)]
mod tests;
