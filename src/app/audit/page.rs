//! The result as one page of HTML, for who signs it off.

use askama::Template;

use super::quantity::{bytes, count, permille, share};
use super::summary::{Conclusion, Summary};
use crate::receipt::Standing;

/// The least width of a part of the bar, of 1000.
const MIN_WIDTH: u64 = 6;

/// The page. What others chose in it was escaped when the summary was made, and is again by the
/// template.
#[derive(Template)]
#[template(path = "audit.html")]
struct Page<'a> {
    summary: &'a Summary,
    /// Of all valid receipts.
    receipts: u64,
}

/// The summary as a page: one file, without scripts, that loads nothing.
///
/// # Errors
/// When the page cannot be made, which is a bug.
pub(super) fn html(summary: &Summary) -> Result<String, String> {
    let named: u64 = summary.databases.iter().map(|row| row.receipts).sum();
    let page = Page { summary, receipts: named + summary.other_databases };
    page.render().map_err(|error| format!("the page cannot be made: {error}"))
}

/// A part of the bar of all objects.
struct Segment {
    class: &'static str,
    /// Where it begins, of 1000.
    x: u64,
    width: u64,
}

impl Page<'_> {
    fn verified(&self) -> String {
        let verified = Standing::Verified.into_str();
        let row = self.summary.standings.iter().find(|row| row.standing == verified);
        row.map(|row| row.share(self.summary)).unwrap_or_default()
    }

    fn has_examples(&self) -> bool {
        let has = !self.summary.not_found_out.is_empty();
        has || self.summary.standings.iter().any(|row| !row.examples.is_empty())
    }

    /// The parts of the bar. Small ones are drawn wider than they are, so that they can be seen, and the
    /// largest one that much narrower.
    fn segments(&self) -> Vec<Segment> {
        let standings = self.summary.standings.iter().map(|row| (row.standing, row.objects));
        let unknown = self.summary.not_found_out.iter().map(|row| ("unknown", row.objects));
        let parts: Vec<_> = standings.chain(unknown).filter(|(_, objects)| *objects > 0).collect();
        let mut widths: Vec<u64> = parts
            .iter()
            .map(|(_, objects)| permille(*objects, self.summary.objects).max(MIN_WIDTH))
            .collect();
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

    /// The class of the conclusion.
    const fn mood(&self) -> &'static str {
        match self.summary.conclusion {
            Conclusion::Verified => "good",
            Conclusion::NotVerified => "bad",
            Conclusion::NotFoundOut | Conclusion::Interrupted => "open",
        }
    }
}
