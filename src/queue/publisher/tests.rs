//! Publishing to a scripted broker, for answers that a real one gives too rarely to test.

use std::sync::Mutex;

use peers::scripted::amqp::{self, Answer, Broker, Sent};

use super::*;
use crate::config::{BrokerSettings, ExchangeType, QueueType};
use crate::queue::Session;
use crate::retry::{Ladder, Tier};
use crate::tls::Trust;
use crate::trace::Trace;

async fn session(broker: &Broker) -> Session {
    let settings = BrokerSettings {
        host: "127.0.0.1".to_owned(),
        port: broker.port(),
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
    let ladder = Ladder { tiers: vec![tier], limit: 1 };
    let topology = Topology::new(&settings, &ladder, true);
    Session::open(&settings, &Trust::default(), &topology, &crate::metrics::Metrics::default())
        .await
        .unwrap()
}

/// `RabbitMQ` returns a message at once, but may collect confirms and send several together. So the
/// return of one message can arrive before the confirm of another.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_publishes_at_once_the_one_that_no_queue_takes_fails_and_only_that() {
    let held = Mutex::new(Vec::<(u16, String, u64, Vec<u8>)>::new());
    let broker = Broker::start(move |channel, sent| {
        let Sent::Message { routing_key, tag, body } = sent else { return Answer::Usual };
        let mut held = held.lock().unwrap();
        held.push((channel, routing_key.clone(), *tag, body.clone()));
        if held.len() < 2 {
            return Answer::Silence;
        }
        held.sort_by_key(|(_, key, ..)| key == "missing");
        let missing = held.iter().filter(|(_, key, ..)| key == "missing");
        let mut frames: Vec<_> = missing
            .flat_map(|(channel, key, _, body)| amqp::returned(*channel, key, body))
            .collect();
        frames.extend(held.iter().map(|(channel, _, tag, _)| amqp::ack(*channel, *tag)));
        Answer::Frames(frames)
    });
    let session = session(&broker).await;
    let publisher = session.publisher();
    let publish = |queue| publisher.publish(queue, b"x", BasicProperties::default());
    let (there, missing) = tokio::join!(publish("there"), publish("missing"));
    assert!(there.is_ok(), "{there:?}");
    assert!(missing.unwrap_err().detail.contains("no queue takes it"));
    assert!(session.lost().is_cancelled());
}

/// A session with a broker that answers reports on the results exchange by `others`, which gets the
/// channel and the number of reports before.
async fn offered(others: impl Fn(u16, u64) -> Answer + Send + Sync + 'static) -> (Broker, Session) {
    let came = std::sync::atomic::AtomicU64::new(0);
    let broker = Broker::start(move |channel, sent| match sent {
        Sent::Message { routing_key, .. } if routing_key == "infected" => {
            others(channel, came.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
        }
        _ => Answer::Usual,
    });
    let session = session(&broker).await;
    (broker, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_of_others_that_never_confirm_block_nothing() {
    let (_broker, session) = offered(|_, _| Answer::Silence).await;
    let outbox = session.publisher().outbox(&Trace::default());
    let started = std::time::Instant::now();
    for _ in 0..5000 {
        outbox.publish(Record::Kept, "infected", "id", b"{}").await.unwrap();
    }
    let took = started.elapsed();
    assert!(took < CONFIRM_TIMEOUT, "{took:?}");
    assert!(!session.lost().is_cancelled());
    session.close().await;
    assert!(started.elapsed() < took + Duration::from_secs(6), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_to_others_that_the_broker_closed_is_opened_again() {
    let (answered, mut answers) = tokio::sync::mpsc::unbounded_channel();
    let (_broker, session) = offered(move |channel, number| {
        answered.send(number).unwrap();
        if number == 0 {
            // The answer for an exchange that was removed.
            return Answer::Frames(vec![amqp::close(channel, 404, "NOT_FOUND - no exchange")]);
        }
        Answer::Usual
    })
    .await;
    let outbox = session.publisher().outbox(&Trace::default());
    for expected in 0..3 {
        let within = Duration::from_secs(10);
        let arrived = tokio::time::timeout(within, async {
            loop {
                // A report on the closed channel is lost; the next one opens a new channel.
                outbox.publish(Record::Reported, "infected", "id", b"{}").await.unwrap();
                let soon = Duration::from_millis(200);
                if let Ok(Some(number)) = tokio::time::timeout(soon, answers.recv()).await {
                    return number;
                }
            }
        });
        assert!(arrived.await.unwrap() >= expected);
    }
    assert!(!session.lost().is_cancelled());
}
