//! What a work queue has to provide so that a worker can run it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::failure::{Dependency, Failure};
use crate::queue::{Cause, Delivery, Publisher};
use crate::trace;

/// What a handler made of a delivery.
pub(crate) enum Outcome<E, K> {
    /// Done; how it ended, for the metrics.
    Done(E),
    /// It announced several objects: each part becomes a message.
    Split(Vec<Vec<u8>>),
    /// It goes to the dead-letter queue, if there is one, and is reported where that is due.
    Park(Cause),
    /// The object is not there: looked for again after the shortest delay, without counting an
    /// attempt.
    LookAgain(Failure),
    /// It failed; what was known by then is given back if this was the last attempt.
    Failed(Failure, K),
}

/// The work on the messages of one queue.
pub(crate) trait Handler: Send + Sync + 'static {
    /// A message, parsed once.
    type Work: Send + Sync;

    /// What is known of a delivery when an attempt fails.
    type Known: Default + Send;

    /// How a delivery ends.
    type End: Send;
    /// Its end in the dead-letter queue, or given up where there is none.
    const PARKED: Self::End;

    /// Whether a message that is redelivered again and again may be what stops its readers.
    const MAY_CRASH: bool;

    /// Whether the work ends with a publish, so that it cannot go on while the broker is blocked.
    const PUBLISHES: bool;

    /// Parses a message. A message that cannot be parsed is a value too.
    fn read(&self, delivery: &Delivery) -> Self::Work;

    /// The span of everything that is logged about one delivery.
    fn span(&self, work: &Self::Work, delivery: &Delivery) -> tracing::Span;

    /// Says in the span of a delivery what it is about.
    fn describe(&self, _work: &Self::Work, _span: &mut trace::Span) {}

    /// Counts an end, after it was settled.
    fn record_end(&self, end: Self::End);

    /// Checks, within about `timeout`, that every dependency works: before the first delivery, every
    /// few minutes, and while the gate is closed.
    fn check_ready(&self, timeout: Duration) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Checks what can be checked cheaply, while deliveries run and none of them finishes.
    fn check_progress(&self) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Ok(()) }
    }

    /// Works on one delivery. `cancelled` ends what leaves no trace, and nothing else.
    fn handle(
        &self,
        work: &Self::Work,
        delivery: &Delivery,
        publisher: &Publisher,
        cancelled: &CancellationToken,
    ) -> impl Future<Output = Outcome<Self::End, Self::Known>> + Send;

    /// Whether `suspect` is up, asked after a failure that it may have caused.
    fn probe(
        &self,
        _suspect: Dependency,
        _work: &Self::Work,
    ) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Ok(()) }
    }

    /// Reports a delivery whose attempts are used up, before it is parked or acknowledged.
    fn on_give_up(
        &self,
        _work: &Self::Work,
        _delivery: &Delivery,
        _failure: Failure,
        _known: Self::Known,
        _publisher: &Publisher,
    ) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Ok(()) }
    }
}
