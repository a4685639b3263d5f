//! The queue of sweeps: a page, what it calls for into the backlog, the next page.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::handler::{Handler, Outcome};
use super::slots::Slots;
use crate::event::{self, ObjectRef, Swept};
use crate::failure::{Dependency, Failure, Kind, Reason, Stage};
use crate::health::{Health, Part};
use crate::metrics::{Metrics, PageEnd};
use crate::queue::{Cause, Delivery, Publisher, WorkQueue};
use crate::sweep::{self, Advice, Counts, End, Fact, Judge, Pass, State, Sweeps};
use crate::trace::Trace;

/// Messages that the backlog and its retry queues may hold before a page is read. A page brings up to a
/// thousand.
const ROOM_BELOW: u64 = 7_000;
/// Looks for room in the backlog before the message of the page goes to the end of its queue, so that
/// another sweep gets its turn, and the delivery does not take too long.
const ROOM_LOOKS: u32 = 60;
const ROOM_INTERVAL: Duration = Duration::from_secs(1);
/// Objects judged at once while live deliveries come: the store serves those too.
const BESIDE_LIVE: u16 = 4;
/// Published at once.
const BATCH: usize = 100;

/// Handles the pages of sweeps.
pub(crate) struct Pages {
    sweeps: Arc<Sweeps>,
    judge: Arc<Judge>,
    backlog: WorkQueue,
    restraint: Restraint,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

/// What holds pages back.
pub(crate) struct Restraint {
    /// Objects judged at once.
    pub(crate) concurrency: u16,
    /// Those of live deliveries: while some come, fewer are judged at once.
    pub(crate) slots: Slots,
    /// Ends the wait for room.
    pub(crate) shutdown: CancellationToken,
}

impl Restraint {
    fn at_once(&self) -> usize {
        let most = if self.slots.is_live() { BESIDE_LIVE } else { u16::MAX };
        usize::from(self.concurrency.min(most))
    }
}

impl Pages {
    pub(crate) fn new(
        sweeps: Arc<Sweeps>,
        judge: Arc<Judge>,
        backlog: WorkQueue,
        restraint: Restraint,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { sweeps, judge, backlog, restraint, health, metrics }
    }

    async fn handle_page(
        &self,
        state: &State,
        delivery: &Delivery,
        publisher: &Publisher,
    ) -> Result<Outcome<PageEnd, ()>, Failure> {
        let journal = self.sweeps.journal().await.map_err(busy)?;
        let sweep = state.sweep;
        match self.sweeps.advice(state, delivery.worked_on_before()) {
            Advice::Drop => return Ok(Outcome::Done(PageEnd::Dropped)),
            Advice::GoOnWith(next) => return Ok(Outcome::Split(vec![json(&next)?])),
            Advice::Refuse(because_of) => {
                let refused = Fact::Refused { sweep, because_of };
                journal.append_and_read(&refused).await.map_err(busy)?;
                return Ok(Outcome::Done(PageEnd::Refused));
            }
            Advice::Accept => {
                let (order, why) = (state.order.clone(), state.why);
                let begun = Fact::Begun { sweep, at: state.began, order, why };
                journal.append_and_read(&begun).await.map_err(busy)?;
                tracing::info!(bucket = state.order.bucket, %sweep, "sweep begins");
            }
            Advice::Read => {}
        }
        if !self.has_room(publisher).await? {
            return Ok(Outcome::Split(vec![json(state)?]));
        }
        let reading = sweep::read(&self.judge, state, self.restraint.at_once()).await?;
        self.announce(state, &reading.announce, publisher, &delivery.trace).await?;
        let state =
            if reading.untagged { &State { pass: Pass::Only, ..state.clone() } } else { state };
        self.count(state.counts, reading.counts);
        let next = state.next(reading.end, reading.counts);
        let (page, counts) = (state.page, reading.counts);
        let paged = Fact::Paged { sweep, page, counts, next: next.clone().map(Box::new) };
        journal.append_and_read(&paged).await.map_err(busy)?;
        match next {
            Some(next) => Ok(Outcome::Split(vec![json(&next)?])),
            None => {
                let Counts { listed, announced, unknown } = counts;
                let bucket = state.order.bucket.as_str();
                tracing::info!(bucket, %sweep, listed, announced, unknown, "sweep is done");
                Ok(Outcome::Done(PageEnd::Done))
            }
        }
    }

    /// Waits until the backlog has room for a page; `false` if it has none for a while, or at a
    /// shutdown.
    async fn has_room(&self, publisher: &Publisher) -> Result<bool, Failure> {
        let queues = self.backlog.with_retry();
        for _ in 0..ROOM_LOOKS {
            if publisher.depth(&queues).await? < ROOM_BELOW {
                return Ok(true);
            }
            if tokio::time::timeout(ROOM_INTERVAL, self.restraint.shutdown.cancelled())
                .await
                .is_ok()
            {
                break;
            }
        }
        Ok(false)
    }

    /// Publishes into the backlog what the page calls for. Returns once all of it is confirmed.
    async fn announce(
        &self,
        state: &State,
        objects: &[ObjectRef],
        publisher: &Publisher,
        trace: &Trace,
    ) -> Result<(), Failure> {
        let swept = Swept { sweep: state.sweep, began: state.began };
        let batch = state.order.rate.map_or(BATCH, |rate| BATCH.min(rate as usize)).max(1);
        let pause = state.order.rate.map(|rate| Duration::from_secs(batch as u64) / rate.max(1));
        for objects in objects.chunks(batch) {
            let announced = objects.iter().map(async |object| {
                let body = event::swept(swept, object);
                if publisher.announce(&self.backlog.queue, &body, trace).await? {
                    return Ok(());
                }
                Err(busy("the backlog is full"))
            });
            futures_util::future::try_join_all(announced).await?;
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
        }
        Ok(())
    }

    fn count(&self, before: Counts, after: Counts) {
        let listed = after.listed.saturating_sub(before.listed);
        self.metrics.swept(listed, after.announced.saturating_sub(before.announced));
    }
}

impl Handler for Pages {
    type Work = Option<Box<State>>;
    type Known = ();
    type End = PageEnd;
    const PARKED: PageEnd = PageEnd::Parked;
    const MAY_CRASH: bool = false;
    const PUBLISHES: bool = true;

    fn read(&self, delivery: &Delivery) -> Self::Work {
        serde_json::from_slice(&delivery.body).ok()
    }

    fn span(&self, state: &Self::Work, delivery: &Delivery) -> tracing::Span {
        match state {
            Some(state) => {
                let (bucket, page) = (state.order.bucket.as_str(), state.page);
                tracing::error_span!("sweep", bucket, page)
            }
            None => tracing::error_span!("message", bytes = delivery.body.len()),
        }
    }

    fn record_end(&self, end: PageEnd) {
        self.metrics.page(end);
    }

    async fn check_ready(&self, timeout: Duration) -> Result<(), Failure> {
        self.judge.store.probe(timeout).await?;
        self.health.up(Part::Store);
        Ok(())
    }

    async fn handle(
        &self,
        state: &Self::Work,
        delivery: &Delivery,
        publisher: &Publisher,
        cancelled: &CancellationToken,
    ) -> Outcome<PageEnd, ()> {
        let Some(state) = state else {
            let detail = "not the state of a sweep".to_owned();
            let reason = Reason::Malformed.into_str();
            return Outcome::Park(Cause { reason, stage: Stage::Event, detail, signature: None });
        };
        // A page leaves no trace but messages in the backlog, which may be there twice.
        let handled = tokio::select! {
            handled = self.handle_page(state, delivery, publisher) => handled,
            () = cancelled.cancelled() => Err(Failure::abandoned(Stage::Event)),
        };
        handled.unwrap_or_else(|failure| Outcome::Failed(failure, ()))
    }

    async fn probe(&self, suspect: Dependency, state: &Self::Work) -> Result<(), Failure> {
        match (suspect, state) {
            (Dependency::Store, Some(_)) => self.check_ready(Duration::from_secs(10)).await,
            _ => Ok(()),
        }
    }

    async fn on_give_up(
        &self,
        state: &Self::Work,
        _delivery: &Delivery,
        failure: Failure,
        (): (),
        _publisher: &Publisher,
    ) -> Result<(), Failure> {
        let Some(state) = state else { return Ok(()) };
        tracing::error!(%failure, "the sweep ends here, it cannot go on");
        let journal = self.sweeps.journal().await.map_err(busy)?;
        let end = End::Failed(failure.to_string());
        journal.append(&Fact::Ended { sweep: state.sweep, end }).await.map_err(busy)
    }
}

fn json(state: &State) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(state)
        .map_err(|error| Failure::new(Kind::Permanent, Stage::Event, Reason::Malformed, error))
}

fn busy(why: impl std::fmt::Display) -> Failure {
    Failure::new(Kind::Busy, Stage::Event, Reason::NotPublished, why)
}
