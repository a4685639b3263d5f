//! Processor time and memory of processes, as counted by the kernel.

use std::collections::BTreeMap;

use peers::error::{Context, Result};
use stack::process::{cpu_time, process};

/// The measured processes, by name and process id.
pub(super) type Parts = Vec<(&'static str, u32)>;

/// User and system time since the start of each process, in seconds. Children do not count: no
/// process here has any that work.
pub(super) fn cpu(parts: &Parts) -> Result<BTreeMap<&'static str, f64>> {
    let seconds = |pid: u32| cpu_time(pid).map(|time| time.as_secs_f64());
    parts.iter().map(|(name, pid)| Ok((*name, seconds(*pid).context(name)?))).collect()
}

/// The peak resident memory of the process, in KiB.
pub(super) fn peak_kib(pid: u32) -> Result<u64> {
    process(pid)?.status().context("memory")?.vmhwm.context("memory")
}

/// The resident memory of the process now, in KiB.
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
