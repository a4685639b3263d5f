//! Writes the manual pages and the shell completions into a folder: `cargo run --example manual -- DIR`.
//!
//! An example, because what it needs would only make the daemon larger.

use std::path::PathBuf;
use std::{fs, io};

use bucket_av_scanner::config::{VARIABLES, Variable};
use clap::builder::Resettable;
use clap::{CommandFactory, Parser};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

#[path = "../src/cli.rs"]
mod cli;

#[derive(Parser)]
struct Args {
    /// The folder; it is made if it is missing
    dir: PathBuf,
}

fn main() -> io::Result<()> {
    let Args { dir } = Args::parse();
    fs::create_dir_all(&dir)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut cli::Cli::command(), "bucket-av-scanner", &dir)?;
    }
    // What follows the help becomes sections of its own.
    let command = cli::Cli::command().after_help(Resettable::Reset).disable_help_subcommand(true);
    clap_mangen::generate_to(command.clone(), &dir)?;
    fs::write(dir.join("bucket-av-scanner.1"), main_page(command)?)
}

fn main_page(command: clap::Command) -> io::Result<Vec<u8>> {
    let man = Man::new(command);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    man.render_subcommands_section(&mut page)?;
    rest().to_writer(&mut page)?;
    man.render_version_section(&mut page)?;
    Ok(page)
}

fn rest() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["ENVIRONMENT"]);
    roff.text([roman("In lower case these are the keys of the YAML file. Empty means not set.")]);
    for Variable { name, help, default, secret } in VARIABLES {
        let default = default.map(|text| format!(" [{text}]")).unwrap_or_default();
        let file = if *secret { format!(" (or {name}_FILE)") } else { String::new() };
        roff.control("TP", []).text([bold(*name)]);
        roff.text([roman(format!("{help}{default}{file}"))]);
    }
    roff.control("TP", []).text([bold("AVSCAN_CONFIG")]);
    roff.text([roman("the YAML file [/opt/av-scan/av-scan.conf, if it exists]")]);
    roff.control("SH", ["EXIT STATUS"]);
    for line in cli::EXIT_CODES {
        roff.control("PP", []).text([roman(line)]);
    }
    roff
}
