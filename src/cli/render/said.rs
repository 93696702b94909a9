//! What is said on standard error: sentences with hints for people, or with `--log-format json` one JSON object per
//! line, like the logs between them. Data for standard output belongs in [`super`].

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::{styled, terminal};
use crate::control::StateFiles;

/// Of the process, as the choice of colours is.
static AS_JSON: AtomicBool = AtomicBool::new(false);

/// The state files that `-f` named, with it between them. Of the process, as the choice of colours is.
static FILE: OnceLock<String> = OnceLock::new();

/// From now on, commands in hints name these state files as well.
pub(crate) fn name_files_globally(files: &StateFiles) {
    // What came through a pipe cannot be named again.
    if !files.has_stdin() {
        let plain = |c: char| c.is_alphanumeric() || "/._-+@:,=".contains(c);
        let word = |file: String| match file.chars().all(plain) {
            true => file,
            false => format!("'{}'", file.replace('\'', r"'\''")),
        };
        let words: Vec<_> = files.iter().map(|file| word(file.display().to_string())).collect();
        let _ = FILE.set(words.join(" -f "));
    }
}

/// A hint whose commands work on the state file that `-f` named: before the verb, where every verb takes it.
fn with_file(hint: &str, file: Option<&String>) -> String {
    match file {
        // The publisher's side needs no state file, and may be elsewhere.
        Some(file) => hint
            .replace("`steadfast ", &format!("`steadfast -f {file} "))
            .replace(&format!("`steadfast -f {file} publish "), "`steadfast publish "),
        None => hint.to_owned(),
    }
}

/// From now on, everything is said as JSON.
pub(crate) fn write_json_globally() {
    AS_JSON.store(true, Ordering::Relaxed);
}

/// Whether it is said as JSON.
pub(crate) fn is_json() -> bool {
    AS_JSON.load(Ordering::Relaxed)
}

/// How much it matters. Only an error says so to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Level {
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
pub(crate) fn say(level: Level, message: &str, hints: &[String], color: bool) {
    if is_json() {
        let hints: &[String] = &hints.iter().map(|hint| with_file(hint, FILE.get())).collect::<Vec<_>>();
        let timestamp = crate::time::rfc3339_micros(SystemTime::now());
        // Strings alone: there is nothing in it that JSON does not have.
        let line = serde_json::to_string(&Line { timestamp, level, message, hints }).unwrap_or_default();
        write(&terminal::json(&line));
        return;
    }
    match level {
        Level::Error => {
            let label = AnsiColor::Red.on_default().bold();
            write(&terminal::finish(&format!("{} {message}", styled("error:", label, color))));
        }
        Level::Warn | Level::Info => write(&terminal::finish(message)),
    }
    print_hints(hints, color);
}

/// A line on standard error. Nobody is told when it cannot be written (a terminal that was closed, a log on a full disk):
/// there is no other place to say it, and `run` is to go on.
pub(super) fn write(line: &str) {
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// Writes hints for people.
pub(super) fn print_hints(hints: &[String], color: bool) {
    let label: Style = AnsiColor::Cyan.on_default().bold();
    for hint in hints {
        let hint = with_file(hint, FILE.get());
        write(&terminal::finish(&format!("{} {hint}", styled("hint:", label, color))));
    }
}

#[cfg(test)]
mod tests {
    use super::with_file;

    #[test]
    fn a_hint_keeps_the_file() {
        let hint = "`steadfast logs a` shows all; `steadfast doctor` too, `podman ps` not";
        let kept = with_file(hint, Some(&"x/s.yaml".to_owned()));
        assert_eq!(
            kept,
            "`steadfast -f x/s.yaml logs a` shows all; `steadfast -f x/s.yaml doctor` too, `podman ps` not"
        );
        assert_eq!(with_file(hint, None), hint);
    }
}
