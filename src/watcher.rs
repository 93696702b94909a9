//! A watcher of the file system, made so that a machine which refuses it a thread is told as that. notify (8.2) does not look
//! whether it got one, and panics at the first directory, and once more when it is dropped.

use notify::{Config, Error, EventHandler, RecommendedWatcher, Watcher};

/// Makes one.
///
/// # Errors
/// What the system says.
pub(crate) fn watcher(handler: impl EventHandler) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(handler)?;
    // The cheapest word that its thread answers.
    if watcher.configure(Config::default()).is_err() {
        std::mem::forget(watcher);
        return Err(Error::generic("no thread may be started"));
    }
    Ok(watcher)
}
