//! An HTTP server that answers by script.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::wire::{Running, Wire, on_tcp};

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `POST`, ….
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The whole body; empty for a script that answers before it is read.
    pub body: Arc<Vec<u8>>,
    /// How many requests came before this one.
    pub count: usize,
}

impl Request {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, or null.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A header, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What the server does about one request.
#[derive(Debug, Clone)]
pub struct Reply {
    act: Act,
    status: u16,
    headers: Vec<(String, String)>,
    raw: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    delay: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Answer,
    Hang,
    Close,
    Reset,
    Half,
    Drip { bytes: usize, pause: Duration },
}

impl Reply {
    /// A whole answer.
    #[must_use]
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            act: Act::Answer,
            status,
            headers: Vec::new(),
            raw: Vec::new(),
            body: body.into(),
            delay: Duration::ZERO,
        }
    }

    /// A whole answer in JSON.
    #[must_use]
    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::new(status, body.to_string()).header("content-type", "application/json")
    }

    /// No answer, ever; the connection stays.
    #[must_use]
    pub fn hang() -> Self {
        Self { act: Act::Hang, ..Self::new(0, "") }
    }

    /// No answer; the connection is closed.
    #[must_use]
    pub fn close() -> Self {
        Self { act: Act::Close, ..Self::new(0, "") }
    }

    /// No answer; the connection is reset.
    #[must_use]
    pub fn reset() -> Self {
        Self { act: Act::Reset, ..Self::new(0, "") }
    }

    /// Announces the whole body, sends the first half of it and closes.
    #[must_use]
    pub fn half(mut self) -> Self {
        self.act = Act::Half;
        self
    }

    /// Sends the body a few bytes at a time, with a pause after each.
    #[must_use]
    pub fn drip(mut self, bytes: usize, pause: Duration) -> Self {
        self.act = Act::Drip { bytes: bytes.max(1), pause };
        self
    }

    /// Waits before anything else.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Leaves `content-length` out.
    #[must_use]
    pub fn without_length(self) -> Self {
        self.header("content-length", "")
    }

    /// Sets a header, or removes it when the value is empty; also the server's own
    /// (`content-length`).
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = name.to_ascii_lowercase();
        self.raw.retain(|(other, _)| !other.eq_ignore_ascii_case(name.as_bytes()));
        self.headers.push((name, value.into()));
        self
    }

    /// Adds a header line of any bytes, even if one of the same name exists. The case of the name
    /// and an empty value are kept.
    #[must_use]
    pub fn raw_header(mut self, name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        self.raw.push((name.into(), value.into()));
        self
    }

    /// Sends only the head, with the length that the body would have, as in an answer to HEAD.
    #[must_use]
    pub fn without_body(mut self) -> Self {
        let length = std::mem::take(&mut self.body).len().to_string();
        self.headers.insert(0, ("content-length".into(), length));
        self
    }
}

type Script = dyn Fn(&Request) -> Reply + Send + Sync;
type Early = dyn Fn(&Request) -> Option<Reply> + Send + Sync;

/// The server.
pub struct Server {
    url: String,
    running: Running,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// A server that reads every request whole and then asks `script`.
    #[must_use]
    pub fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with_early(|_| None, script)
    }

    /// The same for so many requests that none can be kept: [`Self::requests`] stays empty.
    #[must_use]
    pub fn start_forgetful(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::serve(false, Arc::new(|_| None), Arc::new(script))
    }

    /// A server that asks `early` as soon as the head of a request has arrived. A reply from
    /// `early` is sent before the body is read, and the connection is closed with the body unread.
    /// Without one, `script` is asked after the body.
    ///
    /// # Panics
    /// When the machine has no free port.
    #[must_use]
    pub fn start_with_early(
        early: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::serve(true, Arc::new(early), Arc::new(script))
    }

    fn serve(keeps: bool, early: Arc<Early>, script: Arc<Script>) -> Self {
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (kept, count) = (requests.clone(), AtomicUsize::new(0));
        let (address, running) = on_tcp(Arc::new(move |wire, running| {
            let keep = |request: &Request| {
                if keeps {
                    kept.lock().expect("no panic while held").push(request.clone());
                }
            };
            let number = || count.fetch_add(1, Ordering::SeqCst);
            converse(wire, running, &*early, &*script, &number, &keep);
        }));
        Self { url: format!("http://{address}"), running, requests }
    }

    /// Its address, `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// All requests so far, in the order in which their replies were chosen.
    ///
    /// # Panics
    /// Never in practice: only when the server itself panicked.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no panic while held").clone()
    }

    /// Waits until at least `count` requests have come.
    ///
    /// # Panics
    /// When they do not come in time.
    #[must_use]
    pub fn wait_for(&self, count: usize, limit: Duration) -> Vec<Request> {
        let end = Instant::now() + limit;
        loop {
            let requests = self.requests();
            if requests.len() >= count {
                return requests;
            }
            assert!(
                Instant::now() < end,
                "{} of {count} requests within {limit:?}",
                requests.len()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.running.finish();
    }
}

/// Serves one connection until it ends.
fn converse(
    mut wire: Wire,
    running: &Running,
    early: &Early,
    script: &Script,
    number: &dyn Fn() -> usize,
    keep: &dyn Fn(&Request),
) {
    let mut buffer = Vec::new();
    while let Some(mut request) = read_head(&mut wire, &mut buffer) {
        request.count = number();
        if let Some(reply) = early(&request) {
            keep(&request);
            send(&mut wire, running, &reply);
            match reply.act {
                Act::Reset => wire.reset(),
                // Dropping closes the connection; a client that still sends gets a reset.
                _ => drop(wire),
            }
            return;
        }
        let Some(body) = read_body(&mut wire, &mut buffer, &request) else {
            return wire.cut();
        };
        request.body = Arc::new(body);
        let reply = script(&request);
        keep(&request);
        if !send(&mut wire, running, &reply) {
            return if reply.act == Act::Reset {
                wire.reset();
            } else {
                wire.cut();
            };
        }
    }
    wire.cut();
}

/// Sends a reply; returns whether the connection can take another request.
fn send(wire: &mut Wire, running: &Running, reply: &Reply) -> bool {
    if !running.pause(reply.delay) {
        return false;
    }
    match reply.act {
        Act::Hang => running.hang(),
        Act::Close | Act::Reset => {}
        Act::Answer => {
            let whole = [head(reply), reply.body.clone()].concat();
            return wire.write_all(&whole).is_ok();
        }
        Act::Half => {
            let half = &reply.body[..reply.body.len() / 2];
            // An error means that the client has closed the connection.
            drop(wire.write_all(&[head(reply), half.to_vec()].concat()));
        }
        Act::Drip { bytes, pause } => {
            let pieces = reply.body.chunks(bytes);
            return wire.write_all(&head(reply)).is_ok()
                && pieces
                    .into_iter()
                    .all(|piece| running.pause(pause) && wire.write_all(piece).is_ok());
        }
    }
    false
}

fn head(reply: &Reply) -> Vec<u8> {
    let mut headers: BTreeMap<&str, String> = BTreeMap::new();
    headers.insert("content-length", reply.body.len().to_string());
    headers.extend(reply.headers.iter().map(|(name, value)| (&**name, value.clone())));
    let told = headers.iter().filter(|(_, value)| !value.is_empty());
    let lines: String = told.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let mut head = format!("HTTP/1.1 {} Scripted\r\n{lines}", reply.status).into_bytes();
    for (name, value) in &reply.raw {
        head.extend([name.as_slice(), b": ", value, b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    head
}

fn more(wire: &mut Wire, buffer: &mut Vec<u8>) -> bool {
    let mut piece = [0; 16 * 1024];
    match wire.read(&mut piece) {
        Ok(read @ 1..) => {
            buffer.extend_from_slice(&piece[..read]);
            true
        }
        _ => false,
    }
}

fn read_line(wire: &mut Wire, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(2).position(|pair| pair == b"\r\n") {
            let line = String::from_utf8_lossy(&buffer[..end]).into_owned();
            buffer.drain(..end + 2);
            return Some(line);
        }
        if !more(wire, buffer) {
            return None;
        }
    }
}

fn read_head(wire: &mut Wire, buffer: &mut Vec<u8>) -> Option<Request> {
    let first = read_line(wire, buffer)?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let line = read_line(wire, buffer)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Some(Request { method, path, headers, body: Arc::default(), count: 0 })
}

fn read_body(wire: &mut Wire, buffer: &mut Vec<u8>, request: &Request) -> Option<Vec<u8>> {
    if request.header("transfer-encoding") != Some("chunked") {
        let length = request.header("content-length").map_or(Some(0), |text| text.parse().ok())?;
        return take(wire, buffer, length);
    }
    let mut body = Vec::new();
    loop {
        let line = read_line(wire, buffer)?;
        let length = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        body.extend(take(wire, buffer, length)?);
        read_line(wire, buffer)?;
        if length == 0 {
            return Some(body);
        }
    }
}

fn take(wire: &mut Wire, buffer: &mut Vec<u8>, length: usize) -> Option<Vec<u8>> {
    while buffer.len() < length {
        if !more(wire, buffer) {
            return None;
        }
    }
    let rest = buffer.split_off(length);
    Some(std::mem::replace(buffer, rest))
}
