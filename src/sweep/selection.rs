//! Which objects a sweep announces. Pure.

use serde::{Deserialize, Serialize};

use crate::receipt::{Standing, Statement};

/// What of a bucket a sweep is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Selection {
    /// What has no valid receipt.
    Missing,
    /// That, and what was scanned before this time, in milliseconds since 1970.
    ScannedBefore(i64),
    /// That, and what was scanned by a database older than this time, in seconds since 1970, or by one
    /// without a date.
    DatabaseBefore(i64),
    /// Everything.
    All,
}

/// A sweep goes over the bucket twice where it wants more than what has no receipt, so that what was
/// never scanned comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pass {
    /// What has no valid receipt.
    First,
    /// The rest.
    Second,
    /// Both at once: without receipts nothing tells them apart.
    Only,
}

impl Pass {
    /// The first pass over a bucket. `receipts`: there is a key to verify receipts with.
    pub(crate) const fn first(receipts: bool) -> Self {
        if receipts { Self::First } else { Self::Only }
    }
}

impl Selection {
    /// The pass behind this one.
    pub(crate) const fn pass_after(self, pass: Pass) -> Option<Pass> {
        match (pass, self) {
            (Pass::First, Self::ScannedBefore(_) | Self::DatabaseBefore(_) | Self::All) => {
                Some(Pass::Second)
            }
            (Pass::First, Self::Missing) | (Pass::Second | Pass::Only, _) => None,
        }
    }

    /// Whether an object with this standing is announced in this pass. `statement` is what its receipt
    /// says, if that is valid.
    pub(crate) fn wants(
        self,
        pass: Pass,
        standing: Standing,
        statement: Option<&Statement>,
    ) -> bool {
        let missing = match standing {
            Standing::Never | Standing::Forged | Standing::Untaggable => true,
            // Signed by a key that is not trusted any more.
            Standing::Stale => statement.is_none(),
            Standing::Verified
            | Standing::Released
            | Standing::Infected
            | Standing::Unscannable => false,
        };
        match pass {
            Pass::First => missing,
            Pass::Second => !missing && self.wants_scanned(statement),
            Pass::Only => missing || self.wants_scanned(statement),
        }
    }

    fn wants_scanned(self, statement: Option<&Statement>) -> bool {
        match (self, statement) {
            (Self::All, _) => true,
            (Self::Missing, _) | (_, None) => false,
            (Self::ScannedBefore(time), Some(statement)) => statement.began < time,
            (Self::DatabaseBefore(time), Some(statement)) => {
                statement.database.date.is_none_or(|date| date < time)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use strum::IntoEnumIterator;

    use super::*;
    use crate::receipt::Database;
    use crate::verdict::Status;

    #[test]
    fn each_object_is_announced_in_one_pass_at_most_and_none_without_a_receipt_is_left_out() {
        let dates = [None, Some(1), Some(100)];
        let statements = dates.map(|date| Statement {
            status: Status::Clean,
            began: 50,
            database: Database { version: "1".to_owned(), date },
            sha256: None,
            finding: None,
        });
        let selections = [
            Selection::Missing,
            Selection::ScannedBefore(50),
            Selection::ScannedBefore(51),
            Selection::DatabaseBefore(50),
            Selection::All,
        ];
        for (standing, selection) in
            Standing::iter().flat_map(|standing| selections.map(|selection| (standing, selection)))
        {
            for statement in statements.iter().map(Some).chain([None]) {
                let wants = |pass| selection.wants(pass, standing, statement);
                let (first, second) = (wants(Pass::First), wants(Pass::Second));
                assert!(!(first && second), "{standing} {selection:?}");
                assert_eq!(wants(Pass::Only), first || second, "{standing} {selection:?}");
                if matches!(standing, Standing::Never | Standing::Forged) {
                    assert!(first);
                }
            }
        }
    }

    #[test]
    fn the_time_of_the_scan_or_the_age_of_its_database_decides() {
        let statement = |began, date| Statement {
            status: Status::Clean,
            began,
            database: Database { version: "1".to_owned(), date },
            sha256: None,
            finding: None,
        };
        for (selection, statement, wanted) in [
            (Selection::Missing, statement(1, Some(1)), false),
            (Selection::ScannedBefore(10), statement(9, Some(1)), true),
            (Selection::ScannedBefore(10), statement(10, Some(1)), false),
            (Selection::DatabaseBefore(10), statement(99, Some(9)), true),
            (Selection::DatabaseBefore(10), statement(1, Some(10)), false),
            (Selection::DatabaseBefore(10), statement(1, None), true),
            (Selection::All, statement(99, Some(99)), true),
        ] {
            let wants = selection.wants(Pass::Second, Standing::Verified, Some(&statement));
            assert_eq!(wants, wanted, "{selection:?} {statement:?}");
        }
    }
}
