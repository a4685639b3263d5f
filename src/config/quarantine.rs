//! The setting of the quarantine.

use super::Settings;
use super::canary::bucket_names;
use super::reader::Reader;

/// The settings that name buckets whose uploads are scanned.
const SOURCES: [&str; 2] = ["SWEEP_BUCKETS", "CANARY_BUCKETS"];

impl Reader<'_> {
    /// The outer `None` is a problem; the inner one means that there is no quarantine.
    #[expect(clippy::option_option, reason = "see above")]
    pub(super) fn quarantine_bucket(&mut self) -> Option<Option<String>> {
        if self.optional("QUARANTINE_BUCKET").is_none() {
            return Some(None);
        }
        let bucket = self.parse("QUARANTINE_BUCKET", "the name of one bucket", |text| {
            bucket_names(text).filter(|names| names.len() == 1)?.pop()
        })?;
        for name in SOURCES {
            let sources = self.optional(name).and_then(bucket_names).unwrap_or_default();
            if sources.contains(&bucket) {
                self.problem("QUARANTINE_BUCKET", &format!("must not be one of {name}"));
                return None;
            }
        }
        Some(Some(bucket))
    }
}

impl Settings {
    /// A warning about a quarantine that nothing is moved to.
    pub(super) fn idle_quarantine(&self) -> Option<String> {
        let is_idle = self.policy.quarantine_bucket.is_some()
            && !self.policy.delete_file
            && self.rules.is_none();
        is_idle.then(|| {
            "QUARANTINE_BUCKET with DELETE_FILE=false: infected objects are tagged and stay where \
             they are"
                .to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use crate::config::{Loaded, Problems, load};

    fn loaded(pairs: &[(&str, &str)]) -> Result<Loaded, Problems> {
        let login = [("RABBITMQ_REGULAR_USER_NAME", "u"), ("RABBITMQ_REGULAR_USER_PASS", "p")];
        let all = login.iter().chain(pairs);
        let env: HashMap<_, _> = all.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        load(&env)
    }

    #[test]
    fn the_quarantine_is_one_bucket_that_no_setting_names_as_a_source() {
        let bucket =
            |pairs: &[(&str, &str)]| loaded(pairs).unwrap().settings.policy.quarantine_bucket;
        assert_eq!(bucket(&[]), None);
        let quarantine = ("QUARANTINE_BUCKET", "held.1");
        assert_eq!(bucket(&[quarantine]).as_deref(), Some("held.1"));
        let sources = [quarantine, ("SWEEP_BUCKETS", "a"), ("CANARY_BUCKETS", "held")];
        assert_eq!(bucket(&sources).as_deref(), Some("held.1"));
        for name in ["SWEEP_BUCKETS", "CANARY_BUCKETS"] {
            let text = loaded(&[quarantine, (name, "a, held.1")]).unwrap_err().to_string();
            assert_eq!(text, format!("QUARANTINE_BUCKET must not be one of {name}"));
        }
        for bad in ["a,b", "a/b", ","] {
            let text = loaded(&[("QUARANTINE_BUCKET", bad)]).unwrap_err().to_string();
            assert_eq!(text, "QUARANTINE_BUCKET must be the name of one bucket");
        }
    }

    #[test]
    fn a_quarantine_that_nothing_is_moved_to_is_warned_about() {
        let warnings = |pairs: &[(&str, &str)]| loaded(pairs).unwrap().warnings.join("\n");
        let idle = [("QUARANTINE_BUCKET", "held"), ("DELETE_FILE", "false")];
        assert!(warnings(&idle).contains("QUARANTINE_BUCKET with DELETE_FILE=false"));
        assert!(!warnings(&idle[..1]).contains("QUARANTINE_BUCKET"));
    }
}
