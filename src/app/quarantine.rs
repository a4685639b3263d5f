//! The `quarantine` command: what is in the quarantine bucket, and what becomes of it.
//!
//! - `which`: what a command is about;
//! - `bucket`: finds it;
//! - `list`, `show`, `purge`, `restore`, `rescan`: the commands.

mod bucket;
mod list;
mod purge;
mod rescan;
mod restore;
mod show;
mod which;

use std::pin::pin;
use std::process::ExitCode;

use futures_util::StreamExt;

use self::bucket::{Bucket, Held};
pub use self::which::{CopyName, Matching, Which};
use super::{BAD_ARGUMENTS, BAD_CONFIGURATION, complain, fail, say};
use crate::config::Inspection;
use crate::store::Store;

/// What to do with the quarantine bucket.
#[derive(Debug, Clone)]
pub enum Quarantine {
    /// Show a line for each copy.
    List {
        /// Which of them.
        matching: Matching,
        /// A line of JSON for each.
        json: bool,
    },
    /// Show all that is known of a copy.
    Show {
        /// Its name.
        name: CopyName,
        /// As JSON.
        json: bool,
    },
    /// Delete copies for good.
    Purge {
        /// Which of them.
        which: Which,
        /// Only say what would be deleted.
        dry_run: bool,
    },
    /// Write copies back.
    Restore(Restore),
    /// Scan copies again.
    Rescan {
        /// Which of them.
        matching: Matching,
        /// Restore those that are not found any more.
        release_clean: bool,
    },
}

/// What to write back.
#[derive(Debug, Clone, Default)]
pub struct Restore {
    /// Which copies.
    pub which: Which,
    /// The key that it gets, in the same bucket; with one copy alone.
    pub as_key: Option<String>,
    /// Tags of the uploader that are not set again.
    pub without_tags: Vec<String>,
    /// Keep the copy.
    pub keep: bool,
    /// Only say what would be restored.
    pub dry_run: bool,
}

/// How many copies were done with, and how many not.
#[derive(Debug, Default)]
struct Tally {
    done: u64,
    failed: u64,
}

/// Carries it out, with a line for each copy. Exit codes: 0 all done, 1 not, 78 configuration.
pub async fn quarantine(settings: Inspection, what: Quarantine) -> ExitCode {
    let bucket = match Bucket::open(&settings).await {
        Ok(bucket) => bucket,
        Err(error) => return fail(error, BAD_CONFIGURATION),
    };
    match what {
        Quarantine::List { matching, json } => list::list(&bucket, &matching, json).await,
        Quarantine::Show { name, json } => show::show(&bucket, &name, json).await,
        Quarantine::Purge { which, dry_run } => purge::purge(&bucket, &which, dry_run).await,
        Quarantine::Restore(what) => Box::pin(restore::restore(&settings, &bucket, what)).await,
        Quarantine::Rescan { matching, release_clean } => {
            let which = Which::Matching(matching);
            Box::pin(rescan::rescan(&settings, &bucket, which, release_clean)).await
        }
    }
}

impl Bucket {
    async fn open(settings: &Inspection) -> Result<Self, String> {
        let name = settings.quarantine_bucket.clone().ok_or("QUARANTINE_BUCKET is required")?;
        let store = Store::new(&settings.store, &settings.trust).await?;
        Ok(Self { store: store.into(), name })
    }

    /// Does something with each copy that is meant, one after the other, and prints a line for it where
    /// there is one.
    async fn each(
        &self,
        which: &Which,
        mut act: impl AsyncFnMut(Held) -> Result<Option<String>, String>,
    ) -> Tally {
        let mut tally = Tally::default();
        match self.select(which).await {
            Ok(copies) => {
                let mut copies = pin!(copies);
                while let Some(copy) = copies.next().await {
                    tally.add(match copy {
                        Ok(copy) => act(copy).await,
                        Err(line) => Err(line),
                    });
                }
            }
            Err(line) => tally.fail(&line),
        }
        tally
    }
}

impl Tally {
    fn add(&mut self, ended: Result<Option<String>, String>) {
        match ended {
            Ok(line) => {
                self.done += 1;
                if let Some(line) = line {
                    say(line);
                }
            }
            Err(line) => self.fail(&line),
        }
    }

    fn fail(&mut self, line: &str) {
        self.failed += 1;
        complain(line);
    }

    /// The exit code, after a line that sums it up. `what` as in `were purged`.
    fn end(&self, what: &str) -> ExitCode {
        let Self { done, failed } = self;
        say(match failed {
            0 => format!("{done} {what}"),
            failed => format!("{done} {what}, {failed} failed"),
        });
        self.code()
    }

    fn code(&self) -> ExitCode {
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
