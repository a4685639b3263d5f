//! The daemon under test, configured for this stack only.

use std::fs;
use std::path::Path;

use peers::error::{Context, Result};

use super::plan::Plan;
use crate::process::Spec;
use crate::s3::QUARANTINE;
use crate::state::{Ready, State};

pub(super) fn plan(state: &State, program: &Path) -> Result<Plan> {
    let temporary = state.dir.join("tmp");
    fs::create_dir_all(&temporary).context(temporary.display())?;
    let url = state.settings.daemon_url.clone().context("no address for the daemon")?;
    let address = url.trim_start_matches("http://").to_owned();
    let mut spec = Spec::new(program, &state.dir)
        .env("HEALTH_ADDR", &address)
        .env("INTAKE_ADDR", &state.settings.intake_address)
        .env("STATUS_ADDR", &state.settings.status_address)
        .env("QUARANTINE_BUCKET", QUARANTINE)
        .env("TMPDIR", temporary.to_string_lossy());
    spec.env.extend(state.daemon_variables());
    Ok(Plan {
        name: "daemon",
        address,
        spec,
        ready: Ready::Http(format!("{url}/readyz")),
        patience: 60,
    })
}
