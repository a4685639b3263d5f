//! Whether a receiver can put the reports into order.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Reports without the fields that order them, and corrections that sort before what they correct. Left
/// out are those under a name in `shared`: several notifications may be about the same bytes there, and
/// each counts by itself.
pub(super) fn disorder(reports: &[Value], shared: &HashSet<String>) -> Vec<String> {
    let mut wrongs: Vec<String> = reports.iter().filter_map(malformed).collect();
    // By the bytes that they are about.
    let mut latest: HashMap<[&str; 3], u64> = HashMap::new();
    for report in reports.iter().filter(|report| report["error"].is_null()) {
        let sequence = report["sequence"].as_u64().unwrap_or_default();
        let highest = latest.entry(bytes(report)).or_default();
        *highest = sequence.max(*highest);
    }
    let is_correction = |report: &&Value| {
        let error = report["error"].as_str();
        // A copy that failed comes before anything that could be corrected.
        let key = report["key"].as_str().unwrap_or_default();
        error.is_some_and(|error| !error.starts_with("quarantine_")) && !shared.contains(key)
    };
    for report in reports.iter().filter(is_correction) {
        let corrected = latest.get(&bytes(report));
        if corrected.is_some_and(|highest| report["sequence"].as_u64() <= Some(*highest)) {
            let what = format!("{} {}", report["key"], report["error"]);
            wrongs.push(format!("{what}: its sequence is not above that of what it corrects"));
        }
    }
    wrongs
}

fn malformed(report: &Value) -> Option<String> {
    let at = report["reported_at"].as_str();
    let missing = if report["type"] != "object.scanned" {
        "type"
    } else if at.is_none_or(|at| OffsetDateTime::parse(at, &Rfc3339).is_err()) {
        "reported_at"
    } else if !report["sequence"].is_u64() {
        "sequence"
    } else {
        return None;
    };
    Some(format!("{}: a report without a valid `{missing}`", report["key"]))
}

fn bytes(report: &Value) -> [&str; 3] {
    ["key", "version_id", "etag"].map(|name| report[name].as_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(sequence: u64, error: Option<&str>) -> Value {
        json!({
            "type": "object.scanned", "reported_at": "2026-01-01T00:00:00.5Z", "key": "k",
            "etag": "e", "version_id": null, "sequence": sequence, "error": error,
        })
    }

    fn disorder(reports: &[Value]) -> Vec<String> {
        super::disorder(reports, &HashSet::new())
    }

    #[test]
    fn a_correction_has_the_greater_sequence_whenever_it_arrives() {
        assert!(disorder(&[report(2, Some("delete_failed")), report(1, None)]).is_empty());
        assert_eq!(disorder(&[report(1, None), report(1, Some("delete_failed"))]).len(), 1);
        assert_eq!(disorder(&[report(1, Some("delete_failed")), report(2, None)]).len(), 1);
        let mut other = report(2, None);
        other["etag"] = "f".into();
        assert!(disorder(&[report(1, Some("delete_failed")), other]).is_empty());
    }

    #[test]
    fn an_error_of_a_copy_corrects_nothing_and_several_notifications_are_not_compared() {
        assert!(disorder(&[report(2, None), report(1, Some("quarantine_denied"))]).is_empty());
        let shared = HashSet::from(["k".to_owned()]);
        assert!(
            super::disorder(&[report(1, None), report(1, Some("superseded"))], &shared).is_empty()
        );
    }

    #[test]
    fn each_field_is_missed() {
        for (name, wrong) in
            [("type", json!("x")), ("reported_at", json!("soon")), ("sequence", json!("1"))]
        {
            let mut broken = report(1, None);
            broken[name] = wrong;
            let wrongs = disorder(&[broken]);
            assert!(wrongs.len() == 1 && wrongs[0].contains(name), "{wrongs:?}");
        }
    }
}
