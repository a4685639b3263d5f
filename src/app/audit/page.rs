//! The result as one page of HTML, for who signs it off.

use askama::Template;

use super::quantity::{bytes, count, permille, share};
use super::summary::{Conclusion, DatabaseRow, StandingRow, Summary, UnknownRow};
use super::tally::Example;
use crate::receipt::Standing;

/// The least width of a part of the bar of all objects, of 1000.
const MIN_WIDTH: u64 = 6;
/// The class of what could not be found out.
const UNKNOWN: &str = "unknown";

/// The page. What others chose in it was escaped when the summary was made, and is again by the
/// template.
#[derive(Template)]
#[template(path = "audit.html")]
struct Page<'a> {
    summary: &'a Summary,
    /// The class of the conclusion.
    mood: &'static str,
    facts: Vec<(&'static str, String)>,
    rows: Vec<Row<'a>>,
    segments: Vec<Segment>,
    databases: Vec<Database<'a>>,
}

/// Objects of one kind.
struct Row<'a> {
    class: &'static str,
    name: String,
    meaning: &'static str,
    is_empty: bool,
    objects: String,
    share: String,
    size: String,
    /// Of 1000.
    width: u64,
    examples: &'a [Example],
}

/// A part of the bar of all objects.
struct Segment {
    class: &'static str,
    /// Where it begins, of 1000.
    x: u64,
    width: u64,
}

/// Receipts by one database.
struct Database<'a> {
    name: String,
    date: &'a str,
    receipts: String,
    share: String,
    /// Of 1000.
    width: u64,
}

/// The summary as a page: one file, without scripts, that loads nothing.
///
/// # Errors
/// When the page cannot be made, which is a bug.
pub(super) fn html(summary: &Summary) -> Result<String, String> {
    let mood = match summary.conclusion {
        Conclusion::Verified => "good",
        Conclusion::NotVerified => "bad",
        Conclusion::NotFoundOut | Conclusion::Interrupted => "open",
    };
    let standings = summary.standings.iter().map(|row| Row::of_standing(row, summary));
    let unknown = summary.not_found_out.iter().map(|row| Row::of_unknown(row, summary));
    let page = Page {
        summary,
        mood,
        facts: facts(summary),
        rows: standings.chain(unknown).collect(),
        segments: segments(summary),
        databases: databases(summary),
    };
    page.render().map_err(|error| format!("the page cannot be made: {error}"))
}

impl Page<'_> {
    fn has_examples(&self) -> bool {
        self.rows.iter().any(|row| !row.examples.is_empty())
    }
}

impl<'a> Row<'a> {
    fn of_standing(row: &'a StandingRow, summary: &Summary) -> Self {
        Self {
            class: row.standing,
            name: row.standing.to_owned(),
            meaning: row.meaning,
            is_empty: row.objects == 0,
            objects: count(row.objects),
            share: share(row.objects, summary.objects),
            size: bytes(row.bytes),
            width: permille(row.objects, summary.objects),
            examples: &row.examples,
        }
    }

    fn of_unknown(row: &'a UnknownRow, summary: &Summary) -> Self {
        Self {
            class: UNKNOWN,
            name: format!("not found out: {}", row.reason),
            meaning: "the store did not say what is needed to know it",
            is_empty: false,
            objects: count(row.objects),
            share: share(row.objects, summary.objects),
            size: bytes(row.bytes),
            width: permille(row.objects, summary.objects),
            examples: &row.examples,
        }
    }
}

fn facts(summary: &Summary) -> Vec<(&'static str, String)> {
    let verified = Standing::Verified.into_str();
    let verified = summary.standings.iter().find(|row| row.standing == verified);
    let verified = verified.map_or(0, |row| row.objects);
    let mut facts = vec![
        ("objects", count(summary.objects)),
        ("size", bytes(summary.bytes)),
        ("verified clean", share(verified, summary.objects)),
    ];
    if summary.gone > 0 {
        facts.push(("removed meanwhile", count(summary.gone)));
    }
    if let Some(messages) = summary.parked.as_ref().and_then(|parked| parked.messages) {
        facts.push(("parked notifications", count(messages.into())));
    }
    facts
}

/// The parts of the bar. Small ones are drawn wider than they are, so that they can be seen, and the
/// largest one that much narrower.
fn segments(summary: &Summary) -> Vec<Segment> {
    let standings = summary.standings.iter().map(|row| (row.standing, row.objects));
    let unknown = summary.not_found_out.iter().map(|row| (UNKNOWN, row.objects));
    let parts: Vec<_> = standings.chain(unknown).filter(|(_, objects)| *objects > 0).collect();
    let width = |objects: u64| permille(objects, summary.objects).max(MIN_WIDTH);
    let mut widths: Vec<u64> = parts.iter().map(|(_, objects)| width(*objects)).collect();
    let sum: u64 = widths.iter().sum();
    if let Some(largest) = widths.iter_mut().max() {
        *largest = (*largest + 1000).saturating_sub(sum);
    }
    let mut x = 0;
    let segments = parts.into_iter().zip(widths).map(|((class, _), width)| {
        let segment = Segment { class, x, width };
        x += width;
        segment
    });
    segments.collect()
}

fn databases(summary: &Summary) -> Vec<Database<'_>> {
    let named: u64 = summary.databases.iter().map(|row| row.receipts).sum();
    let all = named + summary.other_databases;
    let row = |name: String, date, receipts| Database {
        name,
        date,
        receipts: count(receipts),
        share: share(receipts, all),
        width: permille(receipts, all),
    };
    let mut rows: Vec<_> = summary
        .databases
        .iter()
        .map(|database: &DatabaseRow| {
            let date = database.date.as_deref().unwrap_or("an unknown date");
            row(database.name(), date, database.receipts)
        })
        .collect();
    if summary.other_databases > 0 {
        rows.push(row("older".to_owned(), "", summary.other_databases));
    }
    rows
}
