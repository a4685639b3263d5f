//! What an S3 error means.

use std::error::Error;
use std::fmt;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::request::Request;
use crate::failure::{Dependency, Failure, Kind, Reason, Stage, causes, is_local};

/// Codes that say that our credentials or our clock are wrong. They concern every object alike.
const CREDENTIAL_CODES: &[&str] = &[
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "RequestTimeTooSkewed",
];

/// Messages that say that a version is under retention or legal hold: MinIO's lineage, and AWS.
const LOCKED_MESSAGES: &[&str] = &[
    "Object is WORM protected and cannot be overwritten",
    "Access Denied because object protected by object lock.",
];

/// What comes before the number of a request in the detail of a failure.
const REQUEST_ID: &str = " (request ";

/// An S3 error, by what it means for an object.
#[derive(Debug)]
pub(super) enum Fault {
    /// There is no such object or version. Only an answer that names the code proves it, and an
    /// answer to a HEAD has no body to name one.
    Gone,
    /// A 404 that does not say what is missing, or a delete marker.
    NotFound(Failure),
    /// The object under the name is not the expected one.
    Changed,
    /// Not allowed for this object.
    Denied(Failure),
    /// The version is under retention or legal hold.
    Locked(Failure),
    /// The store does not support this kind of request.
    Unsupported(Failure),
    /// The object is archived, or encrypted with a key that only its owner has.
    Unreadable,
    /// Anything else.
    Other(Failure),
}

impl Fault {
    /// Whether the store itself may be down, rather than one object be at fault.
    pub(super) fn concerns_the_store(&self) -> bool {
        let Self::Other(failure) = self else { return false };
        failure.kind == Kind::Suspect(Dependency::Store)
    }

    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::NotFound(failure)
            | Self::Denied(failure)
            | Self::Locked(failure)
            | Self::Unsupported(failure)
            | Self::Other(failure) => failure,
            Self::Gone => Failure::transient(Stage::Fetch, Reason::StoreNotFound, "not found"),
            Self::Changed => {
                Failure::transient(Stage::Fetch, Reason::ObjectChanged, "changed meanwhile")
            }
            Self::Unreadable => Failure::transient(
                Stage::Fetch,
                Reason::Unreadable,
                "archived or encrypted by its owner",
            ),
        }
    }
}

/// A failure of which the store as a whole may be the cause.
pub(super) fn suspect(stage: Stage, reason: Reason, detail: impl fmt::Display) -> Failure {
    Failure::suspect(Dependency::Store, stage, reason, detail)
}

/// What the SDK's error about `request` means.
pub(super) fn of<E>(request: Request, error: &SdkError<E, HttpResponse>) -> Fault
where
    E: ProvideErrorMetadata + RequestId + Error + 'static,
{
    let Some(service) = error.as_service_error() else {
        return Fault::Other(unanswered(request.stage(), error));
    };
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    let code = service.code().unwrap_or_default();
    let message = service.message().unwrap_or_default();
    let id = service.request_id().unwrap_or("-");
    let detail = format!("HTTP {status} {code} {message}{REQUEST_ID}{id})");
    meaning(request, status, code, message, &detail)
}

/// The detail of a failure, without the number of the request that failed.
pub(super) fn without_request_id(detail: &str) -> &str {
    let cut = detail.strip_suffix(')').and_then(|detail| detail.rsplit_once(REQUEST_ID));
    cut.map_or(detail, |(before, _)| before)
}

/// What an error answer means. Pure: decided by the kind of request that was sent and by the HTTP
/// status, code and message that came back. `detail` goes into the failure as it is.
fn meaning(request: Request, status: u16, code: &str, message: &str, detail: &str) -> Fault {
    let transient = |reason| Failure::transient(request.stage(), reason, detail);
    let suspect = |reason| suspect(request.stage(), reason, detail);
    let says = |word: &str| message.to_ascii_lowercase().contains(word);
    match (status, code) {
        (_, code) if CREDENTIAL_CODES.contains(&code) => {
            Fault::Other(suspect(Reason::StoreCredentials))
        }
        // Not an S3 error: an ingress while the store is redeployed, or a firewall.
        (400..=405 | 501, "") if request.names_codes() => Fault::Other(suspect(Reason::StoreOdd)),
        // The address of the store is wrong: another region, or buckets only as host names.
        (301 | 307, _)
        | (
            _,
            "AuthorizationHeaderMalformed" | "PermanentRedirect" | "SecondLevelDomainForbidden",
        ) => Fault::Other(suspect(Reason::StoreOdd)),
        (404, "NoSuchKey" | "NoSuchVersion") => Fault::Gone,
        // Nothing to wait for. An object of a bucket that is missing is no different from a missing one.
        (404, "NoSuchBucket") if request.is_about_bucket() => {
            Fault::Other(Failure::permanent(request.stage(), Reason::StoreNotFound, detail))
        }
        // 405: the name or the version id stands for a delete marker.
        (404, _) | (405, "MethodNotAllowed") => Fault::NotFound(transient(Reason::StoreNotFound)),
        (412, _) => Fault::Changed,
        (403, "InvalidObjectState") => Fault::Unreadable,
        // S3 has no code for a missing customer key; only the message differs from other invalid
        // requests.
        (400, "InvalidRequest") if says("encrypt") => Fault::Unreadable,
        // Whole messages only: a message may contain the key, which the uploader chooses.
        (400 | 403, _) if request == Request::Delete && LOCKED_MESSAGES.contains(&message) => {
            Fault::Locked(transient(Reason::StoreLocked))
        }
        (_, "ObjectLocked") => Fault::Locked(transient(Reason::StoreLocked)),
        (400, "InvalidRequest") if request == Request::Delete => {
            Fault::Denied(transient(Reason::StoreDenied))
        }
        (403, _) => Fault::Denied(transient(Reason::StoreDenied)),
        // About the kind of request, not about the store or the object.
        (501, _) | (_, "NotImplemented") => Fault::Unsupported(transient(Reason::StoreUnsupported)),
        (500.., _) => Fault::Other(suspect(Reason::StoreError)),
        _ => Fault::Other(transient(Reason::StoreRefused)),
    }
}

/// What it means that no usable answer came: no connection, a timeout, or an unsendable request.
fn unanswered<E: Error + 'static>(stage: Stage, error: &SdkError<E, HttpResponse>) -> Failure {
    let detail = causes(error);
    if is_local(error) {
        return Failure::suspect(Dependency::Host, stage, Reason::HostResources, detail);
    }
    match error {
        SdkError::ConstructionFailure(_) => Failure::permanent(stage, Reason::StoreRequest, detail),
        SdkError::TimeoutError(_) => suspect(stage, Reason::StoreTimeout, detail),
        // This request cannot be sent. The other causes (connection closed without an answer, an
        // answer that is not HTTP, credentials that cannot be loaded) may concern all objects.
        SdkError::DispatchFailure(dispatch) if dispatch.is_user() => {
            Failure::transient(stage, Reason::StoreRequest, detail)
        }
        _ => suspect(stage, Reason::StoreUnreachable, detail),
    }
}

#[cfg(test)]
mod tests;
