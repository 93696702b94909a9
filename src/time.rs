//! Points in time as text. The one place that words them: neither a clock nor Podman is bound to the years that RFC 3339
//! knows.

use std::time::{Duration, SystemTime};

/// 9999-12-31T23:59:59 in seconds since 1970.
const LAST_SECOND: u64 = 253_402_300_799;

/// RFC 3339 in UTC, to the second. What lies before 1970 or after 9999 is told as the first or last second between.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(within_reach(time)).to_string()
}

/// As [`rfc3339`], to the millisecond.
pub(crate) fn rfc3339_millis(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(within_reach(time)).to_string()
}

/// As [`rfc3339`], to the microsecond.
pub(crate) fn rfc3339_micros(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(within_reach(time)).to_string()
}

/// As [`rfc3339`], as exact as it is known.
pub(crate) fn rfc3339_exact(time: SystemTime) -> String {
    humantime::format_rfc3339(within_reach(time)).to_string()
}

/// The nearest moment that can be formatted: humantime fails in `Display` for any other, and so would `to_string`.
fn within_reach(time: SystemTime) -> SystemTime {
    time.clamp(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(LAST_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_moment_has_words() {
        let epoch = SystemTime::UNIX_EPOCH;
        let day = Duration::from_secs(86_400);
        let furthest = epoch.checked_add(Duration::from_secs(i64::MAX as u64)).unwrap();
        for (time, words) in [
            (epoch - 700_000 * day, "1970-01-01T00:00:00Z"),
            (epoch - day, "1970-01-01T00:00:00Z"),
            (epoch + day, "1970-01-02T00:00:00Z"),
            (epoch + Duration::from_secs(LAST_SECOND), "9999-12-31T23:59:59Z"),
            (epoch + Duration::from_secs(LAST_SECOND + 1), "9999-12-31T23:59:59Z"),
            (furthest, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(time), words);
            let exact = [rfc3339_millis(time), rfc3339_micros(time), rfc3339_exact(time)];
            assert!(exact.iter().all(|text| text.starts_with(&words[..19]) && humantime::parse_rfc3339(text).is_ok()));
        }
        assert_eq!(rfc3339_millis(epoch + Duration::from_millis(1500)), "1970-01-01T00:00:01.500Z");
    }
}
