//! Sizes and times as a person reads them. Pure.

use std::time::Duration;

/// `12.3 GB`; decimal, as CometBFT's own limits and rates are.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    let mut value = count as f64;
    let mut unit = "bytes";
    for next in UNITS {
        // 999.95 would be written as 1000.0.
        if value < 999.95 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    match unit {
        "bytes" => format!("{count} bytes"),
        unit => format!("{value:.1} {unit}"),
    }
}

/// `40 s`, `12 min`, `5 h`, `9 days`
pub(super) fn time(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds < 120 => format!("{seconds} s"),
        seconds if seconds < 2 * 3600 => format!("{} min", seconds / 60),
        seconds if seconds < 48 * 3600 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// How long so many bytes take at a rate, as [`time`] tells it.
pub(super) fn time_at(count: u64, bytes_per_s: u64) -> String {
    time(Duration::from_secs(count.div_ceil(bytes_per_s.max(1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_well() {
        for (count, expected) in [
            (0, "0 bytes"),
            (999, "999 bytes"),
            (5_120_000, "5.1 MB"),
            (999_999, "1.0 MB"),
            (12_300_000_000, "12.3 GB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
        for (seconds, expected) in [
            (40, "40 s"),
            (720, "12 min"),
            (18_000, "5 h"),
            (777_600, "9 days"),
        ] {
            assert_eq!(time(Duration::from_secs(seconds)), expected);
        }
        assert_eq!(time_at(51_200_000, 5_120_000), "10 s");
        assert_eq!(time_at(1, 0), "1 s");
    }
}
