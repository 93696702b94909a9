//! What an exit code and standard error mean. Three speak there: ssh and limactl of the way to Podman, and Podman itself.
//!
//! Podman's own failures end with a line `Error: …`; only then are its words looked at (the phrases stand in
//! [`super::super::error`], samples in `tests/fixtures/podman/errors-cli-4.3.1.txt`). A registry's `connection refused` among
//! them is no problem with reaching Podman, so that is told by ssh's and limactl's own failures, never by such words.

use std::io;

use super::run::Call;
use crate::backend::podman::error::{BODY_LIMIT, cut, kind_by_words, meaning, one_line, says};
use crate::backend::{EngineError, EngineErrorKind};

/// The exit code of ssh when it failed itself (so says ssh(1)).
const SSH: i32 = 255;

/// The command ended with a failure; `None` for the code when a signal ended it.
pub(super) fn refused(call: &Call, code: Option<i32>, stderr: &[u8]) -> EngineError {
    let text = String::from_utf8_lossy(stderr);
    // By the words as they are: a value may be one of those that are looked for.
    let (kind, _) = read(call, code, &text);
    let shown = call.secrets().redact(&text);
    let (_, sentence) = read(call, code, &shown);
    EngineError {
        command: Some(call.shown().to_owned()),
        exit_code: code,
        stderr: Some(cut(&shown, BODY_LIMIT).to_owned()),
        ..EngineError::new(kind, format!("failed to {}: {}", call.what(), meaning(&sentence)))
    }
}

fn read(call: &Call, code: Option<i32>, stderr: &str) -> (EngineErrorKind, String) {
    use EngineErrorKind::{CommandFailed, PermissionDenied, Timeout, TransportUnavailable};
    if let Some(sentence) = podmans(stderr) {
        let not_running =
            call.about() == crate::backend::podman::error::About::Healthcheck && sentence.ends_with("is not running");
        let kind = match kind_by_words(call.about(), &sentence) {
            Some(kind) => kind,
            None if not_running => EngineErrorKind::Conflict,
            None if says(&sentence, &["permission denied", "operation not permitted"]) => PermissionDenied,
            None if says(&sentence, &["timed out"]) => Timeout,
            None => CommandFailed,
        };
        return (kind, sentence);
    }
    let instance = call.instance();
    if let Some(words) = limactls(stderr) {
        return (TransportUnavailable, format!("limactl does not reach instance `{instance}` ({words})"));
    }
    let words = match plain(stderr) {
        words if words.is_empty() => one_line(stderr),
        words => words,
    };
    let told = if words.is_empty() { "it said nothing".to_owned() } else { words.clone() };
    match code {
        Some(SSH) => (TransportUnavailable, format!("ssh does not reach instance `{instance}` ({told})")),
        None => (TransportUnavailable, format!("limactl was ended by a signal ({told})")),
        Some(_) if words.contains("sudo: a password is required") => (
            PermissionDenied,
            format!("sudo in instance `{instance}` wants a password; allow the user to run podman without one"),
        ),
        Some(127) => (CommandFailed, format!("a program is missing in instance `{instance}` ({told})")),
        Some(_) if !words.is_empty() => (CommandFailed, words),
        Some(code) => (CommandFailed, format!("it ended with exit code {code}")),
    }
}

/// Podman's sentence: from `Error: ` on, less the log lines around it. `None` when it was not Podman that failed.
fn podmans(stderr: &str) -> Option<String> {
    let mut lines = stderr.lines().skip_while(|line| !line.starts_with("Error: "));
    let first = lines.next()?.trim_start_matches("Error: ").to_owned();
    Some(one_line(
        &std::iter::once(first.as_str()).chain(lines.filter(|line| !is_log(line))).collect::<Vec<_>>().join(" "),
    ))
}

/// What limactl gave up with: `time="…" level=fatal msg="…"`.
fn limactls(stderr: &str) -> Option<String> {
    let line = stderr.lines().find(|line| is_log(line) && line.contains(" level=fatal "))?;
    let message = line.split_once(" msg=")?.1.trim();
    let unquoted = serde_json::from_str::<String>(message).ok();
    Some(unquoted.unwrap_or_else(|| message.trim_matches('"').to_owned()))
}

/// Whether nobody complained, beyond log lines.
pub(super) fn is_silent(stderr: &[u8]) -> bool {
    let text = String::from_utf8_lossy(stderr);
    limactls(&text).is_none() && plain(&text).is_empty()
}

fn plain(stderr: &str) -> String {
    one_line(&stderr.lines().filter(|line| !is_log(line)).collect::<Vec<_>>().join(" "))
}

/// A line of the logger that Podman and limactl share.
fn is_log(line: &str) -> bool {
    line.starts_with("time=\"")
}

/// The child could not be started at all.
pub(super) fn not_started(call: &Call, program: &str, err: &io::Error) -> EngineError {
    let (kind, cause) = match err.kind() {
        io::ErrorKind::NotFound => (
            EngineErrorKind::TransportUnavailable,
            format!("`{program}` was not found; install Lima, or put limactl in the PATH"),
        ),
        io::ErrorKind::PermissionDenied => {
            (EngineErrorKind::PermissionDenied, format!("no permission to run `{program}`"))
        }
        _ => (EngineErrorKind::TransportUnavailable, format!("`{program}` cannot be run ({err})")),
    };
    EngineError {
        command: Some(call.shown().to_owned()),
        ..EngineError::new(kind, format!("failed to {}: {cause}", call.what()))
    }
}
