//! What is remembered of agents: what failed in the place of what runs, and what has proved itself.
//!
//! It is told to the plan, which leaves what failed alone; and kept on the disk, so that the next process does not try it again.

use std::sync::Arc;

use super::{Core, Effect, Now};
use crate::act::{ActError, in_one_line};
use crate::broken::Broken;
use crate::error::Chain;
use crate::model::wanted::wanted_image;
use crate::model::{AgentName, ContainerState, Good, Observed, Owner, Phase, Quarantined, Rollout};
use crate::plan::{Action, Plan, Step, WaitingOn};
use crate::readiness::{AgentHealth, agent_health};
use crate::reconcile::run::Event;
use crate::rollouts::quarantined;

impl Core {
    /// What is remembered is another from now on.
    fn remember(&mut self) {
        self.remembered.retain(|_, one| !one.is_empty());
        self.policy.quarantined = quarantined(&self.remembered);
        self.effects.push(Effect::Remember(self.remembered.clone()));
    }

    /// Whether what it was to become is left alone, since it failed before.
    pub(super) fn is_quarantined(&self, agent: &AgentName, plan: &Plan) -> bool {
        let mut waiting = plan.waiting.iter().filter(|waiting| waiting.agent.as_ref() == Some(agent));
        waiting.any(|waiting| matches!(waiting.on, WaitingOn::Quarantine { .. }))
    }

    /// What failed before may be tried again, since somebody asks for it.
    pub(super) fn retry_quarantined(&mut self) {
        let policy = self.policy.clone();
        let failed = self.remembered.iter_mut().filter(|(agent, _)| policy.includes(agent));
        let mut any = false;
        failed.for_each(|(_, one)| any |= one.quarantined.take().is_some());
        if any {
            self.remember();
        }
    }

    /// A successor failed by what it is made of.
    pub(super) fn quarantine(&mut self, step: &Step, error: &Arc<ActError>, now: Now) {
        let (create, rollout) = match &step.action {
            Action::ReplaceContainer { create, rollout, .. } => (create, *rollout),
            Action::StartContainer { tried: Some(create), rollout, .. } => (&**create, *rollout),
            _ => return,
        };
        let (ActError::RolledBack { cause, .. } | ActError::RollBackFailed { cause, .. }) = &**error else { return };
        let Some(agent) = &step.agent else { return };
        let message = in_one_line(&Chain(&**cause).to_string()).to_owned();
        let since = crate::time::rfc3339(now.wall);
        let Some(failed) = Quarantined::new(create, rollout, since, cause.kind(), message.clone()) else { return };
        if Broken::QuarantineForgotten.is_in() {
            return;
        }
        let image = create.image.to_string();
        self.remembered.entry(agent.clone()).or_default().quarantined = Some(failed);
        self.effects.push(Effect::Report(Event::Quarantined { agent: agent.clone(), image, why: message }));
        self.remember();
    }

    /// What an observation tells of what is remembered: what is not wanted any more may be tried once it is again, and what has
    /// run for long enough is known to be good.
    pub(super) fn review_rollouts(&mut self, observed: &Observed, plan: &Plan) {
        let concerned = plan.concerned();
        let is_over = |agent: &AgentName, failed: &Quarantined| {
            let Some(wanted) = self.desired.agents.get(agent) else { return true };
            if !self.policy.includes(agent) || wanted.suspend {
                return false;
            }
            let said = wanted_image(agent, wanted, observed);
            // Where nothing is to be done about it any more, it is not what is wanted.
            said.is_ok_and(|image| !failed.is_said(wanted, &image, &self.desired.key)) || !concerned.contains(agent)
        };
        let failed = self.remembered.iter().filter_map(|(agent, one)| Some((agent, one.quarantined.as_ref()?)));
        let over: Vec<_> =
            failed.filter(|(agent, failed)| is_over(agent, failed)).map(|(agent, _)| agent.clone()).collect();
        let proved = self.proved(observed);
        let is_old = !over.is_empty();
        for agent in over {
            if let Some(one) = self.remembered.get_mut(&agent) {
                one.quarantined = None;
            }
        }
        let mut is_news = false;
        for (agent, good) in proved {
            is_news |= self.remembered.entry(agent).or_default().proved(good);
        }
        if is_old || is_news {
            self.remember();
        }
    }

    /// The versions that run, are well, and have been up for as long as a successor has to.
    fn proved(&self, observed: &Observed) -> Vec<(AgentName, Good)> {
        let Some(guest) = observed.guest.present() else { return Vec::new() };
        let steady = self.steady();
        let well = self.desired.agents.iter().filter_map(|(name, agent)| {
            let seen = guest.containers.get(&agent.container.name).filter(|seen| seen.owner.is_of(name))?;
            let up = guest.looked_at?.duration_since(seen.started_at?).ok()?;
            let is_well = seen.phase == Phase::Running
                && up >= agent.rollout.settle.min(Rollout::SETTLE)
                && agent_health(name, agent, seen, observed, steady) == AgentHealth::Running;
            Some((name.clone(), good(seen)?)).filter(|_| is_well)
        });
        well.collect()
    }
}

fn good(seen: &ContainerState) -> Option<Good> {
    let Owner::Ours { spec: Some(spec), .. } = &seen.owner else { return None };
    let version = crate::model::ImageRef::new(spec.image()?).ok()?.version()?.to_owned();
    Some(Good { version, image: seen.image.clone(), artifact: spec.artifact })
}
