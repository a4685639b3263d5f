//! The settings of the source canary.

use std::time::Duration;

use super::reader::Reader;
use super::settings::tier;

const MIN_EVERY: Duration = Duration::from_secs(10);
/// The longest default of `CANARY_DEADLINE`.
const DEFAULT_DEADLINE: Duration = Duration::from_mins(1);
/// Each round writes two objects to each bucket.
const MAX_BUCKETS: usize = 100;

/// The source canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CanarySettings {
    /// One of all replicas begins a round this often.
    pub(crate) every: Duration,
    /// The buckets that it is put into.
    pub(crate) buckets: Vec<String>,
    /// Time to come back; shorter than `every`.
    pub(crate) deadline: Duration,
    /// Report canaries as other objects are.
    pub(crate) report: bool,
}

impl Reader<'_> {
    /// The outer `None` is a problem; the inner one means that the canary is off.
    #[expect(clippy::option_option, reason = "see above")]
    pub(super) fn canary(&mut self) -> Option<Option<CanarySettings>> {
        let report = self.flag("REPORT_CANARY");
        let buckets = self.optional("CANARY_BUCKETS").is_some();
        if self.optional("CANARY_EVERY").is_none() {
            return Some(None);
        }
        let delay = |text: &str| tier(text).map(|tier| tier.delay);
        let every = self.parse("CANARY_EVERY", "10s to 24h, as in 5m", |text| {
            delay(text).filter(|every| *every >= MIN_EVERY)
        });
        if !buckets {
            self.problem("CANARY_BUCKETS", "is required with CANARY_EVERY");
        }
        let buckets = buckets.then(|| self.parse("CANARY_BUCKETS", BUCKETS, bucket_names))?;
        let deadline = match self.optional("CANARY_DEADLINE") {
            Some(_) => self.parse("CANARY_DEADLINE", "1s to 24h, as in 1m", delay),
            None => every.map(|every| DEFAULT_DEADLINE.min(every / 2)),
        };
        if let (Some(every), Some(deadline)) = (every, deadline)
            && deadline >= every
        {
            self.problem("CANARY_DEADLINE", "must be shorter than CANARY_EVERY");
        }
        Some(Some(CanarySettings {
            every: every?,
            buckets: buckets?,
            deadline: deadline?,
            report: report?,
        }))
    }
}

pub(super) const BUCKETS: &str = "1 to 100 names of buckets, each once, as in uploads,media";

pub(super) fn bucket_names(text: &str) -> Option<Vec<String>> {
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    let is_name = |name: &String| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        (1..=255).contains(&name.len()) && name.chars().all(allowed)
    };
    let mut sorted = names.clone();
    sorted.sort();
    sorted.dedup();
    let good = names.len() <= MAX_BUCKETS && sorted.len() == names.len();
    (good && names.iter().all(is_name)).then_some(names)
}
