//! Instructions of the daemon for one object, counted by callgrind. They are the same on a busy
//! machine as on an idle one, so that they can be compared with those of another commit.
//!
//! The whole daemon is counted, from the notification to its acknowledgement: parsing the event,
//! requests and answers of the store, hashing, the engine's protocol. Two drains of different
//! lengths are subtracted, so that the instructions of start and end cancel out.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use peers::error::{Context, Result};
use serde::{Deserialize, Serialize};
use stack::process::{Spec, which};
use stack::{Stack, place, say};

use crate::drain::Check;
use crate::machine;
use crate::rig::{Engine, Rig, Settings};
use crate::sets::{MIB, Object, SETS, Set};
use crate::stats::as_f64;

/// Relative to the checkout.
const FILE: &str = "testing/fixtures/instructions.json";

/// What is counted: a name, an index into [`crate::sets::SETS`], the engine, and the lengths of the
/// two drains.
const COUNTED: [(&str, usize, Engine, [usize; 2]); 3] = [
    ("10 KiB, clamd", 1, Engine::Clamd, [10, 40]),
    ("10 KiB, clamav-rest", 1, Engine::ClamavRest, [10, 40]),
    ("1 MiB, clamd", 2, Engine::Clamd, [4, 16]),
];

/// The content of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    /// Processor, compiler and valgrind: the counts depend on them.
    counted_with: String,
    /// A larger increase than this is a regression.
    tolerance_percent: f64,
    /// For one object.
    instructions: BTreeMap<String, f64>,
}

/// Counts, and compares the counts with the file or writes them into it.
///
/// # Errors
/// When valgrind is missing, an object ends in the wrong state, or there is no file yet.
pub(super) async fn run(stack: &Stack, binary: &Path, bless: bool) -> Result<ExitCode> {
    let wrapper = wrapper(stack, binary)?;
    let mut rig = Rig::start(stack, &wrapper, MIB).await?;
    let mut counted = BTreeMap::new();
    for (name, set, engine, lengths) in COUNTED {
        let set = Set { stored: lengths[1], ..SETS[set] };
        let objects = rig.store(&set).await?;
        let mut totals = Vec::new();
        for length in lengths {
            totals.push(count(&mut rig, &objects[..length], engine).await.context(name)?);
        }
        let each = ((totals[1] - totals[0]) / as_f64(lengths[1] - lengths[0])).round();
        say!("[bench] {name}: {:.2} million instructions for an object", each / 1e6);
        counted.insert(name.to_owned(), each);
    }
    let file = place::checkout().join(FILE);
    if bless {
        let counted_with = means();
        let written = Written { counted_with, tolerance_percent: 5.0, instructions: counted };
        let text = serde_json::to_string_pretty(&written).context("instructions")? + "\n";
        fs::write(&file, text).context(file.display())?;
        say!("[bench] {}", file.display());
        return Ok(ExitCode::SUCCESS);
    }
    let text = fs::read(&file).context(file.display())?;
    let written: Written = serde_json::from_slice(&text).context(file.display())?;
    let here = means();
    if written.counted_with != here {
        say!(
            "[bench] not compared: {FILE} was counted with {}, but this run with {here}",
            written.counted_with
        );
        return Ok(ExitCode::SUCCESS);
    }
    Ok(compare(&counted, &written))
}

/// What the counts depend on, besides the daemon.
fn means() -> String {
    let version = |program: &str| {
        let spec = which(program).map(|path| Spec::new(path, Path::new("/")).arg("--version"));
        let output = spec.and_then(|spec| spec.command().output().ok());
        let text = output.map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&text).trim().to_owned()
    };
    let [rustc, valgrind] = ["rustc", "valgrind"].map(version);
    format!("{}, {rustc}, {valgrind}", machine::cpu())
}

fn compare(counted: &BTreeMap<String, f64>, written: &Written) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for (name, now) in counted {
        let Some(then) = written.instructions.get(name) else {
            say!("[bench] {name} is not in {FILE}");
            code = ExitCode::FAILURE;
            continue;
        };
        let change = (now / then - 1.0) * 100.0;
        let tolerance = written.tolerance_percent;
        let verdict = if change > tolerance {
            code = ExitCode::FAILURE;
            "A REGRESSION"
        } else if change < -tolerance {
            "better: write it down (BLESS=1)"
        } else {
            "fine"
        };
        say!("[bench] {name}: {change:+.1} % against {FILE}: {verdict}");
    }
    code
}

/// Writes a script that runs the daemon under callgrind.
fn wrapper(stack: &Stack, binary: &Path) -> Result<std::path::PathBuf> {
    let valgrind = which("valgrind").context("valgrind is missing")?;
    let file = stack.dir().join("counted");
    let script = format!(
        "#!/bin/sh\nexec '{}' --tool=callgrind --callgrind-out-file=/dev/null '{}'\n",
        valgrind.display(),
        binary.display()
    );
    fs::write(&file, script).context(file.display())?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).context(file.display())?;
    Ok(file)
}

/// Instructions of a whole drain with one slot.
async fn count(rig: &mut Rig, objects: &[Object], engine: Engine) -> Result<f64> {
    let chosen: Vec<&Object> = objects.iter().collect();
    let settings = Settings::new(engine, 1, MIB);
    rig.drain(&chosen, &settings, Check::All).await?;
    let output = rig.daemon.output();
    let line = output.lines().rev().find_map(|line| line.split_once("Collected : "));
    let (_, number) = line.context("no count from callgrind")?;
    number.trim().parse().context("callgrind")
}
