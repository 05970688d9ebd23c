//! Sizes and times as a person reads them, and durations as CometBFT's settings have
//! them. Pure.

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

/// A duration as Go writes it: `168h0m0s`, `1.5h`, `300ms`, `0`. Nothing where it is
/// none, or a negative one.
pub(super) fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, next) = after.split_at(unit.unwrap_or(after.len()));
        let factor = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * factor;
        if next.is_empty() {
            return Duration::try_from_secs_f64(seconds).ok();
        }
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, expected_ms) in [
            ("168h0m0s", Some(604_800_000)),
            ("1h30m", Some(5_400_000)),
            ("1.5h", Some(5_400_000)),
            ("300ms", Some(300)),
            ("5s", Some(5_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("0h0m0s", Some(0)),
            ("+2m", Some(120_000)),
            ("2500us", Some(2)),
            ("", None),
            ("-1s", None),
            ("15", None),
            ("s", None),
            ("7d", None),
            ("1h 2m", None),
            ("1..5h", None),
        ] {
            let found = go_duration(text).map(|time| time.as_millis());
            assert_eq!(found, expected_ms, "{text:?}");
        }
    }

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
