//! The parts of one scenario: two replicas of the daemon, with a proxy that can inject faults
//! between them and everything else.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures_util::future::LocalBoxFuture;
use peers::clamav_rest::ClamavRest;
use peers::error::{Context, Error, Result};
use peers::proxy::{EngineProxy, HttpProxy, TcpProxy};
use peers::sink::{Received, Reply, Sink};
use serde_json::Value;
use stack::clamd::{Clamd, Database, LARGEST};
use stack::daemon::Names;
use stack::{Amqp, Daemon, S3, Seaweed, Stack};

use crate::ledger::{Announcer, Ledger, joined};
use crate::samples::STREAM_MAX;
use crate::senders::Senders;
pub(super) use crate::setup::{Bucket, Engine, Setup};

const READY: Duration = Duration::from_mins(1);
/// Retry delays so short that a scenario goes through all of them.
const DELAYS: &str = "1s,2s,4s";
/// Settings of clamd beside those of the stack.
const CLAMD_SETTINGS: [&str; 6] = [
    "AlertExceedsMax yes",
    "AlertEncrypted yes",
    "ConcurrentDatabaseReload yes",
    "MaxThreads 32",
    "MaxQueue 200",
    "SelfCheck 0",
];

/// What all scenarios of a run share.
pub(super) struct Shared<'a> {
    pub(super) stack: &'a Stack,
    pub(super) binary: &'a Path,
    pub(super) seaweed: Option<Seaweed>,
}

impl Shared<'_> {
    /// Address and keys of a store for such buckets.
    async fn store(&mut self, bucket: Bucket) -> Result<(String, (String, String))> {
        if bucket == Bucket::Gateway {
            let settings = self.stack.settings();
            let keys = (settings.s3_access_key.clone(), settings.s3_secret_key.clone());
            return Ok((settings.s3_url.clone(), keys));
        }
        if self.seaweed.is_none() {
            self.seaweed = Some(Seaweed::start().await?);
        }
        let seaweed = self.seaweed.as_ref().context("SeaweedFS")?;
        let (access, secret) = seaweed.keys();
        Ok((seaweed.url().to_owned(), (access.to_owned(), secret.to_owned())))
    }
}

/// Sends notifications, where the store does not.
async fn announcer(
    stack: &Stack,
    setup: &Setup,
    names: &Names,
    intakes: &[HttpProxy],
) -> Result<Option<Announcer>> {
    if let Some(sending) = setup.sending {
        let urls = intakes.iter().map(HttpProxy::url).collect();
        let senders = Senders::new(sending, urls, &stack.settings().intake_token)?;
        return Ok(Some(Announcer::Webhooks(senders)));
    }
    if setup.bucket == Bucket::Gateway {
        return Ok(None);
    }
    let (exchange, key) = (names.exchange.clone(), names.routing_key.clone());
    Ok(Some(Announcer::Exchange(Box::new(stack.amqp().await?), exchange, key)))
}

/// A report that the sink accepted.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    pub(super) id: String,
    pub(super) report: Value,
    pub(super) at: Instant,
}

/// All running parts.
pub(super) struct World {
    pub(super) stack: Stack,
    pub(super) binary: PathBuf,
    pub(super) setup: Setup,
    pub(super) daemons: Vec<Daemon>,
    /// One for each daemon.
    pub(super) brokers: Vec<TcpProxy>,
    /// In front of the intake of each daemon; the gateway's events do not come this way.
    pub(super) intakes: Vec<HttpProxy>,
    pub(super) store: HttpProxy,
    pub(super) direct: S3,
    /// The quarantine bucket, in scenarios that have one.
    pub(super) held: Option<S3>,
    pub(super) clamd: Arc<tokio::sync::Mutex<Clamd>>,
    pub(super) engine: EngineProxy,
    /// In front of the clamav-rest double, if there is one.
    pub(super) rest: Option<HttpProxy>,
    pub(super) webhook: TcpProxy,
    pub(super) ledger: Ledger,
    sink: Sink,
    taken: Arc<Mutex<Vec<Taken>>>,
    /// When the fault ended.
    pub(super) healed: Option<Instant>,
    /// Messages that are not notifications. Each must be parked unchanged.
    pub(super) poison: Vec<Vec<u8>>,
    /// Processor time of both daemons while something was down, as a share of the time.
    pub(super) cpu_while_down: Option<f64>,
    /// What a scenario itself found wrong, one line each.
    pub(super) wrongs: Vec<String>,
    /// Must be kept until the daemons have stopped.
    pub(super) disks: Vec<Box<dyn Send>>,
    _rest: Option<ClamavRest>,
}

impl World {
    /// Starts everything; returns when both daemons are ready.
    pub(super) async fn start(shared: &mut Shared<'_>, setup: Setup, rng: Rng) -> Result<Self> {
        let clamd = engine(setup.takes_large).await?;
        let engine = EngineProxy::start(&clamd.socket()).await?;
        let (scanner, endpoint, double, rest) = match setup.engine {
            Engine::Clamd => ("clamd", format!("tcp://{}", engine.address()), None, None),
            Engine::ClamavRest => {
                let double = ClamavRest::start(engine.address(), false).await?;
                let proxy = HttpProxy::start(double.url()).await?;
                ("clamav-rest", proxy.url(), Some(double), Some(proxy))
            }
        };
        let settings = shared.stack.settings();
        let (url, keys) = shared.store(setup.bucket).await?;
        let store = HttpProxy::start(&url).await?;
        let sink = Sink::start().await?;
        let webhook = TcpProxy::start(sink.url().trim_start_matches("http://")).await?;
        let broker = format!("{}:{}", settings.amqp_host, settings.amqp_port);
        let brokers =
            vec![TcpProxy::to_broker(&broker).await?, TcpProxy::to_broker(&broker).await?];
        let ports: Vec<String> = brokers.iter().map(|proxy| proxy.port().to_string()).collect();
        let (store_url, publish_url) =
            (store.url(), format!("http://127.0.0.1:{}/report", webhook.port()));
        let mut overrides = vec![
            ("SCANNER", scanner),
            ("CLAMD_ENDPOINT", &endpoint),
            ("MINIO_SERVER_URL", &store_url),
            ("MINIO_ACCESS_KEY_ID", &keys.0),
            ("MINIO_SECRET_ACCESS_KEY", &keys.1),
            ("PUBLISH_URL", &publish_url),
            ("RABBITMQ_PORT", &ports[0]),
            ("RETRY_DELAYS", DELAYS),
            ("RETRY_LIMIT", "8"),
            ("SCAN_TIMEOUT", "8"),
            ("REPORT_CLEAN", "true"),
            // Every infected object has another content, by one signature.
            ("SURGE_LIMIT", "0"),
            // The account reads the audit lines.
            ("LOG_FORMAT", "json"),
        ];
        if setup.canary && setup.bucket == Bucket::Gateway {
            overrides.extend([("CANARY_EVERY", "20s"), ("CANARY_DEADLINE", "6s")]);
        }
        overrides.extend(setup.settings.iter().copied());
        let mut first = Daemon::prepare(shared.stack, shared.binary, &overrides).await?;
        send_canaries(&mut first);
        let bucket = &first.names.bucket;
        let direct = S3::at(&url, &keys.0, &keys.1, &settings.s3_region, bucket);
        let held = quarantine(&mut first, &direct, setup.quarantine).await?;
        let mut second = first.replica(&[("RABBITMQ_PORT", &ports[1])])?;
        if setup.unread_stdout {
            first.leave_stdout_unread();
            second.leave_stdout_unread();
        }
        first.spawn()?;
        second.spawn()?;
        first.wait_ready(READY).await?;
        second.wait_ready(READY).await?;

        let names = first.names.clone();
        let url_of = |daemon: &Daemon| format!("http://{}", daemon.env()["INTAKE_ADDR"]);
        let intakes = vec![
            HttpProxy::start(&url_of(&first)).await?,
            HttpProxy::start(&url_of(&second)).await?,
        ];
        let announcer = announcer(shared.stack, &setup, &names, &intakes).await?;
        if announcer.is_some() {
            direct.create_bucket().await?;
        }
        let ledger = Ledger::new(direct.clone(), announcer, rng);
        let world = Self {
            stack: shared.stack.clone(),
            binary: shared.binary.to_owned(),
            setup,
            daemons: vec![first, second],
            brokers,
            intakes,
            store,
            direct,
            held,
            clamd: Arc::new(tokio::sync::Mutex::new(clamd)),
            engine,
            rest,
            webhook,
            ledger,
            sink,
            taken: Arc::default(),
            healed: None,
            poison: Vec::new(),
            cpu_while_down: None,
            wrongs: Vec::new(),
            disks: Vec::new(),
            _rest: double,
        };
        world.answer_reports(|_, _| Reply::status(200));
        world.prepare_versions().await?;
        Ok(world)
    }

    async fn prepare_versions(&self) -> Result<()> {
        match self.setup.bucket {
            Bucket::Versioned => self.set_versioning(true).await,
            Bucket::Suspended => {
                self.set_versioning(true).await?;
                self.set_versioning(false).await
            }
            Bucket::Gateway | Bucket::Unversioned | Bucket::Switched => Ok(()),
        }
    }

    /// Sets the webhook's answers from now on. `answer` gets the number of earlier requests, and
    /// the request.
    pub(super) fn answer_reports(
        &self,
        answer: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static,
    ) {
        let taken = Arc::clone(&self.taken);
        self.sink.script(move |before, received| {
            let reply = answer(before, received);
            if reply.accepts() {
                let id = received.headers.get("webhook-id").cloned().unwrap_or_default();
                let report = received.json();
                let one = Taken { id, report, at: Instant::now() };
                taken.lock().unwrap_or_else(PoisonError::into_inner).push(one);
            }
            reply
        });
    }

    /// The reports that the sink accepted.
    pub(super) fn taken(&self) -> Vec<Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets all that was uploaded and seen so far, and removes the objects. What the engine said is
    /// kept from `kept` on: a copy of a notification may still be in work.
    pub(super) async fn forget(&mut self, kept: Instant) -> Result<()> {
        self.ledger.forget().await?;
        self.engine.forget_before(kept);
        self.store.forget();
        self.brokers.iter().for_each(TcpProxy::forget);
        self.sink.forget();
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.healed = None;
        self.daemons.iter().try_for_each(Daemon::forget_output)
    }

    /// Tells how many reports the sink accepted so far.
    pub(super) fn taken_count(&self) -> impl Fn() -> usize + Send + Sync + use<> {
        let taken = Arc::clone(&self.taken);
        move || taken.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(super) async fn set_versioning(&self, on: bool) -> Result<()> {
        self.direct.set_versioning(on).await
    }

    /// The store announces nothing any more.
    pub(super) async fn unsubscribe(&self) -> Result<()> {
        let none = aws_sdk_s3::types::NotificationConfiguration::builder().build();
        let put = self.direct.client.put_bucket_notification_configuration();
        let put = put.bucket(&self.direct.bucket).notification_configuration(none).send().await;
        put.map(drop).context("unsubscribe")
    }

    pub(super) async fn amqp(&self) -> Result<Amqp> {
        self.stack.amqp().await
    }

    pub(super) fn queue(&self) -> &str {
        &self.daemons[0].names.queue
    }

    /// The queues of one lane: the first one and its retry tiers.
    pub(super) fn queues(&self, lane: &str) -> Vec<String> {
        let first = format!("{}{lane}", self.queue());
        let tiers = DELAYS.split(',').map(|delay| format!("{first}.retry.{delay}"));
        std::iter::once(first.clone()).chain(tiers).collect()
    }

    /// Uploads `count` objects, spread over so many seconds, and runs `act` at the same time.
    pub(super) fn while_feeding<'a>(
        &'a mut self,
        count: usize,
        seconds: u64,
        act: impl AsyncFnOnce(&mut Self) -> Result<()> + 'a,
    ) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let feeding = self.ledger.feed(count, Duration::from_secs(seconds));
            act(self).await?;
            joined(feeding).await
        })
    }

    /// Marks the end of the fault.
    pub(super) fn healed(&mut self) {
        self.healed = Some(Instant::now());
    }

    /// Stops and starts a service of the stack. With `down`, kills it and leaves it down for this
    /// time.
    pub(super) async fn restart(&self, name: &'static str, down: Option<Duration>) -> Result<()> {
        let stack = self.stack.clone();
        let restarting = tokio::task::spawn_blocking(move || {
            let service = stack.service(name);
            if let Some(down) = down {
                service.kill()?;
                std::thread::sleep(down);
            }
            service.restart()
        });
        restarting.await.map_err(|error| Error::new(error.to_string()))?
    }

    pub(super) async fn kill_engine(&self) {
        self.clamd.lock().await.kill();
    }

    pub(super) async fn restart_engine(&self, database: Database) -> Result<()> {
        let mut clamd = self.clamd.lock().await;
        clamd.kill();
        self.engine.set_sighted(database == Database::Eicar);
        clamd.restart(database).await
    }

    /// Waits, and measures the daemons' processor time meanwhile.
    pub(super) async fn down_for(&mut self, time: Duration) -> Result<()> {
        // Not measured: the daemons first have to notice the fault.
        let settle = time / 3;
        tokio::time::sleep(settle).await;
        let before = self.cpu_time()?;
        let since = Instant::now();
        tokio::time::sleep(time.saturating_sub(settle)).await;
        let used = self.cpu_time()?.saturating_sub(before);
        self.cpu_while_down = Some(used.as_secs_f64() / since.elapsed().as_secs_f64());
        Ok(())
    }

    fn cpu_time(&self) -> Result<Duration> {
        self.daemons.iter().map(Daemon::cpu_time).sum()
    }

    /// The sum of a metric of both daemons, by the start of its line; 0 when it was never counted.
    pub(super) async fn metric(&self, name: &str) -> Result<u64> {
        let mut sum = 0;
        for daemon in &self.daemons {
            let page = daemon.page("/metrics").await?;
            let read = |line: &str| line.strip_prefix(name)?.trim().parse::<u64>().ok();
            sum += page.lines().filter_map(read).sum::<u64>();
        }
        Ok(sum)
    }

    /// Waits until a condition holds. If it does not in time, that is recorded as an error of this
    /// scenario.
    pub(super) async fn expect(
        &mut self,
        what: &str,
        limit: Duration,
        mut ask: impl AsyncFnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        let start = Instant::now();
        while !ask(self).await? {
            if start.elapsed() > limit {
                self.wrongs.push(format!("not within {} s: {what}", limit.as_secs()));
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Waits for a random time.
    pub(super) async fn a_while(&self, milliseconds: std::ops::Range<u64>) {
        let pause = self.ledger.random(|rng| rng.u64(milliseconds));
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

/// The engine, with the limits of the suite or those of the stack.
async fn engine(takes_large: bool) -> Result<Clamd> {
    let limits = if takes_large {
        let most = ["StreamMaxLength", "MaxFileSize"].map(|limit| format!("{limit} {LARGEST}"));
        [&most[..], &[format!("MaxScanSize {}", LARGEST * 4)]].concat()
    } else {
        vec![STREAM_MAX.to_owned()]
    };
    let limits: Vec<&str> = limits.iter().map(String::as_str).collect();
    Clamd::start(&[&limits[..], &CLAMD_SETTINGS].concat()).await
}

/// Makes a quarantine bucket beside the daemon's own and names it, where one is wanted.
async fn quarantine(daemon: &mut Daemon, direct: &S3, is_wanted: bool) -> Result<Option<S3>> {
    if !is_wanted {
        return Ok(None);
    }
    let held = direct.with_bucket(&format!("{}-held", direct.bucket));
    held.create_bucket().await?;
    daemon.set_env("QUARANTINE_BUCKET", &held.bucket);
    Ok(Some(held))
}

/// Names the bucket, where canaries are sent.
fn send_canaries(daemon: &mut Daemon) {
    if daemon.env().contains_key("CANARY_EVERY") {
        let bucket = daemon.names.bucket.clone();
        daemon.set_env("CANARY_BUCKETS", &bucket);
    }
}
