//! A private clamd that reports its limits instead of hiding them.

use std::fs;

use peers::error::{Context, Result};

use super::database;
use super::plan::{Plan, write};
use crate::process::{Spec, which};
use crate::state::{Ready, State};

/// clamd itself ends at 2 GiB less 3 bytes and cuts larger values to that.
const LARGEST: u64 = 2_147_483_645;

/// The engine, with a virus database of whatever kind can be had. With `no_cache` it scans again what
/// it called clean before.
pub(super) fn plan(state: &mut State, no_cache: bool) -> Result<Plan> {
    let program = which("clamd").context("clamd is missing: run testing/setup.sh")?;
    let home = state.dir.join("clamd");
    for folder in ["db", "tmp"] {
        fs::create_dir_all(home.join(folder)).context("clamd")?;
    }
    state.settings.test_signatures_only = database::provide(&home.join("db"))?;

    let address = state.settings.clamd_tcp.clone();
    let (host, port) = address.split_once(':').context("an address has a port")?;
    // clamd gives up root for the account named here, and could then not
    // read our folders; as an ordinary user it must not be told at all.
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
