//! The file of rules, as text: what it says is the matter of `policy`.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use super::reader::Reader;
use super::{PolicySettings, Problems, source};

/// A list that people keep in their heads is far shorter.
const MAX_BYTES: u64 = 64 * 1024;

/// The text of `RULES_FILE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RulesText {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// What decides on the action that follows from a verdict.
#[derive(Debug, Clone)]
pub struct Ruling {
    pub(crate) policy: PolicySettings,
    pub(crate) rules: Option<RulesText>,
}

/// Reads what decides on actions: such a command must not fail for a setting that only the daemon
/// needs.
///
/// # Errors
/// Every problem, not just the first.
#[expect(clippy::implicit_hasher, reason = "the environment is collected once, in main")]
pub fn ruling(env: &HashMap<String, String>) -> Result<Ruling, Problems> {
    let mut problems = Problems::default();
    let texts = source::read(env, &mut problems);
    let mut reader = Reader { texts: &texts, env, problems };
    let (policy, rules) = (reader.policy(), reader.rules());
    match (policy, rules) {
        (Some(policy), Some(rules)) if reader.problems.0.is_empty() => Ok(Ruling { policy, rules }),
        _ => Err(reader.problems),
    }
}

impl Reader<'_> {
    /// The outer `None` is a problem; the inner one means that there are no rules.
    #[expect(clippy::option_option, reason = "see above")]
    pub(super) fn rules(&mut self) -> Option<Option<RulesText>> {
        let Some(path) = self.optional("RULES_FILE").map(PathBuf::from) else {
            return Some(None);
        };
        let mut bytes = Vec::new();
        let read =
            File::open(&path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
        if let Err(error) = read {
            let complaint = format!("names {}, which cannot be read: {error}", path.display());
            self.problem("RULES_FILE", &complaint);
            return None;
        }
        if bytes.len() as u64 > MAX_BYTES {
            self.problem("RULES_FILE", &format!("must be at most {} KiB", MAX_BYTES >> 10));
            return None;
        }
        match String::from_utf8(bytes) {
            Ok(text) => Some(Some(RulesText { path, text })),
            Err(_) => {
                self.problem("RULES_FILE", "must be UTF-8");
                None
            }
        }
    }
}
