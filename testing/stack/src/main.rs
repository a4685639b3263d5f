//! The `stack` program.
#![allow(clippy::disallowed_methods, reason = "the list in clippy.toml is about the daemon")]

use std::process::ExitCode;

fn main() -> ExitCode {
    stack::cli::main()
}
