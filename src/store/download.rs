//! A download in progress: written to memory or an unnamed temp file, readable while it arrives.

use std::time::Duration;

use aws_sdk_s3::primitives::{ByteStream, ByteStreamError};
use bytes::Bytes;
use futures_util::FutureExt;

use super::buffer::{BATCH_SIZE, Backing, Buffer, Writer};
use super::disk_budget::Reservation;
use super::fault;
use super::{Identity, Observation};
use crate::failure::{Failure, Reason, Stage, causes};
use crate::overview::Received;

/// Longest wait for the next bytes of a body.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// An object whose GET was answered and whose body is not read yet.
#[derive(Debug)]
pub(crate) struct Download {
    pub(crate) identity: Identity,
    observation: Observation,
    /// As far as can be told, the same bytes as the notification announced.
    as_announced: bool,
    body: ByteStream,
    buffer: Buffer,
    writer: Writer,
    received: Received,
    /// `None` for an object in memory.
    reservation: Option<Reservation>,
}

/// An object all of whose bytes are there.
#[derive(Debug)]
pub(crate) struct Downloaded {
    pub(crate) identity: Identity,
    pub(crate) observation: Observation,
    /// As far as can be told, the same bytes as the notification announced.
    pub(crate) as_announced: bool,
    buffer: Buffer,
    /// Dropped after the buffer, whose file it stands for.
    _reservation: Option<Reservation>,
}

impl Download {
    /// `found` is which bytes the store answered with, what else it said of them, and whether they are
    /// those announced.
    pub(super) fn new(
        found: (Identity, Observation, bool),
        body: ByteStream,
        backing: Backing,
        reservation: Option<Reservation>,
    ) -> Self {
        let (identity, observation, as_announced) = found;
        let (buffer, writer) = Buffer::new(backing, identity.bytes());
        let received = Received::default();
        Self { identity, observation, as_announced, body, buffer, writer, received, reservation }
    }

    /// The bytes, readable while they arrive.
    pub(crate) fn buffer(&self) -> Buffer {
        self.buffer.clone()
    }

    /// The number of bytes that have arrived, kept up to date while they do.
    pub(crate) fn received(&self) -> Received {
        self.received.clone()
    }

    /// Waits until its temp disk is needed for others that come first.
    pub(crate) fn displaced(&self) -> impl Future<Output = Failure> + Send + use<> {
        let displaced = self.reservation.as_ref().map(Reservation::displaced);
        async move {
            match displaced {
                Some(displaced) => displaced.await,
                None => std::future::pending().await,
            }
        }
    }

    /// Receives the whole body.
    ///
    /// # Errors
    /// When the body is not as long as announced, stops arriving, or cannot be stored.
    pub(super) async fn receive(self) -> Result<Downloaded, Failure> {
        let Self {
            identity,
            observation,
            as_announced,
            mut body,
            buffer,
            mut writer,
            received: shown,
            reservation,
        } = self;
        let length = buffer.length();
        let mut received: u64 = 0;
        while let Some(batch) = next_batch(&mut body).await? {
            received += batch.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
            shown.set(received);
            if received > length {
                let detail = format!("more than the {length} bytes announced");
                return Err(Failure::transient(Stage::Fetch, Reason::BodyTooLong, detail));
            }
            writer.write(batch).await?;
        }
        if received != length {
            let detail = format!("{received} of {length} bytes");
            return Err(fault::suspect(Stage::Fetch, Reason::BodyTruncated, detail));
        }
        writer.finish(received).await?;
        Ok(Downloaded { identity, observation, as_announced, buffer, _reservation: reservation })
    }
}

impl Downloaded {
    /// The length of the object in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.identity.bytes()
    }

    pub(crate) fn bytes(&self) -> &Buffer {
        &self.buffer
    }

    /// The SHA-256 of the bytes in lower-case hexadecimal. Computed after the download, because an
    /// engine can already scan meanwhile.
    ///
    /// # Errors
    /// When the temp file cannot be read.
    pub(crate) async fn sha256(&self) -> Result<String, Failure> {
        self.buffer.sha256().await
    }
}

/// Waits for the next bytes of a body and takes what else has arrived, up to about [`BATCH_SIZE`].
/// `None` at the end of the body.
async fn next_batch(body: &mut ByteStream) -> Result<Option<Vec<Bytes>>, Failure> {
    let broken =
        |error: ByteStreamError| fault::suspect(Stage::Fetch, Reason::BodyBroken, causes(&error));
    let first = match tokio::time::timeout(IDLE_TIMEOUT, body.next()).await {
        Ok(Some(chunk)) => chunk.map_err(broken)?,
        Ok(None) => return Ok(None),
        Err(_) => {
            let detail = format!("silent for {IDLE_TIMEOUT:?}");
            return Err(fault::suspect(Stage::Fetch, Reason::BodyStalled, detail));
        }
    };
    let mut size = first.len();
    let mut batch = vec![first];
    while size < BATCH_SIZE
        && let Some(Some(chunk)) = body.next().now_or_never()
    {
        let chunk = chunk.map_err(broken)?;
        size += chunk.len();
        batch.push(chunk);
    }
    Ok(Some(batch))
}
