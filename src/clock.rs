//! Times as text.

use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// `at` in RFC 3339, UTC.
#[must_use]
pub(crate) fn rfc3339(at: SystemTime) -> String {
    // Fails only for years beyond 9999.
    OffsetDateTime::from(at).format(&Rfc3339).unwrap_or_default()
}

/// `at` in milliseconds since 1970; 0 for an earlier time.
#[must_use]
pub(crate) fn millis(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A time in seconds since 1970, in RFC 3339.
#[must_use]
pub(crate) fn rfc3339_of_seconds(seconds: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp(seconds);
    at.ok().and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}

/// Now in RFC 3339, UTC.
#[must_use]
pub(crate) fn now() -> String {
    rfc3339(SystemTime::now())
}
