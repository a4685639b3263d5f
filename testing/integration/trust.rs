//! Engines that fail in one direction only, or between two self-tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use peers::ClamavRest;
use peers::eicar::eicar;
use peers::scripted::{Reply, Request, Server, tcp};
use stack::{Clamd, Daemon};

use super::commands::{command, text};
use super::engines::verdict;
use super::*;

fn contains(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

/// An engine of clamav-rest's second dialect. `version` answers `/version`, and `answer` every file
/// but the EICAR test file.
fn engine(
    version: impl Fn() -> String + Send + Sync + 'static,
    answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> Server {
    Server::start(move |request| match request.path.as_str() {
        "/version" => Reply::json(200, &serde_json::json!({ "Clamav": version() })),
        "/v2/scan" if contains(&request.body, &eicar()) => verdict(request, 406, "FOUND", "Eicar"),
        "/v2/scan" => answer(request),
        _ => Reply::new(404, ""),
    })
}

fn no_version() -> String {
    "COMMAND UNAVAILABLE".to_owned()
}

fn clean(request: &Request) -> Reply {
    verdict(request, 200, "OK", "")
}

/// Runs `check` with an engine, while all other dependencies work.
async fn checked(settings: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = command(&["check"], settings).await;
    let lines = text(&output.stdout);
    let line = lines.lines().find(|line| line.starts_with("engine")).unwrap().to_owned();
    (output.status.code(), line)
}

#[tokio::test]
async fn an_engine_must_know_the_eicar_file_by_a_name() {
    for name in
        ["Heuristics.Limits.Exceeded.MaxFileSize", "Heuristics.Encrypted.Zip", "(null)", " "]
    {
        let rest = Server::start(move |request| match request.path.as_str() {
            "/v2/scan" if contains(&request.body, &eicar()) => verdict(request, 406, "FOUND", name),
            "/v2/scan" => clean(request),
            _ => Reply::new(404, ""),
        });
        let settings = [("SCANNER", "clamav-rest"), ("CLAMD_ENDPOINT", rest.url())];
        let (code, line) = checked(&settings).await;
        assert_eq!(code, Some(1), "{name}: {line}");
        assert!(line.contains("FAILED"), "{name}: {line}");

        let clamd = tcp::Server::start(move |session| {
            let found = contains(&session.data, &eicar());
            let said = if found { format!("stream: {name} FOUND") } else { "stream: OK".into() };
            tcp::Act::line(&said)
        });
        let endpoint = format!("tcp://{}", clamd.address());
        let (code, line) = checked(&[("CLAMD_ENDPOINT", &endpoint)]).await;
        assert_eq!(code, Some(1), "{name}: {line}");
    }
}

#[tokio::test]
async fn an_engine_that_finds_everything_is_refused_and_named() {
    let rest = engine(no_version, |request| verdict(request, 406, "FOUND", "Bad.Rule-1"));
    let settings = [("SCANNER", "clamav-rest"), ("CLAMD_ENDPOINT", rest.url())];
    let (code, line) = checked(&settings).await;
    assert_eq!(code, Some(1), "{line}");
    assert!(line.contains("harmless") && line.contains("Bad.Rule-1"), "{line}");

    let clamd = tcp::Server::start(|_| tcp::Act::line("stream: Bad.Rule-1 FOUND"));
    let endpoint = format!("tcp://{}", clamd.address());
    let (code, line) = checked(&[("CLAMD_ENDPOINT", &endpoint)]).await;
    assert_eq!(code, Some(1), "{line}");
    assert!(line.contains("harmless") && line.contains("Bad.Rule-1"), "{line}");
}

#[tokio::test]
async fn what_an_engine_finds_after_it_went_bad_is_not_deleted() {
    let bad = Arc::new(AtomicBool::new(false));
    let is_bad = Arc::clone(&bad);
    let server = engine(no_version, move |request| {
        if is_bad.load(Ordering::Relaxed) {
            return verdict(request, 406, "FOUND", "Bad.Rule-1");
        }
        clean(request)
    });
    let daemon = daemon(&[("SCANNER", "clamav-rest"), ("CLAMD_ENDPOINT", server.url())]).await;
    daemon.s3().put("before", "x").await.unwrap();
    assert_eq!(status(&daemon, "before").await, "clean");
    bad.store(true, Ordering::Relaxed);
    let keys = ["k0", "k1", "k2"];
    for key in keys {
        daemon.s3().put(key, format!("a document called {key}")).await.unwrap();
    }
    eventually("the gate closes", || async { daemon.status("/readyz") == Some(503) }).await;
    let ready = daemon.page("/readyz").await.unwrap();
    assert!(ready.contains("harmless"), "{ready}");
    for key in keys {
        assert!(daemon.s3().head(key).await.unwrap().is_some(), "{key} was deleted");
        assert!(daemon.s3().tags(key).await.unwrap().unwrap().is_empty(), "{key}");
    }
    bad.store(false, Ordering::Relaxed);
    for key in keys {
        assert_eq!(status(&daemon, key).await, "clean");
    }
}

#[tokio::test]
async fn a_find_without_a_name_deletes_nothing() {
    for said in ["stream: (null) FOUND", "stream:  FOUND"] {
        let server = tcp::Server::start(move |session| match session.data.as_slice() {
            data if contains(data, &eicar()) => tcp::Act::line("stream: Eicar FOUND"),
            data if contains(data, b"a document") => tcp::Act::line(said),
            _ => tcp::Act::line("stream: OK"),
        });
        let endpoint = format!("tcp://{}", server.address());
        let settings =
            [("CLAMD_ENDPOINT", endpoint.as_str()), ("RETRY_DELAYS", "1s"), ("RETRY_LIMIT", "1")];
        let daemon = daemon(&settings).await;
        daemon.s3().put("k", "a document").await.unwrap();
        assert_eq!(status(&daemon, "k").await, "no", "{said}");
        let parked = dead(&daemon).await;
        assert_eq!(parked.headers["avscan-reason"], "engine_error", "{said}");
        assert!(daemon.s3().head("k").await.unwrap().is_some(), "{said}");
    }
}

#[tokio::test]
async fn the_engines_error_for_a_file_that_it_cannot_scan_is_in_the_dead_letter() {
    let words = "Can't parse data";
    let clamd = tcp::Server::start(move |session| match session.data.as_slice() {
        data if contains(data, &eicar()) => tcp::Act::line("stream: Eicar FOUND"),
        data if contains(data, b"a document") => tcp::Act::line(&format!("stream: {words} ERROR")),
        _ => tcp::Act::line("stream: OK"),
    });
    let rest = engine(no_version, move |request| match request.body.as_slice() {
        body if contains(body, b"a document") => verdict(request, 400, "ERROR", words),
        _ => clean(request),
    });
    let endpoint = format!("tcp://{}", clamd.address());
    for (scanner, endpoint) in [("clamd", endpoint.as_str()), ("clamav-rest", rest.url())] {
        let settings = [
            ("SCANNER", scanner),
            ("CLAMD_ENDPOINT", endpoint),
            ("RETRY_DELAYS", "1s"),
            ("RETRY_LIMIT", "1"),
        ];
        let daemon = daemon(&settings).await;
        daemon.s3().put("k", "a document").await.unwrap();
        let parked = dead(&daemon).await;
        let detail = &parked.headers["avscan-detail"];
        assert!(detail.contains(words), "{scanner}: {detail}");
        assert_eq!(status(&daemon, "k").await, "no", "{scanner}");
    }
}

#[tokio::test]
async fn with_strict_limits_a_clean_verdict_is_not_believed_once_they_are_hidden() {
    let hidden = Arc::new(AtomicBool::new(false));
    let is_hidden = Arc::clone(&hidden);
    let server = engine(no_version, move |request| {
        let alert = [
            (&b"secret.txt"[..], "Heuristics.Encrypted.Zip"),
            (b"inner.zip", "Heuristics.Limits.Exceeded.MaxRecursion"),
        ];
        let alert = alert.iter().find(|(part, _)| contains(&request.body, part));
        match alert {
            Some((_, name)) if !is_hidden.load(Ordering::Relaxed) => {
                verdict(request, 406, "FOUND", name)
            }
            _ => clean(request),
        }
    });
    let settings =
        [("SCANNER", "clamav-rest"), ("CLAMD_ENDPOINT", server.url()), ("STRICT_LIMITS", "true")];
    let mut daemon = daemon(&settings).await;
    daemon.s3().put("before", "x").await.unwrap();
    assert_eq!(status(&daemon, "before").await, "clean");
    let report = daemon.reports_on("before", 1, SOON).await.unwrap().remove(0).json();
    assert_eq!(report["engine"]["limits_reported"], true);
    hidden.store(true, Ordering::Relaxed);
    let mut last;
    let mut tries = 0..40;
    let code = loop {
        let n = tries.next().expect("hidden limits are never noticed");
        last = format!("k{n}");
        daemon.s3().put(&last, "x").await.unwrap();
        if let Ok(code) = daemon.wait_exit(Duration::from_millis(500)).await {
            break code;
        }
    };
    assert_eq!(code, 78, "{}", daemon.output());
    assert!(daemon.output().contains("STRICT_LIMITS"), "{}", daemon.output());
    assert!(daemon.s3().tags(&last).await.unwrap().unwrap().is_empty(), "{last}");
}

#[tokio::test]
async fn a_verdict_names_the_older_of_the_databases_around_its_scan() {
    let database = Arc::new(AtomicUsize::new(200));
    let (asked, during) = (Arc::clone(&database), Arc::clone(&database));
    let version = move || {
        let database = asked.load(Ordering::Relaxed);
        format!("ClamAV 1.4.6/{database}/Sat Oct  4 09:36:01 2025")
    };
    let server = engine(version, move |request| {
        for (part, next) in [(&b"upgraded"[..], 201), (b"downgraded", 100)] {
            if contains(&request.body, part) {
                during.store(next, Ordering::Relaxed);
                return clean(request).after(Duration::from_secs(3));
            }
        }
        clean(request)
    });
    let daemon = daemon(&[("SCANNER", "clamav-rest"), ("CLAMD_ENDPOINT", server.url())]).await;
    for (key, older) in [("upgraded", "200"), ("after", "201"), ("downgraded", "100")] {
        daemon.s3().put(key, key).await.unwrap();
        let report = daemon.reports_on(key, 1, SOON).await.unwrap().remove(0).json();
        assert_eq!(report["engine"]["database_version"], older, "{key}");
    }
}

/// How often the engine received the object `k`.
fn sends(server: &Server, part: &[u8]) -> usize {
    let requests = server.requests();
    requests.iter().filter(|request| contains(&request.body, part)).count()
}

/// A daemon that sends an object up to nine times.
async fn stubborn(url: &str) -> Daemon {
    daemon(&[
        ("SCANNER", "clamav-rest"),
        ("CLAMD_ENDPOINT", url),
        ("RETRY_DELAYS", "1s"),
        ("RETRY_LIMIT", "8"),
        ("SCAN_TIMEOUT", "2"),
    ])
    .await
}

/// The answer of clamav-rest before 0.5 for every line that its pattern does not match.
fn no_match(request: &Request) -> Reply {
    verdict(request, 412, "PARSE ERROR", "Regex had no matches")
}

const LIMIT: usize = 1 << 20;

#[tokio::test]
async fn the_limit_of_an_old_clamav_rest_is_recognised() {
    let server = engine(no_version, |request| {
        if request.body.len() > LIMIT { no_match(request) } else { clean(request) }
    });
    let daemon = stubborn(server.url()).await;
    for key in ["first", "second"] {
        daemon.s3().put(key, vec![b'y'; LIMIT + 1000]).await.unwrap();
        let report = daemon.reports_on(key, 1, SOON).await.unwrap().remove(0).json();
        assert_eq!((&report["status"], &report["reason"]), (&"no".into(), &"too_large".into()));
        assert_eq!(status(&daemon, key).await, "no");
    }
    let sent = sends(&server, &[b'y'; 500]);
    assert!(sent <= 6, "two objects were sent {sent} times");
    let samples = sends(&server, &[0; 500]);
    assert_eq!(samples, 1, "the limit is learned once");
}

#[tokio::test]
async fn a_412_that_does_not_come_from_the_size_is_a_failure_at_once() {
    let server = engine(no_version, |request| {
        if contains(&request.body, b"marked") { no_match(request) } else { clean(request) }
    });
    let daemon = stubborn(server.url()).await;
    daemon.s3().put("k", [vec![b'y'; LIMIT], b"marked".to_vec()].concat()).await.unwrap();
    let report = daemon.reports_on("k", 1, SOON).await.unwrap().remove(0).json();
    assert_eq!((&report["status"], &report["reason"]), (&"no".into(), &"scan_failed".into()));
    let parked = dead(&daemon).await;
    assert_eq!(parked.headers["avscan-reason"], "engine_unclear", "{:?}", parked.headers);
    assert!(parked.headers["avscan-detail"].contains("412"), "{:?}", parked.headers);
    let sent = sends(&server, b"marked");
    assert!(sent <= 3, "sent {sent} times");
}

#[tokio::test]
async fn an_old_clamav_rest_that_hangs_above_its_limit_gets_an_object_at_most_three_times() {
    let server =
        engine(
            no_version,
            |request| {
                if request.body.len() > LIMIT { Reply::hang() } else { clean(request) }
            },
        );
    let daemon = stubborn(server.url()).await;
    daemon.s3().put("k", vec![b'y'; LIMIT + 1000]).await.unwrap();
    let report = daemon.reports_on("k", 1, SOON).await.unwrap().remove(0).json();
    assert_eq!((&report["status"], &report["reason"]), (&"no".into(), &"scan_failed".into()));
    let parked = dead(&daemon).await;
    assert_eq!(parked.headers["avscan-reason"], "engine_unclear", "{:?}", parked.headers);
    let sent = sends(&server, &[b'y'; 500]);
    assert!(sent <= 3, "sent {sent} times");
}

#[tokio::test]
async fn an_object_over_the_limit_of_a_real_clamd_behind_an_old_clamav_rest_is_too_large() {
    let port = stack::ports::free_port();
    let tcp = format!("TCPSocket {port}");
    let clamd = Clamd::start(&["TCPAddr 127.0.0.1", &tcp, "StreamMaxLength 1M"]).await.unwrap();
    for only_v1 in [false, true] {
        let rest = ClamavRest::start(&format!("127.0.0.1:{port}"), only_v1).await.unwrap();
        let daemon = stubborn(rest.url()).await;
        daemon.s3().put("k", vec![b'y'; LIMIT + 1]).await.unwrap();
        let report = daemon.reports_on("k", 1, SOON).await.unwrap().remove(0).json();
        let told = (&report["status"], &report["reason"]);
        assert_eq!(told, (&"no".into(), &"too_large".into()), "v1 only: {only_v1}");
    }
    drop(clamd);
}

#[tokio::test]
async fn an_engine_with_known_vulnerabilities_is_used_with_a_warning() {
    let version = || "ClamAV 1.4.3/27796/Sat Oct  4 09:36:01 2025".to_owned();
    let server = engine(version, clean);
    let settings = [("SCANNER", "clamav-rest"), ("CLAMD_ENDPOINT", server.url())];
    let daemon = daemon(&settings).await;
    let ready = daemon.page("/readyz").await.unwrap();
    assert_eq!(daemon.status("/readyz"), Some(200));
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    let told = ready["degraded"]["engine_version"].as_str().unwrap_or_default();
    assert!(told.contains("1.4.3") && told.contains("1.4.5"), "{ready}");
    assert_eq!(metric(&daemon, "avscan_engine_outdated").await, 1);
    let warned = daemon.output().lines().filter(|line| line.contains("1.4.5")).count();
    assert_eq!(warned, 1, "{}", daemon.output());
    daemon.s3().put("k", "x").await.unwrap();
    assert_eq!(status(&daemon, "k").await, "clean");
    let (code, line) = checked(&settings).await;
    assert_eq!(code, Some(0), "{line}");
    assert!(line.contains("1.4.3") && line.contains("1.4.5"), "{line}");
}

#[tokio::test]
async fn an_engine_without_a_version_is_not_called_old() {
    let server = engine(no_version, clean);
    let settings = [("SCANNER", "clamav-rest"), ("CLAMD_ENDPOINT", server.url())];
    let daemon = daemon(&settings).await;
    assert_eq!(metric(&daemon, "avscan_engine_outdated").await, 0);
    daemon.s3().put("k", "x").await.unwrap();
    let report = daemon.reports_on("k", 1, SOON).await.unwrap().remove(0).json();
    assert_eq!(report["engine"]["version"], serde_json::Value::Null);
    let (_, line) = checked(&settings).await;
    assert!(line.contains("unknown version") && !line.contains("COMMAND"), "{line}");
}
