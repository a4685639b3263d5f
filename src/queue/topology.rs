//! The names of exchanges and queues, and the declaration of our own.
//!
//! Every name of ours starts with the input queue's name, so that two deployments on one broker
//! share no queue and permissions can be given by prefix. The store's side (input exchange and
//! queue) is used as it exists; what is ours must have our arguments.

mod input;

use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ExchangeKind};

use self::input::Input;
use super::declare::{bind, exists, forbidden, own_exchange, own_queue};
use super::error::OpenError;
use crate::config::{BrokerSettings, QueueType};
use crate::health::QueueKind;
use crate::retry::Ladder;

/// More redeliveries than any message gets. The default of RabbitMQ 4 (20) would drop messages that
/// were only requeued because a dependency was down; our retries are counted in a header of ours.
/// Source: <https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling>
const DELIVERY_LIMIT: i64 = 1_000_000_000;
/// Reports in the record of deletions, about 1 KiB each. The oldest are dropped first.
const MAX_LOGGED_REPORTS: i64 = 10_000;
/// Older entries of the journal are dropped; as `RabbitMQ` writes it, seven days.
const JOURNAL_MAX_AGE: &str = "7D";
/// The oldest entries are dropped beyond this. An entry takes 100 to 500 bytes, and a replica reads
/// all of them when a session opens.
const JOURNAL_MAX_BYTES: i64 = 16 << 20;
/// `RabbitMQ` drops whole segments, whose default size of 500 MB would be kept for ever.
/// Source: <https://www.rabbitmq.com/docs/streams#retention>
const JOURNAL_SEGMENT_BYTES: i64 = 1 << 20;

/// Objects of sweeps that wait for their scan. The broker refuses more, and the sweep waits. It holds
/// at most 10,000 of them in all: these, eight retry queues full of [`MAX_BACKLOG_RETRIES`], and what is
/// in work.
const MAX_BACKLOG: i64 = 8_000;
/// Objects of sweeps in each retry queue. More that fail at the same time are given up.
const MAX_BACKLOG_RETRIES: i64 = 200;

/// A queue that is consumed, with its retry queues and its dead-letter queue.
#[derive(Debug, Clone)]
pub(crate) struct WorkQueue {
    pub(crate) kind: QueueKind,
    /// The name of the queue itself.
    pub(crate) queue: String,
    /// The names of its retry queues, shortest delay first.
    pub(crate) retry: Vec<String>,
    /// The name of its dead-letter queue; without one, messages that are given up are acknowledged.
    pub(crate) dead: Option<String>,
}

impl WorkQueue {
    /// The names of the queues in which its messages wait: its own, and its retry queues.
    pub(crate) fn with_retry(&self) -> Vec<&str> {
        std::iter::once(&self.queue).chain(&self.retry).map(String::as_str).collect()
    }
}

/// All names, and what is needed to declare them.
#[derive(Debug, Clone)]
pub(crate) struct Topology {
    /// What the store announces.
    pub(crate) notifications: WorkQueue,
    /// What sweeps announce.
    pub(crate) backlog: WorkQueue,
    /// Reports for the webhook; `None` without one.
    pub(crate) reports: Option<WorkQueue>,
    /// Direct exchange between our own queues.
    pub(crate) internal: String,
    /// Topic exchange of all reports, routed by status; others may bind queues.
    pub(crate) results: String,
    /// The record of deletions: their reports, newest last. Used without a webhook.
    pub(crate) log: String,
    /// Where each sweep stands; read by one replica at a time.
    pub(crate) sweeps: WorkQueue,
    /// The stream of facts that replicas must agree on. Declared by the first one that reads it.
    pub(super) journal: String,
    /// The reports queue, also where it is not used.
    reports_queue: String,
    ladder: Ladder,
    input: Input,
    queue_type: QueueType,
}

impl WorkQueue {
    fn new(kind: QueueKind, queue: String, ladder: &Ladder) -> Self {
        let retry =
            ladder.tiers.iter().map(|tier| format!("{queue}.retry.{}", tier.name)).collect();
        let dead = Some(dead(&queue));
        Self { kind, queue, retry, dead }
    }
}

/// The name of the dead-letter queue of a work queue.
pub(super) fn dead(queue: &str) -> String {
    format!("{queue}.dead")
}

impl Topology {
    /// The names that follow from the settings. `webhook`: whether reports are delivered to one.
    pub(crate) fn new(settings: &BrokerSettings, ladder: &Ladder, webhook: bool) -> Self {
        let work = settings.queue.clone();
        let reports = format!("{work}.reports");
        Self {
            notifications: WorkQueue::new(QueueKind::Notifications, work.clone(), ladder),
            backlog: WorkQueue {
                dead: None,
                ..WorkQueue::new(QueueKind::Backlog, format!("{work}.backlog"), ladder)
            },
            reports: webhook.then(|| WorkQueue::new(QueueKind::Reports, reports.clone(), ladder)),
            internal: format!("{work}.internal"),
            results: format!("{work}.results"),
            log: format!("{reports}.log"),
            sweeps: WorkQueue::new(QueueKind::Sweeps, format!("{work}.sweeps"), ladder),
            journal: format!("{work}.journal"),
            reports_queue: reports,
            ladder: ladder.clone(),
            input: Input::new(settings),
            queue_type: settings.queue_type,
        }
    }

    /// Declares and binds everything that is missing.
    ///
    /// # Errors
    /// When the broker fails, or something of ours is forbidden or has other arguments.
    pub(super) async fn declare(&self, connection: &Connection) -> Result<(), OpenError> {
        self.declare_input_exchange(connection).await?;
        self.declare_input_queue(connection).await?;
        own_exchange(connection, &self.internal, ExchangeKind::Direct).await?;
        own_exchange(connection, &self.results, ExchangeKind::Topic).await?;
        self.declare_around(connection, &self.notifications, None).await?;
        self.declare_backlog(connection).await?;
        self.declare_sweeps(connection).await?;
        match &self.reports {
            Some(reports) => {
                own_queue(connection, &reports.queue, self.arguments()).await?;
                self.unbind_reports_from_results(connection).await?;
                self.declare_around(connection, reports, None).await
            }
            None => self.declare_log(connection).await,
        }
    }

    /// Declares the queue of sweeps. One replica at a time reads it, so that the pages of a sweep have
    /// one order. Source: <https://www.rabbitmq.com/docs/consumers#single-active-consumer>
    async fn declare_sweeps(&self, connection: &Connection) -> Result<(), OpenError> {
        let mut arguments = self.arguments();
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        own_queue(connection, &self.sweeps.queue, arguments).await?;
        self.declare_around(connection, &self.sweeps, None).await
    }

    /// Declares the backlog, with limits. Copies that come back from a retry queue to a full backlog
    /// wait in a quorum queue until there is room. A classic one drops them: it dead-letters without
    /// waiting for an answer. Then the next sweep announces the object again, because it has no receipt.
    /// Source: <https://www.rabbitmq.com/docs/dlx#safety>
    async fn declare_backlog(&self, connection: &Connection) -> Result<(), OpenError> {
        let mut arguments = self.arguments();
        limit(&mut arguments, MAX_BACKLOG);
        own_queue(connection, &self.backlog.queue, arguments).await?;
        self.declare_around(connection, &self.backlog, Some(MAX_BACKLOG_RETRIES)).await
    }

    /// Declares the retry queues of `work_queue`, for `most` messages each if they are limited, and its
    /// dead-letter queue, and binds all three kinds to the internal exchange.
    async fn declare_around(
        &self,
        connection: &Connection,
        work_queue: &WorkQueue,
        most: Option<i64>,
    ) -> Result<(), OpenError> {
        let WorkQueue { queue, dead, .. } = work_queue;
        bind(connection, queue, &self.internal, queue).await?;
        for (name, tier) in work_queue.retry.iter().zip(&self.ladder.tiers) {
            let mut arguments = self.arguments();
            let millis = i64::try_from(tier.delay.as_millis()).unwrap_or(i64::MAX);
            arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(millis));
            arguments.insert("x-dead-letter-exchange".into(), text(&self.internal));
            arguments.insert("x-dead-letter-routing-key".into(), text(queue));
            if self.queue_type == QueueType::Quorum {
                // Without both, a quorum queue can lose a message that it dead-letters. Source:
                // <https://www.rabbitmq.com/docs/quorum-queues#activating-at-least-once-dead-lettering>
                arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
                arguments.insert("x-overflow".into(), text("reject-publish"));
            }
            if let Some(most) = most {
                limit(&mut arguments, most);
            }
            own_queue(connection, name, arguments).await?;
            bind(connection, name, &self.internal, name).await?;
        }
        let Some(dead) = dead else { return Ok(()) };
        own_queue(connection, dead, self.arguments()).await?;
        bind(connection, dead, &self.internal, dead).await
    }

    /// Declares the journal. Not part of [`Self::declare`]: a broker without streams can do all the
    /// rest.
    ///
    /// # Errors
    /// As [`Self::declare`].
    pub(super) async fn declare_journal(&self, connection: &Connection) -> Result<(), OpenError> {
        let journal = self.journal.as_str();
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), text("stream"));
        arguments.insert("x-max-age".into(), text(JOURNAL_MAX_AGE));
        for (name, bytes) in [
            ("x-max-length-bytes", JOURNAL_MAX_BYTES),
            ("x-stream-max-segment-size-bytes", JOURNAL_SEGMENT_BYTES),
        ] {
            arguments.insert(name.into(), AMQPValue::LongLongInt(bytes));
        }
        own_queue(connection, journal, arguments).await?;
        bind(connection, journal, &self.internal, journal).await
    }

    /// Declares the record of deletions, and warns of a reports queue that nothing consumes.
    async fn declare_log(&self, connection: &Connection) -> Result<(), OpenError> {
        let mut arguments = self.arguments();
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(MAX_LOGGED_REPORTS));
        arguments.insert("x-overflow".into(), text("drop-head"));
        own_queue(connection, &self.log, arguments).await?;
        bind(connection, &self.log, &self.internal, &self.log).await?;
        if exists(connection, &self.reports_queue).await? {
            self.unbind_reports_from_results(connection).await?;
            tracing::warn!(
                queue = self.reports_queue,
                "PUBLISH_URL is not set, but the reports queue of an earlier run exists: its \
                 reports are not delivered; set PUBLISH_URL or remove the queue"
            );
        }
        Ok(())
    }

    /// Version 0.1 bound the reports queue to the results exchange. With that binding every report
    /// would be delivered twice. A binding that does not exist is no error.
    async fn unbind_reports_from_results(&self, connection: &Connection) -> Result<(), OpenError> {
        let (queue, exchange, key) = (self.reports_queue.as_str(), self.results.as_str(), "#");
        let channel = connection.create_channel().await?;
        let none = FieldTable::default();
        let unbound = channel.queue_unbind(queue.into(), exchange.into(), key.into(), none);
        forbidden(unbound.await, || format!("binding of {queue} to {exchange} by {key}: remove it"))
    }

    /// The arguments of every queue that we declare. The type is always included: a virtual host
    /// may have another default.
    fn arguments(&self) -> FieldTable {
        let mut arguments = FieldTable::default();
        match self.queue_type {
            QueueType::Quorum => {
                arguments.insert("x-queue-type".into(), text("quorum"));
                arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERY_LIMIT));
            }
            QueueType::Classic => {
                arguments.insert("x-queue-type".into(), text("classic"));
            }
        }
        arguments
    }
}

/// Publishes beyond `most` messages are refused.
fn limit(arguments: &mut FieldTable, most: i64) {
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(most));
    arguments.insert("x-overflow".into(), text("reject-publish"));
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}
