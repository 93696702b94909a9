//! observe → plan → act → observe, until there is nothing left to do.
//!
//! There is no barrier between waves: as soon as a step ends that others may have waited for, the world is observed and planned
//! for again, and whatever is ready starts. What is to be done is decided in [`crate::plan`] and done in [`crate::act`]. *When* is
//! decided in `core`, a state machine without a clock, for a single convergence ([`Reconciler`]) and for one that is kept up
//! ([`run::Runner`]) alike; `driver` performs it.

mod core;
mod driver;
mod event;
pub(crate) mod holder;
pub mod journal;
pub mod lock;
mod options;
pub mod report;
pub mod run;
mod trigger;

use std::sync::Arc;
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;

pub use options::{Awaited, Options, Refusal, Reporter, Silent};
pub use report::{Problem, Report, TakenStep};

use self::core::{Goal, How, Mode, Verdict};
use crate::backend::{Engine, Inside, Store, Vm, World};
use crate::handles::Scratch;
use crate::model::{Desired, Observed};
use crate::observe::{ManifestFault, look_at_published, observe};
use crate::plan::{Plan, Takedown, plan};
use driver::{Context, Driver, complete};
use journal::Journal;
use run::Revision;

/// What a convergence works with.
pub struct Reconciler<'a, V, E, S> {
    /// The world.
    pub world: &'a World<V, E, S>,
    /// What is wanted.
    pub desired: &'a Desired,
    /// How to go about it.
    pub options: &'a Options,
    /// Who hears of it.
    pub reporter: &'a dyn Reporter,
    /// Where it is written down.
    pub journal: &'a Journal,
    /// Where handles are kept.
    pub scratch: &'a Scratch,
    /// Cancelled when it is to stop: downloads and loads are dropped, container steps are finished.
    pub cancel: CancellationToken,
}

impl<V, E, S> std::fmt::Debug for Reconciler<'_, V, E, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reconciler").field("name", &self.desired.name).finish_non_exhaustive()
    }
}

impl<V: Vm, E: Engine + Inside, S: Store> Reconciler<'_, V, E, S> {
    /// Observes once and plans.
    pub async fn plan(&self) -> (Observed, Plan, Option<ManifestFault>) {
        let published = look_at_published(&self.world.store, self.desired).await;
        let observed = observe(self.world, self.desired, &published).await;
        let plan = plan(self.desired, &observed, &self.options.policy);
        (observed, plan, published.fault)
    }

    /// Drives the world to what is desired, and proves it.
    ///
    /// # Errors
    /// When it would be too dangerous to begin.
    pub async fn converge(&self) -> Result<Report, Refusal> {
        self.drive(Goal::Wanted).await
    }

    /// Removes everything the state file owns, and proves it. With `vm`, the virtual machine is part of that.
    ///
    /// # Errors
    /// None today.
    pub async fn down(&self, what: Takedown) -> Result<Report, Refusal> {
        self.drive(Goal::Gone(what)).await
    }

    async fn drive(&self, goal: Goal) -> Result<Report, Refusal> {
        let outside = Context {
            world: self.world,
            options: self.options,
            reporter: self.reporter,
            journal: self.journal,
            scratch: self.scratch,
            is_alone: &|_| true,
            wall: &SystemTime::now,
        };
        let mode = Mode::Once { timeout: self.options.timeout, wait: self.options.wait, goal };
        let revision = Revision { desired: Arc::new(self.desired.clone()), error: None };
        let draft = match Driver::new(outside, mode, revision, None, &self.cancel).drive().await {
            Verdict::Done(draft) => *draft,
            Verdict::Refused(refusal) => return Err(refusal),
            Verdict::Stopped | Verdict::OtherRuntime => unreachable!("somebody waits for what a convergence comes to"),
        };
        if draft.how == How::Proved {
            self.world.engine.finish().await;
        }
        let report = complete(&self.world.engine, draft).await;
        self.journal.pass(&report).await;
        Ok(report)
    }
}
