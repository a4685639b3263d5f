//! The services that are subcommands of the `stack` program itself.

use peers::error::{Context, Result};

use super::plan::Plan;
use crate::process::Spec;
use crate::state::{Ready, State};

/// The receiver of the webhook.
pub(super) fn sink(state: &State) -> Plan {
    let settings = &state.settings;
    let file = settings.reports.to_string_lossy();
    plan(state, "sink", &settings.sink_url, &["--file", &file])
}

/// From the gateway's webhook to the intakes.
pub(super) fn webhooks(state: &State) -> Plan {
    let file = State::file(&state.dir);
    plan(state, "webhooks", &state.settings.webhooks_url, &["--state", &file.to_string_lossy()])
}

/// The clamav-rest double.
pub(super) fn clamav_rest(state: &State) -> Result<Plan> {
    let settings = &state.settings;
    let url = settings.clamav_rest_url.as_deref().context("no address for clamav-rest")?;
    Ok(plan(state, "clamav-rest", url, &["--clamd", &settings.clamd_tcp]))
}

fn plan(state: &State, name: &'static str, url: &str, args: &[&str]) -> Plan {
    let address = url.trim_start_matches("http://").to_owned();
    let mut spec = Spec::new(&state.program, &state.dir).arg(name).arg("--listen").arg(&address);
    for arg in args {
        spec = spec.arg(*arg);
    }
    Plan { name, ready: Ready::Tcp(address.clone()), address, spec, patience: 10 }
}
