//! A door for fuzzers into the rooms that read what others write. Not part of a normal build: only
//! of tests, which replay `fuzz/corpus`, and of what `make fuzz` builds.
//!
//! Each function takes one input and panics where something that has to hold does not. They are
//! here and not in `fuzz/`, so that the rooms stay private.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

use crate::config::{self, VARIABLES};
use crate::event::{self, Notification, ObjectRef};

pub use crate::intake::fuzzing::webhook;
pub use crate::policy::fuzzing::rules;
pub use crate::scanner::fuzzing::{clamav_rest, clamd};
pub use crate::store::fuzzing::store_headers;

/// S3's own bounds, doubled or more: whatever is longer is no object of any store.
const MAX_KEY: usize = 16 * 1024;
const MAX_VERSION: usize = 1024;
const MAX_BUCKET: usize = 255;

/// The body of a message. What comes out can be asked for, a split message is split to the end, and
/// what is published about one object announces the same.
///
/// # Panics
/// When one of these does not hold.
pub fn event(body: &[u8]) {
    match event::parse(body) {
        Ok(Notification::Many(parts)) => {
            assert!(parts.len() > 1, "one record is no reason to split");
            for part in parts {
                single(&part);
            }
        }
        _ => single(body),
    }
}

fn single(body: &[u8]) {
    match event::parse(body) {
        Ok(Notification::Object(object)) => announced_again(body, &object),
        Ok(Notification::Unsettled { written, decoded }) => {
            assert_ne!(written.key, decoded, "one key is settled");
            announced_again(body, &written);
            announced_again(body, &ObjectRef { key: decoded, ..*written });
        }
        Ok(Notification::Many(_)) => panic!("a part that is to be split again"),
        Ok(Notification::Ignored | Notification::Marker(_)) | Err(_) => {}
    }
}

fn announced_again(body: &[u8], object: &ObjectRef) {
    askable(object);
    let again = event::parse(&event::exact(body, object, None));
    let Ok(Notification::Object(again)) = again else { panic!("{object:?} became {again:?}") };
    assert_eq!(*again, *object);
    let version = event::Version { id: "v".to_owned(), etag: Some("e".to_owned()), size: Some(1) };
    let below = event::parse(&event::exact(body, object, Some(&version)));
    let Ok(Notification::Object(below)) = below else { panic!("{object:?} became {below:?}") };
    let event::Version { id, etag, size } = version;
    let version_id = Some(id);
    let file = below.file.clone();
    let expected = ObjectRef { version_id, etag, size, file, uncovered: false, ..object.clone() };
    assert_eq!(*below, expected);
}

fn askable(object: &ObjectRef) {
    let ObjectRef { bucket, key, version_id, etag, .. } = object;
    assert!((1..=MAX_BUCKET).contains(&bucket.len()), "bucket {bucket:?}");
    assert!(!bucket.contains(['/', ':', '?', '#', '%']), "bucket {bucket:?}");
    assert!((1..=MAX_KEY).contains(&key.len()), "a key of {} bytes", key.len());
    if let Some(version) = version_id {
        assert!((1..=MAX_VERSION).contains(&version.len()), "{version:?}");
    }
    assert!(etag.as_ref().is_none_or(|etag| !etag.is_empty()), "an empty ETag is none");
}

/// Stands for a secret: found in an output, it was printed.
const MARK: &str = "Zq7-secret";

/// Lines `NAME=value` of an environment and, behind a NUL, a YAML file. Settings come out, or
/// problems, and neither shows a secret.
///
/// Names that end in `_FILE` get a file with the value as its content.
///
/// # Panics
/// When a secret is shown.
pub fn config(input: &[u8]) {
    thread_local! {
        static FOLDER: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
    }
    FOLDER.with_borrow_mut(|folder| {
        if folder.is_none() {
            *folder = tempfile::tempdir().ok();
        }
        if let Some(folder) = folder {
            config_in(folder.path(), input);
        }
    });
}

fn config_in(folder: &Path, input: &[u8]) {
    let cut = input.iter().position(|byte| *byte == 0);
    let (lines, yaml) = cut.map_or((input, None), |at| (&input[..at], Some(&input[at + 1..])));
    let mut env = HashMap::new();
    for line in String::from_utf8_lossy(lines).lines() {
        let Some((name, value)) = line.split_once('=') else { continue };
        let value = match name {
            "AVSCAN_CONFIG" => continue,
            name if name.ends_with("_FILE") => file(folder, name, value.as_bytes()),
            _ => value.to_owned(),
        };
        env.insert(name.to_owned(), value);
    }
    if let Some(yaml) = yaml {
        env.insert("AVSCAN_CONFIG".to_owned(), file(folder, "settings.yaml", yaml));
    }
    let loaded = load(&env);
    if input.windows(MARK.len()).any(|part| part == MARK.as_bytes()) {
        // It may stand where it is no secret.
        return;
    }
    // Once more with secrets that can be told when they are printed.
    let secrets = || VARIABLES.iter().filter(|variable| variable.secret).map(|v| v.name);
    for name in secrets() {
        let value = env.get(name).map_or_else(|| MARK.to_owned(), |now| format!("{now}{MARK}"));
        env.insert(name.to_owned(), value);
        env.remove(&format!("{name}_FILE"));
    }
    let told = load(&env);
    assert!(!told.contains(MARK), "a secret is shown in: {told}");
    // And in the file, if it is a table that takes more lines.
    let is_table = yaml.is_some_and(|_| !loaded.contains("is not a YAML table"));
    if let Some(yaml) = yaml.filter(|_| is_table) {
        let mut longer = yaml.to_vec();
        for name in secrets() {
            env.remove(name);
            longer.extend(format!("\n{name}: {MARK}\n").bytes());
        }
        file(folder, "settings.yaml", &longer);
        let told = load(&env);
        assert!(!told.contains(MARK), "a secret of the file is shown in: {told}");
    }
}

/// Everything that the daemon could show of a configuration.
fn load(env: &HashMap<String, String>) -> String {
    match config::load(env) {
        Ok(loaded) => format!("{loaded:?}"),
        Err(problems) => {
            let told = problems.to_string();
            assert!(!told.trim().is_empty(), "refused without a reason");
            told
        }
    }
}

fn file(folder: &Path, name: &str, content: &[u8]) -> String {
    let safe: String = name.chars().filter(char::is_ascii_alphanumeric).take(60).collect();
    let path = folder.join(safe);
    // A file that could not be written is one that is not there: a case as well.
    drop(fs::write(&path, content));
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every input that was ever worth keeping, among them each that once broke something.
    fn replay(target: &str, run: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        assert!(names.len() >= 10, "the corpus of {target} is there");
        for name in names {
            let input = fs::read(&name).unwrap();
            let held = std::panic::catch_unwind(|| run(&input));
            assert!(held.is_ok(), "{} breaks it, see above", name.display());
        }
    }

    #[test]
    fn the_corpus_of_notifications() {
        replay("event", event);
        let recorded = include_str!("../testing/fixtures/minio-events.jsonl");
        recorded.lines().for_each(|line| event(line.as_bytes()));
        for recorded in [
            include_str!("../testing/fixtures/ceph-events.jsonl"),
            include_str!("../testing/fixtures/rustfs-events.jsonl"),
            include_str!("../testing/fixtures/sns-messages.jsonl"),
            include_str!("../testing/fixtures/eventbridge-events.jsonl"),
            include_str!("../testing/fixtures/cloudevents.jsonl"),
            include_str!("../testing/fixtures/seaweedfs-events.jsonl"),
        ] {
            recorded.lines().for_each(|line| event(line.as_bytes()));
        }
        event(include_bytes!("../testing/fixtures/aws-event.json"));
    }

    #[test]
    fn the_corpus_of_replies_of_clamd() {
        replay("clamd", clamd);
    }

    #[test]
    fn the_corpus_of_answers_of_clamav_rest() {
        replay("clamav_rest", clamav_rest);
    }

    #[test]
    fn the_corpus_of_answers_of_a_store() {
        replay("store_headers", store_headers);
    }

    #[test]
    fn the_corpus_of_webhooks() {
        replay("webhook", webhook);
    }

    #[test]
    fn the_corpus_of_rules() {
        replay("rules", rules);
    }

    #[test]
    fn the_corpus_of_configurations() {
        replay("config", config);
    }
}
