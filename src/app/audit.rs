//! The `audit` command: the standing of every object of a bucket.
//!
//! - `target`: what is audited, and the command that goes on;
//! - `freshness`, `parked`: what is asked before and after;
//! - `tally`: counts and examples;
//! - `rows`, `summary`, `text`, `page`, `file`: the results;
//! - `progress`: for people who wait.

mod file;
mod freshness;
mod page;
mod parked;
mod position;
mod progress;
mod rows;
mod summary;
mod tally;
mod target;
mod text;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::StreamExt;
use strum::IntoEnumIterator;
use tokio_util::sync::CancellationToken;

use self::file::{Sink, is_stdout, to_stdout};
use self::position::Position;
use self::progress::Progress;
use self::rows::Rows;
use self::summary::{Conclusion, Interrupted, Summary};
use self::tally::{Tally, address};
pub use self::target::Target;
use self::text::Text;
use super::progress::Counting;
use super::verify::{NOT_FOUND_OUT, prepare};
use super::{BAD_ARGUMENTS, BAD_CONFIGURATION, complain, fail};
use crate::config::{Extra, Inspection};
use crate::receipt::Standing;
use crate::store::{MAX_KEY, Mark, Walk};
use crate::sweep::{Finding, Judge, Pages, Visited, listing_of, walk};
use crate::{clock, shutdown};

/// What to audit.
#[derive(Debug, Clone)]
pub struct Audit {
    /// Buckets, or parts of them; none lies within another.
    pub targets: Vec<Target>,
    /// Of buckets with versions, look at the current ones alone.
    pub current_only: bool,
    /// Read the bytes of what is verified, and compare their SHA-256.
    pub hash: bool,
    /// Print the address of each object of this standing.
    pub list: Option<Listed>,
    /// Where the result goes as JSON.
    pub json: Option<PathBuf>,
    /// Where each object goes as a row.
    pub csv: Option<PathBuf>,
    /// Where the result goes as a page.
    pub html: Option<PathBuf>,
    /// Begin behind this key of the first target.
    pub after: Option<String>,
    /// Trust the public keys in this file alone.
    pub public_key: Option<PathBuf>,
}

/// A standing whose objects are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed(Standing);

impl FromStr for Listed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || {
            let names: Vec<_> = Standing::iter().map(|standing| standing.into_str()).collect();
            names.join(", ")
        };
        Standing::from_str(text).map(Self).map_err(|_| format!("known standings are {}", known()))
    }
}

/// Where the result goes, begun before the work: a mistake in a path must not cost it.
struct Outputs {
    rows: Option<Rows>,
    json: Option<Sink>,
    html: Option<Sink>,
}

/// An audit that runs.
struct Run {
    what: Audit,
    judge: Arc<Judge>,
    concurrency: usize,
    tally: Tally,
    outputs: Outputs,
}

/// Audits and says what was found. Exit codes: 0 every object verified clean, 1 not, 3 could not be
/// found out, or not to the end, 2 arguments, 78 configuration.
pub async fn audit(settings: Inspection, what: Audit) -> ExitCode {
    if let Err(error) = what.check() {
        return fail(&error, BAD_ARGUMENTS);
    }
    let concurrency = match &settings.sweep_concurrency {
        Extra::Set(concurrency) => usize::from(*concurrency),
        Extra::Wrong(problems) => return fail(problems.one_line(), BAD_CONFIGURATION),
        Extra::Unset => return fail("SWEEP_CONCURRENCY is required", BAD_CONFIGURATION),
    };
    let (keys, store) = match prepare(settings.clone(), what.public_key.as_deref()).await {
        Ok(prepared) => prepared,
        Err(error) => return fail(&error, BAD_CONFIGURATION),
    };
    let stop = match shutdown::on_signal() {
        Ok(stop) => stop,
        Err(error) => return fail(format!("no signal handlers: {error}"), NOT_FOUND_OUT),
    };
    let outputs = match Outputs::open(&what) {
        Ok(outputs) => outputs,
        Err(error) => return fail(&error, NOT_FOUND_OUT),
    };
    let began = SystemTime::now();
    let freshness::Judged { freshness, line } = freshness::decide(&settings).await;
    let judge = Judge {
        store: Arc::new(store),
        keys: Arc::new(keys),
        tag_key: settings.tag_key.clone(),
        freshness,
        hash: what.hash,
    };
    let tally = Tally::default();
    let mut run = Run { what, judge: Arc::new(judge), concurrency, tally, outputs };
    let interrupted = run.all(&stop).await;
    let parked = if interrupted.is_none() { parked::ask(&settings).await } else { None };
    let Run { what, tally, outputs, .. } = run;
    let summary = summarize(&what, tally, began, line, interrupted, parked);
    conclude(&what, &summary, outputs)
}

impl Audit {
    fn check(&self) -> Result<(), String> {
        if self.after.as_ref().is_some_and(|key| key.len() > MAX_KEY) {
            return Err("--after: a key has at most 1024 bytes".to_owned());
        }
        let files = [&self.json, &self.csv, &self.html];
        let to_stdout = files.iter().filter(|file| file.as_deref().is_some_and(is_stdout)).count();
        if to_stdout + usize::from(self.list.is_some()) > 1 {
            return Err(
                "only one of --list, --json, --csv and --html can go to standard output".into()
            );
        }
        for (number, target) in self.targets.iter().enumerate() {
            let others = self.targets.iter().take(number);
            if let Some(other) = others.into_iter().find(|other| target.overlaps(other)) {
                let (target, other) = (target.shown(), other.shown());
                return Err(format!(
                    "{target} and {other} overlap: their objects would count twice"
                ));
            }
        }
        Ok(())
    }

    /// The key to begin behind in the target with this number.
    fn after(&self, number: usize) -> Option<&str> {
        self.after.as_deref().filter(|_| number == 0)
    }

    /// Whether standard output belongs to something else than the text for people.
    fn uses_stdout(&self) -> bool {
        let files = [&self.json, &self.csv, &self.html];
        self.list.is_some() || files.iter().any(|file| file.as_deref().is_some_and(is_stdout))
    }

    /// The command that goes on at a key of the target with this number, and with those behind it. What
    /// it writes is left to the user: the same files would be written over.
    fn go_on(&self, number: usize, after: Option<&str>) -> String {
        let rest = self.targets.get(number..).unwrap_or_default();
        let mut words = vec!["bucket-av-scanner audit".to_owned()];
        words.extend(rest.iter().map(Target::argument));
        words.extend(self.current_only.then(|| "--current-only".to_owned()));
        words.extend(self.hash.then(|| "--hash".to_owned()));
        words.extend(self.list.map(|Listed(standing)| format!("--list={standing}")));
        let key = self.public_key.as_ref().map(|file| target::quoted(&file.to_string_lossy()));
        words.extend(key.map(|file| format!("--public-key={file}")));
        words.extend(after.map(|key| format!("--after={}", target::quoted(key))));
        words.join(" ")
    }
}

impl Outputs {
    fn open(what: &Audit) -> Result<Self, String> {
        let sink = |path: &Option<PathBuf>| path.as_deref().map(Sink::open).transpose();
        Ok(Self {
            rows: what.csv.as_deref().map(Rows::open).transpose()?,
            json: sink(&what.json)?,
            html: sink(&what.html)?,
        })
    }
}

impl Run {
    /// Audits all targets; returns why it ended before their end.
    async fn all(&mut self, stop: &CancellationToken) -> Option<Interrupted> {
        let mut walks = Vec::new();
        for (number, target) in self.what.targets.iter().enumerate() {
            let listing = match listing_of(&self.judge.store, &target.bucket).await {
                Ok(listing) => listing.narrowed(self.what.current_only),
                Err(failure) => {
                    let why = format!("{}: {failure}", target.shown());
                    let go_on = self.what.go_on(0, self.what.after.as_deref());
                    return Some(Interrupted { why, go_on });
                }
            };
            let Target { bucket, prefix } = target.clone();
            walks.push((number, Walk { bucket, prefix, listing }));
        }
        let lists = walks.iter().map(|(number, walk)| self.pages(walk, self.what.after(*number)));
        let lists: Vec<Pages> = lists.collect();
        let terminal = std::io::stderr().is_terminal();
        let mut progress = Progress::start(terminal, || Counting::start(lists));
        let mut interrupted = None;
        for (number, walk) in walks {
            let after = self.what.after(number);
            let pages = self.pages(&walk, after);
            let mut position = Position::new(walk.listing, after.map(str::to_owned));
            let ended = self.one(&walk.bucket, pages, &mut position, &mut progress, stop).await;
            if let Err(why) = ended {
                let go_on = self.what.go_on(number, position.after());
                interrupted = Some(Interrupted { why, go_on });
                break;
            }
        }
        progress.finish();
        interrupted
    }

    fn pages(&self, walk: &Walk, after: Option<&str>) -> Pages {
        let start = after.map_or(Mark::Start, |key| Mark::Key(key.to_owned()));
        Pages::new(Arc::clone(&self.judge.store), walk.clone(), start)
    }

    /// Audits one target. The error is one line.
    async fn one(
        &mut self,
        bucket: &str,
        pages: Pages,
        position: &mut Position,
        progress: &mut Progress,
        stop: &CancellationToken,
    ) -> Result<(), String> {
        let mut objects = pin!(walk(Arc::clone(&self.judge), pages, self.concurrency));
        loop {
            let visited = tokio::select! {
                biased;
                () = stop.cancelled() => return Err("by a signal".to_owned()),
                visited = objects.next() => visited,
            };
            let Some(visited) = visited else { return Ok(()) };
            let visited = visited.map_err(|stop| format!("{bucket}: {stop}"))?;
            self.take(&visited, progress)?;
            position.passed(&visited.listed);
        }
    }

    fn take(&mut self, visited: &Visited, progress: &mut Progress) -> Result<(), String> {
        if let Some(rows) = &mut self.outputs.rows {
            rows.add(visited)?;
        }
        if let (Some(Listed(wanted)), Finding::Judged(judged)) = (self.what.list, &visited.finding)
            && judged.standing == wanted
        {
            to_stdout(progress.say(&address(&judged.identity)))?;
        }
        self.tally.add(visited);
        progress.step();
        Ok(())
    }
}

fn summarize(
    what: &Audit,
    mut tally: Tally,
    began: SystemTime,
    freshness: String,
    interrupted: Option<Interrupted>,
    parked: Option<parked::Parked>,
) -> Summary {
    let conclusion = Conclusion::of(&tally, interrupted.is_some());
    let left_out = what.targets.first().zip(what.after.as_deref());
    let sentence = conclusion.sentence(&tally, left_out);
    let ended = SystemTime::now();
    let (databases, other_databases) = summary::databases(&tally, clock::millis(ended) / 1000);
    Summary {
        program: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned(),
        targets: what.targets.iter().map(Target::shown).collect(),
        after: what.after.clone(),
        current_only: what.current_only,
        hashed: what.hash,
        began: to_the_second(began),
        ended: to_the_second(ended),
        conclusion,
        sentence,
        interrupted,
        objects: tally.objects(),
        bytes: tally.bytes(),
        gone: tally.gone,
        folders: tally.folders,
        standings: summary::standings(&mut tally),
        not_found_out: summary::unknown(&mut tally),
        freshness,
        databases,
        other_databases,
        parked,
    }
}

/// A time in RFC 3339, UTC, without fractions.
fn to_the_second(at: SystemTime) -> String {
    clock::rfc3339_of_seconds(clock::millis(at) / 1000)
}

/// Writes the results, and says them.
fn conclude(what: &Audit, summary: &Summary, outputs: Outputs) -> ExitCode {
    let whole = summary.interrupted.is_none();
    let text = Text(summary).to_string();
    let text = text.trim_end();
    let said = if what.uses_stdout() {
        complain(text);
        Ok(())
    } else {
        let mut stdout = std::io::stdout();
        to_stdout(writeln!(stdout, "{text}").and_then(|()| stdout.flush()))
    };
    let written = [
        Some(said),
        outputs.rows.map(|rows| rows.finish(whole)),
        outputs.json.map(|sink| {
            let json = serde_json::to_string_pretty(summary).map_err(|error| error.to_string())?;
            sink.write_text(&(json + "\n"), whole)
        }),
        outputs.html.map(|sink| sink.write_text(&page::html(summary)?, whole)),
    ];
    let mut code = match summary.conclusion {
        Conclusion::Verified => ExitCode::SUCCESS,
        Conclusion::NotVerified => ExitCode::FAILURE,
        Conclusion::NotFoundOut | Conclusion::Interrupted => ExitCode::from(NOT_FOUND_OUT),
    };
    for error in written.into_iter().flatten().filter_map(Result::err) {
        code = fail(error, NOT_FOUND_OUT);
    }
    code
}
