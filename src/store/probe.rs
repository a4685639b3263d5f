//! Checks whether the store and the temp folder work.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use tokio::time::error::Elapsed;

use super::request::Request;
use super::{Identity, Store, disk_budget, fault};
use crate::failure::{Dependency, Failure, Reason, Stage};

/// Longest wait for the answer to one request of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Objects remembered as last served, to be probed again.
const MAX_LAST_GOOD: usize = 8;

impl Store {
    /// Checks within about `timeout` that the store answers and accepts our credentials: by listing
    /// the buckets and, while the last downloaded objects could not be read, by one of those. A
    /// denied listing counts as an answer.
    ///
    /// # Errors
    /// The fault, of kind [`crate::failure::Kind::Suspect`].
    pub(crate) async fn probe(&self, timeout: Duration) -> Result<(), Failure> {
        let timeout = timeout.min(PROBE_TIMEOUT);
        self.probe_listing(timeout).await?;
        if self.last_good_failed.load(Ordering::Relaxed) {
            self.probe_any(&self.last_good(), timeout).await.unwrap_or(Ok(()))?;
        }
        self.last_good_failed.store(false, Ordering::Relaxed);
        Ok(())
    }

    async fn probe_listing(&self, timeout: Duration) -> Result<(), Failure> {
        let down = |reason, detail: String| Err(fault::suspect(Stage::Fetch, reason, detail));
        let list = self.client.list_buckets().send();
        match tokio::time::timeout(timeout, list).await {
            Ok(Ok(list)) if list.buckets.is_some() || list.owner.is_some() => Ok(()),
            Ok(Ok(_)) => down(Reason::StoreOdd, "what answers there is no S3 store".to_owned()),
            Ok(Err(error)) => match (error.code(), fault::of(Request::ListBuckets, &error)) {
                (_, fault) if fault.concerns_the_store() => Err(fault.into_failure()),
                (Some(_), _) => Ok(()),
                (None, fault) => down(Reason::StoreOdd, fault.into_failure().detail),
            },
            Err(_) => down(Reason::StoreTimeout, format!("no answer within {timeout:?}")),
        }
    }

    /// Checks whether the store works, after it failed for one object. `Ok` means that the failure
    /// is the object's own: one broken object must not stop the work on all others.
    ///
    /// # Errors
    /// The fault, of kind [`crate::failure::Kind::Suspect`].
    pub(crate) async fn probe_after(&self, bucket: &str, key: &str) -> Result<(), Failure> {
        let object = self.probe_object(bucket, key, PROBE_TIMEOUT).await;
        // The answer to a HEAD has no body, so its 403 may be about the object or about our
        // credentials. The listing tells which.
        self.probe_listing(PROBE_TIMEOUT).await?;
        if object.is_ok() {
            return Ok(());
        }
        let mut others = self.last_good();
        others.retain(|(b, k)| (b.as_str(), k.as_str()) != (bucket, key));
        let answer = match self.probe_any(&others, PROBE_TIMEOUT).await {
            Some(answer) => answer,
            // No other object was served yet, so the bucket is all there is to ask about.
            None => self.probe_bucket(bucket).await,
        };
        self.last_good_failed.store(answer.is_err(), Ordering::Relaxed);
        answer
    }

    async fn probe_object(
        &self,
        bucket: &str,
        key: &str,
        timeout: Duration,
    ) -> Result<(), Failure> {
        let head = self.head_object(bucket, key, None).send();
        answered(tokio::time::timeout(timeout, head).await)
    }

    /// Whether the store works for at least one of these objects; `None` if there are none.
    async fn probe_any(
        &self,
        objects: &VecDeque<(String, String)>,
        timeout: Duration,
    ) -> Option<Result<(), Failure>> {
        let probes =
            objects.iter().map(|(bucket, key)| Box::pin(self.probe_object(bucket, key, timeout)));
        let probes: Vec<_> = probes.collect();
        if probes.is_empty() {
            return None;
        }
        Some(futures_util::future::select_ok(probes).await.map(|((), _)| ()))
    }

    async fn probe_bucket(&self, bucket: &str) -> Result<(), Failure> {
        let head = self.client.head_bucket().bucket(bucket).send();
        answered(tokio::time::timeout(PROBE_TIMEOUT, head).await)
    }

    fn last_good(&self) -> VecDeque<(String, String)> {
        self.last_good.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers an object that the store served.
    pub(crate) fn remember_good(&self, identity: &Identity) {
        let good = (identity.bucket.clone(), identity.key.clone());
        let mut all = self.last_good.lock().unwrap_or_else(PoisonError::into_inner);
        if all.front() != Some(&good) {
            all.truncate(MAX_LAST_GOOD - 1);
            all.push_front(good);
        }
    }

    /// Checks that this host can write another temp file.
    ///
    /// # Errors
    /// The fault, of kind [`crate::failure::Kind::Suspect`].
    pub(crate) async fn probe_temp(&self) -> Result<(), Failure> {
        let probed = tokio::time::timeout(PROBE_TIMEOUT, disk_budget::probe(self.temp_dir.clone()));
        probed.await.unwrap_or_else(|_| {
            let detail = "the temp folder does not answer";
            Err(Failure::suspect(Dependency::Host, Stage::Fetch, Reason::TempDisk, detail))
        })
    }
}

/// Any answer with a status below 500 shows that the store works.
fn answered<T, E>(
    answer: Result<Result<T, SdkError<E, HttpResponse>>, Elapsed>,
) -> Result<(), Failure>
where
    E: ProvideErrorMetadata + RequestId + std::error::Error + 'static,
{
    match answer {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => match fault::of(Request::Head, &error) {
            fault if fault.concerns_the_store() => Err(fault.into_failure()),
            _ => Ok(()),
        },
        Err(_) => Err(fault::suspect(Stage::Fetch, Reason::StoreTimeout, "no answer in time")),
    }
}
