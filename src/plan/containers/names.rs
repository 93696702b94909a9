//! Container names that change hands: who has a name, and whether it is given up.

use std::collections::BTreeSet;

use super::Found;
use crate::model::{Agent, AgentName, ContainerName, Desired, Guest, Owner};
use crate::plan::{Action, Plan, Policy, Reason, Waiting, WaitingOn};

/// What a container is called between two names.
const SWAP_SUFFIX: &str = ".swap";

/// Somebody else's container under the name that an agent's is to have.
pub(super) struct Holder<'a> {
    pub seen: Found<'a>,
    /// What the agent waits for. `None`: it is taken over.
    pub on: Option<WaitingOn>,
}

/// Who has the name that this agent's container is to have, if that is somebody else. What an agent gives up is waited for:
/// it gets another name, is replaced under another one, or goes. So does an orphan.
pub(super) fn holder<'a>(
    desired: &Desired,
    guest: &'a Guest,
    active: &[(&AgentName, &Agent)],
    (name, agent): (&AgentName, &Agent),
    policy: &Policy,
) -> Option<Holder<'a>> {
    let (owned_name, container) = guest.containers.get_key_value(&agent.container.name)?;
    if container.owner.is_of(name) {
        return None;
    }
    let released = || Some(WaitingOn::Removal { name: owned_name.clone() });
    let on = match &container.owner {
        Owner::Foreign(_) if policy.adopt => None,
        Owner::Foreign(_) => Some(WaitingOn::Foreign { name: owned_name.clone(), whose: container.owner.whose() }),
        Owner::Ours { agent: Some(owner), .. } if active.iter().any(|(active, _)| *active == owner) => released(),
        Owner::Ours { agent: owner, .. } => {
            let is_wanted = owner.as_ref().is_some_and(|owner| desired.agents.contains_key(owner));
            match is_wanted {
                false if policy.prune && policy.only.is_empty() => released(),
                false if policy.adopt => None,
                _ => Some(WaitingOn::OtherAgent { name: owned_name.clone(), agent: owner.clone(), is_wanted }),
            }
        }
    };
    Some(Holder { seen: (owned_name, container), on })
}

/// Where agents wait in a ring for what the next one has, a name or a host port, one whose name is waited for steps aside.
/// (Where it is host ports alone, one is stopped: see [`crate::plan::ports`].)
pub(super) fn break_rings(desired: &Desired, guest: &Guest, plan: &mut Plan) {
    let waits = waits(guest, plan);
    let mut aside = BTreeSet::new();
    for wait in &waits {
        let Some(agent) = desired.agents.get(&wait.agent) else { continue };
        if agent.container.name != wait.owned_name || !leads_to(&wait.holder, &wait.agent, &waits, &aside) {
            continue;
        }
        let (Some(holder), Some(container)) =
            (desired.agents.get(&wait.holder), guest.containers.get(&wait.owned_name))
        else {
            continue;
        };
        let Ok(name) = ContainerName::new(format!("{}{SWAP_SUFFIX}", holder.container.name)) else { continue };
        aside.insert(wait.holder.clone());
        let action = Action::RenameContainer { id: container.id.clone(), from: wait.owned_name.clone(), name };
        plan.step(wait.holder.clone(), action, Reason::NameSwap { from: wait.owned_name.clone() });
    }
}

/// An agent that waits for what another one's container has.
struct Wait {
    agent: AgentName,
    owned_name: ContainerName,
    holder: AgentName,
}

fn waits(guest: &Guest, plan: &Plan) -> Vec<Wait> {
    let wait = |waiting: &Waiting| {
        let (Some(agent), WaitingOn::Removal { name }) = (&waiting.agent, &waiting.on) else { return None };
        let Owner::Ours { agent: Some(holder), .. } = &guest.containers.get(name)?.owner else { return None };
        (holder != agent).then(|| Wait { agent: agent.clone(), owned_name: name.clone(), holder: holder.clone() })
    };
    plan.waiting.iter().filter_map(wait).collect()
}

/// Whether one agent waits for another, be it through further ones. Who steps aside holds nobody up.
fn leads_to(from: &AgentName, to: &AgentName, waits: &[Wait], aside: &BTreeSet<AgentName>) -> bool {
    let mut reached = vec![from];
    let mut at = 0;
    while let Some(&agent) = reached.get(at) {
        if agent == to {
            return true;
        }
        for wait in waits.iter().filter(|wait| wait.agent == *agent && !aside.contains(&wait.holder)) {
            if !reached.contains(&&wait.holder) {
                reached.push(&wait.holder);
            }
        }
        at += 1;
    }
    false
}
