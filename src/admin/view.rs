//! The status page as HTML. What others chose in it (keys, signatures, answers) has its control
//! characters written out here, and is escaped by the template.

mod plot;
mod rows;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use askama::Template;
use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory, GeneralCategoryGroup};
use icu_properties::{CodePointMapData, CodePointSetData};
use tokio_util::sync::CancellationToken;

use self::plot::Plot;
use self::rows::{InWorkRow, ParkedRow, QueueRow, ResultRow, SweepRow};
use crate::clock;
use crate::health::{Health, Part, QueueDepth, Readiness, Trouble};
use crate::metrics::{Metrics, Timed};
use crate::overview::{Minute, Overview, Pace};
use crate::quantity::count;

/// Minutes over which the present rate is taken; the one that goes on is left out.
const RATE_MINUTES: u8 = 5;

/// Without any progress for this long, a person should look. Large archives take longer; most objects
/// take less than a second.
const STALLED: Duration = Duration::from_secs(15);

/// What has no looks though Unicode does not say so: the Braille pattern without dots, the null
/// notehead, the blanks of Egyptian hieroglyphs.
const BLANK: [char; 4] = ['\u{2800}', '\u{1d159}', '\u{13441}', '\u{13442}'];
/// Combining marks behind one letter. Writing needs no more; many of them cover other lines.
const MOST_MARKS: u8 = 4;
/// Characters of a longer name that are shown from its start, and from its end, where a file has its
/// type.
const START: usize = 80;
const END: usize = 40;

/// Where the page gets what it shows.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) overview: Arc<Overview>,
    /// Where infected objects are moved to.
    pub(crate) quarantine: Option<String>,
    /// Cancelled when the daemon is to stop.
    pub(crate) stopping: CancellationToken,
}

/// How things are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    /// Scanning, nothing to do.
    Calm,
    /// Scanning, with something that a person should look at.
    Care,
    /// Not scanning.
    Down,
    /// Scanning what is in work, and nothing after it.
    Stopping,
}

#[derive(Template)]
#[template(path = "status.html", config = "src/admin/askama.toml")]
struct Page {
    replica: String,
    version: &'static str,
    up_for: String,
    now: String,
    paused: bool,
    mood: Mood,
    sentence: String,
    causes: Vec<Cause>,
    facts: Vec<Fact>,
    plots: Vec<Plot>,
    /// None while the broker does not say.
    queues: Vec<QueueRow>,
    in_work: Vec<InWorkRow>,
    results: Vec<ResultRow>,
    parked: Vec<ParkedRow>,
    sweeps: Vec<SweepRow>,
    engine: Vec<(&'static str, String)>,
}

/// Something that is not as it should be.
struct Cause {
    what: String,
    /// What to do about it; empty where `what` says it.
    hint: String,
    since: String,
}

/// A name that others chose, which may be long: a key, a version, a signature.
struct Name {
    /// All of it, or its start and its end.
    shown: String,
    /// Of all of it, where it is not shown; else empty.
    length: String,
}

struct Fact {
    name: &'static str,
    value: String,
}

/// The page as it is now. `paused`: it is not loaded again by itself.
///
/// # Errors
/// When it cannot be made, which is a bug.
pub(super) fn html(shown: &Shown, paused: bool) -> Result<String, askama::Error> {
    let Shown { health, metrics, overview, .. } = shown;
    let now = SystemTime::now();
    let depths = health.queues();
    let hour = metrics.history.last_hour();
    let readiness = health.readiness();
    let troubles = health.troubles();
    let parked = rows::parked(&depths, metrics);
    let stalled = overview.in_work.pace().filter(|pace| pace.no_progress >= STALLED);
    let causes = causes(&readiness, &troubles, &depths, stalled);
    let looks = causes.len() + usize::from(!parked.is_empty());
    let (mood, sentence) = if shown.stopping.is_cancelled() {
        let sentence = "Stopping: nothing new is taken, and what is in work is finished.";
        (Mood::Stopping, sentence.to_owned())
    } else {
        judge(&troubles, looks, !depths.is_empty(), stalled)
    };
    Page {
        replica: replica(),
        version: env!("CARGO_PKG_VERSION"),
        up_for: long(now.duration_since(overview.started()).unwrap_or_default()),
        now: clock_time(now),
        paused,
        mood,
        sentence,
        causes,
        facts: facts(shown, &depths, &hour),
        plots: plots(&hour),
        sweeps: rows::sweeps(&readiness, rate_of(&hour), &depths),
        in_work: overview.in_work.list().iter().map(InWorkRow::of).collect(),
        results: overview.results.list().iter().map(ResultRow::of).collect(),
        queues: depths.iter().map(|depth| QueueRow::of(depth, metrics)).collect(),
        parked,
        engine: engine(shown, &readiness, now),
    }
    .render()
}

impl Mood {
    fn class(self) -> &'static str {
        match self {
            Self::Calm => "good",
            Self::Care | Self::Stopping => "open",
            Self::Down => "bad",
        }
    }

    /// In words: a colour alone says nothing to some.
    fn word(self) -> &'static str {
        match self {
            Self::Calm => "Calm",
            Self::Care => "Look",
            Self::Down => "Down",
            Self::Stopping => "Stopping",
        }
    }
}

/// `looks`: how many things a person should look at. `counted`: how many messages wait, and how many are
/// parked, is known. `stalled`: nothing in work gets further.
fn judge(
    troubles: &[Trouble],
    looks: usize,
    counted: bool,
    stalled: Option<Pace>,
) -> (Mood, String) {
    let missing: Vec<_> = troubles.iter().filter(|trouble| trouble.needed).collect();
    if !missing.is_empty() {
        let names: Vec<_> = missing.iter().map(|trouble| trouble.part.to_string()).collect();
        let are = if names.len() == 1 { "is" } else { "are" };
        let broker = missing.iter().any(|trouble| trouble.part == Part::Broker);
        let uploads = if broker {
            "The store has to keep its events until the broker is back."
        } else {
            "Uploads wait in their queue."
        };
        let sentence = format!("Not scanning: {} {are} down. {uploads}", names.join(", "));
        return (Mood::Down, sentence);
    }
    if let Some(pace) = stalled {
        let sentence =
            format!("No result for {}, though objects are in work.", long(pace.no_result));
        return (Mood::Care, sentence);
    }
    match looks {
        0 if !counted => {
            let sentence = "Scanning. How much waits or is parked is not known.";
            (Mood::Care, sentence.to_owned())
        }
        0 => (Mood::Calm, "Scanning. Nothing needs you.".to_owned()),
        1 => (Mood::Care, "Scanning, and one thing needs a look.".to_owned()),
        more => (Mood::Care, format!("Scanning, and {more} things need a look.")),
    }
}

fn causes(
    readiness: &Readiness,
    troubles: &[Trouble],
    depths: &[QueueDepth],
    stalled: Option<Pace>,
) -> Vec<Cause> {
    let parts = troubles.iter().map(|trouble| Cause {
        what: format!("{}: {}", trouble.part, plain(&trouble.reason)),
        hint: trouble.check.map(|check| format!("check {check}")).unwrap_or_default(),
        since: long(trouble.since.elapsed()),
    });
    let of_parts: Vec<_> = troubles.iter().map(|trouble| trouble.part.into_str()).collect();
    let notes = readiness.degraded.iter().filter(|(name, _)| !of_parts.contains(name));
    let notes = notes.map(|(name, text)| Cause {
        what: format!("{}: {}", name.replace('_', " "), plain(text)),
        hint: String::new(),
        since: String::new(),
    });
    let missing = depths.iter().flat_map(|depth| &depth.missing).map(|queue| Cause {
        what: format!("the queue {queue} is missing"),
        hint: "somebody deleted it; a daemon makes it again when it starts".to_owned(),
        since: String::new(),
    });
    let stalled = stalled.map(|pace| Cause {
        what: "nothing in work gets further".to_owned(),
        hint:
            "engine or store may not answer, which the daemon finds out by itself; a large archive \
               takes long, too"
                .to_owned(),
        since: long(pace.no_progress),
    });
    parts.chain(notes).chain(missing).chain(stalled).collect()
}

fn facts(shown: &Shown, depths: &[QueueDepth], hour: &[Minute]) -> Vec<Fact> {
    let sum = |of: fn(&QueueDepth) -> u64| {
        if depths.is_empty() { "not known".to_owned() } else { count(depths.iter().map(of).sum()) }
    };
    let waited = Duration::try_from_secs_f64(shown.metrics.notification_age.get());
    let infected: u64 = hour.iter().map(|minute| u64::from(minute.results_of("infected"))).sum();
    let all: u64 = hour.iter().map(|minute| u64::from(minute.objects())).sum();
    let mut facts = vec![
        Fact { name: "waiting", value: sum(|depth| depth.ready.unwrap_or_default()) },
        Fact { name: "last one had waited", value: long(waited.unwrap_or_default()) },
        Fact { name: "to be tried again", value: sum(|depth| depth.retry) },
        Fact { name: "parked", value: sum(|depth| depth.dead.unwrap_or_default()) },
        Fact { name: "in work here", value: shown.overview.in_work.list().len().to_string() },
        Fact { name: "objects a minute, here", value: rate(rate_of(hour)) },
        Fact { name: "last hour, here", value: count(all) },
        Fact { name: "of these infected", value: count(infected) },
    ];
    if let Some(pace) = shown.overview.in_work.pace() {
        facts.push(Fact { name: "no result for, here", value: long(pace.no_result) });
    }
    if shown.metrics.surges.get() > 0 {
        facts.push(Fact { name: "signatures held", value: shown.metrics.surges.get().to_string() });
    }
    facts
}

/// Objects a minute, over the last whole minutes.
fn rate_of(hour: &[Minute]) -> f64 {
    let whole = hour.split_last().map(|(_, whole)| whole).unwrap_or_default();
    let last = whole.iter().rev().take(RATE_MINUTES.into());
    let objects: u32 = last.map(Minute::objects).sum();
    f64::from(objects) / f64::from(RATE_MINUTES)
}

fn rate(rate: f64) -> String {
    if rate > 0.0 && rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

fn plots(hour: &[Minute]) -> Vec<Plot> {
    let mut plots = vec![Plot::of_results(hour)];
    plots.extend(
        [
            ("download, p95", Timed::Fetch),
            ("scan after it, p95", Timed::Scan),
            ("tag and report, p95", Timed::Effects),
            ("whole message, p95", Timed::Delivery),
        ]
        .map(|(title, stage)| Plot::of_stage(title, stage.into_str(), hour)),
    );
    plots
}

fn engine(shown: &Shown, readiness: &Readiness, now: SystemTime) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    match shown.overview.engine() {
        None => rows.push(("engine", "no self-test was passed yet".to_owned())),
        Some(engine) => {
            let version = plain(engine.version.as_deref().unwrap_or("version not known"));
            rows.push(("engine", format!("{} {version}", engine.name)));
            let database = plain(engine.database.as_deref().unwrap_or("none of ClamAV's own"));
            let age = engine.database_date.map(|date| {
                let age = now.duration_since(date).unwrap_or_default();
                format!(", {} old", long(age))
            });
            rows.push(("virus database", format!("{database}{}", age.unwrap_or_default())));
        }
    }
    match readiness.limits_reported {
        Some(true) => rows.push(("encrypted, over its limits", "reported".to_owned())),
        Some(false) => rows.push(("encrypted, over its limits", "called clean".to_owned())),
        None => {}
    }
    if let Some(bucket) = &shown.quarantine {
        rows.push(("infected objects go to", plain(bucket)));
    }
    rows
}

/// The name of this host, which is the pod's or the container's, and the process in it.
fn replica() -> String {
    let host = rustix::system::uname();
    let host = plain(&host.nodename().to_string_lossy());
    format!("{host}, process {}", std::process::id())
}

/// Text that others chose, with what is no visible character written out. Combining marks are shown as
/// they are behind a letter only, and a few of them: elsewhere they change the look of what is not theirs.
fn plain(text: &str) -> String {
    let category = CodePointMapData::<GeneralCategory>::new();
    let invisible = CodePointSetData::new::<DefaultIgnorableCodePoint>();
    let mut shown = String::with_capacity(text.len());
    let mut marks = 0;
    for character in text.chars() {
        let category = category.get(character);
        if invisible.contains(character) || BLANK.contains(&character) {
            marks = 0;
            shown.extend(character.escape_unicode());
            continue;
        }
        if marks > 0 && GeneralCategoryGroup::Mark.contains(category) {
            marks -= 1;
            shown.push(character);
            continue;
        }
        marks = if GeneralCategoryGroup::Letter.contains(category) { MOST_MARKS } else { 0 };
        match character {
            // What the template escapes anyway.
            '"' | '\'' => shown.push(character),
            _ => shown.extend(character.escape_debug()),
        }
    }
    shown
}

impl Name {
    /// A long one is cut before it is looked at: it may have 16 KiB.
    fn of(text: &str) -> Self {
        let all = text.chars().count();
        if all <= START + END {
            return Self { shown: plain(text), length: String::new() };
        }
        let start: String = text.chars().take(START).collect();
        let end: String = text.chars().skip(all - END).collect();
        let length = format!("{} characters", count(all as u64));
        Self { shown: format!("{}…{}", plain(&start), plain(&end)), length }
    }
}

/// The time of day in UTC, to the second.
fn clock_time(at: SystemTime) -> String {
    let text = clock::rfc3339_of_seconds(clock::millis(at) / 1000);
    text.get(11..19).unwrap_or(&text).to_owned()
}

/// A duration for people: its two largest units.
fn long(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// How long something has been going on.
fn since(at: Instant) -> String {
    long(at.elapsed())
}

#[cfg(test)]
mod tests;
