//! What processes use of processor and memory, as the kernel counts it.

use std::collections::BTreeMap;
use std::fs;

use peers::error::{Context, Result};

use crate::stats::float;

/// Who is measured, by name and process id.
pub(super) type Parts = Vec<(&'static str, u32)>;

/// Seconds of user and system time since the start of each process. Children do not count: nobody
/// here has any that work.
pub(super) fn cpu(parts: &Parts) -> Result<BTreeMap<&'static str, f64>> {
    parts.iter().map(|(name, pid)| Ok((*name, cpu_of(*pid).context(name)?))).collect()
}

fn cpu_of(pid: u32) -> Result<f64> {
    let file = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&file).context(&file)?;
    // The command's name may hold blanks and parentheses.
    let fields = stat.rsplit_once(')').context(&file)?.1;
    let times = fields.split_ascii_whitespace().skip(11).take(2);
    let ticks: u64 = times.filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(float(ticks) / float(rustix::param::clock_ticks_per_second()))
}

/// The most memory that the process ever had resident, in KiB.
pub(super) fn peak_kib(pid: u32) -> Result<u64> {
    status(pid, "VmHWM:")
}

/// The memory that it has resident now, in KiB.
pub(super) fn resident_kib(pid: u32) -> Result<u64> {
    status(pid, "VmRSS:")
}

fn status(pid: u32, name: &str) -> Result<u64> {
    let file = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&file).context(&file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).context(name)?;
    line.split_ascii_whitespace().next().context(name)?.parse().context(name)
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
