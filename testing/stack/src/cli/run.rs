//! `stack run`: a command inside a fresh stack, which is always torn down.

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use peers::error::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::signal::unix::{SignalKind, signal};

use super::current::own_program;
use crate::launch::{self, Options};
use crate::state::State;
use crate::{place, teardown};

/// For the command to end after Ctrl-C.
const GRACE: Duration = Duration::from_secs(10);

/// The signal that ended this program, if one did.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// Calls `act` with every SIGINT, SIGTERM and SIGHUP from now on.
pub(super) fn on_signal(act: impl Fn(i32) + Send + 'static) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    let (ready, listening) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let of = |kind| signal(kind).context("signals");
            let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) = (
                of(SignalKind::interrupt()),
                of(SignalKind::terminate()),
                of(SignalKind::hangup()),
            ) else {
                return;
            };
            if ready.send(()).is_err() {
                return;
            }
            loop {
                tokio::select! {
                    _ = interrupt.recv() => act(2),
                    _ = terminate.recv() => act(15),
                    _ = hangup.recv() => act(1),
                }
            }
        });
    });
    listening.recv().context("signals")
}

pub(super) fn run(options: &Options, command: &[String]) -> Result<ExitCode> {
    on_signal(|number| {
        SIGNAL.store(number, Ordering::Relaxed);
        place::interrupt();
    })?;
    let parent = std::env::temp_dir();
    let dir = tempfile::Builder::new()
        .prefix("avscan-stack-")
        .tempdir_in(parent)
        .context("temporary folder")?;
    let run = dir.path().join("run");
    let outcome = inside(&run, options, command);
    let failed = !matches!(outcome, Ok(0));
    if failed {
        keep_logs(&run);
    }
    teardown::down(&run)?;
    let code = match SIGNAL.load(Ordering::Relaxed) {
        0 => outcome?,
        signal => 128 + signal,
    };
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// Starts the stack, runs the command, returns its exit code.
fn inside(dir: &Path, options: &Options, command: &[String]) -> Result<i32> {
    let state = launch::up(dir, options, &own_program()?)?;
    let (program, args) = command.split_first().context("a command is missing")?;
    // In a group of its own, so that a signal to this program's group does not reach the command:
    // this program decides when it ends.
    let mut child = Command::new(program)
        .args(args)
        .envs(state.exports())
        .process_group(0)
        .spawn()
        .context(program)?;
    say!("[stack] running {}", command.join(" "));
    let code = wait(&mut child)?;
    say!("[stack] {program} ended with {code}");
    Ok(code)
}

fn wait(child: &mut Child) -> Result<i32> {
    let mut asked_at: Option<Instant> = None;
    loop {
        if let Some(status) = child.try_wait().context("command")? {
            // Processes that the command started and left behind.
            signal_group(child, Signal::KILL);
            let own = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            return Ok(own);
        }
        match asked_at {
            None if place::interrupted() => {
                signal_group(child, Signal::TERM);
                asked_at = Some(Instant::now());
            }
            Some(then) if then.elapsed() > GRACE => signal_group(child, Signal::KILL),
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn signal_group(child: &Child, signal: Signal) {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // An error means that the group is empty.
    let _sent = group.is_some_and(|group| kill_process_group(group, signal).is_ok());
}

/// Keeps the logs that may explain why the command failed.
fn keep_logs(dir: &Path) {
    let kept = place::checkout().join(".stack/last-failure");
    // The logs of an earlier failure are not needed any more.
    drop(fs::remove_dir_all(&kept));
    let copied = copy(&dir.join("log"), &kept.join("log"))
        .and_then(|()| copy(&dir.join("daemons"), &kept.join("daemons")));
    let reports = dir.join("reports.jsonl");
    if reports.is_file() {
        drop(fs::copy(&reports, kept.join("reports.jsonl")));
    }
    match copied {
        Ok(()) => say!("[stack] the logs are kept in {}", kept.display()),
        Err(error) => eprintln!("[stack] the logs could not be kept: {error}"),
    }
    if let Ok(Some(state)) = State::load(&State::file(dir)) {
        for record in state.services.iter().filter(|record| !record.process.alive()) {
            say!("[stack] {} was no longer running", record.name);
        }
    }
}

/// Copies log files, and the folders they are in.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut folders: Vec<(PathBuf, PathBuf)> = vec![(from.into(), to.into())];
    while let Some((from, to)) = folders.pop() {
        for entry in from.read_dir().into_iter().flatten().flatten() {
            let (source, target) = (entry.path(), to.join(entry.file_name()));
            if source.is_dir() {
                folders.push((source, target));
            } else if source.extension().is_some_and(|kind| kind == "log") {
                fs::create_dir_all(&to).context(to.display())?;
                fs::copy(&source, &target).context(target.display())?;
            }
        }
    }
    Ok(())
}
