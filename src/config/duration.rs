//! Durations as people write them.

use std::time::Duration;

/// Seconds, minutes and hours, with the seconds that each has.
pub(super) const UP_TO_HOURS: &[(&str, u64)] = &[("s", 1), ("m", 60), ("h", 3600)];
/// Those, and days.
pub(super) const UP_TO_DAYS: &[(&str, u64)] = &[("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];

/// Reads a whole number, above 0, and one of these units.
pub(super) fn duration(text: &str, units: &[(&str, u64)]) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.starts_with(['0', '+']) {
        return None;
    }
    let (_, seconds) = units.iter().find(|(name, _)| *name == unit)?;
    Some(Duration::from_secs(digits.parse::<u64>().ok()?.checked_mul(*seconds)?))
}
