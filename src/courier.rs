//! Delivers one report to the webhook, signed after the Standard Webhooks specification.
//! Source: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use reqwest::header::{
    AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use reqwest::{Client, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use standardwebhooks::Webhook;

use crate::config::{PublishSettings, Secret};
use crate::failure::{Dependency, Failure, Kind, Reason, Stage, causes};
use crate::http;
use crate::tls::Trust;
use crate::trace::Trace;

/// For one POST, with its answer.
const POST_TIMEOUT: Duration = Duration::from_secs(30);
/// For the HEAD of `check`.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest pause: the cap of `Retry-After`, and the interval between tries of a webhook that is
/// gone.
const MAX_PAUSE: Duration = Duration::from_mins(5);
/// Different reports refused since the last accepted one, from which on the webhook counts as the
/// cause and not the report.
const WIDESPREAD_REFUSALS: usize = 3;
/// The webhook counts as down only when it accepted no report for this long.
const DOWN_AFTER: Duration = Duration::from_secs(3);
/// The same for a webhook that answers 410. Longer, because the pause that follows is long.
const GONE_AFTER: Duration = Duration::from_mins(1);

/// Posts reports to the webhook. Shared by all deliveries, since the answers to some tell what a
/// refusal of another means.
pub(crate) struct Courier {
    client: Client,
    settings: PublishSettings,
    recent: Mutex<Recent>,
}

/// One report to deliver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Post<'a> {
    /// The webhook id; the same at every attempt.
    pub(crate) id: &'a str,
    /// The JSON of the report.
    pub(crate) body: &'a [u8],
    /// Where the request belongs.
    pub(crate) trace: &'a Trace,
    /// The webhook may have received it before.
    pub(crate) repeated: bool,
    /// Time since the last failed attempt, at least; `None` at the first attempt.
    pub(crate) waited: Option<Duration>,
}

/// The webhook's recent answers.
#[derive(Debug, Default)]
struct Recent {
    last_accepted: Option<Instant>,
    /// Ids of the reports refused since then, at most [`WIDESPREAD_REFUSALS`].
    refused: HashSet<String>,
    /// When the error log last named the webhook as gone.
    logged_gone: Option<Instant>,
}

/// What one request is signed and authorized with.
struct Secrets {
    signing: Option<SecretString>,
    authorization: Option<SecretString>,
}

/// What an answer means by itself.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    /// The webhook has the report.
    Delivered,
    /// It will never accept this report.
    Rejected(String),
    /// It accepts no report at the moment; perhaps with a pause that it asked for.
    Down(Option<Duration>, String),
    /// It refuses this report or every report; other reports show which.
    Refused(String),
    /// As `Refused`; if it is every report, then permanently (410).
    Gone(String),
}

/// The facts that decide what a refusal means.
#[derive(Debug, Clone, Copy)]
struct Refusal {
    /// Time since this report was refused before, at least; `None` at the first time.
    waited: Option<Duration>,
    /// Time since any report was accepted; `None` if none was.
    last_accepted: Option<Duration>,
    /// Different reports refused since then, this one included.
    refused: usize,
    /// The answer was 410.
    gone: bool,
}

/// Which reports a refusal concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Concerned {
    ThisReport,
    Unknown,
    AllReports,
}

impl Courier {
    /// A courier for one webhook.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub(crate) fn new(settings: &PublishSettings, trust: &Trust) -> Result<Self, String> {
        let client = http::client(trust, http::Proxy::FromEnvironment).map_err(|e| causes(&e))?;
        Ok(Self { client, settings: settings.clone(), recent: Mutex::default() })
    }

    /// Posts one report.
    ///
    /// # Errors
    /// Every answer but a 2xx (and 409 to a repeated report): [`Kind::Permanent`] or
    /// [`Kind::Transient`] when only this report is concerned, [`Kind::Down`] when every report is,
    /// [`Kind::Busy`] when that is not known yet.
    pub(crate) async fn deliver(&self, post: Post<'_>) -> Result<(), Failure> {
        let judgement = self.judgement(post).await?;
        let mut recent = self.recent();
        match judgement {
            Judgement::Delivered => {
                recent.refused.clear();
                recent.last_accepted = Some(Instant::now());
                Ok(())
            }
            Judgement::Rejected(detail) => {
                recent.refused.clear();
                Err(Failure::permanent(Stage::Report, Reason::WebhookRejected, detail))
            }
            Judgement::Down(pause, detail) => Err(down(Reason::WebhookDown, pause, detail)),
            Judgement::Refused(detail) => Err(recent.refusal(post, false, detail)),
            Judgement::Gone(detail) => Err(recent.refusal(post, true, detail)),
        }
    }

    /// Posts the report, and once more when the secrets were refused and have been replaced.
    async fn judgement(&self, post: Post<'_>) -> Result<Judgement, Failure> {
        let secrets = self.secrets();
        let body = Bytes::copy_from_slice(post.body);
        let answer = match self.post(post, &body, &secrets).await? {
            // A refused report was not accepted, so it may be sent again.
            Ok(response) if refused(response.status()) && self.replaced_after(&secrets) => {
                self.post(post, &body, &self.secrets()).await?
            }
            answer => answer,
        };
        Ok(match answer {
            Ok(response) => judge(response.status(), response.headers(), post.repeated),
            Err(error) if error.is_connect() => Judgement::Down(None, causes(&error.without_url())),
            Err(error) => Judgement::Refused(causes(&error.without_url())),
        })
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn post(
        &self,
        post: Post<'_>,
        body: &Bytes,
        secrets: &Secrets,
    ) -> Result<reqwest::Result<Response>, Failure> {
        let mut headers = headers(post.id, body, secrets)?;
        let mut span = post.trace.call("courier");
        span.set("http.request.method", "POST");
        span.text("server.address", self.settings.url.host_str().unwrap_or_default());
        span.text("avscan.report.id", post.id);
        for (name, text) in post.trace.within(&span).headers() {
            headers.extend(
                HeaderValue::try_from(text).map(|text| (HeaderName::from_static(name), text)),
            );
        }
        let request =
            self.client.post(self.settings.url.clone()).timeout(POST_TIMEOUT).headers(headers);
        let answer = request.body(body.clone()).send().await;
        match &answer {
            Ok(response) => {
                let status = response.status();
                span.count("http.response.status_code", status.as_u16());
                if !status.is_success() {
                    span.failed("http_status", status.as_str());
                }
            }
            Err(_) => span.failed("no_answer", "no answer"),
        }
        Ok(answer)
    }

    fn secrets(&self) -> Secrets {
        let PublishSettings { secret, authorization, .. } = &self.settings;
        Secrets {
            signing: secret.as_ref().map(Secret::held),
            authorization: authorization.as_ref().map(Secret::held),
        }
    }

    /// Whether a secret was replaced since `refused` was read.
    fn replaced_after(&self, refused: &Secrets) -> bool {
        let replaced = |secret: &Option<Secret>, refused: &Option<SecretString>| {
            secret
                .as_ref()
                .zip(refused.as_ref())
                .is_some_and(|(s, refused)| s.replaced_after(refused))
        };
        // Not short-circuited: both files must be read again.
        replaced(&self.settings.secret, &refused.signing)
            | replaced(&self.settings.authorization, &refused.authorization)
    }

    /// Sends a HEAD to the webhook, for `check`. Any status will do.
    ///
    /// # Errors
    /// When there is no answer within [`HEAD_TIMEOUT`].
    pub(crate) async fn reachable(&self) -> Result<StatusCode, String> {
        let head = self.client.head(self.settings.url.clone()).timeout(HEAD_TIMEOUT);
        match head.send().await {
            Ok(response) => Ok(response.status()),
            Err(error) => Err(causes(&error.without_url())),
        }
    }
}

impl Recent {
    /// Notes that `post` was refused, and says what that means in the light of the other answers.
    fn refusal(&mut self, post: Post<'_>, gone: bool, detail: String) -> Failure {
        if self.refused.len() < WIDESPREAD_REFUSALS {
            self.refused.insert(post.id.to_owned());
        }
        let facts = Refusal {
            waited: post.waited,
            last_accepted: self.last_accepted.map(|at| at.elapsed()),
            refused: self.refused.len(),
            gone,
        };
        match concerns(facts) {
            Concerned::ThisReport => {
                Failure::transient(Stage::Report, Reason::WebhookRefused, detail)
            }
            Concerned::Unknown => {
                Failure::new(Kind::Busy, Stage::Report, Reason::WebhookRefused, detail)
            }
            Concerned::AllReports if gone => {
                if self.logged_gone.is_none_or(|at| at.elapsed() > MAX_PAUSE) {
                    self.logged_gone = Some(Instant::now());
                    tracing::error!(
                        "the webhook is gone for good ({detail}): set another PUBLISH_URL"
                    );
                }
                down(Reason::WebhookGone, Some(MAX_PAUSE), detail)
            }
            Concerned::AllReports => down(Reason::WebhookDown, None, detail),
        }
    }
}

fn headers(id: &str, body: &[u8], secrets: &Secrets) -> Result<HeaderMap, Failure> {
    let unusable = |what: &str| Failure::permanent(Stage::Report, Reason::ReportUnusable, what);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let value = |text: &str| {
        HeaderValue::from_str(text).map_err(|_| unusable("its id is not a valid header"))
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("webhook-id", value(id)?);
    headers.insert("webhook-timestamp", HeaderValue::from(now));
    if let Some(signing) = &secrets.signing {
        // One signature for each secret: a receiver that knows one of them accepts the report, so
        // secrets can be rotated.
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

/// Answers that can mean a wrong signature or `Authorization` header.
fn refused(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// What an answer means by itself. A report whose content is rejected is parked. A missing login
/// and a rate limit concern every report. Any other refusal may concern one report or all, for
/// instance when a filter in front of the receiver refuses an object's name; other reports show
/// which.
fn judge(status: StatusCode, headers: &HeaderMap, repeated: bool) -> Judgement {
    let pause = headers.get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?));
    let detail = format!("HTTP {}", status.as_u16());
    match status.as_u16() {
        200..=299 => Judgement::Delivered,
        // The receiver has a report with this id already.
        409 if repeated => Judgement::Delivered,
        400 | 413 | 422 => Judgement::Rejected(detail),
        401 | 407 | 429 => Judgement::Down(pause, detail),
        410 => Judgement::Gone(detail),
        500.. if pause.is_some() => Judgement::Down(pause, detail),
        _ => Judgement::Refused(detail),
    }
}

/// Only this report when another was accepted between two refusals of it. All reports when several
/// different ones are refused and none was accepted for a while. Else unknown.
fn concerns(refusal: Refusal) -> Concerned {
    let accepted_between = refusal
        .last_accepted
        .zip(refusal.waited)
        .is_some_and(|(accepted, waited)| accepted < waited);
    let (enough, down_after) = if refusal.gone {
        (true, GONE_AFTER)
    } else {
        (refusal.refused >= WIDESPREAD_REFUSALS, DOWN_AFTER)
    };
    if accepted_between {
        Concerned::ThisReport
    } else if enough && refusal.last_accepted.is_none_or(|accepted| accepted >= down_after) {
        Concerned::AllReports
    } else {
        Concerned::Unknown
    }
}

/// The pause that a `Retry-After` asks for, at most [`MAX_PAUSE`]. RFC 9110, 10.2.3: seconds or an
/// HTTP date.
fn retry_after(value: &str) -> Option<Duration> {
    let pause = match value.trim().parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = httpdate::parse_http_date(value.trim()).ok()?;
            until.duration_since(SystemTime::now()).unwrap_or_default()
        }
    };
    Some(pause.min(MAX_PAUSE))
}

fn down(reason: Reason, pause: Option<Duration>, detail: String) -> Failure {
    let kind = Kind::Down(Dependency::Webhook);
    Failure { pause, ..Failure::new(kind, Stage::Report, reason, detail) }
}
