//! The record of one stack, and its file `state.json`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use peers::error::{Context, Error, Result};
use serde::{Deserialize, Serialize};

use crate::place;
use crate::process::{Identity, Spec};

/// Everything a client needs to use the stack.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// The store, `http://127.0.0.1:PORT`.
    pub s3_url: String,
    /// Access key of the store's only account.
    pub s3_access_key: String,
    /// Its secret.
    pub s3_secret_key: String,
    /// Any region, but the same for client and store.
    pub s3_region: String,
    /// The bucket whose events reach the daemon.
    pub bucket: String,
    /// The broker's address.
    pub amqp_host: String,
    /// The broker's port.
    pub amqp_port: u16,
    /// The account that daemons and tests share.
    pub amqp_user: String,
    /// Its password, new with every stack.
    pub amqp_password: String,
    /// The virtual host.
    pub amqp_vhost: String,
    /// The exchange of notifications.
    pub exchange: String,
    /// The routing key that they have.
    pub routing_key: String,
    /// The queue that the stack's daemon reads.
    pub queue: String,
    /// clamd's Unix socket.
    pub clamd_socket: PathBuf,
    /// clamd's TCP socket, `127.0.0.1:PORT`.
    pub clamd_tcp: String,
    /// The clamav-rest double, `http://127.0.0.1:PORT`, when there is one.
    pub clamav_rest_url: Option<String>,
    /// Where the store posts its events, `http://127.0.0.1:PORT`.
    pub webhooks_url: String,
    /// The intake of the stack's daemon, `127.0.0.1:PORT`.
    pub intake_address: String,
    /// The status page of the stack's daemon, `127.0.0.1:PORT`.
    pub status_address: String,
    /// The token that the store presents, and every daemon asks for.
    pub intake_token: String,
    /// The webhook sink.
    pub sink_url: String,
    /// The file the sink writes to.
    pub reports: PathBuf,
    /// The secret that reports are signed with.
    pub publish_secret: String,
    /// The private key that receipts are signed with.
    pub receipt_key: PathBuf,
    /// Health and metrics of the stack's daemon, when there is one.
    pub daemon_url: Option<String>,
    /// Whether the EICAR test signature is the only one that the engine has.
    pub test_signatures_only: bool,
}

/// How to find out whether a service is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ready {
    /// It accepts connections here.
    Tcp(String),
    /// It answers an AMQP greeting here.
    Amqp(String),
    /// It answers clamd's PING here.
    Clamd(String),
    /// A GET of this URL answers 200.
    Http(String),
}

/// One process of the stack.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Its name: `rabbitmq`, `clamd`, ….
    pub name: String,
    /// The process.
    #[serde(flatten)]
    pub process: Identity,
    /// Where it listens.
    pub address: String,
    /// Where its output goes.
    pub log: PathBuf,
    /// How it was started.
    pub spec: Spec,
    /// How to find out whether it is ready.
    pub ready: Ready,
    /// How long it may take to become ready, in seconds.
    pub patience: u64,
}

impl Record {
    /// Starts the process again with the same settings.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn respawn(&mut self) -> Result<()> {
        self.process = self.spec.spawn_detached(&self.log)?;
        Ok(())
    }

    /// How long it may take to become ready.
    #[must_use]
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }
}

/// The stack as written to `state.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// The folder with everything of this stack.
    pub dir: PathBuf,
    /// The `stack` program, of which some services are subcommands.
    pub program: PathBuf,
    /// What a client needs.
    pub settings: Settings,
    /// The processes, in the order they were started.
    pub services: Vec<Record>,
}

impl State {
    /// The state file of the stack in `dir`.
    #[must_use]
    pub fn file(dir: &Path) -> PathBuf {
        dir.join("state.json")
    }

    /// Reads a state file; `None` when there is none.
    ///
    /// # Errors
    /// When the file is there but cannot be read.
    pub fn load(file: &Path) -> Result<Option<Self>> {
        let text = match fs::read(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::new(format!("{}: {error}", file.display()))),
        };
        serde_json::from_slice(&text).map(Some).context(file.display())
    }

    /// Writes the state file and `env.sh`, each in one step.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save(&self) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).context("state.json")?;
        write_private(&Self::file(&self.dir), &text)?;
        let exports: String = self
            .exports()
            .iter()
            .map(|(name, value)| format!("export {name}='{}'\n", value.replace('\'', r"'\''")))
            .collect();
        write_private(&self.dir.join("env.sh"), exports.as_bytes())
    }

    /// Writes a new key that receipts are signed with, if there is none.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn keep_receipt_key(&self) -> Result<()> {
        let file = &self.settings.receipt_key;
        if file.exists() {
            return Ok(());
        }
        fs::create_dir_all(&self.dir).context(self.dir.display())?;
        write_private(file, place::random_receipt_key().as_bytes())
    }

    /// The record of one service.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Record> {
        self.services.iter().find(|record| record.name == name)
    }

    /// The record of one service, to be changed.
    #[must_use]
    pub fn service_mut(&mut self, name: &str) -> Option<&mut Record> {
        self.services.iter_mut().find(|record| record.name == name)
    }

    /// The stack as environment variables, under the daemon's own names where the daemon has one.
    #[must_use]
    pub fn exports(&self) -> BTreeMap<String, String> {
        let s = &self.settings;
        let mut all = self.daemon_variables();
        let mut put = |name: &str, value: &str| all.insert(name.into(), value.into());
        put("AVSCAN_STACK", &Self::file(&self.dir).to_string_lossy());
        put("STACK_DIR", &self.dir.to_string_lossy());
        put("STACK_BIN", &self.program.to_string_lossy());
        put("AWS_ACCESS_KEY_ID", &s.s3_access_key);
        put("AWS_SECRET_ACCESS_KEY", &s.s3_secret_key);
        put("AWS_REGION", &s.s3_region);
        put("AWS_ENDPOINT_URL", &s.s3_url);
        put("BUCKET", &s.bucket);
        put("AMQP_URL", &s.amqp_url());
        put("CLAMD_SOCKET", &s.clamd_socket.to_string_lossy());
        put("CLAMD_TCP", &s.clamd_tcp);
        put("WEBHOOKS_URL", &s.webhooks_url);
        put("SINK_URL", &s.sink_url);
        put("REPORTS_FILE", &s.reports.to_string_lossy());
        if let Some(url) = &s.clamav_rest_url {
            put("CLAMAV_REST_URL", url);
        }
        if let Some(url) = &s.daemon_url {
            put("DAEMON_URL", url);
        }
        all
    }

    /// The variables that configure the daemon for this stack's store, broker, engine and sink. Each
    /// daemon has its own `INTAKE_ADDR`.
    #[must_use]
    pub fn daemon_variables(&self) -> BTreeMap<String, String> {
        let s = &self.settings;
        let (scanner, engine) = match &s.clamav_rest_url {
            Some(url) => ("clamav-rest", url.clone()),
            None => ("clamd", format!("unix://{}", s.clamd_socket.display())),
        };
        [
            ("MINIO_SERVER_URL", s.s3_url.clone()),
            ("MINIO_ACCESS_KEY_ID", s.s3_access_key.clone()),
            ("MINIO_SECRET_ACCESS_KEY", s.s3_secret_key.clone()),
            ("MINIO_REGION", s.s3_region.clone()),
            ("RABBITMQ_ENDPOINT", s.amqp_host.clone()),
            ("RABBITMQ_PORT", s.amqp_port.to_string()),
            ("RABBITMQ_REGULAR_USER_NAME", s.amqp_user.clone()),
            ("RABBITMQ_REGULAR_USER_PASS", s.amqp_password.clone()),
            ("RABBITMQ_QUEUE_NAME", s.queue.clone()),
            ("RABBITMQ_QUEUE_ROUTING_KEY", s.routing_key.clone()),
            ("RABBITMQ_TOPIC", s.exchange.clone()),
            ("INTAKE_TOKEN", s.intake_token.clone()),
            ("SCANNER", scanner.into()),
            ("CLAMD_ENDPOINT", engine),
            ("PUBLISH_URL", format!("{}/report", s.sink_url)),
            ("PUBLISH_SECRET", s.publish_secret.clone()),
            ("RECEIPT_KEY_FILE", s.receipt_key.display().to_string()),
            ("REPORT_CLEAN", "true".into()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }
}

impl Settings {
    /// The broker as a URL.
    #[must_use]
    pub fn amqp_url(&self) -> String {
        self.amqp_url_at(self.amqp_port)
    }

    /// The same through a proxy at another port.
    #[must_use]
    pub fn amqp_url_at(&self, port: u16) -> String {
        let vhost = self.amqp_vhost.replace('/', "%2f");
        let Self { amqp_user, amqp_password, amqp_host, .. } = self;
        format!("amqp://{amqp_user}:{amqp_password}@{amqp_host}:{port}/{vhost}")
    }
}

/// Writes a file that holds secrets, in one step: a reader never sees a part of it.
fn write_private(file: &Path, content: &[u8]) -> Result<()> {
    let draft = file.with_extension("new");
    fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut open| open.write_all(content))
        .and_then(|()| fs::rename(&draft, file))
        .context(file.display())
}
