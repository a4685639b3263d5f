//! A daemon for one test, against the shared stack.
//!
//! It has its own exchange, queue, bucket, sink path and health port, so that
//! tests run side by side. It is killed when its handle is dropped.

use std::collections::BTreeMap;
use std::fs;
use std::io::PipeReader;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use peers::error::{Context, Error, Result};
use peers::sink::Received;
use rustix::process::Signal;
use uuid::Uuid;

use crate::ports::free_port;
use crate::process::{Identity, Spec, cpu_time, tail};
use crate::ready::http_status;
use crate::s3::S3;
use crate::stack::Stack;
use crate::webhooks::Route;

/// How long a daemon may take to become ready.
const PATIENCE: Duration = Duration::from_mins(1);

/// The names that a test's daemon uses.
#[derive(Debug, Clone)]
pub struct Names {
    /// `s3minio-test-…`, the start of all names below but the bucket's.
    pub prefix: String,
    /// The queue it reads.
    pub queue: String,
    /// The exchange its notifications are published to.
    pub exchange: String,
    /// The routing key they are published with.
    pub routing_key: String,
    /// A bucket whose events go to its intake.
    pub bucket: String,
    /// The path on the stack's sink.
    pub sink_path: String,
}

impl Names {
    fn unique() -> Self {
        let id = Uuid::new_v4().simple().to_string();
        let prefix = format!("s3minio-test-{id}");
        Self {
            queue: format!("{prefix}-queue"),
            exchange: format!("{prefix}-exchange"),
            routing_key: "bucket_notifications".into(),
            bucket: format!("test-{id}"),
            sink_path: format!("/report/{id}"),
            prefix,
        }
    }
}

/// A daemon under test.
pub struct Daemon {
    /// Its names.
    pub names: Names,
    stack: Stack,
    spec: Spec,
    home: PathBuf,
    health: String,
    /// Where the events of the bucket go: one for all replicas.
    route: Arc<Mutex<Route>>,
    child: Option<Child>,
    guest: PathBuf,
    unread_stdout: bool,
    /// Held open: without a reader, a write would fail instead of blocking.
    unread: Option<PipeReader>,
}

impl Daemon {
    /// Starts a daemon and waits until it is ready.
    ///
    /// # Errors
    /// When it ends first or takes too long; with the end of its log.
    pub async fn start(stack: &Stack, binary: &Path, overrides: &[(&str, &str)]) -> Result<Self> {
        let mut daemon = Self::prepare(stack, binary, overrides).await?;
        daemon.spawn()?;
        daemon.wait_ready(PATIENCE).await?;
        Ok(daemon)
    }

    /// Prepares everything but the process: names, bucket, route and environment. An override with
    /// an empty value removes the variable. Without `INTAKE_ADDR` the events of the bucket are
    /// dropped.
    ///
    /// # Errors
    /// When the stack does not answer.
    pub async fn prepare(stack: &Stack, binary: &Path, overrides: &[(&str, &str)]) -> Result<Self> {
        let names = Names::unique();
        let home = stack.dir().join("daemons").join(&names.prefix);
        let guests = stack.dir().join("guests");
        for folder in [&home.join("tmp"), &guests] {
            fs::create_dir_all(folder).context(folder.display())?;
        }
        let health = format!("127.0.0.1:{}", free_port());
        let settings = stack.settings();
        let mut spec = Spec::new(binary, &home);
        spec.env.extend(stack.state().daemon_variables());
        spec = spec
            .env("RABBITMQ_QUEUE_NAME", &names.queue)
            .env("RABBITMQ_TOPIC", &names.exchange)
            .env("RABBITMQ_QUEUE_ROUTING_KEY", &names.routing_key)
            .env("PUBLISH_URL", format!("{}{}", settings.sink_url, names.sink_path))
            .env("HEALTH_ADDR", &health)
            .env("INTAKE_ADDR", format!("127.0.0.1:{}", free_port()))
            .env("STATUS_ADDR", "")
            .env("TMPDIR", home.join("tmp").to_string_lossy());
        for (name, value) in overrides {
            if value.is_empty() {
                spec.env.remove(*name);
            } else {
                spec = spec.env(name, *value);
            }
        }
        let guest = guests.join(&names.prefix);
        let daemon = Self {
            names,
            stack: stack.clone(),
            spec,
            home,
            health,
            route: Arc::default(),
            child: None,
            guest,
            unread_stdout: false,
            unread: None,
        };
        let bucket = daemon.s3();
        bucket.create_bucket().await?;
        daemon.change_route(|route| route.intakes.extend(daemon.intake()))?;
        bucket.announce().await?;
        Ok(daemon)
    }

    /// From now on events come by the gateway's own calls only: up to three seconds late, and one
    /// after the other.
    ///
    /// # Errors
    /// When the port for webhooks does not answer.
    pub fn by_webhook_alone(&self) -> Result<()> {
        self.change_route(|route| route.by_webhook_alone = true)
    }

    fn change_route(&self, change: impl FnOnce(&mut Route)) -> Result<()> {
        let mut route: MutexGuard<'_, Route> =
            self.route.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut route);
        self.stack.route(&self.names.bucket, &route)
    }

    fn intake(&self) -> Option<String> {
        self.spec.env.get("INTAKE_ADDR").cloned()
    }

    /// Another replica of the same deployment, not started yet, with the same names and settings,
    /// but its own folder and ports.
    ///
    /// # Errors
    /// When its folder cannot be made, or the port for webhooks does not answer.
    pub fn replica(&self, overrides: &[(&str, &str)]) -> Result<Self> {
        let number = Uuid::new_v4().simple().to_string();
        let home = self.home.with_file_name(format!("{}-{}", self.names.prefix, &number[..8]));
        fs::create_dir_all(home.join("tmp")).context(home.display())?;
        let health = format!("127.0.0.1:{}", free_port());
        let mut spec = self.spec.clone();
        spec.cwd.clone_from(&home);
        spec = spec.env("HEALTH_ADDR", &health).env("TMPDIR", home.join("tmp").to_string_lossy());
        if self.intake().is_some() {
            spec = spec.env("INTAKE_ADDR", format!("127.0.0.1:{}", free_port()));
        }
        for (name, value) in overrides {
            spec = spec.env(name, *value);
        }
        let guest = self.guest.with_file_name(home.file_name().context("a folder has a name")?);
        let (names, stack) = (self.names.clone(), self.stack.clone());
        let replica = Self {
            names,
            stack,
            spec,
            home,
            health,
            route: Arc::clone(&self.route),
            child: None,
            guest,
            unread_stdout: false,
            unread: None,
        };
        replica.change_route(|route| route.intakes.extend(replica.intake()))?;
        Ok(replica)
    }

    /// From the next [`Daemon::spawn`] on, its standard output is a pipe that nothing reads.
    /// [`Daemon::output`] then shows the file of `LOG_FILE`.
    pub fn leave_stdout_unread(&mut self) {
        self.unread_stdout = true;
        let log = self.log().to_string_lossy().into_owned();
        self.set_env("LOG_FILE", &log);
    }

    /// Starts the process, again after it ended.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn spawn(&mut self) -> Result<()> {
        self.kill();
        let log = fs::File::options().create(true).append(true).open(self.log()).context("log")?;
        let mut command = self.spec.command();
        let stdout: Stdio = if self.unread_stdout {
            let (reader, writer) = std::io::pipe().context("pipe")?;
            self.unread = Some(reader);
            writer.into()
        } else {
            log.try_clone().context("log")?.into()
        };
        command.stdout(stdout).stderr(log).stdin(Stdio::null());
        let child = command.spawn().context(self.spec.program.display())?;
        if let Some(process) = Identity::of(child.id()) {
            // If this test does not live to kill it, `stack down` does.
            let text = serde_json::to_vec(&process).context("guest")?;
            fs::write(&self.guest, text).context(self.guest.display())?;
        }
        self.child = Some(child);
        Ok(())
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Errors
    /// When the daemon ends first or takes too long; with the end of its log.
    pub async fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            if self.status("/readyz") == Some(200) {
                return Ok(());
            }
            let trouble = match self.exit_code()? {
                Some(code) => format!("the daemon ended with {code}"),
                None if Instant::now() > end => format!("the daemon is not ready after {limit:?}"),
                None => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            return Err(Error::new(format!("{trouble}:\n{}", tail(&self.log(), 20))));
        }
    }

    /// Waits until the daemon ends by itself. Returns its exit code, or 128 plus the signal that
    /// ended it.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn wait_exit(&mut self, limit: Duration) -> Result<i32> {
        let end = Instant::now() + limit;
        loop {
            if let Some(code) = self.exit_code()? {
                return Ok(code);
            }
            if Instant::now() > end {
                let log = tail(&self.log(), 20);
                return Err(Error::new(format!("the daemon still runs after {limit:?}:\n{log}")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn exit_code(&mut self) -> Result<Option<i32>> {
        use std::os::unix::process::ExitStatusExt;
        let child = self.child.as_mut().context("the daemon was not started")?;
        let status = child.try_wait().context("daemon")?;
        Ok(status.map(|status| status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))))
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn terminate(&mut self, limit: Duration) -> Result<i32> {
        self.signal(Signal::TERM)?;
        self.wait_exit(limit).await
    }

    /// Stops the daemon with SIGSTOP.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Continues it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.child.as_ref().and_then(|child| Identity::of(child.id()));
        process
            .is_some_and(|process| process.signal(signal))
            .then_some(())
            .context("the daemon does not run")
    }

    /// The processor time that the process has used.
    ///
    /// # Errors
    /// When it does not run.
    pub fn cpu_time(&self) -> Result<Duration> {
        let pid = self.pid().context("the daemon does not run")?;
        cpu_time(pid)
    }

    /// Ends the daemon with SIGKILL, if it runs.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An error means that the child has ended already.
            drop(child.kill());
            drop(child.wait());
            drop(fs::remove_file(&self.guest));
        }
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Its environment.
    #[must_use]
    pub fn env(&self) -> &BTreeMap<String, String> {
        &self.spec.env
    }

    /// Sets a variable for the next [`Daemon::spawn`].
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.spec.env.insert(name.into(), value.into());
    }

    /// The file its output goes to.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.home.join("daemon.log")
    }

    /// Its output so far.
    #[must_use]
    pub fn output(&self) -> String {
        fs::read(self.log())
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    /// Empties the file its output goes to. The daemon appends to it, and goes on at its new end.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn forget_output(&self) -> Result<()> {
        let log = fs::File::options().write(true).open(self.log()).context("log")?;
        log.set_len(0).context("log")
    }

    /// The status of the answer to one of its admin pages.
    #[must_use]
    pub fn status(&self, path: &str) -> Option<u16> {
        http_status(&format!("http://{}{path}", self.health))
    }

    /// One of its admin pages.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn page(&self, path: &str) -> Result<String> {
        let url = format!("http://{}{path}", self.health);
        let answer = reqwest::get(url).await.context("daemon")?;
        answer.text().await.context("daemon")
    }

    /// Its bucket.
    #[must_use]
    pub fn s3(&self) -> S3 {
        self.stack.s3().with_bucket(&self.names.bucket)
    }

    /// The reports that reached the stack's sink on its path.
    #[must_use]
    pub fn reports(&self) -> Vec<Received> {
        let mut all = self.stack.reports();
        all.retain(|report| report.path == self.names.sink_path);
        all
    }

    /// Waits for this many reports about one object.
    ///
    /// # Errors
    /// When they do not come in time; with the end of the daemon's log.
    pub async fn reports_on(
        &self,
        key: &str,
        count: usize,
        limit: Duration,
    ) -> Result<Vec<Received>> {
        let wanted = |report: &Received| report.key().as_deref() == Some(key);
        let found = peers::sink::wait_for(|| self.reports(), count, limit, wanted).await;
        found.map_err(|error| Error::new(format!("{error}; its log:\n{}", tail(&self.log(), 20))))
    }

    /// Ends the daemon and removes its queues, named as by the command `queues`: only the daemon
    /// knows all that it declared.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn clean_up(mut self, queues: &[&str]) -> Result<()> {
        self.kill();
        let amqp = self.stack.amqp().await?;
        for queue in queues {
            amqp.delete_queue(queue).await?;
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        // Events still to come would hold up all others at the gateway. A port that is gone has none.
        let intake = self.intake();
        drop(
            self.change_route(|route| route.intakes.retain(|known| Some(known) != intake.as_ref())),
        );
    }
}
