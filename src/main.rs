//! The daemon's table of contents: command line, configuration, telemetry, run, exit code.
// The daemon is one future with many nested ones; the compiler's default limit is 128.
#![recursion_limit = "256"]

mod cli;

use std::collections::HashMap;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use bucket_av_scanner::app::Judgement;
use bucket_av_scanner::config::{self, Inspection, Loaded, Problems};
use bucket_av_scanner::{app, shutdown, telemetry};
use clap::Parser;

use crate::cli::{CheckArgs, Cli, Command, ReceiptKey, Surge, SweepArgs, SweepCommand};

fn main() -> ExitCode {
    let command = Cli::parse().command;
    #[expect(clippy::disallowed_methods, reason = "the one place")]
    let env: HashMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    match command {
        // A health check must not fail for a setting that only the daemon needs.
        Some(Command::Healthcheck) => match config::health_addr(&env) {
            Ok(address) => block_on(app::healthcheck(address)),
            Err(problems) => complain(&problems.to_string()),
        },
        Some(Command::Check(CheckArgs { buckets, write, store })) => {
            configured(&env, |loaded| block_on(app::check(loaded, buckets, write, store)))
        }
        Some(Command::Redrive(args)) => {
            configured(&env, |loaded| block_on(app::redrive(&loaded.settings, args.into())))
        }
        Some(Command::Verify(args)) => {
            inspecting(&env, |settings| block_on(app::verify(settings, args.into())))
        }
        Some(Command::Audit(args)) => {
            inspecting(&env, |settings| block_on(app::audit(settings, args.into())))
        }
        Some(Command::Explain(args)) => match config::ruling(&env) {
            Ok(ruling) => app::explain(ruling, &args.into()),
            Err(problems) => complain(&problems.to_string()),
        },
        Some(Command::Sweep(SweepArgs { command: Some(command), .. })) => {
            configured(&env, |loaded| match command {
                SweepCommand::Status => block_on(app::sweep_status(&loaded.settings)),
                SweepCommand::Cancel { bucket } => {
                    block_on(app::sweep_cancel(&loaded.settings, &bucket))
                }
            })
        }
        Some(Command::Sweep(args)) => {
            configured(&env, |loaded| block_on(app::sweep(&loaded.settings, args.into())))
        }
        Some(Command::Surge(what)) => configured(&env, |loaded| match what {
            Surge::List => block_on(app::surge_list(&loaded.settings)),
            Surge::Confirm { signature } => {
                block_on(app::surge_decide(&loaded.settings, &signature, Judgement::Right))
            }
            Surge::Clear { signature } => {
                block_on(app::surge_decide(&loaded.settings, &signature, Judgement::Wrong))
            }
        }),
        Some(Command::Quarantine(command)) => {
            inspecting(&env, |settings| block_on(app::quarantine(settings, command.into())))
        }
        Some(Command::ReceiptKey(ReceiptKey::New)) => app::new_receipt_key(),
        Some(Command::ReceiptKey(ReceiptKey::Public)) => {
            inspecting(&env, |settings| app::public_receipt_key(&settings))
        }
        None => configured(&env, |loaded| match telemetry::init(&loaded.settings.log) {
            Ok(_log) => block_on(run(loaded)),
            Err(error) => complain(&error.to_string()),
        }),
    }
}

/// Reads the whole configuration, sets up TLS, and runs `work`.
fn configured(env: &HashMap<String, String>, work: impl FnOnce(Loaded) -> ExitCode) -> ExitCode {
    with(config::load(env), work)
}

/// The same with the settings alone that are needed to look at objects.
fn inspecting(
    env: &HashMap<String, String>,
    work: impl FnOnce(Inspection) -> ExitCode,
) -> ExitCode {
    with(config::inspection(env), work)
}

fn with<S>(settings: Result<S, Problems>, work: impl FnOnce(S) -> ExitCode) -> ExitCode {
    let settings = match settings {
        Ok(settings) => settings,
        Err(problems) => return complain(&problems.to_string()),
    };
    // Several clients share the process; without a choice made here each may make its own.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return complain("the TLS library was set up twice");
    }
    work(settings)
}

async fn run(loaded: Loaded) -> ExitCode {
    match shutdown::on_signal() {
        Ok(shutdown) => Box::pin(app::run(loaded, shutdown)).await,
        Err(error) => complain(&format!("no signal handlers: {error}")),
    }
}

fn block_on(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(work);
            // A thread that hangs in the resolver or the file system must not delay the exit.
            runtime.shutdown_timeout(Duration::from_secs(1));
            code
        }
        Err(error) => complain(&format!("no threads: {error}")),
    }
}

/// Prints one line for each problem; returns the exit code for a bad configuration.
fn complain(problems: &str) -> ExitCode {
    for line in problems.lines() {
        // Nobody may read it any more.
        drop(writeln!(std::io::stderr(), "[{}] error: {line}", env!("CARGO_PKG_NAME")));
    }
    ExitCode::from(app::BAD_CONFIGURATION)
}
