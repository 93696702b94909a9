//! Words for people and JSON for programs. The only place that writes to standard output.

#[cfg(test)]
mod answers;
pub(crate) mod errors;
#[cfg(fuzzing)]
pub mod fuzzing;
pub(crate) mod history;
mod markdown;
mod meter;
mod past;
pub(crate) mod plan;
pub(crate) mod progress;
pub(crate) mod report;
pub(crate) mod said;
pub(crate) mod status;
pub(super) mod terminal;
pub(crate) mod units;
pub(crate) mod why;
pub(crate) mod workspace;

use std::io::Write;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::{CliError, ExitStatus, Format};
use crate::visible::acts;
pub(super) use terminal::styled;

/// Green: something comes to be.
pub(super) const ADD: Style = AnsiColor::Green.on_default();
/// Yellow: something changes.
pub(super) const CHANGE: Style = AnsiColor::Yellow.on_default();
/// Red: something goes.
pub(super) const REMOVE: Style = AnsiColor::Red.on_default();
/// Dim: what is only said beside.
pub(super) const ASIDE: Style = Style::new().dimmed();
/// Bold.
pub(super) const STRONG: Style = Style::new().bold();

/// Writes what is for people to standard output. A reader that went away is no error.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    print_more(text).map(|_| ())
}

/// Writes what is for people to standard output. Yields whether somebody still reads it.
pub(super) fn print_more(text: &str) -> Result<bool, CliError> {
    print_raw(&terminal::finish(text))
}

/// Writes to standard output as it is: scripts and data. Yields whether somebody still reads it.
pub(super) fn print_raw(text: &str) -> Result<bool, CliError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(err) if err.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(err) => Err(CliError::new(ExitStatus::Error, format!("cannot write to standard output: {err}"))),
        Ok(()) => Ok(true),
    }
}

/// Writes what is for programs, pretty and with a final newline: JSON, or the same in YAML.
pub(super) fn print_data(format: Format, value: &impl Serialize) -> Result<(), CliError> {
    print_raw(&data(format, value)?).map(|_| ())
}

fn data(format: Format, value: &impl Serialize) -> Result<String, CliError> {
    let cannot =
        |err: &dyn std::fmt::Display| CliError::new(ExitStatus::Error, format!("cannot serialize the answer: {err}"));
    if format == Format::Yaml {
        let text = serde_yaml::to_string(value).map_err(|err| cannot(&err))?;
        // Marks that turn the direction of writing are not escaped in YAML. JSON is YAML too, and there they are.
        if !text.contains(|c| acts(c) && c != '\n') {
            return Ok(text);
        }
    }
    let text = serde_json::to_string_pretty(value).map_err(|err| cannot(&err))? + "\n";
    Ok(terminal::json(&text).into_owned())
}

/// Waits until nobody reads standard output any more (`… | head`). For ever, where it is no pipe or socket.
pub(super) async fn reader_gone() {
    use rustix::event::{PollFd, PollFlags, poll};

    // Blocked, not polling: an error or a hang-up is reported whatever is asked for.
    let gone = tokio::task::spawn_blocking(|| {
        let out = std::io::stdout();
        loop {
            let mut fds = [PollFd::new(&out, PollFlags::empty())];
            match poll(&mut fds, None) {
                Ok(_) => return !fds[0].revents().contains(PollFlags::NVAL),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    });
    if !matches!(gone.await, Ok(true)) {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_in_yaml_does_nothing_to_a_terminal() {
        for text in ["plain", "a\nb\tc", "\u{1b}[2J", "\u{202e}x", "\u{85}\u{2028}\u{9b}", "\u{feff}"] {
            let value = serde_json::json!({ "a": [text] });
            let written = data(Format::Yaml, &value).unwrap();
            assert!(!written.contains(|c| acts(c) && c != '\n'), "{written:?}");
            assert_eq!(serde_yaml::from_str::<serde_json::Value>(&written).unwrap(), value, "{written}");
        }
        assert_eq!(data(Format::Yaml, &["a"]).unwrap(), "- a\n");
    }
}
