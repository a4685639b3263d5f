//! The worker of the backlog on a scripted broker.

use std::sync::Mutex;

use lapin::protocol::{AMQPClass, basic, queue};
use peers::scripted::amqp::{self, Answer, Broker, Sent};

use super::scripted::{eventually, worker_on};
use super::*;

/// What came to a broker.
#[derive(Default)]
struct Seen {
    /// Messages that were asked for.
    gets: AtomicUsize,
    acked: AtomicUsize,
    /// The queues that something was published to.
    published: Mutex<Vec<String>>,
    /// The backlog was deleted, and not declared again.
    is_gone: AtomicBool,
}

/// A broker whose backlog holds a message for the first get; the second closes the channel with this
/// code; the third gets a message again.
fn play(code: u16) -> (Broker, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let told = Arc::clone(&seen);
    let broker = Broker::start(move |channel, sent| match sent {
        Sent::Message { routing_key, .. } => {
            told.published.lock().unwrap().push(routing_key.clone());
            Answer::Usual
        }
        Sent::Method(AMQPClass::Basic(basic::AMQPMethod::Ack(_))) => {
            told.acked.fetch_add(1, Ordering::Relaxed);
            Answer::Usual
        }
        Sent::Method(AMQPClass::Basic(basic::AMQPMethod::Get(_))) => {
            match told.gets.fetch_add(1, Ordering::Relaxed) {
                0 | 2 => Answer::Frames(amqp::got(channel, 1, b"x")),
                1 => {
                    told.is_gone.store(code == 404, Ordering::Relaxed);
                    Answer::Frames(vec![amqp::close(channel, code, "on purpose")])
                }
                _ => Answer::Usual,
            }
        }
        Sent::Method(AMQPClass::Queue(queue::AMQPMethod::Declare(declare)))
            if declare.queue.as_str() == "work.backlog" =>
        {
            if declare.passive && told.is_gone.load(Ordering::Relaxed) {
                Answer::Frames(vec![amqp::close(channel, 404, "NOT_FOUND")])
            } else {
                told.is_gone.fetch_and(declare.passive, Ordering::Relaxed);
                Answer::Usual
            }
        }
        Sent::Method(_) => Answer::Usual,
    });
    (broker, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_asked_for_without_a_slot_or_while_live_messages_are_not_consumed() {
    let (broker, seen) = play(406);
    let live = Slots::new(1);
    let (session, worker) = worker_on(broker.port(), SOON, live.left_free()).await;
    let watch = async {
        let gets = || seen.gets.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(gets(), 0, "the live gate is closed");
        let slot = live.acquire().await;
        live.set_open(true);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(gets(), 0, "the only slot is taken");
        drop(slot);
        let held = &worker.handler.held;
        eventually("a message is in hand", || held.load(Ordering::Relaxed) == 1).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(gets(), 1, "the only slot is taken");
        worker.handler.let_go.cancel();
        eventually("it is acknowledged", || seen.acked.load(Ordering::Relaxed) >= 1).await;
        worker.shared.shutdown.cancel();
    };
    let (end, ()) = tokio::join!(worker.run(&session), watch);
    assert!(matches!(end, WorkerExit::Drained), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_the_broker_closed_is_opened_again_and_is_not_the_session() {
    for code in [403, 406] {
        let (broker, seen) = play(code);
        let live = Slots::new(2);
        live.set_open(true);
        let (session, worker) = worker_on(broker.port(), SOON, live.left_free()).await;
        let watch = async {
            eventually("another channel", || seen.gets.load(Ordering::Relaxed) >= 3).await;
            worker.handler.let_go.cancel();
            eventually("it is acknowledged", || seen.acked.load(Ordering::Relaxed) == 1).await;
            worker.shared.shutdown.cancel();
        };
        let (end, ()) = tokio::join!(worker.run(&session), watch);
        assert!(matches!(end, WorkerExit::Drained), "{code} {end:?}");
        assert!(!session.lost().is_cancelled(), "{code}");
        assert_eq!(worker.overdue.load(Ordering::Relaxed), code == 406);
        assert_eq!(*seen.published.lock().unwrap(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_that_was_deleted_is_declared_again() {
    let (broker, seen) = play(404);
    let live = Slots::new(2);
    live.set_open(true);
    let (session, worker) = worker_on(broker.port(), SOON, live.left_free()).await;
    let watch = async {
        eventually("it is asked again", || seen.gets.load(Ordering::Relaxed) >= 3).await;
        assert!(!seen.is_gone.load(Ordering::Relaxed), "it is declared");
        worker.handler.let_go.cancel();
        eventually("it is acknowledged", || seen.acked.load(Ordering::Relaxed) >= 1).await;
        worker.shared.shutdown.cancel();
    };
    let (end, ()) = tokio::join!(worker.run(&session), watch);
    assert!(matches!(end, WorkerExit::Drained), "{end:?}");
    assert!(!session.lost().is_cancelled());
}
