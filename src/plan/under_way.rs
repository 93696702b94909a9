//! What somebody is doing already: steps in flight, by `run` itself or by whoever holds the lock.
//!
//! Amid a replacement the world looks as if one had been interrupted: a predecessor stands aside, a successor is not proved.
//! Whoever knows that the replacement goes on says so, instead of planning to clear up after it.

use std::collections::BTreeSet;

use super::{ActionKind, Plan, Reason, Waiting, WaitingOn};
use crate::model::labels::{NEXT_SUFFIX, PREV_SUFFIX};
use crate::model::{AgentName, Desired, Observed, Owner};

impl Plan {
    /// Makes of all steps of these agents' containers one that is waited for, since `by` is at it.
    pub fn mark_under_way(&mut self, agents: &BTreeSet<AgentName>, desired: &Desired, by: &str) {
        for agent in agents {
            let is_theirs = |whose: &Option<AgentName>| whose.as_ref() == Some(agent);
            let (theirs, ready) = std::mem::take(&mut self.ready).into_iter().partition(|step| is_theirs(&step.agent));
            self.ready = ready;
            let (waited, waiting) =
                std::mem::take(&mut self.waiting).into_iter().partition(|waiting| is_theirs(&waiting.agent));
            self.waiting = waiting;
            let (theirs, waited): (Vec<super::Step>, Vec<Waiting>) = (theirs, waited);
            if theirs.is_empty() && waited.is_empty() {
                continue;
            }
            let container = desired.agents.get(agent).map(|wanted| wanted.container.name.to_string());
            let reasons = theirs.iter().map(|step| &step.reason).chain(waited.iter().map(|waiting| &waiting.reason));
            let changed = reasons.into_iter().find(|reason| matches!(reason, Reason::Changed(_))).cloned();
            self.waiting.push(Waiting {
                agent: Some(agent.clone()),
                kind: ActionKind::ReplaceContainer,
                target: container.unwrap_or_else(|| agent.to_string()),
                reason: changed.unwrap_or(Reason::BeingReplaced),
                on: WaitingOn::UnderWay { by: by.to_owned() },
            });
        }
    }
}

/// The agents whose containers look as they do amid a replacement.
pub fn look_replaced(observed: &Observed) -> BTreeSet<AgentName> {
    let containers = observed.guest.present().into_iter().flat_map(|guest| &guest.containers);
    let aside = containers
        .filter(|(name, _)| name.as_str().ends_with(NEXT_SUFFIX) || name.as_str().ends_with(PREV_SUFFIX))
        .filter_map(|(_, container)| match &container.owner {
            Owner::Ours { agent, .. } => agent.clone(),
            Owner::Foreign(_) => None,
        });
    aside.collect()
}
