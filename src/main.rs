//! The daemon's table of contents: command line, configuration, telemetry, run, exit code.
// The daemon is one future with many inside; the compiler's default looks 128 deep.
#![recursion_limit = "256"]

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use bucket_av_scanner::app::Redrive;
use bucket_av_scanner::config::{self, Loaded, VARIABLES, Variable};
use bucket_av_scanner::{app, shutdown, telemetry};
use clap::{Arg, ArgAction, Command};

fn main() -> ExitCode {
    let matches = command().get_matches();
    let env: HashMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    // A health check must not fail for a setting that only the daemon needs.
    if matches.subcommand_name() == Some("healthcheck") {
        return match config::health_addr(&env) {
            Ok(address) => block_on(app::healthcheck(address)),
            Err(problems) => complain(&problems.to_string()),
        };
    }
    let loaded = match config::load(&env) {
        Ok(loaded) => loaded,
        Err(problems) => return complain(&problems.to_string()),
    };
    // Several clients share the process; without a choice made here each may make its own.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return complain("the TLS library was set up twice");
    }
    match matches.subcommand_name() {
        Some("check") => {
            let options = matches.subcommand_matches("check");
            let buckets = options.and_then(|options| options.get_many("bucket"));
            let buckets = buckets.map(|buckets| buckets.cloned().collect()).unwrap_or_default();
            let write = options.is_some_and(|options| options.get_flag("write"));
            block_on(app::check(loaded, buckets, write))
        }
        Some("redrive") => {
            let options = matches.subcommand_matches("redrive");
            let flag = |name| options.is_some_and(|options| options.get_flag(name));
            let what = Redrive {
                reports: flag("reports"),
                reason: options.and_then(|options| options.get_one("reason").cloned()),
                dry_run: flag("dry-run"),
            };
            block_on(app::redrive(&loaded.settings, what))
        }
        _ => match telemetry::init(&loaded.settings.log) {
            Ok(_log) => block_on(run(loaded)),
            Err(error) => complain(&error.to_string()),
        },
    }
}

async fn run(loaded: Loaded) -> ExitCode {
    match shutdown::on_signal() {
        Ok(shutdown) => app::run(loaded, shutdown).await,
        Err(error) => complain(&format!("no signal handlers: {error}")),
    }
}

fn block_on(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(work);
            // A thread that hangs in the resolver or the file system must not hold up the end.
            runtime.shutdown_timeout(Duration::from_secs(1));
            code
        }
        Err(error) => complain(&format!("no threads: {error}")),
    }
}

/// One line for each thing that is wrong, and the exit code for a bad configuration.
#[expect(clippy::print_stderr, reason = "before there is a log")]
fn complain(problems: &str) -> ExitCode {
    for line in problems.lines() {
        eprintln!("[{}] error: {line}", env!("CARGO_PKG_NAME"));
    }
    ExitCode::from(app::BAD_CONFIGURATION)
}

fn command() -> Command {
    let rows: Vec<String> = VARIABLES
        .iter()
        .map(|Variable { name, help, default, secret }| {
            let default = default.map(|text| format!(" [{text}]")).unwrap_or_default();
            let file = if *secret { format!(" (or {name}_FILE)") } else { String::new() };
            format!("  {name:<28} {help}{default}{file}\n")
        })
        .collect();
    let settings = format!(
        "Settings (environment, or lower case in the YAML file):\n{}  \
         AVSCAN_CONFIG                the YAML file [/opt/av-scan/av-scan.conf, if it exists]\n\n\
         Exit codes: 0 stopped as asked, 78 bad configuration, 2 bad arguments, 1 anything else.",
        rows.concat()
    );
    Command::new(env!("CARGO_PKG_NAME"))
        .version(env!("CARGO_PKG_VERSION"))
        .about("Scans objects for viruses as they arrive in a bucket, and tags or deletes them")
        .after_help(settings)
        .subcommand(
            Command::new("check")
                .about("Connect to everything once and say what is wrong")
                .arg(
                    Arg::new("bucket")
                        .value_name("BUCKET")
                        .num_args(0..)
                        .help("Also whether the objects of these buckets can be tagged"),
                )
                .arg(
                    flag(
                        "write",
                        "Find out with an object that is written there and removed again",
                    )
                    .requires("bucket"),
                ),
        )
        .subcommand(
            Command::new("redrive")
                .about("Move what was parked in the dead-letter queue back to its queue")
                .arg(flag("reports", "Parked reports instead of notifications"))
                .arg(flag("dry-run", "Only list what would be moved"))
                .arg(
                    Arg::new("reason")
                        .long("reason")
                        .value_name("REASON")
                        .help("Only what was parked for this reason"),
                ),
        )
        .subcommand(Command::new("healthcheck").about("Ask the /readyz of the daemon on this host"))
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}
