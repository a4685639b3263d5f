//! Says on standard error how far an audit has come.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::task::AbortOnDropHandle;

use super::quantity::count;
use crate::sweep::Pages;

/// Between two lines where standard error is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
const SPINNER: &str = "{spinner} {human_pos} objects, {per_sec}, {elapsed}";
const BAR: &str = "{wide_bar} {human_pos}/{human_len}, {per_sec}, {eta} left";

/// How far an audit has come.
pub(super) enum Progress {
    /// On a terminal: a bar once the number of objects is known.
    Bar { bar: ProgressBar, counting: Counting, sized: bool },
    /// Elsewhere: a line now and then.
    Lines { objects: u64, began: Instant, last: Instant },
}

/// Counts what is listed while the audit runs, many times faster than that.
pub(super) struct Counting {
    /// Set when all is counted.
    total: Arc<OnceLock<u64>>,
    _counting: AbortOnDropHandle<()>,
}

impl Progress {
    /// Begins. `lists`: what the audit will read, once more.
    pub(super) fn start(terminal: bool, lists: impl FnOnce() -> Counting) -> Self {
        if !terminal {
            let now = Instant::now();
            return Self::Lines { objects: 0, began: now, last: now };
        }
        let bar = ProgressBar::new_spinner();
        bar.set_style(style(SPINNER, ProgressStyle::default_spinner()));
        Self::Bar { bar, counting: lists(), sized: false }
    }

    /// One more object is done.
    pub(super) fn step(&mut self) {
        match self {
            Self::Bar { bar, counting, sized } => {
                bar.inc(1);
                if !*sized && let Some(objects) = counting.total.get() {
                    bar.set_style(style(BAR, ProgressStyle::default_bar()));
                    bar.set_length(*objects);
                    *sized = true;
                }
            }
            Self::Lines { objects, began, last } => {
                *objects += 1;
                if last.elapsed() >= LINE_INTERVAL {
                    *last = Instant::now();
                    tell(*objects, began.elapsed());
                }
            }
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(self) {
        if let Self::Bar { bar, .. } = self {
            bar.finish_and_clear();
        }
    }

    /// Prints a line on standard output, above the bar.
    pub(super) fn say(&self, line: &str) {
        match self {
            Self::Bar { bar, .. } => bar.suspend(|| crate::app::say(line)),
            Self::Lines { .. } => crate::app::say(line),
        }
    }
}

impl Counting {
    /// Counts what all these lists name.
    pub(super) fn start(lists: Vec<Pages>) -> Self {
        let total = Arc::new(OnceLock::new());
        let counted = Arc::clone(&total);
        let counting = tokio::spawn(async move {
            let mut objects = 0;
            for mut pages in lists {
                loop {
                    match pages.next().await {
                        Ok(Some(page)) => objects += page.len() as u64,
                        Ok(None) => break,
                        // The audit itself reads the same list, and says what is wrong with it.
                        Err(_) => return,
                    }
                }
            }
            counted.get_or_init(|| objects);
        });
        Self { total, _counting: AbortOnDropHandle::new(counting) }
    }
}

fn style(template: &str, otherwise: ProgressStyle) -> ProgressStyle {
    otherwise.clone().template(template).unwrap_or(otherwise)
}

#[expect(clippy::print_stderr, reason = "what a command is at")]
fn tell(objects: u64, elapsed: Duration) {
    let seconds = elapsed.as_secs().max(1);
    eprintln!("{} objects in {seconds} s, {} a second", count(objects), count(objects / seconds));
}
