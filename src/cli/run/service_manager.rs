//! What systemd is told (`sd_notify(3)`). Nothing where there is none.

use std::time::Duration;

use sd_notify::NotifyState;

/// The service manager that started us, if one did.
#[derive(Debug, Clone)]
pub(super) struct ServiceManager {
    watchdog: Option<Duration>,
}

impl ServiceManager {
    pub(super) fn new() -> Self {
        // Told at half the time, as sd_watchdog_enabled(3) recommends.
        Self { watchdog: sd_notify::watchdog_enabled().map(|every| every / 2) }
    }

    /// How often it wants to hear that the loop is alive.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The first observation has been taken, or a reload is over.
    pub(super) fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// The loop is alive.
    pub(super) fn alive(&self) {
        tell(&[NotifyState::Watchdog]);
    }

    /// The files are being read again.
    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(err) => tracing::debug!(error = %err, "cannot tell the time to the service manager"),
        }
    }

    /// It is about to end.
    pub(super) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// A line for people.
    pub(super) fn status(&self, line: &str) {
        tell(&[NotifyState::Status(line)]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(err) = sd_notify::notify(state) {
        tracing::debug!(error = %err, "cannot tell the service manager");
    }
}
