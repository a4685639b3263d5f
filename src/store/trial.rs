//! What `check --write` finds out by writing an object of its own, which it removes again.

use aws_sdk_s3::config::Config;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::delete_object::{DeleteObjectError, DeleteObjectOutput};
use aws_sdk_s3::operation::head_object::{HeadObjectError, HeadObjectOutput};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{BucketVersioningStatus, Tag, Tagging};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use tokio_util::sync::CancellationToken;

use super::Store;
use super::identity::NULL;
use super::survey::{Finding, brief, no_tags, status};
use crate::config::PolicySettings;
use crate::event::plain_etag;

/// How the keys of trial objects begin.
const TRIAL_PREFIX: &str = ".avscan-check-";
const TRIAL_BODY: &[u8] = b"Written by bucket-av-scanner check, which removes it again.\n";
const TRIAL_TAG: (&str, &str) = ("avscan-check", "written");
/// An `ETag` that the trial object does not have.
const WRONG_ETAG: &str = "\"00000000000000000000000000000000\"";
/// Tries to remove what is under the name of the trial object, each for what the last one
/// uncovered.
const MAX_REMOVALS: u32 = 3;

impl Store {
    /// A unique key for [`try_out`](Self::try_out).
    pub(crate) fn trial_key() -> String {
        format!("{TRIAL_PREFIX}{}", uuid::Uuid::new_v4().simple())
    }

    /// Writes a small object under `key`, finds out what the store supports, and always removes the
    /// object. `stop` ends it early, between two requests.
    pub(crate) async fn try_out(
        &self,
        bucket: &str,
        key: &str,
        policy: &PolicySettings,
        stop: &CancellationToken,
    ) -> Vec<Finding> {
        let mut trial =
            Trial { store: self, bucket, key, versions: Vec::new(), findings: Vec::new() };
        let mut written = false;
        let finished = trial.run(policy, stop, &mut written).await.is_some();
        if stop.is_cancelled() && !finished {
            trial.findings.push(Finding::missing("stopped before the end"));
        }
        if written {
            let removed = trial.remove().await;
            trial.findings.push(removed);
        }
        trial.findings
    }
}

/// One trial object and what was found out with it.
struct Trial<'a> {
    store: &'a Store,
    bucket: &'a str,
    key: &'a str,
    /// The created versions and delete markers that the store named.
    versions: Vec<String>,
    findings: Vec<Finding>,
}

impl Trial<'_> {
    /// `None` if it ended early; a finding then says why. Sets `written` if an object may be there.
    async fn run(
        &mut self,
        policy: &PolicySettings,
        stop: &CancellationToken,
        written: &mut bool,
    ) -> Option<()> {
        let goes_on = || (!stop.is_cancelled()).then_some(());
        goes_on()?;
        self.write(written).await?;
        let versioned = !self.versions.is_empty();
        goes_on()?;
        self.tell_versions(versioned).await;
        goes_on()?;
        if let Some(etag) = self.read(versioned).await {
            goes_on()?;
            self.compare_head(etag.as_deref(), versioned).await;
        }
        goes_on()?;
        self.tag(policy).await;
        goes_on()?;
        self.delete_other_bytes(policy, versioned).await;
        Some(())
    }

    async fn write(&mut self, written: &mut bool) -> Option<()> {
        let put = self.store.client.put_object().bucket(self.bucket).key(self.key);
        let put = put.body(ByteStream::from_static(TRIAL_BODY)).send().await;
        // A request that was not answered may have been carried out.
        *written = !put.as_ref().is_err_and(|e| status(e).is_some_and(|s| (400..500).contains(&s)));
        match put {
            Ok(answer) => {
                self.remember(answer.version_id());
                Some(())
            }
            Err(error) => {
                let text = format!("an object cannot be written: {}", brief(&error));
                self.findings.push(Finding::missing(text));
                None
            }
        }
    }

    /// Remembers a version to be removed. `null` is removed with the name.
    fn remember(&mut self, version: Option<&str>) {
        let real = version.filter(|version| !matches!(*version, "" | NULL));
        self.versions.extend(real.map(str::to_owned));
    }

    async fn tell_versions(&mut self, versioned: bool) {
        let answer = self.store.client.get_bucket_versioning().bucket(self.bucket).send().await;
        let set = answer.ok().and_then(|answer| answer.status);
        self.findings.push(match (versioned, set) {
            (true, _) => Finding::good("versions are on: tags and deletions name the scanned one"),
            (false, Some(BucketVersioningStatus::Enabled)) => Finding::missing(
                "versions are on, but a PUT is not answered with a version id: a proxy may remove \
                 x-amz-version-id",
            ),
            (false, Some(BucketVersioningStatus::Suspended)) => Finding::note(
                "versions are suspended: new objects are told apart by their ETag, as without \
                 versions",
            ),
            (false, _) => Finding::note("versions are off: objects are told apart by their ETag"),
        });
    }

    /// Reads the object back. `None` if the GET fails, else its `ETag`, if there is one.
    async fn read(&mut self, versioned: bool) -> Option<Option<String>> {
        let got = self.store.client.get_object().bucket(self.bucket).key(self.key).send().await;
        let answer = match got {
            Ok(answer) => answer,
            Err(error) => {
                let text = format!("the object cannot be read: {}", brief(&error));
                self.findings.push(Finding::missing(text));
                return None;
            }
        };
        let etag =
            answer.e_tag().map(plain_etag).filter(|etag| !etag.is_empty()).map(str::to_owned);
        let named = versioned == answer.version_id().is_some_and(|id| !matches!(id, "" | NULL));
        let length = answer.content_length();
        let body = answer.body.collect().await.map(aws_sdk_s3::primitives::AggregatedBytes::to_vec);
        self.findings.push(match body {
            Err(error) => Finding::missing(format!("the object cannot be read: {error}")),
            Ok(body) if body != TRIAL_BODY => Finding::missing(
                "a GET returns other bytes than were written: nothing can be trusted",
            ),
            Ok(_) if length.is_none() => Finding::missing(
                "a GET sends no Content-Length: no object can be scanned, as none is known to be \
                 whole",
            ),
            Ok(_) if !named => Finding::missing(
                "a GET does not name the version that the PUT made: a proxy may remove \
                 x-amz-version-id",
            ),
            Ok(_) if etag.is_none() && !versioned => Finding::missing(
                "a GET sends neither version id nor ETag: nothing can be tagged or deleted",
            ),
            Ok(_) => Finding::good("an object can be written, and read back whole"),
        });
        Some(etag)
    }

    /// Compares HEAD with the GET.
    async fn compare_head(&mut self, etag: Option<&str>, versioned: bool) {
        let head = match self.head(None).await {
            Ok(head) => head,
            Err(error) => {
                let text = format!("HEAD of the object fails: {}", brief(&error));
                self.findings.push(Finding::missing(text));
                return;
            }
        };
        let seen = head.e_tag().map(plain_etag);
        self.findings.push(match (head.content_length(), seen) {
            (_, seen) if seen != etag => {
                let text = format!(
                    "HEAD and GET tell different ETags ({} and {})",
                    seen.unwrap_or("none"),
                    etag.unwrap_or("none")
                );
                if versioned {
                    Finding::note(text + ": versions tell objects apart, so this does no harm")
                } else {
                    Finding::missing(text + ": without versions nothing can be tagged or deleted")
                }
            }
            (Some(length), _) if usize::try_from(length) != Ok(TRIAL_BODY.len()) => {
                Finding::missing(format!(
                    "HEAD tells {length} bytes of an object of {}: objects cannot be compared",
                    TRIAL_BODY.len()
                ))
            }
            (None, _) => Finding::note("HEAD tells no length: the ETag alone compares objects"),
            (Some(_), _) => Finding::good("HEAD tells the length and the ETag of the GET"),
        });
    }

    /// Sets a tag and reads it back.
    async fn tag(&mut self, policy: &PolicySettings) {
        let client = &self.store.client;
        let built = Tag::builder().key(TRIAL_TAG.0).value(TRIAL_TAG.1).build();
        let set = built.and_then(|tag| Tagging::builder().tag_set(tag).build());
        let Ok(set) = set else { return };
        let put =
            client.put_object_tagging().bucket(self.bucket).key(self.key).tagging(set).send().await;
        if let Err(error) = put {
            self.findings.push(no_tags(policy, &error));
            return;
        }
        let got = client.get_object_tagging().bucket(self.bucket).key(self.key).send().await;
        self.findings.push(match got {
            Ok(got) if got.tag_set().iter().any(|t| (t.key(), t.value()) == TRIAL_TAG) => {
                Finding::good("tags can be set, and read back")
            }
            Ok(_) if policy.tag_files => Finding::missing(
                "a tag is accepted and not kept: set TAG_FILES=false, or find out what changes \
                 tags here",
            ),
            Ok(_) => Finding::note("a tag is accepted and not kept (TAG_FILES=false)"),
            Err(error) => no_tags(policy, &error),
        });
    }

    /// Sends a DELETE on the condition that other bytes are there, and checks what it did.
    async fn delete_other_bytes(&mut self, policy: &PolicySettings, versioned: bool) {
        let delete = self.store.client.delete_object().bucket(self.bucket).key(self.key);
        // Sent once, as in a deletion by ETag: a repeat by the SDK would see what the first one
        // did.
        let once = Config::builder().retry_config(RetryConfig::disabled());
        let sent = delete.if_match(WRONG_ETAG).customize().config_override(once).send().await;
        // In a bucket with suspended versions the marker has the version id `null`.
        if let Ok(answer) = &sent
            && answer.delete_marker() == Some(true)
        {
            self.versions.push(answer.version_id().unwrap_or(NULL).to_owned());
        }
        let there = self.head(None).await.is_ok();
        self.findings.push(conditional_delete(policy, versioned, there, &sent));
    }

    /// Removes all remembered versions, then what is still under the name.
    async fn remove(&mut self) -> Finding {
        let mut refusal = None;
        for version in std::mem::take(&mut self.versions) {
            refusal = self.delete(Some(version)).await.err().or(refusal);
        }
        let mut unseen = false;
        for _ in 0..MAX_REMOVALS {
            let version = match self.head(None).await {
                Ok(head) => head.version_id().filter(|id| !id.is_empty()).map(str::to_owned),
                Err(error) if status(&error) == Some(404) && refusal.is_none() => {
                    return Finding::good("the object is removed again");
                }
                Err(error) if status(&error) == Some(404) => break,
                // Without the right ListBucket AWS answers 403 for a missing object as well.
                Err(error) => {
                    unseen = status(&error) == Some(403);
                    None
                }
            };
            refusal = self.delete(version).await.err();
        }
        if unseen && refusal.is_none() {
            return Finding::note(format!(
                "the object {} was deleted; that it is gone cannot be seen without ListBucket",
                self.key
            ));
        }
        let why = refusal.as_deref().unwrap_or("it can still be seen");
        Finding::missing(format!(
            "the object {} could not be removed ({why}): remove it, with all its versions",
            self.key
        ))
    }

    async fn delete(&self, version: Option<String>) -> Result<(), String> {
        let delete = self.store.client.delete_object().bucket(self.bucket).key(self.key);
        match delete.set_version_id(version).send().await {
            Ok(_) => Ok(()),
            Err(error) if status(&error) == Some(404) => Ok(()),
            Err(error) => Err(brief(&error)),
        }
    }

    async fn head(
        &self,
        version: Option<String>,
    ) -> Result<HeadObjectOutput, SdkError<HeadObjectError, HttpResponse>> {
        let head = self.store.client.head_object().bucket(self.bucket).key(self.key);
        head.set_version_id(version).send().await
    }
}

/// What a DELETE with the wrong `ETag` in `If-Match` shows. `there`: the object could be read
/// afterwards.
fn conditional_delete(
    policy: &PolicySettings,
    versioned: bool,
    there: bool,
    sent: &Result<DeleteObjectOutput, SdkError<DeleteObjectError, HttpResponse>>,
) -> Finding {
    let ignores = "DELETE ignores If-Match: ";
    let window = if versioned {
        "versions make up for it"
    } else {
        "an upload in the milliseconds between comparison and deletion can be deleted unscanned"
    };
    match sent {
        Err(error) if status(error) == Some(412) && there => {
            Finding::good("DELETE honours If-Match: an upload that comes in between is not deleted")
        }
        Err(error) if status(error) == Some(412) => {
            Finding::missing("DELETE answers If-Match with 412 and deletes all the same")
        }
        Err(error) if status(error) == Some(403) => {
            let text = format!("deleting is denied ({})", brief(error));
            if policy.delete_file {
                Finding::missing(text + ": allow s3:DeleteObject, or set DELETE_FILE=false")
            } else {
                Finding::note(text)
            }
        }
        Err(error) if matches!(status(error), Some(400 | 501)) => {
            Finding::note(format!("DELETE refuses If-Match: {window}"))
        }
        Err(error) => Finding::missing(format!("DELETE with If-Match fails: {}", brief(error))),
        Ok(_) if versioned => Finding::note(format!("{ignores}{window}")),
        Ok(_) if there => Finding::missing(
            "DELETE is answered with success and the object is still there: no deletion could be \
             believed",
        ),
        Ok(_) => Finding::note(format!("{ignores}{window}")),
    }
}
