//! Reads the settings group by group: which are required, their ranges, and how they combine.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::address::{broker_host, clamav_rest_url, clamd_address};
use super::duration::{UP_TO_HOURS, duration};
use super::reader::Reader;
use super::{
    AdminAddress, BrokerSettings, EngineAddress, ExchangeType, GIB, LogSettings, PolicySettings,
    PublishSettings, QueueType, ScannerSettings, Settings, StoreSettings,
};
use crate::retry::{Ladder, Tier};
use crate::tls::Trust;

impl Reader<'_> {
    pub(super) fn settings(&mut self) -> Option<Settings> {
        let store = self.store();
        let broker = self.broker();
        let scanner = self.scanner();
        let policy = self.policy();
        let rules = self.rules();
        let surge = self.surge();
        let publish = self.publish();
        let intake = self.intake();
        let canary = self.canary();
        let receipts = self.receipts();
        let signs = receipts.as_ref().is_some_and(|receipts| receipts.key.is_some());
        let sweeps = self.sweeps(signs && policy.as_ref().is_some_and(|policy| policy.tag_files));
        let sweep_concurrency = self.sweep_concurrency();
        let ladder = self.ladder();
        let trust = self.trust();
        let health_addr = self.health_addr();
        let status_addr = self.status_addr();
        let traces = self.traces();
        let shutdown_grace = self.number("SHUTDOWN_GRACE", 0, 3600);
        let log = self.log();
        Some(Settings {
            store: store?,
            broker: broker?,
            scanner: scanner?,
            policy: policy?,
            rules: rules?,
            surge: surge?,
            publish: publish?,
            intake: intake?,
            canary: canary?,
            receipts: receipts?,
            sweeps: sweeps?,
            sweep_concurrency: sweep_concurrency?,
            ladder: ladder?,
            trust: trust?,
            health_addr: health_addr?,
            status_addr: status_addr?,
            traces: traces?,
            shutdown_grace: Duration::from_secs(shutdown_grace?),
            log: log?,
        })
    }

    pub(super) fn health_addr(&mut self) -> Option<AdminAddress> {
        if self.optional("HEALTH_ADDR").is_none() {
            return Some(AdminAddress::Everywhere);
        }
        self.parse("HEALTH_ADDR", "an address and port, as in 0.0.0.0:8080 or [::]:8080", |text| {
            text.parse().ok().map(AdminAddress::At)
        })
    }

    /// `None` for a wrong one, `Some(None)` for none.
    #[expect(clippy::option_option, reason = "see above")]
    fn status_addr(&mut self) -> Option<Option<SocketAddr>> {
        self.parse("STATUS_ADDR", "an address and port, as in 127.0.0.1:8081, or empty", |text| {
            if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
        })
    }

    pub(super) fn store(&mut self) -> Option<StoreSettings> {
        let url = self.url("MINIO_SERVER_URL");
        let keys = match (
            self.secret("MINIO_ACCESS_KEY_ID", any),
            self.secret("MINIO_SECRET_ACCESS_KEY", any),
        ) {
            (Some(access), Some(secret)) => Some((access, secret)),
            (None, None) => None,
            (Some(_), None) => {
                self.problem("MINIO_SECRET_ACCESS_KEY", "is missing beside MINIO_ACCESS_KEY_ID");
                None
            }
            (None, Some(_)) => {
                self.problem("MINIO_ACCESS_KEY_ID", "is missing beside MINIO_SECRET_ACCESS_KEY");
                None
            }
        };
        let region = self.text("MINIO_REGION");
        let volume = self.number("VOLUME_SIZE", 1, 1024);
        let spool = match self.optional("SPOOL_SIZE") {
            Some(_) => self.number("SPOOL_SIZE", 1, 65_536),
            None => volume.map(|gib| gib * 2),
        };
        if let (Some(volume), Some(spool)) = (volume, spool)
            && spool < volume
        {
            self.problem("SPOOL_SIZE", "must be at least VOLUME_SIZE");
        }
        let temp_dir = PathBuf::from(self.optional("TMPDIR").unwrap_or("/tmp"));
        if !temp_dir.is_dir() {
            self.problem("TMPDIR", "must be an existing folder");
        }
        let url = url?;
        Some(StoreSettings {
            keys,
            region: region?,
            proxy_variable: self.proxy_variable(&url),
            url,
            max_object: volume? * GIB,
            spool: spool? * GIB,
            temp_dir,
        })
    }

    pub(super) fn broker(&mut self) -> Option<BrokerSettings> {
        let host =
            self.parse("RABBITMQ_ENDPOINT", "a host name or address, nothing else", broker_host);
        let tls = self.flag("RABBITMQ_TLS");
        let port = match self.optional("RABBITMQ_PORT") {
            Some(_) => self.port("RABBITMQ_PORT"),
            None => tls.map(|tls| if tls { 5671 } else { 5672 }),
        };
        let user = self.text("RABBITMQ_REGULAR_USER_NAME");
        let password = self.secret("RABBITMQ_REGULAR_USER_PASS", any);
        if password.is_none() {
            self.required("RABBITMQ_REGULAR_USER_PASS");
        }
        let vhost = self.text("RABBITMQ_VHOST");
        // AMQP names have at most 255 bytes; our longest suffix is `.reports.retry.` and a delay.
        let queue = self.short("RABBITMQ_QUEUE_NAME", 200);
        let routing_key = self.short("RABBITMQ_QUEUE_ROUTING_KEY", 255);
        let exchange = self.short("RABBITMQ_TOPIC", 255);
        let exchange_type =
            self.parse("RABBITMQ_TOPIC_TYPE", "topic, direct or fanout", |text| match text {
                "topic" => Some(ExchangeType::Topic),
                "direct" => Some(ExchangeType::Direct),
                "fanout" => Some(ExchangeType::Fanout),
                _ => None,
            });
        let queue_type =
            self.parse("RABBITMQ_QUEUE_TYPE", "quorum or classic", |text| match text {
                "quorum" => Some(QueueType::Quorum),
                "classic" => Some(QueueType::Classic),
                _ => None,
            });
        Some(BrokerSettings {
            host: host?,
            port: port?,
            tls: tls?,
            user: user?,
            password: password?,
            vhost: vhost?,
            queue: queue?,
            routing_key: routing_key?,
            exchange: exchange?,
            exchange_type: exchange_type?,
            queue_type: queue_type?,
        })
    }

    pub(super) fn scanner(&mut self) -> Option<ScannerSettings> {
        let direct = self.parse("SCANNER", "clamav-rest or clamd", |text| match text {
            "clamav-rest" => Some(false),
            "clamd" => Some(true),
            _ => None,
        });
        let port = match self.optional("CLAMD_PORT") {
            Some(_) => self.port("CLAMD_PORT"),
            None => direct.map(|direct| if direct { 3310 } else { 9443 }),
        };
        let engine = match (direct, port) {
            (Some(false), Some(port)) => self.parse(
                "CLAMD_ENDPOINT",
                "a host name, or an http or https URL without user, query or fragment",
                |text| clamav_rest_url(text, port).map(EngineAddress::ClamavRest),
            ),
            (Some(true), Some(port)) => self.parse(
                "CLAMD_ENDPOINT",
                "a host name, tcp://host, tcp://host:port or unix:///path",
                |text| clamd_address(text, port).map(EngineAddress::Clamd),
            ),
            _ => None,
        };
        let concurrency = self.number("SCAN_CONCURRENCY", 1, 256);
        // Fetch, scan and effects together must stay below RabbitMQ's consumer timeout, 30 minutes
        // by default.
        let timeout = self.number("SCAN_TIMEOUT", 1, 900);
        let strict_limits = self.flag("STRICT_LIMITS");
        let max_age = self.number("DATABASE_MAX_AGE", 0, 3650);
        Some(ScannerSettings {
            engine: engine?,
            concurrency: u16::try_from(concurrency?).ok()?,
            timeout: Duration::from_secs(timeout?),
            strict_limits: strict_limits?,
            database_max_age: max_age
                .filter(|days| *days > 0)
                .map(|days| Duration::from_secs(days * 24 * 3600)),
        })
    }

    pub(super) fn policy(&mut self) -> Option<PolicySettings> {
        let delete_file = self.flag("DELETE_FILE");
        let quarantine_bucket = self.quarantine_bucket();
        let tag_files = self.flag("TAG_FILES");
        let tag_key = self.parse(
            "TAG_KEY",
            "1 to 128 letters, digits, spaces or any of + - = . _ : / @",
            |text| {
                let allowed = |c: char| c.is_alphanumeric() || " +-=._:/@".contains(c);
                ((1..=128).contains(&text.chars().count()) && text.chars().all(allowed))
                    .then(|| text.to_owned())
            },
        );
        let report_clean = self.flag("REPORT_CLEAN");
        Some(PolicySettings {
            delete_file: delete_file?,
            quarantine_bucket: quarantine_bucket?,
            tag_files: tag_files?,
            tag_key: tag_key?,
            report_clean: report_clean?,
        })
    }

    /// The outer `None` is a problem; the inner one means that there is no webhook.
    #[expect(clippy::option_option, reason = "see above")]
    fn publish(&mut self) -> Option<Option<PublishSettings>> {
        let secret = self.secret("PUBLISH_SECRET", are_signing_secrets);
        if self.optional("PUBLISH_SECRET").is_some_and(|text| !are_signing_secrets(text)) {
            let expected = "must be base64 of at least 24 bytes, with or without whsec_ before it; \
                            several are separated by blanks";
            self.problem("PUBLISH_SECRET", expected);
        }
        let authorization = self.secret("PUBLISH_AUTHORIZATION", is_header);
        if self.optional("PUBLISH_AUTHORIZATION").is_some_and(|text| !is_header(text)) {
            self.problem("PUBLISH_AUTHORIZATION", "must be printable ASCII");
        }
        if self.optional("PUBLISH_URL").is_none() {
            return Some(None);
        }
        let url = self.url("PUBLISH_URL");
        Some(Some(PublishSettings { url: url?, secret, authorization }))
    }

    fn ladder(&mut self) -> Option<Ladder> {
        let tiers = self.parse(
            "RETRY_DELAYS",
            "1 to 8 delays of 1s to 24h in growing order, as in 10s,1m,10m",
            |text| {
                let tiers: Option<Vec<Tier>> = text.split(',').map(|t| tier(t.trim())).collect();
                tiers.filter(|tiers| {
                    tiers.len() <= 8 && tiers.windows(2).all(|pair| pair[0].delay < pair[1].delay)
                })
            },
        );
        let limit = self.number("RETRY_LIMIT", 0, 1000);
        Some(Ladder { tiers: tiers?, limit: u32::try_from(limit?).ok()? })
    }

    pub(super) fn trust(&mut self) -> Option<Trust> {
        let Some(path) = self.optional("TLS_CA_FILE") else { return Some(Trust::default()) };
        let pem = match std::fs::read(path) {
            Ok(pem) => pem,
            Err(error) => {
                self.problem("TLS_CA_FILE", &format!("names a file that cannot be read: {error}"));
                return None;
            }
        };
        let trust = Trust::from_pem(&pem);
        if trust.is_none() {
            self.problem("TLS_CA_FILE", "must hold PEM certificates, all of them readable");
        }
        trust
    }

    fn log(&mut self) -> Option<LogSettings> {
        let level =
            self.parse("LOG_LEVEL", "error, warn, info, debug or trace", |t| t.parse().ok());
        let json = self.parse("LOG_FORMAT", "text or json", |text| match text {
            "text" => Some(false),
            "json" => Some(true),
            _ => None,
        });
        let file = self.optional("LOG_FILE").map(PathBuf::from);
        Some(LogSettings { level: level?, json: json?, file })
    }

    /// The variable that most programs would take a proxy for `url` from.
    fn proxy_variable(&self, url: &Url) -> Option<&'static str> {
        let names: &[&str] = match url.scheme() {
            "https" => &["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
            _ => &["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
        };
        names.iter().copied().find(|name| self.env.get(*name).is_some_and(|text| !text.is_empty()))
    }
}

/// Accepts every text.
pub(super) fn any(_: &str) -> bool {
    true
}

/// Whether an HTTP header can carry the text.
fn is_header(text: &str) -> bool {
    reqwest::header::HeaderValue::from_str(text).is_ok()
}

/// One or more signing secrets, separated by blanks.
fn are_signing_secrets(text: &str) -> bool {
    let mut secrets = text.split_whitespace().peekable();
    secrets.peek().is_some() && secrets.all(is_signing_secret)
}

/// Standard Webhooks asks for 24 to 64 bytes; 24 bytes are 32 characters of base64.
fn is_signing_secret(text: &str) -> bool {
    let bare = text.strip_prefix("whsec_").unwrap_or(text);
    bare.len() >= 32 && standardwebhooks::Webhook::new(text).is_ok()
}

/// A delay of the retry ladder: a number and `s`, `m` or `h`, at most 24 hours.
pub(super) fn tier(text: &str) -> Option<Tier> {
    let delay = duration(text, UP_TO_HOURS)?;
    (delay <= Duration::from_hours(24)).then(|| Tier { name: text.to_owned(), delay })
}
