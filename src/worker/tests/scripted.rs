//! The worker on a scripted broker, which ends consumers and hangs as no test could make a real
//! one.

use std::sync::Mutex;

use lapin::protocol::{AMQPClass, basic, queue};
use peers::scripted::amqp::{self, Answer, Broker, Sent};

use super::*;
use crate::trace::Tracer;
use crate::worker::slots::Lane;

/// What came to a broker, and the means to end it all.
struct Played {
    broker: Broker,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Consumers that were started.
    consumers: AtomicUsize,
    /// Tags that were acknowledged.
    acked: AtomicUsize,
    /// The queues that something was published to.
    published: Mutex<Vec<String>>,
    /// The work queue is not there.
    queue_is_gone: AtomicBool,
    /// No answer to anything any more.
    hangs: AtomicBool,
}

/// What the first consumer gets after its first message.
#[derive(Clone, Copy)]
enum Then {
    Nothing,
    Cancel,
    Close,
}

/// A broker with one message for each of the first two consumers.
fn play(then: Then) -> Played {
    let seen = Arc::new(Seen::default());
    let told = Arc::clone(&seen);
    let broker = Broker::start(move |channel, sent| {
        if told.hangs.load(Ordering::Relaxed) {
            return Answer::Silence;
        }
        match sent {
            Sent::Message { routing_key, .. } => {
                told.published.lock().unwrap().push(routing_key.clone());
                Answer::Usual
            }
            Sent::Method(AMQPClass::Basic(basic::AMQPMethod::Ack(_))) => {
                told.acked.fetch_add(1, Ordering::Relaxed);
                Answer::Usual
            }
            Sent::Method(AMQPClass::Basic(basic::AMQPMethod::Consume(_))) => {
                let number = told.consumers.fetch_add(1, Ordering::Relaxed);
                let name = format!("consumer-{number}");
                let mut frames = vec![amqp::consuming(channel, &name)];
                if number < 2 {
                    frames.extend(amqp::deliver(channel, &name, 1, b"x"));
                }
                match then {
                    Then::Cancel if number == 0 => frames.push(amqp::cancel(channel, &name)),
                    Then::Close if number == 0 => {
                        let text = "PRECONDITION_FAILED - delivery acknowledgement timed out";
                        frames.push(amqp::close(channel, 406, text));
                    }
                    _ => {}
                }
                Answer::Frames(frames)
            }
            Sent::Method(AMQPClass::Queue(queue::AMQPMethod::Declare(declare)))
                if declare.queue.as_str() == "work" =>
            {
                if !told.queue_is_gone.load(Ordering::Relaxed) {
                    Answer::Usual
                } else if declare.passive {
                    Answer::Frames(vec![amqp::close(channel, 404, "NOT_FOUND - no queue 'work'")])
                } else {
                    told.queue_is_gone.store(false, Ordering::Relaxed);
                    Answer::Usual
                }
            }
            Sent::Method(_) => Answer::Usual,
        }
    });
    Played { broker, seen }
}

/// Holds what it gets until it is cancelled or let go.
#[derive(Default)]
pub(super) struct Holding {
    pub(super) held: AtomicUsize,
    pub(super) let_go: CancellationToken,
    /// Cancelled work says that the engine is down instead of that it was cut short.
    closes_gate: AtomicBool,
}

impl Handler for Holding {
    type Work = ();
    type Known = ();
    type End = &'static str;
    const PARKED: &'static str = "parked";
    const MAY_CRASH: bool = true;
    const PUBLISHES: bool = false;

    fn read(&self, _: &Delivery) {}

    async fn check_ready(&self, _: Duration) -> Result<(), Failure> {
        Ok(())
    }

    fn span(&self, (): &(), _: &Delivery) -> tracing::Span {
        tracing::Span::none()
    }

    fn record_end(&self, _: &'static str) {}

    async fn handle(
        &self,
        (): &(),
        _: &Delivery,
        _: &Publisher,
        cancelled: &CancellationToken,
    ) -> Outcome<&'static str, ()> {
        let stage = Stage::Scan;
        self.held.fetch_add(1, Ordering::Relaxed);
        if self.closes_gate.swap(false, Ordering::Relaxed) {
            let kind = Kind::Down(Dependency::Engine);
            return Outcome::Failed(
                Failure::new(kind, stage, Reason::EngineUnreachable, "on purpose"),
                (),
            );
        }
        tokio::select! {
            () = cancelled.cancelled() => Outcome::Failed(Failure::abandoned(stage), ()),
            () = self.let_go.cancelled() => Outcome::Done("done"),
        }
    }
}

async fn worker(played: &Played, grace: Duration) -> (Session, Arc<Worker<Holding>>) {
    worker_on(played.broker.port(), grace, Slots::new(2)).await
}

/// On the queue `work`, or for the backlog `work.backlog`.
pub(super) async fn worker_on(
    port: u16,
    grace: Duration,
    slots: Slots,
) -> (Session, Arc<Worker<Holding>>) {
    let settings = BrokerSettings {
        host: "127.0.0.1".to_owned(),
        port,
        tls: false,
        user: "u".to_owned(),
        password: "p".into(),
        vhost: "/".to_owned(),
        queue: "work".to_owned(),
        routing_key: "work".to_owned(),
        exchange: "store".to_owned(),
        exchange_type: ExchangeType::Topic,
        queue_type: QueueType::Quorum,
    };
    let tier = Tier { name: "1s".to_owned(), delay: Duration::from_secs(1) };
    let ladder = Ladder { tiers: vec![tier], limit: 3 };
    let topology = Topology::new(&settings, &ladder, false);
    let shared = Shared::new(
        ladder,
        Arc::default(),
        Arc::default(),
        Tracer::default(),
        CancellationToken::new(),
        grace,
    );
    let session =
        Session::open(&settings, &Trust::default(), &topology, &Metrics::default()).await.unwrap();
    let queue = match slots.lane() {
        Lane::Live => topology.notifications.clone(),
        Lane::Backlog => topology.backlog.clone(),
    };
    (session, Arc::new(Worker::new(Holding::default(), queue, slots, shared)))
}

pub(super) async fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_true() {
        assert!(started.elapsed() < SOON, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// `RabbitMQ` ends a consumer, and not its channel, for a message that took too long (4.3) or a right
/// that was taken away.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_the_broker_ended_is_opened_again_and_nothing_is_copied() {
    for then in [Then::Cancel, Then::Close] {
        let played = play(then);
        let (session, worker) = worker(&played, SOON).await;
        let watch = async {
            let consumers = &played.seen.consumers;
            eventually("a second consumer", || consumers.load(Ordering::Relaxed) == 2).await;
            eventually("its message is taken", || {
                worker.slots.free() == 1 && worker.in_work.load(Ordering::Relaxed) == 1
            })
            .await;
            worker.handler.let_go.cancel();
            eventually("it is acknowledged", || played.seen.acked.load(Ordering::Relaxed) == 1)
                .await;
            worker.shared.shutdown.cancel();
        };
        let (end, ()) = tokio::join!(worker.run(&session), watch);
        assert!(matches!(end, WorkerExit::Drained), "{end:?}");
        assert!(!session.lost().is_cancelled(), "one consumer is not the session");
        assert_eq!(*played.seen.published.lock().unwrap(), Vec::<String>::new());
        assert!(worker.overdue.load(Ordering::Relaxed), "that is what it may have been");
    }
}

/// The consumer's end is not seen when the gate closes in the same moment.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_hand_when_gate_and_queue_go_together_is_put_into_a_retry_queue() {
    let played = play(Then::Nothing);
    let (session, worker) = worker(&played, SOON).await;
    worker.handler.closes_gate.store(true, Ordering::Relaxed);
    played.seen.queue_is_gone.store(true, Ordering::Relaxed);
    let watch = async {
        let published = || played.seen.published.lock().unwrap().clone();
        eventually("it is copied", || published() == ["work.retry.1s"]).await;
        let consumers = &played.seen.consumers;
        eventually("a second consumer", || consumers.load(Ordering::Relaxed) == 2).await;
        worker.handler.let_go.cancel();
        worker.shared.shutdown.cancel();
    };
    let (end, ()) = tokio::join!(worker.run(&session), watch);
    assert!(matches!(end, WorkerExit::Drained), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_hangs_does_not_hold_up_the_shutdown_and_is_not_called_settled() {
    let played = play(Then::Nothing);
    let grace = Duration::from_secs(5);
    let (session, worker) = worker(&played, grace).await;
    let watch = async {
        let held = &worker.handler.held;
        eventually("a message is in hand", || held.load(Ordering::Relaxed) == 1).await;
        played.seen.hangs.store(true, Ordering::Relaxed);
        worker.handler.let_go.cancel();
        worker.shared.shutdown.cancel();
        Instant::now()
    };
    let (end, began) = tokio::join!(worker.run(&session), watch);
    session.close().await;
    let took = began.elapsed();
    // What is not bounded by the grace period has to fit between it and the 45 s that the compose
    // file gives, by default 30 s later.
    assert!(took < grace + Duration::from_secs(14), "{took:?}");
    assert!(matches!(end, WorkerExit::Drained), "the work itself was done: {end:?}");
    assert!(worker.left_unsettled(), "nobody knows whether the broker has the acknowledgement");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_lost_while_draining_is_not_called_drained() {
    let played = play(Then::Nothing);
    let (session, worker) = worker(&played, SOON).await;
    let watch = async {
        let held = &worker.handler.held;
        eventually("a message is in hand", || held.load(Ordering::Relaxed) == 1).await;
        worker.shared.shutdown.cancel();
        session.lost().cancel();
        Instant::now()
    };
    let (end, began) = tokio::join!(worker.run(&session), watch);
    assert!(matches!(end, WorkerExit::SessionLost), "{end:?}");
    assert!(began.elapsed() < SOON, "what can no longer be settled is cut short");
}
