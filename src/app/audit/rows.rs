//! The result as CSV, one row an object.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::file::{Sink, cannot_write};
use crate::clock;
use crate::receipt::Statement;
use crate::store::{Identity, Listed};
use crate::sweep::{Finding, Visited};

const HEADER: [&str; 11] = [
    "bucket",
    "key",
    "version_id",
    "size",
    "last_modified",
    "standing",
    "status",
    "scanned_at",
    "database",
    "database_date",
    "sha256",
];
/// In place of a standing that could not be found out.
const UNKNOWN: &str = "not_found_out";

/// Writes rows as objects are found.
pub(super) struct Rows {
    writer: csv::Writer<Sink>,
    path: PathBuf,
}

impl Rows {
    /// Begins the file.
    ///
    /// # Errors
    /// When it cannot be written; names the file.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let writer = csv::Writer::from_writer(Sink::open(path)?);
        let mut rows = Self { writer, path: path.to_owned() };
        rows.write(&HEADER.map(Cow::Borrowed))?;
        Ok(rows)
    }

    /// Writes the row of an object; none for one that is gone, and for a folder.
    ///
    /// # Errors
    /// When it cannot be written; names the file.
    pub(super) fn add(&mut self, visited: &Visited) -> Result<(), String> {
        match (&visited.finding, &visited.listed) {
            (Finding::Gone | Finding::Folder, _) => Ok(()),
            (Finding::Judged(judged), _) => {
                let standing = judged.standing.into_str();
                self.write(&row(&judged.identity, standing, judged.statement.as_ref()))
            }
            (_, Listed::Object(identity)) => self.write(&row(identity, UNKNOWN, None)),
            (_, Listed::NoText(key)) => {
                let mut cells = HEADER.map(|_| Cow::Borrowed(""));
                cells[1] = guarded(key);
                cells[5] = UNKNOWN.into();
                self.write(&cells)
            }
        }
    }

    /// Ends the file.
    ///
    /// # Errors
    /// When it cannot be written; names the file.
    pub(super) fn finish(self, whole: bool) -> Result<(), String> {
        let sink = self.writer.into_inner();
        sink.map_err(|error| cannot_write(&self.path, error.error()))?.finish(whole)
    }

    fn write(&mut self, cells: &[Cow<'_, str>]) -> Result<(), String> {
        let written = self.writer.write_record(cells.iter().map(AsRef::as_ref));
        written.map_err(|error| cannot_write(&self.path, &error.into()))
    }
}

fn row<'a>(
    identity: &'a Identity,
    standing: &'static str,
    statement: Option<&'a Statement>,
) -> [Cow<'a, str>; 11] {
    let time = clock::rfc3339_of_seconds;
    let database = statement.map(|statement| &statement.database);
    let text = |text: Option<String>| Cow::Owned(text.unwrap_or_default());
    [
        guarded(&identity.bucket),
        guarded(&identity.key),
        guarded(identity.version_id().unwrap_or_default()),
        text(identity.length.map(|length| length.to_string())),
        text(identity.modified().map(time)),
        standing.into(),
        statement.map_or("", |statement| statement.status.into_str()).into(),
        text(statement.map(|statement| clock::rfc3339(clock::time_of(statement.began)))),
        guarded(database.map_or("", |database| database.version.as_str())),
        text(database.and_then(|database| database.date).map(time)),
        text(statement.and_then(|statement| statement.sha256.clone())),
    ]
}

/// A cell that no spreadsheet takes for a formula: a `'` before it if it begins as one, or with `'`
/// itself, so that it can be taken away again.
/// Source: <https://owasp.org/www-community/attacks/CSV_Injection>
fn guarded(text: &str) -> Cow<'_, str> {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '\'']) {
        return Cow::Owned(format!("'{text}"));
    }
    Cow::Borrowed(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cell_is_no_formula_and_can_be_read_back(key in any::<String>()) {
            let cell = guarded(&key).into_owned();
            prop_assert!(!cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']));
            prop_assert_eq!(cell.strip_prefix('\'').unwrap_or(&cell), &key);
        }
    }

    #[test]
    fn a_row_has_a_cell_for_each_column() {
        let identity = Identity::new("b", "=cmd|'/c calc'!A1", Some("v1"), Some("e"), Some(3));
        let statement = Statement {
            status: crate::verdict::Status::Clean,
            finding: None,
            began: 1_700_000_000_123,
            database: "27812@1700000000".parse().unwrap(),
            sha256: Some("ab".to_owned()),
        };
        assert_eq!(
            row(&identity, "verified", Some(&statement)),
            [
                "b",
                "'=cmd|'/c calc'!A1",
                "v1",
                "3",
                "",
                "verified",
                "clean",
                "2023-11-14T22:13:20.123Z",
                "27812",
                "2023-11-14T22:13:20Z",
                "ab",
            ]
        );
        assert_eq!(row(&identity, "never", None)[6..], ["", "", "", "", ""]);
    }
}
