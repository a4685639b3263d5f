//! A clamd of a test's own, with limits of the test's choice.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::eicar::signatures;
use crate::error::{Context, Error, Result};
use crate::process::{tail, which};
use crate::ready::clamd_version;

const PATIENCE: Duration = Duration::from_secs(30);

/// A real clamd that knows the EICAR test file and nothing else; ends when dropped.
pub struct Clamd {
    child: Child,
    socket: PathBuf,
    _home: TempDir,
}

impl Clamd {
    /// Starts one with these lines in its configuration and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed or does not come up; with the end of its log.
    pub async fn start(lines: &[&str]) -> Result<Self> {
        let program = which("clamd").context("clamd is missing: run testing/setup.sh")?;
        let home = TempDir::with_prefix("avscan-clamd-").context("temp folder")?;
        let at = home.path().display();
        for folder in ["db", "tmp"] {
            fs::create_dir(home.path().join(folder)).context("clamd")?;
        }
        for (name, line) in signatures() {
            fs::write(home.path().join("db").join(name), line).context("clamd")?;
        }
        let user = if rustix::process::geteuid().is_root() { "User root\n" } else { "" };
        let (socket, log) = (home.path().join("clamd.sock"), home.path().join("log"));
        let configuration = format!(
            "Foreground yes\n{user}DatabaseDirectory {at}/db\nTemporaryDirectory {at}/tmp\n\
             LocalSocket {}\n{}\n",
            socket.display(),
            lines.join("\n")
        );
        fs::write(home.path().join("clamd.conf"), configuration).context("clamd.conf")?;
        let output = fs::File::create(&log).context("log")?;
        let child = Command::new(program)
            .arg(format!("--config-file={at}/clamd.conf"))
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("log")?)
            .stderr(output)
            .spawn()
            .context("clamd")?;
        let clamd = Self { child, socket, _home: home };
        let started = Instant::now();
        while clamd_version(&clamd.socket).is_none() {
            if started.elapsed() > PATIENCE {
                return Err(Error::new(format!("clamd does not come up:\n{}", tail(&log, 5))));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(clamd)
    }

    /// The socket that it listens on.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Clamd {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
