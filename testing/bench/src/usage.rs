//! What processes use of processor and memory, as the kernel counts it.

use std::collections::BTreeMap;

use peers::error::{Context, Result};
use stack::process::{cpu_time, process};

/// Who is measured, by name and process id.
pub(super) type Parts = Vec<(&'static str, u32)>;

/// Seconds of user and system time since the start of each process. Children do not count: nobody
/// here has any that work.
pub(super) fn cpu(parts: &Parts) -> Result<BTreeMap<&'static str, f64>> {
    let seconds = |pid: u32| cpu_time(pid).map(|time| time.as_secs_f64());
    parts.iter().map(|(name, pid)| Ok((*name, seconds(*pid).context(name)?))).collect()
}

/// The most memory that the process ever had resident, in KiB.
pub(super) fn peak_kib(pid: u32) -> Result<u64> {
    process(pid)?.status().context("memory")?.vmhwm.context("memory")
}

/// The memory that it has resident now, in KiB.
pub(super) fn resident_kib(pid: u32) -> Result<u64> {
    process(pid)?.status().context("memory")?.vmrss.context("memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_something() {
        let own = std::process::id();
        assert!(cpu(&vec![("own", own)]).unwrap()["own"] >= 0.0);
        assert!(resident_kib(own).unwrap() > 0);
        assert!(peak_kib(own).unwrap() > 0);
    }
}
