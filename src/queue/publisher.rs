//! Confirmed publishing, and the settling of deliveries that relies on it.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{FieldTable, ShortString};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::channels::{Answer, Channels};
use super::declare::{depth, exists};
use super::delivery::Delivery;
use super::error::OpenError;
use super::headers::{self, History};
use super::results::{Announcement, Results};
use super::topology::{Topology, WorkQueue};
use super::{ANSWER_TIMEOUT, Cause, Disposition};
use crate::failure::{Failure, Kind, Reason, Stage};
use crate::trace::Trace;

/// A broker that has not confirmed a message by then counts as gone.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// To ask whether a queue exists. Deliveries wait to be released meanwhile.
const QUEUE_CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// The session ends when the broker is blocked for longer. It must end before the broker's
/// `consumer_timeout` (30 min by default), which would requeue the waiting deliveries.
const BLOCKED_TIMEOUT: Duration = Duration::from_mins(10);
/// Parts of one message that are published at the same time.
const SPLIT_BATCH: usize = 200;

/// Publishes with confirms on the session's publishing connection. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    channels: Arc<Channels>,
    results: Results,
    internal: ShortString,
    /// The courier's queue; `None` without a webhook.
    reports: Option<ShortString>,
    /// The record of deletions, used without a webhook.
    log: ShortString,
    lost: CancellationToken,
    /// The broker accepts no messages (memory or disk alarm).
    blocked: watch::Receiver<bool>,
}

/// Which of our queues must have a report before the work goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    /// The webhook's queue, or else the record of deletions. For a report that will be the only
    /// trace of the object, or that corrects one.
    Kept,
    /// The webhook's queue; none without a webhook.
    Reported,
}

/// How an attempt to settle a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settlement {
    /// As asked.
    Settled,
    /// The retry queue is full. The message is unsettled, and has to be given up: if it waited for
    /// room, so would those in front of it that are to make room.
    NoRoom,
}

/// Hands reports to the broker, which keeps them until the courier has delivered them.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    publisher: Publisher,
    /// Where the reports belong.
    trace: Trace,
}

impl Outbox {
    /// Publishes one report. Returns once the broker has confirmed it in the queue that `record`
    /// asks for. It is also offered to the results exchange, without waiting. `id` becomes the AMQP
    /// message id and is the same for every copy of a report.
    ///
    /// # Errors
    /// [`Kind::Abandoned`]: the session is lost, and the delivery will be redelivered.
    pub(crate) async fn publish(
        &self,
        record: Record,
        status: &str,
        id: &str,
        json: &[u8],
    ) -> Result<(), Failure> {
        let publisher = &self.publisher;
        let log = (record == Record::Kept).then_some(&publisher.log);
        let queue = publisher.reports.as_ref().or(log);
        let mut span = queue.map(|queue| self.trace.send(queue.as_str())).unwrap_or_default();
        let properties = properties_within(&self.trace.within(&span))
            .with_content_type("application/json".into())
            .with_message_id(id.into());
        if let Some(queue) = queue {
            span.text("messaging.message.id", id);
            span.note(publisher.publish(queue.as_str(), json, properties.clone()).await)?;
        }
        let (status, json) = (status.into(), json.to_vec());
        publisher.results.announce(Announcement { status, properties, json });
        Ok(())
    }
}

impl Publisher {
    pub(super) fn new(
        channels: Arc<Channels>,
        results: Results,
        topology: &Topology,
        lost: CancellationToken,
        blocked: watch::Receiver<bool>,
    ) -> Self {
        Self {
            channels,
            results,
            internal: topology.internal.as_str().into(),
            reports: topology.reports.as_ref().map(|reports| reports.queue.as_str().into()),
            log: topology.log.as_str().into(),
            lost,
            blocked,
        }
    }

    /// Whether the broker accepts no messages at the moment (`connection.blocked`).
    pub(crate) fn is_blocked(&self) -> bool {
        *self.blocked.borrow()
    }

    /// Waits until the broker accepts messages.
    pub(crate) async fn unblocked(&self) {
        // An error means that the session ended; callers watch for that themselves.
        drop(self.blocked.clone().wait_for(|blocked| !blocked).await);
    }

    /// Returns when a publish that begins now is overdue: after [`CONFIRM_TIMEOUT`] without an
    /// alarm. A broker under alarm confirms only after it, so an alarm restarts the time; one
    /// longer than [`BLOCKED_TIMEOUT`] ends it.
    async fn overdue(&self) {
        let mut blocked = self.blocked.clone();
        loop {
            let over = tokio::time::timeout(BLOCKED_TIMEOUT, blocked.wait_for(|blocked| !blocked));
            if !matches!(over.await, Ok(Ok(_))) {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(CONFIRM_TIMEOUT) => return,
                changed = blocked.wait_for(|blocked| *blocked) => if changed.is_err() { return },
            }
        }
    }

    /// The part of the publisher that the pipeline may use, for reports that belong to `trace`.
    pub(crate) fn outbox(&self, trace: &Trace) -> Outbox {
        Outbox { publisher: self.clone(), trace: trace.clone() }
    }

    /// Settles `delivery`: publishes the copies, waits for their confirms, then acknowledges.
    ///
    /// # Errors
    /// [`Kind::Abandoned`]: the session is lost and the message unsettled; it will be redelivered.
    pub(crate) async fn settle(
        &self,
        delivery: &Delivery,
        work_queue: &WorkQueue,
        disposition: Disposition,
    ) -> Result<Settlement, Failure> {
        match disposition {
            Disposition::Release => return Ok(Settlement::Settled),
            Disposition::Ack => {}
            Disposition::Split(parts) => {
                let redriven = delivery.history.redriven;
                let headers = History { redriven, ..History::default() }.to_headers(None);
                // In batches, so that a slow broker confirms each message in time.
                for batch in parts.chunks(SPLIT_BATCH) {
                    let copies = batch.iter().map(|part| {
                        self.publish_copy(&work_queue.queue, part, delivery, headers.clone())
                    });
                    futures_util::future::try_join_all(copies).await?;
                }
            }
            Disposition::Retry { tier, attempt, deferred, missed, cause } => {
                let retry = &work_queue.retry;
                let queue = retry.get(tier).or(retry.last()).unwrap_or(&work_queue.queue);
                let history = History { attempt, deferred, missed, ..delivery.history.clone() };
                let headers = history.to_headers(Some(&cause));
                if work_queue.dead.is_some() {
                    self.publish_copy(queue, &delivery.body, delivery, headers).await?;
                } else {
                    let properties = properties_of_copy(delivery, headers);
                    if !self.publish_if_room(queue, &delivery.body, properties).await? {
                        return Ok(Settlement::NoRoom);
                    }
                }
            }
            Disposition::Park(cause) => {
                if let Some(dead) = &work_queue.dead {
                    let history =
                        History { deferred: 0, missed: false, ..delivery.history.clone() };
                    let headers = history.to_headers(Some(&cause));
                    self.publish_copy(dead, &delivery.body, delivery, headers).await?;
                }
            }
        }
        if delivery.ack().await {
            return Ok(Settlement::Settled);
        }
        let (kind, detail) =
            (Kind::Abandoned, "the channel is closed, or the broker does not answer");
        Err(Failure::new(kind, Stage::Report, Reason::NotAcknowledged, detail))
    }

    /// Parks a copy of `delivery` in the dead-letter queue `dead`, of another queue than its own. Returns
    /// once the broker has confirmed it.
    ///
    /// # Errors
    /// [`Kind::Abandoned`]: not confirmed, and the session is lost.
    pub(crate) async fn park_in(
        &self,
        dead: &str,
        delivery: &Delivery,
        cause: &Cause,
    ) -> Result<(), Failure> {
        let headers = History::default().to_headers(Some(cause));
        self.publish_copy(dead, &delivery.body, delivery, headers).await
    }

    /// Whether `queue` does not exist, by a passive declare. No answer counts as no.
    pub(crate) async fn is_gone(&self, queue: &str) -> bool {
        // A blocked connection is not read by the broker, so it would not answer.
        if self.is_blocked() {
            return false;
        }
        let asked = exists(self.channels.connection(), queue);
        let answer = tokio::select! {
            answer = tokio::time::timeout(QUEUE_CHECK_TIMEOUT, asked) => answer,
            () = self.lost.cancelled() => return false,
        };
        matches!(answer, Ok(Ok(false)))
    }

    /// Publishes a message of our own to one of our queues. Returns once the broker has confirmed it, and
    /// `false` if the queue is full.
    ///
    /// # Errors
    /// [`Kind::Abandoned`]: not known to be there, and the session is lost.
    pub(crate) async fn announce(
        &self,
        queue: &str,
        body: &[u8],
        trace: &Trace,
    ) -> Result<bool, Failure> {
        let properties = properties_within(trace).with_content_type("application/json".into());
        self.publish_if_room(queue, body, properties).await
    }

    /// The number of messages that are ready in these queues, together.
    ///
    /// # Errors
    /// [`Kind::Busy`]: the broker does not say.
    pub(crate) async fn depth(&self, queues: &[&str]) -> Result<u64, Failure> {
        let busy = |why: &dyn std::fmt::Display| {
            Failure::new(Kind::Busy, Stage::Event, Reason::NotPublished, why)
        };
        let asked = async {
            let mut sum = 0;
            for queue in queues {
                let found = depth(self.channels.connection(), queue).await?;
                sum += u64::from(found.unwrap_or_default());
            }
            Ok::<_, OpenError>(sum)
        };
        let answer = tokio::select! {
            answer = tokio::time::timeout(ANSWER_TIMEOUT, asked) => answer,
            () = self.lost.cancelled() => return Err(busy(&"the session is lost")),
        };
        match answer {
            Ok(Ok(sum)) => Ok(sum),
            Ok(Err(error)) => Err(busy(&error)),
            Err(_) => Err(busy(&"no answer")),
        }
    }

    /// Publishes `body` to one of our queues with these headers.
    ///
    /// # Errors
    /// [`Kind::Abandoned`]: not confirmed, and the session is lost.
    pub(super) async fn publish_copy(
        &self,
        queue: &str,
        body: &[u8],
        original: &Delivery,
        headers: FieldTable,
    ) -> Result<(), Failure> {
        self.publish(queue, body, properties_of_copy(original, headers)).await
    }

    /// Publishes to a queue with a limit. Returns whether there was room.
    async fn publish_if_room(
        &self,
        queue: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<bool, Failure> {
        match self.offer(queue, body, properties).await? {
            Answer::Refused => Ok(false),
            answer => self.confirmed(queue, answer).map(|()| true),
        }
    }

    /// Publishes to one of our queues. Returns once the broker has confirmed the message.
    async fn publish(
        &self,
        queue: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<(), Failure> {
        let answer = self.offer(queue, body, properties).await?;
        self.confirmed(queue, answer)
    }

    /// Publishes to one of our queues, and returns the broker's answer.
    async fn offer(
        &self,
        queue: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<Answer, Failure> {
        let published = self.channels.publish(self.internal.clone(), queue, body, properties);
        let answer = tokio::select! {
            biased;
            answer = published => Some(answer),
            () = self.overdue() => None,
            () = self.lost.cancelled() => None,
        };
        match answer {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => Err(self.not_published(queue, crate::failure::causes(&error))),
            None => Err(self.not_published(queue, "not confirmed in time".to_owned())),
        }
    }

    fn confirmed(&self, queue: &str, answer: Answer) -> Result<(), Failure> {
        match answer {
            Answer::Confirmed => Ok(()),
            other => Err(self.not_published(queue, other.to_string())),
        }
    }

    fn not_published(&self, queue: &str, problem: String) -> Failure {
        // The state of this session is unknown after any of these, so it ends.
        if !self.lost.is_cancelled() {
            tracing::warn!(queue, problem, "a message could not be published");
            self.lost.cancel();
        }
        // Every failed publish has stage `report`, also that of a retry copy: the words appear in
        // logs and metrics, and operators rely on them.
        Failure::new(Kind::Abandoned, Stage::Report, Reason::NotPublished, problem)
    }
}

/// The properties of a message that belongs to `trace`.
pub(super) fn properties_within(trace: &Trace) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers::carry(trace, &mut headers);
    let properties = BasicProperties::default();
    if headers.inner().is_empty() { properties } else { properties.with_headers(headers) }
}

/// Of the original's properties, only content type, message id and trace are kept: a foreign user id,
/// expiration or CC header would make the broker refuse, drop or duplicate the copy.
fn properties_of_copy(original: &Delivery, mut headers: FieldTable) -> BasicProperties {
    headers::carry(&original.trace, &mut headers);
    let mut properties = BasicProperties::default().with_headers(headers);
    if let Some(content_type) = original.content_type.clone() {
        properties = properties.with_content_type(content_type);
    }
    if let Some(message_id) = original.message_id.clone() {
        properties = properties.with_message_id(message_id);
    }
    properties
}
