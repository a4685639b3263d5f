//! The results as files: tables and plots for people, JSON for programs.

mod plot;
mod table;

use std::path::PathBuf;

use peers::error::{Context, Result};
use stack::place;

pub(super) use self::table::{number, spread};
use crate::results::Results;

/// Writes `target/bench/results.json`, and the tables and the plots beside it.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn write(results: &Results) -> Result<PathBuf> {
    let folder = place::checkout().join("target/bench");
    std::fs::create_dir_all(&folder).context(folder.display())?;
    let put = |name: &str, text: Vec<u8>| {
        let file = folder.join(name);
        std::fs::write(&file, text).context(file.display()).map(|()| file)
    };
    put("results.md", table::markdown(results)?.into_bytes())?;
    if !results.cases.is_empty() {
        put("results.svg", plot::cases(&results.cases)?.into_bytes())?;
    }
    if let Some(backlog) = &results.backlog {
        put("backlog.svg", plot::backlog(backlog)?.into_bytes())?;
    }
    put("results.json", serde_json::to_vec_pretty(results).context("results")?)
}
