//! The settings of the breaker for bad signatures.

use std::time::Duration;

use super::duration::{UP_TO_HOURS, duration};
use super::reader::Reader;

const MAX_WINDOW: Duration = Duration::from_hours(24);

/// When deletions by one signature are too many, and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SurgeSettings {
    /// Distinct contents by one signature within the window that are deleted.
    pub(crate) limit: usize,
    pub(crate) window: Duration,
    /// What becomes of further ones where there is no quarantine.
    pub(crate) without_quarantine: WithoutQuarantine,
}

/// What becomes of an object whose deletion is one too many, where there is no quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WithoutQuarantine {
    /// It is tagged and parked.
    Tag,
    /// It is deleted: there is an alarm, and no more.
    Delete,
}

impl Reader<'_> {
    /// The outer `None` is a problem; the inner one means that nothing is counted.
    #[expect(clippy::option_option, reason = "see above")]
    pub(super) fn surge(&mut self) -> Option<Option<SurgeSettings>> {
        let limit = self.number("SURGE_LIMIT", 0, 10_000);
        let window = self.parse("SURGE_WINDOW", "1s to 24h, as in 10m", |text| {
            duration(text, UP_TO_HOURS).filter(|window| *window <= MAX_WINDOW)
        });
        let without_quarantine =
            self.parse("SURGE_WITHOUT_QUARANTINE", "tag or delete", |text| match text {
                "tag" => Some(WithoutQuarantine::Tag),
                "delete" => Some(WithoutQuarantine::Delete),
                _ => None,
            });
        let limit = usize::try_from(limit?).ok()?;
        let (window, without_quarantine) = (window?, without_quarantine?);
        Some((limit > 0).then_some(SurgeSettings { limit, window, without_quarantine }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::config::load;

    #[test]
    fn surges_are_limited_unless_that_is_switched_off() {
        let surge = |pairs: &[(&str, &str)]| {
            let login = [("RABBITMQ_REGULAR_USER_NAME", "u"), ("RABBITMQ_REGULAR_USER_PASS", "p")];
            let all = login.iter().chain(pairs);
            let env: HashMap<_, _> = all.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            load(&env).map(|loaded| loaded.settings.surge).map_err(|problems| problems.to_string())
        };
        let settings = |limit, seconds, without_quarantine| SurgeSettings {
            limit,
            window: Duration::from_secs(seconds),
            without_quarantine,
        };
        assert_eq!(surge(&[]), Ok(Some(settings(50, 600, WithoutQuarantine::Tag))));
        assert_eq!(surge(&[("SURGE_LIMIT", "0")]), Ok(None));
        let all =
            [("SURGE_LIMIT", "7"), ("SURGE_WINDOW", "24h"), ("SURGE_WITHOUT_QUARANTINE", "delete")];
        assert_eq!(surge(&all), Ok(Some(settings(7, 86_400, WithoutQuarantine::Delete))));
        for (name, bad) in [
            ("SURGE_LIMIT", "-1"),
            ("SURGE_LIMIT", "10001"),
            ("SURGE_WINDOW", "0s"),
            ("SURGE_WINDOW", "25h"),
            ("SURGE_WITHOUT_QUARANTINE", "quarantine"),
        ] {
            let text = surge(&[(name, bad)]).unwrap_err();
            assert!(text.starts_with(&format!("{name} must be ")), "{text}");
        }
    }
}
