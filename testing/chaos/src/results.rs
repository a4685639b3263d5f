//! The results: a table for people, a file for programs.

use std::path::PathBuf;
use std::time::Duration;

use peers::error::{Context, Result};
use serde::Serialize;
use stack::{place, say};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::tally::Tally;

/// One scenario's row.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) scenario: &'static str,
    pub(super) what: &'static str,
    pub(super) passed: bool,
    pub(super) seconds: f64,
    /// What was wrong, one line each.
    pub(super) wrongs: Vec<String>,
    #[serde(flatten)]
    pub(super) tally: Tally,
}

#[derive(Serialize)]
struct Results<'a> {
    date: String,
    seed: u64,
    passed: bool,
    /// From a HEAD to the answer of the DELETE, in milliseconds.
    delete_window_ms: Option<Spread>,
    scenarios: &'a [Row],
}

/// Median, 99th percentile and longest of some times, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Spread {
    pub(super) count: usize,
    pub(super) median: f64,
    pub(super) p99: f64,
    pub(super) longest: f64,
}

impl Spread {
    pub(super) fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort();
        let at = |share: usize| {
            let time = times.get((times.len() * share / 100).min(times.len().checked_sub(1)?))?;
            Some((time.as_secs_f64() * 100_000.0).round() / 100.0)
        };
        Some(Self { count: times.len(), median: at(50)?, p99: at(99)?, longest: at(100)? })
    }
}

const HEAD: [&str; 13] = [
    "scenario",
    "objects",
    "lost",
    "deleted",
    "tagged",
    "unscanned",
    "reports",
    "twice",
    "parked",
    "window",
    "requests",
    "back ms",
    "s",
];
const WIDTHS: [usize; 13] = [26, 8, 5, 8, 7, 10, 8, 6, 7, 7, 9, 8, 5];

pub(super) fn head() {
    say!("");
    say!("                                   wrongly      clean,   missing");
    say!("{}", line(&HEAD.map(str::to_owned)));
}

pub(super) fn print(row: &Row) {
    let t = &row.tally;
    let cells = [
        row.scenario.to_owned(),
        t.objects.to_string(),
        t.lost.to_string(),
        t.wrongly_deleted.to_string(),
        t.wrongly_tagged.to_string(),
        t.called_clean_unscanned.to_string(),
        t.reports_missing.to_string(),
        t.duplicate_reports.to_string(),
        t.dead_lettered.to_string(),
        t.in_documented_window.to_string(),
        t.requests.to_string(),
        t.recovery_ms.map_or("-".to_owned(), |recovery| recovery.to_string()),
        format!("{:.0}", row.seconds),
    ];
    say!("{}{}", line(&cells), if row.passed { "" } else { "  FAILED" });
    for wrong in row.wrongs.iter().take(12) {
        say!("    {wrong}");
    }
    if row.wrongs.len() > 12 {
        say!("    and {} more, see the file", row.wrongs.len() - 12);
    }
}

fn line(cells: &[String; 13]) -> String {
    let padded = cells.iter().zip(WIDTHS).enumerate().map(|(at, (cell, width))| {
        if at == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
    });
    padded.collect::<String>()
}

/// Writes `target/chaos/results.json`, and the same as a Markdown table beside it.
pub(super) fn write(rows: &[Row], seed: u64, window: Option<Spread>) -> Result<PathBuf> {
    let folder = place::checkout().join("target/chaos");
    std::fs::create_dir_all(&folder).context(folder.display())?;
    let file = folder.join("results.json");
    let results = Results {
        date: OffsetDateTime::now_utc().format(&Rfc3339).context("date")?,
        seed,
        passed: rows.iter().all(|row| row.passed),
        delete_window_ms: window,
        scenarios: rows,
    };
    let json = serde_json::to_vec_pretty(&results).context("results")?;
    std::fs::write(&file, json).context(file.display())?;
    let table = folder.join("results.md");
    std::fs::write(&table, markdown(rows)).context(table.display())?;
    Ok(file)
}

/// The table for `docs/RELIABILITY.md`.
fn markdown(rows: &[Row]) -> String {
    let head = "| scenario | fault | objects | lost | wrongly deleted | wrongly tagged | clean, \
                unscanned | reports missing | reports twice | parked | in the window | \
                requests | recovery, ms |\n\
                |---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";
    let lines = rows.iter().map(|Row { scenario, what, tally: t, passed, .. }| {
        let failed = if *passed { "" } else { " **FAILED**" };
        let counts = [
            t.objects,
            t.lost,
            t.wrongly_deleted,
            t.wrongly_tagged,
            t.called_clean_unscanned,
            t.reports_missing,
            t.duplicate_reports,
            t.dead_lettered,
            t.in_documented_window,
            t.requests,
        ];
        let counts = counts.map(|count| count.to_string()).join(" | ");
        let recovery = t.recovery_ms.map_or("–".to_owned(), |recovery| recovery.to_string());
        format!("| `{scenario}`{failed} | {what} | {counts} | {recovery} |\n")
    });
    std::iter::once(head.to_owned()).chain(lines).collect()
}
