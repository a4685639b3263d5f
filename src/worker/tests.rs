//! The worker on a real broker, with handlers that do what no real one should. Needs a stack.

mod pulled;
mod scripted;

use stack::{Amqp, Stack};
use uuid::Uuid;

use super::handler::Outcome;
use super::*;
use crate::config::{BrokerSettings, ExchangeType, QueueType};
use crate::failure::{Dependency, Kind, Reason, Stage};
use crate::queue::{Delivery, Publisher, Topology};
use crate::retry::Tier;
use crate::tls::Trust;
use crate::trace::Tracer;

const SOON: Duration = Duration::from_secs(20);

/// Panics on messages that say so, and remembers the others.
#[derive(Default)]
struct Fragile {
    worked_on: Mutex<Vec<String>>,
    given_up: Mutex<Vec<(&'static str, String)>>,
}

impl Handler for Fragile {
    type Work = ();
    type Known = ();
    type End = &'static str;
    const PARKED: &'static str = "parked";
    const MAY_CRASH: bool = true;
    const PUBLISHES: bool = false;

    fn read(&self, delivery: &Delivery) {
        assert!(delivery.body != b"a riddle", "on purpose");
    }

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
        delivery: &Delivery,
        _: &Publisher,
        _: &CancellationToken,
    ) -> Outcome<&'static str, ()> {
        let text = String::from_utf8_lossy(&delivery.body).into_owned();
        tokio::task::yield_now().await;
        assert!(!text.contains("bug"), "on purpose");
        if text.contains("suspect") {
            let failure =
                Failure::suspect(Dependency::Store, Stage::Fetch, Reason::StoreOdd, "on purpose");
            return Outcome::Failed(failure, ());
        }
        self.worked_on.lock().unwrap().push(text);
        Outcome::Done("done")
    }

    async fn probe(&self, _: Dependency, (): &()) -> Result<(), Failure> {
        panic!("on purpose")
    }

    async fn on_give_up(
        &self,
        (): &(),
        delivery: &Delivery,
        failure: Failure,
        (): (),
        _: &Publisher,
    ) -> Result<(), Failure> {
        let text = String::from_utf8_lossy(&delivery.body).into_owned();
        assert!(!text.contains("to the end"), "on purpose");
        self.given_up.lock().unwrap().push((failure.reason.into_str(), text));
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_costs_its_own_message_its_attempts_and_nothing_else() {
    let stack = Stack::from_env();
    let settings = broker(&stack, &format!("s3minio-test-{}", Uuid::new_v4()));
    let tier = Tier { name: "200ms".to_owned(), delay: Duration::from_millis(200) };
    let ladder = Ladder { tiers: vec![tier], limit: 2 };
    let topology = Topology::new(&settings, &ladder, false);
    let session =
        Session::open(&settings, &Trust::default(), &topology, &Metrics::default()).await.unwrap();
    let queue = topology.notifications.clone();
    let shared = Shared::new(
        ladder,
        Arc::default(),
        Arc::default(),
        Tracer::default(),
        CancellationToken::new(),
        SOON,
    );
    let worker =
        Arc::new(Worker::new(Fragile::default(), queue.clone(), Slots::new(2), shared.clone()));
    let amqp = stack.amqp().await.unwrap();
    let send = async |text: &str| {
        amqp.publish(&settings.exchange, &settings.routing_key, text.as_bytes(), &[])
            .await
            .unwrap();
    };
    let try_it = async {
        for text in ["one", "a bug", "two", "a riddle", "a bug to the end", "a suspect", "three"] {
            send(text).await;
        }
        let mut parked = Vec::new();
        for _ in 0..4 {
            let message = amqp.get_within(queue.dead.as_deref().unwrap(), SOON).await.unwrap();
            let suspect = message.body == b"a suspect";
            let reason = if suspect { "store_odd" } else { "panic" };
            assert_eq!(message.headers["avscan-reason"], reason);
            // What cannot even be read is not tried again.
            let attempts = if message.body == b"a riddle" { "1" } else { "3" };
            assert_eq!(message.headers["avscan-attempt"], attempts);
            parked.push(String::from_utf8(message.body).unwrap());
        }
        parked.sort();
        assert_eq!(parked, ["a bug", "a bug to the end", "a riddle", "a suspect"]);
        // All slots are free again.
        send("four").await;
        let all = async || {
            let worked_on = worker.handler.worked_on.lock().unwrap().clone();
            worked_on.len() == 4
        };
        let started = std::time::Instant::now();
        while !all().await {
            assert!(started.elapsed() < SOON, "not all were worked on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        shared.shutdown.cancel();
    };
    let (end, ()) = tokio::join!(worker.run(&session), try_it);
    assert!(matches!(end, WorkerExit::Drained), "{end:?}");
    assert!(!session.lost().is_cancelled());
    assert_eq!(worker.slots.free(), 2);
    let mut worked_on = worker.handler.worked_on.lock().unwrap().clone();
    worked_on.sort();
    assert_eq!(worked_on, ["four", "one", "three", "two"]);
    let mut given_up = worker.handler.given_up.lock().unwrap().clone();
    given_up.sort();
    assert_eq!(given_up, [("panic", "a bug".to_owned()), ("store_odd", "a suspect".to_owned())]);
    session.close().await;
    remove(&amqp, &queue).await;
}

/// Says a few times that the engine is down, then takes everything.
struct Flapping {
    left: AtomicUsize,
    done: CancellationToken,
    parked: AtomicUsize,
}

impl Handler for Flapping {
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
        _: &CancellationToken,
    ) -> Outcome<&'static str, ()> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            self.done.cancel();
            return Outcome::Done("done");
        }
        self.left.store(left - 1, Ordering::Relaxed);
        let kind = Kind::Down(Dependency::Engine);
        let stage = Stage::Scan;
        Outcome::Failed(Failure::new(kind, stage, Reason::EngineUnreachable, "on purpose"), ())
    }

    async fn on_give_up(
        &self,
        (): &(),
        _: &Delivery,
        _: Failure,
        (): (),
        _: &Publisher,
    ) -> Result<(), Failure> {
        self.parked.fetch_add(1, Ordering::Relaxed);
        self.done.cancel();
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_flaps_parks_no_message_that_never_failed() {
    let stack = Stack::from_env();
    let settings = broker(&stack, &format!("s3minio-test-{}", Uuid::new_v4()));
    let tier = Tier { name: "200ms".to_owned(), delay: Duration::from_millis(200) };
    let ladder = Ladder { tiers: vec![tier], limit: 0 };
    let topology = Topology::new(&settings, &ladder, false);
    let session =
        Session::open(&settings, &Trust::default(), &topology, &Metrics::default()).await.unwrap();
    let queue = topology.notifications.clone();
    let shared = Shared::new(
        ladder,
        Arc::default(),
        Arc::default(),
        Tracer::default(),
        CancellationToken::new(),
        SOON,
    );
    let handler = Flapping {
        left: AtomicUsize::new(12),
        done: CancellationToken::new(),
        parked: AtomicUsize::new(0),
    };
    let worker = Arc::new(Worker::new(handler, queue.clone(), Slots::new(1), shared.clone()));
    let amqp = stack.amqp().await.unwrap();
    amqp.publish(&settings.exchange, &settings.routing_key, b"x", &[]).await.unwrap();
    let wait = async {
        tokio::time::timeout(SOON, worker.handler.done.cancelled()).await.unwrap();
        shared.shutdown.cancel();
    };
    let (end, ()) = tokio::join!(worker.run(&session), wait);
    assert!(matches!(end, WorkerExit::Drained), "{end:?}");
    assert_eq!(worker.handler.left.load(Ordering::Relaxed), 0, "it was tried to the end");
    assert_eq!(worker.handler.parked.load(Ordering::Relaxed), 0);
    session.close().await;
    remove(&amqp, &queue).await;
}

fn broker(stack: &Stack, queue: &str) -> BrokerSettings {
    let settings = stack.settings();
    BrokerSettings {
        host: settings.amqp_host.clone(),
        port: settings.amqp_port,
        tls: false,
        user: settings.amqp_user.clone(),
        password: settings.amqp_password.as_str().into(),
        vhost: settings.amqp_vhost.clone(),
        queue: queue.to_owned(),
        routing_key: queue.to_owned(),
        exchange: settings.exchange.clone(),
        exchange_type: ExchangeType::Topic,
        queue_type: QueueType::Quorum,
    }
}

async fn remove(amqp: &Amqp, queue: &WorkQueue) {
    for queue in queue.retry.iter().chain([&queue.queue]).chain(&queue.dead) {
        amqp.delete_queue(queue).await.unwrap();
    }
}
