//! The `check` and `healthcheck` commands.

mod settings;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use reqwest::StatusCode;

pub use self::settings::StoreKind;
use self::settings::{Deployment, IntakeEndpoint};
use super::{BAD_CONFIGURATION, say};
use crate::config::{ADMIN_PORT, AdminAddress, EngineAddress, Loaded, PolicySettings, Settings};
use crate::courier::Courier;
use crate::failure::{Reason, causes};
use crate::hints;
use crate::http;
use crate::policy::Policy;
use crate::queue::{self, Topology};
use crate::scanner::Scanner;
use crate::shutdown;
use crate::store::{Bearing, Finding, Store};

/// For a whole health check. Shorter than the timeouts of container engines.
const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to everything once, looks into `buckets`, and prints a line for each dependency and
/// finding. Changes nothing, unless `write` is set: then an object is written to each bucket, and
/// removed again. Prints the settings of a store of `kind` at the end, else those of `MinIO`.
/// Succeeds when everything that the settings need is there.
pub async fn check(
    loaded: Loaded,
    buckets: Vec<String>,
    write: bool,
    kind: Option<StoreKind>,
) -> ExitCode {
    let Loaded { settings, warnings, .. } = loaded;
    for warning in warnings {
        say(format_args!("warning  {warning}"));
    }
    let policy = match rules(&settings) {
        Ok(policy) => policy,
        Err(code) => return code,
    };
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
        failed += look_into(&settings, &policy, &buckets, write).await;
    }
    say(format_args!("\n{}", store_settings(&settings, &buckets, kind)));
    if failed > 0 {
        say(format_args!("\n{failed} FAILED, see above"));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Prints what is to be known of the rules, if there are any.
fn rules(settings: &Settings) -> Result<Policy, ExitCode> {
    match super::policy(settings) {
        Ok((policy, warnings)) => {
            for warning in warnings {
                say(format_args!("warning  {warning}"));
            }
            if settings.rules.is_some() {
                let (count, path) = (policy.rules.len(), &policy.rules.path);
                say(format_args!("rules    ok: {count} in {path}"));
            }
            Ok(policy)
        }
        Err(problems) => {
            for line in problems.lines() {
                say(format_args!("rules    FAILED: {line}"));
            }
            Err(ExitCode::from(BAD_CONFIGURATION))
        }
    }
}

/// What makes the store send its notifications here.
fn store_settings(settings: &Settings, buckets: &[String], kind: Option<StoreKind>) -> String {
    let Some(kind) = kind else {
        let amqp = settings::minio_amqp(&settings.broker);
        return format!("MinIO settings that fit these names:\n{amqp}");
    };
    let deployment = Deployment {
        broker: &settings.broker,
        endpoint: &settings.store.url,
        region: &settings.store.region,
        intake: settings
            .intake
            .as_ref()
            .map(|intake| IntakeEndpoint { address: intake.address, tls: intake.tls.is_some() }),
        buckets,
    };
    let text = settings::text(kind, &deployment);
    format!("{kind} settings that fit this deployment:\n{}", text.trim_end())
}

/// Prints the findings about each bucket; returns how many are failures.
async fn look_into(settings: &Settings, policy: &Policy, buckets: &[String], write: bool) -> usize {
    let fail = |line: &str| {
        say(format_args!("bucket   FAILED: {line}"));
        1
    };
    let quarantine = policy.quarantine();
    if buckets.is_empty() && quarantine.is_none() {
        return 0;
    }
    let store = match Store::new(&settings.store, &settings.trust).await {
        Ok(store) => store,
        Err(line) => return fail(&line),
    };
    // A signal must not leave the object behind.
    let stop = match write.then(shutdown::on_signal).transpose() {
        Ok(stop) => stop,
        Err(error) => return fail(&format!("no signal handlers: {error}")),
    };
    let effects = PolicySettings { delete_file: policy.may_remove(), ..policy.settings.clone() };
    let mut missing = 0;
    if let Some(quarantine) = quarantine {
        missing += tell(quarantine, &[store.survey_quarantine(quarantine).await]);
    }
    for bucket in buckets {
        if policy.settings.quarantine_bucket.as_ref() == Some(bucket) {
            let text = "is QUARANTINE_BUCKET, where nothing is scanned";
            missing +=
                tell(bucket, &[Finding { bearing: Bearing::Missing, text: text.to_owned() }]);
            continue;
        }
        let mut findings = match &stop {
            None => vec![store.survey(bucket, &effects).await],
            Some(stop) if stop.is_cancelled() => break,
            Some(stop) => {
                let key = Store::trial_key();
                say(format_args!(
                    "bucket   {bucket}: writing {key}, removed at the end; where the bucket \
                     announces uploads, this raises an event like any other"
                ));
                store.try_out(bucket, &key, &effects, stop).await
            }
        };
        if let (Some(quarantine), Some(stop)) = (quarantine, &stop)
            && !stop.is_cancelled()
        {
            findings.extend(store.try_quarantine(bucket, &Store::trial_key(), quarantine).await);
        }
        missing += tell(bucket, &findings);
    }
    missing
}

/// Prints the findings about a bucket; returns how many are failures.
fn tell(bucket: &str, findings: &[Finding]) -> usize {
    let mut missing = 0;
    for Finding { bearing, text } in findings {
        let word = match bearing {
            Bearing::Good => "ok",
            Bearing::Note => "note",
            Bearing::Missing => "FAILED",
        };
        missing += usize::from(*bearing == Bearing::Missing);
        say(format_args!("bucket   {word}: {bucket}: {text}"));
    }
    missing
}

async fn broker(settings: &Settings) -> Result<String, String> {
    let topology = Topology::new(&settings.broker, &settings.ladder, settings.publish.is_some());
    let found = queue::inspect(&settings.broker, &settings.trust, &topology).await;
    let untested = "permissions and queue arguments are tested only at start";
    found.map(|line| format!("{line} ({untested})")).map_err(|error| error.to_string())
}

async fn store(settings: &Settings) -> Result<String, String> {
    let store = Store::new(&settings.store, &settings.trust).await?;
    let url = &settings.store.url;
    store.probe_temp().await.map_err(|f| format!("TMPDIR cannot be used: {}", f.detail))?;
    match store.probe(Duration::from_secs(10)).await {
        Ok(()) => Ok(format!("{url} answers and accepts the credentials")),
        Err(failure) if failure.reason == Reason::StoreCredentials => {
            Err(format!("{url}: {}", hints::store_login_refused(&failure.detail)))
        }
        Err(failure) => Err(format!("{url}: {}: check {}", failure.detail, hints::STORE_ADDRESS)),
    }
}

async fn engine(settings: &Settings) -> Result<String, String> {
    let scanner =
        Scanner::new(&settings.scanner, &settings.trust).map_err(|error| error.to_string())?;
    let engine = scanner
        .open(Duration::from_secs(30))
        .await
        .map_err(|failure| format!("{}: check {}", failure.detail, hints::ENGINE_ADDRESS))?;
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
    let alerts = hints::ENGINE_ALERTS;
    match (engine.limits_reported(), settings.scanner.strict_limits) {
        (true, _) => Ok(format!("{line}, reports its limits")),
        (false, false) => {
            Ok(format!("{line}, but calls encrypted or over-limit files clean: set {alerts}"))
        }
        (false, true) => {
            Err(format!("{line}, but hides its limits: set {alerts}, or STRICT_LIMITS=false"))
        }
    }
}

async fn webhook(settings: &Settings) -> Result<String, String> {
    let Some(publish) = &settings.publish else {
        return Ok("none (PUBLISH_URL is not set)".to_owned());
    };
    let courier = Courier::new(publish, &settings.trust)?;
    match courier.reachable().await {
        Ok(status) => Ok(format!("answers (HEAD: {})", status.as_u16())),
        Err(error) => Err(format!("{error}: check {}", hints::WEBHOOK_ADDRESS)),
    }
}

/// Asks the `/readyz` of a daemon on this host, for containers without an HTTP client. Prints its
/// body, and succeeds when it answers 200.
pub async fn healthcheck(address: AdminAddress) -> ExitCode {
    match ready_page(address).await {
        Ok((status, body)) => {
            say(body.trim());
            if status == StatusCode::OK { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) if error.is_timeout() => {
            say(format_args!("{address}: no answer"));
            ExitCode::FAILURE
        }
        Err(error) => {
            say(format_args!("{address}: {}", causes(&error.without_url())));
            ExitCode::FAILURE
        }
    }
}

async fn ready_page(address: AdminAddress) -> reqwest::Result<(StatusCode, String)> {
    let addresses = local(address);
    let port = addresses.first().map_or(ADMIN_PORT, SocketAddr::port);
    let client = http::local_client("localhost", &addresses)?;
    let request = client.get(format!("http://localhost:{port}/readyz"));
    let answer = request.timeout(HEALTHCHECK_TIMEOUT).send().await?;
    Ok((answer.status(), answer.text().await?))
}

/// Where an admin server that listens at `address` is reached from this host, best first.
fn local(address: AdminAddress) -> Vec<SocketAddr> {
    let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
    let at = |port, hosts: &[IpAddr]| hosts.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
    match address {
        AdminAddress::Everywhere => at(ADMIN_PORT, &[v6, v4]),
        AdminAddress::At(SocketAddr::V4(own)) if own.ip().is_unspecified() => at(own.port(), &[v4]),
        AdminAddress::At(SocketAddr::V6(own)) if own.ip().is_unspecified() => {
            at(own.port(), &[v6, v4])
        }
        AdminAddress::At(own) => vec![own],
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_server_on_every_address_is_asked_on_both_loopbacks() {
        let hosts = |text: &str| local(AdminAddress::At(text.parse().unwrap()));
        let list = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        assert_eq!(local(AdminAddress::Everywhere), list(&["[::1]:8080", "127.0.0.1:8080"]));
        assert_eq!(hosts("[::]:1"), list(&["[::1]:1", "127.0.0.1:1"]));
        assert_eq!(hosts("0.0.0.0:1"), list(&["127.0.0.1:1"]));
        assert_eq!(hosts("10.0.0.7:1"), list(&["10.0.0.7:1"]));
        assert_eq!(hosts("[fe80::1%3]:1"), list(&["[fe80::1%3]:1"]));
    }

    #[tokio::test]
    async fn the_loopback_that_takes_a_connection_is_the_one_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let got = stream.read(&mut request).await.unwrap();
            let answer = b"HTTP/1.1 503 x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n";
            stream.write_all(answer).await.unwrap();
            String::from_utf8(request[..got].to_vec()).unwrap()
        });
        let address = AdminAddress::At((Ipv6Addr::UNSPECIFIED, port).into());
        let (status, body) = ready_page(address).await.unwrap();
        assert_eq!((status.as_u16(), body.as_str()), (503, "no\n"));
        assert!(server.await.unwrap().starts_with("GET /readyz HTTP/1.1\r\n"));
        let refused = ready_page(address).await.unwrap_err();
        assert!(refused.is_connect() && !refused.is_timeout(), "{refused:?}");
    }
}
