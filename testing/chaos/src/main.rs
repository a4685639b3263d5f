//! The `chaos` program: arguments in, exit code out.
#![allow(clippy::disallowed_methods, reason = "the list in clippy.toml is about the daemon")]
#![expect(clippy::print_stderr, reason = "errors of a command line program")]

use std::path::PathBuf;
use std::process::ExitCode;

use chaos::Options;
use clap::{Arg, ArgAction, Command, value_parser};
use stack::runtime::blocking;

fn main() -> ExitCode {
    match blocking(chaos::run(options())) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("[chaos] {error}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Options {
    let matches = arguments().get_matches();
    Options {
        only: matches.get_one::<String>("only").cloned(),
        short: matches.get_flag("short"),
        seed: matches.get_one::<u64>("seed").copied(),
        daemon: matches.get_one::<PathBuf>("daemon").cloned(),
        list: matches.get_flag("list"),
        soak: matches.get_one::<f64>("soak").copied(),
    }
}

fn arguments() -> Command {
    let value = |name: &'static str| Arg::new(name).long(name);
    let flag = |name: &'static str| value(name).action(ArgAction::SetTrue);
    Command::new("chaos")
        .about("Inject faults around two replicas of the daemon and account for every object")
        .after_help("Needs a stack: stack run --no-daemon -- chaos")
        .arg(value("only").value_name("NAMES").help("Only scenarios with these in their names"))
        .arg(flag("short").help("Only the short selection"))
        .arg(
            value("seed")
                .value_name("NUMBER")
                .value_parser(value_parser!(u64))
                .help("Seed of all randomness"),
        )
        .arg(
            value("daemon")
                .value_name("PATH")
                .value_parser(value_parser!(PathBuf))
                .help("The daemon to test"),
        )
        .arg(flag("list").help("Only list the scenarios"))
        .arg(
            value("soak")
                .value_name("HOURS")
                .value_parser(hours)
                .conflicts_with_all(["only", "short", "list"])
                .help("A mixed load with faults for so long, and whether the daemon grows"),
        )
}

fn hours(text: &str) -> Result<f64, String> {
    let hours = text.parse().ok().filter(|hours| (0.05..=100.0).contains(hours));
    hours.ok_or_else(|| "a number from 0.05 to 100".to_owned())
}
