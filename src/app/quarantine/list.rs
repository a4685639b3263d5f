//! `quarantine list`: a line for each copy.

use std::process::ExitCode;

use serde::Serialize;

use super::bucket::{Bucket, Held};
use super::{Matching, Which, say};
use crate::quantity::{bytes, count};
use crate::quarantine::Record;

/// One line of JSON.
#[derive(Serialize)]
struct Row<'a> {
    quarantine_key: &'a str,
    /// The copy is there.
    copy: bool,
    /// As it is in the bucket.
    record: Option<&'a Record>,
}

pub(super) async fn list(bucket: &Bucket, matching: &Matching, json: bool) -> ExitCode {
    let which = Which::Matching(matching.clone());
    let mut size = 0_u64;
    let tally = bucket
        .each(&which, async |held| {
            let length = held.record().and_then(|record| record.length).unwrap_or(0);
            size = size.saturating_add(length);
            Ok(Some(if json { row(&held) } else { line(&held) }))
        })
        .await;
    if !json {
        let size = bytes(size);
        let objects = if tally.done == 1 { "object" } else { "objects" };
        say(format!("{} {objects}, {size}, in {}", count(tally.done), bucket.name));
    }
    tally.code()
}

fn line(held: &Held) -> String {
    let Some(record) = held.record() else { return held.said() };
    let size = record.length.map(bytes).unwrap_or_default();
    let gone = if held.copy { "" } else { "  (its copy is not there any more)" };
    format!("{}  {size:>10}  {}{gone}", record.quarantined_at.escape_debug(), held.said())
}

pub(super) fn row(held: &Held) -> String {
    let row = Row { quarantine_key: &held.name, copy: held.copy, record: held.record() };
    serde_json::to_string(&row).unwrap_or_default()
}
