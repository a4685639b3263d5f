//! Processes that outlive their parent, identified so that no other process is signalled.
//!
//! The kernel reuses pids, so a pid alone is no identity. Every process that is started here is
//! recorded with its start time, and is signalled only while both match.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use peers::error::{Context, Result};
use procfs::process::Process;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// The identity of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The process id.
    pub pid: u32,
    /// Start time in clock ticks since boot: differs between two processes with the same pid.
    pub started: u64,
}

impl Identity {
    /// The process that has `pid` now, unless it is gone or a zombie.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = process(pid).ok()?.stat().ok()?;
        (!matches!(stat.state, 'Z' | 'X')).then_some(Self { pid, started: stat.starttime })
    }

    /// Whether this process still runs.
    #[must_use]
    pub fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Signals the process if it still runs; returns whether the signal was sent.
    #[must_use = "the process may be gone"]
    pub fn signal(self, signal: Signal) -> bool {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return false;
        };
        self.alive() && kill_process(pid, signal).is_ok()
    }

    /// Waits until the process has ended; `false` when it still runs after `limit`.
    #[must_use = "the process may still run"]
    pub fn gone_within(self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.alive() {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// Sends SIGTERM, and after `grace` SIGKILL.
    pub fn stop(self, grace: Duration) {
        // A stopped process handles SIGTERM only after SIGCONT.
        if self.signal(Signal::TERM) && self.signal(Signal::CONT) && self.gone_within(grace) {
            return;
        }
        if self.signal(Signal::KILL) && !self.gone_within(Duration::from_secs(5)) {
            eprintln!("[stack] process {} does not end", self.pid);
        }
    }

    /// Whether the program file was replaced after the process had started.
    #[must_use]
    pub fn outdated(self) -> bool {
        fs::read_link(format!("/proc/{}/exe", self.pid))
            .is_ok_and(|exe| exe.to_string_lossy().ends_with(" (deleted)"))
    }
}

/// The kernel's information about a process.
///
/// # Errors
/// When there is no such process.
pub fn process(pid: u32) -> Result<Process> {
    let pid = i32::try_from(pid).context("process id")?;
    Process::new(pid).context(format!("process {pid}"))
}

/// The processor time that a process has used. That of its children does not count.
///
/// # Errors
/// When there is no such process.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = process(pid)?.stat().context("processor time")?;
    let ticks = stat.utime + stat.stime;
    Ok(Duration::from_millis(ticks * 1000 / procfs::ticks_per_second()))
}

/// Everything that is needed to start a process again in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The program: a full path, or a name to be found on `PATH`.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment. Nothing is inherited.
    pub env: BTreeMap<String, String>,
    /// Its working folder.
    pub cwd: PathBuf,
}

impl Spec {
    /// A command with nothing but `PATH`, `HOME` and a UTF-8 locale.
    pub fn new(program: impl Into<PathBuf>, cwd: &Path) -> Self {
        let mut spec = Self {
            program: program.into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            cwd: cwd.into(),
        };
        let path = std::env::var("PATH").unwrap_or_default();
        // Many daemons are in sbin, which is not on an ordinary user's path.
        spec = spec.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"));
        spec.env("HOME", std::env::var("HOME").unwrap_or_else(|_| "/".into()))
            .env("LANG", "C.UTF-8")
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments that are separated by spaces.
    #[must_use]
    pub fn args(mut self, args: &str) -> Self {
        self.args.extend(args.split_ascii_whitespace().map(String::from));
        self
    }

    /// Sets one variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// The command, to be run in the foreground.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        self.settle(&mut command);
        command
    }

    fn settle(&self, command: &mut Command) {
        command.env_clear().envs(&self.env).current_dir(&self.cwd).stdin(Stdio::null());
    }

    /// Starts the process in a session of its own, with its output going to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be started.
    pub fn spawn_detached(&self, log: &Path) -> Result<Identity> {
        let output =
            fs::File::options().create(true).append(true).open(log).context(log.display())?;
        // `setsid` replaces itself with the program without a fork, because a new child does not
        // lead a process group; so the pid stays the same. Without `setsid`, a process group of its
        // own keeps Ctrl-C away. Open descriptors of a caller (a pipe, a lock) are closed: the
        // service would hold them for its whole life, and the caller would wait for it.
        let mut command = if let Some(setsid) = which("setsid") {
            let mut command = Command::new(setsid);
            let close = "for fd in /proc/self/fd/*; do fd=${fd##*/}; \
                         [ \"$fd\" -gt 2 ] && eval \"exec $fd>&-\"; done; exec \"$@\"";
            command.args(["bash", "-c", close, "bash"]).arg(&self.program).args(&self.args);
            command
        } else {
            let mut command = self.command();
            command.process_group(0);
            command
        };
        self.settle(&mut command);
        command.stdout(output.try_clone().context(log.display())?).stderr(output);
        let child = command.spawn().context(self.program.display())?;
        Identity::of(child.id()).context(format!("{} ended at once", self.program.display()))
    }
}

/// The path of a program, searched on `PATH` and in the folders of daemons.
#[must_use]
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")
        .split(':')
        .map(|folder| Path::new(folder).join(program))
        .find(|file| file.is_file())
}

/// The last `lines` lines of a log, for a message about a failure.
#[must_use]
pub fn tail(log: &Path, lines: usize) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| format!("    {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recycled_pid_is_not_the_same_process() {
        let own = Identity::of(std::process::id()).unwrap();
        assert!(own.alive());
        assert!(!Identity { started: own.started + 1, ..own }.alive());
    }
}
