//! The webhook's receiver: records requests, and answers as a test says.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::error::{Context, Error, Result};
use crate::web::{self, Answer};

/// One request that reached the sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// When its last byte was read, RFC 3339.
    pub received_at: String,
    /// The same in milliseconds since 1970.
    pub received_ms: i128,
    /// Its method.
    pub method: String,
    /// Its path and query.
    pub path: String,
    /// Its headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Its body as text.
    pub body: String,
}

impl Received {
    /// The body as JSON, or null.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// The object that the report is about.
    #[must_use]
    pub fn key(&self) -> Option<String> {
        self.json()["key"].as_str().map(String::from)
    }
}

/// What the sink answers to one request.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    delay: Duration,
    hang: bool,
}

impl Reply {
    /// Answers with this status at once.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// Never answers.
    #[must_use]
    pub fn hang() -> Self {
        Self { hang: true, ..Self::default() }
    }

    /// Whether the answer means that the report was accepted.
    #[must_use]
    pub fn accepts(&self) -> bool {
        !self.hang && (200..300).contains(&self.status)
    }

    /// Waits before answering.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Adds a `Retry-After` header.
    #[must_use]
    pub fn retry_after(self, value: &str) -> Self {
        self.header("retry-after", value)
    }

    /// Adds any header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// Answers the n-th request, counted from 0.
type Script = Box<dyn Fn(usize, &Received) -> Reply + Send + Sync>;

struct Shared {
    received: Mutex<Vec<Received>>,
    file: Option<PathBuf>,
    script: Mutex<Script>,
}

/// A sink inside the test's own process; it ends when dropped.
pub struct Sink {
    url: String,
    shared: Arc<Shared>,
    server: AbortHandle,
}

impl Sink {
    /// A sink on a free port that answers 200 to everything.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start() -> Result<Self> {
        let listener = web::listen("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr().context("sink")?);
        let shared = Arc::new(Shared {
            received: Mutex::default(),
            file: None,
            script: Mutex::new(Box::new(|_, _| Reply::status(200))),
        });
        let server = tokio::spawn(run(listener, shared.clone())).abort_handle();
        Ok(Self { url, shared, server })
    }

    /// Answers as `script` says from now on. It gets the number of earlier requests, and the
    /// request.
    ///
    /// # Panics
    /// When an earlier script panicked.
    pub fn script(&self, script: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static) {
        *self.shared.script.lock().expect("no script panicked") = Box::new(script);
    }

    /// Answers with one status from now on.
    pub fn answer(&self, status: u16) {
        self.script(move |_, _| Reply::status(status));
    }

    /// Its address, `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Everything that came so far.
    ///
    /// # Panics
    /// When a script panicked.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().expect("no script panicked").clone()
    }

    /// Forgets what came so far: not everything of a run of hours can be kept.
    ///
    /// # Panics
    /// When a script panicked.
    pub fn forget(&self) {
        self.shared.received.lock().expect("no script panicked").clear();
    }

    /// Waits until `count` requests for which `wanted` is true have come.
    ///
    /// # Errors
    /// When they do not come in time.
    pub async fn wait_for(
        &self,
        count: usize,
        limit: Duration,
        wanted: impl Fn(&Received) -> bool,
    ) -> Result<Vec<Received>> {
        wait_for(|| self.received(), count, limit, wanted).await
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Waits until `count` of what `read` returns are `wanted`.
///
/// # Errors
/// When that takes longer than `limit`.
pub async fn wait_for(
    read: impl Fn() -> Vec<Received>,
    count: usize,
    limit: Duration,
    wanted: impl Fn(&Received) -> bool,
) -> Result<Vec<Received>> {
    let end = Instant::now() + limit;
    loop {
        let found: Vec<Received> = read().into_iter().filter(&wanted).collect();
        if found.len() >= count {
            return Ok(found);
        }
        if Instant::now() > end {
            let have = found.len();
            return Err(Error::new(format!("{have} of {count} reports within {limit:?}")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Everything in the file of a sink that runs as a process.
#[must_use]
pub fn read(file: &Path) -> Vec<Received> {
    let text = fs::read_to_string(file).unwrap_or_default();
    // The last line may still be incomplete.
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Runs a sink as a process of its own: answers 200, appends to `file`.
///
/// # Errors
/// When it cannot listen.
pub async fn process(address: &str, file: PathBuf) -> Result<()> {
    let listener = web::listen(address).await?;
    let script: Script = Box::new(|_, _| Reply::status(200));
    let shared =
        Shared { received: Mutex::default(), file: Some(file), script: Mutex::new(script) };
    run(listener, Arc::new(shared)).await;
    Ok(())
}

async fn run(listener: TcpListener, shared: Arc<Shared>) {
    web::serve(listener, move |request| take(request, shared.clone())).await;
}

async fn take(request: Request<Incoming>, shared: Arc<Shared>) -> Option<Answer> {
    let (method, path) = (request.method().to_string(), request.uri().to_string());
    let headers = web::headers(&request);
    let body = request.into_body().collect().await.ok()?.to_bytes();
    let now = OffsetDateTime::now_utc();
    let received = Received {
        received_at: now.format(&Rfc3339).unwrap_or_default(),
        received_ms: now.unix_timestamp_nanos() / 1_000_000,
        method,
        path,
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let reply = shared.keep(received);
    if reply.hang {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(reply.delay).await;
    let mut answer = web::answer(reply.status, "", "");
    for (name, value) in reply.headers {
        let name: hyper::header::HeaderName = name.parse().ok()?;
        answer.headers_mut().insert(name, value.parse().ok()?);
    }
    Some(answer)
}

impl Shared {
    fn keep(&self, received: Received) -> Reply {
        let script = self.script.lock().expect("no script panicked");
        if let Some(file) = &self.file {
            if let Err(error) = append(file, &received) {
                eprintln!("{error}");
                return Reply::status(500);
            }
            return script(0, &received);
        }
        let mut all = self.received.lock().expect("no script panicked");
        let reply = script(all.len(), &received);
        all.push(received);
        reply
    }
}

fn append(file: &Path, received: &Received) -> Result<()> {
    let mut line = serde_json::to_vec(received).context("report")?;
    line.push(b'\n');
    let mut open =
        fs::File::options().create(true).append(true).open(file).context(file.display())?;
    open.write_all(&line).context(file.display())
}
