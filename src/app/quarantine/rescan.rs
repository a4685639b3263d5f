//! `quarantine rescan`: what the engine does not find any more.

use std::process::ExitCode;
use std::time::Duration;

use super::bucket::{Bucket, Held};
use super::restore::Restorer;
use super::{Restore, Which, fail, say};
use crate::app::BAD_CONFIGURATION;
use crate::config::{Extra, Inspection};
use crate::scanner::{Engine, Scanner};
use crate::verdict::Verdict;

/// For the engine's self-test.
const SELF_TEST_TIMEOUT: Duration = Duration::from_mins(1);

/// `restoring`: what is not found any more is restored.
pub(super) async fn rescan(
    settings: &Inspection,
    bucket: &Bucket,
    which: Which,
    restoring: bool,
) -> ExitCode {
    let restorer = if restoring {
        let what = Restore { which: which.clone(), ..Restore::default() };
        match Restorer::new(settings, bucket, what) {
            Ok(restorer) => Some(restorer),
            Err(error) => return fail(error, BAD_CONFIGURATION),
        }
    } else {
        None
    };
    let scanner = match &settings.engine {
        Extra::Set(engine) => Scanner::new(engine, &settings.trust).map_err(|e| e.to_string()),
        Extra::Wrong(problems) => Err(problems.one_line()),
        Extra::Unset => Err("CLAMD_ENDPOINT is required".to_owned()),
    };
    let scanner = match scanner {
        Ok(scanner) => scanner,
        Err(error) => return fail(error, BAD_CONFIGURATION),
    };
    let engine = match scanner.open(SELF_TEST_TIMEOUT).await {
        Ok(engine) => engine,
        Err(failure) => return fail(failure.to_string(), 1),
    };
    let mut clean = 0_u64;
    let tally = bucket
        .each(&which, async |held| {
            if !is_clean(bucket, &engine, &held).await? {
                return Ok(None);
            }
            clean += 1;
            match &restorer {
                Some(restorer) => Box::pin(restorer.one(&held)).await.map(Some),
                None => Ok(Some(format!("clean {}", held.said()))),
            }
        })
        .await;
    say(format!("{clean} of {} are not found any more", tally.done + tally.failed));
    tally.code()
}

async fn is_clean(bucket: &Bucket, engine: &Engine, held: &Held) -> Result<bool, String> {
    let record = held.record_or_why()?;
    let named = |why: String| format!("{}: {why}", held.name);
    let copy = bucket.download(&held.name).await.map_err(named)?;
    let sha256 = copy.sha256().await.map_err(|failure| named(failure.to_string()))?;
    if sha256 != record.sha256 {
        return Err(named("the copy has other bytes than its record says".to_owned()));
    }
    match engine.scan(copy.bytes(), 1).await {
        Ok((Verdict::Clean, _)) => Ok(true),
        Ok((Verdict::Infected { .. }, _)) => Ok(false),
        // It is there because of that.
        Ok((verdict, _)) if verdict.finding() == Some(&record.signature) => Ok(false),
        Ok((Verdict::Unscannable { reason, .. }, _)) => {
            Err(named(format!("it cannot be scanned ({reason})")))
        }
        Err(failure) => Err(named(failure.to_string())),
    }
}
