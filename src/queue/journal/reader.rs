//! Reads the stream, one entry after the other.

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection};
use uuid::Uuid;

use super::JournalError;

/// Entries that the broker sends ahead. A consumer of a stream needs a limit, and has to acknowledge
/// what it was sent to get more. Source: <https://www.rabbitmq.com/docs/streams#consuming>
const PREFETCH: u16 = 200;
/// Fewer than [`PREFETCH`], so that the broker never waits for the rest.
const ACK_EVERY: u16 = 50;
/// The argument that says where to begin.
const OFFSET: &str = "x-stream-offset";

/// A consumer of the stream, from its first entry on.
pub(crate) struct Reader {
    /// The consumer ends with its channel.
    _channel: Channel,
    entries: lapin::Consumer,
    /// Messages that were not acknowledged yet.
    pending: u16,
}

/// One message of the stream.
pub(super) struct Line {
    /// The message id, if it is one of ours.
    pub(super) id: Option<Uuid>,
    pub(super) body: Vec<u8>,
}

impl Reader {
    pub(in crate::queue) async fn open(
        connection: &Connection,
        stream: &str,
    ) -> lapin::Result<Self> {
        let channel = connection.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let mut arguments = FieldTable::default();
        arguments.insert(OFFSET.into(), AMQPValue::LongString("first".into()));
        let (tag, options) = (ShortString::default(), BasicConsumeOptions::default());
        let entries = channel.basic_consume(stream.into(), tag, options, arguments).await?;
        Ok(Self { _channel: channel, entries, pending: 0 })
    }

    /// The next message.
    ///
    /// # Errors
    /// When the stream or the connection is gone.
    pub(super) async fn next(&mut self) -> Result<Line, JournalError> {
        let Some(next) = self.entries.next().await else {
            return Err(JournalError(
                "the broker ended its consumer; it may be deleted".to_owned(),
            ));
        };
        let message = next?;
        // Many at once: one by one a long journal would be read too slowly to be opened.
        self.pending += 1;
        if self.pending >= ACK_EVERY {
            self.pending = 0;
            if !message.acker.ack(BasicAckOptions { multiple: true }).await? {
                return Err(JournalError("its channel is closed".to_owned()));
            }
        }
        let id = message.properties.message_id().as_ref();
        let id = id.and_then(|id| Uuid::try_parse(id.as_str()).ok());
        Ok(Line { id, body: message.data })
    }
}
