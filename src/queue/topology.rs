//! The exchanges and queues: their names, and making sure that they are there.
//!
//! Every name of ours starts with the work queue's, so that two deployments on one broker never
//! share a queue and rights can be given by prefix. What belongs to the store (the input exchange
//! and queue) is attached to as it is; what is ours must have our arguments.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ExchangeKind};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::error::{OpenError, soft};
use crate::config::{BrokerSettings, ExchangeType, QueueType};
use crate::retry::Ladder;

/// Far above what a message can meet: a broker's own default (20 in RabbitMQ 4) would drop
/// messages that only came back because a dependency was down. Our retries are counted in a
/// header of our own.
const DELIVERY_LIMIT: i64 = 1_000_000_000;
const QUEUE_TYPE: &str = "x-queue-type";

/// Reports that the record of deletions keeps; the oldest go first. About 1 KiB each.
const MAX_LOG: i64 = 10_000;

/// A queue that is consumed, with its retry ladder and its dead-letter queue.
#[derive(Debug, Clone)]
pub(crate) struct WorkQueue {
    /// What it carries, for logs and metrics.
    pub(crate) name: &'static str,
    /// The queue.
    pub(crate) queue: String,
    /// Its retry queues, shortest delay first.
    pub(crate) retry: Vec<String>,
    /// Its dead-letter queue.
    pub(crate) dead: String,
}

impl WorkQueue {
    fn new(name: &'static str, queue: String, ladder: &Ladder) -> Self {
        let retry =
            ladder.tiers.iter().map(|tier| format!("{queue}.retry.{}", tier.name)).collect();
        let dead = format!("{queue}.dead");
        Self { name, queue, retry, dead }
    }
}

/// All names, and what is needed to declare them.
#[derive(Debug, Clone)]
pub(crate) struct Topology {
    pub(crate) notifications: WorkQueue,
    /// The outbox; `None` without a webhook.
    pub(crate) reports: Option<WorkQueue>,
    /// Direct exchange between our own queues.
    pub(crate) internal: String,
    /// Topic exchange of all reports, by status; others may bind.
    pub(crate) results: String,
    /// Without a webhook: the reports of what was deleted, newest last.
    pub(crate) log: String,
    leftover_reports: String,
    ladder: Ladder,
    input: Input,
    queue_type: QueueType,
}

#[derive(Debug, Clone)]
struct Input {
    exchange: String,
    exchange_type: ExchangeType,
    routing_key: String,
}

impl Topology {
    pub(crate) fn new(settings: &BrokerSettings, ladder: &Ladder, webhook: bool) -> Self {
        let work = settings.queue.clone();
        let reports = format!("{work}.reports");
        Self {
            notifications: WorkQueue::new("notifications", work.clone(), ladder),
            reports: webhook.then(|| WorkQueue::new("reports", reports.clone(), ladder)),
            internal: format!("{work}.internal"),
            results: format!("{work}.results"),
            log: format!("{reports}.log"),
            leftover_reports: reports,
            ladder: ladder.clone(),
            input: Input {
                exchange: settings.exchange.clone(),
                exchange_type: settings.exchange_type,
                routing_key: settings.routing_key.clone(),
            },
            queue_type: settings.queue_type,
        }
    }

    /// Declares and binds everything.
    pub(super) async fn declare(&self, connection: &Connection) -> Result<(), OpenError> {
        self.input_exchange(connection).await?;
        self.input_queue(connection).await?;
        own_exchange(connection, &self.internal, ExchangeKind::Direct).await?;
        own_exchange(connection, &self.results, ExchangeKind::Topic).await?;
        self.declare_work_queue(connection, &self.notifications).await?;
        if let Some(reports) = &self.reports {
            self.own_queue(connection, &reports.queue, self.durable()).await?;
            self.unbind_from_results(connection).await?;
            return self.declare_work_queue(connection, reports).await;
        }
        let mut bounded = self.durable();
        bounded.insert("x-max-length".into(), AMQPValue::LongLongInt(MAX_LOG));
        bounded.insert("x-overflow".into(), text("drop-head"));
        self.own_queue(connection, &self.log, bounded).await?;
        bind(connection, &self.log, &self.internal, &self.log).await?;
        if exists(connection, &self.leftover_reports).await? {
            self.unbind_from_results(connection).await?;
            tracing::warn!(
                queue = self.leftover_reports,
                "no PUBLISH_URL, but the reports queue of an earlier run is still there: what it \
                 holds is not delivered; remove it or set PUBLISH_URL"
            );
        }
        Ok(())
    }

    /// Version 0.1 bound the reports queue to the results exchange; with that binding every report
    /// would come twice. One that is not there is fine.
    async fn unbind_from_results(&self, connection: &Connection) -> Result<(), OpenError> {
        let (queue, exchange, key) = (self.leftover_reports.as_str(), self.results.as_str(), "#");
        let channel = connection.create_channel().await?;
        let none = FieldTable::default();
        let unbound = channel.queue_unbind(queue.into(), exchange.into(), key.into(), none);
        forbidden(unbound.await, || format!("binding of {queue} to {exchange} by {key}: remove it"))
    }

    /// What is there of the store's side, without changing anything.
    pub(super) async fn inspect(&self, connection: &Connection) -> Result<String, OpenError> {
        let (queue, exchange) = (&self.notifications.queue, &self.input.exchange);
        let passive = ExchangeDeclareOptions { passive: true, ..Default::default() };
        let channel = connection.create_channel().await?;
        let kind = ExchangeKind::Topic;
        let asked = channel.exchange_declare(
            exchange.as_str().into(),
            kind,
            passive,
            FieldTable::default(),
        );
        let there = |there: bool| if there { "is there" } else { "will be created" };
        let exchange_there = match asked.await {
            Ok(()) => true,
            Err(error) if soft(&error) == Some(&AMQPSoftError::NOTFOUND) => false,
            Err(error) => return Err(error.into()),
        };
        let queue_there = exists(connection, queue).await?;
        Ok(format!(
            "exchange {exchange} {}, queue {queue} {}",
            there(exchange_there),
            there(queue_there)
        ))
    }

    /// Exchange and binding of the store's messages, and the exchange of results, if they are gone.
    pub(super) async fn bind_input_again(&self, connection: &Connection) -> Result<(), OpenError> {
        let (exchange, queue) = (&self.input.exchange, &self.notifications.queue);
        if self.input_exchange(connection).await? {
            tracing::error!(exchange, "was gone; what was announced meanwhile may be lost");
        }
        own_exchange(connection, &self.results, ExchangeKind::Topic).await?;
        bind(connection, queue, exchange, &self.input.routing_key).await
    }

    /// Makes sure that the exchange is there; whether it had to be made.
    async fn input_exchange(&self, connection: &Connection) -> Result<bool, OpenError> {
        let name = &self.input.exchange;
        let passive = ExchangeDeclareOptions { passive: true, ..Default::default() };
        let kind = match self.input.exchange_type {
            ExchangeType::Topic => ExchangeKind::Topic,
            ExchangeType::Direct => ExchangeKind::Direct,
            ExchangeType::Fanout => ExchangeKind::Fanout,
        };
        let channel = connection.create_channel().await?;
        let declared = channel.exchange_declare(
            name.as_str().into(),
            kind.clone(),
            passive,
            FieldTable::default(),
        );
        match declared.await {
            Ok(()) => return Ok(false),
            Err(error) if soft(&error) == Some(&AMQPSoftError::NOTFOUND) => {}
            Err(error) if soft(&error) == Some(&AMQPSoftError::ACCESSREFUSED) => {
                return Err(OpenError::Forbidden(format!("exchange {name}: create it, durable")));
            }
            Err(error) => return Err(error.into()),
        }
        let active = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let channel = connection.create_channel().await?;
        let declared =
            channel.exchange_declare(name.as_str().into(), kind, active, FieldTable::default());
        forbidden(declared.await, || format!("exchange {name}: create it, durable")).map(|()| true)
    }

    async fn input_queue(&self, connection: &Connection) -> Result<(), OpenError> {
        let queue = &self.notifications.queue;
        if exists(connection, queue).await? {
            self.warn_of_other_arguments(connection, queue).await?;
        } else {
            self.own_queue(connection, queue, self.durable()).await?;
        }
        match bind(connection, queue, &self.input.exchange, &self.input.routing_key).await {
            Err(OpenError::Forbidden(_)) => {
                tracing::warn!(
                    queue,
                    exchange = self.input.exchange,
                    routing_key = self.input.routing_key,
                    "not allowed to bind the queue: make sure that this binding exists"
                );
                Ok(())
            }
            bound => bound,
        }
    }

    /// A queue of the store's side is used as it is, but its arguments may lose messages. Asking for
    /// ours changes nothing: the broker names the first one that differs.
    async fn warn_of_other_arguments(
        &self,
        connection: &Connection,
        queue: &str,
    ) -> Result<(), OpenError> {
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        let channel = connection.create_channel().await?;
        match channel.queue_declare(queue.into(), options, self.durable()).await {
            Err(error) if soft(&error) == Some(&AMQPSoftError::PRECONDITIONFAILED) => {
                tracing::warn!(
                    queue,
                    answer = crate::failure::causes(&error),
                    "used as it is, with other arguments than this daemon would give it. A length \
                     limit or TTL drops notifications; so does a quorum queue of RabbitMQ 4 without \
                     x-delivery-limit after 20 returns; a classic one counts no returns"
                );
                Ok(())
            }
            // Without the right to declare there is nothing to be learned.
            Err(error) if soft(&error) == Some(&AMQPSoftError::ACCESSREFUSED) => Ok(()),
            declared => declared.map(drop).map_err(OpenError::from),
        }
    }

    /// Declares the retry queues and the dead-letter queue of `work_queue`, and binds all three.
    async fn declare_work_queue(
        &self,
        connection: &Connection,
        work_queue: &WorkQueue,
    ) -> Result<(), OpenError> {
        let WorkQueue { queue, dead, .. } = work_queue;
        bind(connection, queue, &self.internal, queue).await?;
        for (name, tier) in work_queue.retry.iter().zip(&self.ladder.tiers) {
            let mut arguments = self.durable();
            let millis = i64::try_from(tier.delay.as_millis()).unwrap_or(i64::MAX);
            arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(millis));
            arguments.insert("x-dead-letter-exchange".into(), text(&self.internal));
            arguments.insert("x-dead-letter-routing-key".into(), text(queue));
            if self.queue_type == QueueType::Quorum {
                // Without both, a quorum queue may lose the message on its way back.
                arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
                arguments.insert("x-overflow".into(), text("reject-publish"));
            }
            self.own_queue(connection, name, arguments).await?;
            bind(connection, name, &self.internal, name).await?;
        }
        self.own_queue(connection, dead, self.durable()).await?;
        bind(connection, dead, &self.internal, dead).await
    }

    /// The type is always said: a virtual host may have another default.
    fn durable(&self) -> FieldTable {
        let mut arguments = FieldTable::default();
        match self.queue_type {
            QueueType::Quorum => {
                arguments.insert(QUEUE_TYPE.into(), text("quorum"));
                arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERY_LIMIT));
            }
            QueueType::Classic => {
                arguments.insert(QUEUE_TYPE.into(), text("classic"));
            }
        }
        arguments
    }

    async fn own_queue(
        &self,
        connection: &Connection,
        name: &str,
        arguments: FieldTable,
    ) -> Result<(), OpenError> {
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        let channel = connection.create_channel().await?;
        match channel.queue_declare(name.into(), options, arguments).await {
            Ok(_) => Ok(()),
            Err(error) => match soft(&error) {
                Some(AMQPSoftError::PRECONDITIONFAILED) => {
                    Err(OpenError::Mismatch(format!("queue {name}")))
                }
                Some(AMQPSoftError::ACCESSREFUSED) if exists(connection, name).await? => Ok(()),
                Some(AMQPSoftError::ACCESSREFUSED) => {
                    Err(OpenError::Forbidden(format!("queue {name}: create it, durable")))
                }
                _ => Err(error.into()),
            },
        }
    }
}

async fn own_exchange(
    connection: &Connection,
    name: &str,
    kind: ExchangeKind,
) -> Result<(), OpenError> {
    let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let passive = ExchangeDeclareOptions { passive: true, ..Default::default() };
    let channel = connection.create_channel().await?;
    match channel.exchange_declare(name.into(), kind.clone(), options, FieldTable::default()).await
    {
        Ok(()) => Ok(()),
        Err(error) => match soft(&error) {
            Some(AMQPSoftError::PRECONDITIONFAILED) => {
                Err(OpenError::Mismatch(format!("exchange {name}")))
            }
            Some(AMQPSoftError::ACCESSREFUSED) => {
                let channel = connection.create_channel().await?;
                let found =
                    channel.exchange_declare(name.into(), kind, passive, FieldTable::default());
                let missing =
                    || OpenError::Forbidden(format!("exchange {name}: create it, durable"));
                found.await.map_err(|_| missing())
            }
            _ => Err(error.into()),
        },
    }
}

/// A failed declare closes its channel, so each question gets a channel of its own.
pub(super) async fn exists(connection: &Connection, queue: &str) -> Result<bool, OpenError> {
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let channel = connection.create_channel().await?;
    match channel.queue_declare(queue.into(), passive, FieldTable::default()).await {
        Ok(_) => Ok(true),
        Err(error) if soft(&error) == Some(&AMQPSoftError::NOTFOUND) => Ok(false),
        Err(error) => forbidden(Err(error), || format!("queue {queue}")).map(|()| true),
    }
}

async fn bind(
    connection: &Connection,
    queue: &str,
    exchange: &str,
    key: &str,
) -> Result<(), OpenError> {
    let channel = connection.create_channel().await?;
    let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
    let bound = channel.queue_bind(queue.into(), exchange.into(), key.into(), options, arguments);
    forbidden(bound.await, || format!("binding of {queue} to {exchange} by {key}: create it"))
}

fn forbidden(result: lapin::Result<()>, what: impl FnOnce() -> String) -> Result<(), OpenError> {
    result.map_err(|error| match soft(&error) {
        Some(AMQPSoftError::ACCESSREFUSED) => OpenError::Forbidden(what()),
        _ => error.into(),
    })
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// The settings of MinIO's AMQP target that fit this topology, for people to copy.
pub(crate) fn minio_settings(settings: &BrokerSettings) -> String {
    let scheme = if settings.tls { "amqps" } else { "amqp" };
    let kind = match settings.exchange_type {
        ExchangeType::Topic => "topic",
        ExchangeType::Direct => "direct",
        ExchangeType::Fanout => "fanout",
    };
    let (host, port, exchange) = (&settings.host, settings.port, &settings.exchange);
    let key = &settings.routing_key;
    let vhost = match settings.vhost.as_str() {
        "/" => String::new(),
        other => format!("/{}", utf8_percent_encode(other, NON_ALPHANUMERIC)),
    };
    format!(
        "MINIO_NOTIFY_AMQP_ENABLE_SCAN=on\n\
         MINIO_NOTIFY_AMQP_URL_SCAN={scheme}://USER:PASSWORD@{host}:{port}{vhost}\n\
         MINIO_NOTIFY_AMQP_EXCHANGE_SCAN={exchange}\n\
         MINIO_NOTIFY_AMQP_EXCHANGE_TYPE_SCAN={kind}\n\
         MINIO_NOTIFY_AMQP_ROUTING_KEY_SCAN={key}\n\
         MINIO_NOTIFY_AMQP_DURABLE_SCAN=on\n\
         MINIO_NOTIFY_AMQP_DELIVERY_MODE_SCAN=2\n\
         MINIO_NOTIFY_AMQP_PUBLISHING_CONFIRMS_SCAN=on\n\
         MINIO_NOTIFY_AMQP_QUEUE_DIR_SCAN=/a/folder/on/a/volume"
    )
}
