//! The virus database: this machine's, a downloaded one, or EICAR alone.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use peers::eicar::signatures;
use peers::error::{Context, Result};

use super::plan::write;
use crate::place;
use crate::process::{Spec, which};

/// Where the packages keep the database.
const SYSTEM: &str = "/var/lib/clamav";

/// A download that gains no byte for this time is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest time of a download.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_mins(15);

/// Time after a failed download in which none is tried.
const RETRY_INTERVAL: Duration = Duration::from_hours(1);

/// Fills `folder`; returns whether there are only test signatures in it.
pub(super) fn provide(folder: &Path) -> Result<bool> {
    let wish = std::env::var("STACK_DATABASE").unwrap_or_default();
    if wish != "test" {
        let downloaded = place::shared("db")?;
        for source in [Path::new(SYSTEM), &downloaded] {
            if is_complete(source) {
                say!("[stack] virus database: using {}", source.display());
                return link_all(source, folder).map(|()| false);
            }
        }
        if (wish == "download" || !failed_lately(&downloaded)) && download(&downloaded) {
            return link_all(&downloaded, folder).map(|()| false);
        }
    }
    for (name, text) in signatures() {
        write(&folder.join(name), text)?;
    }
    say!(
        "[stack] virus database: ONLY THE EICAR TEST SIGNATURE is known to this engine \
         (no database here, none downloaded): good for tests, not for files that matter"
    );
    Ok(true)
}

fn is_complete(folder: &Path) -> bool {
    ["main", "daily"].iter().all(|name| {
        ["cvd", "cld"]
            .iter()
            .any(|kind| fs::File::open(folder.join(name).with_extension(kind)).is_ok())
    })
}

fn link_all(source: &Path, folder: &Path) -> Result<()> {
    for entry in fs::read_dir(source).context(source.display())? {
        let file = entry.context(source.display())?.path();
        let kind = file.extension().unwrap_or_default();
        let link = folder.join(file.file_name().context("a file has a name")?);
        if ["cvd", "cld", "cud", "hdb", "ndb", "sign"].iter().any(|known| kind == *known)
            && !link.exists()
        {
            symlink(&file, &link).context(link.display())?;
        }
    }
    Ok(())
}

fn failed_lately(folder: &Path) -> bool {
    let marker = folder.join("unreachable").metadata().and_then(|marker| marker.modified());
    marker.is_ok_and(|then| {
        SystemTime::now().duration_since(then).is_ok_and(|age| age < RETRY_INTERVAL)
    })
}

/// Runs freshclam once, until it ends or stalls.
fn download(folder: &Path) -> bool {
    say!("[stack] virus database: none on this machine, trying to download one");
    let outcome = fetch(folder);
    if let Err(error) = &outcome {
        say!("[stack] virus database: {error}");
        // Remembered for the next start. Without it, that start only tries again.
        drop(fs::write(folder.join("unreachable"), error.to_string()));
    }
    outcome.is_ok()
}

fn fetch(folder: &Path) -> Result<()> {
    let program = which("freshclam").context("freshclam is missing: run testing/setup.sh")?;
    let files = folder.join("files");
    fs::create_dir_all(&files).context(files.display())?;
    let owner = if rustix::process::geteuid().is_root() { "DatabaseOwner root\n" } else { "" };
    let config = folder.join("freshclam.conf");
    write(
        &config,
        format!(
            "DatabaseDirectory {}\n{owner}\
             DatabaseMirror database.clamav.net\n\
             MaxAttempts 1\n\
             ConnectTimeout 5\n\
             ReceiveTimeout 60\n\
             TestDatabases no\n",
            files.display()
        ),
    )?;
    let mut spec = Spec::new(program, folder).arg(format!("--config-file={}", config.display()));
    for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "SSL_CERT_FILE"] {
        if let Ok(value) = std::env::var(name) {
            spec = spec.env(name, value);
        }
    }
    let process = spec.spawn_detached(&folder.join("freshclam.log"))?;
    let start = Instant::now();
    let (mut size, mut progress, mut said) = (0, start, start);
    while process.alive() {
        std::thread::sleep(Duration::from_millis(200));
        let now = total_size(&files);
        if now > size {
            (size, progress) = (now, Instant::now());
        }
        if said.elapsed() > Duration::from_secs(10) {
            said = Instant::now();
            say!("[stack] virus database: {} MiB so far", size / (1 << 20));
        }
        if progress.elapsed() > STALL_TIMEOUT
            || start.elapsed() > DOWNLOAD_TIMEOUT
            || place::interrupted()
        {
            process.stop(Duration::from_secs(2));
        }
    }
    is_complete(&files)
        .then(|| files.read_dir().ok())
        .flatten()
        .context(format!("the download failed (log: {}/freshclam.log)", folder.display()))?
        .flatten()
        .try_for_each(|entry| fs::rename(entry.path(), folder.join(entry.file_name())))
        .context("moving the download")
}

fn total_size(folder: &Path) -> u64 {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(kind) if kind.is_dir() => total_size(&entry.path()),
            Ok(file) => file.len(),
            Err(_) => 0,
        })
        .sum()
}
