//! The `check` and `healthcheck` commands.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::say;
use crate::config::{ADMIN_PORT, AdminAddress, EngineAddress, Loaded, Settings};
use crate::courier::Courier;
use crate::failure::Reason;
use crate::queue::{self, Tls, Topology};
use crate::scanner::Scanner;
use crate::shutdown;
use crate::store::{Bearing, Finding, Store};

/// Connects to everything once, looks into `buckets`, and prints a line for each dependency and
/// finding. Changes nothing, unless `write` is set: then an object is written to each bucket, and
/// removed again. Succeeds when everything that the settings need is there.
pub async fn check(loaded: Loaded, buckets: Vec<String>, write: bool) -> ExitCode {
    let Loaded { settings, warnings, .. } = loaded;
    for warning in warnings {
        say(format_args!("warning  {warning}"));
    }
    let mut failed = 0;
    let results =
        tokio::join!(broker(&settings), store(&settings), engine(&settings), webhook(&settings));
    for (name, result) in [
        ("broker", &results.0),
        ("store", &results.1),
        ("engine", &results.2),
        ("webhook", &results.3),
    ] {
        match result {
            Ok(line) => say(format_args!("{name:<8} ok: {line}")),
            Err(line) => {
                failed += 1;
                say(format_args!("{name:<8} FAILED: {line}"));
            }
        }
    }
    if results.1.is_ok() {
        failed += look_into(&settings, buckets, write).await;
    }
    say(format_args!(
        "\nMinIO settings that fit these names:\n{}",
        queue::minio_settings(&settings.broker)
    ));
    if failed > 0 {
        say(format_args!("\n{failed} FAILED, see above"));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Prints what is found out about each bucket; returns how much is missing.
async fn look_into(settings: &Settings, buckets: Vec<String>, write: bool) -> usize {
    let fail = |line: &str| {
        say(format_args!("bucket   FAILED: {line}"));
        1
    };
    if buckets.is_empty() {
        return 0;
    }
    let store = match Store::new(&settings.store, settings.tls_ca.as_deref()).await {
        Ok(store) => store,
        Err(line) => return fail(&line),
    };
    // So that a signal does not leave the object behind.
    let stop = match write.then(shutdown::on_signal).transpose() {
        Ok(stop) => stop,
        Err(error) => return fail(&format!("no signal handlers: {error}")),
    };
    let mut missing = 0;
    for bucket in buckets {
        let findings = match &stop {
            None => vec![store.survey(&bucket, &settings.policy).await],
            Some(stop) if stop.is_cancelled() => break,
            Some(stop) => {
                let key = Store::trial_key();
                say(format_args!(
                    "bucket   {bucket}: writing {key}, removed at the end; where the bucket \
                     announces uploads, this raises an event like any other"
                ));
                store.try_out(&bucket, &key, &settings.policy, stop).await
            }
        };
        for Finding { bearing, text } in findings {
            let word = match bearing {
                Bearing::Good => "ok",
                Bearing::Note => "note",
                Bearing::Missing => "FAILED",
            };
            missing += usize::from(bearing == Bearing::Missing);
            say(format_args!("bucket   {word}: {bucket}: {text}"));
        }
    }
    missing
}

async fn broker(settings: &Settings) -> Result<String, String> {
    let topology = Topology::new(&settings.broker, &settings.ladder, settings.publish.is_some());
    let tls = Tls(settings.tls_ca.clone());
    let found = queue::inspect(&settings.broker, &tls, &topology).await;
    let untested = "rights and the arguments of queues show only at the start";
    found.map(|line| format!("{line} ({untested})")).map_err(|error| error.to_string())
}

async fn store(settings: &Settings) -> Result<String, String> {
    let store = Store::new(&settings.store, settings.tls_ca.as_deref()).await?;
    let url = &settings.store.url;
    store.probe_temp().await.map_err(|f| format!("TMPDIR cannot be used: {}", f.detail))?;
    match store.probe(Duration::from_secs(10)).await {
        Ok(()) => Ok(format!("{url} answers and takes the credentials")),
        Err(failure) if failure.reason == Reason::StoreCredentials => Err(format!(
            "{url} refuses us ({}): check MINIO_ACCESS_KEY_ID, MINIO_SECRET_ACCESS_KEY and the clock",
            failure.detail
        )),
        Err(failure) => {
            Err(format!("{url}: {}: check MINIO_SERVER_URL and TLS_CA_FILE", failure.detail))
        }
    }
}

async fn engine(settings: &Settings) -> Result<String, String> {
    let scanner = Scanner::new(&settings.scanner, settings.tls_ca.as_deref())
        .map_err(|error| error.to_string())?;
    let engine = scanner
        .open(Duration::from_secs(30))
        .await
        .map_err(|f| format!("{}: check SCANNER, CLAMD_ENDPOINT and CLAMD_PORT", f.detail))?;
    let version = engine.version();
    let database = version.database.as_deref().unwrap_or("unknown or not official");
    let mut line = format!(
        "{} {}, database {database}, finds EICAR and calls a harmless text clean",
        engine.name(),
        version.engine.as_deref().unwrap_or("of unknown version"),
    );
    if let Some(outdated) = version.outdated() {
        line = format!("{line}; this version of ClamAV {outdated}");
    }
    if matches!(settings.scanner.engine, EngineAddress::ClamavRest(_)) {
        line += "; clamav-rest before 0.5 hides why it refuses a file, so use 0.5 or later";
    }
    match (engine.limits_reported(), settings.scanner.strict_limits) {
        (true, _) => Ok(line + ", reports its limits"),
        (false, false) => Ok(line
            + ", but calls encrypted or over-limit files clean: set \
                                     AlertEncrypted and AlertExceedsMax in clamd.conf"),
        (false, true) => Err(line
            + ", but hides its limits: set AlertEncrypted and \
                                     AlertExceedsMax in clamd.conf, or STRICT_LIMITS=false"),
    }
}

async fn webhook(settings: &Settings) -> Result<String, String> {
    let Some(publish) = &settings.publish else {
        return Ok("none (PUBLISH_URL is not set)".to_owned());
    };
    let courier = Courier::new(publish, settings.tls_ca.as_deref())?;
    match courier.reachable().await {
        Ok(status) => Ok(format!("answers (HEAD: {})", status.as_u16())),
        Err(error) => Err(format!("{error}: check PUBLISH_URL and TLS_CA_FILE")),
    }
}

/// Asks the `/readyz` of a daemon on this host, for containers without an HTTP client.
pub async fn healthcheck(address: AdminAddress) -> ExitCode {
    let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
    let (port, hosts) = match address {
        AdminAddress::Everywhere => (ADMIN_PORT, vec![v6, v4]),
        AdminAddress::At(address) => match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => (address.port(), vec![v4]),
            IpAddr::V6(ip) if ip.is_unspecified() => (address.port(), vec![v6, v4]),
            ip => (address.port(), vec![ip]),
        },
    };
    let addresses: Vec<SocketAddr> =
        hosts.into_iter().map(|host| SocketAddr::new(host, port)).collect();
    let asked = tokio::time::timeout(Duration::from_secs(5), ask(&addresses)).await;
    match asked {
        Ok(Ok(reply)) => {
            let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((&reply, ""));
            say(body.trim());
            if head.starts_with("HTTP/1.1 200") { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Ok(Err(error)) => {
            say(format_args!("{address}: {error}"));
            ExitCode::FAILURE
        }
        Err(_) => {
            say(format_args!("{address}: no answer"));
            ExitCode::FAILURE
        }
    }
}

/// Asks the first of `addresses` that takes a connection.
async fn ask(addresses: &[SocketAddr]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(addresses).await?;
    let host = stream.peer_addr()?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await?;
    Ok(reply)
}
