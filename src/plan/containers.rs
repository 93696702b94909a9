//! The containers: one decision per agent over (wanted, seen).
//!
//! Only what carries our label is ever changed. A stranger with a wanted name is a wait, with a hint. What a replacement
//! that was killed left behind (`….next`, `….prev`) is finished or cleared here, never guessed at elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use super::images::ImageFor;
use super::{Action, Note, Plan, Policy, Reason, Revival, WaitingOn};
use crate::model::text::HIDDEN;
use crate::model::{
    Agent, AgentName, AgentState, CanonicalSpec, ContainerName, ContainerState, Create, Desired, FieldChange, Guest,
    Health, ImageRef, Observed, Owner, Phase, RestartPolicy, SPEC_VERSION, Seen, labels,
};

/// What a successor is called until it takes the name.
pub const NEXT_SUFFIX: &str = ".next";
/// What a predecessor is called until it is dropped.
pub const PREV_SUFFIX: &str = ".prev";

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

/// The containers of one agent.
#[derive(Default)]
struct Mine<'a> {
    main: Option<(&'a ContainerName, &'a ContainerState)>,
    next: Option<(&'a ContainerName, &'a ContainerState)>,
    prev: Option<(&'a ContainerName, &'a ContainerState)>,
    /// Further leftovers. Never what is replaced, for a half-made successor is nobody's predecessor.
    spare: Vec<(&'a ContainerName, &'a ContainerState)>,
    others: Vec<(&'a ContainerName, &'a ContainerState)>,
}

pub(super) fn plan(
    desired: &Desired,
    observed: &Observed,
    active: &[(&AgentName, &Agent)],
    images: &BTreeMap<AgentName, ImageFor>,
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
        let empty = Mine::default();
        let found = mine.get(name).unwrap_or(&empty);
        let sorted = sort_out(&agent.container.name, found);
        let stranger = guest
            .containers
            .get(&agent.container.name)
            .filter(|container| !container.owner.is_of(name))
            .map(|container| (&agent.container.name, container));
        match agent.state {
            AgentState::Absent => remove_all(name, &sorted, Reason::WantedAbsent, plan),
            AgentState::Running | AgentState::Stopped => {
                let Some(image) = images.get(name) else { continue };
                keep(desired, name, agent, &sorted, stranger, image, policy, plan);
            }
        }
    }
    if policy.only.is_empty() {
        orphans(desired, guest, policy, plan);
    }
    let steps = plan.ready.split_off(first);
    let ordered = super::ports::order_by_ports(desired, guest, steps, plan);
    plan.ready.extend(ordered);
}

/// While Podman cannot be seen, its containers are unknown; nothing is guessed.
fn blind(active: &[(&AgentName, &Agent)], on: &WaitingOn, plan: &mut Plan) {
    for &(name, agent) in active {
        plan.waiting.push(super::Waiting {
            agent: Some(name.clone()),
            kind: "createContainer",
            target: agent.container.name.to_string(),
            reason: Reason::NotSeen,
            on: on.clone(),
        });
    }
}

/// Whether anything is there to remove is not known.
fn unseen(reason: Reason, on: WaitingOn, plan: &mut Plan) {
    let target = "containers".to_owned();
    plan.waiting.push(super::Waiting { agent: None, kind: "removeContainer", target, reason, on });
}

fn by_agent(guest: &Guest) -> BTreeMap<&AgentName, Mine<'_>> {
    let mut mine = BTreeMap::<&AgentName, Mine<'_>>::new();
    for (name, container) in &guest.containers {
        if let Owner::Ours { agent: Some(agent), .. } = &container.owner {
            mine.entry(agent).or_default().others.push((name, container));
        }
    }
    mine
}

fn sort_out<'a>(wanted: &ContainerName, found: &Mine<'a>) -> Mine<'a> {
    let mut sorted = Mine::default();
    for &(name, container) in &found.others {
        let slot = if name == wanted {
            &mut sorted.main
        } else if name.as_str().ends_with(NEXT_SUFFIX) {
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

fn remove_all(agent: &AgentName, mine: &Mine<'_>, reason: Reason, plan: &mut Plan) {
    for &(name, container) in
        mine.main.iter().chain(&mine.next).chain(&mine.prev).chain(&mine.spare).chain(&mine.others)
    {
        remove(Some(agent), name, container, reason.clone(), plan);
    }
}

/// An agent that is to have a container, running or stopped.
#[expect(clippy::too_many_arguments, reason = "one decision over everything that is known of one agent")]
fn keep(
    desired: &Desired,
    name: &AgentName,
    agent: &Agent,
    mine: &Mine<'_>,
    stranger: Option<(&ContainerName, &ContainerState)>,
    image: &ImageFor,
    policy: &Policy,
    plan: &mut Plan,
) {
    let start = agent.state == AgentState::Running;
    let create = image.reference.as_ref().ok().map(|reference| Create {
        name: agent.container.name.clone(),
        image: reference.clone(),
        image_id: image.image.clone().ok(),
        spec: agent.container.clone(),
        labels: labels(desired, name, &CanonicalSpec::new(&agent.container, reference, image.artifact, &desired.key)),
    });

    // What it replaces, if anything: a stranger that is given to us, itself, or itself under an older name.
    let current = match (stranger, mine.main) {
        (Some((held, container)), _) => {
            // What another agent of ours has is that agent's to give up, and an orphan goes by itself.
            let leaves = match &container.owner {
                Owner::Foreign(_) => false,
                Owner::Ours { agent: Some(owner), .. } if desired.agents.contains_key(owner) => true,
                Owner::Ours { .. } => policy.prune && policy.only.is_empty(),
            };
            if leaves || !policy.adopt {
                let Some(create) = create else { return waits(name, agent, image, Reason::ContainerMissing, plan) };
                let action = Action::CreateContainer { create, start };
                plan.wait(
                    name.clone(),
                    &action,
                    Reason::ContainerMissing,
                    WaitingOn::Stranger { name: held.clone(), whose: container.owner.whose() },
                );
                return;
            }
            Some((held, container, Reason::Adopted))
        }
        (None, Some((held, container))) => match judge(desired, agent, container, image) {
            Judgement::Same => {
                return settle(name, agent, held, container, mine, plan);
            }
            Judgement::Unsure(why) => {
                let Some(create) = create else { return waits(name, agent, image, Reason::SpecUnreadable, plan) };
                let action = replacement(create, agent, held, container);
                plan.wait(name.clone(), &action, Reason::SpecUnreadable, WaitingOn::Sight { why });
                return;
            }
            Judgement::Differs(reason) => {
                if let Some((prev, proved)) = fallback(mine, container) {
                    clear_unproved(name, agent, mine, (held, container), (prev, proved), reason, create, image, plan);
                    return;
                }
                Some((held, container, reason))
            }
        },
        // Killed between its two renames, a replacement leaves nothing but the predecessor.
        (None, None) if mine.others.is_empty() && mine.prev.is_some() => {
            mine.prev.map(|(held, container)| (held, container, Reason::ContainerMissing))
        }
        (None, None) => mine.others.first().map(|&(held, container)| {
            let change = FieldChange {
                field: "container.name".to_owned(),
                from: Some(held.to_string()),
                to: Some(agent.container.name.to_string()),
            };
            (held, container, Reason::Changed(vec![change]))
        }),
    };

    clear_next(name, mine, plan);
    // The name of the predecessor must be free for the one that is replaced now.
    let aside = current.as_ref().is_some_and(|(held, ..)| mine.prev.is_some_and(|(prev, _)| prev == *held));
    let in_the_way = if current.is_some() && !aside { mine.next.or(mine.prev) } else { mine.next };
    if let (Some(_), false, Some((prev, container))) = (&current, aside, mine.prev) {
        remove(Some(name), prev, container, Reason::Leftover, plan);
    }
    if let Some((held, container, _)) = &current
        && (image.image.is_err() || policy.held.contains(name))
    {
        keep_alive(name, agent, held, container, plan);
    }
    let (action, reason) = match (create, current) {
        (None, current) => {
            let reason = current.map_or(Reason::ContainerMissing, |(_, _, reason)| reason);
            return waits(name, agent, image, reason, plan);
        }
        (Some(create), None) => (Action::CreateContainer { create, start }, Reason::ContainerMissing),
        (Some(create), Some((held, container, reason))) => (replacement(create, agent, held, container), reason),
    };
    match (&image.image, in_the_way) {
        (Err(on), _) => plan.wait(name.clone(), &action, reason, on.clone()),
        (Ok(_), Some((left, _))) => {
            plan.wait(name.clone(), &action, reason, WaitingOn::Removal { name: left.clone() });
        }
        (Ok(_), None) => plan.step(name.clone(), action, reason),
    }
}

/// The predecessor of a container that has not proved itself yet: what comes back should its next successor fail too.
fn fallback<'a>(mine: &Mine<'a>, main: &ContainerState) -> Option<(&'a ContainerName, &'a ContainerState)> {
    let proved = main.phase == Phase::Running && main.health == Some(Health::Healthy);
    mine.prev.filter(|(_, prev)| !proved && prev.phase != Phase::Removing)
}

/// What is wanted changed before a replacement had proved its successor. That one goes, and its predecessor is replaced
/// by what is wanted now, so that a second failure brings back what is known to work.
#[expect(clippy::too_many_arguments, reason = "one decision over everything that is known of one agent")]
fn clear_unproved(
    name: &AgentName,
    agent: &Agent,
    mine: &Mine<'_>,
    (held, container): (&ContainerName, &ContainerState),
    (prev, proved): (&ContainerName, &ContainerState),
    reason: Reason,
    create: Option<Create>,
    image: &ImageFor,
    plan: &mut Plan,
) {
    clear_next(name, mine, plan);
    match (&image.image, create) {
        (Ok(_), Some(create)) => {
            remove(Some(name), held, container, Reason::Unproved, plan);
            let action = replacement(create, agent, prev, proved);
            plan.wait(name.clone(), &action, reason, WaitingOn::Removal { name: held.clone() });
        }
        _ => {
            keep_alive(name, agent, held, container, plan);
            waits(name, agent, image, reason, plan);
        }
    }
}

/// A half-made successor is worthless: it is cleared before a new one is made.
fn clear_next(name: &AgentName, mine: &Mine<'_>, plan: &mut Plan) {
    if let Some((next, container)) = mine.next {
        remove(Some(name), next, container, Reason::Leftover, plan);
    }
}

/// Until its successor can be made, the one there is serves.
fn keep_alive(name: &AgentName, agent: &Agent, held: &ContainerName, container: &ContainerState, plan: &mut Plan) {
    if let Some(action) = revival(agent, held, container) {
        plan.step(name.clone(), action, Reason::NotRunning(container.phase.clone()));
    }
}

fn replacement(create: Create, agent: &Agent, held: &ContainerName, container: &ContainerState) -> Action {
    Action::ReplaceContainer {
        create,
        start: agent.state == AgentState::Running,
        old: container.id.clone(),
        old_name: held.clone(),
        // Also one that should run and was found dead: should its successor fail, it is brought back running.
        old_runs: matches!(container.phase, Phase::Running | Phase::Paused) || is_down(agent, container),
        old_ports: container.ports.clone(),
    }
}

/// Whether a container that should run does not.
fn is_down(agent: &Agent, container: &ContainerState) -> bool {
    let ended = match container.phase {
        Phase::Exited { code } => !stays_ended(agent.container.restart, code),
        Phase::Paused => true,
        _ => false,
    };
    agent.state == AgentState::Running && ended
}

/// The step that brings a container of ours back to life.
fn revival(agent: &Agent, held: &ContainerName, container: &ContainerState) -> Option<Action> {
    let ours = matches!(container.owner, Owner::Ours { .. });
    (ours && is_down(agent, container)).then(|| Action::StartContainer {
        id: container.id.clone(),
        name: held.clone(),
        how: if container.phase == Phase::Paused { Revival::Unpause } else { Revival::Start },
        previous: None,
        spec: Box::new(agent.container.clone()),
    })
}

fn waits(name: &AgentName, agent: &Agent, image: &ImageFor, reason: Reason, plan: &mut Plan) {
    let on = match (&image.reference, &image.image) {
        (Err(on), _) | (Ok(_), Err(on)) => on.clone(),
        (Ok(_), Ok(_)) => return,
    };
    let kind = if reason == Reason::ContainerMissing { "createContainer" } else { "replaceContainer" };
    let target = agent.container.name.to_string();
    plan.waiting.push(super::Waiting { agent: Some(name.clone()), kind, target, reason, on });
}

enum Judgement {
    Same,
    Differs(Reason),
    Unsure(String),
}

/// Whether a container is what is wanted, but for whether it runs.
fn judge(desired: &Desired, agent: &Agent, container: &ContainerState, image: &ImageFor) -> Judgement {
    let Owner::Ours { spec, version, .. } = &container.owner else { return Judgement::Differs(Reason::Adopted) };
    let Some(spec) = spec else {
        return if *version > SPEC_VERSION {
            Judgement::Unsure(format!(
                "a newer steadfast made it (spec version {version}, this build knows {SPEC_VERSION})"
            ))
        } else {
            Judgement::Differs(Reason::SpecUnreadable)
        };
    };
    // What cannot be told now is taken to be as it was: not knowing is no reason to replace.
    let reference = match &image.reference {
        Ok(reference) => reference.clone(),
        Err(_) => match spec.image().and_then(|image| ImageRef::new(image).ok()) {
            Some(reference) => reference,
            None => return Judgement::Same,
        },
    };
    let mut changes = spec.changes(*version, &agent.container, &reference, &desired.key, container.live.as_ref());
    if !changes.iter().any(|change| change.field == "image") {
        changes.extend(image_change(container, spec, image));
    }
    ports_change(agent, container, &mut changes);
    if changes.is_empty() { Judgement::Same } else { Judgement::Differs(Reason::Changed(changes)) }
}

/// The same reference may come to mean another image: a tarball published anew, a tag built or pulled anew.
fn image_change(container: &ContainerState, spec: &CanonicalSpec, image: &ImageFor) -> Option<FieldChange> {
    let change =
        |from: String, to: String| FieldChange { field: "image.id".to_owned(), from: Some(from), to: Some(to) };
    match &image.image {
        Ok(wanted) if *wanted != container.image => {
            Some(change(container.image.short().to_owned(), wanted.short().to_owned()))
        }
        Ok(_) => None,
        Err(on) if on.is_blocked() => None,
        Err(_) => match (spec.artifact, image.artifact) {
            (Some(from), Some(to)) if from != to => Some(FieldChange {
                field: "artifact.sha256".to_owned(),
                from: Some(from.to_string()[..12].to_owned()),
                to: Some(to.to_string()[..12].to_owned()),
            }),
            _ => None,
        },
    }
}

/// Published ports can be told from a look, so a container that has others is seen whatever its label says. Where it has
/// none that says nothing: on a host network Podman drops them without a word.
fn ports_change(agent: &Agent, container: &ContainerState, changes: &mut Vec<FieldChange>) {
    if container.ports.is_empty() || changes.iter().any(|change| change.field == "container.ports") {
        return;
    }
    // One that is hidden now was to be hidden before.
    let hidden = !agent.container.hidden_ports.is_empty();
    let shown = |ports: BTreeSet<String>| {
        if hidden {
            return Some(HIDDEN.to_owned());
        }
        (!ports.is_empty()).then(|| format!("[{}]", ports.into_iter().collect::<Vec<_>>().join(", ")))
    };
    let from: BTreeSet<String> = container.ports.iter().map(ToString::to_string).collect();
    let to: BTreeSet<String> = agent.container.ports.iter().map(ToString::to_string).collect();
    if from != to {
        changes.push(FieldChange { field: "container.ports".to_owned(), from: shown(from), to: shown(to) });
    }
}

/// The right container is there; is it in the right state, and is anything left beside it?
fn settle(
    name: &AgentName,
    agent: &Agent,
    held: &ContainerName,
    container: &ContainerState,
    mine: &Mine<'_>,
    plan: &mut Plan,
) {
    let start = |how| Action::StartContainer {
        id: container.id.clone(),
        name: held.clone(),
        how,
        previous: mine.prev.map(|(_, previous)| previous.id.clone()),
        spec: Box::new(agent.container.clone()),
    };
    let stop = Action::StopContainer { id: container.id.clone(), name: held.clone() };
    let not_running = Reason::NotRunning(container.phase.clone());
    let mut right = false;
    match (agent.state, &container.phase) {
        // Between two lives of a crash loop: Podman restarts it in a moment, and there is nothing to do or to wait for.
        (AgentState::Running, Phase::Stopping) if is_in_a_crash_loop(container) => right = true,
        (_, Phase::Stopping | Phase::Removing) => {
            let on = WaitingOn::Transition { phase: container.phase.clone() };
            plan.wait(name.clone(), &start(Revival::Start), not_running, on);
        }
        (_, Phase::Other(word)) => {
            let on = WaitingOn::Sight { why: format!("Podman says it is `{word}`") };
            plan.wait(name.clone(), &start(Revival::Start), not_running, on);
        }
        // A one-shot is not run twice.
        (AgentState::Running, Phase::Running)
            if container.health == Some(Health::Unhealthy)
                && mine.prev.is_none()
                && agent.container.restart != RestartPolicy::No =>
        {
            plan.step(name.clone(), start(Revival::Restart), Reason::Unhealthy);
        }
        (AgentState::Running, Phase::Running) | (AgentState::Stopped, Phase::Created | Phase::Exited { .. }) => {
            right = true;
        }
        (AgentState::Running, Phase::Created) => plan.step(name.clone(), start(Revival::Start), not_running),
        (AgentState::Running, Phase::Paused) => plan.step(name.clone(), start(Revival::Unpause), not_running),
        (AgentState::Running, Phase::Exited { code }) => {
            if stays_ended(agent.container.restart, *code) {
                right = true;
            } else {
                plan.step(name.clone(), start(Revival::Start), not_running);
            }
        }
        (AgentState::Stopped | AgentState::Absent, Phase::Running | Phase::Paused) => {
            plan.step(name.clone(), stop, Reason::WantedStopped);
        }
        (AgentState::Absent, _) => {}
    }
    // Its predecessor goes only once it has proved itself; one that was never to run has nothing to prove.
    if right && mine.prev.is_some() && agent.state == AgentState::Running && container.phase == Phase::Running {
        plan.step(name.clone(), start(Revival::Start), Reason::Unproved);
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

/// Whether a container that ended by itself is to stay so.
pub(crate) fn stays_ended(policy: RestartPolicy, code: i32) -> bool {
    match policy {
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

pub(super) fn plan_down(observed: &Observed, stranger: Option<WaitingOn>, plan: &mut Plan) {
    let guest = match &observed.guest {
        Seen::Present(guest) => guest,
        Seen::Absent => return,
        Seen::Unknown { why } => {
            let on = stranger.unwrap_or_else(|| WaitingOn::Sight { why: why.clone() });
            return unseen(Reason::TakenDown, on, plan);
        }
    };
    for (name, container) in &guest.containers {
        if let Owner::Ours { agent, .. } = &container.owner {
            remove(agent.as_ref(), name, container, Reason::TakenDown, plan);
        }
    }
}
