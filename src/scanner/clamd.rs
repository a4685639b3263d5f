//! clamd's own protocol: one connection per command, `zINSTREAM` for scans.
//! Source: the COMMANDS section of clamd(8).

use std::io;
use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::version::Version;
use super::{Answer, Sample, connect, fault, host_fault, is_name};
use crate::config::ClamdAddress;
use crate::failure::{Failure, Reason, is_local};
use crate::http::CONNECT_TIMEOUT;

/// For the reply after a failed write: it may still arrive, and says more than the write error.
const LATE_REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of an object sent at once.
const CHUNK: usize = 128 * 1024;
/// Size limit of a reply in bytes; a longer one is not clamd's.
const MAX_REPLY: u64 = 4096;

/// A clamd.
#[derive(Debug, Clone)]
pub(super) struct Server {
    address: ClamdAddress,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Why a sample was not sent in full.
enum Unsent {
    /// The temp file cannot be read.
    Sample(Failure),
    /// The connection to clamd broke.
    Engine(io::Error),
}

impl Server {
    pub(super) fn new(address: ClamdAddress) -> Self {
        Self { address }
    }

    /// Scans one sample. The caller sets the deadline.
    pub(super) async fn scan(&self, sample: Sample) -> Result<Answer, Failure> {
        let answer = match self.connect().await? {
            Stream::Tcp(stream) => instream(stream, sample).await,
            Stream::Unix(stream) => instream(stream, sample).await,
        };
        answer.map_err(Failure::engine_touched)
    }

    /// The versions of engine and database, as far as clamd tells them.
    pub(super) async fn version(&self) -> Option<Version> {
        async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<String> {
            stream.write_all(b"zVERSION\0").await.ok()?;
            read_reply(&mut stream).await.ok().and_then(|reply| whole(&reply).ok())
        }
        let reply = match self.connect().await.ok()? {
            Stream::Tcp(stream) => ask(stream).await,
            Stream::Unix(stream) => ask(stream).await,
        };
        Some(Version::parse(&reply?))
    }

    async fn connect(&self) -> Result<Stream, Failure> {
        let connecting = async {
            match &self.address {
                ClamdAddress::Tcp(host, port) => connect::tcp(host, *port).await.map(Stream::Tcp),
                ClamdAddress::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
            }
        };
        let address = &self.address;
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) if is_local(&error) => Err(host_fault(Reason::HostResources, error)),
            Ok(Err(error)) => Err(fault(Reason::EngineUnreachable, format!("{address}: {error}"))),
            Err(_) => Err(fault(Reason::EngineUnreachable, format!("{address}: no answer"))),
        }
    }
}

/// Scans one sample over a fresh connection.
pub(super) async fn instream<S: AsyncRead + AsyncWrite>(
    stream: S,
    sample: Sample,
) -> Result<Answer, Failure> {
    let (mut from, mut to) = tokio::io::split(stream);
    // Reads while sending: clamd answers and closes as soon as its limit is exceeded, and the reply
    // is lost once the connection is reset.
    let mut sending = pin!(send(&mut to, sample));
    let mut reply = pin!(read_reply(&mut from));
    let sent = tokio::select! {
        biased;
        sent = &mut sending => sent,
        early = &mut reply => return early_answer(early),
    };
    match sent {
        Ok(()) => match reply.await {
            Ok(reply) => read(&whole(&reply)?),
            Err(error) => Err(fault(Reason::EngineReply, format!("no reply: {error}"))),
        },
        Err(Unsent::Sample(failure)) => Err(failure),
        Err(Unsent::Engine(error)) => match tokio::time::timeout(LATE_REPLY_TIMEOUT, reply).await {
            Ok(reply) => early_answer(reply),
            Err(_) => Err(fault(Reason::EngineBrokeOff, format!("while sending: {error}"))),
        },
    }
}

/// Sends the command, the sample in chunks, and the terminator.
async fn send(to: &mut (impl AsyncWrite + Unpin), sample: Sample) -> Result<(), Unsent> {
    to.write_all(b"zINSTREAM\0").await.map_err(Unsent::Engine)?;
    match sample {
        Sample::Bytes(bytes) => {
            for chunk in bytes.chunks(CHUNK) {
                send_chunk(to, &mut [&[0; 4], chunk].concat()).await?;
            }
        }
        Sample::Zeros(length) => {
            let (mut chunk, mut left) = (vec![0; CHUNK + 4], length);
            while left > 0 {
                let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
                send_chunk(to, &mut chunk[..4 + size]).await?;
                left -= size as u64;
            }
        }
        Sample::Buffered { mut reader, .. } => {
            // Length and bytes in one write.
            let mut chunk = vec![0; CHUNK + 4];
            loop {
                let got;
                (chunk, got) = reader
                    .read(chunk, 4)
                    .await
                    .map_err(|error| Unsent::Sample(host_fault(Reason::TempDisk, error)))?;
                if got == 0 {
                    break;
                }
                send_chunk(to, &mut chunk[..4 + got]).await?;
            }
        }
    }
    to.write_all(&[0; 4]).await.map_err(Unsent::Engine)?;
    to.flush().await.map_err(Unsent::Engine)
}

/// Sends `chunk`, whose first 4 bytes are reserved for the length of the rest.
async fn send_chunk(to: &mut (impl AsyncWrite + Unpin), chunk: &mut [u8]) -> Result<(), Unsent> {
    let length = u32::try_from(chunk.len() - 4).unwrap_or(u32::MAX);
    chunk[..4].copy_from_slice(&length.to_be_bytes());
    to.write_all(chunk).await.map_err(Unsent::Engine)
}

/// Reads up to the NUL that ends a reply, or to the end of the connection.
async fn read_reply(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut reply = Vec::new();
    let mut buffer = [0; 512];
    let mut from = from.take(MAX_REPLY);
    loop {
        let got = from.read(&mut buffer).await?;
        reply.extend_from_slice(&buffer[..got]);
        if got == 0 || reply.contains(&0) {
            return Ok(reply);
        }
    }
}

/// The text of a complete reply: one line that ends with its only NUL.
fn whole(reply: &[u8]) -> Result<String, Failure> {
    match reply.split_last() {
        Some((0, line)) if !line.contains(&0) => match std::str::from_utf8(line) {
            Ok(line) => Ok(line.to_owned()),
            Err(_) => Err(fault(Reason::EngineReply, "not text")),
        },
        Some(_) => Err(fault(Reason::EngineReply, "the reply is incomplete")),
        None => Err(fault(Reason::EngineReply, "the connection closed without a reply")),
    }
}

/// Reads a reply: only clamd's exact words are an answer.
fn read(line: &str) -> Result<Answer, Failure> {
    if line == "stream: OK" {
        return Ok(Answer::Clean);
    }
    if line == "INSTREAM size limit exceeded. ERROR" {
        return Ok(Answer::TooLarge);
    }
    let found = line.strip_prefix("stream: ").and_then(|rest| rest.strip_suffix(" FOUND"));
    match found {
        Some(name) if is_name(name) => Ok(Answer::Found(name.to_owned())),
        _ => Err(fault(Reason::EngineError, format!("clamd answered: {line}"))),
    }
}

/// A reply before the whole sample was sent is no verdict; only "too large" counts that early.
fn early_answer(reply: io::Result<Vec<u8>>) -> Result<Answer, Failure> {
    let reply = reply.map_err(|error| fault(Reason::EngineBrokeOff, error))?;
    match read(&whole(&reply)?)? {
        Answer::TooLarge => Ok(Answer::TooLarge),
        Answer::Clean | Answer::Found(_) | Answer::Garbled => {
            Err(fault(Reason::EngineEarlyReply, "a verdict before all bytes were sent"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Dependency, Kind};

    /// Plays clamd: takes `take` bytes (everything up to the terminator if `None`), says `reply`,
    /// closes.
    async fn scan(
        sample: &[u8],
        take: Option<usize>,
        reply: &'static [u8],
    ) -> Result<Answer, Failure> {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let clamd = tokio::spawn(async move {
            let mut seen = Vec::new();
            let mut buffer = [0; 300];
            loop {
                let enough = match take {
                    Some(take) => seen.len() >= take,
                    None => seen.ends_with(&[0; 4]) && seen.len() > 13,
                };
                if enough {
                    break;
                }
                match theirs.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(got) => seen.extend_from_slice(&buffer[..got]),
                }
            }
            drop(theirs.write_all(reply).await);
            drop(theirs.shutdown().await);
            seen
        });
        let answer = instream(ours, Sample::Bytes(sample.to_vec().into())).await;
        let seen = clamd.await.unwrap();
        assert!(seen.is_empty() || seen.starts_with(b"zINSTREAM\0") || take == Some(0));
        answer
    }

    #[tokio::test]
    async fn only_exact_replies_are_verdicts() {
        let found = |name: &str| Answer::Found(name.to_owned());
        assert_eq!(scan(b"x", None, b"stream: OK\0").await.unwrap(), Answer::Clean);
        assert_eq!(scan(b"", None, b"stream: OK\0").await.unwrap(), Answer::Clean);
        assert_eq!(scan(b"x", None, b"stream: A.B-1 FOUND\0").await.unwrap(), found("A.B-1"));
        assert_eq!(scan(b"x", None, b"stream: OK FOUND\0").await.unwrap(), found("OK"));
        let limit = b"INSTREAM size limit exceeded. ERROR\0";
        assert_eq!(scan(b"x", None, limit).await.unwrap(), Answer::TooLarge);
    }

    #[tokio::test]
    async fn everything_else_is_a_fault_that_touched_the_engine() {
        let replies: [&[u8]; 18] = [
            b"",
            b"stream: OK",
            b"stream: OK\n",
            b"stream: OK\0\0",
            b"stream: OK\0stream: OK\0",
            b"stream: O",
            b"\0",
            b"OK\0",
            b"stream:OK\0",
            b"stream: ok\0",
            b"stream:  FOUND\0",
            b"stream: (null) FOUND\0",
            b"stream: FOUND\0",
            b"stream: X FOUND",
            b"stream: X FOUND \0",
            b"stream: Can't allocate memory ERROR\0",
            b"COMMAND READ TIMED OUT\0",
            b"stream: \xff FOUND\0",
        ];
        for reply in replies {
            let failure = scan(b"x", None, reply).await.expect_err("no verdict");
            let said = String::from_utf8_lossy(reply);
            assert_eq!(failure.kind, Kind::Suspect(Dependency::Engine), "{said} gave {failure}");
        }
    }

    #[tokio::test]
    async fn a_verdict_before_the_last_byte_is_none() {
        let sample = vec![7; 100_000];
        for reply in [&b"stream: OK\0"[..], b"stream: A FOUND\0"] {
            let failure = scan(&sample, Some(5000), reply).await.expect_err("early");
            assert_eq!(failure.reason, Reason::EngineEarlyReply);
        }
        let limit = b"INSTREAM size limit exceeded. ERROR\0";
        assert_eq!(scan(&sample, Some(5000), limit).await.unwrap(), Answer::TooLarge);
        assert!(scan(&sample, Some(5000), b"").await.is_err());
    }
}
