//! Answers that real stores give, and what each means.

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
const NOT_IMPLEMENTED: Answer =
    (501, "NotImplemented", "A header you provided implies functionality that is not implemented");

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
    // The SDK adds this code to a 404 without a body, also in answer to a GET.
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
            (SetTags, NO_KEY, "gone"),
            (SetTags, DENIED, "denied"),
            (SetTags, NO_METHOD, "not found"),
            (SetTags, NOT_IMPLEMENTED, "unsupported"),
            (SetTags, (507, "XMinioStorageFull", ""), "suspect store_error"),
            (Delete, LOCKED, "locked"),
            (Delete, DENIED, "denied"),
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
    const NO_LOGIN: Answer =
        (400, "InvalidRequest", "Signed request requires setting up SeaweedFS S3 authentication");
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
            (GetTags, INTERNAL, "suspect store_error"),
            (SetTags, (400, "InvalidTag", ""), "transient store_refused"),
            (SetTags, DENIED, "denied"),
            (SetTags, INTERNAL, "suspect store_error"),
            (Delete, DENIED, "denied"),
            (Delete, NO_LOGIN, "denied"),
            (Delete, INTERNAL, "suspect store_error"),
            (ListVersions, (404, "NoSuchBucket", ""), "not found"),
            (ListVersions, DENIED, "denied"),
            (ListBuckets, DENIED, "denied"),
            (ListBuckets, (403, "InvalidAccessKeyId", ""), "suspect store_credentials"),
            (ListBuckets, (403, "SignatureDoesNotMatch", ""), "suspect store_credentials"),
        ],
    );
}

/// Ceph, `rgw_http_s3_errors` in `src/rgw/rgw_common.cc`. Most of its errors have no message, and a
/// lock is answered like a missing right.
#[test]
fn answers_of_ceph() {
    expect(
        "Ceph",
        &[
            (Get, (404, "NoSuchKey", ""), "gone"),
            (Get, (404, "NoSuchBucket", ""), "not found"),
            (Get, (403, "AccessDenied", ""), "denied"),
            (Get, (403, "UserSuspended", ""), "denied"),
            (Get, (403, "InvalidObjectState", ""), "unreadable"),
            (Get, (400, "InvalidArgument", ""), "transient store_refused"),
            (Get, (500, "UnknownError", ""), "suspect store_error"),
            (GetTags, (404, "NoSuchKey", ""), "gone"),
            (GetTags, (403, "AccessDenied", ""), "denied"),
            (SetTags, (400, "InvalidTag", ""), "transient store_refused"),
            (SetTags, (403, "AccessDenied", ""), "denied"),
            (Delete, (403, "AccessDenied", ""), "denied"),
            (Delete, (412, "PreconditionFailed", ""), "changed"),
            (Delete, (503, "ServiceUnavailable", ""), "suspect store_error"),
            (ListVersions, (403, "AccessDenied", ""), "denied"),
            (ListVersions, (503, "SlowDown", ""), "suspect store_error"),
            (ListBuckets, (403, "SignatureDoesNotMatch", ""), "suspect store_credentials"),
            (ListBuckets, (403, "InvalidAccessKeyId", ""), "suspect store_credentials"),
            (ListBuckets, (403, "RequestTimeTooSkewed", ""), "suspect store_credentials"),
        ],
    );
}

/// AWS, list of error codes in the S3 API reference; the SDK's `types::Error` repeats it.
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

#[test]
fn the_number_of_the_request_is_all_that_is_cut_off() {
    for (detail, expected) in [
        ("HTTP 404 NoSuchBucket gone (request 18EC52D7)", "HTTP 404 NoSuchBucket gone"),
        ("HTTP 400 X a (request 1) b (request -)", "HTTP 400 X a (request 1) b"),
        ("connection refused (os error 111)", "connection refused (os error 111)"),
        ("", ""),
    ] {
        assert_eq!(without_request_id(detail), expected);
    }
}
