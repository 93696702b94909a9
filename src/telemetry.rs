//! Logs: constant sentences with fields, to standard error, as text or JSON.

use tracing_subscriber::EnvFilter;

/// How this process logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logging {
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
pub fn init(logging: Logging) {
    let level = match (logging.quiet, logging.verbose) {
        (true, _) => "error",
        // notify warns when a directory it watches goes away, which is no news: it is watched again.
        (false, 0) => "warn,notify=error",
        (false, 1) => "steadfast=info,warn,notify=error",
        (false, _) => "steadfast=debug,info,notify=error",
    };
    let filter = EnvFilter::try_from_env("STEADFAST_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call in one process (tests) changes nothing.
    let _ = if logging.json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(logging.color).with_target(false).without_time().try_init()
    };
}
