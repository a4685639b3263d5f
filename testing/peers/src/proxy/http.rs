//! HTTP/1.1, request by request.
//!
//! The `Host` header goes through unchanged: S3's signatures cover it, so the store takes a request
//! that was signed for the proxy.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use url::form_urlencoded;

use super::script::{Hook, Script, lock};
use crate::error::{Context, Error, Result};

/// Far above what a store keeps of an upload; hyper's own limit is 100.
const MAX_HEADERS: usize = 4096;

type Body = UnsyncBoxBody<Bytes, Error>;

/// What a request asks of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// The bytes of an object.
    Get,
    /// What is known of an object.
    Head,
    /// Its tags.
    Tags,
    /// New tags for it.
    SetTags,
    /// Its end.
    Delete,
    /// Anything else.
    Other,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Call {
    /// What it asks of a store.
    pub op: Op,
    /// The object's key, decoded; empty where there is none.
    pub key: String,
    /// The path as sent.
    pub path: String,
    /// How many requests with this `op` and `key` came before this one.
    pub before: usize,
}

/// What becomes of a request.
pub enum Fault {
    /// It goes through.
    Pass,
    /// It is answered here and goes nowhere.
    Answer(u16, &'static str),
    /// The connection is cut.
    Cut,
    /// No answer, ever.
    Hang,
    /// It goes through after a while.
    Late(Duration),
    /// The answer breaks off in the middle of its body.
    Half,
    /// The answer's body comes one byte at a time.
    Drip(Duration),
    /// Something happens before it goes through.
    Before(Hook),
    /// Something happens between the service's whole answer and the client's.
    After(Hook),
    /// Something happens, and then it is answered here and goes nowhere.
    Refuse(Hook, u16, &'static str),
    /// It goes through between two things that happen, and its answer is lost: the connection is cut.
    Lose([Hook; 2]),
    /// The answer's head claims a body of so many bytes, of which nothing comes; after a while the
    /// connection is cut.
    Claim(u64, Duration),
}

/// A request that reached the proxy, whatever became of it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What it asks of a store.
    pub op: Op,
    /// The object's key, decoded; empty where there is none.
    pub key: String,
    /// When its head was there.
    pub at: Instant,
}

/// A request that was answered by the service.
#[derive(Debug, Clone)]
pub struct Said {
    /// The request.
    pub call: Call,
    /// The service's status.
    pub status: u16,
    /// When it went to the service.
    pub sent: Instant,
    /// When the head of the answer was there.
    pub answered: Instant,
}

struct Shared {
    upstream: String,
    script: Script<Call, Fault>,
    asked: Mutex<Vec<Asked>>,
    said: Mutex<Vec<Said>>,
}

/// The proxy; ends when dropped.
pub struct HttpProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

impl HttpProxy {
    /// A proxy on a free port in front of `upstream` (`http://127.0.0.1:PORT`).
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(upstream: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("proxy")?;
        let address = listener.local_addr().context("proxy")?;
        let shared = Arc::new(Shared {
            upstream: upstream.trim_start_matches("http://").trim_end_matches('/').to_owned(),
            script: Script::new(|_: &Call| Fault::Pass),
            asked: Mutex::default(),
            said: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Ok(Self { address, shared, accepting })
    }

    /// Its address, `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Asks `script` about every request from now on.
    pub fn script(&self, script: impl Fn(&Call) -> Fault + Send + Sync + 'static) {
        self.shared.script.replace(script);
    }

    /// Lets everything through from now on.
    pub fn pass(&self) {
        self.script(|_| Fault::Pass);
    }

    /// Every request so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }

    /// What the service answered so far.
    #[must_use]
    pub fn said(&self) -> Vec<Said> {
        lock(&self.shared.said).clone()
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        drop(client.set_nodelay(true));
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| handle(request, Arc::clone(&shared)));
            let connection = hyper::server::conn::http1::Builder::new();
            // An error is a connection that was cut, by either side.
            drop(connection.serve_connection(TokioIo::new(client), service).await);
        });
    }
}

/// An error cuts the client's connection.
async fn handle(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>> {
    let call = shared.call(&request);
    match shared.script.ask(&call) {
        Fault::Pass => shared.forward(call, request).await.map(|answer| answer.map(stream_on)),
        Fault::Answer(status, body) => answer_here(request, status, body).await,
        Fault::Refuse(meanwhile, status, body) => {
            meanwhile.await;
            answer_here(request, status, body).await
        }
        Fault::Lose([before, after]) => {
            before.await;
            whole(shared.forward(call, request).await?).await?;
            after.await;
            Err(Error::new("cut"))
        }
        Fault::Claim(length, pause) => {
            let (mut head, _) = shared.forward(call, request).await?.into_parts();
            head.headers.insert(hyper::header::CONTENT_LENGTH, length.into());
            let cut = stream::once(async move {
                tokio::time::sleep(pause).await;
                Err(Error::new("cut"))
            });
            Ok(Response::from_parts(head, StreamBody::new(cut).boxed_unsync()))
        }
        Fault::Cut => Err(Error::new("cut")),
        Fault::Hang => std::future::pending().await,
        Fault::Late(delay) => {
            tokio::time::sleep(delay).await;
            shared.forward(call, request).await.map(|answer| answer.map(stream_on))
        }
        Fault::Before(meanwhile) => {
            meanwhile.await;
            shared.forward(call, request).await.map(|answer| answer.map(stream_on))
        }
        Fault::After(meanwhile) => {
            let (head, body) = whole(shared.forward(call, request).await?).await?;
            meanwhile.await;
            Ok(Response::from_parts(head, full(body)))
        }
        Fault::Half => {
            let (head, body) = whole(shared.forward(call, request).await?).await?;
            let half = body.slice(..body.len() / 2);
            let cut = stream::once(async {
                // Or the half would never be sent.
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(Error::new("cut"))
            });
            let broken = stream::iter([Ok(Frame::data(half))]).chain(cut);
            Ok(Response::from_parts(head, StreamBody::new(broken).boxed_unsync()))
        }
        Fault::Drip(pause) => {
            let (head, body) = whole(shared.forward(call, request).await?).await?;
            let bytes = stream::iter((0..body.len()).map(move |at| body.slice(at..=at)));
            let dripping = bytes.then(move |byte| async move {
                tokio::time::sleep(pause).await;
                Ok(Frame::data(byte))
            });
            Ok(Response::from_parts(head, StreamBody::new(dripping).boxed_unsync()))
        }
    }
}

async fn answer_here(
    request: Request<Incoming>,
    status: u16,
    body: &'static str,
) -> Result<Response<Body>> {
    // A client that still sends must not get a reset instead of the answer.
    drop(request.into_body().collect().await);
    let mut response = Response::new(full(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = StatusCode::from_u16(status).context("status")?;
    Ok(response)
}

impl Shared {
    fn call(&self, request: &Request<Incoming>) -> Call {
        let path = request.uri().path().to_owned();
        let tagging = request.uri().query().is_some_and(|query| {
            form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "tagging")
        });
        let object = path.trim_start_matches('/').split_once('/').map(|(_, key)| key);
        let key = object.unwrap_or_default().replace('+', "%2B");
        let key = form_urlencoded::parse(key.as_bytes()).map(|(key, _)| key.into_owned()).next();
        let key = key.unwrap_or_default();
        let op = match (request.method().as_str(), tagging) {
            _ if key.is_empty() => Op::Other,
            ("GET", false) => Op::Get,
            ("GET", true) => Op::Tags,
            ("HEAD", _) => Op::Head,
            ("PUT", true) => Op::SetTags,
            ("DELETE", false) => Op::Delete,
            _ => Op::Other,
        };
        let mut asked = lock(&self.asked);
        let before = asked.iter().filter(|asked| (asked.op, &asked.key) == (op, &key)).count();
        asked.push(Asked { op, key: key.clone(), at: Instant::now() });
        Call { op, key, path, before }
    }

    async fn forward(&self, call: Call, request: Request<Incoming>) -> Result<Response<Incoming>> {
        let stream = TcpStream::connect(&self.upstream).await.context("upstream")?;
        stream.set_nodelay(true).context("upstream")?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            // What an uploader stores comes back as headers.
            .max_headers(MAX_HEADERS)
            .handshake(TokioIo::new(stream))
            .await
            .context("upstream")?;
        tokio::spawn(connection);
        let sent = Instant::now();
        let answer = sender.send_request(request).await.context("upstream")?;
        let said = Said { call, status: answer.status().as_u16(), sent, answered: Instant::now() };
        lock(&self.said).push(said);
        Ok(answer)
    }
}

async fn whole(answer: Response<Incoming>) -> Result<(hyper::http::response::Parts, Bytes)> {
    let (head, body) = answer.into_parts();
    Ok((head, body.collect().await.context("upstream")?.to_bytes()))
}

fn stream_on(body: Incoming) -> Body {
    body.map_err(|error| Error::new(error.to_string())).boxed_unsync()
}

fn full(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}
