//! What a convergence remembers between its looks. It explains and limits; what is to be done is read off the world.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use super::{Awaited, Taken, Trouble};
use crate::act::{ActError, Disposition};
use crate::model::{AgentName, ContainerId, Observed, Phase, Reach};
use crate::plan::{Action, Plan, Step, StepKey, Waiting};
use crate::readiness::Unready;

/// What a convergence remembers between its looks.
#[derive(Default)]
pub(super) struct Memory {
    pub taken: Vec<Taken>,
    pub failed: BTreeMap<StepKey, Failed>,
    pub done: BTreeMap<(StepKey, String), u32>,
    pub started: BTreeMap<AgentName, ContainerId>,
    /// Steps that start a container, and whose answer was lost: they may have been carried out.
    pub unsure: BTreeMap<AgentName, Action>,
    pub last_start: Option<Instant>,
    pub troubles: Vec<Trouble>,
    pub given_up: BTreeSet<AgentName>,
    pub settled: BTreeSet<ContainerId>,
    pub healthy: BTreeSet<ContainerId>,
    /// What the newest look found not to be ready, although nothing is to be done about it.
    pub unready: Vec<Unready>,
    /// Whom the user was told to be waited for.
    pub awaited: Awaited,
    /// How the virtual machine was reached at the last look.
    pub reach: Reach,
}

impl Memory {
    /// A passing failure whose step is not wanted any more is over: its answer was lost, or somebody else did the work.
    pub fn forget_what_passed(&mut self, observed: &Observed, plan: &Plan) {
        if observed.guest.unknown().is_some() || observed.artifacts.unknown().is_some() {
            return;
        }
        let ready = plan.ready.iter().map(Step::key);
        let waiting = plan.waiting.iter().map(Waiting::key);
        let wanted: BTreeSet<_> = ready.chain(waiting).collect();
        self.failed.retain(|key, failed| wanted.contains(key) || failed.error.disposition() == Disposition::NeedsUser);
    }

    /// What a step has started whose answer was lost is judged as if the answer had come.
    pub fn find_what_was_started(&mut self, observed: &Observed) {
        let Some(guest) = observed.guest.present() else { return };
        for (agent, action) in std::mem::take(&mut self.unsure) {
            let (name, old, last_start) = match &action {
                Action::CreateContainer { create, .. } => (&create.name, None, None),
                Action::ReplaceContainer { create, old, .. } => (&create.name, Some(old), None),
                Action::StartContainer { name, last_start, .. } => (name, None, *last_start),
                _ => continue,
            };
            let own = guest.containers.get(name).filter(|seen| seen.owner.is_of(&agent) && Some(&seen.id) != old);
            let Some(seen) = own else { continue };
            let has_run = match seen.phase {
                Phase::Running => true,
                Phase::Exited { .. } => seen.started_at.is_some() && seen.started_at > last_start,
                _ => false,
            };
            if has_run {
                self.started.insert(agent, seen.id.clone());
                self.last_start = Some(Instant::now());
            }
        }
    }

    /// When the next step is to be tried again.
    pub fn next_retry(&self) -> Option<Instant> {
        let now = Instant::now();
        self.failed.values().filter_map(|failed| failed.retry_at).filter(|at| *at > now).min()
    }
}

pub(super) struct Failed {
    pub agent: Option<AgentName>,
    pub error: Arc<ActError>,
    pub tries: u32,
    pub retry_at: Option<Instant>,
}
