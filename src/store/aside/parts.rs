//! Copies in parts what is too large for one request.

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};

use super::{COPY_TIMEOUT, Copied, NOTHING, Place, Source, patient};
use crate::failure::{Failure, Reason, Stage};
use crate::store::Store;
use crate::store::effects::refuses_condition;
use crate::store::fault;
use crate::store::key::for_sdk;
use crate::store::request::Request;
use crate::store::transport::{Patience, With};

/// Sizes of copies, in bytes.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct CopyLimits {
    /// The largest that is copied in one request. S3 allows 5 GiB.
    pub(in crate::store) whole: u64,
    /// The parts of larger ones. S3 allows 10,000 of them.
    pub(in crate::store) part: u64,
}

impl CopyLimits {
    pub(in crate::store) const S3: Self = Self { whole: 5 << 30, part: 512 << 20 };
}

impl Store {
    /// Copies part by part. The metadata does not come along. What was begun is removed if it cannot be
    /// finished.
    pub(super) async fn copy_parts(
        &self,
        source: &Source,
        place: &Place,
    ) -> Result<Copied, Failure> {
        let create =
            self.client.create_multipart_upload().bucket(&place.bucket).key(for_sdk(&place.key));
        let created = match create.send().await {
            Ok(created) => created,
            Err(error) => {
                return self.after_refusal_to_copy(fault::of(Request::Copy, &error), place).await;
            }
        };
        let Some(upload) = created.upload_id().filter(|id| !id.is_empty()) else {
            let detail = "an upload in parts was begun, and has no id";
            return Err(fault::suspect(Stage::Quarantine, Reason::StoreOdd, detail));
        };
        let finished = match self.send_parts(source, place, upload).await {
            Ok(Some(parts)) => self.complete(place, upload, parts).await,
            Ok(None) => Ok(Copied::Changed),
            Err(failure) => Err(failure),
        };
        if !matches!(finished, Ok(Copied::Proved | Copied::Unproved)) {
            self.abort(place, upload).await;
        }
        finished
    }

    /// `None`: the scanned bytes are not there any more.
    async fn send_parts(
        &self,
        source: &Source,
        place: &Place,
        upload: &str,
    ) -> Result<Option<Vec<CompletedPart>>, Failure> {
        let length = source.identity.bytes();
        let (mut parts, mut at, mut number) = (Vec::new(), 0, 1);
        while at < length {
            let end = length.min(at + self.copy_limits.part);
            let copy = self.client.upload_part_copy().bucket(&place.bucket);
            let copy = copy.key(for_sdk(&place.key)).upload_id(upload).part_number(number);
            let copy =
                copy.copy_source(source.header()).set_copy_source_if_match(source.if_match());
            let copy = copy.copy_source_range(format!("bytes={at}-{}", end - 1)).customize();
            let copy = copy.config_override(patient()).interceptor(With(Patience(COPY_TIMEOUT)));
            let etag = match copy.send().await {
                Ok(answer) => answer.copy_part_result.and_then(|result| result.e_tag),
                Err(error) => {
                    return match fault::of(Request::Copy, &error) {
                        fault::Fault::Gone | fault::Fault::Changed => Ok(None),
                        fault => Err(fault.into_failure()),
                    };
                }
            };
            parts.push(CompletedPart::builder().set_e_tag(etag).part_number(number).build());
            (at, number) = (end, number + 1);
        }
        Ok(Some(parts))
    }

    async fn complete(
        &self,
        place: &Place,
        upload: &str,
        parts: Vec<CompletedPart>,
    ) -> Result<Copied, Failure> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let send = |conditional: bool| {
            let complete = self.client.complete_multipart_upload().bucket(&place.bucket);
            let complete = complete.key(for_sdk(&place.key)).upload_id(upload);
            let complete = complete.multipart_upload(parts.clone());
            let complete = complete.set_if_none_match(conditional.then(|| NOTHING.to_owned()));
            let complete = complete.customize().config_override(patient());
            complete.interceptor(With(Patience(COPY_TIMEOUT))).send()
        };
        let answered = match send(true).await {
            Err(error) if refuses_condition(&error) => send(false).await,
            answered => answered,
        };
        match answered {
            Ok(_) => Ok(Copied::Unproved),
            Err(error) => self.after_refusal_to_copy(fault::of(Request::Copy, &error), place).await,
        }
    }

    async fn abort(&self, place: &Place, upload: &str) {
        let abort = self.client.abort_multipart_upload().bucket(&place.bucket);
        let aborted = abort.key(for_sdk(&place.key)).upload_id(upload).send().await;
        if let Err(error) = aborted {
            let failure = fault::of(Request::Copy, &error).into_failure();
            tracing::warn!(%failure, key = place.key, "an unfinished copy in parts stays");
        }
    }
}
