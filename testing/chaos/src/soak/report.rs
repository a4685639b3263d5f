//! The results of a run: lines for people, a file for programs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use peers::error::{Context, Result};
use serde::Serialize;
use stack::{place, say};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::series::{Figures, Series, Summary};
use super::watch::{Watch, clock};
use crate::tally::Tally;

/// The results.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    date: String,
    seed: u64,
    hours: f64,
    pub(super) passed: bool,
    /// How often each fault was injected.
    faults: BTreeMap<&'static str, usize>,
    #[serde(flatten)]
    pub(super) tally: Tally,
    longest_queue: u32,
    /// What was wrong, one line each.
    wrongs: Vec<String>,
    replicas: Vec<Summary>,
    series: Vec<Series>,
}

impl Report {
    pub(super) fn new(seed: u64, hours: f64) -> Self {
        Self { seed, hours, ..Self::default() }
    }

    pub(super) fn injected(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_default() += 1;
    }

    /// Adds what was seen meanwhile, and judges all.
    pub(super) fn finish(&mut self, watch: &Watch) {
        let seen = watch.seen();
        self.date = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        self.longest_queue = seen.longest_queue;
        self.series.clone_from(&seen.series);
        self.replicas = seen.series.iter().filter_map(Series::summary).collect();
        self.wrongs.clone_from(&self.tally.wrongs);
        for summary in &self.replicas {
            let grown = summary.grown.iter();
            self.wrongs
                .extend(grown.map(|what| format!("the {} replica: {what}", summary.replica)));
        }
        self.passed = self.wrongs.is_empty();
    }

    pub(super) fn print(&self) {
        say!("");
        say!("{}", self.markdown());
    }

    /// Writes `target/chaos/soak.json`, and the same for people beside it.
    pub(super) fn write(&self) -> Result<PathBuf> {
        let folder = place::checkout().join("target/chaos");
        std::fs::create_dir_all(&folder).context(folder.display())?;
        let (json, text) = (folder.join("soak.json"), folder.join("soak.md"));
        let all = serde_json::to_vec_pretty(self).context("soak")?;
        std::fs::write(&json, all).context(json.display())?;
        std::fs::write(&text, self.markdown()).context(text.display())?;
        Ok(text)
    }

    fn markdown(&self) -> String {
        let mut text = String::new();
        let t = &self.tally;
        let faults: Vec<String> =
            self.faults.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let passed = if self.passed { "passed" } else { "FAILED" };
        let counts = [
            ("objects", t.objects),
            ("lost", t.lost),
            ("wrongly deleted", t.wrongly_deleted),
            ("wrongly tagged", t.wrongly_tagged),
            ("clean, unscanned", t.called_clean_unscanned),
            ("reports missing", t.reports_missing),
            ("reports twice", t.duplicate_reports),
            ("parked", t.dead_lettered),
            ("panics", t.panics),
            ("most requests for an object", t.requests),
        ];
        let mut line = |line: String| text.extend([line, "\n".to_owned()]);
        line(format!("# Soak of {} h, SEED={}: {passed}\n", self.hours, self.seed));
        line(format!("{}. Faults: {}.", self.date, faults.join(", ")));
        line(format!("The most messages that waited: {}.\n", self.longest_queue));
        line("| what | count |\n|---|--:|".to_owned());
        for (name, count) in counts {
            line(format!("| {name} | {count} |"));
        }
        line("\nFirst, median, last and highest of each process:\n".to_owned());
        line("| replica | from | to | memory, KiB | descriptors | threads | flat |".to_owned());
        line("|---|--:|--:|---|---|---|---|".to_owned());
        for one in &self.replicas {
            let at = |seconds: u64| clock(Duration::from_secs(seconds));
            let flat = match (one.is_judged, one.grown.is_empty()) {
                (false, _) => "too short to say",
                (true, true) => "yes",
                (true, false) => "NO",
            };
            let figures = [one.rss_kib, one.descriptors, one.threads].map(cells).join(" | ");
            let (from, to) = (at(one.from), at(one.to));
            line(format!("| {} | {from} | {to} | {figures} | {flat} |", one.replica));
        }
        if !self.replicas.iter().any(|one| one.is_judged) {
            line("\nNo process ran for ten minutes: nothing is said about growth.".to_owned());
        }
        if !self.wrongs.is_empty() {
            line("\nWrong:\n".to_owned());
        }
        for wrong in &self.wrongs {
            line(format!("- {wrong}"));
        }
        text
    }
}

fn cells(figures: Figures) -> String {
    let Figures { first, median, last, highest, .. } = figures;
    format!("{first}, {median}, {last}, {highest}")
}
