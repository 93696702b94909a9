//! What a convergence remembers between its looks. It explains and limits; what is to be done is read off the world.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use super::{Taken, Trouble, key, key_of};
use crate::act::{ActError, Disposition};
use crate::model::{AgentName, ContainerId, Observed, Reach};
use crate::plan::Plan;
use crate::readiness::Unready;

/// What a convergence remembers between its looks.
#[derive(Default)]
pub(super) struct Memory {
    pub taken: Vec<Taken>,
    pub failed: BTreeMap<String, Failed>,
    pub done: BTreeMap<(String, String), u32>,
    pub started: BTreeMap<AgentName, ContainerId>,
    pub last_start: Option<Instant>,
    pub troubles: Vec<Trouble>,
    pub given_up: BTreeSet<AgentName>,
    pub settled: BTreeSet<ContainerId>,
    pub healthy: BTreeSet<ContainerId>,
    /// What the newest look found not to be ready, although nothing is to be done about it.
    pub unready: Vec<Unready>,
    /// Whom the user was told to be waited for.
    pub awaited: Vec<AgentName>,
    /// How the virtual machine was reached at the last look.
    pub reach: Reach,
}

impl Memory {
    /// A passing failure whose step is not wanted any more is over: its answer was lost, or somebody else did the work.
    pub fn forget_what_passed(&mut self, observed: &Observed, plan: &Plan) {
        if observed.guest.unknown().is_some() || observed.artifacts.unknown().is_some() {
            return;
        }
        let ready = plan.ready.iter().map(|step| key(&step.action));
        let waiting = plan.waiting.iter().map(|waiting| key_of(waiting.kind, &waiting.target));
        let wanted: BTreeSet<_> = ready.chain(waiting).collect();
        self.failed.retain(|key, failed| wanted.contains(key) || failed.error.disposition() == Disposition::NeedsUser);
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
