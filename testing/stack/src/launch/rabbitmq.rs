//! A private `RabbitMQ` node, independent of any other on this machine.

use std::fs;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use peers::error::{Context, Result};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::plan::{Plan, write};
use crate::ports::free_port;
use crate::process::{Spec, which};
use crate::state::{Ready, State};

/// Where the packages put the scripts that do not switch to the user `rabbitmq`.
const SCRIPTS: &str = "/usr/lib/rabbitmq/bin";

/// A private instance of Erlang's port mapper. The system's own is not touched or needed.
pub(super) fn epmd(state: &State) -> Result<Plan> {
    let program = which("epmd").context("epmd is missing: run testing/setup.sh")?;
    let port = free_port().to_string();
    let address = format!("127.0.0.1:{port}");
    let spec = Spec::new(program, &state.dir)
        .args("-address 127.0.0.1 -port")
        .arg(&port)
        .env("ERL_EPMD_ADDRESS", "127.0.0.1");
    Ok(Plan { name: "epmd", ready: Ready::Tcp(address.clone()), address, spec, patience: 10 })
}

/// The broker itself.
pub(super) fn node(state: &State) -> Result<Plan> {
    let home = state.dir.join("rabbitmq");
    let script = PathBuf::from(SCRIPTS).join("rabbitmq-server");
    if !script.is_file() {
        return Err(peers::error::Error::new("RabbitMQ is missing: run testing/setup.sh"));
    }
    for folder in ["home", "mnesia", "log"] {
        fs::create_dir_all(home.join(folder)).context("rabbitmq")?;
    }
    let settings = &state.settings;
    let address = format!("127.0.0.1:{}", settings.amqp_port);
    let definitions = home.join("definitions.json");
    write(&definitions, definitions_of(state).to_string())?;
    write(&home.join("env.conf"), "")?;
    write(&home.join("enabled_plugins"), "[].\n")?;
    write(
        &home.join("rabbitmq.conf"),
        format!(
            "listeners.tcp.1 = {address}\n\
             load_definitions = {}\n\
             log.file = false\n\
             log.console = true\n\
             log.console.level = info\n\
             disk_free_limit.absolute = 100MB\n",
            definitions.display()
        ),
    )?;
    let at = |name: &str| home.join(name).to_string_lossy().into_owned();
    let epmd = state.service("epmd").context("epmd first")?;
    let (_, epmd_port) = epmd.address.rsplit_once(':').context("an address has a port")?;
    let mut spec = Spec::new(script, &home);
    let path = format!("{SCRIPTS}:{}", spec.env["PATH"]);
    // With input allowed, the script replaces itself with the node instead of staying its parent,
    // so that the recorded pid is the node's. `-noinput` is the option that the script would pass
    // otherwise.
    spec = spec
        .arg("-noinput")
        .env("RABBITMQ_ALLOW_INPUT", "1")
        .env("PATH", path)
        .env("HOME", at("home"))
        .env("ERL_EPMD_PORT", epmd_port)
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODENAME", format!("avscan-{}@localhost", Uuid::new_v4().simple()))
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODE_PORT", settings.amqp_port.to_string())
        .env("RABBITMQ_DIST_PORT", free_port().to_string())
        .env("RABBITMQ_MNESIA_BASE", at("mnesia"))
        .env("RABBITMQ_LOG_BASE", at("log"))
        .env("RABBITMQ_CONFIG_FILE", at("rabbitmq"))
        .env("RABBITMQ_ADVANCED_CONFIG_FILE", at("advanced"))
        .env("RABBITMQ_CONF_ENV_FILE", at("env.conf"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("enabled_plugins"))
        // Distribution only on the loopback interface. No busy waiting: the other services need the
        // processors too.
        .env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "-kernel inet_dist_use_interface {127,0,0,1} \
             +sbwt none +sbwtdcpu none +sbwtdio none",
        );
    Ok(Plan { name: "rabbitmq", ready: Ready::Amqp(address.clone()), address, spec, patience: 90 })
}

/// One account, without tags, with permissions only on names with our prefix. Loading definitions
/// also prevents the default guest account.
fn definitions_of(state: &State) -> serde_json::Value {
    let settings = &state.settings;
    let salt = &Uuid::new_v4().into_bytes()[..4];
    let hash = Sha256::new().chain_update(salt).chain_update(&settings.amqp_password).finalize();
    let own = "^s3minio.*";
    serde_json::json!({
        "vhosts": [{"name": settings.amqp_vhost}],
        "users": [{
            "name": settings.amqp_user,
            "password_hash": STANDARD.encode([salt, &hash].concat()),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": "",
        }],
        "permissions": [{
            "user": settings.amqp_user,
            "vhost": settings.amqp_vhost,
            "configure": own, "write": own, "read": own,
        }],
    })
}
