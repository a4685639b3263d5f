//! Where settings come from: built-in defaults, the YAML file, the environment, secret files.
//! Later ones win. What comes out is text by variable name; its meaning is not known here.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use config::{Config, Environment, File, FileFormat, ValueKind};

use super::variables::{ORIGINAL_KEYS, VARIABLES};
use super::{Problem, Problems};

/// The YAML file that is read when it exists and `AVSCAN_CONFIG` names no other.
pub(super) const DEFAULT_FILE: &str = "/opt/av-scan/av-scan.conf";

/// Settings as text, by variable name, and what the operator should know about them.
#[derive(Default)]
pub(super) struct Texts {
    pub(super) values: BTreeMap<&'static str, String>,
    pub(super) warnings: Vec<String>,
}

/// Merges all sources. Problems are collected, not returned at the first.
pub(super) fn read(env: &HashMap<String, String>, problems: &mut Problems) -> Texts {
    let mut texts = Texts::default();
    for variable in VARIABLES {
        if let Some(default) = variable.default {
            texts.values.insert(variable.name, default.to_owned());
        }
    }
    match env.get("AVSCAN_CONFIG").filter(|path| !path.is_empty()) {
        Some(path) => read_file(Path::new(path), &mut texts, problems),
        None if Path::new(DEFAULT_FILE).exists() => {
            read_file(Path::new(DEFAULT_FILE), &mut texts, problems);
        }
        None => {}
    }
    read_env(env, &mut texts, problems);
    texts
}

fn read_file(path: &Path, texts: &mut Texts, problems: &mut Problems) {
    let path_text = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            return problems.push(Problem::new(path_text, format!("cannot be read: {error}")));
        }
    };
    // The parser's message is left out: it may quote the line, and the line may hold a secret.
    let Ok(file) = Config::builder().add_source(File::from_str(&text, FileFormat::Yaml)).build()
    else {
        return problems.push(Problem::new(path_text, "is not a YAML table of settings"));
    };
    let Ok(table) = file.try_deserialize::<BTreeMap<String, config::Value>>() else {
        return problems.push(Problem::new(path_text, "is not a YAML table of settings"));
    };
    for (key, value) in table {
        let original = ORIGINAL_KEYS.iter().find(|(theirs, _)| *theirs == key);
        let name = original.map_or(key.as_str(), |(_, ours)| ours);
        let Some(variable) = VARIABLES.iter().find(|v| v.name.eq_ignore_ascii_case(name)) else {
            problems.push(Problem::new(format!("{key} in {path_text}"), "is not a known setting"));
            continue;
        };
        if let Some((theirs, ours)) = original {
            texts.warnings.push(format!("{path_text}: the key {theirs} is now called {ours}"));
        }
        // YAML reads 00123 as 123 and 1e5 as 100000. That is right for numbers and would
        // silently change a password, so text must be written as text.
        let numeric = variable.default.is_some_and(|d| d.parse::<u64>().is_ok())
            || variable.name.ends_with("_PORT")
            || variable.name == "SPOOL_SIZE";
        let text = match value.kind {
            ValueKind::Nil => continue,
            ValueKind::String(text) if text.is_empty() => continue,
            ValueKind::String(text) => text,
            ValueKind::Boolean(flag) => flag.to_string(),
            ValueKind::I64(number) if numeric => number.to_string(),
            ValueKind::U64(number) if numeric => number.to_string(),
            ValueKind::Table(_) | ValueKind::Array(_) => {
                problems.push(Problem::new(format!("{key} in {path_text}"), "must be one value"));
                continue;
            }
            _ => {
                let problem = "must be written in quotes, or YAML changes it as a number";
                problems.push(Problem::new(format!("{key} in {path_text}"), problem));
                continue;
            }
        };
        texts.values.insert(variable.name, text);
    }
}

fn read_env(env: &HashMap<String, String>, texts: &mut Texts, problems: &mut Problems) {
    let known = |name: &str| VARIABLES.iter().any(|v| v.name == name);
    let ours: HashMap<String, String> =
        env.iter().filter(|(k, _)| known(k)).map(|(k, v)| (k.clone(), v.clone())).collect();
    let merged = Config::builder()
        .add_source(Environment::default().source(Some(ours)).ignore_empty(true))
        .build()
        .and_then(Config::try_deserialize::<BTreeMap<String, String>>);
    let Ok(merged) = merged else {
        return problems.push(Problem::new("the environment", "cannot be read"));
    };
    for variable in VARIABLES {
        let direct = merged.get(&variable.name.to_lowercase());
        if let Some(text) = direct {
            texts.values.insert(variable.name, text.clone());
        }
        if !variable.secret {
            continue;
        }
        let by_file = format!("{}_FILE", variable.name);
        let Some(path) = env.get(&by_file).filter(|path| !path.is_empty()) else {
            continue;
        };
        if direct.is_some() {
            let problem = format!("is set, and {by_file} too: keep one");
            problems.push(Problem::new(variable.name, problem));
            continue;
        }
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let text = text.strip_suffix('\n').unwrap_or(&text);
                let text = text.strip_suffix('\r').unwrap_or(text);
                if text.is_empty() {
                    problems.push(Problem::new(by_file, format!("names an empty file: {path}")));
                } else {
                    texts.values.insert(variable.name, text.to_owned());
                }
            }
            Err(error) => {
                problems.push(Problem::new(by_file, format!("{path} cannot be read: {error}")));
            }
        }
    }
}
