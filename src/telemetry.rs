//! Logs: constant sentences with fields, to standard error, as text or JSON.

use std::fmt;

use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::Directive;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

use crate::visible::visible;

/// How this process logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Logging {
    /// Errors only.
    pub quiet: bool,
    /// 0 warns, 1 informs, 2 and more debug.
    pub verbose: u8,
    /// One JSON object per line instead of text.
    pub json: bool,
    /// Text with colours.
    pub color: bool,
}

/// Sets up logging for this process. `STEADFAST_LOG` (as `RUST_LOG` in other programs) overrides what the flags say.
pub(crate) fn init(logging: Logging) {
    let level = match (logging.quiet, logging.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "steadfast=info,warn",
        (false, _) => "steadfast=debug,info",
    };
    let filter = EnvFilter::try_from_env("STEADFAST_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let filter = filter.add_directive(watching()).add_directive(talking());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // What cannot be written would be told on standard error with `eprintln!`, which panics there.
        .log_internal_errors(false);
    // A second call in one process (tests) changes nothing.
    let _ = if logging.json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(logging.color).with_target(false).without_time().fmt_fields(fields()).try_init()
    };
}

/// What is heard of the watching of files: errors only, whatever is asked for. It logs each event of a watched directory, and
/// where the log is a file there, each line would be the next event. A directory that goes away, of which it warns, is not reported.
fn watching() -> Directive {
    "notify=error".parse().unwrap_or_else(|_| unreachable!("it is a directive"))
}

/// What bollard sends and what comes back, which may hold secrets, is not heard, whatever is asked for.
fn talking() -> Directive {
    "bollard::docker=info".parse().unwrap_or_else(|_| unreachable!("it is a directive"))
}

/// Fields as the usual format has them. Their values may be words of others, so what a terminal would obey in them is seen.
fn fields() -> impl for<'w> FormatFields<'w> + 'static {
    debug_fn(field).delimited(" ")
}

fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let value = format!("{value:?}");
    let value = visible(&value, |c| matches!(c, '\n' | '\t'));
    match (field.name(), writer.has_ansi_escapes()) {
        // What came from the `log` crate says so in fields of its own.
        (name, _) if name.starts_with("log.") => Ok(()),
        ("message", _) => writer.write_str(&value),
        (name, false) => write!(writer, "{name}={value}"),
        (name, true) => {
            let (name_style, mark_style) = (anstyle::Style::new().italic(), anstyle::Style::new().dimmed());
            write!(writer, "{name_style}{name}{name_style:#}{mark_style}={mark_style:#}{value}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_bollard_sends_is_logged_by_nobody() {
        for asked_for in ["trace", "bollard=trace", "bollard::docker=trace,debug"] {
            let filter = EnvFilter::new(asked_for).add_directive(watching()).add_directive(talking());
            let subscriber = tracing_subscriber::fmt().with_env_filter(filter).finish();
            tracing::subscriber::with_default(subscriber, || {
                assert!(!tracing::enabled!(target: "bollard::docker", tracing::Level::DEBUG), "{asked_for}");
                assert!(tracing::enabled!(target: "bollard::docker", tracing::Level::WARN), "{asked_for}");
            });
        }
    }

    #[test]
    fn a_value_in_a_log_line_moves_no_cursor() {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .with_target(false)
            .without_time()
            .fmt_fields(fields())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(error = %"a\u{1b}[2J\u{7}", agent = "b", "cannot use it");
        });
        let line = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(line.trim(), "WARN cannot use it error=a\\x1b[2J\\x07 agent=\"b\"");
    }
}
