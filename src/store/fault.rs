//! What an S3 error means.

use std::error::Error;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use crate::failure::{Dependency, Failure, Kind, Reason, Stage, causes, is_local};

/// Errors that say that our credentials or our clock are wrong: they strike every object alike.
const OUR_FAULT: &[&str] = &[
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "RequestTimeTooSkewed",
];

/// What stores say of a version that a rule of retention keeps: MinIO's lineage, and AWS.
const LOCKED: &[&str] = &[
    "Object is WORM protected and cannot be overwritten",
    "Access Denied because object protected by object lock.",
];

/// What was asked of the store. What an answer means depends on it: the answer to a HEAD has no body
/// that could name a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Get,
    Head,
    GetTags,
    SetTags,
    Delete,
    /// The versions of a key.
    Versions,
    /// All buckets.
    Buckets,
}

impl Asked {
    const fn stage(self) -> Stage {
        match self {
            Self::Get | Self::Head | Self::Versions | Self::Buckets => Stage::Fetch,
            Self::GetTags | Self::SetTags => Stage::Tag,
            Self::Delete => Stage::Delete,
        }
    }

    /// A store's own refusal comes with a body that names a code; without one, something before the
    /// store has answered.
    const fn names_codes(self) -> bool {
        !matches!(self, Self::Head)
    }
}

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
    /// A rule of retention, or a legal hold, keeps the version.
    Locked(Failure),
    /// The store does not know this kind of request at all.
    Unsupported(Failure),
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

pub(super) fn of<E>(asked: Asked, error: &SdkError<E, HttpResponse>) -> Fault
where
    E: ProvideErrorMetadata + RequestId + Error + 'static,
{
    let Some(service) = error.as_service_error() else {
        return Fault::Other(unanswered(asked.stage(), error));
    };
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    let (code, message) =
        (service.code().unwrap_or_default(), service.message().unwrap_or_default());
    let request = service.request_id().unwrap_or("-");
    let detail = format!("HTTP {status} {code} {message} (request {request})");
    classify(asked, status, code, message, &detail)
}

/// What an S3 error means: a pure function of what was asked and what was answered.
fn classify(asked: Asked, status: u16, code: &str, message: &str, detail: &str) -> Fault {
    let stage = asked.stage();
    let transient = |reason| Failure::transient(stage, reason, detail);
    let suspect = |reason| Failure::suspect(Dependency::Store, stage, reason, detail);
    let says = |word: &str| message.to_ascii_lowercase().contains(word);
    match (status, code) {
        (_, code) if OUR_FAULT.contains(&code) => Fault::Other(suspect(Reason::StoreCredentials)),
        // No S3 error at all: an ingress while the store is being redeployed, a firewall.
        (400..=405 | 501, "") if asked.names_codes() => Fault::Other(suspect(Reason::StoreOdd)),
        // About our way to the store: a wrong region, or one that only takes buckets as host names.
        (301 | 307, _)
        | (
            _,
            "AuthorizationHeaderMalformed" | "PermanentRedirect" | "SecondLevelDomainForbidden",
        ) => Fault::Other(suspect(Reason::StoreOdd)),
        (404, "NoSuchKey" | "NoSuchVersion") => Fault::Gone,
        // 405: a delete marker is what the name, or the version id, stands for.
        (404, _) | (405, "MethodNotAllowed") => Fault::NotFound(transient(Reason::StoreNotFound)),
        (412, _) => Fault::Changed,
        (403, "InvalidObjectState") => Fault::Unreadable,
        // S3 has no code of its own for a customer's key that was not sent; the message is all
        // there is to tell it from other invalid requests.
        (400, "InvalidRequest") if says("encrypt") => Fault::Unreadable,
        // Whole phrases: messages may name the object, and its name is the uploader's.
        (400 | 403, _) if asked == Asked::Delete && LOCKED.contains(&message) => {
            Fault::Locked(transient(Reason::StoreLocked))
        }
        (_, "ObjectLocked") => Fault::Locked(transient(Reason::StoreLocked)),
        (400, "InvalidRequest") if asked == Asked::Delete => {
            Fault::Denied(transient(Reason::StoreDenied))
        }
        (403, _) => Fault::Denied(transient(Reason::StoreDenied)),
        // Says of the request, and not of the store or the object, that it cannot be served.
        (501, _) | (_, "NotImplemented") => Fault::Unsupported(transient(Reason::StoreUnsupported)),
        (500.., _) => Fault::Other(suspect(Reason::StoreError)),
        _ => Fault::Other(transient(Reason::StoreRefused)),
    }
}

/// No usable answer came: the connection, a timeout, or a request that could not be made.
fn unanswered<E: Error + 'static>(stage: Stage, error: &SdkError<E, HttpResponse>) -> Failure {
    let detail = causes(error);
    if is_local(error) {
        return Failure::suspect(Dependency::Host, stage, Reason::HostResources, detail);
    }
    match error {
        SdkError::ConstructionFailure(_) => Failure::permanent(stage, Reason::StoreRequest, detail),
        SdkError::TimeoutError(_) => {
            Failure::suspect(Dependency::Store, stage, Reason::StoreTimeout, detail)
        }
        // The request itself cannot be sent. Everything else (closed without an answer, an answer
        // that is no HTTP, credentials that cannot be loaded) may concern all objects.
        SdkError::DispatchFailure(dispatch) if dispatch.is_user() => {
            Failure::transient(stage, Reason::StoreRequest, detail)
        }
        _ => Failure::suspect(Dependency::Store, stage, Reason::StoreUnreachable, detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(fault: &Fault) -> String {
        match fault {
            Fault::Gone => "gone".to_owned(),
            Fault::NotFound(_) => "not found".to_owned(),
            Fault::Changed => "changed".to_owned(),
            Fault::Denied(_) => "denied".to_owned(),
            Fault::Locked(_) => "locked".to_owned(),
            Fault::Unsupported(_) => "unsupported".to_owned(),
            Fault::Unreadable => "unreadable".to_owned(),
            Fault::Other(failure) => match failure.kind {
                Kind::Suspect(_) => format!("suspect {}", failure.reason),
                _ => format!("transient {}", failure.reason),
            },
        }
    }

    #[test]
    fn what_an_answer_means_depends_on_what_was_asked() {
        use Asked::{Delete, Get, GetTags, Head, SetTags, Versions};
        for (asked, status, code, message, expected) in [
            // AWS S3 API reference, error responses; the same of MinIO's lineage and SeaweedFS.
            (Get, 404, "NoSuchKey", "", "gone"),
            (Get, 404, "NoSuchVersion", "", "gone"),
            (Get, 404, "NoSuchBucket", "", "not found"),
            (Get, 404, "", "", "suspect store_odd"),
            (Head, 404, "", "", "not found"),
            (Head, 403, "", "", "denied"),
            (Get, 403, "AccessDenied", "Access Denied.", "denied"),
            (Get, 403, "InvalidObjectState", "", "unreadable"),
            (
                Get,
                400,
                "InvalidRequest",
                "stored using a form of Server Side Encryption",
                "unreadable",
            ),
            // A page of an ingress, a firewall.
            (Get, 403, "", "", "suspect store_odd"),
            (GetTags, 403, "", "", "suspect store_odd"),
            (SetTags, 403, "", "", "suspect store_odd"),
            (Delete, 403, "", "", "suspect store_odd"),
            (Delete, 405, "", "", "suspect store_odd"),
            (SetTags, 404, "", "", "suspect store_odd"),
            (SetTags, 501, "", "", "suspect store_odd"),
            (Get, 301, "", "", "suspect store_odd"),
            // Cloudflare R2 and others without tags.
            (SetTags, 501, "NotImplemented", "", "unsupported"),
            (GetTags, 501, "NotImplemented", "", "unsupported"),
            // A delete marker, which an uploader can put there.
            (GetTags, 405, "MethodNotAllowed", "", "not found"),
            (SetTags, 405, "MethodNotAllowed", "", "not found"),
            (Versions, 501, "NotImplemented", "", "unsupported"),
            // Alibaba OSS.
            (Get, 403, "SecondLevelDomainForbidden", "", "suspect store_odd"),
            (SetTags, 403, "AccessDenied", "", "denied"),
            (Delete, 412, "PreconditionFailed", "", "changed"),
            // Retention: MinIO's lineage; AWS.
            (
                Delete,
                400,
                "InvalidRequest",
                "Object is WORM protected and cannot be overwritten",
                "locked",
            ),
            (
                Delete,
                403,
                "AccessDenied",
                "Access Denied because object protected by object lock.",
                "locked",
            ),
            (
                Delete,
                403,
                "AccessDenied",
                "no right on arn:aws:s3:::b/ringworm object lock",
                "denied",
            ),
            (Delete, 400, "InvalidRequest", "", "denied"),
            (Get, 403, "SignatureDoesNotMatch", "", "suspect store_credentials"),
            (Delete, 503, "SlowDown", "", "suspect store_error"),
            (Delete, 503, "", "", "suspect store_error"),
            (SetTags, 400, "InvalidTag", "", "transient store_refused"),
        ] {
            let fault = classify(asked, status, code, message, "");
            assert_eq!(name(&fault), expected, "{asked:?} {status} {code}");
        }
    }
}
