//! Where a worker's deliveries come from: pushed by the broker, or asked for with a slot in hand.

use super::slots::{Lane, Slot, Slots};
use crate::queue::{Consumer, Next, OpenError, Puller, Session, WorkQueue};

pub(super) enum Source {
    Pushed(Consumer),
    Pulled(Puller),
}

impl Source {
    /// # Errors
    /// When the broker fails, refuses or does not answer.
    pub(super) async fn open(
        session: &Session,
        queue: &WorkQueue,
        slots: &Slots,
    ) -> Result<Self, OpenError> {
        match slots.lane() {
            Lane::Live => session.consumer(queue, slots.size()).await.map(Self::Pushed),
            Lane::Backlog => session.puller(queue).await.map(Self::Pulled),
        }
    }

    /// The next delivery with a slot to work on it, or the reason why there is none.
    pub(super) async fn next(&mut self, slots: &Slots) -> (Option<Slot>, Next) {
        match self {
            // The consumer first: its end must be noticed while all slots are taken. The broker sends
            // no more deliveries than there are slots.
            Self::Pushed(consumer) => match consumer.next().await {
                next @ Next::Delivery(_) => (Some(slots.acquire().await), next),
                next => (None, next),
            },
            Self::Pulled(puller) => loop {
                let slot = slots.acquire().await;
                if let Some(next) = puller.pull().await {
                    return (Some(slot), next);
                }
                drop(slot);
                puller.pause().await;
            },
        }
    }

    /// Ends the flow of deliveries. Those already received can still be settled.
    pub(super) async fn stop(&self) {
        match self {
            Self::Pushed(consumer) => consumer.stop().await,
            Self::Pulled(_) => {}
        }
    }

    /// Gives back what is unsettled. Returns whether the broker answered. If so, it has received every
    /// acknowledgement sent before.
    pub(super) async fn close(self) -> bool {
        match self {
            Self::Pushed(consumer) => consumer.close().await,
            Self::Pulled(puller) => puller.close().await,
        }
    }
}
