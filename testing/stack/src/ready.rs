//! Whether a service is ready, asked in its own protocol.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::{Duration, Instant};

use peers::error::{Error, Result};

use crate::process::tail;
use crate::state::{Ready, Record};

/// Timeout of one question.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits until a service is ready.
///
/// # Errors
/// When its process ends, or is not ready in time; with the last lines of its log.
pub fn wait(record: &Record) -> Result<Duration> {
    let start = Instant::now();
    loop {
        if crate::place::interrupted() {
            return Err(Error::new("interrupted"));
        }
        if is_ready(&record.ready) {
            return Ok(start.elapsed());
        }
        let trouble = if !record.process.alive() {
            "ended".to_owned()
        } else if start.elapsed() > record.patience() {
            format!("was not ready within {} s", record.patience)
        } else {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        let log = record.log.display();
        let end = tail(&record.log, 5);
        return Err(Error::new(format!("{} {trouble}; the end of {log}:\n{end}", record.name)));
    }
}

/// Asks a service once.
#[must_use]
pub fn is_ready(ready: &Ready) -> bool {
    match ready {
        Ready::Tcp(address) => connect(address).is_some(),
        Ready::Amqp(address) => ask(address, b"AMQP\x00\x00\x09\x01", 1) == [1],
        Ready::Clamd(address) => ask(address, b"zPING\0", 4) == b"PONG",
        Ready::Http(url) => http_status(url) == Some(200),
    }
}

/// The status of the answer to a GET of `url`; `None` without an answer.
#[must_use]
pub fn http_status(url: &str) -> Option<u16> {
    let rest = url.strip_prefix("http://")?;
    let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let answer = ask(address, request.as_bytes(), 12);
    let line = std::str::from_utf8(&answer).ok()?;
    line.starts_with("HTTP/1.").then(|| line.get(9..)?.parse().ok()).flatten()
}

fn connect(address: &str) -> Option<TcpStream> {
    let address = address.to_socket_addrs().ok()?.next()?;
    let stream = TcpStream::connect_timeout(&address, ASK_TIMEOUT).ok()?;
    stream.set_read_timeout(Some(ASK_TIMEOUT)).ok()?;
    Some(stream)
}

/// The first `length` bytes of the answer, or fewer if there are not so many.
fn ask(address: &str, question: &[u8], length: usize) -> Vec<u8> {
    let mut answer = vec![0; length];
    let Some(mut stream) = connect(address) else {
        return Vec::new();
    };
    let asked = stream.write_all(question).and_then(|()| stream.read_exact(&mut answer));
    if asked.is_ok() { answer } else { Vec::new() }
}

/// The version line of a clamd that listens on `socket`.
#[must_use]
pub fn clamd_version(socket: &Path) -> Option<String> {
    let mut stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(ASK_TIMEOUT)).ok()?;
    stream.write_all(b"zVERSION\0").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.trim_end_matches('\0').to_owned())
}
