//! A private clamd that reports when a limit is exceeded.

use std::fs;

use peers::error::{Context, Result};

use super::database;
use super::plan::{Plan, write};
use crate::clamd::LARGEST;
use crate::process::{Spec, which};
use crate::state::{Ready, State};

/// The engine, with whatever virus database is available. With `no_cache` its cache of clean files
/// is off.
pub(super) fn plan(state: &mut State, no_cache: bool) -> Result<Plan> {
    let program = which("clamd").context("clamd is missing: run testing/setup.sh")?;
    let home = state.dir.join("clamd");
    for folder in ["db", "tmp"] {
        fs::create_dir_all(home.join(folder)).context("clamd")?;
    }
    state.settings.test_signatures_only = database::provide(&home.join("db"))?;

    let address = state.settings.clamd_tcp.clone();
    let (host, port) = address.split_once(':').context("an address has a port")?;
    // As root, clamd switches to the user named here, and another one could not read our folders.
    // As an ordinary user it must not get this line.
    let user = if rustix::process::geteuid().is_root() { "User root\n" } else { "" };
    let disabled = if no_cache { "yes" } else { "no" };
    let at = home.display();
    write(
        &home.join("clamd.conf"),
        format!(
            "Foreground yes\n{user}\
             DatabaseDirectory {at}/db\n\
             TemporaryDirectory {at}/tmp\n\
             LocalSocket {}\n\
             FixStaleSocket yes\n\
             TCPAddr {host}\n\
             TCPSocket {port}\n\
             LogTime yes\n\
             StreamMaxLength {LARGEST}\n\
             MaxFileSize {LARGEST}\n\
             MaxScanSize {}\n\
             AlertExceedsMax yes\n\
             AlertEncrypted yes\n\
             MaxScanTime 240000\n\
             DisableCache {disabled}\n\
             ConcurrentDatabaseReload yes\n\
             MaxThreads 32\n\
             MaxQueue 200\n\
             SelfCheck 0\n",
            state.settings.clamd_socket.display(),
            LARGEST * 4,
        ),
    )?;
    let spec = Spec::new(program, &home).arg(format!("--config-file={at}/clamd.conf"));
    // Loading the full database takes half a minute on a slow machine.
    Ok(Plan { name: "clamd", ready: Ready::Clamd(address.clone()), address, spec, patience: 180 })
}
