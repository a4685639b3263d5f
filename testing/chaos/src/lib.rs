//! Tests the guarantees under faults: uploads known objects, injects a fault, and accounts for
//! every object, report and message.
//!
//! - `samples`: objects with a known result;
//! - `ledger`: what was uploaded; `senders`: webhooks about it;
//! - `setup`: what a scenario changes; `world`: two replicas of the daemon, with proxies between them and everything else;
//! - `sweeping`: asks for sweeps, and reads what the journal and an audit say of them;
//! - `tally`, `account`: the results;
//! - `scenario`, `scenarios`: the faults;
//! - `results`: the table;
//! - `soak`: the same for hours, and whether the daemon grows.
#![allow(clippy::disallowed_methods, reason = "the list in clippy.toml is about the daemon")]

mod account;
mod ledger;
mod results;
mod samples;
mod scenario;
mod scenarios;
mod senders;
mod setup;
mod soak;
mod sweeping;
mod tally;
mod world;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use fastrand::Rng;
use peers::error::{Context, Error, Result};
use peers::proxy::Op;
use stack::{Stack, say};

use self::account::account;
use self::results::{Row, Spread};
use self::scenario::Scenario;
use self::tally::Tally;
use self::world::{Bucket, Shared, World};

/// Longest time of a scenario, including the wait at its end.
const LONGEST: Duration = Duration::from_mins(8);

/// What to run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Only scenarios whose names contain one of these, separated by commas.
    pub only: Option<String>,
    /// Only the short selection.
    pub short: bool,
    /// The seed of all randomness.
    pub seed: Option<u64>,
    /// The daemon; by default the one that was built together with this program.
    pub daemon: Option<PathBuf>,
    /// Only list the scenarios.
    pub list: bool,
    /// Instead of the scenarios one after the other: a mixed load for so many hours.
    pub soak: Option<f64>,
}

/// Runs the scenarios inside the stack that the environment names.
///
/// # Errors
/// When there is no stack, no such scenario, or the results cannot be written.
pub async fn run(options: Options) -> Result<ExitCode> {
    let chosen = choose(&options)?;
    if options.list {
        for scenario in chosen {
            say!("{:<26}{}", scenario.name, scenario.what);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let stack = Stack::from_env();
    let binary = options.daemon.clone().unwrap_or_else(|| stack.built_daemon());
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let mut shared = Shared { stack: &stack, binary: &binary, seaweed: None };
    if let Some(hours) = options.soak {
        return soak::run(&mut shared, hours, seed).await;
    }
    say!("[chaos] {} scenarios, SEED={seed}", chosen.len());
    let (mut rows, mut windows) = (Vec::new(), Vec::new());
    results::head();
    for scenario in chosen {
        let row = play(&mut shared, scenario, seed, &mut windows).await;
        results::print(&row);
        rows.push(row);
        results::write(&rows, seed, Spread::of(windows.clone()))?;
    }
    let file = results::write(&rows, seed, Spread::of(windows.clone()))?;
    let failed = rows.iter().filter(|row| !row.passed).count();
    say!("");
    if let Some(window) = Spread::of(windows) {
        say!(
            "[chaos] from the comparison to the answer of DELETE: median {} ms, 99 % below {} ms, \
             longest {} ms ({} deletions)",
            window.median,
            window.p99,
            window.longest,
            window.count
        );
    }
    say!("[chaos] {} of {} scenarios passed; SEED={seed}", rows.len() - failed, rows.len());
    say!("[chaos] {}", file.display());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn choose(options: &Options) -> Result<Vec<Scenario>> {
    let only: Vec<&str> = options
        .only
        .as_deref()
        .unwrap_or_default()
        .split(',')
        .filter(|name| !name.is_empty())
        .collect();
    let all = scenarios::all();
    if let Some(unknown) =
        only.iter().find(|name| !all.iter().any(|scenario| scenario.name.contains(**name)))
    {
        let names: Vec<&str> = all.iter().map(|scenario| scenario.name).collect();
        return Err(Error::new(format!("ONLY={unknown}: known names are {}", names.join(", "))));
    }
    let wanted = |scenario: &Scenario| {
        if only.is_empty() {
            return scenario.short || !options.short;
        }
        only.iter().any(|name| scenario.name.contains(name))
    };
    Ok(all.into_iter().filter(wanted).collect())
}

async fn play(
    shared: &mut Shared<'_>,
    scenario: Scenario,
    seed: u64,
    windows: &mut Vec<Duration>,
) -> Row {
    let start = Instant::now();
    // Not the position: `ONLY=` must not change the random choices.
    let name = scenario
        .name
        .bytes()
        .fold(seed, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let rng = Rng::with_seed(name);
    let longest = sweeping::longest(LONGEST);
    let outcome = tokio::time::timeout(longest, async {
        let mut world = World::start(shared, scenario.setup.clone(), rng).await?;
        let ran = (scenario.run)(&mut world).await;
        ran.context(scenario.name)?;
        if !scenario.expected.alarms {
            no_alarm(&mut world);
        }
        let tally = account(&mut world, scenario.expected).await?;
        if scenario.setup.bucket == Bucket::Gateway && scenario.name == "calm" {
            windows.extend(delete_windows(&world));
        }
        Ok::<_, Error>(tally)
    });
    let tally = match outcome.await {
        Ok(Ok(tally)) => tally,
        Ok(Err(error)) => Tally { wrongs: vec![error.to_string()], ..Tally::default() },
        Err(_) => Tally { wrongs: vec![format!("not over after {longest:?}")], ..Tally::default() },
    };
    Row {
        scenario: scenario.name,
        what: scenario.what,
        passed: tally.is_right(),
        seconds: start.elapsed().as_secs_f64(),
        wrongs: tally.wrongs.clone(),
        tally,
    }
}

/// The canary must not report a source as down where none is.
fn no_alarm(world: &mut World) {
    for daemon in &world.daemons {
        let output = daemon.output();
        let alarms = output.lines().filter(|line| line.contains("source is down"));
        world.wrongs.extend(alarms.map(|line| format!("a false alarm: {line}")));
    }
}

/// Times from a HEAD to the answer of the DELETE. An upload in between may be deleted by a store
/// that does not compare by itself.
fn delete_windows(world: &World) -> Vec<Duration> {
    let mut asked = HashMap::new();
    let mut windows = Vec::new();
    for said in world.store.said() {
        match said.call.op {
            Op::Head => {
                asked.insert(said.call.key.clone(), said.sent);
            }
            Op::Delete => {
                windows.extend(asked.get(&said.call.key).map(|sent| said.answered - *sent));
            }
            _ => {}
        }
    }
    windows
}
