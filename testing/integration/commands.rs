//! The command line, exit codes, and output for people.

use std::process::{Command, Output};

use stack::{Daemon, Stack};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Runs a command of the binary with the environment of a daemon of the stack.
pub(super) async fn command(arguments: &[&str], overrides: &[(&str, &str)]) -> Output {
    let daemon = Daemon::prepare(&Stack::from_env(), binary(), overrides).await.unwrap();
    Command::new(BINARY).args(arguments).env_clear().envs(daemon.env()).output().unwrap()
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn check_prints_a_line_for_each_dependency() {
    let good = command(&["check"], &[]).await;
    let out = text(&good.stdout);
    assert!(good.status.success(), "{out}");
    for name in ["broker", "store", "engine", "webhook"] {
        assert!(out.lines().any(|l| l.starts_with(name) && l.contains(" ok: ")), "{out}");
    }
    assert!(out.contains("MINIO_NOTIFY_AMQP_EXCHANGE_SCAN="));
    let bad = command(
        &["check"],
        &[
            ("MINIO_SECRET_ACCESS_KEY", "wrong-secret"),
            ("RABBITMQ_REGULAR_USER_PASS", "wrong-secret"),
            ("CLAMD_ENDPOINT", "unix:///nowhere/clamd.sock"),
            ("PUBLISH_URL", "http://127.0.0.1:1/"),
        ],
    )
    .await;
    let out = text(&bad.stdout);
    assert_eq!(bad.status.code(), Some(1), "{out}");
    for name in ["broker", "store", "engine", "webhook"] {
        assert!(out.lines().any(|l| l.starts_with(name) && l.contains(" FAILED: ")), "{out}");
    }
    assert!(!out.contains("wrong-secret"), "{out}");
}

#[tokio::test]
async fn a_refused_login_is_one_line_and_exit_78() {
    for (name, says) in [
        ("RABBITMQ_REGULAR_USER_PASS", "login"),
        ("RABBITMQ_VHOST", "check RABBITMQ_REGULAR_USER_NAME"),
        ("MINIO_SECRET_ACCESS_KEY", "SignatureDoesNotMatch"),
        ("MINIO_ACCESS_KEY_ID", "InvalidAccessKeyId"),
    ] {
        let overrides = [(name, "wrong-value")];
        let mut daemon = Daemon::prepare(&Stack::from_env(), binary(), &overrides).await.unwrap();
        daemon.spawn().unwrap();
        assert_eq!(daemon.wait_exit(SOON).await.unwrap(), 78, "{name}: {}", daemon.output());
        let output = daemon.output();
        let errors: Vec<&str> = output.lines().filter(|line| line.contains("ERROR")).collect();
        assert_eq!(errors.len(), 1, "{output}");
        assert!(errors[0].contains(says), "{output}");
        assert!(!output.contains("wrong-value") || name == "RABBITMQ_VHOST", "{output}");
    }
}

#[tokio::test]
async fn all_bad_settings_are_reported_at_once() {
    let bad = command(&[], &[("SCAN_TIMEOUT", "0"), ("DELETE_FILE", "perhaps")]).await;
    assert_eq!(bad.status.code(), Some(78));
    let told = text(&bad.stderr);
    assert_eq!(told.lines().count(), 2, "{told}");
    assert!(told.contains("SCAN_TIMEOUT") && told.contains("DELETE_FILE"), "{told}");
    assert!(told.lines().all(|line| line.starts_with("[bucket-av-scanner] ")), "{told}");
}

#[tokio::test]
async fn an_address_in_use_is_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let failed = command(&[], &[("HEALTH_ADDR", &address)]).await;
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed.stdout).lines().last().unwrap().contains("HEALTH_ADDR"));
}

#[tokio::test]
async fn an_engine_that_hides_its_limits_is_refused_with_strict_limits() {
    let refused = command(
        &[],
        &[("STRICT_LIMITS", "true"), ("SCANNER", "clamav-rest"), ("CLAMD_ENDPOINT", &lax_engine())],
    )
    .await;
    assert_eq!(refused.status.code(), Some(78), "{}", text(&refused.stdout));
    assert!(text(&refused.stdout).lines().last().unwrap().contains("AlertEncrypted"));
}

/// The URL of an engine that finds EICAR and calls everything else clean, as clamd does with its
/// default settings.
fn lax_engine() -> String {
    use peers::scripted::Server;
    let server = Server::start(lax_v1);
    let url = server.url().to_owned();
    // Kept until the test process ends, because the daemon under test may still use it.
    std::mem::forget(server);
    url
}

#[tokio::test]
async fn a_lax_engine_is_warned_about_and_named_in_readyz_and_reports() {
    let engine = lax_engine();
    let daemon = daemon(&[("SCANNER", "clamav-rest"), ("CLAMD_ENDPOINT", &engine)]).await;
    assert!(daemon.page("/readyz").await.unwrap().contains("\"limits_reported\": false"));
    assert!(daemon.output().contains("AlertEncrypted"));
    daemon.s3().put("k", "x").await.unwrap();
    let report = daemon.reports_on("k", 1, SOON).await.unwrap().remove(0).json();
    assert_eq!(report["engine"]["limits_reported"], false);
}

#[tokio::test]
async fn healthcheck_asks_readyz() {
    let mut daemon = daemon(&[]).await;
    let healthcheck = |env: &std::collections::BTreeMap<String, String>| {
        Command::new(BINARY).arg("healthcheck").env_clear().envs(env).status().unwrap()
    };
    assert!(healthcheck(daemon.env()).success());
    daemon.kill();
    assert!(!healthcheck(daemon.env()).success());
}

#[tokio::test]
async fn help_names_every_setting_and_no_secret_is_in_the_log() {
    let help = command(&["--help"], &[]).await;
    let help = text(&help.stdout);
    let page = std::fs::read_to_string("docs/CONFIGURATION.md").unwrap();
    for variable in bucket_av_scanner::config::VARIABLES {
        let name = variable.name;
        assert!(help.contains(name), "--help lacks {name}");
        let start = format!("| `{name}` | ");
        let row = page.lines().find_map(|line| line.strip_prefix(start.as_str()));
        let row = row.unwrap_or_else(|| panic!("docs/CONFIGURATION.md has no row of {name}"));
        if let Some(default) = variable.default {
            assert!(row.starts_with(&format!("`{default}` |")), "the default of {name}: {row}");
        }
    }
    let daemon = daemon(&[("LOG_LEVEL", "trace")]).await;
    daemon.s3().put("k", "x").await.unwrap();
    status(&daemon, "k").await;
    let output = daemon.output();
    for name in ["MINIO_SECRET_ACCESS_KEY", "RABBITMQ_REGULAR_USER_PASS", "PUBLISH_SECRET"] {
        let secret = &daemon.env()[name];
        assert!(!output.contains(secret.as_str()), "{name} is in the log");
    }
}

#[tokio::test]
async fn log_lines_are_text_with_the_services_name_or_json() {
    let text = daemon(&[]).await;
    assert!(text.output().lines().all(|line| line.starts_with("[bucket-av-scanner] ")));
    let json = daemon(&[("LOG_FORMAT", "json")]).await;
    for line in json.output().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["message"].is_string() && line["level"].is_string());
    }
}

#[tokio::test]
async fn a_bare_connect_is_a_probe_and_metrics_are_well_formed() {
    let daemon = daemon(&[]).await;
    let address = daemon.env()["HEALTH_ADDR"].clone();
    // More connections than the server keeps, none of which sends anything.
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(tokio::net::TcpStream::connect(&address).await.unwrap());
    }
    let mut rude = tokio::net::TcpStream::connect(&address).await.unwrap();
    drop(rude.write_all(b"\x16\x03\x01 garbage \r\n\r\n").await);
    drop(rude.read(&mut [0; 64]).await);
    drop(silent);
    eventually("it answers again", || async { daemon.page("/metrics").await.is_ok() }).await;
    daemon.s3().put("k", "x").await.unwrap();
    status(&daemon, "k").await;
    let page = daemon.page("/metrics").await.unwrap();
    assert!(page.ends_with("# EOF\n"));
    for name in [
        "avscan_verdicts_total{status=\"clean\",reason=\"\"}",
        "avscan_scanned_bytes_total",
        "avscan_stage_duration_seconds_bucket{",
        "avscan_in_flight",
        "avscan_up{part=\"engine\"} 1",
        "avscan_engine_limits_reported 1",
    ] {
        assert!(page.contains(name), "{name} is missing in:\n{page}");
    }
}

#[tokio::test]
async fn idle_connections_do_not_keep_probes_from_being_answered() {
    let daemon = daemon(&[]).await;
    let address = daemon.env()["HEALTH_ADDR"].clone();
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(tokio::net::TcpStream::connect(&address).await.unwrap());
    }
    for _ in 0..20 {
        let asked = tokio::time::timeout(Duration::from_secs(1), daemon.page("/livez")).await;
        assert_eq!(asked.unwrap().unwrap(), "alive\n");
        idle.push(tokio::net::TcpStream::connect(&address).await.unwrap());
    }
}

#[tokio::test]
async fn a_kubernetes_service_link_is_no_port() {
    let links = [("RABBITMQ_PORT", "tcp://10.0.0.7:5672"), ("CLAMD_PORT", "tcp://10.0.0.8:3310")];
    let checked = command(&["check"], &links).await;
    let out = text(&checked.stdout);
    assert_eq!(checked.status.code(), Some(1), "{out}{}", text(&checked.stderr));
    for (name, _) in links {
        let warned: Vec<&str> =
            out.lines().filter(|l| l.starts_with("warning") && l.contains(name)).collect();
        assert_eq!(warned.len(), 1, "{out}");
        assert!(warned[0].contains("enableServiceLinks: false"), "{out}");
    }
}

#[tokio::test]
async fn redrive_lists_without_a_trace_and_moves_by_reason() {
    let settings = [("RETRY_DELAYS", "1s"), ("RETRY_LIMIT", "0"), ("REPORT_CLEAN", "false")];
    let daemon = daemon(&settings).await;
    let queue = daemon.names.queue.clone();
    let parked = format!("{queue}.dead");
    // The object is uploaded after its notifications, which are parked because the bucket does not
    // exist.
    let bucket = daemon.s3().with_bucket(&format!("{}-late", daemon.names.bucket));
    let event = peers::notification::put(&bucket.bucket, "k", None, None);
    notify(&daemon, event.to_string().as_bytes()).await;
    notify(&daemon, b"garbage").await;
    let amqp = Stack::from_env().amqp().await.unwrap();
    eventually("both are parked", || async { amqp.count(&parked).await.unwrap() == Some(2) }).await;
    let redrive = |arguments: &[&str]| {
        let output = Command::new(BINARY)
            .arg("redrive")
            .args(arguments)
            .env_clear()
            .envs(daemon.env())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    for _ in 0..3 {
        let listed = redrive(&["--dry-run"]);
        assert!(listed.contains("2 of 2") && listed.contains("store_not_found"), "{listed}");
        assert!(listed.contains(&format!("{}/k", bucket.bucket)), "{listed}");
    }
    eventually("both are still parked", || async { amqp.count(&parked).await.unwrap() == Some(2) })
        .await;
    bucket.create_bucket().await.unwrap();
    bucket.put("k", "x").await.unwrap();
    let moved = redrive(&["--reason", "store_not_found"]);
    assert!(moved.contains("1 of 2"), "{moved}");
    eventually("the object is scanned after all", || async {
        bucket.tags("k").await.unwrap().unwrap().get("scanned").map(String::as_str) == Some("clean")
    })
    .await;
    // The report without a verdict must be followed by one with a verdict.
    let reports = daemon.reports_on("k", 2, SOON).await.unwrap();
    let statuses = reports.iter().map(|report| report.json()["status"].clone());
    assert_eq!(statuses.collect::<Vec<_>>(), ["no", "clean"]);
    let left = amqp.get_within(&parked, SOON).await.unwrap();
    assert_eq!(left.body, b"garbage");
    assert_eq!(left.headers["avscan-reason"], "malformed");
    // Listing it did not count as a failed delivery.
    let count = left.headers.get("x-delivery-count").map(String::as_str);
    assert!(matches!(count, None | Some("0")), "{count:?}");
    assert_eq!(amqp.count(&parked).await.unwrap(), Some(0));
}
