//! The command line.

// The path, because packaging/manual.rs takes this file as a module of its own.
#[path = "cli/quarantine.rs"]
mod quarantine;

use std::path::PathBuf;
use std::time::Duration;

use bucket_av_scanner::app::{
    Address, Audit, Found, Listed, ObjectName, Question, Reason, Redrive, Request, Select,
    StoreKind, Target, Verify,
};
use bucket_av_scanner::config::{self, VARIABLES, Variable};
use clap::{Args, Parser, Subcommand};

pub(crate) use self::quarantine::QuarantineCommand;

/// Scans objects for viruses as they arrive in a bucket, and tags or deletes them
#[derive(Debug, Parser)]
#[command(version, after_help = settings())]
pub(crate) struct Cli {
    /// Without one, the daemon runs.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Connect to everything once and say what is wrong
    Check(CheckArgs),
    /// Move what was parked in the dead-letter queue back to its queue
    Redrive(RedriveArgs),
    /// Say whether an object has a receipt that calls its bytes clean
    Verify(VerifyArgs),
    /// Say of every object of a bucket whether it has a receipt that calls its bytes clean
    Audit(AuditArgs),
    /// Say which rule decides on a finding, and why
    Explain(ExplainArgs),
    /// Have objects scanned that were there before, or were not announced
    Sweep(SweepArgs),
    /// Show which signatures are held because they find too much, and decide about them
    #[command(subcommand)]
    Surge(Surge),
    /// List, show, restore or delete what is in the quarantine bucket
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
    /// Make the key that signs receipts, or print its public part
    #[command(subcommand)]
    ReceiptKey(ReceiptKey),
    /// Ask the /readyz of the daemon on this host
    Healthcheck,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[arg(value_name = "OBJECT", help = "s3://BUCKET/KEY or s3://BUCKET/KEY?versionId=VERSION")]
    address: Address,
    /// Read the bytes too, and compare their SHA-256
    #[arg(long)]
    download: bool,
    /// Trust the keys in this PEM file, and no others
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
}

impl From<VerifyArgs> for Verify {
    fn from(VerifyArgs { address, download, public_key }: VerifyArgs) -> Self {
        Self { address, download, public_key }
    }
}

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// Buckets, or parts of them
    #[arg(value_name = "BUCKET[/PREFIX]", required = true)]
    targets: Vec<Target>,
    /// Of buckets with versions, only the current ones
    #[arg(long)]
    current_only: bool,
    /// Read the bytes of verified objects too, and compare their SHA-256
    #[arg(long)]
    hash: bool,
    /// Print the address of each object of this standing, and nothing else
    #[arg(long, value_name = "STANDING")]
    list: Option<Listed>,
    /// Write the result as JSON; - is standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a row for each object as CSV; - is standard output
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write the result as a page for people; - is standard output
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Begin behind this key of the first BUCKET
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    after: Option<String>,
    /// Trust the keys in this PEM file, and no others
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
}

impl From<AuditArgs> for Audit {
    fn from(args: AuditArgs) -> Self {
        let AuditArgs { targets, current_only, hash, list, json, csv, html, after, public_key } =
            args;
        Self { targets, current_only, hash, list, json, csv, html, after, public_key }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The object; it need not be there
    #[arg(value_name = "BUCKET/KEY")]
    object: ObjectName,
    #[command(flatten)]
    finding: FindingArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct FindingArgs {
    /// The signature by which it is infected
    #[arg(long)]
    signature: Option<String>,
    /// Why it cannot be scanned, as in reports
    #[arg(long)]
    reason: Option<Reason>,
}

impl From<ExplainArgs> for Question {
    fn from(ExplainArgs { object, finding }: ExplainArgs) -> Self {
        let FindingArgs { signature, reason } = finding;
        let found = reason.map(Found::Unscannable);
        let finding = found.unwrap_or_else(|| Found::Signature(signature.unwrap_or_default()));
        Self { object, finding }
    }
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct SweepArgs {
    #[command(subcommand)]
    pub(crate) command: Option<SweepCommand>,
    /// Buckets, or what in them begins with a prefix
    #[arg(value_name = "BUCKET[/PREFIX]", required = true)]
    targets: Vec<Target>,
    #[command(flatten)]
    select: SelectArgs,
    /// Of these only what was uploaded within this time, as in 2h or 7d
    #[arg(long, value_name = "AGE", value_parser = age)]
    uploaded_within: Option<Duration>,
    /// Only the current version of each object
    #[arg(long)]
    current_only: bool,
    /// Announce at most this many objects in a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Only count what would be scanned
    #[arg(long)]
    dry_run: bool,
    /// Do not wait for the end
    #[arg(long)]
    detach: bool,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct SelectArgs {
    /// Objects without a valid receipt; the default
    #[arg(long)]
    missing: bool,
    /// These, and what was scanned longer ago than this, as in 30d; or now
    #[arg(long, value_name = "AGE", value_parser = age_or_now)]
    scanned_before: Option<Duration>,
    /// These, and what was scanned by a database older than this day, as in 2026-11-28
    #[arg(long, value_name = "DATE", value_parser = date)]
    database_before: Option<i64>,
    /// All objects
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SweepCommand {
    /// Show the sweeps of the last week
    Status,
    /// End the sweep of a bucket
    Cancel {
        /// The bucket
        bucket: String,
    },
}

impl From<SweepArgs> for Request {
    fn from(args: SweepArgs) -> Self {
        let SweepArgs {
            targets, select, uploaded_within, current_only, rate, dry_run, detach, ..
        } = args;
        let select = match select {
            SelectArgs { all: true, .. } => Select::All,
            SelectArgs { scanned_before: Some(age), .. } => Select::ScannedBefore(age),
            SelectArgs { database_before: Some(date), .. } => Select::DatabaseBefore(date),
            _ => Select::Missing,
        };
        Self { targets, select, uploaded_within, current_only, rate, dry_run, detach }
    }
}

fn age(text: &str) -> Result<Duration, &'static str> {
    config::age(text).ok_or("expected a number and s, m, h or d")
}

fn age_or_now(text: &str) -> Result<Duration, &'static str> {
    if text == "now" { Ok(Duration::ZERO) } else { age(text) }
}

fn date(text: &str) -> Result<i64, &'static str> {
    config::day(text).ok_or("expected a day as in 2026-11-28")
}

#[derive(Debug, Subcommand)]
pub(crate) enum Surge {
    /// Show them
    List,
    /// The signature is right: deletions go on, and what was parked is moved back
    Confirm {
        /// As in reports
        signature: String,
    },
    /// It was wrong, or is not held any more: counting begins anew
    Clear {
        /// As in reports
        signature: String,
    },
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum ReceiptKey {
    #[command(about = "Print a new private key, for RECEIPT_KEY")]
    New,
    #[command(about = "Print the public part of RECEIPT_KEY, for RECEIPT_TRUSTED_KEYS")]
    Public,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Also whether the objects of these buckets can be tagged
    #[arg(value_name = "BUCKET", num_args = 0..)]
    pub(crate) buckets: Vec<String>,
    /// Find out with an object that is written there and removed again
    #[arg(long, requires = "buckets")]
    pub(crate) write: bool,
    /// Print what makes a store of this kind announce the uploads of the buckets
    #[arg(long, value_name = "NAME", value_enum)]
    pub(crate) store: Option<StoreKind>,
}

#[derive(Debug, Args)]
pub(crate) struct RedriveArgs {
    /// Parked reports instead of notifications
    #[arg(long)]
    reports: bool,
    /// Only list what would be moved
    #[arg(long)]
    dry_run: bool,
    /// Only what was parked for this reason
    #[arg(long)]
    reason: Option<String>,
}

impl From<RedriveArgs> for Redrive {
    fn from(RedriveArgs { reports, reason, dry_run }: RedriveArgs) -> Self {
        Self { reports, reason, dry_run }
    }
}

/// The table of settings and the exit codes, below the help.
fn settings() -> String {
    let rows: Vec<String> = VARIABLES
        .iter()
        .map(|Variable { name, help, default, secret }| {
            let default = default.map(|text| format!(" [{text}]")).unwrap_or_default();
            let file = if *secret { format!(" (or {name}_FILE)") } else { String::new() };
            format!("  {name:<28} {help}{default}{file}\n")
        })
        .collect();
    let rows = rows.concat();
    format!(
        "Settings (environment, or lower case in the YAML file):\n{rows}  \
         AVSCAN_CONFIG                the YAML file [/opt/av-scan/av-scan.conf, if it exists]\n\n\
         Exit codes: {}",
        EXIT_CODES.join("\n")
    )
}

pub(crate) const EXIT_CODES: [&str; 2] = [
    "0 stopped as asked, 78 bad configuration, 2 bad arguments, 1 anything else;",
    "of verify and audit: 0 verified clean or released, 1 not, 3 could not be found out.",
];
