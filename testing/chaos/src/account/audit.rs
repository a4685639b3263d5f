//! Audit lines about deletions, also those of moves, in the daemons' logs: one before each deletion,
//! one after it, and none about an object that exists.

use peers::error::Result;
use serde_json::Value;
use stack::Daemon;

use super::settle::see;
use crate::ledger::Upload;
use crate::tally::Expected;
use crate::world::World;

/// The target of audit lines, which are written at every log level.
const TARGET: &str = "bucket_av_scanner::audit";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The deletion is about to be sent.
    Deleting,
    /// The object is gone.
    Deleted,
}

/// One line about a deletion.
#[derive(Debug)]
pub(super) struct Line {
    step: Step,
    /// RFC 3339 with microseconds, in UTC: sorts as text.
    at: String,
    key: String,
    sha256: String,
}

impl Line {
    fn read(text: &str) -> Option<Self> {
        let line: Value = serde_json::from_str(text).ok()?;
        if line["target"] != TARGET {
            return None;
        }
        let step = match line["message"].as_str()? {
            "deleting" | "quarantining" => Step::Deleting,
            "infected object deleted" | "infected object quarantined" => Step::Deleted,
            _ => return None,
        };
        let field = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (at, key) = (field(&line["timestamp"]), field(&line["span"]["key"]));
        Some(Self { step, at, key, sha256: field(&line["sha256"]) })
    }

    fn is_of(&self, upload: &Upload) -> bool {
        self.key == upload.key && self.sha256 == upload.sha256
    }
}

/// The lines of both daemons, in the order of time.
pub(super) fn lines(daemons: &[Daemon]) -> Vec<Line> {
    let outputs = daemons.iter().map(Daemon::output);
    let mut lines: Vec<Line> =
        outputs.flat_map(|text| text.lines().filter_map(Line::read).collect::<Vec<_>>()).collect();
    lines.sort_by(|a, b| a.at.cmp(&b.at));
    lines
}

/// What the log lacks about an upload that was deleted, but not by its user.
pub(super) fn unsaid(upload: &Upload, lines: &[Line], expected: Expected) -> Option<String> {
    // The lines name the bytes that were to be deleted, not those that were.
    if upload.in_window {
        return None;
    }
    let first = |said| lines.iter().position(|line| line.step == said && line.is_of(upload));
    let wrong = match (first(Step::Deleting), first(Step::Deleted)) {
        (None, _) => "deleted without a line before it",
        (Some(before), Some(behind)) if behind < before => {
            "logged as deleted before the line that announces it"
        }
        (Some(_), None) if !expected.deletions_unsaid => "deleted without a line after it",
        _ => return None,
    };
    Some(format!("{}: {wrong}", upload.key))
}

/// Lines about the deletion of an object that exists.
pub(super) async fn untrue(world: &World, lines: &[Line]) -> Result<Vec<String>> {
    let mut wrongs = Vec::new();
    // Those that were restored are there again.
    for upload in world.ledger.uploads().into_iter().filter(|upload| !upload.restored) {
        if lines.iter().any(|line| line.step == Step::Deleted && line.is_of(&upload)) {
            let seen = see(world, &upload).await?;
            if seen.present && seen.etag == upload.etag {
                wrongs.push(format!("{}: logged as deleted, but it exists", upload.key));
            }
        }
    }
    Ok(wrongs)
}
