//! Numbers for people.

/// The steps of a size, from 1024 bytes on.
const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// A count with separators: `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join(",")
}

/// A number of bytes with its unit: `1.5 GiB`. Rounded down.
pub(crate) fn bytes(number: u64) -> String {
    let mut scale = 1_u64;
    let mut unit = None;
    for name in UNITS {
        if number / scale < 1024 {
            break;
        }
        scale = scale.saturating_mul(1024);
        unit = Some(name);
    }
    let Some(unit) = unit else { return format!("{number} B") };
    let (whole, rest) = (number / scale, number % scale);
    // The rest is below 2^60, so this does not overflow.
    format!("{whole}.{} {unit}", rest * 10 / scale)
}

/// A share in tenths of a per cent, rounded down, so that 100 % means all. At least one for a part
/// that is there.
pub(crate) fn permille(part: u64, whole: u64) -> u64 {
    let share = u128::from(part) * 1000 / u128::from(whole.max(1));
    let share = u64::try_from(share).unwrap_or(u64::MAX);
    if part > 0 { share.max(1) } else { 0 }
}

/// A share as text: `99.9 %`.
pub(crate) fn share(part: u64, whole: u64) -> String {
    let share = permille(part, whole);
    if share == 1 && u128::from(part) * 1000 < u128::from(whole) {
        return "<0.1 %".to_owned();
    }
    format!("{}.{} %", share / 10, share % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_separators() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (12_345_678, "12,345,678")]
        {
            assert_eq!(count(number), text);
        }
    }

    #[test]
    fn sizes_have_the_largest_unit_that_fits() {
        for (number, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1023.9 KiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn only_all_is_a_hundred_per_cent_and_only_nothing_is_none() {
        for (part, whole, text) in [
            (0, 0, "0.0 %"),
            (0, 7, "0.0 %"),
            (7, 7, "100.0 %"),
            (9_999, 10_000, "99.9 %"),
            (1, 10_000, "<0.1 %"),
            (1, 1000, "0.1 %"),
            (u64::MAX, u64::MAX, "100.0 %"),
        ] {
            assert_eq!(share(part, whole), text);
        }
    }
}
