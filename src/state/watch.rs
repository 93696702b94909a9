//! Watching the state file, its env files and the Lima template, and telling of every revision that says something else.
//!
//! An event only says "observe again": then the watches are set anew along every link, all files are read, and what counts
//! is whether their bytes changed. A bad edit keeps the last good one. What a revision means for the machine belongs in
//! [`crate::reconcile`].

pub(super) mod chain;
mod notifier;
mod reading;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Loaded, StateError};
use notifier::{ChangeSource, Notifier};
pub(crate) use notifier::{PollReason, WatchMode};
use reading::{Look, Reading};

/// What the state file says now.
#[derive(Debug, Clone)]
pub(crate) enum Revision {
    /// It is valid.
    Good(Arc<Loaded>),
    /// It is not there, cannot be read, or is not valid; an empty file is not valid either.
    Bad(Arc<StateError>),
}

impl Revision {
    /// What is wrong, when something is.
    pub(crate) fn error(&self) -> Option<&Arc<StateError>> {
        match self {
            Revision::Good(_) => None,
            Revision::Bad(error) => Some(error),
        }
    }
}

/// How patiently to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WatchOptions {
    /// How long it must be quiet after a change before the files are read, so that one save is one revision. Default
    /// 50 ms. Under constant writing they are read after ten times that.
    pub debounce: Duration,
    /// How often to look where no events are available, and while the file is bad, since not all that it needs may be known
    /// then. Default 2 s.
    pub poll: Duration,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self { debounce: Duration::from_millis(50), poll: Duration::from_secs(2) }
    }
}

/// A state file that is being watched, until this and its copies and receivers are dropped.
#[derive(Debug, Clone)]
pub(crate) struct Watching {
    /// What the file says. Its first value was read before [`watch()`] came back; a change is sent only when the bytes of
    /// one of the files differ, or there is another error than before.
    pub revisions: watch::Receiver<Revision>,
    /// How changes are noticed.
    pub mode: watch::Receiver<WatchMode>,
    ask: Arc<watch::Sender<u64>>,
    answered: watch::Receiver<u64>,
}

impl Watching {
    /// Has the files read again now, and waits until that is done and told. May be dropped; the files are read all the
    /// same.
    pub(crate) async fn reload_and_wait(&self) {
        let mut mine = 0;
        self.ask.send_modify(|asked| {
            *asked += 1;
            mine = *asked;
        });
        // An error means that the watching has ended, and so has the waiting.
        let _ = self.answered.clone().wait_for(|answered| *answered >= mine).await;
    }
}

/// Reads state files with `load`, and again whenever one, one of their env files or their Lima template changes, is replaced,
/// comes or goes, also through symbolic links on the way there.
///
/// `load` reads, checks and resolves the files; it may block, and is called on a thread for that. `files` must be paths,
/// not `-`; what is no regular file is an error of the revision.
///
/// # Panics
/// Outside a tokio runtime with time, and when `load` panics the first time.
pub(crate) async fn watch(
    files: &[PathBuf],
    options: WatchOptions,
    load: impl FnMut() -> Result<Loaded, StateError> + Send + 'static,
) -> Watching {
    watch_with(files, options, Box::new(load), ChangeSource::default()).await
}

type Load = Box<dyn FnMut() -> Result<Loaded, StateError> + Send>;

async fn watch_with(files: &[PathBuf], options: WatchOptions, load: Load, senses: ChangeSource) -> Watching {
    let wake = Arc::new(Notify::new());
    let notifier = Notifier::new(senses, wake.clone());
    let files = files.to_vec();
    let opened = tokio::task::spawn_blocking(move || Reading::open(files, load, notifier)).await;
    let (reading, revision, mode) = match opened {
        Ok(opened) => opened,
        Err(err) => match err.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => panic!("the runtime shut down"),
        },
    };
    let bad = revision.error().is_some();
    let (ask, asked) = watch::channel(0);
    let (answer, answered) = watch::channel(0);
    let (revisions, revisions_seen) = watch::channel(revision);
    let (modes, modes_seen) = watch::channel(mode);
    let task = Task { reading, options, wake, asked, answer, revisions, modes, bad, told: HashSet::new() };
    tokio::spawn(task.keep());
    Watching { revisions: revisions_seen, mode: modes_seen, ask: Arc::new(ask), answered }
}

struct Task {
    reading: Reading,
    options: WatchOptions,
    /// Told by events.
    wake: Arc<Notify>,
    asked: watch::Receiver<u64>,
    answer: watch::Sender<u64>,
    revisions: watch::Sender<Revision>,
    modes: watch::Sender<WatchMode>,
    bad: bool,
    /// The reasons for polling that were logged.
    told: HashSet<PollReason>,
}

impl Task {
    async fn keep(mut self) {
        let mode = self.modes.borrow().clone();
        self.tell(&mode);
        loop {
            let poll = self.bad || *self.modes.borrow() != WatchMode::Events;
            // Each of these may be dropped halfway: `closed` and `changed` by their documentation, `notified` because a
            // permit it was given and did not take goes back.
            tokio::select! {
                () = self.revisions.closed() => return,
                Ok(()) = self.asked.changed() => {}
                () = self.wake.notified() => tokio::select! {
                    () = gather(&self.wake, self.options.debounce) => {}
                    // Who asks does not wait for quiet.
                    Ok(()) = self.asked.changed() => {}
                },
                () = sleep(self.options.poll), if poll => {}
            }
            let asked = *self.asked.borrow_and_update();
            let mut reading = self.reading;
            let looked = tokio::task::spawn_blocking(move || {
                let look = reading.look();
                (reading, look)
            });
            let (reading, Look { revision, mode }) = match looked.await {
                Ok(looked) => looked,
                Err(err) if err.is_cancelled() => return,
                Err(_) => {
                    tracing::error!("the state file is no longer watched: reading it panicked");
                    return;
                }
            };
            self.reading = reading;
            self.modes.send_if_modified(|known| std::mem::replace(known, mode.clone()) != mode);
            self.tell(&mode);
            if let Some(revision) = revision {
                self.bad = revision.error().is_some();
                self.revisions.send_replace(revision);
            }
            self.answer.send_replace(asked);
        }
    }

    /// Logs that changes are noticed late, once for each reason.
    fn tell(&mut self, mode: &WatchMode) {
        if let WatchMode::Polling(reason) = mode
            && self.told.insert(reason.clone())
        {
            let every = humantime::format_duration(self.options.poll);
            tracing::warn!(%reason, %every, "polling the state file for changes");
        }
    }
}

/// Waits until nothing more came for `debounce`, at most ten times as long.
async fn gather(wake: &Notify, debounce: Duration) {
    let end = Instant::now() + debounce * 10;
    loop {
        let quiet = (Instant::now() + debounce).min(end);
        tokio::select! {
            biased;
            () = sleep_until(quiet) => return,
            () = wake.notified() => {}
        }
    }
}
