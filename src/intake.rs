//! Takes a store's webhook, and answers 2xx once the broker has confirmed the notification into the
//! queue. What is not confirmed is the sender's to repeat; so nothing is kept here.
//!
//! Served by hyper, which the admin server uses already: there is one path, and what is to be bounded
//! (time for the headers, connections, TLS handshakes) lies below any router.

mod answer;
mod body;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod token;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub(crate) use self::answer::Answer;
use crate::config::{IntakeSettings, Secret};
use crate::metrics::Metrics;
use crate::queue::Inlet;
use crate::server::{self, Limits, Peer};

/// The only path.
pub(crate) const PATH: &str = "/events";
/// Requests worked on at once; each may hold a body.
const MAX_IN_FLIGHT: usize = 64;
/// Idle connections are kept for longer than the 20 s after which senders commonly close them, so
/// that a request is rarely sent into a connection that is being closed.
const LIMITS: Limits = Limits {
    connections: 256,
    headers: Duration::from_secs(30),
    connection: None,
    drain: Duration::from_secs(5),
};
/// Between two looks at the files of tokens and certificate.
const REREAD_INTERVAL: Duration = Duration::from_secs(5);
/// Between two warnings of one kind. Strangers can cause them.
const WARNING_INTERVAL: Duration = Duration::from_mins(1);
/// In the metric of answers, for a connection that got none.
const CROWDED_OUT: &str = "crowded_out";

/// The way to the broker; `None` while there is no session.
pub(crate) type ToBroker = watch::Receiver<Option<Inlet>>;

/// What is warned about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Warned {
    /// A request that got this answer.
    Answered(Answer),
    /// A connection that was closed because there were too many.
    CrowdedOut,
}

/// The intake of one daemon.
pub(crate) struct Intake {
    settings: IntakeSettings,
    to_broker: ToBroker,
    metrics: Arc<Metrics>,
    in_flight: Semaphore,
    warned: Mutex<HashMap<Warned, Instant>>,
}

impl Intake {
    /// Listens; nothing is answered yet.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub(crate) fn listen(settings: &IntakeSettings) -> io::Result<TcpListener> {
        server::listen(settings.address)
    }

    pub(crate) fn new(
        settings: IntakeSettings,
        to_broker: ToBroker,
        metrics: Arc<Metrics>,
    ) -> Self {
        let in_flight = Semaphore::new(MAX_IN_FLIGHT);
        Self { settings, to_broker, metrics, in_flight, warned: Mutex::default() }
    }

    /// Serves until `stop` is cancelled, then ends what is running.
    pub(crate) async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let tls = self.settings.tls.as_ref().map(|identity| TlsAcceptor::from(identity.server()));
        let reread = tokio::spawn(reread(self.settings.clone()));
        let intake = Arc::new(self);
        let crowded = {
            let intake = Arc::clone(&intake);
            move || intake.crowded()
        };
        let handle = move |request, peer| Arc::clone(&intake).handle(request, peer);
        server::serve(listener, LIMITS, tls, handle, crowded, stop).await;
        reread.abort();
    }

    async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Peer,
    ) -> Response<Full<Bytes>> {
        let (head, mut body) = request.into_parts();
        let answer = match admit(&head, &self.settings.token) {
            Ok(()) => {
                peer.prefer();
                self.accept(&head, &mut body).await
            }
            Err(answer) => answer,
        };
        // Before the rest of the body is awaited: a sender that hangs up ends this there.
        self.metrics.intake(answer.into());
        self.rejected(answer);
        if answer != Answer::Accepted {
            body::discard(&head.headers, body).await;
        }
        answer.response()
    }

    async fn accept(&self, head: &Parts, body: &mut Incoming) -> Answer {
        let Ok(_slot) = self.in_flight.try_acquire() else { return Answer::Busy };
        let queued = async {
            let body = body::read(&head.headers, body).await?;
            let message = body::message(&head.headers, &body)?;
            let inlet = self.to_broker.borrow().clone().ok_or(Answer::Disconnected)?;
            inlet.take(&message, &body::trace(&head.headers)).await.map_err(|reason| {
                tracing::debug!("not queued: {reason}");
                Answer::from(reason)
            })
        };
        queued.await.err().unwrap_or(Answer::Accepted)
    }

    fn rejected(&self, answer: Answer) {
        let Some(warning) = answer.warning() else { return };
        if self.is_news(Warned::Answered(answer)) {
            tracing::warn!(status = answer.status().as_u16(), "a webhook was rejected: {warning}");
        }
    }

    fn crowded(&self) {
        self.metrics.intake(CROWDED_OUT);
        if self.is_news(Warned::CrowdedOut) {
            let most = LIMITS.connections;
            tracing::warn!(
                "the intake closed a connection: more than {most} are open, look at who holds them"
            );
        }
    }

    /// Whether a warning of this kind is due: there is none for each single case.
    fn is_news(&self, kind: Warned) -> bool {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let due = warned.get(&kind).is_none_or(|at| at.elapsed() > WARNING_INTERVAL);
        if due {
            warned.insert(kind, Instant::now());
        }
        due
    }
}

/// Whether a request may go on to its body. Pure.
///
/// # Errors
/// The answer to one that may not, or that needs no body.
fn admit(head: &Parts, token: &Secret) -> Result<(), Answer> {
    if head.uri.path() != PATH {
        return Err(Answer::NotFound);
    }
    let authorization = head.headers.get(AUTHORIZATION);
    match head.method {
        Method::POST => {}
        // MinIO asks so, without or with the token, before it takes an endpoint into use.
        Method::HEAD | Method::GET if authorization.is_none() => return Err(Answer::Probed),
        Method::HEAD | Method::GET => {
            let valid = token::is_valid(authorization, token);
            return Err(if valid { Answer::Probed } else { Answer::Unauthorized });
        }
        _ => return Err(Answer::WrongMethod),
    }
    if !token::is_valid(authorization, token) {
        return Err(Answer::Unauthorized);
    }
    let plain = |value: &hyper::header::HeaderValue| {
        value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity")
    };
    if !head.headers.get_all(CONTENT_ENCODING).iter().all(plain) {
        return Err(Answer::Encoded);
    }
    Ok(())
}

/// Reads the files of tokens and certificate again when they change: a token that was taken out must
/// stop working, and certificates are renewed every few weeks.
async fn reread(settings: IntakeSettings) {
    loop {
        tokio::time::sleep(REREAD_INTERVAL).await;
        let settings = settings.clone();
        // The files may be on a file system that hangs.
        let read = tokio::task::spawn_blocking(move || {
            if settings.token.reread()
                && let Some(warning) = settings.short_token()
            {
                tracing::warn!("{warning}");
            }
            if let Some(identity) = &settings.tls {
                identity.reread();
            }
        });
        drop(read.await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    type Row<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], Result<(), Answer>);

    #[test]
    fn what_comes_in_and_what_does_not() {
        use Answer::{Encoded, NotFound, Probed, Unauthorized, WrongMethod};
        let good = ("authorization", "Bearer t");
        let bad = ("authorization", "Bearer u");
        let table: &[Row] = &[
            ("POST", "/events", &[good], Ok(())),
            ("POST", "/events?a=b", &[good], Ok(())),
            ("POST", "/events", &[good, ("content-encoding", "Identity")], Ok(())),
            ("POST", "/events", &[], Err(Unauthorized)),
            ("POST", "/events", &[bad], Err(Unauthorized)),
            ("POST", "/events", &[good, ("content-encoding", "gzip")], Err(Encoded)),
            ("POST", "/events", &[bad, ("content-encoding", "gzip")], Err(Unauthorized)),
            ("POST", "/", &[good], Err(NotFound)),
            ("POST", "/events/", &[good], Err(NotFound)),
            ("POST", "/Events", &[], Err(NotFound)),
            ("PUT", "/events", &[good], Err(WrongMethod)),
            ("DELETE", "/events", &[], Err(WrongMethod)),
            ("HEAD", "/events", &[], Err(Probed)),
            ("GET", "/events", &[good], Err(Probed)),
            ("GET", "/events", &[bad], Err(Unauthorized)),
        ];
        for (method, path, headers, expected) in table {
            let head = head(method, path, headers);
            assert_eq!(admit(&head, &Secret::from("t")), *expected, "{method} {path} {headers:?}");
        }
    }
}
