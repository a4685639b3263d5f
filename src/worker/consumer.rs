//! One consumer, from the opening of the gate to the end of the last delivery that it took.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::context::Context;
use super::slots::Slot;
use super::source::Source;
use super::{Handler, Worker};
use crate::health::Part;
use crate::queue::{Next, Session};

/// Grace for running effects when the gate closes: settle within this time, then what is unsettled
/// is requeued. The effects finish all the same.
const EFFECTS_GRACE: Duration = Duration::from_secs(5);
/// After the grace period of the shutdown, for work that was told to stop.
const LAST_SETTLEMENTS: Duration = Duration::from_secs(2);

/// How one consumer ended.
pub(super) enum ConsumerExit {
    /// The daemon stops; everything is settled.
    Drained,
    /// The daemon stops; something was not done in time.
    CutShort,
    SessionLost,
    /// The gate closed, or the broker ended the consumer: another one may be opened.
    Reopen,
    QueueDeleted,
}

/// Why no more deliveries are taken.
#[derive(Clone, Copy)]
enum Stop {
    Shutdown,
    SessionLost,
    GateClosed,
    /// By the broker; the queue and the session are there.
    ConsumerEnded,
    QueueDeleted,
}

/// What is left when no more deliveries are taken.
struct Rest {
    source: Source,
    tasks: TaskTracker,
    context: Arc<Context>,
}

impl<H: Handler> Worker<H> {
    /// Opens a consumer, works on what it brings, and drains it.
    pub(super) async fn consume(self: &Arc<Self>, session: &Session) -> ConsumerExit {
        let queue = &self.queue.queue;
        let opened = tokio::select! {
            opened = Source::open(session, &self.queue, &self.slots) => opened,
            () = self.shared.shutdown.cancelled() => return ConsumerExit::Drained,
        };
        let mut source = match opened {
            Ok(source) => source,
            Err(_) if session.publisher().is_gone(queue).await => {
                return ConsumerExit::QueueDeleted;
            }
            Err(error) => {
                tracing::warn!(queue, %error, "cannot consume");
                return ConsumerExit::SessionLost;
            }
        };
        let context = Arc::new(Context::new(session.publisher().clone()));
        if H::PUBLISHES && !context.publisher.is_blocked() {
            self.shared.health.up(Part::Broker);
        }
        let tasks = TaskTracker::new();
        let watch = tokio::spawn(Arc::clone(self).watch(Arc::clone(&context)));
        let stop = self.take_deliveries(&mut source, &context, &tasks, session).await;
        watch.abort();
        tasks.close();
        let rest = Rest { source, tasks, context };
        match stop {
            Stop::Shutdown => self.drain(rest, session).await,
            Stop::SessionLost => self.abandon(rest),
            Stop::GateClosed | Stop::ConsumerEnded => self.give_back(rest),
            Stop::QueueDeleted => self.finish_orphans(rest, session),
        }
    }

    /// Starts work on deliveries until something ends it.
    async fn take_deliveries(
        self: &Arc<Self>,
        source: &mut Source,
        context: &Arc<Context>,
        tasks: &TaskTracker,
        session: &Session,
    ) -> Stop {
        loop {
            let (slot, next) = tokio::select! {
                biased;
                () = self.shared.shutdown.cancelled() => return Stop::Shutdown,
                () = session.lost().cancelled() => return Stop::SessionLost,
                () = context.gate_closed.cancelled() => return Stop::GateClosed,
                next = self.next_delivery(source, context) => next,
            };
            match (slot, next) {
                (Some(slot), Next::Delivery(delivery)) => {
                    tasks.spawn(Arc::clone(self).work(*delivery, Arc::clone(context), slot));
                }
                (_, Next::Cancelled) => return self.cancelled_by_broker(context).await,
                (_, Next::Closed { overdue }) => {
                    self.overdue.fetch_or(overdue, Ordering::Relaxed);
                    return Stop::ConsumerEnded;
                }
                (_, Next::Failed | Next::Delivery(_)) => return Stop::SessionLost,
            }
        }
    }

    /// The next delivery, with a slot to work on it.
    async fn next_delivery(&self, source: &mut Source, context: &Context) -> (Option<Slot>, Next) {
        // What cannot be reported need not be scanned yet.
        if H::PUBLISHES && context.publisher.is_blocked() {
            let reason = "it takes no messages (memory or disk alarm)";
            self.shared.health.down(Part::Broker, reason);
            self.shared.metrics.gate(self.queue.kind, false);
            context.publisher.unblocked().await;
            self.shared.health.up(Part::Broker);
            self.shared.metrics.gate(self.queue.kind, true);
        }
        source.next(&self.slots).await
    }

    /// `basic.cancel` alone does not say that the queue was deleted.
    async fn cancelled_by_broker(&self, context: &Context) -> Stop {
        let queue = &self.queue.queue;
        if context.publisher.is_gone(queue).await {
            return Stop::QueueDeleted;
        }
        tracing::warn!(
            queue,
            "the broker cancelled the consumer, but the queue is there (a delivery took longer than \
             consumer_timeout, or a permission was revoked): opening another one"
        );
        self.overdue.store(true, Ordering::Relaxed);
        Stop::ConsumerEnded
    }

    /// At the shutdown: waits for everything within the grace period.
    async fn drain(&self, rest: Rest, session: &Session) -> ConsumerExit {
        let Rest { source, tasks, context } = rest;
        self.drains.close();
        let finished = async {
            tokio::join!(source.stop(), tasks.wait(), self.drains.wait());
        };
        let drained = tokio::select! {
            finished = tokio::time::timeout(self.shared.grace_left(), finished) => finished.is_ok(),
            () = session.lost().cancelled() => {
                return self.abandon(Rest { source, tasks, context });
            }
        };
        context.cancelled.cancel();
        drop(tokio::time::timeout(LAST_SETTLEMENTS, tasks.wait()).await);
        if !source.close().await {
            self.unsettled.fetch_add(1, Ordering::Relaxed);
        }
        if drained { ConsumerExit::Drained } else { ConsumerExit::CutShort }
    }

    /// Without a session nothing can be settled. Running effects finish.
    fn abandon(&self, rest: Rest) -> ConsumerExit {
        let Rest { tasks, context, .. } = rest;
        if !self.shared.shutdown.is_cancelled() {
            self.lost_sessions.fetch_add(1, Ordering::Relaxed);
        }
        context.cancelled.cancel();
        self.drains.spawn(async move { tasks.wait().await });
        ConsumerExit::SessionLost
    }

    /// Gives everything back to the broker that is not settled within a moment.
    fn give_back(&self, rest: Rest) -> ConsumerExit {
        let Rest { source, tasks, context } = rest;
        context.cancelled.cancel();
        self.drains.spawn(async move {
            source.stop().await;
            drop(tokio::time::timeout(EFFECTS_GRACE, tasks.wait()).await);
            source.close().await;
            tasks.wait().await;
        });
        ConsumerExit::Reopen
    }

    /// The queue was deleted, so the broker has no copies: what was taken is worked on to its end.
    fn finish_orphans(&self, rest: Rest, session: &Session) -> ConsumerExit {
        let Rest { source, tasks, context } = rest;
        context.set_queue_deleted();
        let (lost, shutdown) = (session.lost().clone(), self.shared.shutdown.clone());
        let half_grace = self.shared.grace / 2;
        self.drains.spawn(async move {
            tokio::select! {
                () = tasks.wait() => { source.close().await; }
                // The broker redelivers none of these: what is not done has to be in a retry queue
                // before the process ends.
                () = async {
                    shutdown.cancelled().await;
                    tokio::time::sleep(half_grace).await;
                } => {
                    context.cancelled.cancel();
                    tasks.wait().await;
                    source.close().await;
                }
                () = lost.cancelled() => {
                    context.cancelled.cancel();
                    tasks.wait().await;
                }
            }
        });
        ConsumerExit::QueueDeleted
    }
}
