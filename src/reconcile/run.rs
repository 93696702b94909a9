//! `run`: the same convergence as `apply`'s, kept up. Whatever wakes it is only a hint to observe.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use super::core::{BackingOff, View};
pub use super::driver::Wall;
pub use super::event::Event;
pub use super::trigger::Trigger;

use super::core::{Mode, Verdict};
use super::driver::{Driver, RunInputs};
use super::journal::Journal;
use super::{Options, Report, Reporter};
use crate::backend::{Engine, Inside, Store, Vm, World};
use crate::handles::Scratch;
use crate::model::Desired;

/// What the state file says now.
#[derive(Debug, Clone)]
pub struct Revision {
    /// What is wanted: the newest that could be used.
    pub desired: Arc<Desired>,
    /// What is wrong with the file as it is, when it cannot be used.
    pub error: Option<String>,
}

/// Somebody asks for an observation now.
#[derive(Debug)]
pub enum Request {
    /// And for what comes of it: everything is tried at once.
    Reconcile {
        /// How long whoever asks waits.
        timeout: Duration,
        /// What failed before is tried again, although nothing else is wanted.
        retry_quarantined: bool,
        /// What came of it.
        reply: oneshot::Sender<Report>,
    },
    /// And for how things are: told once the view is not older than [`FRESH`].
    Look {
        /// The view is fresh.
        reply: oneshot::Sender<()>,
    },
}

/// A view of this age is as good as a new one to whoever asks how things are.
pub const FRESH: Duration = Duration::from_secs(2);

/// What `run` works with.
pub struct Runner<'a, V, E, S> {
    /// The world.
    pub world: &'a World<V, E, S>,
    /// How to go about it. Of the policy, `prune_cache` is asked anew for each observation.
    pub options: &'a Options,
    /// The maximum time between reconciliations. Spread over 90 % to 110 %.
    pub resync: Duration,
    /// What the state file says, and says next.
    pub revisions: watch::Receiver<Revision>,
    /// Who asks.
    pub requests: &'a mut mpsc::Receiver<Request>,
    /// Who hears of it.
    pub reporter: &'a dyn Reporter,
    /// Where it is written down.
    pub journal: &'a Journal,
    /// Where handles are kept.
    pub scratch: &'a Scratch,
    /// Where the newest view is shown.
    pub view: &'a watch::Sender<Option<Arc<View>>>,
    /// Whether nobody else shares the cache, so that what is not needed may go.
    pub is_alone: &'a (dyn Fn(&Desired) -> bool + Send + Sync),
    /// The clock on the wall.
    pub wall: &'a Wall,
    /// Called now and then while the loop is alive, at least every so often.
    pub heartbeat: Option<(Duration, &'a (dyn Fn() + Send + Sync))>,
    /// Cancelled when it is to stop: agents keep running.
    pub cancel: &'a CancellationToken,
}

impl<V, E, S> std::fmt::Debug for Runner<'_, V, E, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").field("resync", &self.resync).finish_non_exhaustive()
    }
}

/// Why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// The state file names another Podman: begin anew with that one.
    OtherRuntime,
}

impl<V: Vm, E: Engine + Inside, S: Store> Runner<'_, V, E, S> {
    /// Runs until it is cancelled.
    pub async fn run(mut self) -> Ended {
        let revision = self.revisions.borrow_and_update().clone();
        let kept = RunInputs {
            revisions: self.revisions,
            requests: self.requests,
            view: self.view,
            heartbeat: self.heartbeat,
            exits: None,
            tried_exits: false,
        };
        let driver = Driver::new(
            super::driver::Context {
                world: self.world,
                options: self.options,
                reporter: self.reporter,
                journal: self.journal,
                scratch: self.scratch,
                is_alone: self.is_alone,
                wall: self.wall,
            },
            Mode::Forever { resync: self.resync },
            revision,
            Some(kept),
            self.cancel,
        );
        match driver.drive().await {
            Verdict::OtherRuntime => Ended::OtherRuntime,
            Verdict::Stopped | Verdict::Done(_) | Verdict::Refused(_) => Ended::Stopped,
        }
    }
}
