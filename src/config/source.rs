//! Merges the sources of settings: built-in defaults, the YAML file, the environment, secret files.
//! Later ones win. The result is text by variable name, not yet interpreted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use config::{Config, Environment, File, FileFormat, ValueKind};

use super::variables::{ORIGINAL_KEYS, VARIABLES};
use super::{Problem, Problems, secret};

/// The one setting that has a default and can be switched off, which an empty value does.
const MAY_BE_EMPTY: &str = "STATUS_ADDR";

/// The YAML file that is read when it exists and `AVSCAN_CONFIG` names no other.
pub(super) const DEFAULT_FILE: &str = "/opt/av-scan/av-scan.conf";

/// Settings as text, by variable name, and warnings about them.
#[derive(Default)]
pub(super) struct Texts {
    pub(super) values: BTreeMap<&'static str, String>,
    /// Those that do not rest on a default.
    pub(super) given: BTreeSet<&'static str>,
    /// The files that secrets were read from.
    pub(super) files: BTreeMap<&'static str, PathBuf>,
    pub(super) warnings: Vec<String>,
}

impl Texts {
    fn give(&mut self, name: &'static str, text: String) {
        self.values.insert(name, text);
        self.given.insert(name);
    }
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
    // Without the parser's message: it may quote a line that holds a secret.
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
        // YAML reads 00123 as 123 and 1e5 as 100000. That would silently change a password, so only
        // numeric settings may be written as numbers.
        let numeric = variable.default.is_some_and(|d| d.parse::<u64>().is_ok())
            || variable.name.ends_with("_PORT")
            || variable.name == "SPOOL_SIZE";
        let text = match value.kind {
            ValueKind::Nil => continue,
            ValueKind::String(text) if text.is_empty() && variable.name != MAY_BE_EMPTY => continue,
            ValueKind::String(text) => text,
            ValueKind::Boolean(flag) => flag.to_string(),
            ValueKind::I64(number) if numeric => number.to_string(),
            ValueKind::U64(number) if numeric => number.to_string(),
            ValueKind::Table(_) | ValueKind::Array(_) => {
                problems.push(Problem::new(format!("{key} in {path_text}"), "must be one value"));
                continue;
            }
            _ => {
                let problem = "must be written in quotes, or YAML reads it as a number";
                problems.push(Problem::new(format!("{key} in {path_text}"), problem));
                continue;
            }
        };
        texts.give(variable.name, text);
    }
}

fn read_env(env: &HashMap<String, String>, texts: &mut Texts, problems: &mut Problems) {
    let mut ours: HashMap<String, String> = VARIABLES
        .iter()
        .filter_map(|v| Some((v.name.to_owned(), env.get(v.name)?.clone())))
        .collect();
    for variable in VARIABLES {
        if ours.get(variable.name).is_some_and(|text| is_service_link(variable.name, text)) {
            ours.remove(variable.name);
            texts.warnings.push(format!(
                "{} is ignored: Kubernetes set it for a Service of that name; set \
                 enableServiceLinks: false in the pod's specification",
                variable.name
            ));
        }
    }
    let merged = Config::builder()
        .add_source(Environment::default().source(Some(ours)).ignore_empty(true))
        .build()
        .and_then(Config::try_deserialize::<BTreeMap<String, String>>);
    let Ok(merged) = merged else {
        return problems.push(Problem::new("the environment", "cannot be read"));
    };
    if env.get(MAY_BE_EMPTY).is_some_and(String::is_empty) {
        texts.give(MAY_BE_EMPTY, String::new());
    }
    for variable in VARIABLES {
        let direct = merged.get(&variable.name.to_lowercase());
        if let Some(text) = direct {
            texts.give(variable.name, text.clone());
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
        match secret::read(Path::new(path)) {
            Ok(text) if text.is_empty() => {
                problems.push(Problem::new(by_file, format!("names an empty file: {path}")));
            }
            Ok(text) => {
                texts.give(variable.name, text);
                texts.files.insert(variable.name, path.into());
            }
            Err(error) => {
                problems.push(Problem::new(by_file, format!("{path} cannot be read: {error}")));
            }
        }
    }
}

/// Whether Kubernetes set the variable: for each Service of the namespace it sets
/// `NAME_PORT=tcp://10.0.0.7:5672` in every pod, so a Service `rabbitmq` or `clamd` sets one of
/// ours.
/// Source: <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>
fn is_service_link(name: &str, text: &str) -> bool {
    let Some((scheme, address)) = text.split_once("://") else { return false };
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let host_is_address = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse::<Ipv6Addr>().is_ok(),
        None => host.parse::<Ipv4Addr>().is_ok(),
    };
    name.ends_with("_PORT")
        && matches!(scheme, "tcp" | "udp" | "sctp")
        && host_is_address
        && port.parse::<u16>().is_ok()
}
