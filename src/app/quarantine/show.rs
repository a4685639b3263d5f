//! `quarantine show`: all that is known of a copy.

use std::fmt::Display;
use std::process::ExitCode;

use super::bucket::{Bucket, Held, address};
use super::{CopyName, fail, list, say};
use crate::quantity::bytes;
use crate::quarantine::Record;

/// What ClamAV puts behind the name of a signature that is not official, and does not have in its files.
const UNOFFICIAL: &str = ".UNOFFICIAL";

pub(super) async fn show(bucket: &Bucket, name: &CopyName, json: bool) -> ExitCode {
    let held = match bucket.one(name).await {
        Ok(held) => held,
        Err(line) => return fail(line, 1),
    };
    let record = match held.record_or_why() {
        Ok(record) => record,
        Err(line) => return fail(line, 1),
    };
    if json {
        say(list::row(&held));
    } else {
        for line in lines(&held, record) {
            say(line);
        }
    }
    ExitCode::SUCCESS
}

fn lines(held: &Held, record: &Record) -> Vec<String> {
    let line = |name: &str, value: &dyn Display| format!("{name:<14}{value}");
    let length = record.length.unwrap_or(0);
    let copy = if held.copy { "is there" } else { "is not there any more" };
    let engine = record.engine.as_ref().map(|engine| {
        let parts = [&engine.version, &engine.database_version, &engine.database_date];
        let parts = parts.into_iter().flatten().map(String::as_str);
        [engine.name.as_str()].into_iter().chain(parts).collect::<Vec<_>>().join(", ")
    });
    let mut lines = vec![
        line("copy", &format!("{} {copy}", held.name)),
        line("from", &address(record)),
        line("size", &format!("{length} ({})", bytes(length))),
        line("sha256", &record.sha256.escape_debug()),
        line("signature", &record.signature.escape_debug()),
        line("engine", &engine.unwrap_or_default().escape_debug()),
        line("moved", &record.quarantined_at.escape_debug()),
        line("report", &record.report_id),
    ];
    // What an uploader stored may bucket what a terminal would take for a command.
    lines.extend(record.headers().iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value);
        line("header", &format!("{}: {}", name.escape_debug(), value.escape_debug()))
    }));
    lines.extend(record.tags().iter().map(|(key, value)| {
        line("tag", &format!("{}={}", key.escape_debug(), value.escape_debug()))
    }));
    lines.extend(record.left_out.iter().map(|name| line("left out", &name.escape_debug())));
    let signature = official(&record.signature);
    lines.push(line(
        "this content",
        &format!(
            "{}:{length}:{}  (a line for a file *.sfp of ClamAV)",
            record.sha256.escape_debug(),
            name_of(signature)
        ),
    ));
    lines.push(line(
        "the signature",
        &format!("{}  (a line for a file *.ign2 of ClamAV)", signature.escape_debug()),
    ));
    lines
}

/// The name that the signature has in ClamAV's files.
fn official(signature: &str) -> &str {
    signature.strip_suffix(UNOFFICIAL).unwrap_or(signature)
}

/// The signature as a word that divides no line.
fn name_of(signature: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    signature.chars().map(|c| if is_plain(c) { c } else { '_' }).collect()
}
