//! The proxies that the chaos suite believes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bucket_av_scanner_testing::eicar::{eicar, hex};
use bucket_av_scanner_testing::proxy::{
    Deed, EngineProxy, Fault, HttpProxy, Meanwhile, Op, TcpProxy,
};
use bucket_av_scanner_testing::scripted::{Reply, Server};
use bucket_av_scanner_testing::state::Settings;
use bucket_av_scanner_testing::{Amqp, ClamavRest, Stack};
use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions};
use lapin::types::FieldTable;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

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
    // What the proxy makes up is not what the engine said.
    proxy.script(|_| Deed::Say(b"stream: Made-Up FOUND\n".to_vec()));
    assert_eq!(scan(&rest, b"better".to_vec()).await, 406);
    proxy.script(|_| Deed::Crash(Box::pin(std::future::ready(()))));
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
async fn the_http_proxy_breaks_what_it_is_told_to() {
    let service = Server::start(|_| Reply::new(200, "0123456789"));
    let proxy = HttpProxy::start(service.url()).await.unwrap();
    let url = format!("{}/bucket/a%20key", proxy.url());
    let get = || async { reqwest::get(&url).await };
    assert_eq!(get().await.unwrap().text().await.unwrap(), "0123456789");
    proxy.script(|call| {
        assert_eq!((call.op, call.key.as_str()), (Op::Get, "a key"));
        Fault::Half
    });
    assert!(get().await.unwrap().text().await.is_err());
    proxy.script(|_| Fault::Answer(503, "later"));
    assert_eq!(get().await.unwrap().status(), 503);
    proxy.script(|_| Fault::Cut);
    assert!(get().await.is_err());
    proxy.pass();
    assert_eq!(get().await.unwrap().text().await.unwrap(), "0123456789");
    assert_eq!(proxy.said().len(), 3);
    // One that is cut may be repeated by the client.
    assert!(proxy.asked().len() >= 5);
}

#[tokio::test]
async fn the_http_proxy_loses_refuses_and_claims() {
    let service = Server::start(|_| Reply::new(200, "0123456789"));
    let proxy = HttpProxy::start(service.url()).await.unwrap();
    let url = format!("{}/bucket/key", proxy.url());
    let steps = Arc::new(Mutex::new(Vec::new()));
    let step = |name: &'static str| -> Meanwhile {
        let steps = Arc::clone(&steps);
        Box::pin(async move { steps.lock().unwrap().push(name) })
    };
    let shared = Arc::new(Mutex::new(vec![
        Fault::Lose([step("before"), step("after")]),
        Fault::Refuse(step("refused"), 503, "later"),
    ]));
    proxy.script(move |_| shared.lock().unwrap().remove(0));
    // Executed, and nobody hears of it.
    assert!(reqwest::Client::new().delete(&url).send().await.is_err());
    assert_eq!(
        (service.requests().len(), steps.lock().unwrap().clone()),
        (1, vec!["before", "after"])
    );
    // Never executed.
    assert_eq!(reqwest::Client::new().delete(&url).send().await.unwrap().status(), 503);
    assert_eq!((service.requests().len(), steps.lock().unwrap().len()), (1, 3));
    proxy.script(|_| Fault::Claim(600 << 20, Duration::from_millis(50)));
    let claimed = reqwest::get(&url).await.unwrap();
    assert_eq!(claimed.content_length(), Some(600 << 20));
    assert!(claimed.bytes().await.is_err());
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
    // The broker has heard of it by the time it answers this.
    amqp.delete_queue(&queue).await.unwrap();
    channel.close(200, "".into()).await.unwrap();
    let handed = proxy.handed();
    let handed: Vec<_> = handed.iter().map(|one| (&*one.key, one.settled.is_some())).collect();
    assert_eq!(handed, [("a/b", false), ("c", true)]);
}

#[tokio::test]
async fn the_tcp_proxy_carries_cuts_and_keeps_silent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                drop(tokio::io::copy(&mut from, &mut to).await);
            });
        }
    });
    let proxy = TcpProxy::start(&upstream).await.unwrap();
    let connect = || async { TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap() };
    let mut echo = [0; 4];
    let mut stream = connect().await;
    stream.write_all(b"ping").await.unwrap();
    stream.read_exact(&mut echo).await.unwrap();

    proxy.black_hole();
    stream.write_all(b"void").await.unwrap();
    let silence = tokio::time::timeout(Duration::from_millis(300), stream.read_exact(&mut echo));
    assert!(silence.await.is_err());
    proxy.pass();
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"void");

    proxy.cut();
    assert!(stream.read_exact(&mut echo).await.is_err());
    proxy.refuse();
    let mut refused = connect().await;
    assert!(refused.read_exact(&mut echo).await.is_err());
}
