//! What a user sees of a stack.

use std::path::Path;
use std::process::ExitCode;

use peers::error::Result;

use crate::ready;
use crate::state::State;

/// Prints one line per service.
pub(super) fn status(dir: &Path) -> Result<ExitCode> {
    let Some(state) = State::load(&State::file(dir))? else {
        say!("[stack] no stack is up in {}", dir.display());
        return Ok(ExitCode::FAILURE);
    };
    let mut all_up = true;
    for record in &state.services {
        let word = match (record.process.alive(), ready::is_ready(&record.ready)) {
            (true, true) => "up",
            (true, false) => "not ready",
            (false, _) => "down",
        };
        all_up &= word == "up";
        say!("{:<12} {word:<10} pid {:<8} {}", record.name, record.process.pid, record.address);
    }
    Ok(if all_up { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints where everything is, and what to try.
pub(super) fn whereabouts(state: &State) {
    let cut = |path: &Path| {
        let here = std::env::current_dir().unwrap_or_default();
        path.strip_prefix(here).unwrap_or(path).display().to_string()
    };
    say!("");
    say!("{:<12} {:<22} log", "service", "address");
    for record in &state.services {
        say!("{:<12} {:<22} {}", record.name, record.address, cut(&record.log));
    }
    if state.settings.test_signatures_only {
        say!("\nThe engine has no signature but the EICAR test signature.");
    }
    let program = cut(&state.program);
    let program = if program.starts_with('/') { program } else { format!("./{program}") };
    say!("\nAll addresses and secrets: . {}", cut(&state.dir.join("env.sh")));
    say!("\nTry:");
    say!("  {program} demo");
    say!(
        "  echo hello | {program} s3 put - hello.txt && {program} reports --key hello.txt --wait 30"
    );
    match &state.settings.daemon_url {
        Some(url) => {
            say!("  curl {url}/readyz");
            say!("  open http://{} in a browser: the status page", state.settings.status_address);
        }
        None => say!("  {program} s3 ls"),
    }
}
