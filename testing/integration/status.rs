//! The status page: what a browser gets, and what it must not.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use peers::scripted::Server;
use stack::clamd::Clamd;
use stack::ports::free_port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::commands::text;
use super::*;

/// A daemon with a status page, which is ready.
pub(super) async fn daemon_with_page(overrides: &[(&str, &str)]) -> (Daemon, SocketAddr) {
    let address: SocketAddr = format!("127.0.0.1:{}", free_port()).parse().unwrap();
    let shown = address.to_string();
    let overrides: Vec<_> =
        [("STATUS_ADDR", shown.as_str())].into_iter().chain(overrides.iter().copied()).collect();
    (daemon(&overrides).await, address)
}

/// The whole answer to a request.
async fn ask(address: SocketAddr, method: &str, path: &str, host: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

pub(super) async fn page(address: SocketAddr) -> String {
    let answer = ask(address, "GET", "/", "localhost").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

/// Waits until the page says it.
pub(super) async fn says(address: SocketAddr, wanted: &str) -> String {
    let start = Instant::now();
    loop {
        let page = page(address).await;
        if page.contains(wanted) {
            return page;
        }
        assert!(start.elapsed() < SOON, "{wanted:?} is not in {page}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn the_page_shows_results_and_a_hostile_key_as_text() {
    let (daemon, address) = daemon_with_page(&[("DELETE_FILE", "false")]).await;
    let page = says(address, "Scanning. Nothing needs you.").await;
    assert!(page.contains("None yet."));
    let hostile = "<img src=x onerror=alert(1)>\u{202e}\"'.txt";
    daemon.s3().put(hostile, "fine").await.unwrap();
    daemon.s3().put("worse.com", eicar()).await.unwrap();
    assert_eq!(status(&daemon, hostile).await, "clean");
    assert_eq!(status(&daemon, "worse.com").await, "infected");
    // The tag is there a moment before the result is.
    let page = says(address, "class=\"infected\">infected").await;
    assert!(page.contains("worse.com") && page.contains("Eicar"), "{page}");
    assert!(page.contains("&#60;img src=x onerror=alert(1)&#62;\\u{202e}"), "{page}");
    assert!(!page.contains("<img") && !page.contains('\u{202e}'));
    assert!(page.contains("<td>notifications</td><td>yes</td>"), "{page}");
}

#[tokio::test]
async fn an_engine_that_is_down_is_said_with_the_setting_to_check() {
    let down = Arc::new(AtomicBool::new(false));
    let is_down = Arc::clone(&down);
    let engine = Server::start(move |request| {
        if is_down.load(Ordering::Relaxed) {
            return Reply::new(503, "no clamd");
        }
        lax_v1(request)
    });
    let overrides = [("SCANNER", "clamav-rest"), ("CLAMD_ENDPOINT", engine.url())];
    let (daemon, address) = daemon_with_page(&overrides).await;
    down.store(true, Ordering::Relaxed);
    daemon.s3().put("k", "fine").await.unwrap();
    let page = says(address, "Not scanning: engine is down.").await;
    assert!(page.contains("check SCANNER, CLAMD_ENDPOINT and CLAMD_PORT"), "{page}");
    down.store(false, Ordering::Relaxed);
    assert_eq!(status(&daemon, "k").await, "clean");
    says(address, "Nothing needs you").await;
}

#[tokio::test]
async fn it_is_read_only_and_answers_this_host_alone() {
    let (_daemon, address) = daemon_with_page(&[]).await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let answer = ask(address, method, "/", "localhost").await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{method}: {answer}");
    }
    let head = ask(address, "HEAD", "/", "localhost").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    let answer = ask(address, "GET", "/", "rebound.example").await;
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
}

#[tokio::test]
async fn a_taken_port_is_one_line_and_exit_1_and_an_empty_address_is_none() {
    let (daemon, address) = daemon_with_page(&[]).await;
    let run = |status: &str| {
        let replica = daemon.replica(&[("STATUS_ADDR", status)]).unwrap();
        // In the foreground, because otherwise it sends its signal a second time, to its whole group.
        Command::new("/usr/bin/timeout")
            .args(["--foreground", "--preserve-status", "3", BINARY])
            .env_clear()
            .envs(replica.env())
            .output()
            .unwrap()
    };
    let taken = run(&address.to_string());
    assert_eq!(taken.status.code(), Some(1));
    let last = text(&taken.stdout).lines().last().unwrap().to_owned();
    assert!(last.contains(&format!("STATUS_ADDR {address} cannot be used")), "{last}");
    let none = run("");
    assert_eq!(none.status.code(), Some(0), "{}", text(&none.stdout));
    assert!(!text(&none.stdout).contains("the status page is at"));
    let wrong = run("8081");
    assert_eq!(wrong.status.code(), Some(78));
}

#[tokio::test]
async fn parked_messages_stand_there_with_the_command() {
    let (daemon, address) = daemon_with_page(&[]).await;
    notify(&daemon, b"no notification").await;
    let page = says(address, "Messages are parked").await;
    assert!(page.contains("bucket-av-scanner redrive --dry-run"), "{page}");
}

#[tokio::test]
async fn a_deleted_queue_is_named_and_the_others_are_counted() {
    let (daemon, address) = daemon_with_page(&[]).await;
    notify(&daemon, b"no notification").await;
    says(address, "Messages are parked").await;
    let amqp = Stack::from_env().amqp().await.unwrap();
    let deleted = format!("{}.reports.dead", daemon.names.queue);
    amqp.delete_queue(&deleted).await.unwrap();
    let page = says(address, &format!("the queue {deleted} is missing")).await;
    assert!(page.contains("<td>1 of notifications</td>"), "{page}");
    let parked = metric(&daemon, "avscan_queue_messages{queue=\"notifications\",state=\"dead\"}");
    assert_eq!(parked.await, 1);
}

#[tokio::test]
async fn an_engine_that_hangs_is_not_calm_and_a_stop_is_said() {
    let clamd = Clamd::start(&[]).await.unwrap();
    let engine = format!("unix://{}", clamd.socket().display());
    let overrides =
        [("SCANNER", "clamd"), ("CLAMD_ENDPOINT", engine.as_str()), ("SHUTDOWN_GRACE", "5")];
    let (mut daemon, address) = daemon_with_page(&overrides).await;
    says(address, "Nothing needs you").await;
    clamd.pause().unwrap();
    daemon.s3().put("k", "fine").await.unwrap();
    let page = says(address, "No result for ").await;
    assert!(page.contains("nothing in work gets further, for 1"), "{page}");
    clamd.resume().unwrap();
    assert_eq!(status(&daemon, "k").await, "clean");
    says(address, "Nothing needs you").await;
    clamd.pause().unwrap();
    daemon.s3().put("l", "fine").await.unwrap();
    says(address, "waiting for the verdict").await;
    let (page, ended) = tokio::join!(says(address, "<p>Stopping: "), daemon.terminate(SOON));
    assert!(!page.contains("Nothing needs you"), "{page}");
    ended.unwrap();
}
