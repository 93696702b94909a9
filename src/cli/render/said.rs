//! What is said on standard error: sentences with hints for people, or with `--log-format json` one JSON object per
//! line, like the logs between them. Data for standard output belongs in [`super`].

use std::io::Write;
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
        write(format_args!("{line}"));
        return;
    }
    match level {
        Level::Error => {
            let label = AnsiColor::Red.on_default().bold();
            write(format_args!("{} {message}", styled("error:", label, color)));
        }
        Level::Warn | Level::Info => write(format_args!("{message}")),
    }
    print_hints(hints, color);
}

/// A line on standard error. Nobody is told when it cannot be written (a terminal that was closed, a log on a full disk):
/// there is no other place to say it, and `run` is to go on.
fn write(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// Writes hints for people.
pub(super) fn print_hints(hints: &[String], color: bool) {
    let label: Style = AnsiColor::Cyan.on_default().bold();
    for hint in hints {
        write(format_args!("{} {hint}", styled("hint:", label, color)));
    }
}
