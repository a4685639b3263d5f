//! The result of one object: its JSON, its id. The format is `docs/report.schema.json`.

use std::time::SystemTime;

use serde::Serialize;
use strum::{Display, IntoStaticStr};
use uuid::Uuid;

use crate::clock;
use crate::event::ObjectRef;
use crate::policy::{Action, Surge};
use crate::scanner::EngineState;
use crate::store::{Identity, Observation};
use crate::verdict::{Status, UnscannableReason, Verdict};

/// The `type` of a report, for receivers of several kinds of events (Standard Webhooks).
const TYPE: &str = "object.scanned";
/// The number of a delivery's last report, greater than that of every other one.
pub(crate) const LAST_REPORT: u32 = 99;

/// The namespace of report ids.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d1f_6f6e_8f0b_4c55_9d1a_3b0c_77f2_a9e4);

/// What became of one object.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    /// Equal for the same result of the same upload, so that receivers can drop duplicates.
    pub(crate) id: Uuid,
    #[serde(rename = "type")]
    kind: &'static str,
    /// When it was published (RFC 3339).
    reported_at: String,
    /// Grows over all reports about one notification: a correction has a greater number than what it
    /// corrects.
    sequence: u64,
    bucket: String,
    key: String,
    version_id: Option<String>,
    etag: Option<String>,
    size: Option<u64>,
    sha256: Option<String>,
    pub(crate) status: Status,
    reason: Option<UnscannableReason>,
    signature: Option<String>,
    /// The engine's name for the reason why it did not look into the object.
    heuristic: Option<String>,
    action: Action,
    /// The name of the object's copy in the quarantine bucket.
    quarantine_key: Option<String>,
    trigger: Trigger,
    /// So many contents have this signature that it may be wrong.
    surge: Option<Surge>,
    /// Why the effect that an earlier report announced was not possible.
    error: Option<EffectError>,
    engine: Option<EngineInfo>,
    event_time: Option<String>,
    scan_started: Option<String>,
    scan_finished: Option<String>,
    attempt: u32,
    #[serde(skip)]
    is_of_deletion: bool,
}

/// Why an object was scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, Serialize)]
#[strum(serialize_all = "snake_case", const_into_str)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Trigger {
    /// Somebody uploaded it.
    Upload,
    /// A sweep found it.
    Sweep,
    /// It is a canary of ours.
    Canary,
}

/// Which attempt at an object a report is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// Since the upload, or since the message was redriven; the first is 1.
    pub(crate) number: u32,
    /// How often the message was redriven. A finding after that is news, even if it was reported
    /// before the report that the object could not be scanned.
    pub(crate) redriven: u32,
    /// How often the broker redelivered the message, where it counts that.
    pub(crate) delivery_count: u32,
}

/// Why an effect was not possible, or not any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Display, IntoStaticStr, Serialize)]
#[strum(serialize_all = "snake_case", const_into_str)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EffectError {
    /// The store does not allow the deletion.
    DeleteDenied,
    /// The deletion failed in every attempt.
    DeleteFailed,
    /// The store does not allow the copy into the quarantine bucket.
    QuarantineDenied,
    /// That copy failed in every attempt.
    QuarantineFailed,
    /// A rule of retention keeps the object.
    Locked,
    /// The store does not allow the tag.
    TagDenied,
    /// Tagging failed in every attempt.
    TagFailed,
    /// The object has as many tags as the store allows.
    TagSetFull,
    /// The store has no tags.
    TagUnsupported,
    /// The store named neither a version nor an `ETag`.
    NoIdentity,
    /// Other bytes are there now.
    Superseded,
    /// The object has a receipt of a later scan, or by a newer database.
    NewerVerdict,
}

impl EffectError {
    /// Whether the object was to be taken away, and is still there.
    pub(crate) const fn is_of_deletion(self) -> bool {
        matches!(
            self,
            Self::DeleteDenied
                | Self::DeleteFailed
                | Self::QuarantineDenied
                | Self::QuarantineFailed
                | Self::Locked
        )
    }
}

/// The engine that gave the verdict.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct EngineInfo {
    name: &'static str,
    version: Option<String>,
    database_version: Option<String>,
    database_date: Option<String>,
    limits_reported: bool,
}

impl From<EngineState> for EngineInfo {
    fn from(engine: EngineState) -> Self {
        let EngineState { name, version, limits_reported } = engine;
        Self {
            name,
            version: version.engine,
            database_version: version.database,
            database_date: version.database_date.map(|date| clock::rfc3339(date.into())),
            limits_reported,
        }
    }
}

/// An object whose bytes have a verdict.
#[derive(Debug, Clone)]
pub(crate) struct Examined {
    pub(crate) identity: Identity,
    /// What the store said besides the bytes. Absent when nothing was downloaded.
    pub(crate) observation: Option<Observation>,
    pub(crate) trigger: Trigger,
    pub(crate) verdict: Verdict,
    /// It is infected, and a person has released exactly this finding in these bytes.
    pub(crate) released: bool,
    /// Absent when nothing was downloaded.
    pub(crate) sha256: Option<String>,
    /// These are the bytes that the notification announced, not newer ones.
    pub(crate) as_announced: bool,
    /// The signature is in a surge. Asked only about what would be deleted.
    pub(crate) surge: Option<Surge>,
    pub(crate) engine: Option<EngineState>,
    pub(crate) started: SystemTime,
    pub(crate) finished: SystemTime,
}

impl Examined {
    /// Whether it is a canary of our own.
    pub(crate) fn is_canary(&self) -> bool {
        self.trigger == Trigger::Canary
    }

    /// What tag and report say of it.
    pub(crate) fn status(&self) -> Status {
        if self.released { Status::Released } else { Status::from(&self.verdict) }
    }

    /// Whether these are the same bytes, by identity and hash.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.identity == other.identity && self.sha256.is_some() && self.sha256 == other.sha256
    }
}

impl Report {
    /// Dates the report, and gives it its place: the `number`th report of this attempt.
    pub(crate) fn at(mut self, attempt: Attempt, number: u32) -> Self {
        // Decimal places, so that people can read it: redriven, attempt, redeliveries, number.
        let Attempt { number: attempt, redriven, delivery_count } = attempt;
        let attempt = u64::from(attempt.min(9_999));
        let places =
            (u64::from(redriven) * 10_000 + attempt) * 100 + u64::from(delivery_count.min(99));
        self.sequence = places * 100 + u64::from(number.min(LAST_REPORT));
        self.reported_at = clock::now();
        self
    }

    /// Names the copy in the quarantine bucket.
    pub(crate) fn with_quarantine_key(mut self, key: Option<String>) -> Self {
        self.quarantine_key = key;
        self
    }

    /// Whether it reports a deletion or a move, or corrects a report that does.
    pub(crate) const fn is_of_deletion(&self) -> bool {
        self.is_of_deletion
    }

    /// The report of a verdict.
    pub(crate) fn of(
        object: &ObjectRef,
        examined: &Examined,
        attempt: Attempt,
        action: Action,
        error: Option<EffectError>,
    ) -> Self {
        let Examined { identity, verdict, .. } = examined;
        let status = examined.status();
        let (reason, signature, heuristic) = match verdict {
            Verdict::Clean => (None, None, None),
            Verdict::Infected { signature } => (None, Some(signature.clone()), None),
            Verdict::Unscannable { reason, heuristic } => (Some(*reason), None, heuristic.clone()),
        };
        let is_of_deletion = action.removes() || error.is_some_and(EffectError::is_of_deletion);
        let pin = identity.version_id().or(identity.etag.as_deref());
        let why = error.map(|error| error.into_str()).or(reason.map(|reason| reason.into_str()));
        Self {
            id: id(
                object,
                &identity.key,
                pin,
                [status.into_str(), action.into_str(), why.unwrap_or_default()],
                attempt,
            ),
            kind: TYPE,
            reported_at: String::new(),
            sequence: 0,
            bucket: identity.bucket.clone(),
            key: identity.key.clone(),
            version_id: identity.version_id().map(str::to_owned),
            etag: identity.etag.clone(),
            size: identity.length,
            sha256: examined.sha256.clone(),
            status,
            reason,
            signature,
            heuristic,
            action,
            quarantine_key: None,
            trigger: examined.trigger,
            surge: examined.surge,
            error,
            engine: examined.engine.clone().map(EngineInfo::from),
            event_time: object.event_time.clone(),
            scan_started: Some(clock::rfc3339(examined.started)),
            scan_finished: Some(clock::rfc3339(examined.finished)),
            attempt: attempt.number,
            is_of_deletion,
        }
    }

    /// The report of an object for which every attempt failed without a verdict.
    pub(crate) fn of_failure(
        object: &ObjectRef,
        trigger: Trigger,
        attempt: Attempt,
        action: Action,
    ) -> Self {
        let key = object.key.clone();
        let pin = object.version_id.as_deref().or(object.etag.as_deref());
        let (status, reason) = (Status::No, UnscannableReason::ScanFailed);
        Self {
            id: id(
                object,
                &key,
                pin,
                [status.into_str(), action.into_str(), reason.into_str()],
                attempt,
            ),
            kind: TYPE,
            reported_at: String::new(),
            sequence: 0,
            bucket: object.bucket.clone(),
            key,
            version_id: object.version_id.clone(),
            etag: object.etag.clone(),
            size: object.size,
            sha256: None,
            status,
            reason: Some(reason),
            signature: None,
            heuristic: None,
            action,
            quarantine_key: None,
            trigger,
            surge: None,
            error: None,
            engine: None,
            event_time: object.event_time.clone(),
            scan_started: None,
            scan_finished: None,
            attempt: attempt.number,
            is_of_deletion: false,
        }
    }
}

/// A name-based UUID (RFC 9562, version 5). `result` is status, action, and the reason or error: a
/// correction must not be dropped as a duplicate of what it corrects.
fn id(
    object: &ObjectRef,
    key: &str,
    pin: Option<&str>,
    result: [&str; 3],
    attempt: Attempt,
) -> Uuid {
    let upload = object.sequencer.as_deref().or(object.event_time.as_deref()).unwrap_or_default();
    let pin = pin.unwrap_or_default();
    // NUL cannot occur in any of the parts but keys, where no store takes it.
    let [status, action, why] = result;
    let mut name = [&object.bucket, key, pin, upload, status, action, why].join("\0");
    if attempt.redriven > 0 {
        name = format!("{name}\0{}", attempt.redriven);
    }
    Uuid::new_v5(&NAMESPACE, name.as_bytes())
}
