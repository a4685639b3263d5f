//! The headers of the copies that we publish: a message's history, and why it failed last.
//!
//! Any publisher can set headers. A value of another type or size than ours counts as absent.

use lapin::types::{AMQPValue, FieldTable};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Cause;
use crate::clock;
use crate::trace::{TRACEPARENT, TRACESTATE, Trace};

/// All our headers start with this.
const PREFIX: &str = "avscan-";
const ATTEMPT: &str = "avscan-attempt";
const DEFERRED: &str = "avscan-deferred";
const MISSED: &str = "avscan-missed";
const REDRIVEN: &str = "avscan-redriven";
const FIRST_FAILURE: &str = "avscan-first-failure";
const LAST_FAILURE: &str = "avscan-last-failure";
const REASON: &str = "avscan-reason";
const STAGE: &str = "avscan-stage";
const DETAIL: &str = "avscan-detail";
const SIGNATURE: &str = "avscan-signature";
/// Set by quorum queues. Source: <https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling>
const DELIVERY_COUNT: &str = "x-delivery-count";

/// Longest time that is taken over from a header, in bytes. RFC 3339 with nanoseconds has 35.
const MAX_TIME: usize = 40;

/// What happened to a message before this delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct History {
    /// The number of this attempt; the first is 1.
    pub(crate) attempt: u32,
    /// Retries since the last counted attempt that were not counted themselves.
    pub(crate) deferred: u32,
    /// The announced object was not found at the last attempt.
    pub(crate) missed: bool,
    /// How often it was parked and moved back.
    pub(crate) redriven: u32,
    /// When the first attempt failed, in RFC 3339.
    pub(crate) first_failure: Option<String>,
}

/// The failure that a parked message carries, as text for people. A missing header is an empty
/// text.
#[derive(Debug)]
pub(crate) struct RecordedFailure {
    pub(crate) reason: String,
    pub(crate) stage: String,
    pub(crate) detail: String,
    pub(crate) signature: String,
    pub(crate) first_failure: String,
    pub(crate) last_failure: String,
}

impl Default for History {
    /// A message that was never tried.
    fn default() -> Self {
        Self { attempt: 1, deferred: 0, missed: false, redriven: 0, first_failure: None }
    }
}

impl History {
    pub(super) fn read(headers: Option<&FieldTable>) -> Self {
        let number = |name| headers.and_then(|headers| integer(headers, name)).unwrap_or(0);
        let first_failure = headers.and_then(|headers| match headers.inner().get(FIRST_FAILURE) {
            Some(AMQPValue::LongString(text)) => Some(text.to_string()),
            _ => None,
        });
        Self {
            attempt: number(ATTEMPT).max(1),
            deferred: number(DEFERRED),
            missed: number(MISSED) > 0,
            redriven: number(REDRIVEN),
            first_failure: first_failure.filter(|text| is_time(text)),
        }
    }

    /// The headers of a copy with this history; with `cause`, of one that failed just now.
    pub(super) fn to_headers(&self, cause: Option<&Cause>) -> FieldTable {
        let mut headers = FieldTable::default();
        if cause.is_some() || self.attempt > 1 {
            headers.insert(ATTEMPT.into(), AMQPValue::LongLongInt(self.attempt.into()));
        }
        let missed = u32::from(self.missed);
        for (name, value) in
            [(DEFERRED, self.deferred), (MISSED, missed), (REDRIVEN, self.redriven)]
        {
            if value > 0 {
                headers.insert(name.into(), AMQPValue::LongLongInt(value.into()));
            }
        }
        let mut set = |name: &str, value: &str| {
            headers.insert(name.into(), AMQPValue::LongString(value.into()));
        };
        if let Some(first) = &self.first_failure {
            set(FIRST_FAILURE, first);
        }
        if let Some(cause) = cause {
            let now = clock::now();
            if self.first_failure.is_none() {
                set(FIRST_FAILURE, &now);
            }
            set(LAST_FAILURE, &now);
            set(REASON, cause.reason);
            set(STAGE, cause.stage.into_str());
            set(DETAIL, &cause.detail);
            if let Some(signature) = &cause.signature {
                set(SIGNATURE, signature);
            }
        }
        headers
    }
}

impl RecordedFailure {
    pub(super) fn read(headers: &FieldTable) -> Self {
        let text = |name| match headers.inner().get(name) {
            Some(AMQPValue::LongString(text)) => {
                std::str::from_utf8(text.as_bytes()).unwrap_or_default().to_owned()
            }
            _ => String::new(),
        };
        Self {
            reason: text(REASON),
            stage: text(STAGE),
            detail: text(DETAIL),
            signature: text(SIGNATURE),
            first_failure: text(FIRST_FAILURE),
            last_failure: text(LAST_FAILURE),
        }
    }
}

/// Where a message belongs.
pub(super) fn trace(headers: Option<&FieldTable>) -> Trace {
    let bytes = |name: &str| match headers?.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.as_bytes()),
        _ => None,
    };
    Trace::read(bytes(TRACEPARENT), bytes(TRACESTATE))
}

/// Adds to the headers of a message where it belongs.
pub(super) fn carry(trace: &Trace, headers: &mut FieldTable) {
    for (name, text) in trace.headers() {
        headers.insert(name.into(), AMQPValue::LongString(text.into()));
    }
}

/// Our own headers of a message, unchanged.
pub(super) fn own(headers: &FieldTable) -> FieldTable {
    let mut own = FieldTable::default();
    for (name, value) in headers.inner() {
        if name.as_str().starts_with(PREFIX) {
            own.insert(name.clone(), value.clone());
        }
    }
    own
}

/// How often the message was returned to the queue unsettled; 0 where the broker does not count it.
pub(super) fn delivery_count(headers: Option<&FieldTable>) -> u32 {
    headers.and_then(|headers| integer(headers, DELIVERY_COUNT)).unwrap_or(0)
}

fn integer(headers: &FieldTable, name: &str) -> Option<u32> {
    let number = match headers.inner().get(name)? {
        AMQPValue::LongLongInt(n) => *n,
        AMQPValue::LongInt(n) => i64::from(*n),
        AMQPValue::LongUInt(n) => i64::from(*n),
        AMQPValue::ShortInt(n) => i64::from(*n),
        AMQPValue::ShortUInt(n) => i64::from(*n),
        AMQPValue::ShortShortInt(n) => i64::from(*n),
        AMQPValue::ShortShortUInt(n) => i64::from(*n),
        _ => return None,
    };
    u32::try_from(number).ok()
}

fn is_time(text: &str) -> bool {
    text.len() <= MAX_TIME && OffsetDateTime::parse(text, &Rfc3339).is_ok()
}

#[cfg(test)]
mod tests {
    use lapin::types::ShortString;

    use super::*;
    use crate::failure::Stage;

    const TIME: &str = "2026-11-22T11:51:08.689Z";

    fn names(headers: &FieldTable) -> Vec<&str> {
        headers.inner().keys().map(ShortString::as_str).collect()
    }

    #[test]
    fn a_history_is_read_as_it_was_written() {
        let tried = History {
            attempt: 3,
            deferred: 2,
            missed: true,
            redriven: 1,
            first_failure: Some(TIME.to_owned()),
        };
        for history in [History::default(), tried] {
            assert_eq!(History::read(Some(&history.to_headers(None))), history);
        }
        assert_eq!(History::read(None), History::default());
    }

    #[test]
    fn a_copy_that_did_not_fail_has_no_headers_and_one_that_did_says_why_and_since_when() {
        assert_eq!(names(&History::default().to_headers(None)), Vec::<&str>::new());
        let detail = "on purpose".to_owned();
        let cause = Cause { reason: "panic", stage: Stage::Scan, detail, signature: None };
        let headers = History::default().to_headers(Some(&cause));
        let expected = [ATTEMPT, DETAIL, FIRST_FAILURE, LAST_FAILURE, REASON, STAGE];
        assert_eq!(names(&headers), expected);
        let failure = RecordedFailure::read(&headers);
        assert_eq!((failure.reason.as_str(), failure.stage.as_str()), ("panic", "scan"));
        assert_eq!(failure.detail, "on purpose");
        assert_eq!(failure.first_failure, failure.last_failure);
        assert!(is_time(&failure.last_failure));
        let tried = History { first_failure: Some(TIME.to_owned()), ..History::default() };
        let failure = RecordedFailure::read(&tried.to_headers(Some(&cause)));
        assert_eq!(failure.first_failure, TIME);
        assert_eq!(failure.signature, "");
        let signature = Some("Win.Test".to_owned());
        let headers = tried.to_headers(Some(&Cause { signature, ..cause }));
        assert_eq!(RecordedFailure::read(&headers).signature, "Win.Test");
    }

    #[test]
    fn headers_of_another_type_or_size_count_as_absent() {
        let long = AMQPValue::LongString("9".repeat(1 << 20).into());
        for odd in [long, AMQPValue::LongLongInt(-1), AMQPValue::Boolean(true), AMQPValue::Void] {
            let mut headers = FieldTable::default();
            for name in [ATTEMPT, DEFERRED, MISSED, REDRIVEN, FIRST_FAILURE, DELIVERY_COUNT] {
                headers.insert(name.into(), odd.clone());
            }
            assert_eq!(History::read(Some(&headers)), History::default(), "{odd:?}");
            assert_eq!(delivery_count(Some(&headers)), 0);
        }
    }

    #[test]
    fn only_our_headers_go_along() {
        let mut headers = History { attempt: 2, ..History::default() }.to_headers(None);
        headers.insert(DELIVERY_COUNT.into(), AMQPValue::LongLongInt(7));
        assert_eq!(names(&own(&headers)), [ATTEMPT]);
    }
}
