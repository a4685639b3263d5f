//! The result as one page of HTML, for who signs it off.

use askama::Template;

use super::summary::{Conclusion, DatabaseRow, StandingRow, Summary, UnknownRow};
use super::tally::Example;
use crate::quantity::{bytes, count, permille, share};
use crate::receipt::Standing;

/// The least width of what is drawn, of 1000.
const MIN_WIDTH: u64 = 6;
/// The class of what could not be found out.
const UNKNOWN: &str = "unknown";

/// The page. What others chose in it was escaped when the summary was made, and is again by the
/// template.
#[derive(Template)]
#[template(path = "audit.html", config = "src/app/audit/askama.toml")]
struct Page<'a> {
    summary: &'a Summary,
    /// The class of the conclusion.
    mood: &'static str,
    facts: Vec<(&'static str, String)>,
    rows: Vec<Row<'a>>,
    segments: Vec<Segment>,
    databases: Vec<Database>,
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
struct Database {
    name: String,
    date: String,
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
            width: width(row.objects, summary.objects),
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
            width: width(row.objects, summary.objects),
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
    if summary.folders > 0 {
        facts.push(("folders, without bytes", count(summary.folders)));
    }
    if let Some(messages) = summary.parked.as_ref().and_then(|parked| parked.messages) {
        facts.push(("parked notifications", count(messages.into())));
    }
    facts
}

/// The width of a bar, of 1000. What is there can be seen.
fn width(part: u64, whole: u64) -> u64 {
    match permille(part, whole) {
        0 => 0,
        width => width.max(MIN_WIDTH),
    }
}

/// The parts of the bar. Small ones are drawn wider than they are, so that they can be seen, and the
/// largest one that much narrower.
fn segments(summary: &Summary) -> Vec<Segment> {
    let standings = summary.standings.iter().map(|row| (row.standing, row.objects));
    let unknown = summary.not_found_out.iter().map(|row| (UNKNOWN, row.objects));
    let parts: Vec<_> = standings.chain(unknown).filter(|(_, objects)| *objects > 0).collect();
    let mut widths: Vec<u64> =
        parts.iter().map(|(_, objects)| width(*objects, summary.objects)).collect();
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

fn databases(summary: &Summary) -> Vec<Database> {
    let named: u64 = summary.databases.iter().map(|row| row.receipts).sum();
    let all = named + summary.other_databases;
    let row = |name: String, date, receipts| Database {
        name,
        date,
        receipts: count(receipts),
        share: share(receipts, all),
        width: width(receipts, all),
    };
    let mut rows: Vec<_> = summary
        .databases
        .iter()
        .map(|database: &DatabaseRow| row(database.name(), database.dated(), database.receipts))
        .collect();
    if summary.other_databases > 0 {
        rows.push(row("older".to_owned(), String::new(), summary.other_databases));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::super::parked::Parked;
    use super::super::summary::Interrupted;
    use super::super::tally::{Group, Tally};
    use super::super::{summarize, summary};
    use super::*;
    use crate::app::audit::Audit;

    fn summary(interrupted: Option<Interrupted>) -> Summary {
        let mut tally = Tally::default();
        let example = |number: usize| Example {
            address: format!("s3://uploads/inbox/<script>{number}</script> & \"quoted\".pdf"),
            why: "no receipt is about these bytes".to_owned(),
        };
        for (standing, objects, examples) in [
            (Standing::Verified, 1_234_567, 0),
            (Standing::Never, 12, 5),
            (Standing::Infected, 1, 1),
        ] {
            let examples = (0..examples).map(example).collect();
            tally.standings.insert(standing, Group { objects, bytes: objects << 20, examples });
        }
        for (version, date, receipts) in [(27_812, 1_795_854_420, 9), (27_811, 1_795_768_020, 1)] {
            let database = format!("{version}@{date}").parse().unwrap();
            tally.databases.insert(database, receipts * 123_456);
        }
        let unknown = Group { objects: 3, bytes: 42, examples: vec![example(7)] };
        tally.unknown.insert("store_denied", unknown);
        let what = Audit {
            targets: vec!["uploads/inbox/".parse().unwrap(), "<b>".parse().unwrap()],
            current_only: false,
            hash: true,
            list: None,
            json: None,
            csv: None,
            html: None,
            after: None,
            public_key: None,
        };
        let line = "3 notifications are parked in queue.dead".to_owned();
        let parked = Some(Parked { messages: Some(3), line });
        let freshness = "clean counts by database 27812 or a newer one".to_owned();
        summarize(&what, tally, std::time::SystemTime::now(), freshness, interrupted, parked)
    }

    #[test]
    fn a_page_loads_nothing_and_runs_nothing() {
        let go_on = "bucket-av-scanner audit b --after='<x>'".to_owned();
        let interrupted = Interrupted { why: "by a signal".to_owned(), go_on };
        for interrupted in [None, Some(interrupted)] {
            let html = html(&summary(interrupted)).unwrap();
            for bad in ["<script", "<b>", "<x>", "http://", "https://", "url(", "src=", "href="] {
                assert!(!html.contains(bad), "{bad}");
            }
            assert!(html.contains("1,234,567") && html.contains("&#60;script&#62;"));
        }
    }

    #[test]
    fn the_bar_is_full_and_shows_small_parts() {
        let segments = segments(&summary(None));
        let classes: Vec<_> = segments.iter().map(|segment| segment.class).collect();
        assert_eq!(classes, ["verified", "never", "infected", "unknown"]);
        assert_eq!(segments.iter().map(|segment| segment.width).sum::<u64>(), 1000);
        assert!(segments.iter().all(|segment| segment.width >= MIN_WIDTH));
        let ends = segments.iter().map(|segment| segment.x + segment.width);
        assert!(ends.zip(&segments[1..]).all(|(end, next)| end == next.x));
    }

    #[test]
    fn a_bucket_without_objects_has_a_page() {
        let empty = Summary { standings: Vec::new(), ..summary(None) };
        assert!(html(&empty).unwrap().contains("Standings"));
        let rows = summary::standings(&mut Tally::default());
        assert!(rows.iter().all(|row| row.objects == 0));
    }
}
