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
    let detail = format!("HTTP {status} {code} {message} (request {id})");
    meaning(request, status, code, message, &detail)
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
mod tests {
    use super::Request::{Delete, Get, GetTags, Head, ListBuckets, ListVersions, SetTags};
    use super::*;

    /// Status, code and message of an answer.
    type Answer = (u16, &'static str, &'static str);

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

    fn expect(store: &str, rows: &[(Request, Answer, &str)]) {
        for (request, (status, code, message), expected) in rows {
            let fault = meaning(*request, *status, code, message, "");
            assert_eq!(name(&fault), *expected, "{store}: {request:?} {status} {code} {message}");
        }
    }

    const NO_KEY: Answer = (404, "NoSuchKey", "The specified key does not exist.");
    const DENIED: Answer = (403, "AccessDenied", "Access Denied.");
    const NO_METHOD: Answer =
        (405, "MethodNotAllowed", "The specified method is not allowed against this resource.");
    const NOT_IMPLEMENTED: Answer = (
        501,
        "NotImplemented",
        "A header you provided implies functionality that is not implemented",
    );
    const PRECONDITION: Answer = (
        412,
        "PreconditionFailed",
        "At least one of the pre-conditions you specified did not hold",
    );

    /// Answers to a HEAD have no body. The SDK itself adds the code `NotFound` to a 404 without one.
    #[test]
    fn an_answer_to_a_head_is_judged_by_its_status() {
        expect(
            "any store",
            &[
                (Head, (404, "NotFound", ""), "not found"),
                (Head, (404, "", ""), "not found"),
                (Head, (403, "", ""), "denied"),
                (Head, (412, "", ""), "changed"),
                (Head, (301, "", ""), "suspect store_odd"),
                (Head, (501, "", ""), "unsupported"),
                (Head, (503, "", ""), "suspect store_error"),
                // A version id that is a delete marker (AWS, MinIO's lineage).
                (Head, (405, "", ""), "transient store_refused"),
                // A customer's key that was not sent (AWS, MinIO's lineage).
                (Head, (400, "", ""), "transient store_refused"),
            ],
        );
    }

    /// A page of an ingress, a firewall or a proxy names no code.
    #[test]
    fn an_answer_without_a_code_is_not_the_stores() {
        for request in [Get, GetTags, SetTags, Delete, ListVersions, ListBuckets] {
            for status in [400, 401, 402, 403, 404, 405, 501] {
                expect("a proxy", &[(request, (status, "", ""), "suspect store_odd")]);
            }
            for status in [500, 502, 503, 504] {
                expect("a proxy", &[(request, (status, "", ""), "suspect store_error")]);
            }
            for status in [301, 307] {
                expect("a proxy", &[(request, (status, "", ""), "suspect store_odd")]);
            }
        }
        // As the SDK gives it: 404 without a body.
        expect("a proxy", &[(Get, (404, "NotFound", ""), "not found")]);
    }

    /// MinIO, `cmd/api-errors.go`.
    #[test]
    fn answers_of_minios_lineage() {
        const LOCKED: Answer =
            (400, "InvalidRequest", "Object is WORM protected and cannot be overwritten");
        const ENCRYPTED: Answer = (
            400,
            "InvalidRequest",
            "The object was stored using a form of Server Side Encryption. The correct parameters \
             must be provided to retrieve the object.",
        );
        const ARCHIVED: Answer = (
            403,
            "InvalidObjectState",
            "The operation is not valid for the current state of the object.",
        );
        const INVALID_ID: Answer = (400, "InvalidArgument", "Invalid version id specified");
        const STARTING: Answer =
            (503, "XMinioServerNotInitialized", "Server not initialized, please try again.");
        const REGION: Answer = (
            400,
            "AuthorizationHeaderMalformed",
            "The authorization header is malformed; the region is wrong; expecting 'us-east-1'.",
        );
        expect(
            "MinIO",
            &[
                (Get, NO_KEY, "gone"),
                (Get, DENIED, "denied"),
                (Get, ENCRYPTED, "unreadable"),
                (Get, ARCHIVED, "unreadable"),
                (Get, NO_METHOD, "not found"),
                (Get, INVALID_ID, "transient store_refused"),
                (Get, (503, "SlowDown", "Please reduce your request"), "suspect store_error"),
                (Get, STARTING, "suspect store_error"),
                (GetTags, NO_KEY, "gone"),
                (GetTags, DENIED, "denied"),
                (GetTags, NO_METHOD, "not found"),
                (GetTags, (404, "NoSuchTagSet", "The TagSet does not exist"), "not found"),
                (SetTags, NO_KEY, "gone"),
                (SetTags, DENIED, "denied"),
                (SetTags, NO_METHOD, "not found"),
                (SetTags, NOT_IMPLEMENTED, "unsupported"),
                (SetTags, (507, "XMinioStorageFull", ""), "suspect store_error"),
                (Delete, LOCKED, "locked"),
                (Delete, DENIED, "denied"),
                (Delete, PRECONDITION, "changed"),
                (Delete, (400, "InvalidRequest", "Invalid Request"), "denied"),
                (Delete, STARTING, "suspect store_error"),
                (ListVersions, DENIED, "denied"),
                (ListVersions, NOT_IMPLEMENTED, "unsupported"),
                (ListVersions, (404, "NoSuchBucket", ""), "not found"),
                (ListBuckets, DENIED, "denied"),
                (ListBuckets, REGION, "suspect store_odd"),
                (ListBuckets, (403, "InvalidAccessKeyId", ""), "suspect store_credentials"),
                (ListBuckets, (403, "SignatureDoesNotMatch", ""), "suspect store_credentials"),
                (ListBuckets, (403, "RequestTimeTooSkewed", ""), "suspect store_credentials"),
            ],
        );
    }

    /// SeaweedFS, `weed/s3api/s3err/s3api_errors.go`. A lock is answered like a missing right.
    #[test]
    fn answers_of_seaweedfs() {
        const INTERNAL: Answer =
            (500, "InternalError", "We encountered an internal error, please try again.");
        const NO_LOGIN: Answer = (
            400,
            "InvalidRequest",
            "Signed request requires setting up SeaweedFS S3 authentication",
        );
        const TOO_MANY: Answer = (429, "ErrTooManyRequest", "Too many simultaneous request count");
        expect(
            "SeaweedFS",
            &[
                (Get, NO_KEY, "gone"),
                (Get, DENIED, "denied"),
                (Get, NO_LOGIN, "transient store_refused"),
                (Get, TOO_MANY, "transient store_refused"),
                (Get, INTERNAL, "suspect store_error"),
                (GetTags, NO_KEY, "gone"),
                (GetTags, (404, "NoSuchTagSet", "The TagSet does not exist"), "not found"),
                (GetTags, INTERNAL, "suspect store_error"),
                (SetTags, (400, "InvalidTag", ""), "transient store_refused"),
                (SetTags, NOT_IMPLEMENTED, "unsupported"),
                (SetTags, INTERNAL, "suspect store_error"),
                (Delete, DENIED, "denied"),
                (Delete, PRECONDITION, "changed"),
                (Delete, INTERNAL, "suspect store_error"),
                (ListVersions, (404, "NoSuchBucket", ""), "not found"),
                (ListVersions, NO_METHOD, "not found"),
                (ListBuckets, DENIED, "denied"),
                (ListBuckets, (403, "InvalidAccessKeyId", ""), "suspect store_credentials"),
                (ListBuckets, (403, "SignatureDoesNotMatch", ""), "suspect store_credentials"),
            ],
        );
    }

    /// Ceph, `rgw_http_s3_errors` in `src/rgw/rgw_common.cc`. Most of its errors have no message.
    #[test]
    fn answers_of_ceph() {
        expect(
            "Ceph",
            &[
                (Get, (404, "NoSuchKey", ""), "gone"),
                (Get, (404, "Not Found", ""), "not found"),
                (Get, (404, "NoSuchBucket", ""), "not found"),
                (Get, (403, "AccessDenied", ""), "denied"),
                (Get, (403, "UserSuspended", ""), "denied"),
                (Get, (403, "InvalidObjectState", ""), "unreadable"),
                (Get, (400, "InvalidArgument", ""), "transient store_refused"),
                (Get, (408, "RequestTimeout", ""), "transient store_refused"),
                (Get, (423, "Locked", ""), "transient store_refused"),
                (Get, (500, "UnknownError", ""), "suspect store_error"),
                (GetTags, (404, "NoSuchKey", ""), "gone"),
                (GetTags, (404, "NoSuchTagSet", ""), "not found"),
                (GetTags, (405, "MethodNotAllowed", ""), "not found"),
                (SetTags, (400, "InvalidTag", ""), "transient store_refused"),
                (SetTags, (403, "AccessDenied", ""), "denied"),
                (SetTags, (409, "OperationAborted", ""), "transient store_refused"),
                (Delete, (403, "AccessDenied", ""), "denied"),
                (Delete, (412, "PreconditionFailed", ""), "changed"),
                (Delete, (503, "ServiceUnavailable", ""), "suspect store_error"),
                (ListVersions, (501, "NotImplemented", ""), "unsupported"),
                (ListVersions, (503, "SlowDown", ""), "suspect store_error"),
                (ListBuckets, (301, "PermanentRedirect", ""), "suspect store_odd"),
                (ListBuckets, (403, "InvalidAccessKeyId", ""), "suspect store_credentials"),
                (ListBuckets, (403, "RequestTimeTooSkewed", ""), "suspect store_credentials"),
            ],
        );
    }

    /// AWS, list of error codes in the S3 API reference.
    #[test]
    fn answers_of_aws() {
        const LOCKED: Answer =
            (403, "AccessDenied", "Access Denied because object protected by object lock.");
        const SIMILAR: Answer =
            (403, "AccessDenied", "no right on arn:aws:s3:::b/ringworm object lock");
        const ENCRYPTED: Answer =
            (400, "InvalidRequest", "stored using a form of Server Side Encryption");
        expect(
            "AWS",
            &[
                (Get, (404, "NoSuchKey", ""), "gone"),
                (Get, (404, "NoSuchVersion", ""), "gone"),
                (Get, (404, "NoSuchBucket", ""), "not found"),
                (Get, (405, "MethodNotAllowed", ""), "not found"),
                (Get, (403, "AccessDenied", "Access Denied"), "denied"),
                (Get, (403, "InvalidObjectState", ""), "unreadable"),
                (Get, ENCRYPTED, "unreadable"),
                (Get, (400, "RequestTimeout", ""), "transient store_refused"),
                (Get, (301, "PermanentRedirect", ""), "suspect store_odd"),
                (Get, (307, "TemporaryRedirect", ""), "suspect store_odd"),
                (Get, (500, "InternalError", ""), "suspect store_error"),
                (GetTags, (403, "AccessDenied", "Access Denied"), "denied"),
                (GetTags, (405, "MethodNotAllowed", ""), "not found"),
                (SetTags, (403, "AccessDenied", "Access Denied"), "denied"),
                (SetTags, (405, "MethodNotAllowed", ""), "not found"),
                (SetTags, (400, "InvalidTag", ""), "transient store_refused"),
                (SetTags, (409, "OperationAborted", ""), "transient store_refused"),
                (Delete, LOCKED, "locked"),
                (Delete, SIMILAR, "denied"),
                (Delete, (412, "PreconditionFailed", ""), "changed"),
                (Delete, (503, "SlowDown", ""), "suspect store_error"),
                // Only of a deletion: elsewhere the same answer is no lock.
                (SetTags, LOCKED, "denied"),
                (ListVersions, (403, "AccessDenied", "Access Denied"), "denied"),
                (ListVersions, (503, "SlowDown", ""), "suspect store_error"),
                (ListBuckets, (400, "AuthorizationHeaderMalformed", ""), "suspect store_odd"),
                (ListBuckets, (400, "ExpiredToken", ""), "suspect store_credentials"),
                (ListBuckets, (400, "InvalidToken", ""), "suspect store_credentials"),
                (ListBuckets, (400, "TokenRefreshRequired", ""), "suspect store_credentials"),
                (ListBuckets, (403, "SignatureDoesNotMatch", ""), "suspect store_credentials"),
            ],
        );
    }

    /// Cloudflare R2 has no tags; Alibaba OSS only takes buckets as host names.
    #[test]
    fn answers_of_others() {
        expect(
            "R2",
            &[
                (GetTags, (501, "NotImplemented", ""), "unsupported"),
                (SetTags, (501, "NotImplemented", ""), "unsupported"),
            ],
        );
        expect("OSS", &[(Get, (403, "SecondLevelDomainForbidden", ""), "suspect store_odd")]);
    }
}
