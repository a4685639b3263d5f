//! `stack reports`: what the webhook sink received.

use std::process::ExitCode;
use std::time::Duration;

use clap::ArgMatches;
use peers::error::{Context, Result};
use peers::sink::{self, Received};

use super::current::current;

pub(super) async fn run(matches: &ArgMatches) -> Result<ExitCode> {
    let file = match std::env::var_os("REPORTS_FILE") {
        Some(file) => file.into(),
        None => current()?.settings.reports,
    };
    let key = matches.get_one::<String>("key");
    let wanted = |report: &Received| key.is_none() || report.key().as_ref() == key;
    let found = match matches.get_one::<u64>("wait") {
        Some(seconds) => {
            sink::wait_for(|| sink::read(&file), 1, Duration::from_secs(*seconds), wanted).await?
        }
        None => sink::read(&file).into_iter().filter(wanted).collect(),
    };
    for report in found {
        say!("{}", serde_json::to_string(&report).context("report")?);
    }
    Ok(ExitCode::SUCCESS)
}
