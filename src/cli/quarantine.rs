//! The arguments of `quarantine`.

use std::time::Duration;

use bucket_av_scanner::app::{CopyName, Matching, Quarantine, Restore, Which};
use clap::{Args, Subcommand};

use super::age;

#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineCommand {
    /// List what is there
    List {
        #[command(flatten)]
        matching: MatchingArgs,
        /// A line of JSON for each
        #[arg(long)]
        json: bool,
    },
    /// Show all that is known of a copy
    Show {
        /// Its name, which its report has
        #[arg(value_name = "NAME")]
        name: CopyName,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete copies for good
    Purge {
        #[command(flatten)]
        which: WhichArgs,
        /// Only say what would be deleted
        #[arg(long)]
        dry_run: bool,
    },
    /// Write copies back to where they were, released: the same finding in them is passed over
    Restore {
        #[command(flatten)]
        which: WhichArgs,
        /// Write it under this key of the bucket instead
        #[arg(long = "as", value_name = "KEY", allow_hyphen_values = true)]
        as_key: Option<String>,
        /// Leave out this tag of the uploader, to make room
        #[arg(long, value_name = "KEY")]
        without_tag: Vec<String>,
        /// Keep the copies
        #[arg(long)]
        keep: bool,
        /// Only say what would be restored
        #[arg(long)]
        dry_run: bool,
    },
    /// Scan copies again, and list what is not found any more
    Rescan {
        #[command(flatten)]
        matching: MatchingArgs,
        /// Restore those
        #[arg(long)]
        release_clean: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct MatchingArgs {
    /// Only what was infected by such a signature; * and ? as in rules
    #[arg(long, value_name = "GLOB")]
    signature: Option<String>,
    /// Only what was in this bucket
    #[arg(long)]
    bucket: Option<String>,
    /// Only what was moved longer ago than this, as in 2h or 30d
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct WhichArgs {
    /// Names of copies, as in reports
    #[arg(
        value_name = "NAME",
        required_unless_present_any = ["signature", "bucket", "older_than"],
        conflicts_with_all = ["signature", "bucket", "older_than"]
    )]
    names: Vec<CopyName>,
    #[command(flatten)]
    matching: MatchingArgs,
}

impl From<MatchingArgs> for Matching {
    fn from(MatchingArgs { signature, bucket, older_than }: MatchingArgs) -> Self {
        Self { signature, bucket, older_than }
    }
}

impl From<WhichArgs> for Which {
    fn from(WhichArgs { names, matching }: WhichArgs) -> Self {
        if names.is_empty() { Self::Matching(matching.into()) } else { Self::Named(names) }
    }
}

impl From<QuarantineCommand> for Quarantine {
    fn from(command: QuarantineCommand) -> Self {
        match command {
            QuarantineCommand::List { matching, json } => {
                Self::List { matching: matching.into(), json }
            }
            QuarantineCommand::Show { name, json } => Self::Show { name, json },
            QuarantineCommand::Purge { which, dry_run } => {
                Self::Purge { which: which.into(), dry_run }
            }
            QuarantineCommand::Restore { which, as_key, without_tag, keep, dry_run } => {
                let (which, without_tags) = (which.into(), without_tag);
                Self::Restore(Restore { which, as_key, without_tags, keep, dry_run })
            }
            QuarantineCommand::Rescan { matching, release_clean } => {
                Self::Rescan { matching: matching.into(), release_clean }
            }
        }
    }
}
