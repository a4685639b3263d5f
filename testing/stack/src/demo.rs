//! `stack demo`: uploads clean and infected files, and shows the results.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use peers::eicar::eicar;
use peers::error::{Error, Result};
use peers::sink;
use peers::zip;
use serde_json::Value;
use uuid::Uuid;

use crate::ready::http_status;
use crate::s3::S3;
use crate::state::State;

/// How long one object may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// The daemon's tag.
const TAG: &str = "scanned";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Clean,
    Infected,
    Encrypted,
}

struct Sample {
    name: &'static str,
    content: Vec<u8>,
    fate: Fate,
}

/// What was observed about one object.
#[derive(Default)]
struct Seen {
    tag: Option<String>,
    present: bool,
    report: Option<Value>,
    elapsed: Option<u128>,
}

fn samples() -> Vec<Sample> {
    let sample = |name, content: &[u8], fate| Sample { name, content: content.to_vec(), fate };
    let clean = b"Nothing to see here.\n";
    let zipped = zip::archive(&[("readme.txt", clean), ("eicar.com", &eicar())]);
    vec![
        sample("clean.txt", clean, Fate::Clean),
        sample("eicar.com", &eicar(), Fate::Infected),
        sample("eicar.zip", &zipped, Fate::Infected),
        sample("encrypted.zip", &zip::encrypted("secret.txt", 200), Fate::Encrypted),
        sample("a b+c %20 é 日本.txt", clean, Fate::Clean),
    ]
}

/// Runs the demo on a stack that is up.
///
/// # Errors
/// When there is no daemon or the store does not answer.
pub async fn run(state: &State) -> Result<ExitCode> {
    let url = state.settings.daemon_url.as_deref().unwrap_or_default();
    if http_status(&format!("{url}/readyz")) != Some(200) {
        return Err(Error::new("no daemon is ready in this stack: run `make up`"));
    }
    let run = Uuid::new_v4().simple().to_string();
    let s3 = S3::new(&state.settings);
    say!("");
    say!("{}", line(["object", "expected", "tag", "object is", "report", "ms", ""]));
    let (mut right, mut all) = (0, 0);
    for sample in samples() {
        let key = format!("demo/{}/{}", &run[..8], sample.name);
        let seen = watch(state, &s3, &key, &sample).await?;
        let good = as_expected(sample.fate, &seen);
        all += 1;
        right += u32::from(good);
        say!("{}", row(&sample, &seen, good));
    }
    say!("");
    say!("{right} of {all} as expected; report: status/action/reason or signature; ms: from the");
    say!("upload until tag or move and report were there, of which up to 3000 until the store");
    say!("posts its webhook. `make down` stops everything.");
    Ok(if right == all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Uploads a sample, and observes it until the result is as expected or time is up.
async fn watch(state: &State, s3: &S3, key: &str, sample: &Sample) -> Result<Seen> {
    s3.put(key, sample.content.clone()).await?;
    let (uploaded, start) = (now_ms(), Instant::now());
    let mut seen = Seen::default();
    loop {
        look(state, s3, key, uploaded, &mut seen).await?;
        if as_expected(sample.fate, &seen) || start.elapsed() > PATIENCE {
            return Ok(seen);
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
}

/// Observes it once. The time is taken when object and report both show a verdict for the first
/// time.
async fn look(state: &State, s3: &S3, key: &str, uploaded: u128, seen: &mut Seen) -> Result<()> {
    let tags = s3.tags(key).await?;
    seen.present = tags.is_some();
    seen.tag = tags.and_then(|mut tags| tags.remove(TAG));
    let mut reports = sink::read(&state.settings.reports);
    reports.retain(|report| report.key().as_deref() == Some(key));
    seen.report = reports.last().map(sink::Received::json);
    let decided = (seen.tag.is_some() || !seen.present) && seen.report.is_some();
    if decided && seen.elapsed.is_none() {
        seen.elapsed = Some(now_ms().saturating_sub(uploaded));
    }
    Ok(())
}

fn as_expected(fate: Fate, seen: &Seen) -> bool {
    let report = seen.report.clone().unwrap_or_default();
    let said = |name: &str| report[name].as_str().unwrap_or_default().to_owned();
    let tag = seen.tag.as_deref();
    match fate {
        Fate::Clean => {
            seen.present
                && tag == Some("clean")
                && said("status") == "clean"
                && said("action") == "tag"
        }
        Fate::Infected => {
            !seen.present
                && said("status") == "infected"
                && said("action") == "quarantine"
                && !said("quarantine_key").is_empty()
                && !said("signature").is_empty()
        }
        Fate::Encrypted => {
            seen.present
                && tag == Some("no")
                && said("status") == "no"
                && said("action") == "tag"
                && said("reason") == "encrypted"
        }
    }
}

fn row(sample: &Sample, seen: &Seen, good: bool) -> String {
    let expected = match sample.fate {
        Fate::Clean => "clean, tagged",
        Fate::Infected => "infected, moved",
        Fate::Encrypted => "unscannable, tagged",
    };
    let report = seen.report.as_ref().map_or("none".to_owned(), |report| {
        let words = ["status", "action", "reason", "signature"].map(|name| report[name].as_str());
        words.into_iter().flatten().collect::<Vec<_>>().join("/")
    });
    let elapsed = seen.elapsed.map_or("-".to_owned(), |elapsed| elapsed.to_string());
    let tag = seen.tag.clone().unwrap_or_else(|| "-".into());
    let object = if seen.present { "present" } else { "moved" };
    let verdict = if good { "ok" } else { "WRONG" };
    line([sample.name, expected, &tag, object, &report, &elapsed, verdict])
}

fn line(cells: [&str; 7]) -> String {
    let widths = [22, 20, 6, 10, 50, 6, 5];
    let padded = cells.iter().zip(widths).map(|(cell, width)| {
        // East Asian characters take two columns.
        let shown: usize = cell.chars().map(|c| if c >= '\u{1100}' { 2 } else { 1 }).sum();
        format!("{cell}{}", " ".repeat(usize::saturating_sub(width, shown)))
    });
    padded.collect::<Vec<_>>().join(" ").trim_end().to_owned()
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis())
}
