//! A rule as written, and whether it is one.

use serde::Deserialize;
use strum::{EnumString, VariantNames};

use super::{Field, Kind, Place, Rule, ruled_reasons};
use crate::config::PolicySettings;
use crate::policy::Action;
use crate::policy::glob::Glob;

/// The longest key that S3 has.
const MAX_GLOB: usize = 1024;

/// A rule as written.
pub(super) struct Draft {
    pub(super) place: Place,
    pub(super) fields: Fields,
}

/// As they stand in the file. Texts, so that all that is wrong is found at once.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fields {
    #[serde(default, deserialize_with = "given")]
    bucket: Option<String>,
    #[serde(default, deserialize_with = "given")]
    key: Option<String>,
    #[serde(default, deserialize_with = "given")]
    signature: Option<String>,
    #[serde(default, deserialize_with = "given")]
    reason: Option<String>,
    #[serde(default, deserialize_with = "given")]
    infected: Option<String>,
    #[serde(default, deserialize_with = "given")]
    unscannable: Option<String>,
}

/// A field that is there has a text: an empty one must not count as none, and widen the rule.
fn given<'de, D: serde::Deserializer<'de>>(yaml: D) -> Result<Option<String>, D::Error> {
    String::deserialize(yaml).map(Some)
}

/// An action, by the name in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, VariantNames)]
#[strum(serialize_all = "snake_case")]
enum Word {
    No,
    Tag,
    Quarantine,
    Delete,
}

impl Word {
    /// The action, where the settings have what it needs.
    fn available(self, kind: Kind, settings: &PolicySettings) -> Result<Action, &'static str> {
        match (self, kind) {
            (Self::No, _) => Ok(Action::No),
            (Self::Tag, _) if settings.tag_files => Ok(Action::Tag),
            (Self::Tag, _) => Err("needs TAG_FILES=true"),
            (Self::Quarantine, _) if settings.quarantine_bucket.is_some() => Ok(Action::Quarantine),
            (Self::Quarantine, _) => Err("needs QUARANTINE_BUCKET"),
            (Self::Delete, Kind::Infected) => Ok(Action::Delete),
            (Self::Delete, Kind::Unscannable) => {
                Err("is not for what could not be scanned: a fault must cost nobody a file")
            }
        }
    }
}

impl Draft {
    /// The rule.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub(super) fn check(&self, settings: &PolicySettings) -> Result<Rule, Vec<String>> {
        let Fields { bucket, key, signature, reason, infected, unscannable } = &self.fields;
        let mut wrong = Vec::new();
        if infected.is_none() && unscannable.is_none() {
            wrong.push("needs an action: infected, unscannable, or both".to_owned());
        }
        if signature.is_some() && reason.is_some() {
            wrong.push(
                "has signature, which only infected objects have, and reason, which only \
                 unscannable ones have: it would never match"
                    .to_owned(),
            );
        } else if signature.is_some() && unscannable.is_some() {
            wrong.push(never_together(Field::Signature, Kind::Unscannable));
        } else if reason.is_some() && infected.is_some() {
            wrong.push(never_together(Field::Reason, Kind::Infected));
        }
        let mut glob = |field: Field, text: Option<&str>| {
            let text = text?;
            if !(1..=MAX_GLOB).contains(&text.chars().count()) {
                wrong.push(format!("{field} must have 1 to {MAX_GLOB} characters"));
            }
            Some(Glob::new(text))
        };
        let bucket = glob(Field::Bucket, bucket.as_deref());
        let key = glob(Field::Key, key.as_deref());
        let signature = glob(Field::Signature, signature.as_deref());
        let reason = glob(Field::Reason, reason.as_deref());
        if let Some(glob) = &reason
            && !ruled_reasons().any(|reason| glob.matches(reason.into_str()))
        {
            let known: Vec<&str> = ruled_reasons().map(|reason| reason.into_str()).collect();
            wrong.push(format!("reason matches none of {}", known.join(", ")));
        }
        let mut action = |kind: Kind, text: Option<&str>| {
            let text = text?;
            let Ok(word) = text.parse::<Word>() else {
                wrong.push(format!("{kind} must be one of {}", Word::VARIANTS.join(", ")));
                return None;
            };
            let available = word.available(kind, settings);
            available.map_err(|why| wrong.push(format!("{kind}: {text} {why}"))).ok()
        };
        let infected = action(Kind::Infected, infected.as_deref());
        let unscannable = action(Kind::Unscannable, unscannable.as_deref());
        if !wrong.is_empty() {
            return Err(wrong);
        }
        Ok(Rule { place: self.place, bucket, key, signature, reason, infected, unscannable })
    }
}

fn never_together(field: Field, kind: Kind) -> String {
    format!("{field} is not known of {kind} objects: give {kind} a rule of its own")
}
