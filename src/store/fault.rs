//! What an S3 error means.

use std::error::Error;
use std::io;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use crate::failure::{CREDENTIALS, Dependency, Failure, Kind, Stage, causes};

/// Errors that say that our credentials or our clock are wrong: they strike every object alike.
const OUR_FAULT: &[&str] = &[
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "RequestTimeTooSkewed",
];

/// An S3 error, by what it means for an object.
#[derive(Debug)]
pub(super) enum Fault {
    /// There is no such object or version. Only a GET says so with certainty: it has a body that
    /// names the code.
    Gone,
    /// A 404 that does not say of what.
    NotFound(Failure),
    /// The object under the name is not the expected one.
    Changed,
    /// Not allowed, for this object.
    Denied(Failure),
    /// The bytes cannot be had: archived, or encrypted with a key that the uploader keeps.
    Unreadable,
    /// Anything else.
    Other(Failure),
}

impl Fault {
    /// Whether the store itself is in question, rather than one object.
    pub(super) fn concerns_the_store(&self) -> bool {
        matches!(self, Self::Other(failure) if matches!(failure.kind, Kind::Suspect(Dependency::Store)))
    }

    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::NotFound(failure) | Self::Denied(failure) | Self::Other(failure) => failure,
            Self::Gone => Failure::transient(Stage::Fetch, "store_not_found", "not found"),
            Self::Changed => {
                Failure::transient(Stage::Fetch, "object_changed", "changed meanwhile")
            }
            Self::Unreadable => {
                Failure::transient(Stage::Fetch, "unreadable", "archived or encrypted by its owner")
            }
        }
    }
}

pub(super) fn of<E>(stage: Stage, error: &SdkError<E, HttpResponse>) -> Fault
where
    E: ProvideErrorMetadata + RequestId + Error + 'static,
{
    let Some(service) = error.as_service_error() else {
        return Fault::Other(unanswered(stage, error));
    };
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    let code = service.code().unwrap_or_default();
    let detail = format!(
        "HTTP {status} {code} {} (request {})",
        service.message().unwrap_or_default(),
        service.request_id().unwrap_or("-"),
    );
    let transient = |label| Failure::transient(stage, label, &detail);
    let suspect = |label| Failure::suspect(Dependency::Store, stage, label, &detail);
    match (status, code) {
        (_, code) if OUR_FAULT.contains(&code) => Fault::Other(suspect(CREDENTIALS)),
        // No S3 error at all, or one about our way to the store: an ingress while the store is being
        // redeployed, a wrong region. HEAD has no body that could name a code.
        (301 | 307, _) | (400..=405, "") if stage == Stage::Fetch => {
            Fault::Other(suspect("store_odd"))
        }
        (_, "AuthorizationHeaderMalformed" | "PermanentRedirect") => {
            Fault::Other(suspect("store_odd"))
        }
        (404, "NoSuchKey" | "NoSuchVersion") => Fault::Gone,
        (404, _) => Fault::NotFound(transient("store_not_found")),
        (412, _) => Fault::Changed,
        (403, "InvalidObjectState") => Fault::Unreadable,
        // S3 has no code of its own for a customer's key that was not sent; the message is all
        // there is to tell it from other invalid requests.
        (400, "InvalidRequest")
            if service.message().is_some_and(|m| m.to_ascii_lowercase().contains("encrypt")) =>
        {
            Fault::Unreadable
        }
        // Under a retention rule MinIO refuses deletions as invalid.
        (400, "InvalidRequest") if stage == Stage::Delete => {
            Fault::Denied(transient("store_denied"))
        }
        (403, _) | (_, "ObjectLocked") => Fault::Denied(transient("store_denied")),
        // Says of the request, and not of the store, that it cannot be served.
        (501, _) => Fault::Other(transient("store_unsupported")),
        (500.., _) => Fault::Other(suspect("store_error")),
        _ => Fault::Other(transient("store_refused")),
    }
}

/// No usable answer came: the connection, a timeout, or a request that could not be made.
fn unanswered<E: Error + 'static>(stage: Stage, error: &SdkError<E, HttpResponse>) -> Failure {
    let detail = causes(error);
    if local(error) {
        return Failure::suspect(Dependency::Host, stage, "host_resources", detail);
    }
    match error {
        SdkError::ConstructionFailure(_) => Failure::permanent(stage, "store_request", detail),
        SdkError::TimeoutError(_) => {
            Failure::suspect(Dependency::Store, stage, "store_timeout", detail)
        }
        // The request itself cannot be sent. Everything else (closed without an answer, an answer
        // that is no HTTP, credentials that cannot be loaded) may concern all objects.
        SdkError::DispatchFailure(dispatch) if dispatch.is_user() => {
            Failure::transient(stage, "store_request", detail)
        }
        _ => Failure::suspect(Dependency::Store, stage, "store_unreachable", detail),
    }
}

/// Whether this host ran out of file descriptors, memory or disk.
pub(super) fn local(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            // ENOMEM, ENFILE, EMFILE, ENOSPC, EDQUOT
            if matches!(io.raw_os_error(), Some(12 | 23 | 24 | 28 | 122)) {
                return true;
            }
        }
        next = cause.source();
    }
    false
}
