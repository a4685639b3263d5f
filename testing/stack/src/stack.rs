//! A running stack, as tests see it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use peers::error::{Context, Error, Result};
use peers::sink::{self, Received};
use rustix::process::Signal;

use crate::amqp::Amqp;
use crate::place;
use crate::process::{Identity, Spec};
use crate::ready;
use crate::s3::S3;
use crate::state::{Record, Settings, State};
use crate::webhooks::Route;

/// A handle on a running stack.
#[derive(Debug, Clone)]
pub struct Stack {
    file: PathBuf,
    state: State,
}

/// `EX_UNAVAILABLE` of sysexits.h, the exit code of `rabbitmqctl` for a node that does not answer.
const UNAVAILABLE: i32 = 69;

impl Stack {
    /// The stack that this test runs in, from `AVSCAN_STACK`.
    ///
    /// # Panics
    /// When there is none: a test that needs a stack must not pass without one.
    #[must_use]
    pub fn from_env() -> Self {
        let file = std::env::var_os("AVSCAN_STACK")
            .expect("this test needs a running stack (AVSCAN_STACK is not set): run `make test`");
        match Self::open(Path::new(&file)) {
            Ok(stack) => stack,
            Err(error) => panic!("this test needs a running stack ({error}): run `make test`"),
        }
    }

    /// The stack of a state file.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn open(file: &Path) -> Result<Self> {
        let state = State::load(file)?.context(format!("no stack at {}", file.display()))?;
        Ok(Self { file: file.into(), state })
    }

    /// The state file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The folder of the stack.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.state.dir
    }

    /// Addresses and secrets.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.state.settings
    }

    /// The whole state as it was when the handle was made.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The daemon that was built together with the `stack` program.
    ///
    /// # Panics
    /// When that file is missing.
    #[must_use]
    pub fn built_daemon(&self) -> PathBuf {
        let binary = self.state.program.with_file_name("bucket-av-scanner");
        assert!(binary.is_file(), "{} is missing: run `cargo build`", binary.display());
        binary
    }

    /// A client of the store.
    #[must_use]
    pub fn s3(&self) -> S3 {
        S3::new(self.settings())
    }

    /// A client of the broker.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub async fn amqp(&self) -> Result<Amqp> {
        Amqp::connect(self.settings()).await
    }

    /// What the stack's sink received, on every path.
    #[must_use]
    pub fn reports(&self) -> Vec<Received> {
        sink::read(&self.settings().reports)
    }

    /// Waits until the stack's sink received `count` requests for which `wanted` is true.
    ///
    /// # Errors
    /// When they do not come in time.
    pub async fn reports_within(
        &self,
        count: usize,
        limit: Duration,
        wanted: impl Fn(&Received) -> bool,
    ) -> Result<Vec<Received>> {
        sink::wait_for(|| self.reports(), count, limit, wanted).await
    }

    /// One of `epmd`, `rabbitmq`, `clamd`, `gateway`, `webhooks`, `sink`,
    /// `clamav-rest`, `daemon`.
    #[must_use]
    pub fn service(&self, name: &str) -> Service<'_> {
        Service { stack: self, name: name.into() }
    }

    /// Runs `rabbitmqctl` against the private node.
    ///
    /// # Errors
    /// When it cannot be run or fails.
    pub fn rabbitmqctl(&self, args: &[&str]) -> Result<String> {
        let node = self.state.service("rabbitmq").context("the stack has no broker")?;
        let mut spec = node.spec.clone();
        spec.program = node.spec.program.with_file_name("rabbitmqctl");
        spec.args = args.iter().map(|arg| String::from(*arg)).collect();
        // These settings belong to the node. With them the tool would use the node's port.
        spec.env.retain(|name, _| !name.ends_with("ERL_ARGS") && !name.contains("DIST_PORT"));
        // On a busy machine the tool may time out before it reaches the node.
        let mut tries = 3;
        loop {
            tries -= 1;
            let Output { status, stdout, stderr } =
                spec.command().output().context("rabbitmqctl")?;
            if status.success() {
                return Ok(String::from_utf8_lossy(&stdout).into_owned());
            }
            if status.code() != Some(UNAVAILABLE) || tries == 0 {
                let said = String::from_utf8_lossy(&stderr);
                return Err(Error::new(format!("rabbitmqctl {}: {said}", args.join(" "))));
            }
        }
    }

    /// Sets where the events of a bucket are sent. Blocks the thread for a moment.
    ///
    /// # Errors
    /// When the port for webhooks cannot be reached.
    pub fn route(&self, bucket: &str, route: &Route) -> Result<()> {
        let address = self.settings().webhooks_url.trim_start_matches("http://");
        let body = serde_json::to_string(route).context("route")?;
        let ask = || {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(
                stream,
                "PUT /routes/{bucket} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = ask().context("webhooks")?;
        answer.starts_with("HTTP/1.1 200").then_some(()).context(format!("webhooks: {answer}"))
    }
}

/// One service of a stack, to be stopped, killed or restarted by a test.
#[derive(Debug, Clone)]
pub struct Service<'a> {
    stack: &'a Stack,
    name: String,
}

impl Service<'_> {
    /// Its current record, which another process may have changed by a restart.
    fn record(&self) -> Result<Record> {
        let state = State::load(&self.stack.file)?.context("the stack is down")?;
        state.service(&self.name).cloned().context(format!("the stack has no {}", self.name))
    }

    fn process(&self) -> Result<Identity> {
        self.record().map(|record| record.process)
    }

    /// Whether its process runs.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.process().is_ok_and(Identity::alive)
    }

    /// Its process id.
    ///
    /// # Errors
    /// When the stack has no such service.
    pub fn pid(&self) -> Result<u32> {
        self.process().map(|process| process.pid)
    }

    /// The file its output goes to.
    ///
    /// # Errors
    /// When the stack has no such service.
    pub fn log(&self) -> Result<PathBuf> {
        self.record().map(|record| record.log)
    }

    /// Kills it with SIGKILL and waits until it has ended.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self) -> Result<()> {
        let process = self.process()?;
        let killed = process.signal(Signal::KILL) && process.gone_within(Duration::from_secs(5));
        killed.then_some(()).context(format!("cannot kill {}", self.name))
    }

    /// Ends it with SIGTERM, and with SIGKILL after `grace`.
    ///
    /// # Errors
    /// When the stack has no such service.
    pub fn stop(&self, grace: Duration) -> Result<()> {
        self.process()?.stop(grace);
        Ok(())
    }

    /// Stops it with SIGSTOP: connections stay open, but nothing is answered.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<()> {
        self.process()?
            .signal(Signal::STOP)
            .then_some(())
            .context(format!("cannot pause {}", self.name))
    }

    /// Continues it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<()> {
        self.process()?
            .signal(Signal::CONT)
            .then_some(())
            .context(format!("cannot resume {}", self.name))
    }

    /// Starts it again with the same settings, after stopping it if it runs, and waits until it is
    /// ready. Blocks the thread meanwhile.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&self) -> Result<()> {
        let record = {
            let _one_writer = place::lock(&self.stack.state.dir)?;
            let mut state = State::load(&self.stack.file)?.context("the stack is down")?;
            let record =
                state.service_mut(&self.name).context(format!("the stack has no {}", self.name))?;
            record.process.stop(Duration::from_secs(10));
            record.respawn()?;
            let record = record.clone();
            state.save()?;
            record
        };
        ready::wait(&record).map(drop)
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// When it ends or takes too long.
    pub fn wait_ready(&self) -> Result<()> {
        ready::wait(&self.record()?).map(drop)
    }

    /// How it was started.
    ///
    /// # Errors
    /// When the stack has no such service.
    pub fn spec(&self) -> Result<Spec> {
        self.record().map(|record| record.spec)
    }
}
