//! Times as text.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The last second of the year 9999, in seconds since 1970. RFC 3339 knows no later one.
const END: u64 = 253_402_300_799;

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

/// A time in milliseconds since 1970. Also one that somebody else chose: an earlier one counts as 1970,
/// one beyond the year 9999 as its end.
#[must_use]
pub(crate) fn time_of(millis: i64) -> SystemTime {
    let millis = u64::try_from(millis).unwrap_or_default().min(END * 1000);
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
}

/// A time in seconds since 1970, in RFC 3339, UTC. One beyond the year 9999 counts as its end; empty
/// for one that RFC 3339 cannot tell.
#[must_use]
pub(crate) fn rfc3339_of_seconds(seconds: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp(seconds.min(END.cast_signed()));
    at.ok().and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}

/// A time in RFC 3339 in milliseconds since 1970; `None` for other text.
#[must_use]
pub(crate) fn millis_of(text: &str) -> Option<i64> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()
}

/// Now in RFC 3339, UTC.
#[must_use]
pub(crate) fn now() -> String {
    rfc3339(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_time_can_be_shown() {
        for (millis, shown) in [
            (i64::MIN, "1970-01-01T00:00:00Z"),
            (1_700_000_000_000, "2023-11-14T22:13:20Z"),
            (i64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(time_of(millis)), shown);
        }
        assert_eq!(millis_of("2023-11-14T22:13:20.5Z"), Some(1_700_000_000_500));
        assert_eq!(millis_of("yesterday"), None);
        for (seconds, shown) in [
            (i64::MIN, ""),
            (-1, "1969-12-31T23:59:59Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (i64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339_of_seconds(seconds), shown);
        }
    }
}
