//! Publishing to a scripted broker that answers as no test could make a real one.

use std::sync::Mutex;

use bucket_av_scanner_testing::scripted::amqp::{self, Answer, Broker, Sent};
use secrecy::SecretString;

use super::*;
use crate::config::{BrokerSettings, ExchangeType, QueueType};
use crate::queue::{Session, Tls};
use crate::retry::{Ladder, Tier};

async fn session(broker: &Broker) -> Session {
    let settings = BrokerSettings {
        host: "127.0.0.1".to_owned(),
        port: broker.port(),
        tls: false,
        user: "u".to_owned(),
        password: SecretString::from("p"),
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
    Session::open(&settings, &Tls::default(), &topology, &crate::metrics::Metrics::default())
        .await
        .unwrap()
}

/// `RabbitMQ` returns a message at once, but may hold back confirms to send several together, so
/// the return of one can come before the confirm of another.
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
