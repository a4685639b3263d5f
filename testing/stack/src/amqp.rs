//! A client of the broker.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind, Queue,
};
use peers::error::{Context, Error, Result};
use tokio::time::timeout;

use crate::state::Settings;

/// Timeout of every request: a broker on this machine answers sooner.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Persistent messages survive a restart of the broker.
const PERSISTENT: u8 = 2;

/// A connection with one channel that confirms what it publishes.
pub struct Amqp {
    connection: Connection,
    confirming: Channel,
}

/// A message taken out of a queue.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its body.
    pub body: Vec<u8>,
    /// Its headers, as text.
    pub headers: BTreeMap<String, String>,
    /// Its properties but for the headers.
    pub properties: BasicProperties,
    /// The exchange it was published to.
    pub exchange: String,
    /// The routing key it was published with.
    pub routing_key: String,
}

impl Message {
    /// The body as JSON.
    ///
    /// # Errors
    /// When it is not JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).context("message body")
    }
}

impl Amqp {
    /// Connects as the account that everything in the stack shares.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses.
    pub async fn connect(settings: &Settings) -> Result<Self> {
        Self::connect_at(settings, settings.amqp_port).await
    }

    /// The same through a proxy at another port.
    ///
    /// # Errors
    /// As [`Amqp::connect`].
    pub async fn connect_at(settings: &Settings, port: u16) -> Result<Self> {
        let url = format!("{}?heartbeat=20", settings.amqp_url_at(port));
        // Without a timeout, a peer that sends nothing would block the handshake for ever.
        let opening = async {
            let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
            let confirming = connection.create_channel().await?;
            confirming.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok::<_, lapin::Error>(Self { connection, confirming })
        };
        timeout(ANSWER_TIMEOUT, opening).await.context("broker")?.context("broker")
    }

    /// Whether connection and channel are still open.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.connection.status().connected() && self.confirming.status().connected()
    }

    /// Publishes a persistent message and waits until the broker has put it
    /// into a queue.
    ///
    /// # Errors
    /// When no queue took it, or the broker did not say so in time.
    pub async fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        body: &[u8],
        headers: &[(&str, &str)],
    ) -> Result<()> {
        let queued = self.offer(exchange, routing_key, body, headers).await?;
        queued.then_some(()).context(format!("publish: no queue takes {routing_key} at {exchange}"))
    }

    /// As [`Amqp::publish`], but a missing exchange or binding is no error: `false`. The client may
    /// have to connect again after that.
    ///
    /// # Errors
    /// When the broker did not answer for the message in time. The client has to connect again
    /// after that.
    pub async fn offer(
        &self,
        exchange: &str,
        routing_key: &str,
        body: &[u8],
        headers: &[(&str, &str)],
    ) -> Result<bool> {
        let headers = headers.iter().map(|(name, value)| {
            (ShortString::from(*name), AMQPValue::LongString((*value).into()))
        });
        let table: BTreeMap<ShortString, AMQPValue> = headers.collect();
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(PERSISTENT)
            .with_headers(FieldTable::from(table));
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let publishing = async {
            let (exchange, key) = (exchange.into(), routing_key.into());
            self.confirming.basic_publish(exchange, key, options, body, properties).await?.await
        };
        match timeout(ANSWER_TIMEOUT, publishing).await.context("publish")? {
            Ok(Confirmation::Ack(None)) => Ok(true),
            Ok(Confirmation::Ack(Some(_))) => Ok(false),
            Ok(other) => Err(Error::new(format!("publish: not confirmed ({other:?})"))),
            Err(error) if error.is_amqp_soft_error() => Ok(false),
            Err(error) => Err(error).context("publish"),
        }
    }

    /// Publishes a notification with the headers that the store would set.
    ///
    /// # Errors
    /// As [`Amqp::publish`].
    pub async fn notify(
        &self,
        exchange: &str,
        routing_key: &str,
        notification: &serde_json::Value,
    ) -> Result<()> {
        let name = notification["EventName"].as_str().unwrap_or_default();
        let key = notification["Key"].as_str().unwrap_or_default();
        let bucket = key.split('/').next().unwrap_or_default();
        let headers = [("minio-bucket", bucket), ("minio-event", name)];
        self.publish(exchange, routing_key, notification.to_string().as_bytes(), &headers).await
    }

    /// Declares a topic exchange, a quorum queue and the binding between them,
    /// for tests that start before any daemon does.
    ///
    /// # Errors
    /// When they exist with other properties.
    pub async fn declare(&self, exchange: &str, queue: &str, routing_key: &str) -> Result<()> {
        let channel = self.channel().await?;
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let none = FieldTable::default;
        let mut quorum = none();
        quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let work = async {
            channel.exchange_declare(exchange.into(), ExchangeKind::Topic, durable, none()).await?;
            channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), quorum).await?;
            let options = QueueBindOptions::default();
            channel
                .queue_bind(queue.into(), exchange.into(), routing_key.into(), options, none())
                .await
        };
        timeout(ANSWER_TIMEOUT, work).await.context("declare")?.context("declare")
    }

    /// Takes one message out of a queue.
    ///
    /// # Errors
    /// When there is no such queue.
    pub async fn get(&self, queue: &str) -> Result<Option<Message>> {
        let channel = self.channel().await?;
        let got = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await;
        Ok(got.context(format!("get from {queue}"))?.map(|message| {
            let delivery = message.delivery;
            Message {
                headers: texts(delivery.properties.headers().as_ref()),
                body: delivery.data,
                exchange: delivery.exchange.to_string(),
                routing_key: delivery.routing_key.to_string(),
                properties: delivery.properties,
            }
        }))
    }

    /// Takes one message out of a queue, or waits for one.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn get_within(&self, queue: &str, limit: Duration) -> Result<Message> {
        let end = Instant::now() + limit;
        loop {
            // The queue may also not be declared yet.
            if let Ok(Some(message)) = self.get(queue).await {
                return Ok(message);
            }
            if Instant::now() > end {
                return Err(Error::new(format!("no message in {queue} within {limit:?}")));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// How many messages of a queue are ready for a consumer; `None` when there is no such queue.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn count(&self, queue: &str) -> Result<Option<u32>> {
        Ok(self.look_at(queue).await?.map(|queue| queue.message_count()))
    }

    /// How many consumers a queue has; 0 when there is no such queue.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn consumers(&self, queue: &str) -> Result<u32> {
        Ok(self.look_at(queue).await?.map_or(0, |queue| queue.consumer_count()))
    }

    async fn look_at(&self, queue: &str) -> Result<Option<Queue>> {
        // The broker closes the channel when there is no such queue.
        let channel = self.channel().await?;
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let found = channel.queue_declare(queue.into(), options, FieldTable::default()).await;
        match found {
            Ok(queue) => Ok(Some(queue)),
            Err(error) if error.is_amqp_soft_error() => Ok(None),
            Err(error) => Err(error).context(format!("count {queue}")),
        }
    }

    /// Empties a queue; returns how many messages were removed.
    ///
    /// # Errors
    /// When there is no such queue.
    pub async fn purge(&self, queue: &str) -> Result<u32> {
        let channel = self.channel().await?;
        let purged = channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await;
        purged.context(format!("purge {queue}"))
    }

    /// Removes a queue; a missing one is no error.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn delete_queue(&self, queue: &str) -> Result<()> {
        let channel = self.channel().await?;
        let gone = channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await;
        gone.map(drop).context(format!("delete {queue}"))
    }

    /// Opens a new channel: an error on it does not close the others.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn channel(&self) -> Result<Channel> {
        timeout(ANSWER_TIMEOUT, self.connection.create_channel())
            .await
            .context("channel")?
            .context("channel")
    }
}

fn texts(headers: Option<&FieldTable>) -> BTreeMap<String, String> {
    let Some(headers) = headers else {
        return BTreeMap::new();
    };
    let text = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => text.to_string(),
        AMQPValue::ShortString(text) => text.to_string(),
        AMQPValue::LongLongInt(number) => number.to_string(),
        AMQPValue::LongInt(number) => number.to_string(),
        AMQPValue::Timestamp(seconds) => seconds.to_string(),
        AMQPValue::Boolean(truth) => truth.to_string(),
        other => format!("{other:?}"),
    };
    headers.inner().iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}
