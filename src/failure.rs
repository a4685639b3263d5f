//! A fault, by what it means for the message.
//!
//! Every room that talks to another system turns that system's errors into a [`Failure`] at the
//! call, so that the worker can decide about a message without knowing S3, HTTP or clamd.

use std::error::Error;
use std::fmt;
use std::io;
use std::iter;

use rustix::io::Errno;
use strum::{Display, IntoStaticStr};

/// A system outside the process (or the host under it) that a delivery needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Display, IntoStaticStr)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub(crate) enum Dependency {
    /// The object store.
    Store,
    /// The antivirus engine.
    Engine,
    /// The receiver of reports.
    Webhook,
    /// This host: temp disk, file descriptors.
    Host,
}

/// How far a delivery had got: in logs, metrics and the header `avscan-stage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, IntoStaticStr)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub(crate) enum Stage {
    /// Reading the notification.
    Event,
    /// Downloading the object.
    Fetch,
    /// Scanning the bytes.
    Scan,
    /// Tagging the object.
    Tag,
    /// Copying the object into the quarantine bucket.
    Quarantine,
    /// Deleting the object.
    Delete,
    /// Handing the report to the broker, or delivering it.
    Report,
}

/// Why a delivery failed: in logs, metrics and the header `avscan-reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, IntoStaticStr)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub(crate) enum Reason {
    // The message.
    /// It announces nothing that can be read.
    Malformed,
    /// A bug of ours.
    Panic,
    /// It was redelivered so often that it may be what stops its readers.
    CrashSuspected,
    /// It was redelivered because a delivery takes longer than the broker allows.
    ConsumerTimeout,
    /// A dependency went down, or the broker session ended, before it was done.
    Abandoned,
    /// A dependency is known to be down.
    GateClosed,
    /// It took too long.
    Deadline,
    /// An effect was cut short by the end of the process.
    CutShort,

    // The store.
    /// It refuses our credentials, or our clock differs from its own.
    StoreCredentials,
    /// What answers does not answer as a store.
    StoreOdd,
    /// It failed (HTTP 500 and above).
    StoreError,
    /// It did not answer in time.
    StoreTimeout,
    /// No connection.
    StoreUnreachable,
    /// It does not know this kind of request.
    StoreUnsupported,
    /// The request could not be made.
    StoreRequest,
    /// It refused the request.
    StoreRefused,
    /// It does not allow the request for this object.
    StoreDenied,
    /// A rule of retention, or a legal hold, keeps the version.
    StoreLocked,
    /// There is no such object or version.
    StoreNotFound,
    /// The announced object was not there.
    ObjectMissing,
    /// The object is not the expected one any more.
    ObjectChanged,
    /// Archived, or encrypted with a key that the uploader keeps.
    Unreadable,
    /// GET and HEAD keep answering about different bytes.
    IdentityUnstable,
    /// The object is overwritten again and again.
    KeepsChanging,
    /// Its versions cannot be listed.
    VersionsDenied,
    /// More versions of one key than are looked through.
    TooManyVersions,
    /// The connection broke during the body.
    BodyBroken,
    /// The body stopped arriving.
    BodyStalled,
    /// Fewer bytes than announced.
    BodyTruncated,
    /// More bytes than announced.
    BodyTooLong,
    /// Another length than HEAD tells.
    BodyOfOtherLength,
    /// No length, or a part of the object only.
    BodyOfUnknownLength,
    /// No `ETag`, or another version than was asked for.
    BodyOfUnknownObject,
    /// A tag that the SDK cannot send.
    TagRequest,
    /// The object is still there after its deletion was confirmed.
    DeleteUndone,
    /// The copy in the quarantine bucket has other bytes than were scanned.
    CopyDiffers,
    /// Too many contents by one signature: its deletion waits for a person.
    SurgeHeld,

    // The engine.
    /// No connection.
    EngineUnreachable,
    /// It did not answer in time.
    EngineTimeout,
    /// It closed the connection during a scan.
    EngineBrokeOff,
    /// It answered before every byte was sent.
    EngineEarlyReply,
    /// Its answer is no verdict.
    EngineReply,
    /// clamav-rest says nothing about the file: its clamd closed the connection without an answer.
    EngineSilent,
    /// It reported an error of its own.
    EngineError,
    /// It neither scans the object nor says why.
    EngineUnclear,
    /// It did not find the EICAR test file.
    EngineBlind,
    /// It found something in a harmless text.
    EngineFindsEverything,
    /// It has not passed a self-test yet.
    EngineUnproved,
    /// Its database was replaced during the scan.
    DatabaseChanged,
    /// `STRICT_LIMITS`, and it calls files clean that it did not look into.
    LimitsHidden,

    // This host.
    /// The temp folder cannot be written.
    TempDisk,
    /// Other downloads use the disk space that this one needs.
    SpoolFull,
    /// No file descriptors, memory or disk.
    HostResources,

    // Reports and the broker.
    /// The broker did not confirm a message.
    NotPublished,
    /// The journal cannot be read, so it is not known whether a surge holds the deletion.
    JournalUnread,
    /// An acknowledgement could not be sent.
    NotAcknowledged,
    /// The report could not be written as JSON.
    ReportJson,
    /// The message in the reports queue cannot be sent.
    ReportUnusable,
    /// The webhook does not answer, or asks for a pause.
    WebhookDown,
    /// The webhook refuses every report, for good (410).
    WebhookGone,
    /// The webhook refuses this report, perhaps only now.
    WebhookRefused,
    /// The webhook refuses this report for good.
    WebhookRejected,
}

/// What a failure means for its delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Trying again cannot help.
    Permanent,
    /// Trying again may help, and only this object is concerned.
    Transient,
    /// The dependency may be down as a whole; a probe tells.
    Suspect(Dependency),
    /// The dependency is down as a whole; no probe is needed to know it.
    Down(Dependency),
    /// Try later, without counting an attempt: other deliveries use a local resource, or it is not known
    /// yet whether the webhook refuses this report or every report.
    Busy,
    /// The broker session is lost, or the gate closed: nothing is settled, the broker redelivers the
    /// message.
    Abandoned,
}

/// A fault: what it means for the delivery, at which stage it happened, why, and a detail for people.
///
/// `Display` is for logs and dead-letter headers; it never contains secrets or object bytes.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// What it means for the delivery.
    pub(crate) kind: Kind,
    /// At which stage it happened.
    pub(crate) stage: Stage,
    /// Why.
    pub(crate) reason: Reason,
    /// One line for people.
    pub(crate) detail: String,
    /// The engine had been sent bytes of this object. Then an attempt is always counted, so that a file
    /// which crashes the engine is parked in the end.
    pub(crate) engine_touched: bool,
    /// The pause that the dependency asked for (`Retry-After`).
    pub(crate) pause: Option<std::time::Duration>,
}

impl Failure {
    /// A failure of `kind` at `stage`.
    pub(crate) fn new(kind: Kind, stage: Stage, reason: Reason, detail: impl fmt::Display) -> Self {
        Self {
            kind,
            stage,
            reason,
            detail: one_line(&detail.to_string()),
            engine_touched: false,
            pause: None,
        }
    }

    /// Trying again cannot help.
    pub(crate) fn permanent(stage: Stage, reason: Reason, detail: impl fmt::Display) -> Self {
        Self::new(Kind::Permanent, stage, reason, detail)
    }

    /// Trying again may help.
    pub(crate) fn transient(stage: Stage, reason: Reason, detail: impl fmt::Display) -> Self {
        Self::new(Kind::Transient, stage, reason, detail)
    }

    /// `dependency` may be down as a whole.
    pub(crate) fn suspect(
        dependency: Dependency,
        stage: Stage,
        reason: Reason,
        detail: impl fmt::Display,
    ) -> Self {
        Self::new(Kind::Suspect(dependency), stage, reason, detail)
    }

    /// The broker session ended under the delivery.
    pub(crate) fn abandoned(stage: Stage) -> Self {
        Self::new(
            Kind::Abandoned,
            stage,
            Reason::Abandoned,
            "cut short: a dependency is down, or the broker session ended",
        )
    }

    /// The same failure, after the engine had been sent bytes.
    pub(crate) fn engine_touched(mut self) -> Self {
        self.engine_touched = true;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.reason, self.stage, self.detail)
    }
}

impl Error for Failure {}

/// `error` and then each of its causes, outermost first.
pub(crate) fn chain<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&error| error.source())
}

/// Whether `error` says that this host ran out of file descriptors, memory or disk: a fault of the
/// host, not of the peer.
pub(crate) fn is_local(error: &(dyn Error + 'static)) -> bool {
    chain(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|error| {
        matches!(
            Errno::from_io_error(error),
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOSPC | Errno::DQUOT)
        )
    })
}

/// An error and its causes as one line: the outermost message of a client library alone ("dispatch
/// failure") says too little. A problem with a certificate is explained first.
pub(crate) fn causes(error: &(dyn Error + 'static)) -> String {
    let mut line = crate::tls::explain(error).map(|text| format!("{text}: ")).unwrap_or_default();
    line.push_str(&error.to_string());
    for cause in chain(error).skip(1) {
        let text = cause.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
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
        let failure = Failure::transient(
            Stage::Scan,
            Reason::EngineReply,
            format!("a\nb\x1b[31m{}", "y".repeat(900)),
        );
        assert!(!failure.detail.contains(['\n', '\x1b']));
        assert_eq!(failure.detail.chars().count(), 500);
    }

    #[test]
    fn only_exhausted_resources_are_faults_of_this_host() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOSPC, Errno::DQUOT] {
            let error = io::Error::from(errno);
            assert!(is_local(&error), "{error}");
            assert!(is_local(&io::Error::other(Outer(error))));
        }
        for errno in [Errno::CONNREFUSED, Errno::ACCESS, Errno::TIMEDOUT, Errno::IO] {
            assert!(!is_local(&io::Error::from(errno)), "{errno}");
        }
        assert!(!is_local(&io::Error::other("of no number")));
    }

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);
}
