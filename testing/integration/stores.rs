//! Scripted stores that fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use peers::eicar::eicar;
use peers::notification;
use peers::scripted::{Reply, Request, Server};
use stack::Daemon;

use super::*;

/// A store that answers by script and does not check signatures.
fn store(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Arc<Server> {
    Arc::new(Server::start(move |request| {
        if request.path == "/" || request.path.starts_with("/?") {
            let none = "<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>";
            return Reply::new(200, none);
        }
        script(request)
    }))
}

fn error(status: u16, code: &str) -> Reply {
    Reply::new(status, format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>"))
}

/// Scans one object of a scripted store; returns the report, and the methods and paths of the
/// requests.
async fn with_store(
    overrides: &[(&str, &str)],
    script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> (serde_json::Value, Vec<String>, Daemon) {
    with_event(overrides, &notification::put("b", "k", Some(1), Some("e1")), script).await
}

/// As [`with_store`], with another notification of the key `k`.
async fn with_event(
    overrides: &[(&str, &str)],
    event: &serde_json::Value,
    script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> (serde_json::Value, Vec<String>, Daemon) {
    let server = store(script);
    let mut all = vec![
        ("MINIO_SERVER_URL", server.url()),
        ("RETRY_DELAYS", "1s"),
        ("RETRY_LIMIT", "1"),
        ("REPORT_CLEAN", "true"),
    ];
    all.extend(overrides);
    let daemon = daemon(&all).await;
    notify(&daemon, event.to_string().as_bytes()).await;
    let report = daemon.reports_on("k", 1, SOON).await.unwrap().pop().unwrap().json();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let requests = server.requests().iter().map(|r| format!("{} {}", r.method, r.path)).collect();
    (report, requests, daemon)
}

fn head(etag: &str, length: u64) -> Reply {
    let etag = format!("\"{etag}\"");
    Reply::new(200, "").header("etag", &etag).header("content-length", &length.to_string())
}

/// The answer of a store that has executed a request.
fn taken() -> Reply {
    Reply::new(200, "").header("x-amz-request-id", "1A2B3C")
}

fn body(content: &[u8]) -> Reply {
    Reply::new(200, content).header("etag", "\"e1\"")
}

#[tokio::test]
async fn an_object_beyond_volume_size_is_not_downloaded() {
    let (report, requests, _) = with_store(&[("VOLUME_SIZE", "1")], |request| {
        match (request.method.as_str(), request.path.contains("tagging")) {
            // Announces three gibibytes and breaks off.
            ("GET", false) => {
                body(b"x").header("content-length", &(3_u64 << 30).to_string()).half()
            }
            ("GET", true) => Reply::new(200, "<Tagging><TagSet/></Tagging>"),
            ("HEAD", _) => head("e1", 3 << 30),
            _ => taken(),
        }
    })
    .await;
    assert_eq!((&report["status"], &report["reason"]), (&"no".into(), &"too_large".into()));
    assert_eq!((&report["action"], &report["size"]), (&"tag".into(), &(3_u64 << 30).into()));
    assert!(requests.iter().any(|r| r.starts_with("PUT /b/k?tagging")), "{requests:?}");
}

#[tokio::test]
async fn a_denied_delete_falls_back_to_the_tag_and_is_reported_and_parked() {
    let (report, requests, daemon) = with_store(&[], |request| {
        match (request.method.as_str(), request.path.contains("tagging")) {
            ("GET", false) => body(&eicar()),
            ("GET", true) => Reply::new(200, "<Tagging><TagSet/></Tagging>"),
            ("DELETE", _) => error(403, "AccessDenied"),
            ("HEAD", _) => head("e1", 68),
            _ => taken(),
        }
    })
    .await;
    let all = daemon.reports_on("k", 2, SOON).await.unwrap();
    let last = all[1].json();
    assert_eq!(report["bucket"], "b");
    assert_eq!((&all[0].json()["action"], &all[0].json()["error"]), (&"delete".into(), &().into()));
    assert_eq!((&last["action"], &last["error"]), (&"no".into(), &"delete_denied".into()));
    assert_eq!(last["status"], "infected");
    assert_eq!(dead(&daemon).await.headers["avscan-reason"], "delete_denied");
    drop(requests);
}

#[tokio::test]
async fn a_denied_tag_is_reported_and_parked() {
    let (report, _, daemon) = with_store(&[], |request| {
        match (request.method.as_str(), request.path.contains("tagging")) {
            ("GET", false) => body(b"fine"),
            ("GET", true) => Reply::new(200, "<Tagging><TagSet/></Tagging>"),
            ("PUT", _) => error(403, "AccessDenied"),
            ("HEAD", _) => head("e1", 4),
            _ => taken(),
        }
    })
    .await;
    assert_eq!((&report["status"], &report["error"]), (&"clean".into(), &"tag_denied".into()));
    assert_eq!(dead(&daemon).await.headers["avscan-reason"], "tag_denied");
}

#[tokio::test]
async fn an_object_that_only_its_owner_can_read_is_unreadable() {
    for code in ["InvalidObjectState", "InvalidRequest"] {
        let (report, _, _) = with_store(&[], move |request| {
            match (request.method.as_str(), request.path.contains("tagging"), code) {
                ("GET", false, "InvalidObjectState") => error(403, code),
                ("GET", false, _) => Reply::new(
                    400,
                    "<Error><Code>InvalidRequest</Code><Message>The object was stored using a form \
                     of Server Side Encryption</Message></Error>",
                ),
                ("GET", true, _) => Reply::new(200, "<Tagging><TagSet/></Tagging>"),
                _ => taken().header("etag", "\"e1\""),
            }
        })
        .await;
        assert_eq!((&report["status"], &report["reason"]), (&"no".into(), &"unreadable".into()));
        assert_eq!(report["action"], "tag");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_fetched_again_and_never_scanned_short() {
    let gets = AtomicUsize::new(0);
    let (report, _, _) = with_store(&[], move |request| {
        match (request.method.as_str(), request.path.contains("tagging")) {
            ("GET", false) if gets.fetch_add(1, Ordering::Relaxed) < 2 => {
                body(&vec![b'x'; 100_000]).half()
            }
            ("GET", false) => body(&vec![b'x'; 100_000]),
            ("GET", true) => Reply::new(200, "<Tagging><TagSet/></Tagging>"),
            ("HEAD", _) => head("e1", 100_000),
            _ => taken(),
        }
    })
    .await;
    assert_eq!((&report["status"], &report["size"]), (&"clean".into(), &100_000.into()));
    assert_eq!(report["attempt"], 1);
}

#[tokio::test]
async fn an_object_overwritten_between_scan_and_tag_is_scanned_again() {
    let heads = AtomicUsize::new(0);
    let gets = AtomicUsize::new(0);
    let (report, requests, _) = with_store(&[], move |request| {
        let etag = |n: usize| if n == 0 { "\"e1\"" } else { "\"e2\"" };
        match (request.method.as_str(), request.path.contains("tagging")) {
            ("GET", false) => {
                let n = gets.fetch_add(1, Ordering::Relaxed);
                Reply::new(200, format!("content {n}"))
                    .header("etag", etag(n))
                    .header("x-amz-request-id", "1A2B3C")
            }
            ("GET", true) => Reply::new(200, "<Tagging><TagSet/></Tagging>"),
            ("HEAD", _) => {
                heads.fetch_add(1, Ordering::Relaxed);
                head("e2", 9)
            }
            _ => taken(),
        }
    })
    .await;
    assert_eq!((&report["status"], &report["etag"]), (&"clean".into(), &"e2".into()));
    let puts = requests.iter().filter(|r| r.starts_with("PUT")).count();
    // While the answer to the GET is fresh nothing is asked before the tag, and it is taken back after.
    assert!((1..=2).contains(&puts), "{requests:?}");
}

/// A store with one object, `k`, that answers everything but its GET correctly.
fn otherwise_fine(request: &Request, get: impl Fn() -> Reply) -> Reply {
    match (request.method.as_str(), request.path.contains("tagging")) {
        ("GET", false) => get(),
        ("GET", true) => Reply::new(200, "<Tagging><TagSet/></Tagging>"),
        ("HEAD", _) => Reply::new(200, "").header("etag", "\"e1\"").header("content-length", "100"),
        _ => taken(),
    }
}

#[tokio::test]
async fn a_part_of_an_object_is_never_called_clean() {
    let (report, requests, _) = with_store(&[], |request| {
        otherwise_fine(request, || {
            Reply::new(206, "only a part")
                .header("etag", "\"e1\"")
                .header("content-range", "bytes 0-10/100")
        })
    })
    .await;
    assert_eq!((&report["status"], &report["reason"]), (&"no".into(), &"scan_failed".into()));
    assert!(requests.iter().any(|request| request.starts_with("HEAD")), "{requests:?}");
}

#[tokio::test]
async fn a_download_with_another_length_than_the_object_is_never_called_clean() {
    // A proxy shortens the body and its Content-Length; HEAD says 100 bytes.
    let (report, requests, _) =
        with_store(&[], |request| otherwise_fine(request, || body(b"cut by a proxy"))).await;
    assert_eq!((&report["status"], &report["reason"]), (&"no".into(), &"scan_failed".into()));
    drop(requests);
}

#[tokio::test]
async fn a_page_is_never_taken_for_an_object() {
    let page = || Reply::new(200, "<html>back soon</html>");
    let (report, _, daemon) = with_store(&[], move |request| otherwise_fine(request, page)).await;
    assert_eq!((&report["status"], &report["reason"]), (&"no".into(), &"scan_failed".into()));
    assert_eq!(dead(&daemon).await.headers["avscan-reason"], "body_of_unknown_object");

    // Other bytes must not be taken for the requested version either.
    let mut event = notification::put("b", "k", None, Some("e1"));
    event["Records"][0]["s3"]["object"]["versionId"] = "v1".into();
    for get in [page().header("etag", "\"e2\""), body(b"other").header("x-amz-version-id", "v2")] {
        let other = move |request: &Request| otherwise_fine(request, || get.clone());
        let (report, _, daemon) = with_event(&[], &event, other).await;
        assert_eq!((&report["status"], &report["reason"]), (&"no".into(), &"scan_failed".into()));
        assert_eq!(dead(&daemon).await.headers["avscan-reason"], "body_of_unknown_object");
    }
}

#[tokio::test]
async fn without_a_length_in_head_no_download_is_taken_for_complete() {
    // The GET alone looks correct, but it may be shortened together with its Content-Length.
    let cut = |request: &Request| match request.method.as_str() {
        "HEAD" => Reply::new(200, "").header("etag", "\"e1\"").without_length(),
        _ => otherwise_fine(request, || body(b"cut by a proxy")),
    };
    let (report, _, _) = with_store(&[], cut).await;
    assert_eq!((&report["status"], &report["reason"]), (&"no".into(), &"scan_failed".into()));

    // If the notification has no length either, the ETag alone decides.
    let unsized_event = notification::put("b", "k", None, Some("e1"));
    let (report, _, _) = with_event(&[], &unsized_event, cut).await;
    assert_eq!((&report["status"], &report["action"]), (&"clean".into(), &"tag".into()));
}

#[tokio::test]
async fn one_broken_object_does_not_stop_the_others() {
    let server = store(|request| {
        if request.path.starts_with("/b/broken") {
            return Reply::new(503, "");
        }
        match (request.method.as_str(), request.path.contains("tagging")) {
            ("GET", false) => body(b"fine"),
            ("GET", true) => Reply::new(200, "<Tagging><TagSet/></Tagging>"),
            ("HEAD", _) => head("e1", 4),
            _ => taken(),
        }
    });
    let daemon =
        daemon(&[("MINIO_SERVER_URL", server.url()), ("RETRY_DELAYS", "1s"), ("RETRY_LIMIT", "1")])
            .await;
    for key in ["broken", "good-1", "good-2", "good-3"] {
        let event = notification::put("b", key, Some(4), Some("e1"));
        notify(&daemon, event.to_string().as_bytes()).await;
    }
    for key in ["good-1", "good-2", "good-3"] {
        daemon.reports_on(key, 1, SOON).await.unwrap();
    }
    let report = daemon.reports_on("broken", 1, Duration::from_secs(90)).await.unwrap().remove(0);
    assert_eq!(report.json()["reason"], "scan_failed");
    assert_eq!(daemon.status("/readyz"), Some(200));
}

#[tokio::test]
async fn a_cut_download_is_never_called_clean_even_when_nothing_is_tagged() {
    let cut = |request: &Request| otherwise_fine(request, || body(b"cut by a proxy"));
    let (report, _, _) = with_store(&[("TAG_FILES", "false")], cut).await;
    assert_eq!((&report["status"], &report["reason"]), (&"no".into(), &"scan_failed".into()));
}

#[tokio::test]
async fn a_store_that_refuses_conditions_still_gets_its_infected_object_deleted() {
    for (status, code) in
        [(400, "InvalidRequest"), (400, "InvalidArgument"), (501, "NotImplemented")]
    {
        let gone = AtomicBool::new(false);
        let (report, requests, daemon) = with_store(&[], move |request| {
            match (request.method.as_str(), request.header("if-match").is_some()) {
                ("GET", _) if gone.load(Ordering::Relaxed) => error(404, "NoSuchKey"),
                ("GET", _) => body(&eicar()),
                ("HEAD", _) if gone.load(Ordering::Relaxed) => Reply::new(404, ""),
                ("HEAD", _) => head("e1", 68),
                ("DELETE", true) => error(status, code),
                _ => {
                    gone.store(true, Ordering::Relaxed);
                    Reply::new(204, "")
                }
            }
        })
        .await;
        assert_eq!((&report["action"], &report["error"]), (&"delete".into(), &().into()));
        eventually("the deletion is done", || async {
            metric(&daemon, r#"avscan_notifications_total{end="applied"}"#).await == 1
        })
        .await;
        let deletes = requests.iter().filter(|request| request.starts_with("DELETE")).count();
        assert_eq!(deletes, 2, "{code}: {requests:?}");
    }
}
