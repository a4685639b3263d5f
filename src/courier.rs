//! Delivers one report to the webhook, signed after the Standard Webhooks specification.
//! Source: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use standardwebhooks::Webhook;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::config::{PublishSettings, Secret};
use crate::failure::{Dependency, Failure, Kind, Reason, Stage, causes};
use crate::http;
use crate::tls::Trust;

const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest that a `Retry-After` is honoured, and between two tries of an address that is gone.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// Different reports refused since the last one was taken, after which it is not about them.
const WIDESPREAD: usize = 3;
/// A webhook that took a report so short a time ago is not down.
const RECENT: Duration = Duration::from_secs(3);
/// The same for one that says that it is gone for good, since the pause is long.
const RECENT_FOR_GONE: Duration = Duration::from_mins(1);

/// Posts reports.
pub(crate) struct Courier {
    client: Client,
    settings: PublishSettings,
    answers: Mutex<Answers>,
}

/// One report to deliver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Post<'a> {
    /// Stays the same over all attempts.
    pub(crate) id: &'a str,
    pub(crate) body: &'a [u8],
    /// An earlier attempt may have arrived.
    pub(crate) repeated: bool,
    /// How long ago, at least, the webhook failed to take it; `None` the first time.
    pub(crate) waited: Option<Duration>,
}

/// What the webhook answered of late.
#[derive(Debug, Default)]
struct Answers {
    last_taken: Option<Instant>,
    /// Ids of the reports refused since then, up to [`WIDESPREAD`].
    refused: HashSet<String>,
    said_gone: Option<Instant>,
}

impl Courier {
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub(crate) fn new(settings: &PublishSettings, trust: &Trust) -> Result<Self, String> {
        let client = http::client(trust, http::Proxy::FromEnvironment).map_err(|e| causes(&e))?;
        Ok(Self { client, settings: settings.clone(), answers: Mutex::default() })
    }

    /// Posts one report.
    ///
    /// # Errors
    /// Anything but a 2xx, by what it says of this report or of the webhook.
    pub(crate) async fn deliver(&self, post: Post<'_>) -> Result<(), Failure> {
        let secrets = self.secrets();
        let body = Bytes::copy_from_slice(post.body);
        let answer = match self.post(post.id, &body, &secrets).await? {
            // What was refused was not taken: it may be sent again.
            Ok(response) if refused(response.status()) && self.replaced_after(&secrets) => {
                self.post(post.id, &body, &self.secrets()).await?
            }
            answer => answer,
        };
        let judged = match answer {
            Ok(response) => judge(response.status(), response.headers(), post.repeated),
            Err(error) if error.is_connect() => Judgement::Down(None, causes(&error.without_url())),
            Err(error) => Judgement::Refused(causes(&error.without_url())),
        };
        let mut answers = self.answers();
        let (gone, detail) = match judged {
            Judgement::Delivered => {
                answers.refused.clear();
                answers.last_taken = Some(Instant::now());
                return Ok(());
            }
            Judgement::Rejected(detail) => {
                answers.refused.clear();
                return Err(Failure::permanent(Stage::Report, Reason::WebhookRejected, detail));
            }
            Judgement::Down(pause, detail) => return Err(down(Reason::WebhookDown, pause, detail)),
            Judgement::Refused(detail) => (false, detail),
            Judgement::Gone(detail) => (true, detail),
        };
        if answers.refused.len() < WIDESPREAD {
            answers.refused.insert(post.id.to_owned());
        }
        let facts = Refusal {
            waited: post.waited,
            last_taken: answers.last_taken.map(|at| at.elapsed()),
            refused: answers.refused.len(),
            gone,
        };
        match concerns(facts) {
            Concerned::ThisReport => {
                Err(Failure::transient(Stage::Report, Reason::WebhookRefused, detail))
            }
            Concerned::Unknown => {
                Err(Failure::new(Kind::Busy, Stage::Report, Reason::WebhookRefused, detail))
            }
            Concerned::All if gone => {
                if answers.said_gone.is_none_or(|at| at.elapsed() > LONGEST_PAUSE) {
                    answers.said_gone = Some(Instant::now());
                    tracing::error!(
                        "the webhook is gone for good ({detail}): set PUBLISH_URL anew"
                    );
                }
                Err(down(Reason::WebhookGone, Some(LONGEST_PAUSE), detail))
            }
            Concerned::All => Err(down(Reason::WebhookDown, None, detail)),
        }
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn post(
        &self,
        id: &str,
        body: &Bytes,
        secrets: &Secrets,
    ) -> Result<reqwest::Result<Response>, Failure> {
        let headers = headers(id, body, secrets)?;
        let request = self.client.post(self.settings.url.clone()).timeout(TIMEOUT).headers(headers);
        Ok(request.body(body.clone()).send().await)
    }

    fn secrets(&self) -> Secrets {
        let PublishSettings { secret, authorization, .. } = &self.settings;
        Secrets {
            signing: secret.as_ref().map(Secret::held),
            authorization: authorization.as_ref().map(Secret::held),
        }
    }

    /// Whether there are other secrets by now than those that were refused.
    fn replaced_after(&self, refused: &Secrets) -> bool {
        let replaced = |secret: &Option<Secret>, refused: &Option<SecretString>| {
            secret
                .as_ref()
                .zip(refused.as_ref())
                .is_some_and(|(s, refused)| s.replaced_after(refused))
        };
        // Both files are read: one may be replaced without the other.
        replaced(&self.settings.secret, &refused.signing)
            | replaced(&self.settings.authorization, &refused.authorization)
    }

    /// Whether anything answers at the webhook's address; what it answers does not matter.
    ///
    /// # Errors
    /// When nothing does.
    pub(crate) async fn reachable(&self) -> Result<StatusCode, String> {
        let head = self.client.head(self.settings.url.clone()).timeout(Duration::from_secs(10));
        match head.send().await {
            Ok(response) => Ok(response.status()),
            Err(error) => Err(causes(&error.without_url())),
        }
    }
}

/// What one request is signed and authorized with.
struct Secrets {
    signing: Option<SecretString>,
    authorization: Option<SecretString>,
}

fn headers(id: &str, body: &[u8], secrets: &Secrets) -> Result<HeaderMap, Failure> {
    let unusable = |what: &str| Failure::permanent(Stage::Report, Reason::ReportUnusable, what);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let value = |text: &str| {
        HeaderValue::from_str(text).map_err(|_| unusable("an id that no header takes"))
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("webhook-id", value(id)?);
    headers.insert("webhook-timestamp", HeaderValue::from(now));
    if let Some(signing) = &secrets.signing {
        // The receiver knows one of them, so that secrets can be changed without a gap.
        let sign = |secret| Webhook::new(secret)?.sign(id, now, body);
        let signatures: Result<Vec<_>, _> =
            signing.expose_secret().split_whitespace().map(sign).collect();
        let signatures = signatures.map_err(|_| unusable("it cannot be signed"))?;
        headers.insert("webhook-signature", value(&signatures.join(" "))?);
    }
    if let Some(authorization) = &secrets.authorization {
        let mut authorization = value(authorization.expose_secret())?;
        authorization.set_sensitive(true);
        headers.insert(AUTHORIZATION, authorization);
    }
    Ok(headers)
}

/// The answers that speak of the signature or of the `Authorization` header.
fn refused(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Delivered,
    /// This report will never be taken.
    Rejected(String),
    /// Nothing will be taken for now.
    Down(Option<Duration>, String),
    /// This report, or everything: other reports tell.
    Refused(String),
    /// The same, and if it is everything, for good.
    Gone(String),
}

/// What the webhook's answer means. What a receiver rejects for its content parks that report; a
/// missing login and a rate limit concern every report alike. Of the rest only other reports can
/// tell: a filter in front of the receiver may refuse a report for the object's name.
fn judge(status: StatusCode, headers: &HeaderMap, repeated: bool) -> Judgement {
    let pause = headers.get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?));
    let detail = format!("HTTP {}", status.as_u16());
    match status.as_u16() {
        200..=299 => Judgement::Delivered,
        // "I have that id already."
        409 if repeated => Judgement::Delivered,
        400 | 413 | 422 => Judgement::Rejected(detail),
        401 | 407 | 429 => Judgement::Down(pause, detail),
        410 => Judgement::Gone(detail),
        500.. if pause.is_some() => Judgement::Down(pause, detail),
        _ => Judgement::Refused(detail),
    }
}

/// What is known when a report is refused.
#[derive(Debug, Clone, Copy)]
struct Refusal {
    /// Since this report was refused before, at least.
    waited: Option<Duration>,
    /// Since another report was taken.
    last_taken: Option<Duration>,
    /// Different reports refused since then, this one included.
    refused: usize,
    /// The answer is that the address is gone for good.
    gone: bool,
}

/// Whom a refusal concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Concerned {
    ThisReport,
    Unknown,
    All,
}

/// This report alone, when another one was taken between two refusals of it; all, when several are
/// refused and none was taken for a while.
fn concerns(refusal: Refusal) -> Concerned {
    let taken_between = refusal.last_taken.zip(refusal.waited).is_some_and(|(t, w)| t < w);
    let (many, recent) = if refusal.gone {
        (true, RECENT_FOR_GONE)
    } else {
        (refusal.refused >= WIDESPREAD, RECENT)
    };
    if taken_between {
        Concerned::ThisReport
    } else if many && refusal.last_taken.is_none_or(|taken| taken >= recent) {
        Concerned::All
    } else {
        Concerned::Unknown
    }
}

/// RFC 9110, 10.2.3: seconds, or a date.
fn retry_after(value: &str) -> Option<Duration> {
    let pause = match value.trim().parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = OffsetDateTime::parse(value.trim(), &Rfc2822).ok()?;
            Duration::try_from(until - OffsetDateTime::now_utc()).unwrap_or_default()
        }
    };
    Some(pause.min(LONGEST_PAUSE))
}

fn down(reason: Reason, pause: Option<Duration>, detail: String) -> Failure {
    let kind = Kind::Down(Dependency::Webhook);
    Failure { pause, ..Failure::new(kind, Stage::Report, reason, detail) }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD as BASE64;
    use sha2::{Digest, Sha256};

    use super::*;

    fn judged(status: u16, pause: Option<&str>) -> Judgement {
        let mut headers = HeaderMap::new();
        if let Some(pause) = pause {
            headers.insert(RETRY_AFTER, HeaderValue::from_str(pause).unwrap());
        }
        judge(StatusCode::from_u16(status).unwrap(), &headers, false)
    }

    #[test]
    fn only_what_concerns_the_report_itself_parks_it() {
        for status in [200, 201, 202, 204] {
            assert_eq!(judged(status, None), Judgement::Delivered);
        }
        for status in [400, 413, 422] {
            assert!(matches!(judged(status, None), Judgement::Rejected(_)), "{status}");
        }
        for status in [401, 407, 429] {
            assert!(matches!(judged(status, None), Judgement::Down(None, _)), "{status}");
        }
        for status in [301, 307, 403, 404, 405, 406, 408, 409, 415, 451, 500, 502, 503, 504] {
            assert!(matches!(judged(status, None), Judgement::Refused(_)), "{status}");
        }
        assert!(matches!(judged(410, None), Judgement::Gone(_)));
    }

    #[test]
    fn a_conflict_means_delivered_only_for_a_report_that_was_sent_before() {
        let conflict = |repeated| judge(StatusCode::CONFLICT, &HeaderMap::new(), repeated);
        assert_eq!(conflict(true), Judgement::Delivered);
        assert!(matches!(conflict(false), Judgement::Refused(_)));
    }

    #[test]
    fn a_refusal_concerns_one_report_when_others_are_taken_and_all_when_none_is() {
        use Concerned::{All, ThisReport, Unknown};
        let s = Duration::from_secs;
        for (waited, last_taken, refused, gone, expected) in [
            // The first refusal tells nothing.
            (None, Some(s(0)), 1, false, Unknown),
            (None, None, 1, false, Unknown),
            (None, None, 2, false, Unknown),
            // Taken in between, however many are refused by now.
            (Some(s(10)), Some(s(9)), 1, false, ThisReport),
            (Some(s(10)), Some(s(9)), 3, false, ThisReport),
            (Some(s(600)), Some(s(500)), 3, true, ThisReport),
            // Nothing taken in between: never held against the report.
            (Some(s(10)), Some(s(10)), 1, false, Unknown),
            (Some(s(10)), None, 2, false, Unknown),
            // Several, and nothing else for a while.
            (None, None, 3, false, All),
            (Some(s(10)), Some(s(11)), 3, false, All),
            (None, Some(s(2)), 3, false, Unknown),
            (None, Some(s(3)), 3, false, All),
            // Gone for good needs no second report, but a longer while.
            (None, None, 1, true, All),
            (None, Some(s(59)), 3, true, Unknown),
            (None, Some(s(60)), 1, true, All),
        ] {
            let refusal = Refusal { waited, last_taken, refused, gone };
            assert_eq!(concerns(refusal), expected, "{refusal:?}");
        }
    }

    #[test]
    fn retry_after_is_honoured_up_to_a_cap() {
        let pause = |value| match judged(429, Some(value)) {
            Judgement::Down(pause, _) => pause,
            other => panic!("{other:?}"),
        };
        assert_eq!(pause("7"), Some(Duration::from_secs(7)));
        assert_eq!(pause("999999"), Some(LONGEST_PAUSE));
        assert_eq!(pause("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(pause("Wed, 21 Oct 2115 07:28:00 GMT"), Some(LONGEST_PAUSE));
        assert_eq!(pause("soon"), None);
        assert!(matches!(judged(503, Some("5")), Judgement::Down(Some(_), _)));
    }

    #[test]
    fn a_report_is_signed_as_the_specification_says() {
        let settings = PublishSettings {
            url: "http://127.0.0.1:1/".parse().unwrap(),
            secret: Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()),
            authorization: Some("Bearer t".into()),
        };
        let courier = Courier::new(&settings, &Trust::default()).unwrap();
        let headers = headers("msg_1", b"{\"a\":1}", &courier.secrets()).unwrap();
        assert_eq!(headers["webhook-id"], "msg_1");
        assert_eq!(headers[AUTHORIZATION], "Bearer t");
        let timestamp = headers["webhook-timestamp"].to_str().unwrap();
        let signed = format!("msg_1.{timestamp}.{{\"a\":1}}");
        let expected = format!("v1,{}", BASE64.encode(hmac_sha256(SECRET, signed.as_bytes())));
        assert_eq!(headers["webhook-signature"].to_str().unwrap(), expected);
    }

    #[test]
    fn each_of_several_secrets_signs() {
        let sign = |secret: &str| {
            let settings = PublishSettings {
                url: "http://127.0.0.1:1/".parse().unwrap(),
                secret: Some(secret.into()),
                authorization: None,
            };
            let courier = Courier::new(&settings, &Trust::default()).unwrap();
            let headers = headers("msg_1", b"{}", &courier.secrets()).unwrap();
            let text = |name| headers[name].to_str().unwrap().to_owned();
            (text("webhook-timestamp"), text("webhook-signature"))
        };
        let old = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let new = BASE64.encode([7; 32]);
        let (timestamp, signatures) = sign(&format!(" {old} {new}\n"));
        let signed = format!("msg_1.{timestamp}.{{}}");
        let expected = [SECRET, &[7; 32]]
            .map(|secret| format!("v1,{}", BASE64.encode(hmac_sha256(secret, signed.as_bytes()))));
        assert_eq!(signatures, expected.join(" "));
    }

    /// The bytes of the secret above.
    const SECRET: &[u8] = &[
        0x31, 0xf2, 0x90, 0xf6, 0xbf, 0x06, 0x29, 0x8a, 0xab, 0x4f, 0x08, 0xd4, 0x3c, 0x3f, 0x08,
        0x2c, 0xf6, 0x48, 0xa3, 0x62, 0xda, 0x2d, 0xa4, 0xb0,
    ];

    /// RFC 2104, so that the signature is not checked by the crate that made it.
    fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
        let pad = |byte: u8| -> Vec<u8> {
            (0..64).map(|i| key.get(i).copied().unwrap_or(0) ^ byte).collect()
        };
        let inner = Sha256::digest([&pad(0x36), message].concat());
        Sha256::digest([pad(0x5c), inner.to_vec()].concat()).to_vec()
    }
}
