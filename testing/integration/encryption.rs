//! TLS to every peer, with a private authority.

use peers::eicar::eicar;
use peers::tls::{Certificate, TlsProxy};
use peers::{Authority, ClamavRest};
use stack::{Daemon, Stack};

use super::*;

/// TLS in front of the broker, the store, clamav-rest and the webhook.
struct Wrapped {
    _proxies: [TlsProxy; 4],
    _rest: ClamavRest,
    variables: Vec<(&'static str, String)>,
}

async fn wrapped(authority: &Authority, certificate: Certificate) -> Wrapped {
    let stack = Stack::from_env();
    let settings = stack.settings();
    let rest = ClamavRest::start(&settings.clamd_tcp, false).await.unwrap();
    let bare = |url: &str| url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let broker = format!("{}:{}", settings.amqp_host, settings.amqp_port);
    let broker = authority.proxy(&certificate, &broker).await.unwrap();
    let store = authority.proxy(&certificate, &bare(&settings.s3_url)).await.unwrap();
    let engine = authority.proxy(&certificate, &bare(rest.url())).await.unwrap();
    let webhook = authority.proxy(&certificate, &bare(&settings.sink_url)).await.unwrap();
    let variables = vec![
        ("RABBITMQ_TLS", "true".to_owned()),
        ("RABBITMQ_ENDPOINT", "localhost".to_owned()),
        ("RABBITMQ_PORT", broker.port().to_string()),
        ("MINIO_SERVER_URL", format!("https://localhost:{}", store.port())),
        ("SCANNER", "clamav-rest".to_owned()),
        // A bare host, with the port in a setting of its own.
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

/// The output of `check`.
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
    let wrapped = wrapped(&authority, Certificate::For("localhost")).await;
    let (mut daemon, _folder) = prepared(&wrapped.variables, Some(&authority)).await;
    daemon.spawn().unwrap();
    daemon.wait_ready(SOON).await.unwrap();
    daemon.s3().put("clean", "x").await.unwrap();
    daemon.s3().put("eicar", eicar()).await.unwrap();
    assert_eq!(status(&daemon, "clean").await, "clean");
    gone(&daemon, "eicar").await;
    let bucket = daemon.names.bucket.clone();
    let of_ours = |r: &peers::sink::Received| r.json()["bucket"] == bucket;
    Stack::from_env().reports_within(2, SOON, of_ours).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_certificate_is_explained_for_every_peer() {
    let authority = Authority::new().unwrap();
    for (certificate, trusted, says) in [
        (Certificate::For("localhost"), false, "name its certificate in TLS_CA_FILE"),
        (Certificate::For("elsewhere.example"), true, "not for this host name"),
        (Certificate::CommonNameOnly("localhost"), true, "a common name does not count"),
        (Certificate::Expired("localhost"), true, "has expired"),
        (Certificate::TheAuthoritysOwn, true, "is itself an authority (CA:TRUE)"),
    ] {
        let wrapped = wrapped(&authority, certificate).await;
        let (daemon, _folder) = prepared(&wrapped.variables, trusted.then_some(&authority)).await;
        let told = check(&daemon);
        for peer in ["broker", "store", "engine", "webhook"] {
            let line = told.lines().find(|line| line.starts_with(peer)).unwrap();
            assert!(line.contains("FAILED") && line.contains(says), "{certificate:?}: {told}");
        }
    }
}
