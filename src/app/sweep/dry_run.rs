//! Counts what a sweep would announce.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Request, fail, order, say};
use crate::clock;
use crate::config::Settings;
use crate::receipt::{Freshness, Keys};
use crate::store::Store;
use crate::sweep::{self, Judge, Pass, State, Why};

/// Reads all pages and prints how many objects they call for.
pub(super) async fn dry_run(
    settings: &Settings,
    keys: Keys,
    what: &Request,
    receipts: bool,
) -> ExitCode {
    let store = match Store::new(&settings.store, &settings.trust).await {
        Ok(store) => Arc::new(store),
        Err(error) => return fail(&error, super::BAD_CONFIGURATION),
    };
    let judge = Arc::new(Judge {
        store,
        keys: Arc::new(keys),
        tag_key: settings.policy.tag_key.clone(),
        freshness: Freshness::Any,
        hash: false,
    });
    let concurrency = usize::from(settings.sweep_concurrency);
    for target in &what.targets {
        let now = clock::millis(SystemTime::now());
        let order = order(what, target, receipts, now);
        let mut next = Some(State::first(now, order, Why::Asked, receipts));
        let mut last = None;
        while let Some(mut state) = next {
            match sweep::read(&judge, &state, concurrency).await {
                Ok(reading) => {
                    if reading.untagged {
                        state.pass = Pass::Only;
                    }
                    last = Some(reading.counts);
                    next = state.next(reading.end, reading.counts);
                }
                Err(failure) => return fail(format!("{}: {failure}", target.bucket), 1),
            }
        }
        let counts = last.unwrap_or_default();
        say(format!(
            "{}: {} objects looked at, {} would be announced, {} not found out",
            target.bucket, counts.listed, counts.announced, counts.unknown
        ));
    }
    ExitCode::SUCCESS
}
