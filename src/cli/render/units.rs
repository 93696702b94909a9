//! Numbers as people read them.

use std::time::Duration;

use crate::plan::Moved;
pub(crate) use crate::sizes::about as bytes;

/// `60.00 MiB`, or `12.00 MiB of 60.00 MiB` where less than all of it travels.
pub(crate) fn moved(moved: Moved) -> String {
    match moved.transfer {
        Some(transfer) => format!("{} of {}", bytes(transfer), bytes(moved.bytes)),
        None => bytes(moved.bytes),
    }
}

/// A duration, short: `80ms`, `1.2s`, `3m 5s`.
pub(crate) fn short(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{}ms", duration.as_millis())
    } else if duration < Duration::from_secs(60) {
        format!("{:.1}s", duration.as_secs_f64())
    } else {
        humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
    }
}

/// Milliseconds for JSON.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `1 container`, `2 containers`.
pub(crate) fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
