//! Gives texts their meaning: types, ranges, addresses.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::source::Texts;
use super::{
    AdminAddress, BrokerSettings, EngineAddress, ExchangeType, LogSettings, PolicySettings,
    Problem, Problems, PublishSettings, QueueType, ScannerSettings, Secret, Settings,
    StoreSettings,
};
use crate::retry::{Ladder, Tier};
use crate::tls::Trust;

const GIB: u64 = 1 << 30;

/// Reads typed values out of texts; a value that cannot be read is a problem and `None`, so that
/// every setting is looked at before the first problem ends the reading of its group.
pub(super) struct Reader<'a> {
    pub(super) texts: &'a Texts,
    pub(super) env: &'a HashMap<String, String>,
    pub(super) problems: Problems,
}

impl Reader<'_> {
    pub(super) fn settings(&mut self) -> Option<Settings> {
        let store = self.store();
        let broker = self.broker();
        let scanner = self.scanner();
        let policy = self.policy();
        let publish = self.publish();
        let ladder = self.ladder();
        let trust = self.trust();
        let health_addr = self.health_addr();
        let shutdown_grace = self.number("SHUTDOWN_GRACE", 0, 3600);
        let log = self.log();
        Some(Settings {
            store: store?,
            broker: broker?,
            scanner: scanner?,
            policy: policy?,
            publish: publish?,
            ladder: ladder?,
            trust: trust?,
            health_addr: health_addr?,
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

    fn store(&mut self) -> Option<StoreSettings> {
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

    fn broker(&mut self) -> Option<BrokerSettings> {
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
        // AMQP names end at 255 bytes, and the longest of ours adds `.reports.retry.` and a delay.
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

    fn scanner(&mut self) -> Option<ScannerSettings> {
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
                |text| clamd_address(text, port),
            ),
            _ => None,
        };
        let concurrency = self.number("SCAN_CONCURRENCY", 1, 256);
        // Fetch, scan and effects together must stay below the broker's consumer timeout, half
        // an hour unless an operator changed it.
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

    fn policy(&mut self) -> Option<PolicySettings> {
        let delete_file = self.flag("DELETE_FILE");
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
            tag_files: tag_files?,
            tag_key: tag_key?,
            report_clean: report_clean?,
        })
    }

    /// The outer `None` is a problem, the inner one is no webhook.
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

    fn trust(&mut self) -> Option<Trust> {
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

    fn problem(&mut self, name: &str, complaint: &str) {
        self.problems.push(Problem::new(name, complaint));
    }

    /// Complains that a setting is missing, unless it is there and was complained of already.
    fn required(&mut self, name: &str) {
        let told = |problem: &Problem| problem.subject.to_uppercase().starts_with(name);
        if !self.problems.0.iter().any(told) {
            self.problem(name, "is required");
        }
    }

    fn optional(&self, name: &str) -> Option<&str> {
        self.texts.values.get(name).map(String::as_str)
    }

    fn parse<T>(
        &mut self,
        name: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let Some(text) = self.texts.values.get(name) else {
            self.required(name);
            return None;
        };
        let value = parse(text.trim());
        if value.is_none() {
            self.problem(name, &format!("must be {expected}"));
        }
        value
    }

    fn text(&mut self, name: &str) -> Option<String> {
        self.parse(name, "some text", |text| (!text.is_empty()).then(|| text.to_owned()))
    }

    fn short(&mut self, name: &str, bytes: usize) -> Option<String> {
        self.parse(name, &format!("1 to {bytes} bytes of text"), |text| {
            (1..=bytes).contains(&text.len()).then(|| text.to_owned())
        })
    }

    /// Secrets are taken as they are: even their spaces may matter. Later ones from the same file
    /// have to be `usable`.
    fn secret(&self, name: &'static str, usable: fn(&str) -> bool) -> Option<Secret> {
        let text = self.optional(name)?;
        Some(match self.texts.files.get(name) {
            Some(path) => Secret::from_file(text, name, path.clone(), usable),
            None => Secret::from(text),
        })
    }

    /// The variable by which most programs would reach `url` through a proxy.
    fn proxy_variable(&self, url: &Url) -> Option<&'static str> {
        let names: &[&str] = match url.scheme() {
            "https" => &["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
            _ => &["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
        };
        names.iter().copied().find(|name| self.env.get(*name).is_some_and(|text| !text.is_empty()))
    }

    fn flag(&mut self, name: &str) -> Option<bool> {
        self.parse(name, "true or false", |text| match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => None,
        })
    }

    fn number(&mut self, name: &str, min: u64, max: u64) -> Option<u64> {
        self.parse(name, &format!("a whole number from {min} to {max}"), |text| {
            text.parse().ok().filter(|n| (min..=max).contains(n))
        })
    }

    fn port(&mut self, name: &str) -> Option<u16> {
        self.number(name, 1, 65_535).and_then(|n| u16::try_from(n).ok())
    }

    fn url(&mut self, name: &str) -> Option<Url> {
        self.parse(name, "an http or https URL without a user name or fragment", http_url)
    }
}

fn any(_: &str) -> bool {
    true
}

fn is_header(text: &str) -> bool {
    reqwest::header::HeaderValue::from_str(text).is_ok()
}

/// At least one, separated by blanks.
fn are_signing_secrets(text: &str) -> bool {
    let mut secrets = text.split_whitespace().peekable();
    secrets.peek().is_some() && secrets.all(is_signing_secret)
}

/// The specification asks for 24 to 64 bytes; 24 are 32 characters of base64.
fn is_signing_secret(text: &str) -> bool {
    let bare = text.strip_prefix("whsec_").unwrap_or(text);
    bare.len() >= 32 && standardwebhooks::Webhook::new(text).is_ok()
}

/// A name, an IPv4 address, or an IPv6 address with brackets or without; never with a port.
fn broker_host(text: &str) -> Option<String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    if bare.is_some() || text.contains(':') {
        let address: std::net::Ipv6Addr = bare.unwrap_or(text).parse().ok()?;
        return Some(address.to_string());
    }
    let plain = !text.is_empty() && !text.contains(['/', '@', '?', ' ', '[', ']']);
    plain.then(|| text.to_owned())
}

fn http_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    (matches!(url.scheme(), "http" | "https") && url.has_host() && plain).then_some(url)
}

/// A bare host is https; a URL's own port wins over `port`.
fn clamav_rest_url(text: &str, port: u16) -> Option<Url> {
    let text = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let mut url = http_url(&text).filter(|url| url.query().is_none())?;
    // The parser drops a port that is the scheme's default, so the text has to be asked.
    let authority = text.split("://").nth(1)?.split('/').next()?;
    let has_port = authority
        .rsplit_once(':')
        .is_some_and(|(_, p)| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    if !has_port {
        url.set_port(Some(port)).ok()?;
    }
    Some(url)
}

fn clamd_address(text: &str, port: u16) -> Option<EngineAddress> {
    if let Some(path) = text.strip_prefix("unix://") {
        return path.starts_with('/').then(|| EngineAddress::ClamdUnix(PathBuf::from(path)));
    }
    let host = text.strip_prefix("tcp://").unwrap_or(text);
    if host.is_empty() || host.contains('/') {
        return None;
    }
    // Borrow the URL parser for hosts, IPv6 in brackets and ports.
    let url = Url::parse(&format!("tcp://{host}")).ok()?;
    let name = url.host_str()?.trim_start_matches('[').trim_end_matches(']');
    (url.username().is_empty() && url.path().is_empty())
        .then(|| EngineAddress::ClamdTcp(name.to_owned(), url.port().unwrap_or(port)))
}

fn tier(text: &str) -> Option<Tier> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.starts_with(['0', '+']) {
        return None;
    }
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    let delay = Duration::from_secs(digits.parse::<u64>().ok()?.checked_mul(seconds)?);
    (delay <= Duration::from_hours(24)).then(|| Tier { name: text.to_owned(), delay })
}
