//! The `bench` program: arguments in, exit code out.
#![allow(clippy::disallowed_methods, reason = "the list in clippy.toml is about the daemon")]
#![expect(clippy::print_stderr, reason = "errors of a command line program")]

use std::path::PathBuf;
use std::process::ExitCode;

use bench::Options;
use clap::{Arg, ArgAction, Command, value_parser};
use stack::runtime::blocking;

fn main() -> ExitCode {
    match blocking(bench::run(options())) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("[bench] {error}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Options {
    let matches = arguments().get_matches();
    let number = |name: &str, usual| matches.get_one::<u32>(name).copied().unwrap_or(usual);
    Options {
        only: matches.get_one::<String>("only").cloned(),
        runs: number("runs", 3).max(1),
        seconds: number("seconds", 3).max(1),
        backlog: number("backlog", 100_000).max(100),
        swept: number("swept", 100_000).max(1000),
        instructions: matches.get_flag("instructions"),
        bless: matches.get_flag("bless"),
        daemon: matches.get_one::<PathBuf>("daemon").cloned(),
    }
}

fn arguments() -> Command {
    let text = |name: &'static str| Arg::new(name).long(name);
    let number = |name: &'static str| text(name).value_parser(value_parser!(u32));
    Command::new("bench")
        .about("Measure the daemon against the limits that clamd and the store set")
        .after_help("Needs a stack: stack run --no-daemon --double --no-cache -- bench")
        .arg(text("only").value_name("NAMES").help("Only sets and extras with these names"))
        .arg(number("runs").value_name("NUMBER").help("Runs of each case [3]"))
        .arg(number("seconds").value_name("NUMBER").help("Duration of one drain, in seconds [3]"))
        .arg(number("backlog").value_name("NUMBER").help("Notifications of `backlog` [100000]"))
        .arg(number("swept").value_name("NUMBER").help("Stored objects of `sweep` [100000]"))
        .arg(
            text("instructions")
                .action(ArgAction::SetTrue)
                .help("Only count instructions, and compare them with the file"),
        )
        .arg(text("bless").action(ArgAction::SetTrue).help("With --instructions: write the file"))
        .arg(
            text("daemon")
                .value_name("PATH")
                .value_parser(value_parser!(PathBuf))
                .help("The daemon to measure"),
        )
}
