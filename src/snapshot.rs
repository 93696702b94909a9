//! One observation with all that is said of it: what `plan`, `status`, `why` and `doctor` show.
//!
//! They all take it here, so that none says of the same world what another denies. What would be tried and is known to fail
//! beforehand (a taken host port, a missing mount source) stands in its plan as blocked, with the error that `apply` ends in.

use std::time::SystemTime;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};

use crate::act::{LastWords, Patience, obstacle};
use crate::backend::{Engine, Inside, Store, Vm, World};
use crate::model::{Desired, Observed, Owner, Seen};
use crate::observe::{ManifestFault, look_at_published, observe, observe_without_engine};
use crate::plan::{Plan, Policy, WaitingOn, look_replaced, plan};
use crate::readiness::{agent_health, steady_after};
use crate::status::{HealthStatus, Status, status};

/// An observation, the plan made from it, and the status that both show.
#[derive(Debug)]
pub struct Snapshot {
    /// What was seen.
    pub observed: Observed,
    /// What is to be done.
    pub plan: Plan,
    /// Desired beside observed.
    pub status: Status,
    /// What is wrong with the published manifest, where it is not only out of reach.
    pub manifest_fault: Option<ManifestFault>,
}

impl Snapshot {
    /// Observes the world and judges it. `at_work` is who holds the lock: what looks like an interrupted replacement is theirs,
    /// and goes on.
    pub async fn take<V: Vm, E: Engine + Inside, S: Store>(
        world: &World<V, E, S>,
        desired: &Desired,
        policy: &Policy,
        at_work: Option<&str>,
    ) -> Self {
        let published = look_at_published(&world.store, desired).await;
        let mut observed = observe(world, desired, &published).await;
        count_restarts(&world.engine, &mut observed).await;
        let mut snapshot = Self::of(desired, observed, policy, at_work);
        snapshot.manifest_fault = published.fault;
        snapshot.read_logs(&world.engine, desired).await;
        snapshot
    }

    /// What can be observed where Podman is out of reach for this reason: the cache and the manifest.
    pub async fn without_engine<S: Store>(store: &S, desired: &Desired, policy: &Policy, why: String) -> Self {
        let published = look_at_published(store, desired).await;
        let observed = observe_without_engine(store, desired, &published, why).await;
        Self { manifest_fault: published.fault, ..Self::of(desired, observed, policy, None) }
    }

    /// The same of an observation that was taken already, without log lines.
    pub fn of(desired: &Desired, observed: Observed, policy: &Policy, at_work: Option<&str>) -> Self {
        let mut plan = plan(desired, &observed, policy);
        if let Some(by) = at_work {
            plan.mark_under_way(&look_replaced(&observed), desired, by);
        }
        if desired.vm().is_none() {
            block_what_must_fail(&mut plan);
        }
        let steady = steady_after(Patience::default().settle);
        let status = status(desired, &observed, &plan, SystemTime::now(), steady);
        Self { observed, plan, status, manifest_fault: None }
    }

    /// The last lines of those whose container ended, or fails its check.
    async fn read_logs<E: Engine + Inside>(&mut self, engine: &E, desired: &Desired) {
        let (observed, steady) = (&self.observed, steady_after(Patience::default().settle));
        let Some(guest) = observed.guest.present() else { return };
        let silent = self.status.agents.iter_mut().filter(|(_, agent)| {
            !agent.ready
                && matches!(agent.health, HealthStatus::Degraded | HealthStatus::Failed)
                && agent.container.is_some()
        });
        let reads = silent.filter_map(|(name, agent)| {
            let wanted = desired.agents.get(name)?;
            let container = guest.containers.get(&wanted.container.name)?;
            let health = agent_health(name, wanted, container, observed, steady);
            let words = LastWords::of(desired, name, wanted, &container.id, &health);
            Some(async move { agent.last_log = Some(words.read(engine).await) })
        });
        join_all(reads).await;
    }
}

/// Inspections under way at once.
const INSPECTIONS: usize = 8;

/// Looks up how often Podman restarted those of ours of which its list does not tell. What is unavailable stays unknown.
async fn count_restarts<E: Engine>(engine: &E, observed: &mut Observed) {
    let Seen::Present(guest) = &mut observed.guest else { return };
    let untold = guest
        .containers
        .values_mut()
        .filter(|container| matches!(container.owner, Owner::Ours { .. }) && container.restarts.is_none());
    let lookups = untold.map(|container| async move {
        if let Ok(Some(seen)) = engine.inspect(&container.id).await {
            container.restarts = seen.restarts;
        }
    });
    stream::iter(lookups).buffer_unordered(INSPECTIONS).collect::<()>().await;
}

/// Steps that would fail for something on this host wait for it instead.
fn block_what_must_fail(plan: &mut Plan) {
    let ready = std::mem::take(&mut plan.ready);
    for step in ready {
        match obstacle(&step.action) {
            Some(err) => {
                let on = WaitingOn::Precondition { kind: err.kind(), why: err.to_string() };
                plan.wait(step.agent, &step.action, step.reason, on);
            }
            None => plan.ready.push(step),
        }
    }
}
