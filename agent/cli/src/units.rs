//! Numbers as a person reads them. The wire has milliseconds and bytes; here
//! they get a unit. Nothing here knows a time zone: times are UTC,
//! so that a line read at the rack can be compared with one read in the cloud.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last millisecond that RFC 3339 can write (the year has four digits).
const LAST_UNIX_MS: u64 = 253_402_300_799_999;

/// Now, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_millis() as u64)
}

/// A point in time, `2026-01-02T03:04:05Z`.
pub fn time(unix_ms: u64) -> String {
    let since = Duration::from_millis(unix_ms.min(LAST_UNIX_MS));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

/// A length of time in its two largest units, `3 m 12 s`.
pub fn duration(ms: u64) -> String {
    let s = ms / 1000;
    let (m, h, d) = (s / 60, s / 3600, s / 86_400);
    match () {
        () if s == 0 => format!("{ms} ms"),
        () if m == 0 => format!("{s} s"),
        () if h == 0 => format!("{m} m {} s", s % 60),
        () if d == 0 => format!("{h} h {} m", m % 60),
        () => format!("{d} d {} h", h % 24),
    }
}

/// A number of bytes, with one decimal where it tells something, `1.5 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let figure = |power: usize| format!("{:.1}", bytes as f64 / (1_u64 << (10 * power)) as f64);
    let power = bytes.checked_ilog2().unwrap_or(0) as usize / 10;
    // Just under a unit rounds up into it.
    let power = power + usize::from(figure(power) == "1024.0");
    format!("{} {}", figure(power).trim_end_matches(".0"), UNITS[power])
}

/// An amount in a UCUM unit, as [`purlin_proto::api::Bound`] has them; [`noun`] has the
/// rest.
pub fn amount(value: u64, unit: &str) -> String {
    match unit {
        "By" => size(value),
        "ms" => duration(value),
        "s" => duration(value.saturating_mul(1000)),
        _ => value.to_string(),
    }
}

/// What a unit counts (`{record}` is a `record`), if [`amount`] doesn't say it.
pub fn noun(unit: &str) -> String {
    match unit {
        "By" | "ms" | "s" => String::new(),
        _ => unit.trim_matches(['{', '}']).to_owned(),
    }
}

/// `1 batch`, `2 batches`.
pub fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_show_two_units() {
        let cases = [
            (0, "0 ms"),
            (999, "999 ms"),
            (1000, "1 s"),
            (192_000, "3 m 12 s"),
            (3_600_000, "1 h 0 m"),
            (90_000_000, "1 d 1 h"),
            (u64::MAX, "213503982334 d 14 h"),
        ];
        for (ms, expected) in cases {
            assert_eq!(duration(ms), expected);
        }
    }

    #[test]
    fn sizes_are_binary() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (28_835_840, "27.5 MiB"),
            (64 << 20, "64 MiB"),
            ((1 << 30) - 512, "1 GiB"),
            ((64 << 20) + 1, "64 MiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn times_past_the_year_9999_do_not_panic() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
