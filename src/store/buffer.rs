//! The bytes of one object, readable while they are downloaded: in memory, or in an unnamed file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use sha2::digest::Output;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::disk_budget::temp_fault;
use crate::failure::{Failure, Reason, Stage};

/// Bytes per read of a file, and the least that one write carries while the body is fast enough.
pub(super) const BATCH_SIZE: usize = 128 * 1024;
/// Objects up to this many bytes stay in memory: creating a file costs more than all other work on
/// them.
pub(super) const IN_MEMORY_MAX: u64 = BATCH_SIZE as u64;

/// The bytes of an object, during and after the download. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Buffer {
    backing: Backing,
    length: u64,
    progress: watch::Receiver<Progress>,
}

/// What holds the bytes.
#[derive(Debug, Clone)]
pub(super) enum Backing {
    /// Set once, when all bytes are there.
    Memory(Arc<OnceLock<Bytes>>),
    /// An unnamed file, written as the bytes arrive.
    File(Arc<File>),
}

/// How much of an object can be read.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    bytes: u64,
    /// All bytes are there: as many as the store announced, and the body ended.
    complete: bool,
}

/// Reads a [`Buffer`] from its first byte.
#[derive(Debug)]
pub(crate) struct BufferReader {
    buffer: Buffer,
    offset: u64,
}

/// Fills a [`Buffer`]. Dropped before [`finish`](Self::finish), it fails all readers.
#[derive(Debug)]
pub(super) struct Writer {
    target: Target,
    progress: watch::Sender<Progress>,
}

/// Where a [`Writer`] puts the bytes.
#[derive(Debug)]
enum Target {
    Memory {
        cell: Arc<OnceLock<Bytes>>,
        bytes: BytesMut,
    },
    /// One batch is written while the next one is received.
    File {
        file: Arc<File>,
        /// Where the next batch goes.
        offset: u64,
        /// The write in progress; it returns how many bytes the file has afterwards.
        writing: Option<JoinHandle<io::Result<u64>>>,
    },
}

impl Buffer {
    /// An empty buffer for an object of `length` bytes, and what fills it.
    pub(super) fn new(backing: Backing, length: u64) -> (Self, Writer) {
        let (progress, receiver) = watch::channel(Progress::default());
        let writer = Writer { target: Target::new(&backing), progress };
        (Self { backing, length, progress: receiver }, writer)
    }

    /// The length of the whole object in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Whether nothing can be read before all bytes are there.
    pub(crate) fn is_in_memory(&self) -> bool {
        matches!(self.backing, Backing::Memory(_))
    }

    /// A reader at the first byte.
    pub(crate) fn reader(&self) -> BufferReader {
        BufferReader { buffer: self.clone(), offset: 0 }
    }

    /// Waits until all bytes are there. Never returns if the download fails.
    pub(crate) async fn complete(&self) {
        let mut progress = self.progress.clone();
        if progress.wait_for(|progress| progress.complete).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The SHA-256 of a complete buffer in lower-case hexadecimal.
    ///
    /// # Errors
    /// When the temp file cannot be read.
    pub(super) async fn sha256(&self) -> Result<String, Failure> {
        let hash = match &self.backing {
            Backing::Memory(bytes) => Sha256::digest(bytes.get().map_or(&[][..], |bytes| bytes)),
            Backing::File(file) => {
                let file = Arc::clone(file);
                let length = self.length;
                let hashing = tokio::task::spawn_blocking(move || digest(&file, length));
                match hashing.await {
                    Ok(hash) => hash.map_err(|error| temp_fault(&error))?,
                    Err(error) => {
                        return Err(Failure::transient(Stage::Fetch, Reason::Panic, error));
                    }
                }
            }
        };
        Ok(hex::encode(hash))
    }
}

impl BufferReader {
    /// Waits for the next bytes and copies them into `target`, from index `from` on. Returns
    /// `target` and the number of bytes copied: 0 at the end of the object, and only once all of
    /// its bytes are known to be there.
    ///
    /// # Errors
    /// When the temp file cannot be read, or the download fails.
    pub(crate) async fn read(
        &mut self,
        mut target: Vec<u8>,
        from: usize,
    ) -> io::Result<(Vec<u8>, usize)> {
        let offset = self.offset;
        let Buffer { backing, length, progress } = &mut self.buffer;
        let at_end = |progress: &Progress| offset == *length && progress.complete;
        let readable =
            progress.wait_for(|progress| progress.bytes > offset || at_end(progress)).await;
        let readable = readable.map_err(|_| io::Error::other("the download broke off"))?.bytes;
        if offset == *length {
            return Ok((target, 0));
        }
        let most =
            usize::try_from(readable - offset).unwrap_or(usize::MAX).min(target.len() - from);
        let (target, got) = match backing {
            Backing::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let rest = bytes.get().and_then(|bytes| bytes.get(start..)).unwrap_or_default();
                let got = rest.len().min(most);
                target[from..from + got].copy_from_slice(&rest[..got]);
                (target, got)
            }
            Backing::File(file) => {
                let file = Arc::clone(file);
                let reading = tokio::task::spawn_blocking(move || {
                    let got = file.read_at(&mut target[from..from + most], offset)?;
                    Ok::<_, io::Error>((target, got))
                });
                reading.await.map_err(io::Error::other)??
            }
        };
        if got == 0 {
            return Err(io::Error::other("fewer bytes than were received"));
        }
        self.offset += got as u64;
        Ok((target, got))
    }
}

impl Writer {
    /// Appends a batch and publishes how many bytes can be read by now.
    ///
    /// # Errors
    /// When the temp file cannot be written.
    pub(super) async fn write(&mut self, batch: Vec<Bytes>) -> Result<(), Failure> {
        let bytes = self.target.write(batch).await?;
        self.progress.send_replace(Progress { bytes, complete: false });
        Ok(())
    }

    /// Waits for the last write and makes all `length` bytes readable.
    ///
    /// # Errors
    /// When the temp file cannot be written.
    pub(super) async fn finish(self, length: u64) -> Result<(), Failure> {
        self.target.finish().await?;
        self.progress.send_replace(Progress { bytes: length, complete: true });
        Ok(())
    }
}

impl Target {
    fn new(backing: &Backing) -> Self {
        match backing {
            Backing::Memory(cell) => {
                Self::Memory { cell: Arc::clone(cell), bytes: BytesMut::new() }
            }
            Backing::File(file) => Self::File { file: Arc::clone(file), offset: 0, writing: None },
        }
    }

    /// Appends a batch; returns how many bytes can be read by now.
    async fn write(&mut self, batch: Vec<Bytes>) -> Result<u64, Failure> {
        match self {
            Self::Memory { bytes, .. } => {
                for chunk in &batch {
                    bytes.extend_from_slice(chunk);
                }
                Ok(0)
            }
            Self::File { file, offset, writing } => {
                let written = written(writing.take()).await?;
                let file = Arc::clone(file);
                let mut next = *offset;
                *offset += batch.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
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
            Self::Memory { cell, bytes } => {
                // Set nowhere else, so it is still empty.
                cell.set(bytes.freeze()).ok();
                Ok(())
            }
            Self::File { writing, .. } => written(writing).await.map(drop),
        }
    }
}

/// Waits for a write; returns how many bytes the file has.
async fn written(writing: Option<JoinHandle<io::Result<u64>>>) -> Result<u64, Failure> {
    match writing {
        None => Ok(0),
        Some(writing) => match writing.await {
            Ok(written) => written.map_err(|error| temp_fault(&error)),
            Err(error) => Err(Failure::transient(Stage::Fetch, Reason::Panic, error)),
        },
    }
}

fn digest(file: &File, length: u64) -> io::Result<Output<Sha256>> {
    let mut hash = Sha256::new();
    let mut batch = vec![0; BATCH_SIZE];
    let mut offset = 0;
    while offset < length {
        let got = file.read_at(&mut batch, offset)?;
        if got == 0 {
            return Err(io::Error::other("the temp file is shorter than the download"));
        }
        hash.update(&batch[..got]);
        offset += got as u64;
    }
    Ok(hash.finalize())
}
