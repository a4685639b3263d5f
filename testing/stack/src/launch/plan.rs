//! What is needed to start a service.

use std::fs;
use std::path::Path;

use peers::error::{Context, Result};

use crate::process::Spec;
use crate::state::Ready;

/// A service that can be started: a `Record` before it has a process.
pub(super) struct Plan {
    pub(super) name: &'static str,
    pub(super) address: String,
    pub(super) spec: Spec,
    pub(super) ready: Ready,
    pub(super) patience: u64,
}

/// Writes a configuration file; its folder is made if it is missing.
pub(super) fn write(file: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    let folder = file.parent().context("a file has a folder")?;
    fs::create_dir_all(folder).context(folder.display())?;
    fs::write(file, text).context(file.display())
}
