//! Starts a stack, and repairs one that runs in part.
//!
//! Both take the same path: a service that runs is kept, one that died is started again, and one
//! that never ran is set up.

use std::path::{Path, PathBuf};
use std::time::Duration;

use peers::error::{Context, Error, Result};

use self::plan::Plan;
use crate::ports::free_port;
use crate::ready;
use crate::state::{Record, Settings, State};
use crate::{place, runtime, s3, teardown};

mod clamd;
mod daemon;
mod database;
mod gateway;
mod own;
mod plan;
mod rabbitmq;

/// How often a fresh stack is tried again because another program took a port after it was chosen.
const ATTEMPTS: u32 = 3;

/// Options of `stack up`.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The daemon's program; by default the one built beside `stack`.
    pub daemon: Option<PathBuf>,
    /// Start everything but the daemon.
    pub no_daemon: bool,
    /// Scan through the clamav-rest double.
    pub double: bool,
    /// Switch off clamd's cache of clean files.
    pub no_cache: bool,
}

/// Brings up the stack in `dir`; `program` is the `stack` program itself.
///
/// # Errors
/// When a service does not start. What this call had started is stopped then.
pub fn up(dir: &Path, options: &Options, program: &Path) -> Result<State> {
    place::claim(dir)?;
    let _only_one = place::lock(dir)?;
    for attempt in 1.. {
        let fresh = State::load(&State::file(dir))?.is_none();
        if fresh {
            // What a failed start left behind, including its logs.
            teardown::clear(dir)?;
            place::claim(dir)?;
        }
        let mut launch = Launch::new(dir, options, program)?;
        let Err(error) = launch.run() else {
            return Ok(launch.state);
        };
        teardown::stop_all(&launch.state, &launch.started);
        if fresh {
            teardown::forget(dir)?;
            if attempt < ATTEMPTS && port_was_taken(&error) {
                say!("[stack] another program took a port, trying other ports");
                continue;
            }
        } else {
            launch.state.save()?;
        }
        return Err(error);
    }
    unreachable!("the last attempt returns")
}

fn port_was_taken(error: &Error) -> bool {
    let text = error.to_string().to_lowercase();
    ["eaddrinuse", "already in use", "address in use"].iter().any(|sign| text.contains(sign))
}

struct Launch<'a> {
    state: State,
    options: &'a Options,
    started: Vec<String>,
}

impl<'a> Launch<'a> {
    fn new(dir: &Path, options: &'a Options, program: &Path) -> Result<Self> {
        let mut state = match State::load(&State::file(dir))? {
            Some(state) => state,
            None => fresh(dir, program),
        };
        state.program = program.into();
        state.keep_receipt_key()?;
        if options.double && state.settings.clamav_rest_url.is_none() {
            state.settings.clamav_rest_url = Some(http(free_port()));
        }
        if !options.no_daemon && state.settings.daemon_url.is_none() {
            state.settings.daemon_url = Some(http(free_port()));
        }
        Ok(Self { state, options, started: Vec::new() })
    }

    fn run(&mut self) -> Result<()> {
        let daemon = self.daemon_program()?;
        self.ensure("epmd")?;
        self.ensure("rabbitmq")?;
        self.ensure("clamd")?;
        self.ensure("sink")?;
        self.ensure("webhooks")?;
        self.ensure("gateway")?;
        if self.state.settings.clamav_rest_url.is_some() {
            self.ensure("clamav-rest")?;
        }
        self.wait()?;
        runtime::blocking(s3::prepare_bucket(&self.state.settings))?;
        match daemon {
            Some(program) => {
                self.ensure_daemon(&program)?;
                self.wait()?;
            }
            None => self
                .state
                .services
                .retain(|record| record.name != "daemon" || record.process.alive()),
        }
        self.state.save()
    }

    /// The daemon to run, if any. Looked up before anything is started.
    fn daemon_program(&self) -> Result<Option<PathBuf>> {
        if self.options.no_daemon {
            return Ok(None);
        }
        let beside = self.state.program.with_file_name("bucket-av-scanner");
        let program = self.options.daemon.clone().unwrap_or(beside);
        let program = program.canonicalize().context(format!(
            "no daemon at {} (build it, or use --daemon PATH or --no-daemon)",
            program.display()
        ))?;
        Ok(Some(program))
    }

    fn ensure(&mut self, name: &'static str) -> Result<()> {
        match self.state.service_mut(name) {
            Some(record) if record.process.alive() => Ok(()),
            Some(record) => {
                say!("[stack] {name} had died, starting it again");
                record.respawn()?;
                self.note(name)
            }
            None => {
                let plan = match name {
                    "epmd" => rabbitmq::epmd(&self.state),
                    "rabbitmq" => rabbitmq::node(&self.state),
                    "clamd" => clamd::plan(&mut self.state, self.options.no_cache),
                    "sink" => Ok(own::sink(&self.state)),
                    "webhooks" => Ok(own::webhooks(&self.state)),
                    "clamav-rest" => own::clamav_rest(&self.state),
                    _ => gateway::plan(&self.state),
                }
                .context(name)?;
                self.start(plan)
            }
        }
    }

    /// The daemon is the part under test: a newer build or another setting
    /// replaces the one that runs.
    fn ensure_daemon(&mut self, program: &Path) -> Result<()> {
        let plan = daemon::plan(&self.state, program)?;
        if let Some(record) = self.state.service("daemon") {
            if record.process.alive() {
                if record.spec == plan.spec && !record.process.outdated() {
                    return ready::wait(record).map(drop);
                }
                say!("[stack] the daemon's program or settings changed, starting it again");
                record.process.stop(teardown::DRAIN);
            } else {
                say!("[stack] daemon had died, starting it again");
            }
            self.state.services.retain(|record| record.name != "daemon");
        }
        self.start(plan)
    }

    fn start(&mut self, plan: Plan) -> Result<()> {
        let Plan { name, address, spec, ready, patience } = plan;
        let log = self.state.dir.join("log").join(format!("{name}.log"));
        let process = spec.spawn_detached(&log)?;
        let record = Record { name: name.into(), process, address, log, spec, ready, patience };
        self.state.services.push(record);
        self.note(name)
    }

    /// Saves the state at once, so that `stack down` knows the process even after a crash right
    /// now.
    fn note(&mut self, name: &str) -> Result<()> {
        self.started.push(name.into());
        self.state.save()
    }

    /// Waits for everything that was started, in parallel.
    fn wait(&mut self) -> Result<()> {
        let waits: Vec<Result<()>> = std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .state
                .services
                .iter()
                .filter(|record| {
                    // A daemon that was not asked for need not be ready.
                    let named = self.started.contains(&record.name);
                    named || record.name != "daemon" && !ready::is_ready(&record.ready)
                })
                .map(|record| scope.spawn(move || wait_aloud(record)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("a wait does not panic"))
                .collect()
        });
        waits.into_iter().collect()
    }
}

fn wait_aloud(record: &Record) -> Result<()> {
    let took = ready::wait(record)?;
    if took > Duration::from_millis(20) {
        say!("[stack] {} ready in {:.1} s on {}", record.name, took.as_secs_f64(), record.address);
    }
    Ok(())
}

fn http(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn fresh(dir: &Path, program: &Path) -> State {
    let settings = Settings {
        s3_url: http(free_port()),
        s3_access_key: "avscan".into(),
        s3_secret_key: place::random_word(),
        s3_region: "eu-west-1".into(),
        bucket: "storagebucket".into(),
        amqp_host: "127.0.0.1".into(),
        amqp_port: free_port(),
        amqp_user: "avscan".into(),
        amqp_password: place::random_word(),
        amqp_vhost: "/".into(),
        exchange: "s3minioscan".into(),
        routing_key: "bucket_notifications".into(),
        queue: "s3minioqueue".into(),
        clamd_socket: dir.join("clamd/clamd.sock"),
        clamd_tcp: format!("127.0.0.1:{}", free_port()),
        clamav_rest_url: None,
        webhooks_url: http(free_port()),
        intake_address: format!("127.0.0.1:{}", free_port()),
        status_address: format!("127.0.0.1:{}", free_port()),
        intake_token: place::random_word(),
        sink_url: http(free_port()),
        reports: dir.join("reports.jsonl"),
        publish_secret: place::random_signing_secret(),
        receipt_key: dir.join("receipt.pem"),
        daemon_url: None,
        test_signatures_only: false,
    };
    State { dir: dir.into(), program: program.into(), settings, services: Vec::new() }
}
