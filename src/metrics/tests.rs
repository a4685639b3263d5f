use std::collections::BTreeSet;

use super::*;
use crate::health::{Note, Part};

const PAGE: &str = include_str!("../../docs/OPERATING.md");

/// Metrics of which each has a value, and what they show.
fn all() -> (Metrics, Health) {
    let (metrics, health) = (Metrics::default(), Health::default());
    metrics.notification(NotificationEnd::Applied);
    metrics.backlog(BacklogEnd::Scanned);
    metrics.verdict("clean", None);
    metrics.acted("tag");
    metrics.took(Timed::Scan, Duration::from_secs(1));
    metrics.gate(QueueKind::Notifications, true);
    metrics.retry(QueueKind::Notifications, Stage::Scan, Reason::EngineReply);
    metrics.dead_letter(QueueKind::Notifications, Stage::Scan, "engine_reply");
    metrics.report(ReportEnd::Queued);
    metrics.intake("accepted");
    metrics.page(PageEnd::Done);
    metrics.swept(2, 1);
    metrics.source("b", Some(true));
    health.up(Part::Engine);
    health.set_queues(vec![QueueDepth {
        queue: QueueKind::Reports,
        ready: Some(1),
        retry: 2,
        dead: Some(3),
        missing: Vec::new(),
    }]);
    health.set_sweeps_due(BTreeMap::from([("b".to_owned(), 1_500)]));
    (metrics, health)
}

fn words(cell: &str) -> BTreeSet<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn the_table_of_the_documentation_names_every_metric_with_its_labels_and_no_other() {
    let (metrics, health) = all();
    let page = metrics.render(&health).unwrap();
    let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for sample in page.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels) = sample
            .rsplit_once(' ')
            .unwrap()
            .0
            .split_once('{')
            .unwrap_or((sample.split(' ').next().unwrap(), ""));
        let suffix = ["_bucket", "_sum", "_count"].into_iter();
        let name = suffix.fold(name, |name, suffix| name.strip_suffix(suffix).unwrap_or(name));
        let labels = labels.split("\",").filter_map(|label| label.split_once('='));
        let labels = labels.map(|(label, _)| label).filter(|label| *label != "le");
        found.entry(name).or_default().extend(labels);
    }
    let rows = PAGE.lines().filter(|line| line.starts_with("| `avscan_"));
    let rows = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    let table: BTreeMap<&str, BTreeSet<&str>> = rows
        .flat_map(|row| words(row[1]).into_iter().map(move |name| (name, words(row[2]))))
        .collect();
    assert_eq!(found, table);
}

#[test]
fn a_histogram_has_fourteen_buckets() {
    let (metrics, health) = all();
    let page = metrics.render(&health).unwrap();
    let mut buckets: BTreeMap<String, usize> = BTreeMap::new();
    for line in page.lines().filter(|line| line.contains("_bucket{")) {
        let (before, rest) = line.split_once("le=\"").unwrap();
        let series = format!("{before}{}", rest.split_once('"').unwrap().1);
        *buckets.entry(series.rsplit_once(' ').unwrap().0.to_owned()).or_default() += 1;
    }
    assert_eq!(buckets.into_values().collect::<Vec<_>>(), [14, 14]);
}

#[test]
fn what_is_known_no_more_is_not_shown() {
    let (metrics, health) = all();
    let page = metrics.render(&health).unwrap();
    for line in [
        concat!("avscan_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        "avscan_queue_messages{queue=\"reports\",state=\"retry\"} 2",
        "avscan_sweep_due_timestamp_seconds{bucket=\"b\"} 1.5",
        "avscan_degraded{note=\"surge\"} 0",
        "avscan_gate_open{queue=\"notifications\"} 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    health.set_queues(Vec::new());
    health.note(Note::Surge, Some("held".to_owned()));
    let page = metrics.render(&health).unwrap();
    assert!(!page.contains("avscan_queue_messages{"), "{page}");
    assert!(page.contains("avscan_degraded{note=\"surge\"} 1"), "{page}");
}
