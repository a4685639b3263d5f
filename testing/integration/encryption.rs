//! TLS to every peer, with a private authority.

use bucket_av_scanner_testing::eicar::eicar;
use bucket_av_scanner_testing::tls::TlsProxy;
use bucket_av_scanner_testing::{Authority, ClamavRest, Daemon, Stack};

use super::*;

/// TLS before the broker, the store, clamav-rest and the webhook.
struct Wrapped {
    _proxies: [TlsProxy; 4],
    _rest: ClamavRest,
    variables: Vec<(&'static str, String)>,
}

async fn wrapped(authority: &Authority, host: &str) -> Wrapped {
    let stack = Stack::from_env();
    let settings = stack.settings();
    let rest = ClamavRest::start(&settings.clamd_tcp, false).await.unwrap();
    let bare = |url: &str| url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let broker = format!("{}:{}", settings.amqp_host, settings.amqp_port);
    let broker = authority.proxy(host, &broker).await.unwrap();
    let store = authority.proxy(host, &bare(&settings.s3_url)).await.unwrap();
    let engine = authority.proxy(host, &bare(rest.url())).await.unwrap();
    let webhook = authority.proxy(host, &bare(&settings.sink_url)).await.unwrap();
    let variables = vec![
        ("RABBITMQ_TLS", "true".to_owned()),
        ("RABBITMQ_ENDPOINT", "localhost".to_owned()),
        ("RABBITMQ_PORT", broker.port().to_string()),
        ("MINIO_SERVER_URL", format!("https://localhost:{}", store.port())),
        ("SCANNER", "clamav-rest".to_owned()),
        // As the original has it: a bare host, and the port beside it.
        ("CLAMD_ENDPOINT", "localhost".to_owned()),
        ("CLAMD_PORT", engine.port().to_string()),
        ("PUBLISH_URL", format!("https://localhost:{}/report/tls", webhook.port())),
    ];
    Wrapped { _proxies: [broker, store, engine, webhook], _rest: rest, variables }
}

async fn prepared(
    variables: &[(&str, String)],
    ca: Option<&Authority>,
) -> (Daemon, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    let mut all: Vec<(&str, &str)> = variables.iter().map(|(k, v)| (*k, v.as_str())).collect();
    if let Some(authority) = ca {
        authority.write(&file).unwrap();
        all.push(("TLS_CA_FILE", file.to_str().unwrap()));
    }
    (Daemon::prepare(&Stack::from_env(), binary(), &all).await.unwrap(), folder)
}

/// What `check` says of each peer.
fn check(daemon: &Daemon) -> String {
    let output = std::process::Command::new(BINARY)
        .arg("check")
        .env_clear()
        .envs(daemon.env())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_authority_is_trusted_for_every_peer() {
    let authority = Authority::new().unwrap();
    let wrapped = wrapped(&authority, "localhost").await;
    let (mut daemon, _folder) = prepared(&wrapped.variables, Some(&authority)).await;
    daemon.spawn().unwrap();
    daemon.wait_ready(SOON).await.unwrap();
    daemon.s3().put("clean", "x").await.unwrap();
    daemon.s3().put("eicar", eicar()).await.unwrap();
    assert_eq!(status(&daemon, "clean").await, "clean");
    gone(&daemon, "eicar").await;
    let bucket = daemon.names.bucket.clone();
    let of_ours = |r: &bucket_av_scanner_testing::sink::Received| r.json()["bucket"] == bucket;
    Stack::from_env().reports_within(2, SOON, of_ours).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_authority_and_a_wrong_name_are_refused_for_every_peer() {
    let authority = Authority::new().unwrap();
    let right = wrapped(&authority, "localhost").await;
    let (untrusting, _folder) = prepared(&right.variables, None).await;
    let wrong = wrapped(&authority, "elsewhere.example").await;
    let (misled, _folder) = prepared(&wrong.variables, Some(&authority)).await;
    for daemon in [&untrusting, &misled] {
        let told = check(daemon);
        for peer in ["broker", "store", "engine", "webhook"] {
            let line = told.lines().find(|line| line.starts_with(peer)).unwrap();
            assert!(line.contains("FAILED") && line.contains("certificate"), "{told}");
        }
    }
}
