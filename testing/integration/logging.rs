//! What is logged, and what is not. A log that nothing reads must not stop anything.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use stack::{Daemon, Stack};

use super::*;

/// The forms in which bytes are likely to be printed.
fn forms(secret: &[u8]) -> Vec<String> {
    let list = |format: fn(&u8) -> String| secret.iter().map(format).collect::<Vec<_>>().join(", ");
    let joined = |format: fn(&u8) -> String| secret.iter().map(format).collect::<String>();
    vec![
        String::from_utf8_lossy(secret).into_owned(),
        String::from_utf8_lossy(secret).escape_debug().collect(),
        BASE64_STANDARD.encode(secret),
        BASE64_STANDARD_NO_PAD.encode(secret),
        BASE64_URL_SAFE_NO_PAD.encode(secret),
        joined(|byte| format!("{byte:02x}")),
        joined(|byte| format!("{byte:02X}")),
        list(|byte| format!("{byte}")),
        list(|byte| format!("0x{byte:02x}")),
        list(|byte| format!("{byte:02x}")),
    ]
}

#[tokio::test]
async fn no_level_writes_a_secret_in_any_form() {
    let signing = [0xA7_u8, 0x11, 0x5C, 0xE3].repeat(8);
    let whsec = format!("whsec_{}", BASE64_STANDARD.encode(&signing));
    let authorization = "Bearer f4bd7a41-token";
    let url = format!(
        "{}/report/0c6e91d2-path?key=5e77ab30-query",
        Stack::from_env().settings().sink_url
    );
    let daemon = daemon(&[
        ("PUBLISH_URL", &url),
        ("LOG_LEVEL", "trace"),
        ("PUBLISH_SECRET", &whsec),
        ("PUBLISH_AUTHORIZATION", authorization),
    ])
    .await;
    daemon.s3().put("k", "x").await.unwrap();
    let bucket = daemon.names.bucket.clone();
    Stack::from_env().reports_within(1, SOON, |r| r.json()["bucket"] == *bucket).await.unwrap();
    status(&daemon, "k").await;
    let env = daemon.env();
    let (user, password) = (&env["RABBITMQ_REGULAR_USER_NAME"], &env["RABBITMQ_REGULAR_USER_PASS"]);
    let s3 = &env["MINIO_SECRET_ACCESS_KEY"];
    let log = daemon.output();
    for (name, secret) in [
        ("the S3 secret key", s3.as_bytes()),
        ("the key that signatures start from", format!("AWS4{s3}").as_bytes()),
        ("the RabbitMQ password", password.as_bytes()),
        ("the SASL response", format!("\0{user}\0{password}").as_bytes()),
        ("the login", format!("{user}:{password}").as_bytes()),
        ("PUBLISH_SECRET", whsec.as_bytes()),
        ("the signing key", &signing),
        ("PUBLISH_AUTHORIZATION", authorization.as_bytes()),
        ("its token", b"f4bd7a41-token"),
        ("the path of PUBLISH_URL", b"0c6e91d2-path"),
        ("the query of PUBLISH_URL", b"5e77ab30-query"),
    ] {
        for form in forms(secret) {
            let line = log.lines().find(|line| line.contains(&form));
            assert!(line.is_none(), "{name} is in the log as {form:.40}: {line:.200?}");
        }
    }
    assert!(log.contains(" DEBUG "), "the level was not taken");
}

/// A daemon whose standard output is a pipe.
struct Piped(Child);

impl Piped {
    fn start(daemon: &Daemon) -> Self {
        let mut command = Command::new(BINARY);
        command.env_clear().envs(daemon.env()).stdout(Stdio::piped()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        // An error means that the child has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_no_scan_and_no_probe_and_the_loss_is_logged() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let overrides = [("LOG_LEVEL", "trace"), ("LOG_FILE", file.to_str().unwrap())];
    let daemon = Daemon::prepare(&Stack::from_env(), binary(), &overrides).await.unwrap();
    let mut piped = Piped::start(&daemon);
    eventually("it is ready", || async { daemon.status("/readyz") == Some(200) }).await;
    let written = || std::fs::metadata(&file).map_or(0, |file| file.len());
    // A pipe holds 64 KiB. This writes several times that, plus what is buffered in memory.
    for n in 0.. {
        let key = format!("k{n}");
        daemon.s3().put(&key, "x").await.unwrap();
        assert_eq!(status(&daemon, &key).await, "clean");
        assert_eq!(daemon.status("/livez"), Some(200));
        if written() > 3 << 20 {
            break;
        }
        assert!(n < 3000, "only {} bytes were logged", written());
    }
    // When the pipe is read again, whole lines follow, and one says how many were lost.
    let mut output = piped.0.stdout.take().unwrap();
    let (text, read) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (mut all, mut chunk) = (Vec::new(), [0; 8192]);
        while let Ok(got @ 1..) = output.read(&mut chunk) {
            all.extend_from_slice(&chunk[..got]);
            drop(text.send(all.clone()));
        }
    });
    let mut seen = String::new();
    eventually("a line says how many were lost", || {
        while let Ok(all) = read.try_recv() {
            seen = String::from_utf8_lossy(&all).into_owned();
        }
        let told = seen.contains("log lines were lost");
        async move { told }
    })
    .await;
    let last = seen.rfind('\n').unwrap();
    let odd = seen[..last].lines().find(|line| !line.starts_with("[bucket-av-scanner] "));
    assert_eq!(odd, None);
}

#[tokio::test]
async fn what_was_logged_is_written_before_the_end_and_a_full_pipe_does_not_hold_it_up() {
    // When the pipe is read to its end, the last line is there.
    let daemon = Daemon::prepare(&Stack::from_env(), binary(), &[]).await.unwrap();
    let mut piped = Piped::start(&daemon);
    eventually("it is ready", || async { daemon.status("/readyz") == Some(200) }).await;
    terminate(&piped.0);
    let mut all = String::new();
    piped.0.stdout.take().unwrap().read_to_string(&mut all).unwrap();
    assert!(piped.0.wait().unwrap().success());
    assert!(all.lines().last().unwrap().contains("stopped, everything settled"), "{all}");

    // When the pipe is not read at all, the daemon ends nevertheless.
    let daemon =
        Daemon::prepare(&Stack::from_env(), binary(), &[("LOG_LEVEL", "trace")]).await.unwrap();
    let mut piped = Piped::start(&daemon);
    eventually("it is ready", || async { daemon.status("/readyz") == Some(200) }).await;
    for n in 0..20 {
        daemon.s3().put(&format!("k{n}"), "x").await.unwrap();
    }
    assert_eq!(status(&daemon, "k19").await, "clean");
    terminate(&piped.0);
    let started = Instant::now();
    let mut ended = None;
    while ended.is_none() {
        assert!(started.elapsed() < SOON, "it still runs");
        ended = piped.0.try_wait().unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(ended.unwrap().success());
}

fn terminate(child: &Child) {
    let kill = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(kill.success());
}
