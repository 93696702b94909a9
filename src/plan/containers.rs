//! The containers: one decision per agent over (wanted, seen).
//!
//! Only what carries our label is ever changed. A foreign container with a wanted name is a wait, with a hint. What a replacement
//! that was killed left behind (`….next`, `….prev`) is finished or cleared here, never guessed at elsewhere.

mod judge;
mod keep;
mod names;

use std::collections::BTreeMap;

use self::keep::{Wanted, keep, start_action};
use super::images::ImageFor;
use super::{Action, ActionKind, Note, Plan, Policy, Reason, StartMode, WaitingOn};
use crate::model::labels::{NEXT_SUFFIX, PREV_SUFFIX};
use crate::model::{
    Agent, AgentName, AgentState, CanonicalSpec, ContainerName, ContainerState, Desired, Guest, Health, Observed,
    Owner, Phase, RestartPolicy, SPEC_VERSION, Seen, labels,
};

/// The labels of a container of ours, but for the one of its own that it gets when it is created.
pub fn labels(desired: &Desired, agent: &AgentName, spec: &CanonicalSpec) -> labels::Labels {
    let label = |name: &str, value: String| (name.to_owned(), value);
    let mut all = labels::Labels::from([
        label(labels::NAME, desired.name.to_string()),
        label(labels::AGENT, agent.to_string()),
        label(labels::SPEC, spec.to_label()),
        label(labels::SPEC_VERSION, SPEC_VERSION.to_string()),
    ]);
    if let Some(root) = desired.claim.mark() {
        all.extend([label(labels::ROOT, root), label(labels::ROOT_PATH, desired.root.to_string_lossy().into_owned())]);
    }
    all
}

/// A container with its name.
type Found<'a> = (&'a ContainerName, &'a ContainerState);

/// The containers of one agent.
#[derive(Default)]
struct OwnContainers<'a> {
    main: Option<Found<'a>>,
    next: Option<Found<'a>>,
    prev: Option<Found<'a>>,
    /// Further leftovers. Never what is replaced, for a half-made successor is nobody's predecessor.
    spare: Vec<Found<'a>>,
    others: Vec<Found<'a>>,
}

/// What the containers of agents need.
pub(super) struct Needed<'a> {
    /// Their images.
    pub(super) images: &'a BTreeMap<AgentName, ImageFor>,
    /// What is still to be awaited of volumes and networks.
    pub(super) shared: &'a BTreeMap<AgentName, WaitingOn>,
}

pub(super) fn plan(
    desired: &Desired,
    observed: &Observed,
    active: &[(&AgentName, &Agent)],
    needed: Needed<'_>,
    policy: &Policy,
    hidden: Option<&WaitingOn>,
    plan: &mut Plan,
) {
    let sight = |why: &str| hidden.cloned().unwrap_or_else(|| WaitingOn::Sight { why: why.to_owned() });
    let guest = match &observed.guest {
        Seen::Present(guest) => guest,
        Seen::Absent => return blind(active, &sight("Podman is not there"), plan),
        Seen::Unknown { why } => {
            // In a machine that is yet to be made there is nothing to remove.
            let is_there = desired.vm().is_none() || observed.vm != Seen::Absent;
            if active.is_empty() && policy.prune && policy.only.is_empty() && is_there {
                unseen(Reason::Orphaned, sight(why), plan);
            }
            return blind(active, &sight(why), plan);
        }
    };
    let mine = by_agent(guest);
    let first = plan.ready.len();
    for &(name, agent) in active {
        let empty = OwnContainers::default();
        let found = mine.get(name).unwrap_or(&empty);
        let sorted = sort_out(&agent.container.name, found);
        match agent.state {
            AgentState::Absent => remove_all(name, &sorted, Reason::WantedAbsent, plan),
            AgentState::Running | AgentState::Stopped => {
                let Some(image) = needed.images.get(name) else { continue };
                let holder = names::holder(desired, guest, active, (name, agent), policy);
                let begin = plan.ready.len();
                keep(&Wanted::new(desired, (name, agent), image, policy, guest), &sorted, holder, plan);
                if let Some(on) = needed.shared.get(name) {
                    hold_back(begin, on, plan);
                }
            }
        }
    }
    if policy.only.is_empty() {
        orphans(desired, guest, policy, plan);
    }
    let steps = plan.ready.split_off(first);
    let ordered = super::ports::order_by_ports(desired, guest, steps, plan);
    plan.ready.extend(ordered);
    names::break_rings(desired, guest, plan);
}

/// What begins a container waits for what it needs: the steps from `begin` on.
fn hold_back(begin: usize, on: &WaitingOn, plan: &mut Plan) {
    let begins = |step: &super::Step| {
        let kinds = [ActionKind::CreateContainer, ActionKind::ReplaceContainer, ActionKind::StartContainer];
        kinds.contains(&step.action.kind())
    };
    let (held, ready): (Vec<_>, Vec<_>) = plan.ready.split_off(begin).into_iter().partition(begins);
    plan.ready.extend(ready);
    for step in held {
        plan.wait(step.agent, &step.action, step.reason, on.clone());
    }
}

/// While Podman cannot be seen, its containers are unknown; nothing is guessed.
fn blind(active: &[(&AgentName, &Agent)], on: &WaitingOn, plan: &mut Plan) {
    for &(name, agent) in active {
        plan.waiting.push(super::Waiting {
            agent: Some(name.clone()),
            kind: ActionKind::ObserveContainer,
            target: agent.container.name.to_string(),
            reason: Reason::NotSeen,
            on: on.clone(),
        });
    }
}

/// Whether anything is there to remove is not known.
fn unseen(reason: Reason, on: WaitingOn, plan: &mut Plan) {
    let target = "containers".to_owned();
    plan.waiting.push(super::Waiting { agent: None, kind: ActionKind::RemoveContainer, target, reason, on });
}

fn by_agent(guest: &Guest) -> BTreeMap<&AgentName, OwnContainers<'_>> {
    let mut mine = BTreeMap::<&AgentName, OwnContainers<'_>>::new();
    for (name, container) in &guest.containers {
        if let Owner::Ours { agent: Some(agent), .. } = &container.owner {
            mine.entry(agent).or_default().others.push((name, container));
        }
    }
    mine
}

fn sort_out<'a>(wanted: &ContainerName, found: &OwnContainers<'a>) -> OwnContainers<'a> {
    let mut sorted = OwnContainers::default();
    for &(name, container) in &found.others {
        let slot = if name == wanted {
            &mut sorted.main
        } else if name.as_str().ends_with(NEXT_SUFFIX) && container.phase == Phase::Created {
            // None of ours is started under that name: one that was has it from somebody else.
            &mut sorted.next
        } else if name.as_str().ends_with(PREV_SUFFIX) {
            &mut sorted.prev
        } else {
            sorted.others.push((name, container));
            continue;
        };
        match slot {
            None => *slot = Some((name, container)),
            Some(_) => sorted.spare.push((name, container)),
        }
    }
    // One that runs beside its predecessor was started to overlap with it.
    let serves = sorted.main.or(sorted.prev).is_some_and(|(_, one)| one.phase == Phase::Running);
    let is_next = |(name, one): &Found<'a>| name.as_str().ends_with(NEXT_SUFFIX) && one.phase != Phase::Created;
    if serves
        && sorted.next.is_none()
        && let Some(at) = sorted.others.iter().position(is_next)
    {
        sorted.next = Some(sorted.others.remove(at));
    }
    // A successor with nobody to succeed is all that the agent has.
    if sorted.main.is_none() && sorted.prev.is_none() && sorted.others.is_empty() {
        sorted.others.extend(sorted.next.take());
    }
    sorted
}

fn remove(
    agent: Option<&AgentName>,
    name: &ContainerName,
    container: &ContainerState,
    reason: Reason,
    plan: &mut Plan,
) {
    let action = Action::RemoveContainer { id: container.id.clone(), name: name.clone() };
    if container.phase == Phase::Removing {
        let phase = container.phase.clone();
        plan.wait(agent.cloned(), &action, reason, WaitingOn::Transition { phase });
    } else {
        plan.step(agent.cloned(), action, reason);
    }
}

fn remove_all(agent: &AgentName, mine: &OwnContainers<'_>, reason: Reason, plan: &mut Plan) {
    for &(name, container) in
        mine.main.iter().chain(&mine.next).chain(&mine.prev).chain(&mine.spare).chain(&mine.others)
    {
        remove(Some(agent), name, container, reason.clone(), plan);
    }
}

/// The right container is there; is it in the right state, and is anything left beside it?
fn settle(wanted: &Wanted<'_>, (owned_name, container): Found<'_>, mine: &OwnContainers<'_>, plan: &mut Plan) {
    let (name, agent) = (wanted.name, wanted.agent);
    let start = |how| start_action(wanted, owned_name, container, how, mine.prev);
    let stop = Action::StopContainer { id: container.id.clone(), name: owned_name.clone() };
    let not_running = Reason::NotRunning(container.phase.clone());
    let mut right = false;
    match (agent.state, &container.phase) {
        // Between two lives of a crash loop: Podman restarts it in a moment, and there is nothing to do or to wait for.
        (AgentState::Running, Phase::Stopping) if is_in_a_crash_loop(container) => right = true,
        (_, Phase::Stopping | Phase::Removing) => {
            let on = WaitingOn::Transition { phase: container.phase.clone() };
            plan.wait(name.clone(), &start(StartMode::Start), not_running, on);
        }
        (_, Phase::Other(word)) => {
            let on = WaitingOn::Sight { why: format!("Podman reports it as `{word}`") };
            plan.wait(name.clone(), &start(StartMode::Start), not_running, on);
        }
        // A one-shot is not run twice.
        (AgentState::Running, Phase::Running)
            if container.health == Some(Health::Unhealthy)
                && mine.prev.is_none()
                && agent.container.restart != RestartPolicy::No
                && agent.container.is_restarted_when_unhealthy() =>
        {
            plan.step(name.clone(), start(StartMode::Restart), Reason::Unhealthy);
        }
        (AgentState::Running, Phase::Running) | (AgentState::Stopped, Phase::Created | Phase::Exited { .. }) => {
            right = true;
        }
        (AgentState::Running, Phase::Created) => plan.step(name.clone(), start(StartMode::Start), not_running),
        (AgentState::Running, Phase::Paused) => plan.step(name.clone(), start(StartMode::Unpause), not_running),
        (AgentState::Running, Phase::Exited { code }) => {
            if stays_ended(agent.container.restart, container.restarts, *code) {
                right = true;
            } else {
                plan.step(name.clone(), start(StartMode::Start), not_running);
            }
        }
        (AgentState::Stopped | AgentState::Absent, Phase::Running | Phase::Paused) => {
            plan.step(name.clone(), stop, Reason::WantedStopped);
        }
        (AgentState::Absent, _) => {}
    }
    // Its predecessor goes only once it has proved itself; one that was never to run has nothing to prove.
    if right && mine.prev.is_some() && agent.state == AgentState::Running && container.phase == Phase::Running {
        plan.step(name.clone(), start(StartMode::Start), Reason::Unproved);
    } else if right {
        for &(left, container) in mine.next.iter().chain(&mine.prev).chain(&mine.spare).chain(&mine.others) {
            remove(Some(name), left, container, Reason::Leftover, plan);
        }
    }
}

/// Whether it ended by itself more than once lately.
pub(crate) fn is_in_a_crash_loop(container: &ContainerState) -> bool {
    container.exits.as_ref().is_some_and(|exits| exits.count > 1)
}

/// Whether a container that ended by itself, and was restarted so often by Podman before, is to stay so.
pub(crate) fn stays_ended(policy: RestartPolicy, restarts: Option<u32>, code: i32) -> bool {
    match policy {
        // One that somebody stopped has tries left. Where nothing tells, Podman has given up.
        RestartPolicy::OnFailureAtMost(tries) => code == 0 || restarts.is_none_or(|restarts| restarts >= tries),
        RestartPolicy::No => true,
        RestartPolicy::OnFailure => code == 0,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => false,
    }
}

fn orphans(desired: &Desired, guest: &Guest, policy: &Policy, plan: &mut Plan) {
    for (name, container) in &guest.containers {
        let Owner::Ours { agent, .. } = &container.owner else { continue };
        if agent.as_ref().is_some_and(|agent| desired.agents.contains_key(agent)) {
            continue;
        }
        if policy.prune {
            remove(agent.as_ref(), name, container, Reason::Orphaned, plan);
        } else {
            plan.notes.push(Note::OrphanKept { name: name.clone() });
        }
    }
}

pub(super) fn plan_down(observed: &Observed, hidden: Option<WaitingOn>, plan: &mut Plan) {
    let guest = match &observed.guest {
        Seen::Present(guest) => guest,
        Seen::Absent => return,
        Seen::Unknown { why } => {
            let on = hidden.unwrap_or_else(|| WaitingOn::Sight { why: why.clone() });
            return unseen(Reason::TakenDown, on, plan);
        }
    };
    for (name, container) in &guest.containers {
        if let Owner::Ours { agent, .. } = &container.owner {
            remove(agent.as_ref(), name, container, Reason::TakenDown, plan);
        }
    }
}
