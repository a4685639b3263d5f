//! What went wrong, said by what it means for the message rather than by where it came from.
//!
//! Every room that talks to another system turns that system's errors into a [`Failure`] at the
//! call, so that the worker can decide about a message without knowing S3, HTTP or clamd.

use std::fmt;

/// A system outside the process (or the host under it) that a delivery needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dependency {
    /// The object store.
    Store,
    /// The antivirus engine.
    Engine,
    /// The receiver of reports.
    Webhook,
    /// This host: temp disk, file descriptors.
    Host,
}

impl Dependency {
    /// The name used in logs, metrics and `/readyz`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Engine => "engine",
            Self::Webhook => "webhook",
            Self::Host => "host",
        }
    }
}

/// How far a delivery had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Reading the notification.
    Event,
    /// Downloading the object.
    Fetch,
    /// Scanning the bytes.
    Scan,
    /// Tagging the object.
    Tag,
    /// Deleting the object.
    Delete,
    /// Handing the report to the broker, or delivering it.
    Report,
}

impl Stage {
    /// The name used in logs, metrics and dead-letter headers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Fetch => "fetch",
            Self::Scan => "scan",
            Self::Tag => "tag",
            Self::Delete => "delete",
            Self::Report => "report",
        }
    }
}

/// What a failure means for the delivery it struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Trying again cannot help.
    Permanent,
    /// Trying again may help, and only this object is concerned.
    Transient,
    /// The dependency may be down as a whole; a probe tells.
    Suspect(Dependency),
    /// The dependency is down as a whole; no probe is needed to know it.
    Down(Dependency),
    /// Later, and not held against the object: a local resource is taken by other deliveries, or
    /// it cannot be told yet whether the webhook refuses this report or every report.
    Busy,
    /// The broker session is gone: the message is redelivered by the broker, nothing is settled.
    Abandoned,
}

/// The label of failures that say that the store does not take our credentials (or our clock).
pub const CREDENTIALS: &str = "store_credentials";

/// A fault: what it means, where it struck, a constant label, and a detail for people.
///
/// `Display` is for logs and dead-letter headers; it never contains secrets or object bytes.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What it means for the delivery.
    pub kind: Kind,
    /// Where it struck.
    pub stage: Stage,
    /// A constant, for metrics and dead-letter reasons.
    pub label: &'static str,
    /// One line for people.
    pub detail: String,
    /// The engine had been sent bytes of this object. Such a delivery always counts an attempt, so
    /// that a file which crashes the engine is parked in the end.
    pub engine_touched: bool,
    /// How long the dependency asked to be left alone (`Retry-After`).
    pub pause: Option<std::time::Duration>,
}

impl Failure {
    /// A failure of `kind` at `stage`.
    pub fn new(kind: Kind, stage: Stage, label: &'static str, detail: impl fmt::Display) -> Self {
        Self {
            kind,
            stage,
            label,
            detail: one_line(&detail.to_string()),
            engine_touched: false,
            pause: None,
        }
    }

    /// Trying again cannot help.
    pub fn permanent(stage: Stage, label: &'static str, detail: impl fmt::Display) -> Self {
        Self::new(Kind::Permanent, stage, label, detail)
    }

    /// Trying again may help.
    pub fn transient(stage: Stage, label: &'static str, detail: impl fmt::Display) -> Self {
        Self::new(Kind::Transient, stage, label, detail)
    }

    /// `dependency` may be down as a whole.
    pub fn suspect(
        dependency: Dependency,
        stage: Stage,
        label: &'static str,
        detail: impl fmt::Display,
    ) -> Self {
        Self::new(Kind::Suspect(dependency), stage, label, detail)
    }

    /// The broker session ended under the delivery.
    #[must_use]
    pub fn abandoned(stage: Stage) -> Self {
        Self::new(
            Kind::Abandoned,
            stage,
            "abandoned",
            "cut short: a dependency is down, or the broker session ended",
        )
    }

    /// The same failure, after the engine had been sent bytes.
    #[must_use]
    pub fn engine_touched(mut self) -> Self {
        self.engine_touched = true;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.label, self.stage.as_str(), self.detail)
    }
}

impl std::error::Error for Failure {}

/// An error and its causes as one line: the outermost message of a client library alone
/// ("dispatch failure") helps nobody. What is wrong with a certificate is said first, in words.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = crate::tls::explain(error).map(|text| format!("{text}: ")).unwrap_or_default();
    line.push_str(&error.to_string());
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        next = cause.source();
    }
    one_line(&line)
}

/// Replaces control characters and cuts at 500 characters: details come from other systems and
/// end in logs and message headers.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_cannot_break_a_log_line() {
        let failure =
            Failure::transient(Stage::Scan, "x", format!("a\nb\x1b[31m{}", "y".repeat(900)));
        assert!(!failure.detail.contains(['\n', '\x1b']));
        assert_eq!(failure.detail.chars().count(), 500);
    }
}
