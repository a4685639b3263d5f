//! The store's webhook.

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use peers::notification;
use peers::proxy::TcpProxy;
use peers::tls::Authority;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use stack::ports::free_port;
use stack::{Daemon, Stack};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

const TOKEN: &str = "a-token-of-the-intake";

/// A daemon with an intake.
struct Intake {
    daemon: Daemon,
    address: String,
    client: Client,
}

impl Intake {
    async fn start(overrides: &[(&str, &str)]) -> Self {
        let mut intake = Self::prepare(overrides).await;
        intake.daemon.spawn().unwrap();
        intake.daemon.wait_ready(SOON).await.unwrap();
        intake
    }

    async fn prepare(overrides: &[(&str, &str)]) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let own = [("INTAKE_ADDR", address.as_str()), ("INTAKE_TOKEN", TOKEN)];
        let overrides = [&own, overrides].concat();
        let daemon = Daemon::prepare(&Stack::from_env(), binary(), &overrides).await.unwrap();
        Self { daemon, address, client: Client::new() }
    }

    fn post(&self, body: impl Into<reqwest::Body>) -> RequestBuilder {
        let url = format!("http://{}/events", self.address);
        self.client.post(url).bearer_auth(TOKEN).body(body)
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.unwrap()
    }

    /// Sends these bytes and reads what comes, until the connection is closed or `limit` is over.
    async fn raw(&self, request: &[u8], limit: Duration) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        drop(tokio::time::timeout(limit, stream.read_to_end(&mut answer)).await);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

async fn code(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

fn announcement(daemon: &Daemon, key: &str) -> Value {
    notification::put(&daemon.names.bucket, key, None, None)
}

#[tokio::test]
async fn a_webhook_is_scanned_and_its_bytes_are_kept() {
    let intake = Intake::start(&[]).await;
    let daemon = &intake.daemon;
    daemon.s3().put("by webhook", "x").await.unwrap();
    assert_eq!(code(intake.post(announcement(daemon, "by webhook").to_string())).await, 200);
    assert_eq!(status(daemon, "by webhook").await, "clean");
    // What announces nothing known is accepted, and parked byte for byte.
    let odd = b"\xef\xbb\xbf { \"Records\" : 1e400,\t\"a\":\"\\u00e9\" }\n".to_vec();
    assert_eq!(code(intake.post(odd.clone())).await, 200);
    assert_eq!(dead(daemon).await.body, odd);
    let counted = metric(daemon, "avscan_intake_total{outcome=\"accepted\"}").await;
    assert!(counted >= 2, "{counted}");
}

#[tokio::test]
async fn a_binary_cloud_event_is_wrapped_and_understood() {
    let intake = Intake::start(&[]).await;
    let daemon = &intake.daemon;
    daemon.s3().put("k", "x").await.unwrap();
    // The headers are those of Ceph. Source: its documentation of bucket notifications.
    let event = intake
        .post(announcement(daemon, "k").to_string())
        .header("ce-specversion", "1.0")
        .header("ce-type", "com.amazonaws.ObjectCreated:Put")
        .header("ce-source", "ceph:s3.zg.bucket")
        .header("ce-id", "1575221657.102001.80dad3aad8584778352c68ea06250327")
        .header("content-type", "application/json");
    assert_eq!(code(event).await, 200);
    assert_eq!(status(daemon, "k").await, "clean");
    let odd = intake.post(" 7 ").header("ce-specversion", "1.0").header("ce-id", "a%20b");
    assert_eq!(code(odd).await, 200);
    let parked: Value = serde_json::from_slice(&dead(daemon).await.body).unwrap();
    assert_eq!(parked, json!({"specversion": "1.0", "id": "a b", "data": 7}));
}

#[tokio::test]
async fn each_wrong_request_has_its_answer() {
    let intake = Intake::start(&[]).await;
    let url = |path: &str| format!("http://{}{path}", intake.address);
    let client = &intake.client;
    for (request, expected) in [
        (client.post(url("/events")).body("{}"), 401),
        (client.post(url("/events")).bearer_auth("wrong").body("{}"), 401),
        (client.post(url("/events")).header("authorization", TOKEN).body("{}"), 200),
        (client.post(url("/events")).basic_auth("ceph", Some(TOKEN)).body("{}"), 200),
        (client.post(url("/events")).basic_auth(TOKEN, Some("x")).body("{}"), 401),
        (client.post(url("/event")).bearer_auth(TOKEN).body("{}"), 404),
        (client.put(url("/events")).bearer_auth(TOKEN).body("{}"), 405),
        (client.head(url("/events")), 200),
        (client.get(url("/events")), 200),
        (intake.post("not json"), 400),
        (intake.post("{}").header("content-encoding", "gzip"), 415),
        (intake.post(format!("\"{}\"", "x".repeat((1 << 20) - 2))), 200),
        (intake.post(format!("\"{}\"", "x".repeat((1 << 20) - 1))), 413),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), expected);
        if expected == 401 {
            let offered: Vec<_> = answer.headers().get_all("www-authenticate").iter().collect();
            assert_eq!(offered, ["Bearer", "Basic realm=\"avscan\""]);
        }
    }
    let head = format!("POST /events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n");
    let second = Duration::from_secs(1);
    let without = intake.raw(format!("{head}\r\n").as_bytes(), second).await;
    assert!(without.starts_with("HTTP/1.1 411 "), "{without}");
    let empty = intake.raw(format!("{head}content-length: 0\r\n\r\n").as_bytes(), second).await;
    assert!(empty.starts_with("HTTP/1.1 400 "), "{empty}");
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n{}", chunk.repeat(17));
    let too_long = intake.raw(chunked.as_bytes(), 3 * second).await;
    assert!(too_long.starts_with("HTTP/1.1 413 "), "{too_long}");
    // A sender that asks first is answered before it sends.
    let asks = format!("{head}content-length: 2000000\r\nexpect: 100-continue\r\n\r\n");
    let asked = intake.raw(asks.as_bytes(), second).await;
    assert!(asked.starts_with("HTTP/1.1 413 "), "{asked}");
    let output = intake.daemon.output();
    assert!(!output.contains(TOKEN));
    assert!(output.contains(&format!("takes webhooks at http://{}/events", intake.address)));
    // Once for each kind.
    for status in [400, 401, 404, 405, 411, 413, 415] {
        let line = format!("status={status}");
        assert_eq!(output.matches(&line).count(), 1, "{line} in {output}");
    }
}

#[tokio::test]
async fn slow_and_idle_senders_are_cut_and_the_others_served() {
    let intake = Intake::start(&[]).await;
    let head = format!(
        "POST /events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 9\r\n\r\n"
    );
    // One slow body after the other, until another request is too many.
    let mut slow = Vec::new();
    loop {
        assert!(slow.len() < 200, "requests at once have no bound");
        let mut stream = intake.connect().await;
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(b"{").await.unwrap();
        slow.push(stream);
        let answer = intake.post("{}").send().await.unwrap();
        if answer.status() == 429 {
            assert!(answer.headers().contains_key("retry-after"));
            break;
        }
    }
    assert!(slow.len() >= 64, "{} are too many", slow.len());
    // They are cut, and then the others are served again.
    eventually("a slot is free", || async { code(intake.post("{}")).await == 200 }).await;
    let mut cut = 0;
    for mut stream in slow {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        cut += u64::from(answer.starts_with("HTTP/1.1 408 "));
        assert!(answer.starts_with("HTTP/1.1 408 ") || answer.starts_with("HTTP/1.1 429 "));
    }
    assert!(cut > 60, "{cut} were cut");
    let counted = metric(&intake.daemon, "avscan_intake_total{outcome=\"incomplete\"}").await;
    assert_eq!(counted, cut);
    let output = intake.daemon.output();
    assert_eq!(output.matches("status=408").count(), 1, "{output}");
    // One that hangs up is counted too, though nobody gets the answer.
    let mut gone = intake.connect().await;
    gone.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(gone);
    eventually("it is counted", || async {
        metric(&intake.daemon, "avscan_intake_total{outcome=\"incomplete\"}").await > cut
    })
    .await;
    // One that sends nothing, and one that sends half of its headers.
    let mut silent = intake.connect().await;
    let mut half = intake.connect().await;
    half.write_all(b"POST /events HTTP/1.1\r\nhost").await.unwrap();
    for stream in [&mut silent, &mut half] {
        let ended = tokio::time::timeout(Duration::from_secs(40), stream.read(&mut [0; 9])).await;
        assert!(ended.is_ok(), "still open");
    }
}

#[tokio::test]
async fn a_flood_of_connections_does_not_cut_off_a_known_sender() {
    let intake = Intake::start(&[]).await;
    let head = format!(
        "POST /events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 2\r\n\r\n{{}}"
    );
    let mut known = intake.connect().await;
    let mut answer = [0; 15];
    known.write_all(head.as_bytes()).await.unwrap();
    known.read_exact(&mut answer).await.unwrap();
    let mut strangers = Vec::new();
    for _ in 0..600 {
        strangers.push(intake.connect().await);
    }
    let crowded = || metric(&intake.daemon, "avscan_intake_total{outcome=\"crowded_out\"}");
    // The daemon may still be taking them.
    eventually("most are crowded out", || async { crowded().await >= 340 }).await;
    assert!(crowded().await <= 400);
    assert_eq!(intake.daemon.output().matches("closed a connection").count(), 1);
    // A new sender comes in, and the known one still is.
    assert_eq!(code(intake.post("{}")).await, 200);
    known.write_all(head.as_bytes()).await.unwrap();
    let mut rest = vec![0; 512];
    let mut answers = String::from_utf8_lossy(&answer).into_owned();
    while answers.matches("HTTP/1.1 200").count() < 2 {
        let read = known.read(&mut rest).await.unwrap();
        assert!(read > 0, "the known sender was cut off: {answers}");
        answers += &String::from_utf8_lossy(&rest[..read]);
    }
}

#[tokio::test]
async fn without_the_broker_the_sender_has_to_repeat_and_nothing_is_lost() {
    let stack = Stack::from_env();
    let settings = stack.settings();
    let broker = format!("{}:{}", settings.amqp_host, settings.amqp_port);
    let proxy = TcpProxy::start(&broker).await.unwrap();
    let port = proxy.port().to_string();
    let intake =
        Intake::start(&[("RABBITMQ_ENDPOINT", "127.0.0.1"), ("RABBITMQ_PORT", &port)]).await;
    let daemon = &intake.daemon;
    let repeat_later =
        |answer: Response| answer.status() == 503 && answer.headers().get("retry-after").is_some();
    daemon.s3().put("k", "x").await.unwrap();
    let body = announcement(daemon, "k").to_string();
    proxy.refuse();
    proxy.cut();
    let asked = || async { repeat_later(intake.post(body.clone()).send().await.unwrap()) };
    eventually("the intake knows that the broker is gone", asked).await;
    let told = intake.post(body.clone()).send().await.unwrap().text().await.unwrap();
    assert_eq!(told, "not queued, repeat it: there is no connection to the broker\n");
    let line = "rejected: there is no connection to the broker";
    // Another thread writes it.
    eventually("it is logged", || async { daemon.output().contains(line) }).await;
    proxy.pass();
    let taken = || async { code(intake.post(body.clone())).await == 200 };
    eventually("the broker is back", taken).await;
    assert_eq!(status(daemon, "k").await, "clean");
    // One that is silent: the answer comes, and it is no.
    proxy.black_hole();
    let started = Instant::now();
    assert!(repeat_later(intake.post(body.clone()).send().await.unwrap()));
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_queue_that_is_full_refuses_without_ending_the_session() {
    let stack = Stack::from_env();
    let amqp = stack.amqp().await.unwrap();
    // No engine: nothing is consumed.
    let mut intake = Intake::prepare(&[("CLAMD_ENDPOINT", "tcp://127.0.0.1:1")]).await;
    let mut arguments = FieldTable::default();
    let text = |value: &str| AMQPValue::LongString(value.into());
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(1));
    arguments.insert("x-overflow".into(), text("reject-publish"));
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    let channel = amqp.channel().await.unwrap();
    let queue = intake.daemon.names.queue.clone();
    channel.queue_declare(queue.as_str().into(), durable, arguments).await.unwrap();
    intake.daemon.spawn().unwrap();
    let intake = intake;
    eventually("the daemon listens", || async { intake.post("{}").send().await.is_ok() }).await;
    eventually("the queue refuses", || async {
        let answer = intake.post("{}").send().await.unwrap();
        let refused = metric(&intake.daemon, "avscan_intake_total{outcome=\"refused\"}").await > 0;
        assert!(!refused || answer.status() == 503 && answer.headers()["retry-after"] == "5");
        refused
    })
    .await;
    assert_eq!(metric(&intake.daemon, "avscan_sessions_lost_total").await, 0);
    assert!(amqp.get(&queue).await.unwrap().is_some(), "nothing was taken");
    while amqp.get(&queue).await.unwrap().is_some() {}
    assert_eq!(code(intake.post("{}")).await, 200, "there is room again");
}

#[tokio::test]
async fn a_queue_that_was_deleted_is_made_again() {
    let intake = Intake::start(&[]).await;
    let amqp = Stack::from_env().amqp().await.unwrap();
    amqp.delete_queue(&intake.daemon.names.queue).await.unwrap();
    intake.daemon.s3().put("k", "x").await.unwrap();
    let body = announcement(&intake.daemon, "k").to_string();
    eventually("it is taken", || async { code(intake.post(body.clone())).await == 200 }).await;
    assert_eq!(status(&intake.daemon, "k").await, "clean");
}

#[tokio::test]
async fn tokens_are_replaced_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "first-token-0123456789 second-token-0123456\n").unwrap();
    let file_text = file.to_str().unwrap();
    let intake = Intake::start(&[("INTAKE_TOKEN", ""), ("INTAKE_TOKEN_FILE", file_text)]).await;
    let (address, client) = (&intake.address, &intake.client);
    let with = |token: &'static str| async move {
        let url = format!("http://{address}/events");
        code(client.post(url).bearer_auth(token).body("{}")).await
    };
    assert_eq!(with("first-token-0123456789").await, 200);
    assert_eq!(with("second-token-0123456").await, 200);
    std::fs::write(&file, "second-token-0123456 third-token-01234567\n").unwrap();
    eventually("the new one is taken", || async { with("third-token-01234567").await == 200 })
        .await;
    assert_eq!(with("first-token-0123456789").await, 401);
    assert_eq!(with("second-token-0123456").await, 200);
    // An empty file replaces nothing.
    std::fs::write(&file, "").unwrap();
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(with("second-token-0123456").await, 200);
    assert_eq!(with("").await, 401);
    let output = || intake.daemon.output();
    assert_eq!(output().matches("INTAKE_TOKEN_FILE is empty").count(), 1, "{}", output());
    // Nor does one that is gone; told once.
    std::fs::remove_file(&file).unwrap();
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(output().matches("INTAKE_TOKEN_FILE cannot be read").count(), 1, "{}", output());
    assert_eq!(with("second-token-0123456").await, 200);
    assert!(!output().contains("can be guessed"));
    std::fs::write(&file, "short").unwrap();
    eventually("it is warned of", || async { output().contains("can be guessed") }).await;
    assert_eq!(with("short").await, 200);
}

#[tokio::test]
async fn its_certificate_is_replaced_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (certificate, key) = (path("cert.pem"), path("key.pem"));
    let old = Authority::new().unwrap();
    old.write_server("localhost", &certificate, &key).unwrap();
    let intake = Intake::start(&[
        ("INTAKE_TLS_CERT_FILE", certificate.to_str().unwrap()),
        ("INTAKE_TLS_KEY_FILE", key.to_str().unwrap()),
    ])
    .await;
    let port = intake.address.rsplit(':').next().unwrap();
    let url = format!("https://localhost:{port}/events");
    let client = |authority: &Authority| {
        let file = path("ca.pem");
        authority.write(&file).unwrap();
        let pem = reqwest::Certificate::from_pem(&std::fs::read(&file).unwrap()).unwrap();
        Client::builder().tls_certs_only([pem]).build().unwrap()
    };
    let events = |client: Client| client.post(&url).bearer_auth(TOKEN).body("{}").send();
    assert_eq!(events(client(&old)).await.unwrap().status(), 200);
    // A pair that does not belong together is not taken.
    let (kept, kept_key) = (std::fs::read(&certificate).unwrap(), path("other.pem"));
    old.write_server("localhost", &path("other-cert.pem"), &kept_key).unwrap();
    std::fs::copy(&kept_key, &key).unwrap();
    eventually("it is warned of", || async {
        intake.daemon.output().contains("do not belong together")
    })
    .await;
    assert_eq!(events(client(&old)).await.unwrap().status(), 200);
    assert_eq!(std::fs::read(&certificate).unwrap(), kept);
    std::fs::remove_file(&key).unwrap();
    eventually("it is warned of", || async {
        intake.daemon.output().contains("keeps its certificate: the files cannot be read")
    })
    .await;
    assert_eq!(events(client(&old)).await.unwrap().status(), 200);
    assert!(intake.daemon.output().contains("takes webhooks at https://"));
    let new = Authority::new().unwrap();
    new.write_server("localhost", &certificate, &key).unwrap();
    let replaced = || async { events(client(&new)).await.is_ok_and(|a| a.status() == 200) };
    eventually("the new certificate is shown", replaced).await;
    assert!(events(client(&old)).await.is_err());
    // Plain http is not taken for TLS, nor is a stranger's handshake.
    assert!(intake.post("{}").send().await.is_err());
}

#[tokio::test]
async fn what_cannot_work_is_told_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let authority = Authority::new().unwrap();
    for n in ["1", "2"] {
        let (certificate, key) = (path(&format!("c{n}")), path(&format!("k{n}")));
        authority.write_server("localhost", certificate.as_ref(), key.as_ref()).unwrap();
    }
    for (overrides, expected) in [
        (vec![("INTAKE_TOKEN", String::new())], "INTAKE_TOKEN is required"),
        (vec![("INTAKE_TLS_CERT_FILE", path("c1"))], "INTAKE_TLS_KEY_FILE is missing"),
        (
            vec![("INTAKE_TLS_CERT_FILE", path("c1")), ("INTAKE_TLS_KEY_FILE", path("k2"))],
            "do not belong together",
        ),
        (
            vec![("INTAKE_TLS_CERT_FILE", path("none")), ("INTAKE_TLS_KEY_FILE", path("k2"))],
            "cannot be read",
        ),
        (
            vec![("INTAKE_TLS_CERT_FILE", path("k1")), ("INTAKE_TLS_KEY_FILE", path("k1"))],
            "no PEM certificate",
        ),
    ] {
        let overrides: Vec<_> = overrides.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let mut intake = Intake::prepare(&overrides).await;
        intake.daemon.spawn().unwrap();
        assert_eq!(intake.daemon.wait_exit(SOON).await.unwrap(), 78);
        let output = intake.daemon.output();
        assert!(output.contains(expected) && output.lines().count() == 1, "{output}");
    }
    // An address that is in use is no matter of the settings alone.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut intake = Intake::prepare(&[("INTAKE_ADDR", &address)]).await;
    intake.daemon.spawn().unwrap();
    assert_eq!(intake.daemon.wait_exit(SOON).await.unwrap(), 1);
    assert!(intake.daemon.output().contains("INTAKE_ADDR"), "{}", intake.daemon.output());
}

#[tokio::test]
async fn a_stop_ends_what_is_running_and_takes_nothing_new() {
    let mut intake = Intake::start(&[]).await;
    let head = format!(
        "POST /events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 2\r\n\r\n{{"
    );
    let mut running = intake.connect().await;
    running.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let idle = intake.connect().await;
    let finish = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(running.write_all(b"}").await);
        let mut answer = String::new();
        drop(running.read_to_string(&mut answer).await);
        answer
    };
    let started = Instant::now();
    let (answer, code) = tokio::join!(finish, intake.daemon.terminate(SOON));
    assert_eq!(code.unwrap(), 0);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(idle);
    assert!(TcpStream::connect(&intake.address).await.is_err());
}
