//! What is in the quarantine bucket: for each object that was moved exactly one whole copy with its
//! record, for each report of a move the copy that it names, and nothing else.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures_util::{StreamExt, TryStreamExt, stream};
use peers::error::{Context, Result};
use serde_json::Value;
use stack::S3;

use super::settle::{CONCURRENCY, TAG};
use crate::ledger::{METADATA, USER_TAG, Upload};
use crate::samples::Fate;

const RECORD: &str = ".json";
/// What a restore that was killed in its trial of `If-None-Match` leaves.
const TRIAL: &str = "avscan-restore-";

/// A copy and the record beside it.
#[derive(Debug, Default)]
struct Kept {
    name: String,
    record: Value,
    sha256: String,
    metadata: HashMap<String, String>,
    tags: BTreeMap<String, String>,
}

/// What is wrong.
pub(super) async fn wrongs(
    bucket: &S3,
    uploads: &[Upload],
    reports: &[Value],
) -> Result<Vec<String>> {
    let names = bucket.list().await?.into_iter().map(|entry| entry.key);
    let names: HashSet<String> = names.filter(|name| !name.starts_with(TRIAL)).collect();
    let (records, copies): (Vec<&String>, Vec<&String>) =
        names.iter().partition(|name| name.ends_with(RECORD));
    let mut wrongs: Vec<String> = records
        .iter()
        .filter(|name| !names.contains(name.trim_end_matches(RECORD)))
        .map(|name| format!("{name}: a record without a copy"))
        .collect();
    let kept: Vec<Kept> = stream::iter(copies.into_iter().map(|name| read(bucket, name)))
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await?;
    for kept in &kept {
        let upload = uploads.iter().find(|upload| kept.is_of(upload));
        wrongs.extend(match upload {
            Some(upload) => {
                let tags: Vec<_> = sharing(upload, uploads).map(users_tags).collect();
                kept.differs(upload, &tags)
            }
            None => Some(format!("{}: a copy of nothing that was uploaded", kept.name)),
        });
    }
    let is_held = |upload: &&Upload| upload.fate == Fate::Infected && !upload.parks && !upload.over;
    for upload in uploads.iter().filter(is_held) {
        let of_it: Vec<&Kept> = kept.iter().filter(|kept| kept.is_of(upload)).collect();
        if of_it.len() != usize::from(!upload.restored) {
            wrongs.push(format!("{}: {} copies in quarantine", upload.key, of_it.len()));
        }
        let is_named = |kept: &&Kept| reports.iter().any(|report| kept.is_named_by(report));
        if !of_it.iter().all(is_named) {
            wrongs.push(format!("{}: no report names its copy", upload.key));
        }
    }
    for report in reports.iter().filter(|report| report["action"] == "quarantine") {
        let is_there = kept.iter().any(|kept| kept.is_named_by(report));
        let name = &report["quarantine_key"];
        match (is_there, uploads.iter().any(|upload| upload.restored && is_about(report, upload))) {
            (false, false) => {
                wrongs.push(format!("{}: reported as moved, {name} is not there", report["key"]));
            }
            (true, true) => {
                wrongs.push(format!("{}: restored, and {name} is still there", report["key"]));
            }
            _ => {}
        }
    }
    Ok(wrongs)
}

/// The uploads whose tags it may have: without versions, an older one under its name as well. The tags
/// that the daemon merged for that one may land on it (a documented window).
fn sharing<'a>(upload: &'a Upload, uploads: &'a [Upload]) -> impl Iterator<Item = &'a Upload> {
    uploads.iter().filter(move |other| {
        other.sha256 == upload.sha256
            || other.key == upload.key
                && other.real_version().is_none()
                && upload.real_version().is_none()
    })
}

fn users_tags(upload: &Upload) -> BTreeMap<String, String> {
    let tag = upload.user_tag.then(|| (USER_TAG.0.to_owned(), USER_TAG.1.to_owned()));
    tag.into_iter().collect()
}

fn is_about(report: &Value, upload: &Upload) -> bool {
    report["key"] == upload.key.as_str() && report["sha256"] == upload.sha256.as_str()
}

async fn read(bucket: &S3, name: &str) -> Result<Kept> {
    let record = bucket.get(&format!("{name}{RECORD}")).await?.unwrap_or_default();
    let head = bucket.client.head_object().bucket(&bucket.bucket).key(name).send().await;
    Ok(Kept {
        name: name.to_owned(),
        record: serde_json::from_slice(&record).unwrap_or_default(),
        sha256: bucket.sha256(name).await?.unwrap_or_default(),
        metadata: head.context(format!("head {name}"))?.metadata.unwrap_or_default(),
        tags: bucket.tags(name).await?.unwrap_or_default(),
    })
}

impl Kept {
    /// Whether it is, by its record, a copy of this upload.
    fn is_of(&self, upload: &Upload) -> bool {
        self.record["key"] == upload.key.as_str()
            && self.record["etag"] == upload.etag.as_str()
            && self.record["version_id"].as_str() == upload.real_version()
    }

    fn is_named_by(&self, report: &Value) -> bool {
        report["action"] == "quarantine"
            && report["quarantine_key"] == self.name.as_str()
            && report["key"] == self.record["key"]
            && report["sha256"] == self.record["sha256"]
    }

    /// What is not as it was uploaded; `users`: the sets of tags that it may have.
    fn differs(&self, upload: &Upload, users: &[BTreeMap<String, String>]) -> Option<String> {
        let mut tags = self.tags.clone();
        // The store copies the daemon's tags along, where an earlier attempt has set them.
        tags.retain(|key, _| !key.starts_with(TAG));
        let recorded: BTreeMap<String, String> = self.record["tags"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|tag| {
                ["key", "value"].map(|name| tag[name].as_str().unwrap_or_default().to_owned())
            })
            .map(|[key, value]| (key, value))
            .collect();
        let header = format!("x-amz-meta-{METADATA}");
        let mut headers = self.record["headers"].as_array().into_iter().flatten();
        let what = if upload.fate != Fate::Infected {
            "nothing that is infected".to_owned()
        } else if self.sha256 != upload.sha256 || self.record["sha256"] != upload.sha256.as_str() {
            "other bytes".to_owned()
        } else if self.metadata.get(METADATA) != Some(&upload.sha256) {
            format!("other metadata: {:?}", self.metadata)
        } else if !users.contains(&tags) {
            format!("the tags {tags:?} instead of {users:?}")
        } else if !users.contains(&recorded) {
            format!("the tags {recorded:?} in its record instead of {users:?}")
        } else if !headers
            .any(|one| one["name"] == header.as_str() && one["value"] == upload.sha256.as_str())
        {
            format!("other headers in its record: {}", self.record["headers"])
        } else {
            return None;
        };
        Some(format!("{}: {} has {what}", upload.key, self.name))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn upload() -> Upload {
        Upload {
            key: "k".to_owned(),
            version: None,
            etag: "e".to_owned(),
            sha256: "s".to_owned(),
            fate: Fate::Infected,
            user_tag: true,
            over: false,
            parks: false,
            in_window: false,
            restored: false,
        }
    }

    fn kept() -> Kept {
        let tag = (USER_TAG.0.to_owned(), USER_TAG.1.to_owned());
        Kept {
            name: "n".to_owned(),
            record: json!({
                "key": "k", "etag": "e", "version_id": null, "sha256": "s",
                "tags": [{ "key": tag.0, "value": tag.1 }],
                "headers": [{ "name": "x-amz-meta-sample", "value": "s" }],
            }),
            sha256: "s".to_owned(),
            metadata: [(METADATA.to_owned(), "s".to_owned())].into(),
            tags: [tag, (TAG.to_owned(), "infected".to_owned())].into(),
        }
    }

    #[test]
    fn each_difference_is_found() {
        let users = [users_tags(&upload())];
        assert!(kept().is_of(&upload()));
        assert_eq!(kept().differs(&upload(), &users), None);
        let losses: [fn(&mut Kept); 6] = [
            |kept| kept.sha256.clear(),
            |kept| kept.record["sha256"] = "t".into(),
            |kept| kept.metadata.clear(),
            |kept| kept.tags.clear(),
            |kept| kept.record["tags"] = json!([]),
            |kept| kept.record["headers"] = json!([]),
        ];
        for alter in losses {
            let mut other = kept();
            alter(&mut other);
            assert!(other.differs(&upload(), &users).is_some(), "{other:?}");
        }
        let clean = Upload { fate: Fate::Clean, ..upload() };
        assert!(kept().differs(&clean, &users).is_some());
    }

    #[test]
    fn only_where_there_are_no_versions_another_upload_lends_its_tags() {
        let plain = Upload { sha256: "t".to_owned(), user_tag: false, ..upload() };
        let uploads = [upload(), plain.clone()];
        assert_eq!(sharing(&plain, &uploads).count(), 2);
        let versions = uploads.map(|one| Upload { version: Some(one.sha256.clone()), ..one });
        assert_eq!(sharing(&versions[1], &versions).count(), 1);
    }

    #[test]
    fn a_report_names_the_copy_of_its_bytes() {
        let report = json!({
            "action": "quarantine", "quarantine_key": "n", "key": "k", "sha256": "s",
        });
        assert!(kept().is_named_by(&report));
        for (name, other) in
            [("action", "delete"), ("quarantine_key", "m"), ("key", "l"), ("sha256", "t")]
        {
            let mut wrong = report.clone();
            wrong[name] = other.into();
            assert!(!kept().is_named_by(&wrong), "{name}");
        }
    }
}
