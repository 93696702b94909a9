//! Ctrl-C and SIGTERM: the first asks to stop cleanly, the second stops at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::render::errors::ExitStatus;
use super::render::said::{self, Level};

/// Listens until the process ends.
#[derive(Debug, Clone)]
pub(super) struct Signals {
    /// Cancelled by the first signal.
    pub token: CancellationToken,
    seen: Arc<AtomicU8>,
}

impl Signals {
    /// Starts to listen. `say` is printed at the first signal.
    pub(super) fn listen(say: &'static str) -> Self {
        let signals = Self { token: CancellationToken::new(), seen: Arc::new(AtomicU8::new(0)) };
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return signals;
        };
        let received = signals.clone();
        tokio::spawn(async move {
            loop {
                let status = tokio::select! {
                    _ = interrupt.recv() => ExitStatus::Interrupted,
                    _ = terminate.recv() => ExitStatus::Terminated,
                };
                if received.seen.swap(status as u8, Ordering::SeqCst) != 0 {
                    crate::files::live::abandon();
                    std::process::exit(i32::from(status as u8));
                }
                said::say(Level::Warn, say, &[], false);
                received.token.cancel();
            }
        });
        signals
    }

    /// Resolves at each SIGHUP, for as long as it lives.
    ///
    /// # Errors
    /// When the system does not let it be heard.
    pub(super) fn hangup() -> std::io::Result<tokio::signal::unix::Signal> {
        signal(SignalKind::hangup())
    }

    /// The exit status of the signal that was heard.
    pub(super) fn status(&self) -> Option<ExitStatus> {
        match self.seen.load(Ordering::SeqCst) {
            0 => None,
            code if code == ExitStatus::Terminated as u8 => Some(ExitStatus::Terminated),
            _ => Some(ExitStatus::Interrupted),
        }
    }
}
