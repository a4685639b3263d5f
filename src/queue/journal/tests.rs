//! The journal on a real broker. Needs a stack.

use serde::Deserialize;
use stack::Stack;

use super::*;
use crate::config::{BrokerSettings, ExchangeType, QueueType};
use crate::metrics::Metrics;
use crate::queue::Session;
use crate::retry::{Ladder, Tier};
use crate::tls::Trust;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Fact {
    Number { n: u32 },
}

async fn session(stack: &Stack, queue: &str) -> Session {
    let settings = stack.settings();
    let settings = BrokerSettings {
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
    };
    let tier = Tier { name: "1s".to_owned(), delay: Duration::from_secs(1) };
    let ladder = Ladder { tiers: vec![tier], limit: 1 };
    let topology = Topology::new(&settings, &ladder, false);
    Session::open(&settings, &Trust::default(), &topology, &Metrics::default()).await.unwrap()
}

/// A replica that follows the journal, and the numbers that it has read.
async fn replica(session: &Session) -> (Arc<Journal>, Arc<Mutex<Vec<u32>>>) {
    let (journal, reader) = session.journal().await.unwrap();
    let numbers: Arc<Mutex<Vec<u32>>> = Arc::default();
    let (read, following) = (Arc::clone(&numbers), Arc::clone(&journal));
    tokio::spawn(async move {
        following.follow(reader, |Fact::Number { n }| read.lock().unwrap().push(n)).await
    });
    (journal, numbers)
}

async fn clean_up(stack: &Stack, queue: &str) {
    let amqp = stack.amqp().await.unwrap();
    for suffix in ["", ".journal", ".retry.1s", ".dead", ".reports.log"] {
        amqp.delete_queue(&format!("{queue}{suffix}")).await.unwrap();
    }
}

/// More than the broker sends ahead, so that it has to hear of what was read.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_journal_is_read_to_its_end() {
    let stack = Stack::from_env();
    let queue = format!("s3minio-test-{}", Uuid::new_v4());
    let one = session(&stack, &queue).await;
    let (first, _) = replica(&one).await;
    let append = async |n| first.append(&Fact::Number { n }).await.unwrap();
    futures_util::future::join_all((0..1_000).map(append)).await;
    let (late, seen) = replica(&one).await;
    late.read_to_end().await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 1_000);
    clean_up(&stack, &queue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_replicas_read_the_same_entries_in_the_same_order_and_skip_the_rest() {
    let stack = Stack::from_env();
    let queue = format!("s3minio-test-{}", Uuid::new_v4());
    let (one, two) = (session(&stack, &queue).await, session(&stack, &queue).await);
    let (first, seen_by_first) = replica(&one).await;
    let (second, seen_by_second) = replica(&two).await;
    for n in 0..50 {
        first.append(&Fact::Number { n: 2 * n + 1 }).await.unwrap();
        second.append(&Fact::Number { n: 2 * n }).await.unwrap();
    }
    let amqp = stack.amqp().await.unwrap();
    let internal = format!("{queue}.internal");
    let stream = format!("{queue}.journal");
    for garbage in [&b"\xff"[..], b"", b"{}", br#"{"kind":"newer","n":1}"#, br#"{"kind":"number"}"#]
    {
        amqp.publish(&internal, &stream, garbage, &[]).await.unwrap();
    }
    first.append_and_read(&Fact::Number { n: 1000 }).await.unwrap();
    assert_eq!(seen_by_first.lock().unwrap().len(), 101);
    second.read_to_end().await.unwrap();
    assert_eq!(*seen_by_second.lock().unwrap(), *seen_by_first.lock().unwrap());
    // One that comes later reads all of it.
    let (late, seen) = replica(&two).await;
    late.read_to_end().await.unwrap();
    assert_eq!(*seen.lock().unwrap(), *seen_by_first.lock().unwrap());
    one.close().await;
    two.close().await;
    clean_up(&stack, &queue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_was_deleted_fails_alone_and_is_there_when_it_is_opened_again() {
    let stack = Stack::from_env();
    let queue = format!("s3minio-test-{}", Uuid::new_v4());
    let session = session(&stack, &queue).await;
    let (journal, _) = replica(&session).await;
    journal.append(&Fact::Number { n: 1 }).await.unwrap();
    let amqp = stack.amqp().await.unwrap();
    amqp.delete_queue(&format!("{queue}.journal")).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), journal.closed.cancelled()).await.unwrap();
    assert!(journal.append(&Fact::Number { n: 2 }).await.is_err());
    assert!(journal.read_to_end().await.is_err());
    assert!(!session.lost().is_cancelled());
    let (again, numbers) = replica(&session).await;
    again.append_and_read(&Fact::Number { n: 3 }).await.unwrap();
    assert_eq!(*numbers.lock().unwrap(), [3]);
    session.close().await;
    clean_up(&stack, &queue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_mark_serves_all_who_wait_for_the_end() {
    let stack = Stack::from_env();
    let queue = format!("s3minio-test-{}", Uuid::new_v4());
    let session = session(&stack, &queue).await;
    let (journal, _) = replica(&session).await;
    let askers = (0..500).map(|_| journal.read_to_end());
    let answers = futures_util::future::join_all(askers).await;
    assert!(answers.iter().all(Result::is_ok));
    let (again, reader) = session.journal().await.unwrap();
    let marks = Arc::new(Mutex::new(0));
    let (count, following) = (Arc::clone(&marks), Arc::clone(&again));
    tokio::spawn(async move {
        let fold = |_: serde_json::Value| *count.lock().unwrap() += 1;
        following.follow(reader, fold).await
    });
    again.read_to_end().await.unwrap();
    assert!(*marks.lock().unwrap() <= 4, "{marks:?}");
    session.close().await;
    clean_up(&stack, &queue).await;
}
