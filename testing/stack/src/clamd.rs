//! A clamd for one test, with limits of the test's choice.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use peers::eicar::{hex, signatures};
use peers::error::{Context, Error, Result};
use rustix::process::Signal;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::process::{Identity, tail, which};
use crate::ready::clamd_version;

/// The largest object that clamd takes, in bytes; it reduces larger limits to that.
pub const LARGEST: u64 = 2_147_483_645;

const PATIENCE: Duration = Duration::from_secs(30);

/// The signatures that an engine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    /// The EICAR test file.
    Eicar,
    /// A hash that no file has: without any signature clamd does not start.
    Nothing,
}

/// A real clamd with its own database; ends when dropped.
pub struct Clamd {
    child: Child,
    home: TempDir,
}

impl Clamd {
    /// Starts one with these lines in its configuration and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed or does not come up; with the end of its log.
    pub async fn start(lines: &[&str]) -> Result<Self> {
        Self::start_with(lines, &[]).await
    }

    /// The same with more files in its database folder, by name.
    ///
    /// # Errors
    /// As [`Clamd::start`].
    pub async fn start_with(lines: &[&str], database: &[(&str, String)]) -> Result<Self> {
        let home = TempDir::with_prefix("avscan-clamd-").context("temp folder")?;
        let at = home.path().display();
        for folder in ["db", "tmp"] {
            fs::create_dir(home.path().join(folder)).context("clamd")?;
        }
        let user = if rustix::process::geteuid().is_root() { "User root\n" } else { "" };
        let configuration = format!(
            "Foreground yes\n{user}DatabaseDirectory {at}/db\nTemporaryDirectory {at}/tmp\n\
             LocalSocket {at}/clamd.sock\nFixStaleSocket yes\n{}\n",
            lines.join("\n")
        );
        fs::write(home.path().join("clamd.conf"), configuration).context("clamd.conf")?;
        fill(home.path(), Database::Eicar)?;
        for (name, text) in database {
            fs::write(home.path().join("db").join(name), text).context(name)?;
        }
        let clamd = Self { child: spawn(home.path())?, home };
        clamd.wait_ready().await?;
        Ok(clamd)
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        // An error means that the child has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Starts it again, after ending it if it runs, and waits until it answers.
    ///
    /// # Errors
    /// When it does not come up; with the end of its log.
    pub async fn restart(&mut self, database: Database) -> Result<()> {
        self.kill();
        fill(self.home.path(), database)?;
        self.child = spawn(self.home.path())?;
        self.wait_ready().await
    }

    /// Stops it with SIGSTOP: connections are still accepted, but nothing is answered.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Continues it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Makes it read its database again, as freshclam does.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn reload(&self) -> Result<()> {
        let mut stream = UnixStream::connect(self.socket()).context("clamd")?;
        stream.write_all(b"zRELOAD\0").context("clamd")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("clamd")?;
        answer.starts_with("RELOADING").then_some(()).context(format!("reload: {answer}"))
    }

    /// Adds a signature of exactly this content, as administrators do, and starts it again. Source of the
    /// format: <https://docs.clamav.net/manual/Signatures/HashSignatures.html>
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn add_signature(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let hash = hex(&Sha256::digest(content));
        let line = format!("{hash}:{}:{name}\n", content.len());
        fs::write(self.home.path().join("db/local.hsb"), line).context("local.hsb")?;
        self.restart(Database::Eicar).await
    }

    /// Has it find, under this name, whatever begins with `start`, or no longer: by a signature that it loads
    /// while scans go on, as it does after an update. Returns once it is in force. Source of the format:
    /// <https://docs.clamav.net/manual/Signatures/ExtendedSignatures.html>
    ///
    /// # Errors
    /// When it does not answer, or does not load it in time.
    pub async fn find_start(&self, name: &str, start: &[u8], wanted: bool) -> Result<()> {
        let file = self.home.path().join("db/start.ndb");
        if wanted {
            fs::write(&file, format!("{name}:0:0:{}\n", hex(start))).context("start.ndb")?;
        } else {
            fs::remove_file(&file).context("start.ndb")?;
        }
        self.reload()?;
        let (began, probe) = (Instant::now(), [start, &[0; 64]].concat());
        while self.finds(&probe)? != wanted {
            if began.elapsed() > PATIENCE {
                return Err(Error::new("clamd does not load its database"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Whether it finds something in a short content.
    fn finds(&self, content: &[u8]) -> Result<bool> {
        let mut stream = UnixStream::connect(self.socket()).context("clamd")?;
        let length = u32::try_from(content.len()).context("a short content")?.to_be_bytes();
        let command = [b"zINSTREAM\0", &length[..], content, &[0; 4]].concat();
        stream.write_all(&command).context("clamd")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("clamd")?;
        Ok(answer.ends_with(" FOUND\0"))
    }

    /// The socket that it listens on.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.home.path().join("clamd.sock")
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let process = Identity::of(self.child.id()).context("clamd does not run")?;
        process.signal(signal).then_some(()).context("clamd does not run")
    }

    async fn wait_ready(&self) -> Result<()> {
        let started = Instant::now();
        while clamd_version(&self.socket()).is_none() {
            if started.elapsed() > PATIENCE {
                let log = tail(&self.home.path().join("log"), 5);
                return Err(Error::new(format!("clamd does not come up:\n{log}")));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

impl Drop for Clamd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn fill(home: &Path, database: Database) -> Result<()> {
    let folder = home.join("db");
    for (name, line) in signatures() {
        let text = match database {
            Database::Eicar => line,
            Database::Nothing if name.starts_with("eicar.h") => {
                format!("{}:1:Nothing\n", "0".repeat(32))
            }
            Database::Nothing => String::new(),
        };
        let file = folder.join(name);
        if text.is_empty() {
            drop(fs::remove_file(file));
        } else {
            fs::write(file, text).context("clamd")?;
        }
    }
    Ok(())
}

fn spawn(home: &Path) -> Result<Child> {
    let program = which("clamd").context("clamd is missing: run testing/setup.sh")?;
    let output = fs::File::create(home.join("log")).context("log")?;
    Command::new(program)
        .arg(format!("--config-file={}", home.join("clamd.conf").display()))
        .stdin(Stdio::null())
        .stdout(output.try_clone().context("log")?)
        .stderr(output)
        .spawn()
        .context("clamd")
}
