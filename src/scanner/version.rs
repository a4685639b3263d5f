//! The version that an engine reports, as in `ClamAV 1.4.3/27500/Mon Nov 16 09:00:00 2026`, and
//! whether that version is outdated.

use std::fmt;

use time::PrimitiveDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// The format of C's `asctime`, in which clamd prints the date of its daily database.
const ASCTIME: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short] [month repr:short] [day padding:space] [hour]:[minute]:[second] [year]"
);

/// The versions of the engine and of its virus database, as far as known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) engine: Option<String>,
    /// Absent when no official database is loaded.
    pub(crate) database: Option<String>,
    pub(crate) database_date: Option<time::OffsetDateTime>,
}

/// Why an engine should be updated. Sources: ClamAV's NEWS.md of the named releases, and its
/// end-of-life policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outdated {
    /// 1.3 and older, except 1.0.
    Unsupported,
    /// 1.0: a long-term release; its databases could be downloaded until 28 November 2026.
    NoDatabases,
    /// 1.4.0 to 1.4.4: memory errors that a file can trigger, among them CVE-2025-20260 up to
    /// 1.4.2.
    HolesBefore145,
    /// 1.5.0: the same, and `Heuristics.Limits.Exceeded.MaxFiles` for ordinary archives.
    FalseAlerts,
    /// 1.5.1 and 1.5.2: the same as 1.4.4.
    HolesBefore153,
}

impl fmt::Display for Outdated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsupported => "is out of support: update to 1.4.5, 1.5.3 or later",
            Self::NoDatabases => {
                "is out of support and gets no databases since 28 November 2026: update to 1.4.5, \
                 1.5.3 or later"
            }
            Self::HolesBefore145 => {
                "has security holes that a scanned file can use: update to 1.4.5 or later"
            }
            Self::FalseAlerts => {
                "has security holes that a scanned file can use, and reports ordinary archives as \
                 beyond its limits: update to 1.5.3 or later"
            }
            Self::HolesBefore153 => {
                "has security holes that a scanned file can use: update to 1.5.3 or later"
            }
        })
    }
}

impl Version {
    /// Reads clamd's answer to VERSION. One that does not begin with `ClamAV` gives no version:
    /// clamd 1.5 with `EnableVersionCommand no` answers `COMMAND UNAVAILABLE`.
    pub(super) fn parse(line: &str) -> Self {
        let Some(line) = line.trim().strip_prefix("ClamAV ") else { return Self::default() };
        let mut parts = line.splitn(3, '/');
        let mut part = || parts.next().map(str::trim).filter(|part| !part.is_empty());
        let engine = part().map(str::to_owned);
        let database = part().map(str::to_owned);
        Self { engine, database, database_date: part().and_then(date) }
    }

    /// Why the engine should be updated; `None` if it need not be, or the version is unknown.
    pub(crate) fn outdated(&self) -> Option<Outdated> {
        let engine = self.engine.as_deref()?;
        // A release candidate (`1.5.0-rc`) has at least the holes of its release.
        let numbers = engine.split_once(['-', '+', ' ']).map_or(engine, |(numbers, _)| numbers);
        let numbers: Vec<u32> =
            numbers.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
        match *numbers.as_slice() {
            [1, 0, ..] => Some(Outdated::NoDatabases),
            [0, _, ..] | [1, 1..=3, ..] => Some(Outdated::Unsupported),
            [1, 4, 0..=4, ..] | [1, 4] => Some(Outdated::HolesBefore145),
            [1, 5, 0, ..] | [1, 5] => Some(Outdated::FalseAlerts),
            [1, 5, 1..=2, ..] => Some(Outdated::HolesBefore153),
            _ => None,
        }
    }

    /// The version with the older database; an unknown database is older than any.
    pub(super) fn older(self, other: Self) -> Self {
        let age = |version: &Self| version.database.as_deref().and_then(|n| n.parse::<u64>().ok());
        if age(&other) < age(&self) { other } else { self }
    }

    /// Builds a version from the separate fields that some releases of clamav-rest send.
    pub(super) fn from_fields(engine: &str, database: Option<&str>, at: Option<&str>) -> Self {
        let bare = engine.starts_with(|first: char| first.is_ascii_digit());
        let mut version =
            if bare { Self::parse(&format!("ClamAV {engine}")) } else { Self::parse(engine) };
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

    #[test]
    fn what_does_not_name_clamav_is_no_version() {
        for line in
            ["COMMAND UNAVAILABLE", "UNKNOWN COMMAND", "1.4.3", "ClamAV", "ClamAV ", "x/1/y"]
        {
            assert_eq!(Version::parse(line), Version::default(), "{line}");
        }
        assert_eq!(Version::from_fields("COMMAND UNAVAILABLE", None, None), Version::default());
    }

    #[test]
    fn known_holes_and_ended_support_are_told_from_the_version_alone() {
        use Outdated::{FalseAlerts, HolesBefore145, HolesBefore153, NoDatabases, Unsupported};
        for (engine, outdated) in [
            ("0.99", Some(Unsupported)),
            ("0.103.8", Some(Unsupported)),
            ("0.105.2", Some(Unsupported)),
            ("1.0.0", Some(NoDatabases)),
            ("1.0.9", Some(NoDatabases)),
            ("1.1.3", Some(Unsupported)),
            ("1.2.0", Some(Unsupported)),
            ("1.3.2", Some(Unsupported)),
            ("1.4.0", Some(HolesBefore145)),
            ("1.4.3", Some(HolesBefore145)),
            ("1.4.4", Some(HolesBefore145)),
            ("1.4.4-beta", Some(HolesBefore145)),
            ("1.4.5", None),
            ("1.4.6", None),
            ("1.4.10", None),
            ("1.5.0-rc", Some(FalseAlerts)),
            ("1.5.0-beta", Some(FalseAlerts)),
            ("1.5.0", Some(FalseAlerts)),
            ("1.5.1", Some(HolesBefore153)),
            ("1.5.2", Some(HolesBefore153)),
            ("1.5.3", None),
            ("1.5.4-rc2", None),
            ("1.6.0", None),
            ("2.0.0", None),
            ("1.6.0-devel-20260901", None),
            ("devel-20240101", None),
            ("1.x", None),
            ("1", None),
            ("", None),
            ("1..4", None),
            ("99999999999.0.0", None),
        ] {
            let version = Version { engine: Some(engine.to_owned()), ..Version::default() };
            assert_eq!(version.outdated(), outdated, "{engine}");
        }
        assert_eq!(Version::default().outdated(), None);
    }

    #[test]
    fn the_older_database_is_named_and_an_unknown_one_is_oldest() {
        let version = |text: &str| Version::parse(&format!("ClamAV 1.4.6{text}"));
        for (before, after, older) in [
            ("/100/x", "/101/x", "/100/x"),
            ("/101/x", "/100/x", "/100/x"),
            ("/99/x", "/100/x", "/99/x"),
            ("/100/x", "", ""),
            ("", "/100/x", ""),
            ("/100/x", "/custom/x", "/custom/x"),
        ] {
            assert_eq!(version(before).older(version(after)), version(older), "{before} {after}");
        }
    }
}
