//! Confirmed publishing, and the settling of deliveries that rests on it.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Confirmation};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::channels::Channels;
use super::intake::{ATTEMPT, DEFERRED, Delivery, FIRST_FAILURE, MISSED, REDRIVEN};
use super::results::{Announcement, Results};
use super::topology::{Lane, Topology, exists};
use super::{Disposition, Note};
use crate::clock;
use crate::failure::{Failure, Kind, Reason, Stage};

/// A broker that has not confirmed by then is treated as gone.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// For a question while deliveries wait to be given back.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// A broker that takes no messages for so long is left, before it takes away the deliveries that
/// wait for it: it does that after half an hour.
const LONGEST_ALARM: Duration = Duration::from_mins(10);
pub(super) const PERSISTENT: u8 = 2;
/// Parts of one message that are published together.
const PORTION: usize = 200;

pub(super) const LAST_FAILURE: &str = "avscan-last-failure";
pub(super) const REASON: &str = "avscan-reason";
pub(super) const STAGE: &str = "avscan-stage";
pub(super) const DETAIL: &str = "avscan-detail";

/// Publishes with confirms on the session's publishing connection. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    channels: Arc<Channels>,
    results: Results,
    internal: ShortString,
    /// The courier's queue, where there is a webhook.
    reports: Option<ShortString>,
    /// The record of deletions, where there is none.
    log: ShortString,
    lost: CancellationToken,
    /// The broker takes no messages for now (memory or disk alarm).
    blocked: watch::Receiver<bool>,
}

/// What a report must have been written to before the work goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    /// A queue of ours, always: it is all that will be left of the object, or it corrects that.
    Kept,
    /// The queue of the webhook, where there is one.
    Reported,
}

/// Hands reports to the broker, which keeps them until the courier has delivered them.
#[derive(Debug, Clone)]
pub(crate) struct Outbox(Publisher);

impl Outbox {
    /// Publishes one report; returns once the broker has it in a queue of ours, where it belongs
    /// into one. Then it is offered to the results exchange, and that is not waited for. `id` is the
    /// same for the same report.
    ///
    /// # Errors
    /// [`Kind::Abandoned`]: the session is lost, the delivery will come again.
    pub(crate) async fn publish(
        &self,
        record: Record,
        status: &str,
        id: &str,
        json: &[u8],
    ) -> Result<(), Failure> {
        let publisher = &self.0;
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_message_id(id.into());
        let log = (record == Record::Kept).then_some(&publisher.log);
        if let Some(queue) = publisher.reports.as_ref().or(log) {
            publisher.publish(queue.as_str(), json, properties.clone()).await?;
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
            reports: topology.reports.as_ref().map(|lane| lane.queue.as_str().into()),
            log: topology.log.as_str().into(),
            lost,
            blocked,
        }
    }

    /// Whether the broker takes no messages for now.
    pub(crate) fn is_blocked(&self) -> bool {
        *self.blocked.borrow()
    }

    /// Waits while the broker takes no messages.
    pub(crate) async fn unblocked(&self) {
        // An error means that the session is over, and that is noticed elsewhere.
        drop(self.blocked.clone().wait_for(|blocked| !blocked).await);
    }

    /// Ends when a publish should have been confirmed by now. A broker under alarm confirms when
    /// the alarm is over, so that time does not count unless it gets very long.
    async fn overdue(&self) {
        let mut blocked = self.blocked.clone();
        loop {
            let over = tokio::time::timeout(LONGEST_ALARM, blocked.wait_for(|blocked| !blocked));
            if !matches!(over.await, Ok(Ok(_))) {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(CONFIRM_TIMEOUT) => return,
                changed = blocked.wait_for(|blocked| *blocked) => if changed.is_err() { return },
            }
        }
    }

    pub(crate) fn outbox(&self) -> Outbox {
        Outbox(self.clone())
    }

    /// Carries out `disposition`: copies first, confirmed, then the acknowledgement.
    ///
    /// # Errors
    /// [`Kind::Abandoned`]: the session is lost and the message unsettled; it will come again.
    pub(crate) async fn settle(
        &self,
        delivery: &Delivery,
        lane: &Lane,
        disposition: Disposition,
    ) -> Result<(), Failure> {
        match disposition {
            Disposition::Release => return Ok(()),
            Disposition::Ack => {}
            Disposition::Split(parts) => {
                // In portions, so that a slow broker confirms each of them in time.
                for portion in parts.chunks(PORTION) {
                    let copies =
                        portion.iter().map(|part| self.forward(&lane.queue, part, delivery, None));
                    futures_util::future::try_join_all(copies).await?;
                }
            }
            Disposition::Wait { tier, attempt, deferred, missed, note } => {
                let tier = lane.tiers.get(tier).or(lane.tiers.last()).unwrap_or(&lane.queue);
                let failed = Some((attempt, deferred, missed, &note));
                self.forward(tier, &delivery.body, delivery, failed).await?;
            }
            Disposition::Park(note) => {
                let note = Some((delivery.attempt, 0, false, &note));
                self.forward(&lane.dead, &delivery.body, delivery, note).await?;
            }
        }
        if delivery.ack().await {
            return Ok(());
        }
        let (kind, detail) = (Kind::Abandoned, "the channel is gone, or the broker hangs");
        Err(Failure::new(kind, Stage::Report, Reason::NotAcknowledged, detail))
    }

    /// Whether the broker says that there is no such queue. No answer is no.
    pub(crate) async fn is_gone(&self, queue: &str) -> bool {
        // Under an alarm nothing can be asked.
        if self.is_blocked() {
            return false;
        }
        let asked = exists(self.channels.connection(), queue);
        let answer = tokio::select! {
            answer = tokio::time::timeout(ANSWER_TIMEOUT, asked) => answer,
            () = self.lost.cancelled() => return false,
        };
        matches!(answer, Ok(Ok(false)))
    }

    /// Publishes a copy to one of our queues. Of the original's properties only the content type
    /// and the message id go along: a foreign user id, expiration or CC would break or lose it.
    async fn forward(
        &self,
        queue: &str,
        body: &[u8],
        original: &Delivery,
        failed: Option<(u32, u32, bool, &Note)>,
    ) -> Result<(), Failure> {
        let mut headers = FieldTable::default();
        if original.redriven > 0 {
            headers.insert(REDRIVEN.into(), AMQPValue::LongLongInt(original.redriven.into()));
        }
        if let Some((attempt, deferred, missed, note)) = failed {
            let now = clock::now();
            let first = original.first_failure.as_deref().unwrap_or(&now);
            headers.insert(ATTEMPT.into(), AMQPValue::LongLongInt(attempt.into()));
            if deferred > 0 {
                headers.insert(DEFERRED.into(), AMQPValue::LongLongInt(deferred.into()));
            }
            if missed {
                headers.insert(MISSED.into(), AMQPValue::LongLongInt(1));
            }
            for (name, value) in [
                (REASON, note.reason),
                (STAGE, note.stage.into_str()),
                (DETAIL, &note.detail),
                (FIRST_FAILURE, first),
                (LAST_FAILURE, &now),
            ] {
                headers.insert(name.into(), AMQPValue::LongString(value.into()));
            }
        }
        self.put(queue, body, original, headers).await
    }

    /// Publishes a copy with these headers.
    pub(super) async fn put(
        &self,
        queue: &str,
        body: &[u8],
        original: &Delivery,
        headers: FieldTable,
    ) -> Result<(), Failure> {
        let mut properties = BasicProperties::default().with_headers(headers);
        if let Some(content_type) = original.content_type.clone() {
            properties = properties.with_content_type(content_type);
        }
        if let Some(message_id) = original.message_id.clone() {
            properties = properties.with_message_id(message_id);
        }
        self.publish(queue, body, properties).await
    }

    /// Publishes to one of our queues; returns once it has the message.
    async fn publish(
        &self,
        queue: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<(), Failure> {
        let exchange = self.internal.clone();
        let properties = properties.with_delivery_mode(PERSISTENT);
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let confirmed = async {
            let taken = self.channels.take().await?;
            let published =
                taken.channel.basic_publish(exchange, queue.into(), options, body, properties);
            let confirmed = published.await?.await?;
            taken.give_back();
            Ok::<_, lapin::Error>(confirmed)
        };
        // A returned message is confirmed too: only an acknowledgement without one is success.
        let confirmed = tokio::select! {
            biased;
            confirmed = confirmed => Some(confirmed),
            () = self.overdue() => None,
            () = self.lost.cancelled() => None,
        };
        let problem = match confirmed {
            Some(Ok(Confirmation::Ack(None))) => return Ok(()),
            Some(Ok(Confirmation::Ack(Some(_)))) => "no queue takes it".to_owned(),
            Some(Ok(Confirmation::Nack(_))) => "refused by the broker".to_owned(),
            Some(Ok(Confirmation::NotRequested)) => "confirms are off".to_owned(),
            Some(Err(error)) => crate::failure::causes(&error),
            None => "not confirmed in time".to_owned(),
        };
        // Whatever it was, what this session believes about the broker is no longer true.
        if !self.lost.is_cancelled() {
            tracing::warn!(queue, problem, "a message could not be published");
            self.lost.cancel();
        }
        Err(Failure::new(Kind::Abandoned, Stage::Report, Reason::NotPublished, problem))
    }
}
