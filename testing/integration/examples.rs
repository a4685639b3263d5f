//! The receivers under `examples/` accept each report once, and refuse every report without a valid
//! signature.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use peers::eicar::eicar;
use stack::place::checkout;
use standardwebhooks::Webhook;

use super::*;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[tokio::test]
async fn the_receiver_in_rust_takes_each_report_once_and_none_that_is_forged_or_old() {
    // Next to the folder of the test's own program.
    let mut program = std::env::current_exe().unwrap();
    program.pop();
    program.set_file_name("examples/webhook_receiver");
    assert!(program.is_file(), "{} is missing: cargo build --examples", program.display());
    takes_each_report_once(&Receiver::start(&mut Command::new(program))).await;
}

#[tokio::test]
async fn the_receiver_in_python_takes_each_report_once_and_none_that_is_forged_or_old() {
    let mut command = Command::new("python3");
    command.arg(checkout().join("examples/webhook_receiver.py"));
    command.env("PYTHONPATH", python_packages()).env("PYTHONDONTWRITEBYTECODE", "1");
    takes_each_report_once(&Receiver::start(&mut command)).await;
}

async fn takes_each_report_once(receiver: &Receiver) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let now = i64::try_from(now.as_secs()).unwrap();
    let good = r#"{"id":"m1","status":"infected","bucket":"b","key":"a\nb","signature":"Eicar"}"#;
    let told = r#"report "m1" "infected" "b" "a\nb" "Eicar""#;
    let signed = sign(SECRET, "m1", now, good);

    // Forged and old reports come first: their ids must not be remembered.
    let stranger = sign("whsec_c3RyYW5nZXI=", "m1", now, good);
    for (id, at, signature, body) in [
        ("m1", now, stranger.as_str(), good),
        ("m1", now, &signed, r#"{"id":"m1","status":"clean"}"#),
        ("m2", now, &signed, good),
        ("m1", now + 1, &signed, good),
        ("m1", now, "", good),
        ("m1", now, "v1", good),
        ("m1", now, "v1,?", good),
        ("m1", now - 600, &sign(SECRET, "m1", now - 600, good), good),
        ("m1", now + 600, &sign(SECRET, "m1", now + 600, good), good),
    ] {
        assert_eq!(receiver.post(id, at, signature, body).await, 401, "{id} {at} {signature:?}");
    }

    assert_eq!(receiver.post("m1", now, &signed, good).await, 204);
    assert_eq!(receiver.post("m1", now, &signed, good).await, 204);
    // The daemon signs each attempt again, with each of several secrets.
    let again = format!("{stranger} {}", sign(SECRET, "m1", now - 1, good));
    assert_eq!(receiver.post("m1", now - 1, &again, good).await, 204);
    // Signed, but not a report: 400, so that it is parked and not sent again.
    for broken in ["{", "null", "[]"] {
        let signature = sign(SECRET, "m3", now, broken);
        assert_eq!(receiver.post("m3", now, &signature, broken).await, 400, "{broken}");
    }

    // A report of the daemon itself, after all others.
    let daemon = daemon(&[("PUBLISH_URL", &receiver.url), ("PUBLISH_SECRET", SECRET)]).await;
    daemon.s3().put("from the daemon", eicar()).await.unwrap();
    eventually("the daemon's report is printed", || async { receiver.reports().len() > 1 }).await;
    let reports = receiver.reports();
    assert_eq!(reports.len(), 2, "{reports:?}");
    assert_eq!(reports[0], told);
    assert!(reports[1].contains(r#""infected""#) && reports[1].contains(r#""from the daemon""#));
    eventually("it counts as delivered", || async {
        metric(&daemon, r#"avscan_reports_total{outcome="delivered"}"#).await == 1
    })
    .await;
}

fn sign(secret: &str, id: &str, at: i64, body: &str) -> String {
    Webhook::new(secret).unwrap().sign(id, at, body.as_bytes()).unwrap()
}

/// The folder in which `testing/setup.sh --all` installs the imports of the Python example.
/// The folders of the packages that the examples need, as `PYTHONPATH` names them.
pub(super) fn python_packages() -> OsString {
    let tools = checkout().join(".stack/tools");
    let folders: Vec<PathBuf> =
        tools.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    let package = |name: &str| {
        let wanted = |path: &&PathBuf| {
            let folder = path.file_name().unwrap_or_default().to_string_lossy();
            folder.starts_with(&format!("{name}-")) && !folder.ends_with(".new")
        };
        let found = folders.iter().find(wanted);
        found.unwrap_or_else(|| panic!("{name} is missing: run testing/setup.sh --all")).clone()
    };
    std::env::join_paths(["standardwebhooks", "cryptography", "cffi"].map(package)).unwrap()
}

/// A receiver on its own port, killed when dropped.
struct Receiver {
    child: Child,
    url: String,
    printed: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    fn start(command: &mut Command) -> Self {
        command.env("WEBHOOK_SECRET", SECRET).env("LISTEN", "127.0.0.1:0");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        let url = format!("http://{}/", first.strip_prefix("listening on ").unwrap());
        let printed = Arc::new(Mutex::new(Vec::new()));
        let kept = printed.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        Self { child, url, printed }
    }

    /// The lines about reports that it has printed so far.
    fn reports(&self) -> Vec<String> {
        let printed = self.printed.lock().unwrap();
        printed.iter().filter(|line| line.starts_with("report ")).cloned().collect()
    }

    /// Posts a report as the daemon does; returns the status of the answer.
    async fn post(&self, id: &str, at: i64, signature: &str, body: &str) -> u16 {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client
            .post(&self.url)
            .header("webhook-id", id)
            .header("webhook-timestamp", at)
            .header("webhook-signature", signature)
            .header("content-type", "application/json")
            .body(body.to_owned());
        request.send().await.unwrap().status().as_u16()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// "Deny unless clean": a status that is not listed hides its object, and users can set none of our tags.
#[test]
fn the_shipped_policy_lets_clean_and_released_objects_be_read_and_no_others() {
    let script =
        std::fs::read_to_string(checkout().join("docker-compose/minio-service-init.sh")).unwrap();
    let readable =
        "\"StringNotEquals\": {\"s3:ExistingObjectTag/$tag\": [\"clean\", \"released\"]}";
    assert_eq!(script.matches("s3:ExistingObjectTag").count(), 1);
    assert!(script.contains(readable));
    let ours = "{\"s3:RequestObjectTagKeys\": [\"$tag\", \"$tag-receipt\"]}";
    assert!(script.contains(ours));
}
