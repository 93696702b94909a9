//! Host ports that change hands: who waits for whom to release them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, ActionKind, Plan, Reason, Step, WaitingOn};
use crate::model::{ContainerName, Desired, Guest, Owner, Phase, Protocol};

/// A host port can only be taken once its holder has released it. Steps that start a container whose port another of
/// our containers holds, and is about to give up, wait for that one; where two wait for each other, one is stopped first.
pub(super) fn order_by_ports(desired: &Desired, guest: &Guest, steps: Vec<Step>, plan: &mut Plan) -> Vec<Step> {
    let wanted =
        steps.iter().filter(|step| takes_over(&step.action).is_some()).flat_map(|step| wanted_ports(desired, step));
    let holders = port_holders(guest, &wanted.collect());
    let leaving: BTreeMap<&ContainerName, usize> =
        steps.iter().enumerate().filter_map(|(at, step)| Some((gives_up(&step.action)?, at))).collect();
    // A holder may itself still wait for what it is replaced with.
    let leaves_later = |holder: &ContainerName| match guest.containers.get(holder).map(|container| &container.owner) {
        Some(Owner::Ours { agent: Some(agent), .. }) => plan.waiting.iter().any(|waiting| {
            waiting.agent.as_ref() == Some(agent)
                && matches!(waiting.kind, ActionKind::ReplaceContainer | ActionKind::RemoveContainer)
        }),
        _ => false,
    };
    let mut waits_for: BTreeMap<usize, ContainerName> = BTreeMap::new();
    for (at, step) in steps.iter().enumerate() {
        let Some(own) = takes_over(&step.action) else { continue };
        let ports = wanted_ports(desired, step);
        let holder = ports.iter().find_map(|port| {
            let holder = *holders.get(port)?;
            (Some(holder) != own && (leaving.contains_key(holder) || leaves_later(holder))).then(|| holder.clone())
        });
        if let Some(holder) = holder {
            waits_for.insert(at, holder);
        }
    }
    let mut stopped = BTreeSet::new();
    for &at in waits_for.keys() {
        if in_a_ring(at, &waits_for, &leaving, &stopped) {
            stopped.insert(at);
        }
    }
    let mut ready = Vec::with_capacity(steps.len());
    for (at, step) in steps.iter().enumerate() {
        match waits_for.get(&at) {
            None => ready.push(step.clone()),
            Some(holder) => {
                let on = WaitingOn::Removal { name: holder.clone() };
                plan.wait(step.agent.clone(), &step.action, step.reason.clone(), on);
                if let (true, Action::ReplaceContainer { old, old_name, old_runs: true, .. }) =
                    (stopped.contains(&at), &step.action)
                {
                    let action = Action::StopContainer { id: old.clone(), name: old_name.clone() };
                    ready.push(Step { agent: step.agent.clone(), action, reason: Reason::PortSwap });
                }
            }
        }
    }
    ready
}

type HostPort = (Protocol, u16);

/// Who holds which of the wanted ports.
fn port_holders<'g>(guest: &'g Guest, wanted: &BTreeSet<HostPort>) -> BTreeMap<HostPort, &'g ContainerName> {
    let mut holders = BTreeMap::new();
    for (name, container) in &guest.containers {
        if matches!(container.phase, Phase::Running | Phase::Paused | Phase::Stopping) {
            for range in &container.ports {
                let (protocol, ports) = (range.first.protocol, range.host_ports());
                let owned = wanted.range((protocol, *ports.start())..=(protocol, *ports.end()));
                holders.extend(owned.map(|port| (*port, name)));
            }
        }
    }
    holders
}

/// The container whose ports this step frees.
fn gives_up(action: &Action) -> Option<&ContainerName> {
    match action {
        Action::ReplaceContainer { old_name, .. } => Some(old_name),
        Action::RemoveContainer { name, .. } | Action::StopContainer { name, .. } => Some(name),
        _ => None,
    }
}

/// For a step that starts a container: the container whose ports it may have for the taking.
fn takes_over(action: &Action) -> Option<Option<&ContainerName>> {
    match action {
        Action::CreateContainer { start: true, .. } => Some(None),
        Action::StartContainer { name, .. } => Some(Some(name)),
        Action::ReplaceContainer { start: true, old_name, .. } => Some(Some(old_name)),
        _ => None,
    }
}

fn wanted_ports(desired: &Desired, step: &Step) -> Vec<HostPort> {
    let agent = step.agent.as_ref().and_then(|agent| desired.agents.get(agent));
    agent.map_or_else(Vec::new, |agent| {
        let ports = agent.container.ports.iter().filter(|port| port.host_port != 0);
        ports.map(|port| (port.protocol, port.host_port)).collect()
    })
}

fn in_a_ring(
    from: usize,
    waits_for: &BTreeMap<usize, ContainerName>,
    leaving: &BTreeMap<&ContainerName, usize>,
    stopped: &BTreeSet<usize>,
) -> bool {
    let mut at = from;
    for _ in 0..=waits_for.len() {
        if stopped.contains(&at) {
            return false;
        }
        let Some(next) = waits_for.get(&at).and_then(|holder| leaving.get(holder)) else { return false };
        at = *next;
        if at == from {
            return true;
        }
    }
    false
}
