//! Addresses of peers, and names of buckets.

use peers::notification;
use peers::scripted::Server;
use stack::{Daemon, Stack};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Makes the service at `target` reachable by IPv6; returns the port.
async fn by_ipv6(target: &str) -> u16 {
    let target = target.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let target = target.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(&target).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn every_peer_may_have_an_ipv6_address() {
    let stack = Stack::from_env();
    let settings = stack.settings();
    let broker = by_ipv6(&format!("{}:{}", settings.amqp_host, settings.amqp_port)).await;
    let broker = broker.to_string();
    let store = format!("http://[::1]:{}", by_ipv6(&settings.s3_url).await);
    let engine = format!("tcp://[::1]:{}", by_ipv6(&settings.clamd_tcp).await);
    let webhook = format!("http://[::1]:{}/report/ipv6", by_ipv6(&settings.sink_url).await);
    for endpoint in ["::1", "[::1]"] {
        let daemon = daemon(&[
            ("RABBITMQ_ENDPOINT", endpoint),
            ("RABBITMQ_PORT", &broker),
            ("MINIO_SERVER_URL", &store),
            ("SCANNER", "clamd"),
            ("CLAMD_ENDPOINT", &engine),
            ("PUBLISH_URL", &webhook),
        ])
        .await;
        daemon.s3().put("k", "x").await.unwrap();
        assert_eq!(status(&daemon, "k").await, "clean");
        let bucket = daemon.names.bucket.clone();
        stack.reports_within(1, SOON, |r| r.json()["bucket"] == *bucket).await.unwrap();
    }
}

#[tokio::test]
async fn a_bucket_named_as_those_of_s3_express_is_one_like_any_other() {
    let server = Server::start(|request| {
        let tagging = request.path.contains("tagging");
        match request.method.as_str() {
            "GET" if request.path == "/" || request.path.starts_with("/?") => {
                Reply::new(200, "<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>")
            }
            "GET" if tagging => Reply::new(200, "<Tagging><TagSet/></Tagging>"),
            "GET" if request.path.starts_with("/b--x-s3/k") => {
                Reply::new(200, "fine").header("etag", "\"e1\"")
            }
            "HEAD" => Reply::new(200, "").header("etag", "\"e1\"").header("content-length", "4"),
            "PUT" if tagging => Reply::new(200, "").header("x-amz-request-id", "1A2B3C"),
            _ => Reply::new(501, "<Error><Code>NotImplemented</Code></Error>"),
        }
    });
    let overrides =
        [("MINIO_SERVER_URL", server.url()), ("RETRY_DELAYS", "1s"), ("RETRY_LIMIT", "0")];
    let daemon = daemon(&overrides).await;
    let event = notification::put("b--x-s3", "k", Some(4), Some("e1"));
    notify(&daemon, event.to_string().as_bytes()).await;
    let report = daemon.reports_on("k", 1, SOON).await.unwrap().remove(0).json();
    assert_eq!((&report["status"], &report["action"]), (&"clean".into(), &"tag".into()));
}

#[tokio::test]
async fn a_proxy_that_is_not_used_for_the_store_is_named_when_it_cannot_be_reached() {
    let overrides =
        [("MINIO_SERVER_URL", "http://127.0.0.1:1"), ("http_proxy", "http://127.0.0.1:2")];
    let daemon = Daemon::prepare(&Stack::from_env(), binary(), &overrides).await.unwrap();
    let checked = std::process::Command::new(BINARY)
        .arg("check")
        .env_clear()
        .envs(daemon.env())
        .output()
        .unwrap();
    let out = String::from_utf8(checked.stdout).unwrap();
    let store = out.lines().find(|line| line.starts_with("store")).unwrap();
    assert!(store.contains("FAILED") && store.contains("http_proxy is set"), "{out}");
}

#[tokio::test]
async fn probes_of_either_kind_reach_an_unspecified_address() {
    let mut daemon = Daemon::prepare(&Stack::from_env(), binary(), &[]).await.unwrap();
    let port = daemon.env()["HEALTH_ADDR"].rsplit_once(':').unwrap().1.to_owned();
    for (host, probes) in [("[::]", &["127.0.0.1", "::1"][..]), ("0.0.0.0", &["127.0.0.1"])] {
        daemon.set_env("HEALTH_ADDR", &format!("{host}:{port}"));
        daemon.spawn().unwrap();
        daemon.wait_ready(SOON).await.unwrap();
        for probe in probes {
            TcpStream::connect((*probe, port.parse().unwrap())).await.unwrap();
        }
        let mut healthcheck = std::process::Command::new(BINARY);
        healthcheck.arg("healthcheck").env_clear().envs(daemon.env());
        assert!(healthcheck.status().unwrap().success(), "{host}");
    }
}
