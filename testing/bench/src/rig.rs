//! One daemon, the stack's services, and the tap between daemon and broker.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};
use peers::error::{Context, Result};
use peers::notification;
use serde::Serialize;
use stack::{Amqp, Daemon, S3, Seaweed, Stack, say};

use crate::sets::{Object, Pool, Set};
use crate::tap::Tap;
use crate::usage::Parts;

/// The bucket of the objects. The store does not announce them: the bench publishes its own
/// notifications.
const BUCKET: &str = "bench";
/// Most publishes that wait for a confirm at the same time.
const UNCONFIRMED: usize = 500;
const PATIENCE: Duration = Duration::from_mins(1);

/// How the daemon speaks to clamd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Engine {
    /// Over clamd's own socket.
    Clamd,
    /// Through the clamav-rest double.
    ClamavRest,
}

impl Engine {
    pub(super) const ALL: [Self; 2] = [Self::Clamd, Self::ClamavRest];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Clamd => "clamd",
            Self::ClamavRest => "clamav-rest",
        }
    }
}

/// Settings of a daemon, besides those that are always the same.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) engine: Engine,
    pub(super) slots: usize,
    /// GiB of temp disk, enough that no slot waits for it.
    pub(super) spool: u64,
    /// Whether to report every object to the webhook sink.
    pub(super) reports: bool,
}

impl Settings {
    /// For objects of at most `longest` bytes.
    pub(super) fn new(engine: Engine, slots: usize, longest: u64) -> Self {
        let spool = (longest * slots as u64).div_ceil(crate::sets::GIB) + 2;
        Self { engine, slots, spool, reports: false }
    }
}

/// A clamd of a measurement of its own.
#[derive(Debug, Clone)]
pub(super) struct OwnEngine {
    pub(super) socket: PathBuf,
    pub(super) pid: u32,
}

/// Everything that exists for the whole measurement.
pub(super) struct Rig {
    pub(super) stack: Stack,
    pub(super) daemon: Daemon,
    pub(super) tap: Tap,
    pub(super) s3: S3,
    pub(super) pool: Pool,
    pub(super) amqp: Amqp,
    /// Other addresses of store and clamd for the next daemon: those of counting proxies.
    pub(super) detour: Option<(String, String)>,
    /// The engine of the next daemon, instead of the stack's.
    pub(super) engine: Option<OwnEngine>,
    /// `http://127.0.0.1:PORT`
    pub(super) store_url: String,
    store_pid: u32,
    versioned: bool,
    channel: Channel,
}

impl Rig {
    /// Prepares everything for objects of at most `longest` bytes. The daemon does not run yet.
    pub(super) async fn start(stack: &Stack, binary: &Path, longest: u64) -> Result<Self> {
        let none = [("PUBLISH_URL", ""), ("INTAKE_ADDR", "")];
        let daemon = Daemon::prepare(stack, binary, &none).await?;
        let settings = stack.settings();
        let broker = format!("{}:{}", settings.amqp_host, settings.amqp_port);
        let tap = Tap::start(&broker, &daemon.names.exchange).await?;
        let s3 = stack.s3().with_bucket(BUCKET);
        s3.create_bucket().await?;
        let folder = stack.dir().join("bench");
        std::fs::create_dir_all(&folder).context(folder.display())?;
        let pool = Pool::make(&folder, longest)?;
        let amqp = stack.amqp().await?;
        let names = &daemon.names;
        amqp.declare(&names.exchange, &names.queue, &names.routing_key).await?;
        let channel = amqp.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.context("confirms")?;
        let stack = stack.clone();
        let store_url = settings.s3_url.clone();
        let store_pid = stack.service("gateway").pid()?;
        Ok(Self {
            stack,
            daemon,
            tap,
            s3,
            pool,
            amqp,
            detour: None,
            engine: None,
            store_url,
            store_pid,
            versioned: false,
            channel,
        })
    }

    /// Goes on with a bucket with versions, in another store.
    ///
    /// # Errors
    /// When the store refuses.
    pub(super) async fn move_to(&mut self, store: &Seaweed) -> Result<()> {
        let (access_key, secret_key) = store.keys();
        self.s3 = store.s3(BUCKET);
        store.url().clone_into(&mut self.store_url);
        self.s3.create_bucket().await?;
        self.s3.set_versioning(true).await?;
        self.versioned = true;
        self.store_pid = store.pid();
        self.daemon.set_env("MINIO_ACCESS_KEY_ID", access_key);
        self.daemon.set_env("MINIO_SECRET_ACCESS_KEY", secret_key);
        self.daemon.set_env("MINIO_REGION", "us-east-1");
        Ok(())
    }

    /// Stores the objects of a set.
    pub(super) async fn store(&self, set: &Set) -> Result<Vec<Object>> {
        let start = Instant::now();
        let objects = set.store(&self.pool, &self.s3, self.versioned).await?;
        let bytes: u64 = objects.iter().map(|object| object.size).sum();
        say!(
            "[bench] {}: {} objects, {} MiB, stored in {:.0} s",
            set.name,
            objects.len(),
            bytes >> 20,
            start.elapsed().as_secs_f64()
        );
        Ok(objects)
    }

    /// Starts the daemon with these settings, behind the tap.
    pub(super) fn spawn(&mut self, settings: &Settings) -> Result<()> {
        let stack = self.stack.settings();
        let rest = || stack.clamav_rest_url.clone().context("the stack has no clamav-rest");
        let socket = self.engine.as_ref().map_or(&stack.clamd_socket, |engine| &engine.socket);
        let mut endpoint = match settings.engine {
            Engine::Clamd => format!("unix://{}", socket.display()),
            Engine::ClamavRest => rest()?,
        };
        let mut store = self.store_url.clone();
        if let Some(detour) = self.detour.clone() {
            (store, endpoint) = detour;
        }
        let sink = format!("{}{}", stack.sink_url, self.daemon.names.sink_path);
        let publish = if settings.reports { sink } else { String::new() };
        let variables = [
            ("RABBITMQ_PORT", self.tap.port().to_string()),
            ("MINIO_SERVER_URL", store),
            ("SCANNER", settings.engine.name().to_owned()),
            ("CLAMD_ENDPOINT", endpoint),
            ("SCAN_CONCURRENCY", settings.slots.to_string()),
            ("SCAN_TIMEOUT", "900".to_owned()),
            ("SPOOL_SIZE", settings.spool.to_string()),
            ("DELETE_FILE", "false".to_owned()),
            ("TAG_FILES", "true".to_owned()),
            ("PUBLISH_URL", publish),
            ("REPORT_CLEAN", settings.reports.to_string()),
        ];
        for (name, value) in variables {
            self.daemon.set_env(name, &value);
        }
        self.daemon.spawn()
    }

    /// Stops the daemon with SIGTERM, as a deployment does.
    pub(super) async fn stop(&mut self) -> Result<()> {
        let code = self.daemon.terminate(PATIENCE).await?;
        (code == 0).then_some(()).context(format!("the daemon ended with {code}"))?;
        self.daemon.kill();
        Ok(())
    }

    /// The processes that work for an object with these settings. `harness` is this program, mostly
    /// the tap.
    pub(super) fn parts(&self, settings: &Settings) -> Result<Parts> {
        let of = |name: &str| self.stack.service(name).pid();
        let mut parts = vec![
            ("daemon", self.daemon.pid().context("the daemon does not run")?),
            ("clamd", self.engine.as_ref().map_or_else(|| of("clamd"), |engine| Ok(engine.pid))?),
            ("store", self.store_pid),
            ("broker", of("rabbitmq")?),
            ("harness", std::process::id()),
        ];
        if settings.engine == Engine::ClamavRest {
            parts.push(("clamav-rest", of("clamav-rest")?));
        }
        if settings.reports {
            parts.push(("sink", of("sink")?));
        }
        Ok(parts)
    }

    /// Publishes notifications about objects as fast as the broker accepts them, and waits until
    /// all are queued.
    pub(super) async fn announce(&self, objects: &[&Object]) -> Result<()> {
        for part in objects.chunks(UNCONFIRMED) {
            let mut confirms = Vec::with_capacity(part.len());
            for object in part {
                confirms.push(self.publish(object).await?);
            }
            for confirmation in try_join_all(confirms).await.context("publish")? {
                queued(&confirmation)?;
            }
        }
        Ok(())
    }

    /// Publishes them at a steady rate, without waiting for the daemon; returns when each was sent.
    pub(super) async fn announce_at(
        &self,
        objects: &[&Object],
        per_second: f64,
    ) -> Result<Vec<Instant>> {
        let mut sent = Vec::with_capacity(objects.len());
        let mut confirms = Vec::with_capacity(objects.len());
        let start = tokio::time::Instant::now();
        for (number, object) in objects.iter().enumerate() {
            let due = Duration::from_secs_f64(crate::stats::as_f64(number) / per_second);
            tokio::time::sleep_until(start + due).await;
            sent.push(Instant::now());
            confirms.push(self.publish(object).await?);
        }
        for confirmation in try_join_all(confirms).await.context("publish")? {
            queued(&confirmation)?;
        }
        Ok(sent)
    }

    async fn publish(&self, object: &Object) -> Result<lapin::PublisherConfirm> {
        let mut told =
            notification::put(BUCKET, &object.key, Some(object.size), Some(&object.etag));
        if let Some(version) = &object.version {
            told["Records"][0]["s3"]["object"]["versionId"] = version.as_str().into();
        }
        // As the store publishes: persistent, and not mandatory.
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2);
        let names = &self.daemon.names;
        let (exchange, key) = (names.exchange.as_str().into(), names.routing_key.as_str().into());
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let body = told.to_string();
        self.channel
            .basic_publish(exchange, key, options, body.as_bytes(), properties)
            .await
            .context("publish")
    }

    /// The queues that must be empty at the end of a run without errors; the first is the work
    /// queue.
    pub(super) fn queues(&self) -> Vec<String> {
        with_retries(&self.daemon.names.queue)
    }

    /// The same of what sweeps announce, where there is no queue of dead letters.
    pub(super) fn backlog_queues(&self) -> Vec<String> {
        with_retries(&format!("{}.backlog", self.daemon.names.queue))
    }
}

fn with_retries(queue: &str) -> Vec<String> {
    let rest = ["", ".retry.10s", ".retry.1m", ".retry.10m", ".dead"];
    rest.iter().map(|end| format!("{queue}{end}")).collect()
}

fn queued(confirmation: &Confirmation) -> Result<()> {
    matches!(confirmation, Confirmation::Ack(None))
        .then_some(())
        .context(format!("publish: {confirmation:?}"))
}
