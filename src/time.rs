//! Points in time as text. The one place that words them: neither a clock nor Podman is bound to the years that RFC 3339
//! knows; and the one place that reads them.
//!
//! Of a calendar, time zones and leap seconds we need nothing but offsets, so `humantime`, which durations need anyway, does.

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

/// Reads what this file writes.
pub(crate) fn parse(text: &str) -> Result<SystemTime, humantime::TimestampError> {
    humantime::parse_rfc3339(text)
}

/// Reads what a person types: without the `T` and the `Z` as well.
pub(crate) fn parse_typed(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339_weak(text).ok().or_else(|| parse_with_offset(text))
}

/// Reads RFC 3339 with any offset: Podman 4 writes inspected times in the time zone of its machine.
pub(crate) fn parse_with_offset(text: &str) -> Option<SystemTime> {
    let utc = |time: &str| parse(&format!("{time}Z")).ok();
    if let Some(time) = text.strip_suffix(['Z', 'z']) {
        return utc(time);
    }
    let (time, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let moved = Duration::from_secs(hours.parse::<u64>().ok()? * 3600 + minutes.parse::<u64>().ok()? * 60);
    match offset.as_bytes().first()? {
        b'+' => utc(time)?.checked_sub(moved),
        b'-' => utc(time)?.checked_add(moved),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_and_what_is_no_time_is_none() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        for (text, time, typed) in [
            ("1970-01-02T00:00:00Z", at(86_400), at(86_400)),
            ("1970-01-02T00:00:00z", at(86_400), at(86_400)),
            ("1970-01-02 00:00:00", None, at(86_400)),
            ("1970-01-02T02:30:00+02:30", at(86_400), at(86_400)),
            ("1970-01-01T22:00:00-02:00", at(86_400), at(86_400)),
            ("0001-01-01T00:00:00Z", None, None),
            ("2026-04-24T10:00:00€1:0", None, None),
            ("+9999:", None, None),
            ("€1:0", None, None),
            ("", None, None),
        ] {
            assert_eq!((parse_with_offset(text), parse_typed(text)), (time, typed), "{text}");
        }
    }

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
