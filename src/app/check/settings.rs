//! What makes a store send its notifications to this deployment, as text to copy. Pure.
//!
//! One file for each family of stores. It prints no option that was not seen in the sources that
//! its first comment names; nothing there was tried unless the comment says so. Lines that begin
//! with `#` are for people, so that a whole text can be pasted.

mod ceph;
mod minio;
mod objectscale;
mod rustfs;
mod seaweedfs;
mod versitygw;

use std::fmt;
use std::net::SocketAddr;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use url::Url;

pub(super) use self::minio::amqp as minio_amqp;
use crate::config::BrokerSettings;
use crate::intake;

/// Stands for a token of `INTAKE_TOKEN`, which is never printed.
const TOKEN: &str = "INTAKE_TOKEN";
/// All uploads. An event of this family that brings no bytes is ignored by the daemon.
const CREATIONS: &str = "s3:ObjectCreated:*";
/// A removal can make an older version current, which is then scanned.
const REMOVALS: &str = "s3:ObjectRemoved:*";
/// Why removals are subscribed.
const WHY_REMOVALS: &str = "# Removals are needed in buckets with versions: one can uncover an older version, which is then scanned.";
/// For a store that is written in Go, whose HTTP and AMQP clients read this variable.
const SYSTEM_AUTHORITIES: &str = "# The certificate is checked by the system's authorities; name a private one in SSL_CERT_FILE.\n";

/// A store that sends notifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "lower")]
pub enum StoreKind {
    /// `MinIO`.
    #[value(help = "MinIO")]
    Minio,
    /// Silo, which continues `MinIO`.
    #[value(help = "Silo, which continues MinIO")]
    Silo,
    /// `RustFS`.
    #[value(help = "RustFS")]
    RustFs,
    /// Ceph RGW.
    #[value(help = "Ceph RGW")]
    Ceph,
    /// `VersityGW`.
    #[value(help = "VersityGW")]
    VersityGw,
    /// Dell `ObjectScale`.
    #[value(help = "Dell ObjectScale")]
    ObjectScale,
    /// `SeaweedFS`.
    #[value(help = "SeaweedFS")]
    SeaweedFs,
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Minio => "MinIO",
            Self::Silo => "Silo",
            Self::RustFs => "RustFS",
            Self::Ceph => "Ceph",
            Self::VersityGw => "VersityGW",
            Self::ObjectScale => "ObjectScale",
            Self::SeaweedFs => "SeaweedFS",
        })
    }
}

/// Where the daemon takes webhooks.
#[derive(Debug, Clone, Copy)]
pub(super) struct IntakeEndpoint {
    /// `INTAKE_ADDR`.
    pub(super) address: SocketAddr,
    /// Whether it has a certificate.
    pub(super) tls: bool,
}

/// What the settings of a store have to fit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deployment<'a> {
    /// The broker and the exchange that the store publishes to.
    pub(super) broker: &'a BrokerSettings,
    /// The store's S3 endpoint.
    pub(super) endpoint: &'a Url,
    /// The region that requests to it are signed for.
    pub(super) region: &'a str,
    /// `None` without `INTAKE_ADDR`.
    pub(super) intake: Option<IntakeEndpoint>,
    /// The buckets to subscribe. With none, a placeholder is printed.
    pub(super) buckets: &'a [String],
}

/// The settings of a store of this kind.
pub(super) fn text(kind: StoreKind, deployment: &Deployment<'_>) -> String {
    match kind {
        StoreKind::Minio | StoreKind::Silo => minio::text(kind, deployment),
        StoreKind::RustFs => rustfs::text(deployment),
        StoreKind::Ceph => ceph::text(deployment),
        StoreKind::VersityGw => versitygw::text(deployment),
        StoreKind::ObjectScale => objectscale::text(deployment),
        StoreKind::SeaweedFs => seaweedfs::text(deployment),
    }
}

impl Deployment<'_> {
    /// The names of the buckets, or `BUCKET`.
    fn buckets(&self) -> Vec<&str> {
        match self.buckets {
            [] => vec!["BUCKET"],
            buckets => buckets.iter().map(String::as_str).collect(),
        }
    }

    /// The text by `line` for each bucket.
    fn each_bucket(&self, line: impl Fn(&str) -> String) -> String {
        self.buckets().into_iter().map(line).collect()
    }

    /// Where a webhook goes. `login` is empty, or comes before the host.
    fn intake_url(&self, login: &str) -> String {
        let (scheme, authority) = match self.intake {
            None => ("https", "DAEMON:PORT".to_owned()),
            Some(IntakeEndpoint { address, tls }) => {
                let scheme = if tls { "https" } else { "http" };
                let authority = if address.ip().is_unspecified() {
                    format!("DAEMON:{}", address.port())
                } else {
                    address.to_string()
                };
                (scheme, authority)
            }
        };
        format!("{scheme}://{login}{authority}{}", intake::PATH)
    }

    /// The same for a store that cannot send a bearer token. It sends user and password of a URL by
    /// the scheme `Basic`.
    fn intake_url_with_login(&self) -> String {
        self.intake_url(&format!("avscan:{TOKEN}@"))
    }

    /// What the placeholders in a webhook's settings stand for.
    fn about_the_intake(&self) -> String {
        let token = format!("# {TOKEN} stands for a token of that setting of the daemon.\n");
        let known = self.intake.is_some_and(|intake| !intake.address.ip().is_unspecified());
        let host =
            if known { "" } else { "# DAEMON is a name by which the store reaches the daemon.\n" };
        format!("{host}{token}")
    }

    /// What a store's host has to be told, where the intake shows a certificate; else nothing.
    fn authority<'a>(&self, hint: &'a str) -> &'a str {
        if self.intake.is_some_and(|intake| intake.tls) { hint } else { "" }
    }

    /// What has to be set first, where a store speaks webhooks alone.
    fn intake_needed(&self, store: StoreKind) -> String {
        if self.intake.is_some() {
            return String::new();
        }
        format!(
            "# {store} speaks webhooks only, and the daemon takes none yet: set INTAKE_ADDR and INTAKE_TOKEN,\n\
             # and for https INTAKE_TLS_CERT_FILE and INTAKE_TLS_KEY_FILE. PORT is that of INTAKE_ADDR.\n"
        )
    }

    /// A command that subscribes a bucket. It replaces the bucket's other notifications.
    fn subscribe(&self, bucket: &str, configuration: &Value) -> String {
        format!(
            "aws s3api put-bucket-notification-configuration --endpoint-url {} --region {} \\\n    \
             --bucket {} --notification-configuration {}\n",
            quoted(self.endpoint.as_str().trim_end_matches('/')),
            quoted(self.region),
            quoted(bucket),
            in_quotes(&configuration.to_string()),
        )
    }
}

/// What [`Deployment::subscribe`] does beside its purpose.
const REPLACES: &str =
    "# This replaces other notifications of the bucket: add them to the JSON if there are any.";

/// The broker's URL with a placeholder for the login.
fn amqp_url(broker: &BrokerSettings) -> String {
    let scheme = if broker.tls { "amqps" } else { "amqp" };
    let port = broker.port;
    let host =
        if broker.host.contains(':') { format!("[{}]", broker.host) } else { broker.host.clone() };
    let vhost = match broker.vhost.as_str() {
        "/" => String::new(),
        other => format!("/{}", utf8_percent_encode(other, NON_ALPHANUMERIC)),
    };
    format!("{scheme}://USER:PASSWORD@{host}:{port}{vhost}")
}

/// A word of a shell command.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { in_quotes(text) }
}

fn in_quotes(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests;
