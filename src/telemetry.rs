//! Logs: constant sentences with fields, to standard error, as text or JSON.

use tracing_subscriber::EnvFilter;

use crate::cli::{LogFormat, Settings};

/// Sets up logging for this process. `STEADFAST_LOG` (as `RUST_LOG` in other programs) overrides what the flags say.
pub fn init(settings: &Settings) {
    let level = match (settings.quiet, settings.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "steadfast=info,warn",
        (false, _) => "steadfast=debug,info",
    };
    let filter = EnvFilter::try_from_env("STEADFAST_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call in one process (tests) changes nothing.
    let _ = match settings.log_format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.with_ansi(settings.color_stderr).with_target(false).without_time().try_init(),
    };
}
