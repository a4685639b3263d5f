//! Scripted engines that fail, and faults of the host.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use peers::eicar::eicar;
use peers::scripted::{Reply, Request, Server};
use stack::{Daemon, Stack};

use super::*;

/// An engine of clamav-rest's second dialect that passes the self-test with EICAR, and gives
/// `answer` to all other files.
fn engine(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Server {
    let asked = AtomicUsize::new(0);
    Server::start(move |request| {
        if request.path != "/v2/scan" {
            return Reply::new(404, "");
        }
        let contains = |part: &[u8]| request.body.windows(part.len()).any(|w| w == part);
        if contains(&eicar()) {
            return verdict(request, 406, "FOUND", "Eicar");
        }
        if contains(b"secret.txt") || contains(b"inner.zip") || contains(HARMLESS) {
            return verdict(request, 200, "OK", "");
        }
        answer(request, asked.fetch_add(1, Ordering::Relaxed))
    })
}

pub(super) fn verdict(request: &Request, status: u16, word: &str, description: &str) -> Reply {
    let text = String::from_utf8_lossy(&request.body).into_owned();
    let name = text.split("filename=\"").nth(1).and_then(|t| t.split('"').next()).unwrap();
    let body = serde_json::json!([
        { "Status": word, "Description": description, "FileName": name }
    ]);
    Reply::json(status, &body)
}

async fn scanned_by(server: &Server) -> Daemon {
    daemon(&[
        ("SCANNER", "clamav-rest"),
        ("CLAMD_ENDPOINT", server.url()),
        ("RETRY_DELAYS", "1s,2s"),
        ("RETRY_LIMIT", "1"),
        ("SCAN_TIMEOUT", "3"),
    ])
    .await
}

/// An object whose scans always get this answer must be parked and marked `no`: never clean, never
/// deleted.
async fn is_never_a_verdict(
    what: &str,
    answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) {
    let server = engine(move |request, _| answer(request));
    let daemon = scanned_by(&server).await;
    daemon.s3().put("k", vec![b'x'; 300_000]).await.unwrap();
    let parked = dead(&daemon).await;
    assert_eq!(parked.headers["avscan-stage"], "scan", "{what}: {:?}", parked.headers);
    assert_eq!(parked.headers["avscan-attempt"], "2", "{what}");
    assert!(parked.headers.contains_key("avscan-first-failure"), "{what}");
    assert!(parked.headers.contains_key("avscan-last-failure"), "{what}");
    assert_eq!(status(&daemon, "k").await, "no", "{what}");
    assert!(daemon.s3().head("k").await.unwrap().is_some(), "{what}");
    let reports = daemon.reports_on("k", 1, SOON).await.unwrap();
    assert_eq!(reports.len(), 1, "{what}");
    let report = reports[0].json();
    assert_eq!((&report["status"], &report["reason"]), (&"no".into(), &"scan_failed".into()));
}

#[tokio::test]
async fn a_200_with_nothing_is_never_a_verdict() {
    is_never_a_verdict("empty", |_| Reply::new(200, "")).await;
    is_never_a_verdict("[]", |_| Reply::new(200, "[]")).await;
}

#[tokio::test]
async fn a_verdict_on_another_file_is_never_a_verdict() {
    is_never_a_verdict("other name", |_| {
        Reply::new(200, r#"[{"Status":"OK","Description":"","FileName":"other"}]"#)
    })
    .await;
    is_never_a_verdict("no name", |request| verdict(request, 406, "FOUND", "(null)")).await;
    is_never_a_verdict("bare 406", |_| Reply::new(406, "")).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_never_a_verdict() {
    is_never_a_verdict("half", |request| verdict(request, 200, "OK", "").half()).await;
    is_never_a_verdict("close", |_| Reply::close()).await;
}

#[tokio::test]
async fn an_engine_that_hangs_is_never_a_verdict() {
    is_never_a_verdict("hang", |_| Reply::hang()).await;
    is_never_a_verdict("drip", |request| {
        verdict(request, 200, "OK", "").drip(1, Duration::from_millis(500))
    })
    .await;
}

#[tokio::test]
async fn a_verdict_before_the_upload_is_complete_is_never_a_verdict() {
    let early = |request: &Request| {
        let length = request.header("content-length").and_then(|text| text.parse().ok());
        let large = length.unwrap_or(0) > 1_000_000;
        large.then(|| Reply::new(200, r#"{"Status":"OK","Description":""}"#))
    };
    let server = Server::start_with_early(early, lax_v1);
    let daemon = scanned_by(&server).await;
    daemon.s3().put("k", vec![b'x'; 30 << 20]).await.unwrap();
    assert_eq!(status(&daemon, "k").await, "no");
    assert_eq!(dead(&daemon).await.headers["avscan-stage"], "scan");
}

#[tokio::test]
async fn a_413_is_believed_only_from_an_engine_that_works() {
    let server = engine(|_, _| Reply::new(413, "File size limit exceeded"));
    let daemon = scanned_by(&server).await;
    daemon.s3().put("k", "x").await.unwrap();
    assert_eq!(status(&daemon, "k").await, "no");
    let report = daemon.reports_on("k", 1, SOON).await.unwrap().remove(0).json();
    assert_eq!(report["reason"], "too_large");
    assert_eq!(
        metric(&daemon, r#"avscan_verdicts_total{status="no",reason="too_large"}"#).await,
        1
    );
}

/// What clamav-rest says of a file above its clamd's limit depends on the moment at which clamd
/// closes the connection.
#[tokio::test]
async fn an_explicit_refusal_of_the_size_explains_an_answer_with_nothing() {
    let samples = AtomicUsize::new(0);
    let server = engine(move |request, _| {
        let is_sample = request.body.windows(500).any(|part| part == [0; 500]);
        if is_sample && samples.fetch_add(1, Ordering::Relaxed) == 1 {
            return Reply::new(413, "File size limit exceeded");
        }
        Reply::new(200, "[]")
    });
    let daemon = scanned_by(&server).await;
    for key in ["first", "second"] {
        daemon.s3().put(key, vec![b'x'; 300_000]).await.unwrap();
        assert_eq!(status(&daemon, key).await, "no");
        let report = daemon.reports_on(key, 1, SOON).await.unwrap().remove(0).json();
        assert_eq!((&report["reason"], &report["attempt"]), (&"too_large".into(), &1.into()));
    }
    let sent =
        server.requests().iter().filter(|r| r.body.windows(500).any(|p| p == [0; 500])).count();
    assert_eq!(sent, 2, "the limit is learned once");
    // A smaller one is not explained by it.
    daemon.s3().put("small", vec![b'x'; 1000]).await.unwrap();
    let report = daemon.reports_on("small", 1, SOON).await.unwrap().remove(0).json();
    assert_eq!(report["reason"], "scan_failed");
}

#[tokio::test]
async fn one_failure_is_retried_and_a_retried_clean_is_reported() {
    let server = engine(|request, asked| match asked {
        0 => Reply::new(200, "nonsense"),
        _ => verdict(request, 200, "OK", ""),
    });
    let daemon = daemon(&[
        ("SCANNER", "clamav-rest"),
        ("CLAMD_ENDPOINT", server.url()),
        ("RETRY_DELAYS", "1s"),
        ("REPORT_CLEAN", "false"),
    ])
    .await;
    daemon.s3().put("k", "x").await.unwrap();
    assert_eq!(status(&daemon, "k").await, "clean");
    let report = daemon.reports_on("k", 1, SOON).await.unwrap().remove(0).json();
    assert_eq!((&report["status"], &report["attempt"]), (&"clean".into(), &2.into()));
}

#[tokio::test]
async fn no_delivery_is_taken_from_an_engine_that_does_not_find_eicar() {
    // As an engine with an empty database: everything is clean.
    let server = Server::start(|request| verdict(request, 200, "OK", ""));
    let mut daemon = Daemon::prepare(
        &Stack::from_env(),
        binary(),
        &[("SCANNER", "clamav-rest"), ("CLAMD_ENDPOINT", server.url())],
    )
    .await
    .unwrap();
    daemon.spawn().unwrap();
    eventually("it says why", || async { daemon.output().contains("EICAR test file clean") }).await;
    daemon.s3().put("k", eicar()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(daemon.status("/readyz"), Some(503));
    assert!(daemon.s3().tags("k").await.unwrap().unwrap().is_empty());
    let ready = daemon.page("/readyz").await.unwrap_or_default();
    assert!(ready.is_empty() || ready.contains("engine"));
}

#[tokio::test]
async fn an_engine_that_comes_late_is_waited_for() {
    let settings = Stack::from_env().settings().clone();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("late.sock");
    let endpoint = format!("unix://{}", socket.display());
    let mut daemon =
        Daemon::prepare(&Stack::from_env(), binary(), &[("CLAMD_ENDPOINT", &endpoint)])
            .await
            .unwrap();
    daemon.spawn().unwrap();
    eventually("the engine is missed", || async { daemon.output().contains("engine is down") })
        .await;
    daemon.s3().put("k", "x").await.unwrap();
    let real = settings.clamd_socket.clone();
    std::os::unix::fs::symlink(real, &socket).unwrap();
    daemon.wait_ready(SOON).await.unwrap();
    assert_eq!(status(&daemon, "k").await, "clean");
}

#[tokio::test]
async fn a_clean_verdict_of_an_engine_without_its_database_is_not_believed() {
    let lost = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let has_lost = Arc::clone(&lost);
    let server = Server::start(move |request| {
        let eicar = eicar();
        let contains_eicar = request.body.windows(eicar.len()).any(|part| part == eicar);
        if contains_eicar && !has_lost.load(Ordering::Relaxed) {
            return verdict(request, 406, "FOUND", "Eicar");
        }
        verdict(request, 200, "OK", "")
    });
    let daemon = daemon(&[("SCANNER", "clamav-rest"), ("CLAMD_ENDPOINT", server.url())]).await;
    daemon.s3().put("before", "x").await.unwrap();
    assert_eq!(status(&daemon, "before").await, "clean");
    lost.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(2)).await;
    daemon.s3().put("after", eicar()).await.unwrap();
    eventually("the engine is seen to be blind", || async {
        daemon.status("/readyz") == Some(503)
    })
    .await;
    assert!(daemon.s3().tags("after").await.unwrap().unwrap().is_empty());
    lost.store(false, Ordering::Relaxed);
    gone(&daemon, "after").await;
}

#[tokio::test]
async fn a_missing_temp_folder_closes_the_gate_and_costs_no_attempt() {
    let daemon = daemon(&[("RETRY_DELAYS", "1s"), ("RETRY_LIMIT", "0")]).await;
    let folder = daemon.env()["TMPDIR"].clone();
    std::fs::remove_dir_all(&folder).unwrap();
    for n in 0..10 {
        daemon.s3().put(&format!("k{n}"), vec![b'x'; 200_000]).await.unwrap();
    }
    eventually("the gate closes", || async { daemon.status("/readyz") == Some(503) }).await;
    std::fs::create_dir(&folder).unwrap();
    for n in 0..10 {
        assert_eq!(status(&daemon, &format!("k{n}")).await, "clean");
    }
    let amqp = Stack::from_env().amqp().await.unwrap();
    assert_eq!(amqp.count(&format!("{}.dead", daemon.names.queue)).await.unwrap(), Some(0));
}
