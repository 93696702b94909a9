//! That others find `run`: its lock and its control socket, also after somebody removed them, with the state directory or the
//! whole root, while it runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;

use super::serve::Served;
use crate::cli::render::said::{Level, say};
use crate::cli::{CliError, Settings, ownership};
use crate::control::StateFiles;
use crate::control::server::Serving;
use crate::error::Chain;
use crate::reconcile::journal::Journal;
use crate::reconcile::lock::{Lock, LockError};
use crate::reconcile::run::Revision;

/// How often it is looked whether they are there.
const LOOK: Duration = Duration::from_secs(2);

/// What others find `run` by.
pub(super) struct Presence<'a> {
    pub settings: &'a Settings,
    /// What is wanted. Its name and root stay for as long as `run` does.
    pub revisions: watch::Receiver<Revision>,
    pub dir: PathBuf,
    pub lock: Option<Lock>,
    pub serving: Option<Serving>,
    pub served: Arc<Served>,
    pub journal: &'a Journal,
}

impl Presence<'_> {
    /// Puts back what is removed, for as long as it is polled. Ends when another `run` was faster.
    pub(super) async fn keep(&mut self) -> CliError {
        let mut problem = None;
        loop {
            tokio::time::sleep(LOOK).await;
            match self.put_back() {
                Ok(false) => {}
                Ok(true) => {
                    problem = None;
                    let dir = self.dir.display();
                    let message =
                        format!("files in `{dir}` were removed: the lock and the control socket are restored");
                    say(Level::Warn, &message, &[], self.settings.color_stderr);
                    self.journal.note("stateDirectoryRestored", json!({ "directory": dir.to_string() }));
                }
                Err(Lost::ToRun(err)) => return err,
                // Told once: it is tried again, and the agents need neither.
                Err(Lost::Otherwise(why)) => {
                    if problem.as_ref() != Some(&why) {
                        say(Level::Warn, &why, &[], self.settings.color_stderr);
                        problem = Some(why);
                    }
                }
            }
        }
    }

    fn put_back(&mut self) -> Result<bool, Lost> {
        let mut done = false;
        if let Some(lock) = &mut self.lock {
            done |= lock.put_back().map_err(|err| lost_lock(&err, &self.settings.files))?;
        }
        if let Some(serving) = &mut self.serving {
            // Where there is no lock to be put back, nothing has made the directory.
            crate::files::make_directory(&self.dir)
                .map_err(|err| Lost::Otherwise(format!("cannot recreate `{}`: {err}", self.dir.display())))?;
            done |= serving
                .put_back(self.served.clone())
                .map_err(|err| Lost::Otherwise(format!("the control socket cannot be restored: {}", Chain(&err))))?;
        }
        if done && self.lock.is_some() {
            let desired = self.revisions.borrow().desired.clone();
            ownership::put_back(self.settings, &desired).map_err(|err| {
                Lost::Otherwise(format!("cannot restore the record of which state file owns the name: {err}"))
            })?;
        }
        Ok(done)
    }

    /// Tells all clients that it is over, and releases the socket.
    pub(super) async fn end(self) {
        if let Some(serving) = self.serving {
            serving.stop().await;
        }
    }
}

/// Why something was not put back.
enum Lost {
    /// Another `run` keeps the state file now, and two would work against each other.
    ToRun(CliError),
    Otherwise(String),
}

fn lost_lock(err: &LockError, wanted: &StateFiles) -> Lost {
    match err {
        LockError::Held { holder: Some(holder), .. } if holder.is_run() => {
            Lost::ToRun(CliError::from_lock(err, wanted))
        }
        _ => Lost::Otherwise(format!("the lock cannot be restored: {}", Chain(err))),
    }
}
