//! The `stack` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    bucket_av_scanner_testing::cli::main()
}
