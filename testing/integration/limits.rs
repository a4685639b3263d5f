//! The answers of a real clamd at its limits, with and without its alerts.

use peers::eicar::eicar;
use peers::{ClamavRest, zip};
use stack::{Clamd, Daemon};

use super::*;

const LOW: [&str; 5] =
    ["StreamMaxLength 1M", "MaxFileSize 500K", "MaxScanSize 300K", "MaxFiles 5", "MaxRecursion 4"];

/// Bytes that differ for each seed, so that clamd cannot answer from its cache.
fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    })
    .take(length)
    .collect()
}

/// An archive of `members` members of `length` bytes each.
fn archive(members: u32, length: usize) -> Vec<u8> {
    let contents: Vec<(String, Vec<u8>)> =
        (1..=members).map(|n| (format!("{n}.bin"), noise(length, n))).collect();
    let parts: Vec<(&str, &[u8])> =
        contents.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    zip::archive(&parts)
}

async fn scanned_by(clamd: &Clamd) -> Daemon {
    let endpoint = format!("unix://{}", clamd.socket().display());
    daemon(&[("CLAMD_ENDPOINT", &endpoint), ("RETRY_DELAYS", "1s"), ("RETRY_LIMIT", "1")]).await
}

async fn reason(daemon: &Daemon, key: &str, content: Vec<u8>) -> (String, Option<String>) {
    daemon.s3().put(key, content).await.unwrap();
    let report = daemon.reports_on(key, 1, SOON).await.unwrap().remove(0).json();
    let text = |name: &str| report[name].as_str().map(str::to_owned);
    (text("status").unwrap(), text("reason"))
}

#[tokio::test]
async fn what_exceeds_a_limit_is_unscannable_with_alerts() {
    let mut lines = LOW.to_vec();
    lines.extend(["AlertExceedsMax yes", "AlertEncrypted yes"]);
    let clamd = Clamd::start(&lines).await.unwrap();
    let daemon = scanned_by(&clamd).await;
    assert!(daemon.page("/readyz").await.unwrap().contains("\"limits_reported\": true"));
    for (key, content, expected) in [
        ("longer than a file may be", noise(600_000, 1), "limits_exceeded"),
        ("longer than a stream may be", noise(3_000_000, 2), "too_large"),
        ("unpacks to more than allowed", archive(4, 100_000), "limits_exceeded"),
        ("more files than allowed", archive(20, 100), "limits_exceeded"),
        ("nested too deep", zip::nested("deep.txt", b"deep", 10), "limits_exceeded"),
        ("encrypted", zip::encrypted("secret.txt", 100), "encrypted"),
    ] {
        let told = reason(&daemon, key, content).await;
        assert_eq!(told, ("no".to_owned(), Some(expected.to_owned())), "{key}");
        assert_eq!(status(&daemon, key).await, "no", "{key}");
    }
    let small = reason(&daemon, "small", noise(1000, 3)).await;
    assert_eq!(small, ("clean".to_owned(), None));
    assert_eq!(reason(&daemon, "eicar", eicar()).await.0, "infected");
}

#[tokio::test]
async fn a_scan_that_takes_longer_than_clamd_allows_is_unscannable() {
    let alerts = ["AlertExceedsMax yes", "AlertEncrypted yes", "MaxScanTime 1"];
    let clamd = Clamd::start(&alerts).await.unwrap();
    let daemon = scanned_by(&clamd).await;
    let told = reason(&daemon, "slow", archive(400, 20_000)).await;
    assert_eq!(told, ("no".to_owned(), Some("limits_exceeded".to_owned())));
}

/// The settings that the README names for `DELETE_FILE=true`.
#[tokio::test]
async fn limits_are_reported_without_the_alerts_about_harmless_files() {
    let lines = [
        "AlertExceedsMax yes",
        "AlertEncrypted yes",
        "PhishingSignatures no",
        "PhishingScanURLs no",
        "HeuristicAlerts no",
        "DetectPUA no",
        "AlertBrokenExecutables no",
        "AlertBrokenMedia no",
        "AlertOLE2Macros no",
        "AlertPhishingSSLMismatch no",
        "AlertPhishingCloak no",
        "AlertPartitionIntersection no",
        "StructuredDataDetection no",
    ];
    let clamd = Clamd::start(&lines).await.unwrap();
    let endpoint = format!("unix://{}", clamd.socket().display());
    let output = super::commands::command(&["check"], &[("CLAMD_ENDPOINT", &endpoint)]).await;
    let lines = super::commands::text(&output.stdout);
    assert!(lines.contains("reports its limits"), "{lines}");
}

#[tokio::test]
async fn without_alerts_clamd_hides_its_limits_and_the_daemon_says_so() {
    let clamd = Clamd::start(&LOW).await.unwrap();
    let daemon = scanned_by(&clamd).await;
    assert!(daemon.page("/readyz").await.unwrap().contains("\"limits_reported\": false"));
    assert!(daemon.output().contains("AlertExceedsMax"));
    // This is clamd's verdict, and nothing here can know better. The report says that limits were
    // hidden.
    daemon.s3().put("long", noise(600_000, 1)).await.unwrap();
    let report = daemon.reports_on("long", 1, SOON).await.unwrap().remove(0).json();
    assert_eq!(report["status"], "clean");
    assert_eq!(report["engine"]["limits_reported"], false);
}

#[tokio::test]
async fn nothing_is_decided_while_clamd_is_down_behind_clamav_rest() {
    for only_v1 in [false, true] {
        let port = stack::ports::free_port();
        let tcp = format!("TCPSocket {port}");
        let lines = ["AlertExceedsMax yes", "AlertEncrypted yes", "TCPAddr 127.0.0.1", &tcp];
        let clamd = Clamd::start(&lines).await.unwrap();
        let rest = ClamavRest::start(&format!("127.0.0.1:{port}"), only_v1).await.unwrap();
        let daemon = daemon(&[("SCANNER", "clamav-rest"), ("CLAMD_ENDPOINT", rest.url())]).await;
        assert_eq!(reason(&daemon, "before", b"x".to_vec()).await.0, "clean");
        drop(clamd);
        daemon.s3().put("clean", "x").await.unwrap();
        daemon.s3().put("eicar", eicar()).await.unwrap();
        eventually("the gate closes", || async { daemon.status("/readyz") == Some(503) }).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        for key in ["clean", "eicar"] {
            assert!(daemon.s3().tags(key).await.unwrap().unwrap().is_empty(), "{key}");
        }
        let _clamd = Clamd::start(&lines).await.unwrap();
        assert_eq!(status(&daemon, "clean").await, "clean");
        gone(&daemon, "eicar").await;
    }
}
