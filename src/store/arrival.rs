//! The bytes of one object on their way into an unnamed temp file, or into memory if they are few.
//! Whoever wants to read them need not wait for the last one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_sdk_s3::primitives::{ByteStream, ByteStreamError};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use sha2::digest::Output;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Identity;
use super::spool::{self, Room};
use crate::failure::{Dependency, Failure, Reason, Stage, causes};

/// A body that brings nothing for this long is given up.
const IDLE: Duration = Duration::from_secs(30);
/// Written at once, so much at least where the body brings it fast enough.
const BATCH: usize = 128 * 1024;
/// Objects up to this length stay in memory: making a file costs more than all that is done with it.
pub(super) const FEW: u64 = BATCH as u64;

/// An object whose GET was answered, its body not read yet.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) identity: Identity,
    /// The same bytes as the notification announced, as far as can be told.
    pub(super) as_announced: bool,
    body: ByteStream,
    spooled: Spooled,
    progress: watch::Sender<Progress>,
    /// What is kept in memory takes no temp disk.
    room: Option<Room>,
}

/// An object whose bytes all came, and which bytes they are.
#[derive(Debug)]
pub(crate) struct Download {
    pub(crate) identity: Identity,
    /// Lower-case hexadecimal SHA-256 of the bytes.
    pub(crate) sha256: String,
    /// The same bytes as the notification announced, as far as can be told.
    pub(crate) as_announced: bool,
    _room: Option<Room>,
}

/// The bytes of an object, while they arrive and afterwards.
#[derive(Debug, Clone)]
pub(crate) struct Spooled {
    place: Place,
    length: u64,
    progress: watch::Receiver<Progress>,
}

/// Where the bytes lie.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// All at once, when they are all there.
    Memory(Arc<OnceLock<Bytes>>),
    /// In an unnamed file.
    File(Arc<File>),
}

/// How far an arrival is.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    bytes: u64,
    /// All of them are there, and the store said that there are no more.
    whole: bool,
}

/// Reads spooled bytes from the first one on.
#[derive(Debug)]
pub(crate) struct Reader {
    spooled: Spooled,
    at: u64,
}

impl Arrival {
    pub(super) fn new(
        identity: Identity,
        as_announced: bool,
        body: ByteStream,
        place: Place,
        room: Option<Room>,
    ) -> Self {
        let (progress, receiver) = watch::channel(Progress::default());
        let spooled = Spooled { place, length: identity.bytes(), progress: receiver };
        Self { identity, as_announced, body, spooled, progress, room }
    }

    /// The bytes, to be read while they arrive.
    pub(crate) fn spooled(&self) -> Spooled {
        self.spooled.clone()
    }

    /// Receives everything.
    ///
    /// # Errors
    /// When the body is not what was announced, or cannot be kept.
    pub(super) async fn receive(self) -> Result<Received, Failure> {
        let Self { identity, as_announced, mut body, spooled, progress, room } = self;
        let length = spooled.length;
        let broken = |reason, detail: String| {
            Failure::suspect(Dependency::Store, Stage::Fetch, reason, detail)
        };
        let torn = |error: ByteStreamError| broken(Reason::BodyBroken, causes(&error));
        let mut sink = Sink::new(&spooled.place);
        let mut received: u64 = 0;
        loop {
            let first = match tokio::time::timeout(IDLE, body.next()).await {
                Ok(Some(chunk)) => chunk.map_err(torn)?,
                Ok(None) => break,
                Err(_) => return Err(broken(Reason::BodyStalled, format!("silent for {IDLE:?}"))),
            };
            let mut size = first.len();
            let mut batch = vec![first];
            // What else is there already.
            while size < BATCH
                && let Some(Some(chunk)) = body.next().now_or_never()
            {
                let chunk = chunk.map_err(torn)?;
                size += chunk.len();
                batch.push(chunk);
            }
            received += size as u64;
            if received > length {
                let detail = format!("more than the {length} bytes announced");
                return Err(Failure::transient(Stage::Fetch, Reason::BodyTooLong, detail));
            }
            let bytes = sink.take(batch).await?;
            progress.send_replace(Progress { bytes, whole: false });
        }
        if received != length {
            return Err(broken(Reason::BodyTruncated, format!("{received} of {length} bytes")));
        }
        sink.finish().await?;
        progress.send_replace(Progress { bytes: received, whole: true });
        let Spooled { place, .. } = spooled;
        Ok(Received { identity, as_announced, place, room })
    }
}

/// An object whose bytes all came.
pub(crate) struct Received {
    pub(super) identity: Identity,
    as_announced: bool,
    place: Place,
    room: Option<Room>,
}

impl Received {
    /// Looks which bytes they are. Not on their way, because an engine can be at work meanwhile.
    ///
    /// # Errors
    /// When the temp file cannot be read.
    pub(crate) async fn hash(self) -> Result<Download, Failure> {
        let Self { identity, as_announced, place, room } = self;
        let hash = match place {
            Place::Memory(bytes) => Sha256::digest(bytes.get().map_or(&[][..], |bytes| bytes)),
            Place::File(file) => {
                let length = identity.bytes();
                let hashing = tokio::task::spawn_blocking(move || digest(&file, length));
                match hashing.await {
                    Ok(hash) => hash.map_err(|error| spool::temp_fault(&error))?,
                    Err(error) => {
                        return Err(Failure::transient(Stage::Fetch, Reason::Panic, error));
                    }
                }
            }
        };
        let sha256 = hex::encode(hash);
        Ok(Download { identity, sha256, as_announced, _room: room })
    }
}

fn digest(file: &File, length: u64) -> io::Result<Output<Sha256>> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BATCH];
    let mut at = 0;
    while at < length {
        let got = file.read_at(&mut buffer, at)?;
        if got == 0 {
            return Err(io::Error::other("the temp file is shorter than the download"));
        }
        hash.update(&buffer[..got]);
        at += got as u64;
    }
    Ok(hash.finalize())
}

impl Download {
    /// Bytes.
    pub(crate) fn length(&self) -> u64 {
        self.identity.bytes()
    }
}

impl Spooled {
    /// Bytes, when all will be there.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Whether nothing can be read before everything is there.
    pub(crate) fn comes_at_once(&self) -> bool {
        matches!(self.place, Place::Memory(_))
    }

    /// The bytes from the start.
    pub(crate) fn reader(&self) -> Reader {
        Reader { spooled: self.clone(), at: 0 }
    }

    /// Waits until everything is there; for ever if that never comes about.
    pub(crate) async fn whole(&self) {
        let mut progress = self.progress.clone();
        if progress.wait_for(|progress| progress.whole).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Reader {
    /// Fills `buffer` from `from` on with what comes next, waiting for it. Gives the buffer back,
    /// and how much came: nothing at the end of the object, and not before all of it is known to
    /// be there.
    ///
    /// # Errors
    /// When the temp file cannot be read, or the arrival broke off.
    pub(crate) async fn read(
        &mut self,
        mut buffer: Vec<u8>,
        from: usize,
    ) -> io::Result<(Vec<u8>, usize)> {
        let (at, Spooled { place, length, progress }) = (self.at, &mut self.spooled);
        let end = |progress: &Progress| at == *length && progress.whole;
        let there = progress.wait_for(|progress| progress.bytes > at || end(progress)).await;
        let there = there.map_err(|_| io::Error::other("the download broke off"))?.bytes;
        if at == *length {
            return Ok((buffer, 0));
        }
        let most = usize::try_from(there - at).unwrap_or(usize::MAX).min(buffer.len() - from);
        let (buffer, got) = match place {
            Place::Memory(bytes) => {
                let start = usize::try_from(at).unwrap_or(usize::MAX);
                let rest = bytes.get().and_then(|bytes| bytes.get(start..)).unwrap_or_default();
                let got = rest.len().min(most);
                buffer[from..from + got].copy_from_slice(&rest[..got]);
                (buffer, got)
            }
            Place::File(file) => {
                let file = Arc::clone(file);
                let reading = tokio::task::spawn_blocking(move || {
                    let got = file.read_at(&mut buffer[from..from + most], at)?;
                    Ok::<_, io::Error>((buffer, got))
                });
                reading.await.map_err(io::Error::other)??
            }
        };
        if got == 0 {
            return Err(io::Error::other("fewer bytes than were received"));
        }
        self.at += got as u64;
        Ok((buffer, got))
    }
}

/// Where the bytes go.
enum Sink {
    Memory {
        place: Arc<OnceLock<Bytes>>,
        bytes: BytesMut,
    },
    /// A batch is written while the next one comes.
    File {
        file: Arc<File>,
        at: u64,
        writing: Option<JoinHandle<io::Result<u64>>>,
    },
}

impl Sink {
    fn new(place: &Place) -> Self {
        match place {
            Place::Memory(place) => {
                Self::Memory { place: Arc::clone(place), bytes: BytesMut::new() }
            }
            Place::File(file) => Self::File { file: Arc::clone(file), at: 0, writing: None },
        }
    }

    /// Takes a batch; says how many bytes can be read by now.
    async fn take(&mut self, batch: Vec<Bytes>) -> Result<u64, Failure> {
        match self {
            Self::Memory { bytes, .. } => {
                for chunk in &batch {
                    bytes.extend_from_slice(chunk);
                }
                Ok(0)
            }
            Self::File { file, at, writing } => {
                let written = written(writing.take()).await?;
                let (file, mut next) = (Arc::clone(file), *at);
                *at += batch.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
                *writing = Some(tokio::task::spawn_blocking(move || {
                    for chunk in &batch {
                        file.write_all_at(chunk, next)?;
                        next += chunk.len() as u64;
                    }
                    Ok(next)
                }));
                Ok(written)
            }
        }
    }

    async fn finish(self) -> Result<(), Failure> {
        match self {
            Self::Memory { place, bytes } => {
                drop(place.set(bytes.freeze()));
                Ok(())
            }
            Self::File { writing, .. } => written(writing).await.map(drop),
        }
    }
}

/// How far the file is written.
async fn written(writing: Option<JoinHandle<io::Result<u64>>>) -> Result<u64, Failure> {
    match writing {
        None => Ok(0),
        Some(writing) => match writing.await {
            Ok(written) => written.map_err(|error| spool::temp_fault(&error)),
            Err(error) => Err(Failure::transient(Stage::Fetch, Reason::Panic, error)),
        },
    }
}
