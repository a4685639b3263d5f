//! The result for a terminal.

use std::fmt;

use super::summary::Summary;
use super::tally::Example;
use crate::quantity::{bytes, count, share};

/// The result as lines of text. What others chose in it is escaped.
pub(super) struct Text<'a>(pub(super) &'a Summary);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_all(f, self.0)
    }
}

fn write_all(text: &mut fmt::Formatter<'_>, summary: &Summary) -> fmt::Result {
    let Summary { began, ended, .. } = summary;
    writeln!(text, "{}, {began} to {ended}", summary.targets.join(", "))?;
    writeln!(text, "{}", summary.sentence)?;
    writeln!(text, "\n{:<14} {:>13} {:>8} {:>12}", "standing", "objects", "share", "size")?;
    let mut row = |name: &str, objects: u64, size: u64| {
        let share = share(objects, summary.objects);
        writeln!(text, "{name:<14} {:>13} {share:>8} {:>12}", count(objects), bytes(size))
    };
    for standing in &summary.standings {
        row(standing.standing, standing.objects, standing.bytes)?;
    }
    for unknown in &summary.not_found_out {
        row("not found out", unknown.objects, unknown.bytes)?;
    }
    row("all", summary.objects, summary.bytes)?;
    if summary.gone > 0 {
        writeln!(text, "{} objects were removed meanwhile", count(summary.gone))?;
    }
    if summary.folders > 0 {
        writeln!(text, "{} folders have no bytes", count(summary.folders))?;
    }
    if !summary.databases.is_empty() {
        writeln!(text, "\n{:<14} {:>13} {:>8}  of", "database", "receipts", "share")?;
        let all: u64 = summary.databases.iter().map(|row| row.receipts).sum();
        let all = all + summary.other_databases;
        for row in &summary.databases {
            let (receipts, share) = (count(row.receipts), share(row.receipts, all));
            let (name, date) = (row.name(), row.dated());
            writeln!(text, "{name:<14} {receipts:>13} {share:>8}  {date}")?;
        }
        if summary.other_databases > 0 {
            let (receipts, share) =
                (count(summary.other_databases), share(summary.other_databases, all));
            writeln!(text, "{:<14} {receipts:>13} {share:>8}", "older")?;
        }
    }
    writeln!(text, "{}", summary.freshness)?;
    for standing in &summary.standings {
        examples(text, standing.standing, standing.meaning, &standing.examples)?;
    }
    for unknown in &summary.not_found_out {
        examples(text, "not found out", unknown.reason, &unknown.examples)?;
    }
    if let Some(parked) = &summary.parked {
        writeln!(text, "\n{}", parked.line)?;
    }
    if let Some(interrupted) = &summary.interrupted {
        writeln!(text, "\ninterrupted: {}\ngo on with: {}", interrupted.why, interrupted.go_on)?;
    }
    Ok(())
}

fn examples(
    text: &mut fmt::Formatter<'_>,
    name: &str,
    meaning: &str,
    examples: &[Example],
) -> fmt::Result {
    if examples.is_empty() {
        return Ok(());
    }
    writeln!(text, "\n{name}: {meaning}")?;
    examples.iter().try_for_each(|Example { address, why }| writeln!(text, "  {address}: {why}"))
}
