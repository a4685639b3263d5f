//! Moves parked messages back to the queue they came from.
//!
//! A queue cannot be read without taking messages out, and what is given back to a quorum queue
//! counts as a failed delivery. So every message that stays is put back as a confirmed copy before
//! the original is acknowledged: the same body and headers of ours, the same order, no count
//! changed. An interruption leaves one message twice and none missing.

use std::collections::BTreeMap;
use std::time::Duration;

use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};

use super::error::OpenError;
use super::intake::{Delivery, FIRST_FAILURE, REDRIVEN};
use super::publisher::{DETAIL, LAST_FAILURE, REASON, STAGE};
use super::session::Session;
use super::topology::Lane;
use crate::failure::Failure;

const ANSWER: Duration = Duration::from_secs(10);
const APPLIED: Duration = Duration::from_millis(300);

/// One parked message, for people to look at.
#[derive(Debug)]
pub(crate) struct Parked<'a> {
    pub(crate) body: &'a [u8],
    pub(crate) attempts: u32,
    pub(crate) reason: &'a str,
    pub(crate) stage: &'a str,
    pub(crate) detail: &'a str,
    pub(crate) first_failure: &'a str,
    pub(crate) last_failure: &'a str,
}

/// Why a redrive ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Interrupted {
    #[error("{0}")]
    Broker(#[from] OpenError),
    #[error("{0}")]
    Publish(#[from] Failure),
}

impl From<lapin::Error> for Interrupted {
    fn from(error: lapin::Error) -> Self {
        Self::Broker(error.into())
    }
}

impl Session {
    /// Looks at every message that is parked in `lane` now, and moves back those that `wanted`
    /// says. They start with a fresh count of attempts.
    ///
    /// # Errors
    /// When the broker fails; what was moved until then stays moved.
    pub(crate) async fn redrive(
        &self,
        lane: &Lane,
        mut wanted: impl FnMut(&Parked<'_>) -> bool,
    ) -> Result<(), Interrupted> {
        let dead = lane.dead.as_str();
        let opened = async {
            let channel = self.channel().await?;
            let passive = QueueDeclareOptions { passive: true, ..Default::default() };
            let queue = channel.queue_declare(dead.into(), passive, FieldTable::default()).await?;
            Ok::<_, lapin::Error>((channel, queue))
        };
        let (channel, queue) = tokio::time::timeout(ANSWER, opened)
            .await
            .map_err(|_| OpenError::Unreachable("no answer to queue.declare".to_owned()))??;
        for _ in 0..queue.message_count() {
            let get = channel.basic_get(dead.into(), BasicGetOptions::default());
            let got = tokio::time::timeout(ANSWER, get)
                .await
                .map_err(|_| OpenError::Unreachable("no answer to basic.get".to_owned()))??;
            let Some(message) = got else { return Ok(()) };
            let headers = message.delivery.properties.headers().clone().unwrap_or_default();
            let delivery = Delivery::new(message.delivery);
            let text = |name: &str| match headers.inner().get(name) {
                Some(AMQPValue::LongString(text)) => std::str::from_utf8(text.as_bytes()).ok(),
                _ => None,
            };
            let parked = Parked {
                body: &delivery.body,
                attempts: delivery.attempt,
                reason: text(REASON).unwrap_or_default(),
                stage: text(STAGE).unwrap_or_default(),
                detail: text(DETAIL).unwrap_or_default(),
                first_failure: text(FIRST_FAILURE).unwrap_or_default(),
                last_failure: text(LAST_FAILURE).unwrap_or_default(),
            };
            if wanted(&parked) {
                let mut fresh = FieldTable::default();
                let redriven = AMQPValue::LongLongInt(i64::from(delivery.redriven) + 1);
                fresh.insert(REDRIVEN.into(), redriven);
                // So that whatever was reported of its failures is put right.
                if let Some(first) = &delivery.first_failure {
                    fresh
                        .insert(FIRST_FAILURE.into(), AMQPValue::LongString(first.as_str().into()));
                }
                self.publisher().put(&lane.queue, &delivery.body, &delivery, fresh).await?;
            } else {
                // As in every copy; the broker's own count starts anew.
                let own = |name: &str| name.starts_with("avscan-");
                let same: BTreeMap<_, _> = headers
                    .inner()
                    .clone()
                    .into_iter()
                    .filter(|(name, _)| own(name.as_str()))
                    .collect();
                let same = FieldTable::from(same);
                self.publisher().put(dead, &delivery.body, &delivery, same).await?;
            }
            if !delivery.ack().await {
                let detail = "a message was not acknowledged, and is there twice now".to_owned();
                return Err(OpenError::Unreachable(detail).into());
            }
        }
        // A quorum queue applies an acknowledgement a moment later; if the channel is gone by then,
        // the original comes back beside its copy. Each round of the loop waits for the one before.
        tokio::time::sleep(APPLIED).await;
        Ok(())
    }
}
