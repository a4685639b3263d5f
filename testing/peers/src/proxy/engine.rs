//! A proxy for clamd's protocol that records what was really scanned.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::AbortHandle;

use super::script::{Hook, Script, lock};
use crate::eicar::hex;
use crate::error::{Context, Result};

/// One sample that reached the engine whole, and the engine's answer.
#[derive(Debug, Clone)]
pub struct Scan {
    /// Of the whole sample, in lower-case hexadecimal.
    pub sha256: String,
    /// The engine's line, without its terminator; empty when it gave no answer.
    pub answer: String,
    /// The engine had its database.
    pub has_database: bool,
    /// When the answer was complete.
    pub at: Instant,
}

/// What happens to a sample that arrived whole, before the engine gets the end of its stream.
pub enum EngineFault {
    /// The engine scans it, and its answer is passed on.
    Pass,
    /// The hook runs before the engine scans it.
    Then(Hook),
    /// The engine scans it, but its answer is replaced by these bytes.
    Say(Vec<u8>),
    /// The hook runs, then the connection is cut.
    Crash(Hook),
}

struct Shared {
    socket: PathBuf,
    has_database: AtomicBool,
    version: Mutex<Option<String>>,
    script: Script<str, EngineFault>,
    scans: Mutex<Vec<Scan>>,
}

/// A proxy in front of a clamd; ends when dropped.
pub struct EngineProxy {
    address: String,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

impl EngineProxy {
    /// A proxy on a free port in front of the clamd at `socket`.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(socket: &Path) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("proxy")?;
        let address = listener.local_addr().context("proxy")?.to_string();
        let shared = Arc::new(Shared {
            socket: socket.to_owned(),
            has_database: AtomicBool::new(true),
            version: Mutex::default(),
            script: Script::new(|_: &str| EngineFault::Pass),
            scans: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Ok(Self { address, shared, accepting })
    }

    /// Where it listens, `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Asks `script` about every whole sample from now on, by its SHA-256.
    pub fn script(&self, script: impl Fn(&str) -> EngineFault + Send + Sync + 'static) {
        self.shared.script.replace(script);
    }

    /// Passes everything through from now on.
    pub fn pass(&self) {
        self.script(|_| EngineFault::Pass);
    }

    /// Sets whether the engine has its database from now on. To be changed only while the engine is
    /// down.
    pub fn set_sighted(&self, has_database: bool) {
        self.shared.has_database.store(has_database, Ordering::SeqCst);
    }

    /// Answers VERSION with this line from now on, or as the engine does.
    pub fn set_version(&self, version: Option<&str>) {
        *lock(&self.shared.version) = version.map(str::to_owned);
    }

    /// Every sample so far.
    #[must_use]
    pub fn scans(&self) -> Vec<Scan> {
        lock(&self.shared.scans).clone()
    }

    /// Forgets the samples from before this moment: not everything of a run of hours can be kept.
    pub fn forget_before(&self, moment: Instant) {
        lock(&self.shared.scans).retain(|scan| scan.at >= moment);
    }
}

impl Drop for EngineProxy {
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
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // An error means that one side closed its connection. Dropping both ends the other
            // side.
            drop(converse(client, &shared).await);
        });
    }
}

/// Handles one command: clamd takes one per connection.
async fn converse(client: TcpStream, shared: &Shared) -> io::Result<()> {
    client.set_nodelay(true)?;
    let engine = UnixStream::connect(&shared.socket).await?;
    let (from_client, mut to_client) = client.into_split();
    let (mut from_engine, mut to_engine) = engine.into_split();
    let mut from_client = BufReader::new(from_client);
    let mark = *from_client.fill_buf().await?.first().ok_or(io::ErrorKind::UnexpectedEof)?;
    let end = if mark == b'z' { 0 } else { b'\n' };
    let mut command = Vec::new();
    from_client.read_until(end, &mut command).await?;
    to_engine.write_all(&command).await?;
    let mut answer = Vec::new();
    if !command[1..].starts_with(b"INSTREAM") {
        from_engine.read_to_end(&mut answer).await?;
        let version = lock(&shared.version).clone();
        if let Some(version) = version.filter(|_| command[1..].starts_with(b"VERSION")) {
            answer = [version.as_bytes(), &[end]].concat();
        }
        return to_client.write_all(&answer).await;
    }
    let has_database = shared.has_database.load(Ordering::SeqCst);
    let receiving = async {
        let mut hash = Sha256::new();
        loop {
            let mut length = [0; 4];
            from_client.read_exact(&mut length).await?;
            let size = u32::from_be_bytes(length) as usize;
            if size == 0 {
                return Ok::<_, io::Error>(hex(&hash.finalize()));
            }
            let mut chunk = vec![0; size];
            from_client.read_exact(&mut chunk).await?;
            hash.update(&chunk);
            to_engine.write_all(&[&length[..], &chunk].concat()).await?;
        }
    };
    // The engine may answer before the end of the stream, when it refuses the rest, and then close.
    let whole = tokio::select! {
        biased;
        early = from_engine.read_buf(&mut answer) => early.map(|_| None)?,
        whole = receiving => Some(whole),
    };
    let Some(Ok(sha256)) = whole else {
        // The answer must arrive before the reset.
        drop(from_engine.read_to_end(&mut answer).await);
        to_client.write_all(&answer).await?;
        to_client.shutdown().await?;
        // If the socket were closed with bytes unread, the reset would discard the answer.
        let mut nowhere = tokio::io::sink();
        let rest = tokio::io::copy(&mut from_client, &mut nowhere);
        drop(tokio::time::timeout(Duration::from_secs(2), rest).await);
        return Ok(());
    };
    let mut instead = None;
    match shared.script.ask(&sha256) {
        EngineFault::Pass => {}
        EngineFault::Then(meanwhile) => meanwhile.await,
        EngineFault::Say(bytes) => instead = Some(bytes),
        EngineFault::Crash(meanwhile) => {
            meanwhile.await;
            return Ok(());
        }
    }
    to_engine.write_all(&[0; 4]).await?;
    let read = from_engine.read_to_end(&mut answer).await;
    let line = match answer.split_last() {
        Some((last, line)) if *last == end => String::from_utf8_lossy(line).into_owned(),
        _ => String::new(),
    };
    let scan = Scan { sha256, answer: line, has_database, at: Instant::now() };
    lock(&shared.scans).push(scan);
    read?;
    to_client.write_all(&instead.unwrap_or(answer)).await
}
