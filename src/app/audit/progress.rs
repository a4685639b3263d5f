//! Says on standard error how far an audit has come.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::app::complain;
use crate::app::progress::{Counting, style};
use crate::quantity::count;

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
                if !*sized && let Some(objects) = counting.total() {
                    bar.set_style(style(BAR, ProgressStyle::default_bar()));
                    bar.set_length(objects);
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
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn say(&self, line: &str) -> io::Result<()> {
        let say = || writeln!(io::stdout(), "{line}");
        match self {
            Self::Bar { bar, .. } => bar.suspend(say),
            Self::Lines { .. } => say(),
        }
    }
}

fn tell(objects: u64, elapsed: Duration) {
    let seconds = elapsed.as_secs().max(1);
    let rate = count(objects / seconds);
    complain(format_args!("{} objects in {seconds} s, {rate} a second", count(objects)));
}
