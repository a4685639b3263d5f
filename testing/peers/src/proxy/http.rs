//! HTTP/1.1, request by request.
//!
//! The `Host` header is passed on unchanged: S3's signatures cover it, so the store accepts a
//! request that was signed for the proxy.

use std::collections::HashMap;
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

/// Far more headers than a store keeps for an object; hyper's own limit is 100.
const MAX_HEADERS: usize = 4096;

type Body = UnsyncBoxBody<Bytes, Error>;

/// The operation of a store that a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Downloads an object.
    Get,
    /// Asks for an object's metadata.
    Head,
    /// Asks for an object's tags.
    Tags,
    /// Sets an object's tags.
    SetTags,
    /// Deletes an object.
    Delete,
    /// Uploads an object, in one request.
    Put,
    /// Copies an object, in one request.
    Copy,
    /// Anything else.
    Other,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Call {
    /// The operation it asks for.
    pub op: Op,
    /// The object's key, decoded; empty where there is none.
    pub key: String,
    /// The path as sent.
    pub path: String,
    /// How many requests with this `op` and `key` came before this one.
    pub before: usize,
}

/// What the proxy does with a request.
pub enum Fault {
    /// Passes it on.
    Pass,
    /// Answers with this status and body, and does not pass it on.
    Answer(u16, &'static str),
    /// Cuts the connection.
    Cut,
    /// Never answers.
    Hang,
    /// Passes it on after this time.
    Late(Duration),
    /// Cuts the answer in the middle of its body.
    Half,
    /// Sends the answer's body one byte at a time, with this pause before each.
    Drip(Duration),
    /// Runs the hook before passing it on.
    Before(Hook),
    /// Runs the hook after the service's whole answer and before the client gets it.
    After(Hook),
    /// Runs the hook, then answers as [`Fault::Answer`] does.
    Refuse(Hook, u16, &'static str),
    /// Passes it on between two hooks, and cuts the connection instead of passing on the answer.
    Lose([Hook; 2]),
    /// Sends a head that announces a body of so many bytes, sends no body, and cuts the connection
    /// after this time.
    Claim(u64, Duration),
}

/// A request that reached the proxy, whatever the proxy did with it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The operation it asks for.
    pub op: Op,
    /// The object's key, decoded; empty where there is none.
    pub key: String,
    /// When its head had arrived.
    pub at: Instant,
}

/// A request that was answered by the service.
#[derive(Debug, Clone)]
pub struct Said {
    /// The request.
    pub call: Call,
    /// The service's status.
    pub status: u16,
    /// When it was sent to the service.
    pub sent: Instant,
    /// When the head of the answer had arrived.
    pub answered: Instant,
}

struct Shared {
    upstream: String,
    script: Script<Call, Fault>,
    asked: Mutex<Vec<Asked>>,
    counts: Mutex<HashMap<(Op, String), usize>>,
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
            counts: Mutex::default(),
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

    /// Passes everything through from now on.
    pub fn pass(&self) {
        self.script(|_| Fault::Pass);
    }

    /// Every request so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }

    /// Forgets all requests and answers so far: not everything of a run of hours can be kept.
    pub fn forget(&self) {
        lock(&self.shared.asked).clear();
        lock(&self.shared.counts).clear();
        lock(&self.shared.said).clear();
    }

    /// The service's answers so far.
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
            // An error means that either side cut the connection.
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
                // Without this pause the half would not be sent before the cut.
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
    // The body is read first: a client that still sends would get a reset instead of the answer.
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
        let copies = request.headers().contains_key("x-amz-copy-source");
        // The SDK names the operation there.
        let query = request.uri().query().unwrap_or_default();
        let is_whole = matches!(query, "" | "x-id=PutObject" | "x-id=CopyObject");
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
            ("PUT", false) if is_whole && copies => Op::Copy,
            ("PUT", false) if is_whole => Op::Put,
            _ => Op::Other,
        };
        lock(&self.asked).push(Asked { op, key: key.clone(), at: Instant::now() });
        let mut counts = lock(&self.counts);
        let count = counts.entry((op, key.clone())).or_default();
        let before = *count;
        *count += 1;
        drop(counts);
        Call { op, key, path, before }
    }

    async fn forward(&self, call: Call, request: Request<Incoming>) -> Result<Response<Incoming>> {
        let stream = TcpStream::connect(&self.upstream).await.context("upstream")?;
        stream.set_nodelay(true).context("upstream")?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            // The headers that an uploader stored come back in the answer.
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
