//! What `check` finds out about a bucket by reading alone.

use std::error::Error;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_sdk_s3::types::EncodingType;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::Store;
use super::fault;
use super::key::for_sdk;
use super::page::decoded;
use super::request::Request;
use crate::config::PolicySettings;

/// One finding about a bucket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) bearing: Bearing,
    /// One line: what was found, and what it means.
    pub(crate) text: String,
}

/// What a finding means for these settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bearing {
    /// As needed.
    Good,
    /// Worth knowing; the daemon works all the same.
    Note,
    /// These settings need something that is missing.
    Missing,
}

impl Finding {
    pub(super) fn good(text: impl Into<String>) -> Self {
        Self { bearing: Bearing::Good, text: text.into() }
    }

    pub(super) fn note(text: impl Into<String>) -> Self {
        Self { bearing: Bearing::Note, text: text.into() }
    }

    pub(super) fn missing(text: impl Into<String>) -> Self {
        Self { bearing: Bearing::Missing, text: text.into() }
    }
}

impl Store {
    /// Checks that the bucket can be listed and the tags of one of its objects be read. Changes
    /// nothing.
    pub(crate) async fn survey(&self, bucket: &str, policy: &PolicySettings) -> Finding {
        let list = self.client.list_objects_v2().bucket(bucket).max_keys(1);
        let listed = match list.encoding_type(EncodingType::Url).send().await {
            Ok(listed) => listed,
            Err(error) if status(&error) == Some(403) => {
                return Finding::note(format!(
                    "cannot be listed ({}), so its tags are not tried: check --write does",
                    brief(&error)
                ));
            }
            Err(error) => return Finding::missing(format!("cannot be listed: {}", brief(&error))),
        };
        let encoded = listed.encoding_type() == Some(&EncodingType::Url);
        let Some(key) = listed.contents().first().and_then(|object| object.key()) else {
            return Finding::note("is empty, so its tags are not tried: check --write does");
        };
        let Some(key) = decoded(key, encoded) else {
            return Finding::note("has an object whose key is no text, so its tags are not tried");
        };
        let tags = self.client.get_object_tagging().bucket(bucket).key(for_sdk(&key));
        match tags.send().await {
            Ok(_) => Finding::good("the tags of an object can be read"),
            // Some stores answer this when there are none.
            Err(error) if error.code() == Some("NoSuchTagSet") => {
                Finding::good("the tags of an object can be read")
            }
            Err(error) if status(&error) == Some(404) && error.code() == Some("NoSuchKey") => {
                Finding::note("the object whose tags were asked for is gone meanwhile: try again")
            }
            Err(error) => no_tags(policy, &error),
        }
    }
}

/// The finding that tags cannot be read or set.
pub(super) fn no_tags<E>(policy: &PolicySettings, error: &SdkError<E, HttpResponse>) -> Finding
where
    E: ProvideErrorMetadata + RequestId + Error + 'static,
{
    let (what, advice) = match (status(error), error.code()) {
        (Some(405 | 501), _) | (_, Some("NotImplemented" | "MethodNotAllowed")) => {
            ("this store has no tagging", "set TAG_FILES=false")
        }
        (Some(403), _) => (
            "tags are denied",
            "allow s3:GetObjectTagging and s3:PutObjectTagging (and, with versions, \
             s3:GetObjectVersionTagging and s3:PutObjectVersionTagging), or set TAG_FILES=false",
        ),
        _ => ("tags cannot be used", "fix it, or set TAG_FILES=false"),
    };
    let error = brief(error);
    if policy.tag_files {
        Finding::missing(format!("{what} ({error}): {advice}"))
    } else {
        Finding::note(format!("{what} ({error}), and none are needed with TAG_FILES=false"))
    }
}

/// The HTTP status of the answer, if there was one.
pub(super) fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// The error on one line: status and code, or why no answer came.
pub(super) fn brief<E>(error: &SdkError<E, HttpResponse>) -> String
where
    E: ProvideErrorMetadata + RequestId + Error + 'static,
{
    match error.as_service_error() {
        Some(service) => {
            let code = service.code().unwrap_or("without a code");
            format!("HTTP {} {code}", status(error).unwrap_or_default())
        }
        None => fault::of(Request::Get, error).into_failure().detail,
    }
}
