//! What a sender is answered.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use strum::IntoStaticStr;

use crate::queue::NotTaken;

/// What became of a request; the label of its metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoStaticStr)]
#[cfg_attr(test, derive(strum::EnumIter))]
#[strum(serialize_all = "snake_case", const_into_str)]
pub(crate) enum Answer {
    /// The notification is in the queue.
    Accepted,
    /// A store asked whether there is anybody at all.
    Probed,
    /// Another path than `/events`.
    NotFound,
    /// Another method than POST, or HEAD and GET as a probe.
    WrongMethod,
    /// No token, or an unknown one.
    Unauthorized,
    /// A compressed body.
    Encoded,
    /// Neither a length nor chunks.
    NoLength,
    /// A body larger than 1 MiB.
    TooLarge,
    /// A body that did not come in time, or broke off.
    Incomplete,
    /// A body that is not JSON.
    NotJson,
    /// Too many requests at once.
    Busy,
    /// There is no session with the broker.
    #[strum(serialize = "unavailable")]
    Disconnected,
    /// The broker accepts no messages.
    #[strum(serialize = "unavailable")]
    Blocked,
    /// Not confirmed by the broker.
    Unavailable,
    /// The queue is full or missing.
    Refused,
}

impl From<NotTaken> for Answer {
    fn from(reason: NotTaken) -> Self {
        match reason {
            NotTaken::NoAnswer => Self::Unavailable,
            NotTaken::Blocked => Self::Blocked,
            NotTaken::Refused => Self::Refused,
        }
    }
}

impl Answer {
    /// RFC 9110; 429 is RFC 6585.
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::Accepted | Self::Probed => StatusCode::OK,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Encoded => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NoLength => StatusCode::LENGTH_REQUIRED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Incomplete => StatusCode::REQUEST_TIMEOUT,
            Self::NotJson => StatusCode::BAD_REQUEST,
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
            Self::Disconnected | Self::Blocked | Self::Unavailable | Self::Refused => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// One line for whoever reads the sender's log. Says nothing of the deployment.
    const fn text(self) -> &'static str {
        match self {
            Self::Accepted => "",
            Self::Probed => "POST notifications here\n",
            Self::NotFound => "POST to /events\n",
            Self::WrongMethod => "POST only\n",
            Self::Unauthorized => "Authorization: Bearer with a valid token is required\n",
            Self::Encoded => "send the body without Content-Encoding\n",
            Self::NoLength => "Content-Length is required\n",
            Self::TooLarge => "the body is larger than 1 MiB\n",
            Self::Incomplete => "the body did not come in time\n",
            Self::NotJson => "the body is not JSON\n",
            Self::Busy => "too many requests at once, repeat it\n",
            Self::Disconnected => "not queued, repeat it: there is no connection to the broker\n",
            Self::Blocked => "not queued, repeat it: the broker accepts no messages\n",
            Self::Unavailable => "not queued, repeat it: the broker does not confirm\n",
            Self::Refused => "not queued, repeat it: the queue refuses\n",
        }
    }

    /// What an operator of the daemon is told of a request that was turned away; `None` where that is
    /// no news.
    pub(super) const fn warning(self) -> Option<&'static str> {
        match self {
            Self::Accepted | Self::Probed => None,
            Self::NotFound => Some("its path is not /events: set the endpoint to /events"),
            Self::WrongMethod => Some("its method is not POST: is this a webhook of a store?"),
            Self::Unauthorized => {
                Some("without a token of INTAKE_TOKEN: the sender must have the same one")
            }
            Self::Encoded => Some("its body is compressed: switch that off at the sender"),
            Self::NoLength => Some("its body has no length and no chunks: look at the sender"),
            Self::TooLarge => Some("its body is larger than 1 MiB"),
            Self::Incomplete => Some("its body did not come in time: look at sender and network"),
            Self::NotJson => Some("its body is not JSON: is this a webhook of a store?"),
            Self::Busy => Some("too many requests at once: the sender has to repeat it"),
            Self::Disconnected => Some("there is no connection to the broker"),
            Self::Blocked => Some("the broker accepts no messages (memory or disk alarm)"),
            Self::Unavailable => Some("the broker does not confirm in time"),
            Self::Refused => Some("the notifications queue is full or missing"),
        }
    }

    /// Seconds until the sender should repeat the request.
    const fn retry_after(self) -> Option<u64> {
        match self {
            Self::Busy => Some(1),
            Self::Disconnected | Self::Blocked | Self::Unavailable | Self::Refused => Some(5),
            _ => None,
        }
    }

    pub(super) fn response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from_static(self.text().as_bytes())));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        match self {
            Self::WrongMethod => {
                headers.insert(ALLOW, HeaderValue::from_static("POST, HEAD, GET"));
            }
            Self::Unauthorized => {
                // One field each: not every sender can take a list apart.
                for challenge in ["Bearer", "Basic realm=\"avscan\""] {
                    headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
                }
            }
            // What comes after such a body cannot be told from it.
            Self::TooLarge | Self::Incomplete => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use strum::IntoEnumIterator;

    use super::*;

    #[test]
    fn what_is_to_be_repeated_says_when() {
        for answer in Answer::iter() {
            let repeat = matches!(answer.status().as_u16(), 429 | 503);
            let headers = answer.response().headers().clone();
            assert_eq!(headers.contains_key(RETRY_AFTER), repeat, "{answer:?}");
        }
    }

    #[test]
    fn what_is_turned_away_is_warned_about() {
        for answer in Answer::iter() {
            assert_eq!(answer.warning().is_none(), answer.status() == 200, "{answer:?}");
        }
    }
}
