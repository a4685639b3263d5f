//! The proxies do what a test says, and record it.
#![allow(clippy::disallowed_methods, reason = "the list in clippy.toml is about the daemon")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use peers::proxy::{Fault, Hook, HttpProxy, Op, TcpProxy};
use peers::scripted::{Reply, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn the_http_proxy_injects_each_fault() {
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
    // The client may repeat a request that was cut.
    assert!(proxy.asked().len() >= 5);
}

#[tokio::test]
async fn the_http_proxy_tells_the_operations_of_a_store_apart() {
    let service = Server::start(|_| Reply::new(200, ""));
    let proxy = HttpProxy::start(service.url()).await.unwrap();
    let put = async |query: &str, copies: bool| {
        let request = reqwest::Client::new().put(format!("{}/bucket/key{query}", proxy.url()));
        let request = if copies { request.header("x-amz-copy-source", "a/b") } else { request };
        request.send().await.unwrap();
    };
    put("", false).await;
    put("?x-id=PutObject", false).await;
    put("?x-id=CopyObject", true).await;
    put("?partNumber=1&uploadId=u", false).await;
    put("?x-id=UploadPartCopy&partNumber=1&uploadId=u", true).await;
    put("?tagging", false).await;
    let ops: Vec<Op> = proxy.asked().iter().map(|asked| asked.op).collect();
    assert_eq!(ops, [Op::Put, Op::Put, Op::Copy, Op::Other, Op::Other, Op::SetTags]);
}

#[tokio::test]
async fn the_http_proxy_loses_refuses_and_claims() {
    let service = Server::start(|_| Reply::new(200, "0123456789"));
    let proxy = HttpProxy::start(service.url()).await.unwrap();
    let url = format!("{}/bucket/key", proxy.url());
    let steps = Arc::new(Mutex::new(Vec::new()));
    let step = |name: &'static str| -> Hook {
        let steps = Arc::clone(&steps);
        Box::pin(async move { steps.lock().unwrap().push(name) })
    };
    let shared = Arc::new(Mutex::new(vec![
        Fault::Lose([step("before"), step("after")]),
        Fault::Refuse(step("refused"), 503, "later"),
    ]));
    proxy.script(move |_| shared.lock().unwrap().remove(0));
    // Executed, but the answer is lost.
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
