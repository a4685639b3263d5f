//! Shows on a terminal how far sweeps are: a bar for each, then what waits to be scanned.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use uuid::Uuid;

use super::Target;
use crate::app::progress::{Counting, style};
use crate::config::Settings;
use crate::store::{Mark, Store, Walk};
use crate::sweep::{Pages, Pass, Sweep, listing_of};

const UNSIZED: &str = "{prefix} {spinner} {human_pos} looked at, {per_sec}, {msg}";
const SIZED: &str = "{prefix} {wide_bar} {human_pos}/{human_len}, {eta} left, {msg}";
const WAITING: &str = "{spinner} {human_pos} objects wait to be scanned, {elapsed}";
/// Between two turns of a spinner.
const TURN: Duration = Duration::from_millis(200);

/// The bars of one command.
pub(super) struct Progress {
    all: MultiProgress,
    bars: Vec<(Uuid, Bar)>,
    waiting: ProgressBar,
}

struct Bar {
    line: ProgressBar,
    /// `None`: the bucket cannot be listed from here.
    counting: Option<Counting>,
    sized: bool,
}

impl Progress {
    /// `None` where standard error is no terminal.
    pub(super) async fn start(
        settings: &Settings,
        sweeps: impl Iterator<Item = (Uuid, &Target)>,
        current_only: bool,
    ) -> Option<Self> {
        if !std::io::stderr().is_terminal() {
            return None;
        }
        let store = Store::new(&settings.store, &settings.trust).await.ok().map(Arc::new);
        let (all, mut bars) = (MultiProgress::new(), Vec::new());
        for (id, target) in sweeps {
            let counting = match &store {
                Some(store) => count(store, target, current_only).await,
                None => None,
            };
            let line = all.add(ProgressBar::new_spinner().with_prefix(target.shown()));
            line.set_style(style(UNSIZED, ProgressStyle::default_spinner()));
            line.enable_steady_tick(TURN);
            bars.push((id, Bar { line, counting, sized: false }));
        }
        let waiting = all.add(ProgressBar::new_spinner());
        waiting.set_style(style(WAITING, ProgressStyle::default_spinner()));
        waiting.enable_steady_tick(TURN);
        Some(Self { all, bars, waiting })
    }

    /// Shows where a sweep stands.
    pub(super) fn show(&mut self, sweep: &Sweep) {
        let bar = self.bars.iter_mut().find(|(id, _)| *id == sweep.id);
        if let Some((_, bar)) = bar {
            bar.show(sweep);
        }
    }

    /// Shows how many objects wait.
    pub(super) fn show_waiting(&self, objects: u64) {
        self.waiting.set_position(objects);
    }

    /// Takes the bar of a sweep away, and prints a line above the others.
    pub(super) fn end(&self, sweep: Uuid, line: &str) {
        for (_, bar) in self.bars.iter().filter(|(id, _)| *id == sweep) {
            bar.line.finish_and_clear();
        }
        self.say(line);
    }

    /// Prints a line above the bars.
    pub(super) fn say(&self, line: &str) {
        self.all.suspend(|| super::say(line));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.all.clear());
    }
}

impl Bar {
    fn show(&mut self, sweep: &Sweep) {
        // Not known before the first page.
        let Some(pass) = sweep.pass() else { return };
        let passes =
            1 + u64::from(pass == Pass::Second || sweep.order.selection.pass_after(pass).is_some());
        let total = self.counting.as_ref().and_then(Counting::total);
        if let (false, Some(total)) = (self.sized, total) {
            self.line.set_style(style(SIZED, ProgressStyle::default_bar()));
            self.line.set_length(total.saturating_mul(passes));
            self.sized = true;
        }
        // The counts of a sweep begin anew with each pass.
        let before = if pass == Pass::Second { total.unwrap_or_default() } else { 0 };
        self.line.set_position(before.saturating_add(sweep.counts.listed));
        self.line.set_message(format!("{} announced", sweep.counts.announced));
    }
}

/// Counts what the sweep will look at.
async fn count(store: &Arc<Store>, target: &Target, current_only: bool) -> Option<Counting> {
    let listing = listing_of(store, &target.bucket).await.ok()?.narrowed(current_only);
    let Target { bucket, prefix } = target.clone();
    let walk = Walk { bucket, prefix, listing };
    Some(Counting::start(vec![Pages::new(Arc::clone(store), walk, Mark::Start)]))
}
