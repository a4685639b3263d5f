//! The records of the proxies in front of engine and broker, which the chaos suite relies on, are
//! right. Needs a running stack (`stack run --no-daemon -- cargo test -p stack`).
#![allow(clippy::disallowed_methods, reason = "the list in clippy.toml is about the daemon")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions};
use lapin::types::FieldTable;
use peers::ClamavRest;
use peers::eicar::{eicar, hex};
use peers::proxy::{EngineFault, EngineProxy, TcpProxy};
use sha2::{Digest, Sha256};
use stack::state::Settings;
use stack::{Amqp, Stack};

async fn scan(rest: &ClamavRest, content: Vec<u8>) -> u16 {
    let part = reqwest::multipart::Part::bytes(content).file_name("x");
    let form = reqwest::multipart::Form::new().part("file", part);
    let url = format!("{}/v2/scan", rest.url());
    reqwest::Client::new().post(url).multipart(form).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn the_engine_proxy_knows_what_was_scanned_and_what_was_said() {
    let clamd = Stack::from_env().settings().clamd_socket.clone();
    let proxy = EngineProxy::start(&clamd).await.unwrap();
    let rest = ClamavRest::start(proxy.address(), false).await.unwrap();
    assert_eq!(scan(&rest, eicar()).await, 406);
    assert_eq!(scan(&rest, b"good".to_vec()).await, 200);
    // An answer made up by the proxy is not recorded as the engine's.
    proxy.script(|_| EngineFault::Say(b"stream: Made-Up FOUND\n".to_vec()));
    assert_eq!(scan(&rest, b"better".to_vec()).await, 406);
    proxy.script(|_| EngineFault::Crash(Box::pin(std::future::ready(()))));
    assert_eq!(scan(&rest, b"never".to_vec()).await, 200);
    let scans = proxy.scans();
    let said = |content: &[u8]| {
        let sha256 = hex(&Sha256::digest(content));
        scans.iter().find(|scan| scan.sha256 == sha256).map(|scan| scan.answer.clone())
    };
    assert!(said(&eicar()).unwrap().ends_with(" FOUND"));
    assert_eq!(said(b"good").unwrap(), "stream: OK");
    assert_eq!(said(b"better").unwrap(), "stream: OK");
    assert_eq!(said(b"never"), None);
}

#[tokio::test]
async fn the_proxy_to_a_broker_knows_what_is_in_hand() {
    let stack = Stack::from_env();
    let settings = stack.settings();
    let upstream = format!("{}:{}", settings.amqp_host, settings.amqp_port);
    let proxy = TcpProxy::to_broker(&upstream).await.unwrap();
    let through = Settings { amqp_port: proxy.port(), ..settings.clone() };
    let amqp = Amqp::connect(&through).await.unwrap();
    let queue = format!("s3minio-test-{}", fastrand::u64(..));
    let exchange = format!("{queue}-exchange");
    amqp.declare(&exchange, &queue, "k").await.unwrap();
    for body in [r#"{"Key":"bucket/a/b"}"#, r#"{"key":"a report"}"#, r#"{"Key":"bucket/c"}"#] {
        amqp.publish(&exchange, "k", body.as_bytes(), &[]).await.unwrap();
    }
    let channel = amqp.channel().await.unwrap();
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut consumer =
        channel.basic_consume(queue.as_str().into(), "".into(), options, none).await.unwrap();
    for _ in 0..3 {
        let delivery = consumer.next().await.unwrap().unwrap();
        if delivery.data.ends_with(b"c\"}") {
            delivery.ack(BasicAckOptions::default()).await.unwrap();
        }
    }
    // When the broker answers this, it has processed the settlement before it.
    amqp.delete_queue(&queue).await.unwrap();
    channel.close(200, "".into()).await.unwrap();
    let handed = proxy.handed();
    let handed: Vec<_> = handed.iter().map(|one| (&*one.key, one.settled.is_some())).collect();
    assert_eq!(handed, [("a/b", false), ("c", true)]);
}
