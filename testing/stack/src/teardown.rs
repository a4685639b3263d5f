//! Stops a stack, with every process of it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use peers::error::{Context, Result};
use rustix::process::Signal;

use crate::place;
use crate::process::Identity;
use crate::state::State;

/// For the daemon to finish the objects in progress.
pub(crate) const DRAIN: Duration = Duration::from_secs(35);

/// For everything else, which has nothing to finish.
const GRACE: Duration = Duration::from_secs(10);

/// Stops the stack in `dir` and removes its data; returns whether there was one.
///
/// # Errors
/// When the state cannot be read or the data cannot be removed.
pub fn down(dir: &Path) -> Result<bool> {
    if !place::is_stack(dir) {
        return Ok(false);
    }
    let held = place::lock(dir)?;
    let state = State::load(&State::file(dir))?;
    if let Some(state) = &state {
        stop_guests(dir);
        let all: Vec<String> = state.services.iter().map(|record| record.name.clone()).collect();
        stop_all(state, &all);
    }
    clear(dir)?;
    fs::remove_dir(dir).context(dir.display())?;
    // Removed while still locked: another command that waits for the lock then holds an unlinked
    // file, and starts from an empty folder, which is correct.
    drop(fs::remove_file(format!("{}.lock", dir.display())));
    drop(held);
    Ok(state.is_some())
}

/// Stops the named services: the daemon first, the broker and its port mapper last, all others in
/// parallel in between.
pub(crate) fn stop_all(state: &State, names: &[String]) {
    let wanted = |name: &str| names.iter().any(|wanted| wanted == name);
    let process = |name: &str| state.service(name).map(|record| record.process);
    if let Some(daemon) = process("daemon").filter(|_| wanted("daemon")) {
        daemon.stop(DRAIN);
    }
    let last = ["rabbitmq", "epmd"];
    let middle: Vec<Identity> = state
        .services
        .iter()
        .filter(|record| {
            wanted(&record.name) && record.name != "daemon" && !last.contains(&&*record.name)
        })
        .map(|record| record.process)
        .collect();
    std::thread::scope(|scope| {
        for process in middle {
            scope.spawn(move || process.stop(GRACE));
        }
    });
    for name in last {
        if let Some(process) = process(name).filter(|_| wanted(name)) {
            process.stop(GRACE);
        }
    }
}

/// Stops daemons of tests that ended without stopping them.
fn stop_guests(dir: &Path) {
    for entry in dir.join("guests").read_dir().into_iter().flatten().flatten() {
        let text = fs::read(entry.path()).unwrap_or_default();
        if let Ok(process) = serde_json::from_slice::<Identity>(&text)
            && process.signal(Signal::KILL)
            && !process.gone_within(GRACE)
        {
            eprintln!("[stack] process {} does not end", process.pid);
        }
    }
}

/// Removes the state file, so that the next start is a fresh one.
pub(crate) fn forget(dir: &Path) -> Result<()> {
    for file in [State::file(dir), dir.join("env.sh")] {
        if file.exists() {
            fs::remove_file(&file).context(file.display())?;
        }
    }
    Ok(())
}

/// Removes everything in `dir`.
pub(crate) fn clear(dir: &Path) -> Result<()> {
    for entry in dir.read_dir().context(dir.display())? {
        let path = entry.context(dir.display())?.path();
        let gone = if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        gone.context(path.display())?;
    }
    Ok(())
}
