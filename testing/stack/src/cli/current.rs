//! The stack that a command is about, and the program that runs.

use std::path::{Path, PathBuf};

use peers::error::{Context, Error, Result};

use crate::place;
use crate::state::State;

/// The stack for commands that need one.
pub(super) fn current() -> Result<State> {
    let file = match std::env::var_os("AVSCAN_STACK").filter(|file| !file.is_empty()) {
        Some(file) => PathBuf::from(file),
        None => State::file(&place::stack_dir()?),
    };
    State::load(&file)?.ok_or_else(|| not_up(&file))
}

fn not_up(file: &Path) -> Error {
    Error::new(format!("no stack is up ({} is missing): run `make up`", file.display()))
}

/// The file of the program that runs.
pub(super) fn own_program() -> Result<PathBuf> {
    let program = std::env::current_exe().context("this program")?;
    // The file was replaced by a new build, which has the old path.
    let text = program.to_string_lossy().into_owned();
    Ok(text.strip_suffix(" (deleted)").map_or(program, PathBuf::from))
}
