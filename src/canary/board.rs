//! Shows what the journal says of the sources: readiness, metrics, and a log line for each change.
//! Every replica shows it, not only the one that did the round.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::fact::Outcome;
use crate::health::{Health, Note};
use crate::metrics::Metrics;

/// What is shown.
#[derive(Debug)]
pub(super) struct Board {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    shown: Mutex<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    /// By bucket.
    sources: BTreeMap<String, Source>,
    /// Everything that is needed was up once. Before that it is no news that something is missing.
    was_ready: bool,
    suspended: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    outcome: Outcome,
    why: String,
    /// The last round that proved something found it down.
    down: bool,
}

impl Board {
    pub(super) fn new(health: Arc<Health>, metrics: Arc<Metrics>) -> Self {
        Self { health, metrics, shown: Mutex::default() }
    }

    /// Shows the latest result for a bucket. An alarm stays until a round finds the source up.
    pub(super) fn show(&self, bucket: &str, outcome: Outcome, why: &str) {
        let mut shown = self.lock();
        let before = shown.sources.get(bucket).cloned();
        let was_down = before.as_ref().is_some_and(|before| before.down);
        let down = match outcome {
            Outcome::Up => false,
            Outcome::Down => true,
            Outcome::Unproved => was_down,
        };
        let source = Source { outcome, why: why.to_owned(), down };
        let up = match outcome {
            Outcome::Up => Some(true),
            Outcome::Down => Some(false),
            Outcome::Unproved => was_down.then_some(false),
        };
        self.metrics.source(bucket, up);
        let is_news = before.as_ref().is_none_or(|before| match outcome {
            Outcome::Up => before.outcome != Outcome::Up,
            Outcome::Down => !before.down,
            Outcome::Unproved => before.outcome != outcome || before.why != source.why,
        });
        shown.sources.insert(bucket.to_owned(), source);
        self.note(&shown);
        if is_news {
            match outcome {
                Outcome::Up => tracing::info!(bucket, "source is up: {why}"),
                Outcome::Down => tracing::error!(bucket, "source is down: {why}"),
                Outcome::Unproved => tracing::warn!(bucket, "source is not proved: {why}"),
            }
        }
    }

    /// Shows why no canary is sent, or that they are. A log line for each change.
    pub(super) fn suspend(&self, why: Option<&str>) {
        let mut shown = self.lock();
        if why.is_none() {
            shown.was_ready = true;
        }
        let note = why.map(|why| format!("suspended: {why}"));
        self.health.note(Note::Canary, note);
        let changed = shown.suspended != why.is_some();
        shown.suspended = why.is_some();
        if changed && shown.was_ready {
            match why {
                Some(why) => tracing::info!("the source canary is suspended: {why}"),
                None => tracing::info!("the source canary goes on"),
            }
        }
    }

    /// How long a canary took from the answer to its upload to the end of its effects.
    pub(super) fn came_back(&self, after: Duration) {
        self.metrics.source_took(after);
    }

    fn note(&self, shown: &Shown) {
        let bad = shown.sources.iter().filter(|(_, source)| source.outcome != Outcome::Up);
        let lines: Vec<String> = bad
            .map(|(bucket, source)| {
                let word = match (source.outcome, source.down) {
                    (Outcome::Unproved, true) => "down, and not proved since",
                    (Outcome::Unproved, false) => "not proved",
                    (Outcome::Up | Outcome::Down, _) => "down",
                };
                format!("{bucket} is {word}: {}", source.why)
            })
            .collect();
        self.health.note(Note::Source, (!lines.is_empty()).then(|| lines.join("; ")));
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_stays_until_a_round_finds_the_source_up() {
        let (health, metrics) = (Arc::<Health>::default(), Arc::<Metrics>::default());
        let board = Board::new(Arc::clone(&health), Arc::clone(&metrics));
        let gauge = || {
            let page = metrics.render(&health).unwrap();
            let line =
                page.lines().find_map(|line| line.strip_prefix("avscan_source_up{bucket=\"b\"} "));
            line.map(str::to_owned)
        };
        let note = || health.readiness().degraded.get("source").cloned();
        assert_eq!(gauge(), None);
        for (outcome, up, noted) in [
            (Outcome::Unproved, None, Some("b is not proved: why")),
            (Outcome::Up, Some("1"), None),
            (Outcome::Unproved, None, Some("b is not proved: why")),
            (Outcome::Down, Some("0"), Some("b is down: why")),
            (Outcome::Unproved, Some("0"), Some("b is down, and not proved since: why")),
            (Outcome::Up, Some("1"), None),
        ] {
            board.show("b", outcome, "why");
            assert_eq!(gauge().as_deref(), up, "{outcome:?}");
            assert_eq!(note().as_deref(), noted, "{outcome:?}");
        }
        board.suspend(Some("broker: gone"));
        assert_eq!(health.readiness().degraded["canary"], "suspended: broker: gone");
        board.suspend(None);
        assert!(!health.readiness().degraded.contains_key("canary"));
    }
}
