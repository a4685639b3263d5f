//! What an engine says of itself: `ClamAV 1.4.3/27500/Mon Nov 16 09:00:00 2026`.

use time::PrimitiveDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// C's `asctime`, which clamd uses for the date of its daily database.
const ASCTIME: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short] [month repr:short] [day padding:space] [hour]:[minute]:[second] [year]"
);

/// Version of the engine and of its virus database, as far as it tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) engine: Option<String>,
    /// Absent when no official database is loaded.
    pub(crate) database: Option<String>,
    pub(crate) database_date: Option<time::OffsetDateTime>,
}

impl Version {
    /// Reads clamd's answer to VERSION.
    pub(super) fn parse(line: &str) -> Self {
        let mut parts = line.trim().splitn(3, '/');
        let mut part = || parts.next().map(str::trim).filter(|part| !part.is_empty());
        let engine = part().map(|name| name.strip_prefix("ClamAV ").unwrap_or(name).to_owned());
        let database = part().map(str::to_owned);
        Self { engine, database, database_date: part().and_then(date) }
    }

    /// Puts a version together from the separate fields that some releases of clamav-rest send.
    pub(super) fn from_fields(engine: &str, database: Option<&str>, at: Option<&str>) -> Self {
        let mut version = Self::parse(engine);
        if version.database.is_none() {
            version.database = database.filter(|text| !text.is_empty()).map(str::to_owned);
            version.database_date = at.and_then(date);
        }
        version
    }
}

fn date(text: &str) -> Option<time::OffsetDateTime> {
    PrimitiveDateTime::parse(text.trim(), ASCTIME).ok().map(PrimitiveDateTime::assume_utc)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn version_database_and_date_are_told_apart() {
        let version = Version::parse("ClamAV 1.4.3/27796/Sat Oct  4 09:36:01 2025");
        assert_eq!(version.engine.as_deref(), Some("1.4.3"));
        assert_eq!(version.database.as_deref(), Some("27796"));
        assert_eq!(version.database_date, Some(datetime!(2025-10-04 09:36:01 UTC)));
    }

    #[test]
    fn without_an_official_database_only_the_engine_is_known() {
        let version = Version::parse("ClamAV 1.4.6\0".trim_end_matches('\0'));
        assert_eq!((version.engine.as_deref(), version.database), (Some("1.4.6"), None));
        assert_eq!(Version::parse(""), Version::default());
        assert_eq!(Version::parse("ClamAV 1/2/not a date").database_date, None);
    }

    #[test]
    fn separate_fields_are_put_together() {
        let version =
            Version::from_fields("1.4.3", Some("27796"), Some("Sat Oct  4 09:36:01 2025"));
        assert_eq!(version, Version::parse("ClamAV 1.4.3/27796/Sat Oct  4 09:36:01 2025"));
    }
}
