//! How things end, and what is timed: words for labels.

use strum::IntoStaticStr;

/// How a notification ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub(crate) enum NotificationEnd {
    /// The verdict was applied, and reported where reports are due.
    Applied,
    /// Like `Applied`, for newer bytes than those announced.
    Superseded,
    /// The object does not exist.
    Gone,
    /// Retention or a legal hold keeps the infected object.
    Locked,
    /// It announces an object in the quarantine bucket.
    QuarantineBucket,
    /// The notification announces nothing to scan.
    Ignored,
    /// A canary whose effect was refused; its round says so.
    CanaryRefused,
    /// Moved to the dead-letter queue.
    Parked,
}

/// How a page of a sweep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub(crate) enum PageEnd {
    /// It was the last one of its sweep.
    Done,
    /// The bucket had a sweep already.
    Refused,
    /// The sweep was over, or another message of it went on.
    Dropped,
    /// Moved to the dead-letter queue.
    Parked,
}

/// How a message of a sweep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub(crate) enum BacklogEnd {
    /// The verdict was applied, and reported where reports are due.
    Scanned,
    /// A scan that began after the sweep is proved by its receipt.
    AlreadyScanned,
    /// The object does not exist, or not any more.
    Gone,
    /// Retention or a legal hold keeps the infected object.
    Locked,
    /// It is in the quarantine bucket.
    QuarantineBucket,
    /// A surge holds its deletion: parked with the notifications.
    Held,
    /// Not scanned in any attempt, or its verdict could not be applied; reported.
    Failed,
    /// Not what a sweep announces.
    Malformed,
}

/// An outcome of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub(crate) enum ReportEnd {
    /// The broker confirmed it.
    Queued,
    /// The webhook accepted it.
    Delivered,
    /// One delivery attempt failed.
    Failed,
    /// Moved to the dead-letter queue.
    Parked,
}

/// A timed stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub(crate) enum Timed {
    /// From the request to the last byte.
    Fetch,
    /// From the last byte to the verdict.
    Scan,
    /// Tag or deletion, with its report.
    Effects,
    /// A whole delivery.
    Delivery,
}
