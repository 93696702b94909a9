//! What is said on standard error: sentences with hints for people, or with `--log-format json` one JSON object per
//! line, like the logs between them. Data for standard output belongs in [`super`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::styled;

/// Of the process, as the choice of colours is.
static AS_JSON: AtomicBool = AtomicBool::new(false);

/// From now on, everything is said as JSON.
pub fn write_json_globally() {
    AS_JSON.store(true, Ordering::Relaxed);
}

/// Whether it is said as JSON.
pub fn is_json() -> bool {
    AS_JSON.load(Ordering::Relaxed)
}

/// How much it matters. Only an error says so to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    /// What is wanted could not be done.
    Error,
    /// It was not all done.
    Warn,
    /// As it goes on.
    Info,
}

/// One line, with the names that the lines of the log have.
#[derive(Debug, Serialize)]
struct Line<'a> {
    timestamp: String,
    level: Level,
    message: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    hints: &'a [String],
}

/// Says a sentence, then what may help, one line each.
pub fn say(level: Level, message: &str, hints: &[String], color: bool) {
    if is_json() {
        let timestamp = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
        // Strings alone: there is nothing in it that JSON does not have.
        let line = serde_json::to_string(&Line { timestamp, level, message, hints }).unwrap_or_default();
        anstream::eprintln!("{line}");
        return;
    }
    match level {
        Level::Error => {
            let label = AnsiColor::Red.on_default().bold();
            anstream::eprintln!("{} {message}", styled("error:", label, color));
        }
        Level::Warn | Level::Info => anstream::eprintln!("{message}"),
    }
    print_hints(hints, color);
}

/// Writes hints for people.
pub(super) fn print_hints(hints: &[String], color: bool) {
    let label: Style = AnsiColor::Cyan.on_default().bold();
    for hint in hints {
        anstream::eprintln!("{} {hint}", styled("hint:", label, color));
    }
}
