//! The machine and the programs of the measurement.

use std::fs;
use std::path::Path;

use peers::error::{Context, Result};
use serde::Serialize;
use stack::Stack;
use stack::process::Spec;
use stack::ready::clamd_version;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// This machine, and the versions of all programs.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Machine {
    pub(super) date: String,
    pub(super) cpu: String,
    pub(super) cores: usize,
    pub(super) memory_mib: u64,
    pub(super) kernel: String,
    pub(super) rabbitmq: String,
    pub(super) clamd: String,
    /// The engine has only the EICAR test signature, which makes it as fast as possible.
    pub(super) test_signatures_only: bool,
    pub(super) juicefs: String,
    /// Size of the daemon's program, in bytes.
    pub(super) binary_bytes: u64,
}

impl Machine {
    /// Collects the information.
    ///
    /// # Errors
    /// When the broker does not return its version, or the daemon's program is missing.
    pub(super) fn look(stack: &Stack, binary: &Path) -> Result<Self> {
        let memory = field("/proc/meminfo", "MemTotal");
        let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        let settings = stack.settings();
        let gateway = stack.service("gateway").spec()?;
        Ok(Self {
            date: OffsetDateTime::now_utc().format(&Rfc3339).context("date")?,
            cpu: cpu(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: kib >> 10,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            rabbitmq: stack.rabbitmqctl(&["version"])?.trim().to_owned(),
            clamd: clamd_version(&settings.clamd_socket).unwrap_or_default().trim().to_owned(),
            test_signatures_only: settings.test_signatures_only,
            juicefs: version_of(&gateway.program),
            binary_bytes: binary.metadata().context(binary.display())?.len(),
        })
    }
}

/// The processor's name.
pub(super) fn cpu() -> String {
    field("/proc/cpuinfo", "model name")
}

fn read(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

/// The value of the first line `name: value` in a file.
fn field(file: &str, name: &str) -> String {
    let text = read(file);
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

/// The output of a program for its version; empty when it fails.
fn version_of(program: &Path) -> String {
    let spec = Spec::new(program, Path::new("/")).arg("version");
    let output = spec.command().output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}
