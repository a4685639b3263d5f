//! How recent a verdict has to be, and why.

use crate::app::verify::{describe_database, since};
use crate::clock;
use crate::config::{Extra, Inspection, ScannerSettings};
use crate::receipt::{Database, Freshness};
use crate::scanner::Scanner;
use crate::tls::Trust;

/// How recent a verdict has to be, and one line that says so.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) freshness: Freshness,
    pub(super) line: String,
}

/// `RECEIPT_MAX_AGE` decides, else the database that the engine uses, else any verdict counts.
pub(super) async fn decide(settings: &Inspection) -> Judged {
    if let Some(age) = settings.receipts.max_age {
        let freshness = since(age);
        let begun = match &freshness {
            Freshness::Since(began) => clock::rfc3339_of_seconds(*began / 1000),
            Freshness::Any | Freshness::Database(_) => String::new(),
        };
        let line = format!("clean counts if the scan began at {begun} or later (RECEIPT_MAX_AGE)");
        return Judged { freshness, line };
    }
    match database(&settings.engine, &settings.trust).await {
        Ok(database) => {
            let line = format!("clean counts {} or a newer one", describe_database(&database));
            Judged { freshness: Freshness::Database(database), line }
        }
        Err(why) => {
            let line = format!("ages were not judged, any valid receipt counts: {why}");
            Judged { freshness: Freshness::Any, line }
        }
    }
}

/// The database in use, or why it is not known.
async fn database(engine: &Extra<ScannerSettings>, trust: &Trust) -> Result<Database, String> {
    let settings = match engine {
        Extra::Set(settings) => settings,
        Extra::Unset => return Err("neither RECEIPT_MAX_AGE nor CLAMD_ENDPOINT is set".to_owned()),
        Extra::Wrong(problems) => return Err(problems.one_line()),
    };
    let scanner = Scanner::new(settings, trust).map_err(|error| error.to_string())?;
    let version = scanner.version().await;
    let version = version.ok_or("the engine of CLAMD_ENDPOINT does not answer")?;
    match Database::from(&version) {
        database if database.version.is_empty() => {
            Err("the engine of CLAMD_ENDPOINT does not name its database".to_owned())
        }
        database => Ok(database),
    }
}
