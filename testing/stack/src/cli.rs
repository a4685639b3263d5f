//! The `stack` program: arguments in, exit code out.

mod current;
mod objects;
mod reports;
mod run;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use peers::error::{Context, Result};
use peers::{clamav_rest, sink, tls};

use self::current::{current, own_program};
use crate::launch::{self, Options};
use crate::runtime::blocking;
use crate::state::State;
use crate::{demo, place, teardown, webhooks};

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let matches = match arguments().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => error.exit(),
    };
    match dispatch(&matches) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("[stack] {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Command {
    let path = |name: &'static str| Arg::new(name).long(name).value_parser(value_parser!(PathBuf));
    let text = |name: &'static str| Arg::new(name).long(name);
    let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    let up_options = |command: Command| {
        command
            .arg(
                path("daemon")
                    .value_name("PATH")
                    .help("The daemon to run [the one beside this program]"),
            )
            .arg(flag("no-daemon").help("Start everything but the daemon"))
            .arg(flag("double").help("Scan through the clamav-rest double instead of clamd itself"))
            .arg(flag("no-cache").help("Switch off clamd's cache of clean files"))
    };
    let service =
        |name: &'static str| Command::new(name).hide(true).arg(text("listen").required(true));
    Command::new("stack")
        .about("Run store, broker, engine, webhook sink and the daemon, for this machine only")
        .after_help(
            "The stack lives in .stack/run of the checkout, or in STACK_DIR.\n\
             STACK_DATABASE=test uses the EICAR test signature alone, STACK_DATABASE=download\n\
             tries a download even when one failed recently.",
        )
        .subcommand_required(true)
        .subcommand(up_options(Command::new("up").about("Start the stack, or what is missing")))
        .subcommand(Command::new("down").about("Stop it and remove its data"))
        .subcommand(Command::new("status").about("Show what runs"))
        .subcommand(up_options(
            Command::new("run")
                .about("Run a command inside a fresh stack")
                .arg(Arg::new("command").num_args(1..).last(true).required(true).value_name("CMD")),
        ))
        .subcommand(objects::arguments())
        .subcommand(
            Command::new("reports")
                .about("Show what the webhook sink received, one line each")
                .arg(text("key").help("Only reports about this object"))
                .arg(
                    text("wait")
                        .value_name("SECONDS")
                        .value_parser(value_parser!(u64))
                        .help("Wait for at least one report"),
                ),
        )
        .subcommand(
            Command::new("demo").about("Upload clean and infected files and show the results"),
        )
        .subcommand(service("sink").arg(path("file").required(true)))
        .subcommand(service("webhooks").arg(path("state").required(true)))
        .subcommand(service("clamav-rest").arg(text("clamd").required(true)).arg(flag("only-v1")))
        .subcommand(
            service("tls")
                .arg(text("target").required(true))
                .arg(path("certificate").required(true))
                .arg(path("key").required(true)),
        )
}

fn dispatch(matches: &ArgMatches) -> Result<ExitCode> {
    let (name, matches) = matches.subcommand().context("a command is missing")?;
    let word = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
    let file = |name: &str| matches.get_one::<PathBuf>(name).cloned().unwrap_or_default();
    match name {
        "up" => up(&options(matches))?,
        "down" => {
            let dir = place::stack_dir()?;
            let was_up = teardown::down(&dir)?;
            say!("[stack] {}", if was_up { "down" } else { "was not up" });
        }
        "status" => return show::status(&place::stack_dir()?),
        "run" => {
            let command: Vec<String> =
                matches.get_many("command").into_iter().flatten().cloned().collect();
            return run::run(&options(matches), &command);
        }
        "s3" => return blocking(objects::run(matches)),
        "reports" => return blocking(reports::run(matches)),
        "demo" => return blocking(demo::run(&current()?)),
        "sink" => blocking(sink::process(&word("listen"), file("file")))?,
        "webhooks" => blocking(webhooks::process(&word("listen"), &file("state")))?,
        "tls" => {
            let (listen, target) = (word("listen"), word("target"));
            blocking(tls::process(&listen, &target, &file("certificate"), &file("key")))?;
        }
        _ => {
            let only_v1 = matches.get_flag("only-v1");
            blocking(clamav_rest::process(&word("listen"), &word("clamd"), only_v1))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn up(options: &Options) -> Result<()> {
    let dir = place::stack_dir()?;
    run::on_signal(|_| place::interrupt())?;
    let before = State::load(&State::file(&dir)).ok().flatten();
    let state = launch::up(&dir, options, &own_program()?)?;
    let processes =
        |state: &State| state.services.iter().map(|record| record.process).collect::<Vec<_>>();
    if before.is_some_and(|before| processes(&before) == processes(&state)) {
        say!("[stack] was up already");
    }
    show::whereabouts(&state);
    Ok(())
}

fn options(matches: &ArgMatches) -> Options {
    Options {
        daemon: matches.get_one::<PathBuf>("daemon").cloned(),
        no_daemon: matches.get_flag("no-daemon"),
        double: matches.get_flag("double"),
        no_cache: matches.get_flag("no-cache"),
    }
}
