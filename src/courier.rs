//! Delivers one report to the webhook, signed after the Standard Webhooks specification.
//! Source: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use standardwebhooks::Webhook;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::config::{PublishSettings, Secret};
use crate::failure::{Dependency, Failure, Kind, Stage, causes};
use crate::http;

const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest that a `Retry-After` is honoured.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// Server errors in a row, of whatever reports, after which the webhook itself is in question.
const WIDESPREAD: u32 = 3;

/// Posts reports.
pub(crate) struct Courier {
    client: Client,
    settings: PublishSettings,
    errors_in_a_row: AtomicU32,
}

impl Courier {
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub(crate) fn new(settings: &PublishSettings, ca: Option<&[u8]>) -> Result<Self, String> {
        let client = http::client(ca, http::Proxy::FromEnvironment).map_err(|e| causes(&e))?;
        Ok(Self { client, settings: settings.clone(), errors_in_a_row: AtomicU32::new(0) })
    }

    /// Posts one report. `id` stays the same over all attempts.
    ///
    /// # Errors
    /// Anything but a 2xx, by what it says of this report or of the webhook.
    pub(crate) async fn deliver(&self, id: &str, body: Vec<u8>) -> Result<(), Failure> {
        let secrets = self.secrets();
        let body = Bytes::from(body);
        let answer = match self.post(id, &body, &secrets).await? {
            // What was refused was not taken: it may be sent again.
            Ok(response) if refused(response.status()) && self.replaced_after(&secrets) => {
                self.post(id, &body, &self.secrets()).await?
            }
            answer => answer,
        };
        let judged = match answer {
            Ok(response) => judge(response.status(), response.headers()),
            Err(error) if error.is_connect() => Judgement::Down(None, causes(&error.without_url())),
            Err(error) => Judgement::ServerError(causes(&error.without_url())),
        };
        match judged {
            Judgement::Delivered => {
                self.errors_in_a_row.store(0, Ordering::Relaxed);
                Ok(())
            }
            Judgement::Rejected(detail) => {
                self.errors_in_a_row.store(0, Ordering::Relaxed);
                Err(Failure::permanent(Stage::Report, "webhook_rejected", detail))
            }
            Judgement::Down(pause, detail) => Err(down(pause, detail)),
            Judgement::ServerError(detail) => {
                if self.errors_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= WIDESPREAD {
                    return Err(down(None, detail));
                }
                Err(Failure::transient(Stage::Report, "webhook_error", detail))
            }
        }
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
    let unusable = |what: &str| Failure::permanent(Stage::Report, "report_unusable", what);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let value = |text: &str| {
        HeaderValue::from_str(text).map_err(|_| unusable("an id that no header takes"))
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("webhook-id", value(id)?);
    headers.insert("webhook-timestamp", HeaderValue::from(now));
    if let Some(secret) = &secrets.signing {
        let signature = Webhook::new(secret.expose_secret())
            .and_then(|signer| signer.sign(id, now, body))
            .map_err(|_| unusable("it cannot be signed"))?;
        headers.insert("webhook-signature", value(&signature)?);
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
    /// This report, or everything: the next ones tell.
    ServerError(String),
}

/// What the webhook's answer means. What a receiver rejects for its content parks that report;
/// what speaks of addresses and rights concerns every report alike.
fn judge(status: StatusCode, headers: &HeaderMap) -> Judgement {
    let pause = headers.get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?));
    let detail = format!("HTTP {}", status.as_u16());
    match status.as_u16() {
        200..=299 => Judgement::Delivered,
        400 | 413 | 422 => Judgement::Rejected(detail),
        408 => Judgement::ServerError(detail),
        500.. if pause.is_none() => Judgement::ServerError(detail),
        _ => Judgement::Down(pause, detail),
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

fn down(pause: Option<Duration>, detail: String) -> Failure {
    let kind = Kind::Down(Dependency::Webhook);
    Failure { pause, ..Failure::new(kind, Stage::Report, "webhook_down", detail) }
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
        judge(StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn only_what_concerns_the_report_itself_parks_it() {
        for status in [200, 201, 202, 204] {
            assert_eq!(judged(status, None), Judgement::Delivered);
        }
        for status in [400, 413, 422] {
            assert!(matches!(judged(status, None), Judgement::Rejected(_)), "{status}");
        }
        for status in [301, 307, 401, 403, 404, 405, 410, 429] {
            assert!(matches!(judged(status, None), Judgement::Down(None, _)), "{status}");
        }
        for status in [408, 500, 502, 503, 504] {
            assert!(matches!(judged(status, None), Judgement::ServerError(_)), "{status}");
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
        let courier = Courier::new(&settings, None).unwrap();
        let headers = headers("msg_1", b"{\"a\":1}", &courier.secrets()).unwrap();
        assert_eq!(headers["webhook-id"], "msg_1");
        assert_eq!(headers[AUTHORIZATION], "Bearer t");
        let timestamp = headers["webhook-timestamp"].to_str().unwrap();
        let signed = format!("msg_1.{timestamp}.{{\"a\":1}}");
        let expected = format!("v1,{}", BASE64.encode(hmac_sha256(SECRET, signed.as_bytes())));
        assert_eq!(headers["webhook-signature"].to_str().unwrap(), expected);
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
