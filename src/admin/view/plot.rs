//! A small plot of the last hour: one bar for each minute.

use crate::overview::{MINUTES, Minute};
use crate::quantity::count;

/// The plot is so high, and a bar with its gap so wide.
const HEIGHT: f64 = 100.0;
const STEP: usize = 10;

/// What is stacked in the plot of results, from below.
const STATUSES: [&str; 4] = ["clean", "released", "no", "infected"];

/// One plot. The numbers beside it say the same to who does not see it.
pub(super) struct Plot {
    pub(super) title: &'static str,
    pub(super) last: String,
    pub(super) most: String,
    pub(super) bars: Vec<Bar>,
    pub(super) width: usize,
}

pub(super) struct Bar {
    pub(super) class: &'static str,
    pub(super) x: usize,
    pub(super) y: String,
    pub(super) height: String,
}

impl Plot {
    /// Objects a minute by status.
    pub(super) fn of_results(hour: &[Minute]) -> Self {
        let most = hour.iter().map(Minute::objects).max().unwrap_or_default();
        let mut bars = Vec::new();
        for (number, minute) in hour.iter().enumerate() {
            let mut y = HEIGHT;
            for status in STATUSES {
                let part = f64::from(minute.results_of(status)) / f64::from(most.max(1)) * HEIGHT;
                y -= part;
                bars.extend(bar(status, number, y, part));
            }
        }
        let last = hour.iter().rev().nth(1).map(Minute::objects).unwrap_or_default();
        let objects = |objects: u32| count(objects.into());
        Self::new("objects a minute", objects(last), objects(most), bars)
    }

    /// Of a stage the duration that 95 % do not exceed.
    pub(super) fn of_stage(title: &'static str, stage: &'static str, hour: &[Minute]) -> Self {
        let values: Vec<_> = hour.iter().map(|minute| minute.p95_millis(stage)).collect();
        let most = values.iter().flatten().copied().fold(0.0, f64::max);
        let bars = values.iter().enumerate().filter_map(|(number, value)| {
            let part = value.filter(|_| most > 0.0)? / most * HEIGHT;
            bar("stage", number, HEIGHT - part, part)
        });
        let last = values.iter().rev().find_map(|value| *value);
        let shown = |value: Option<f64>| value.map_or_else(|| "none yet".to_owned(), short);
        Self::new(title, shown(last), shown((most > 0.0).then_some(most)), bars.collect())
    }

    fn new(title: &'static str, last: String, most: String, bars: Vec<Bar>) -> Self {
        Self { title, last, most, bars, width: MINUTES * STEP }
    }
}

/// `None` for nothing; what is there can be seen.
fn bar(class: &'static str, number: usize, y: f64, height: f64) -> Option<Bar> {
    (height > 0.0).then(|| Bar {
        class,
        x: number * STEP,
        y: format!("{:.1}", y.min(HEIGHT - 1.0)),
        height: format!("{:.1}", height.max(1.0)),
    })
}

/// Milliseconds for people.
pub(super) fn short(millis: f64) -> String {
    match millis {
        millis if millis < 10.0 => format!("{millis:.1} ms"),
        millis if millis < 1000.0 => format!("{millis:.0} ms"),
        millis if millis < 100_000.0 => format!("{:.1} s", millis / 1000.0),
        millis => format!("{:.0} s", millis / 1000.0),
    }
}
