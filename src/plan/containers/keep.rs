//! An agent that is to have a container, running or stopped: which of those that are there is the one, and what becomes
//! of the others.
//!
//! Nothing is recreated that exists as wanted: a container that was renamed gets its name back, the predecessor of an edit
//! that is taken back comes back, a successor that an interrupted replacement has made is used.

use super::judge::{Judgement, judge};
use super::names::Holder;
use super::{Found, OwnContainers, labels, remove, settle, stays_ended};
use crate::model::labels::{NEXT_SUFFIX, PREV_SUFFIX};
use crate::model::{
    Agent, AgentName, AgentState, CanonicalSpec, ContainerName, ContainerState, Create, Desired, FieldChange, Guest,
    Health, Owner, Phase, Quarantined, RolloutStrategy,
};
use crate::plan::images::ImageFor;
use crate::plan::{Action, ActionKind, Plan, Policy, Reason, StartMode, Waiting, WaitingOn};

/// One agent, and what is known of what it is to be.
pub(super) struct Wanted<'a> {
    pub desired: &'a Desired,
    pub name: &'a AgentName,
    pub agent: &'a Agent,
    pub image: &'a ImageFor,
    pub policy: &'a Policy,
    pub guest: &'a Guest,
    create: Option<Create>,
}

impl<'a> Wanted<'a> {
    pub(super) fn new(
        desired: &'a Desired,
        (name, agent): (&'a AgentName, &'a Agent),
        image: &'a ImageFor,
        policy: &'a Policy,
        guest: &'a Guest,
    ) -> Self {
        let create = image.reference.as_ref().ok().map(|reference| Create {
            name: agent.container.name.clone(),
            image: reference.clone(),
            image_id: image.image.clone().ok(),
            spec: agent.container.clone(),
            labels: labels(
                desired,
                name,
                &CanonicalSpec::new(&agent.container, reference, image.artifact, &desired.key),
            ),
            volumes: Vec::new(),
        });
        Self { desired, name, agent, image, policy, guest, create }
    }

    /// What a container is made from, where its image can be told.
    pub(super) fn create(&self) -> Option<&Create> {
        self.create.as_ref()
    }

    fn start(&self) -> bool {
        self.agent.state == AgentState::Running
    }

    fn judge(&self, container: &ContainerState) -> Judgement {
        judge(self.desired, self.agent, container, self.image)
    }

    /// The agent's container name with this suffix, and a number before it where another container than `left` has that.
    fn free_name(&self, suffix: &str, left: Option<Found<'_>>) -> ContainerName {
        let name = &self.agent.container.name;
        let is_free = |name: &ContainerName| {
            !self.guest.containers.contains_key(name) || left.is_some_and(|(left, _)| left == name)
        };
        // The loader leaves room for a suffix.
        let plain = ContainerName::new(format!("{name}{suffix}")).unwrap_or_else(|_| name.clone());
        let others = (1..100).filter_map(|number| ContainerName::new(format!("{name}.{number}{suffix}")).ok());
        std::iter::once(plain.clone()).chain(others).find(is_free).unwrap_or(plain)
    }

    /// What failed before, where that is what is wanted now.
    fn quarantined(&self) -> Option<&'a Quarantined> {
        let failed = self.policy.quarantined.get(self.name).filter(|_| self.start())?;
        let reference = self.image.reference.as_ref().ok()?;
        let is_same = failed.is_said(self.agent, reference, &self.desired.key)
            && failed.is_of(self.image.image.as_ref().ok(), self.image.artifact);
        is_same.then_some(failed)
    }

    fn is_right(&self, container: &ContainerState) -> bool {
        container.phase != Phase::Removing && matches!(self.judge(container), Judgement::Same)
    }
}

/// Decides about one agent. `holder` is who has its container's name, if that is somebody else.
pub(super) fn keep(wanted: &Wanted<'_>, mine: &OwnContainers<'_>, holder: Option<Holder<'_>>, plan: &mut Plan) {
    let aside = mine.prev.filter(|(_, prev)| prev.phase != Phase::Removing);
    if let (None, Some(failed), Some(prev)) = (&holder, wanted.quarantined(), aside)
        && mine.main.is_none_or(|(_, main)| fallback(mine, main).is_some())
    {
        // What failed serves nobody: what it was to replace does.
        restore(wanted, mine, prev, mine.main.or(beside(mine, prev)), plan);
        return quarantine(wanted, failed, Reason::Unproved, plan);
    }
    match (holder, mine.main) {
        (Some(Holder { seen, on: Some(on) }), _) => wait_for_name(wanted, mine, seen.0, on, plan),
        (Some(Holder { seen: (owned_name, container), on: None }), _) => {
            replace(wanted, mine, (owned_name, container), Reason::Adopted, plan);
        }
        (None, Some((owned_name, container))) => match wanted.judge(container) {
            Judgement::Same => settle(wanted, (owned_name, container), mine, plan),
            Judgement::Unsure(why) => {
                let Some(create) = wanted.create() else { return waits(wanted, Reason::SpecUnreadable, plan) };
                let action = replacement(wanted, mine, create, (owned_name, container), None);
                plan.wait(wanted.name.clone(), &action, Reason::SpecUnreadable, WaitingOn::Sight { why });
            }
            Judgement::Differs(reason) => {
                if let Some(prev) = mine.prev.filter(|(_, prev)| wanted.is_right(prev)) {
                    restore(wanted, mine, prev, Some((owned_name, container)), plan);
                } else if let Some(prev) = fallback(mine, container) {
                    clear_unproved(wanted, mine, (owned_name, container), prev, reason, plan);
                } else {
                    replace(wanted, mine, (owned_name, container), reason, plan);
                }
            }
        },
        (None, None) => nameless(wanted, mine, plan),
    }
}

/// Nobody has the name.
fn nameless(wanted: &Wanted<'_>, mine: &OwnContainers<'_>, plan: &mut Plan) {
    if let Some(right) = restorable(wanted, mine) {
        return restore(wanted, mine, right, beside(mine, right), plan);
    }
    let successor = successor(wanted, mine).map(|(name, _)| name);
    match (mine.others.iter().find(|(owned_name, _)| Some(*owned_name) != successor), mine.prev) {
        (Some(&(owned_name, container)), _) => {
            let mut changes = vec![FieldChange {
                field: "container.name".to_owned(),
                from: Some(owned_name.to_string()),
                to: Some(wanted.agent.container.name.to_string()),
            }];
            if let Judgement::Differs(reason) = wanted.judge(container) {
                changes.extend(reason.changes().iter().cloned());
            }
            replace(wanted, mine, (owned_name, container), Reason::Changed(changes), plan);
        }
        // Killed between its two renames, a replacement leaves nothing under the name.
        (None, Some(prev)) => {
            let reason = match wanted.judge(prev.1) {
                Judgement::Differs(reason) => reason,
                Judgement::Same | Judgement::Unsure(_) => Reason::ContainerMissing,
            };
            replace(wanted, mine, prev, reason, plan);
        }
        (None, None) => {
            clear_next(wanted, mine, plan);
            let Some(create) = wanted.create() else { return waits(wanted, Reason::ContainerMissing, plan) };
            let action = Action::CreateContainer { create: create.clone(), start: wanted.start() };
            put(wanted, action, Reason::ContainerMissing, mine.next, plan);
        }
    }
}

/// A container of the agent under another name that is as wanted and can simply have the name: its predecessor, or one
/// that somebody renamed. Beside one that it would replace, another than the predecessor has to prove itself; a successor
/// that runs already does so under its new name.
fn restorable<'a>(wanted: &Wanted<'_>, mine: &OwnContainers<'a>) -> Option<Found<'a>> {
    if mine.prev.is_some_and(|(_, prev)| wanted.is_right(prev)) {
        return mine.prev;
    }
    let right = right_elsewhere(wanted, mine)?;
    // Between its two renames both run where they overlap, and the successor has proved itself.
    let overlaps = wanted.agent.rollout.strategy == RolloutStrategy::Overlap;
    let serves = mine.prev.is_none_or(|(_, prev)| right.1.phase == Phase::Running && (overlaps || !runs(prev)));
    (serves && beside(mine, right).is_none()).then_some(right)
}

/// Another container of the agent that runs, neither under its name nor as a predecessor. Two never run at once.
fn beside<'a>(mine: &OwnContainers<'a>, this: Found<'_>) -> Option<Found<'a>> {
    mine.others.iter().chain(&mine.spare).copied().find(|(name, other)| *name != this.0 && runs(other))
}

fn runs(container: &ContainerState) -> bool {
    matches!(container.phase, Phase::Running | Phase::Paused | Phase::Stopping)
}

fn right_elsewhere<'a>(wanted: &Wanted<'_>, mine: &OwnContainers<'a>) -> Option<Found<'a>> {
    let all = mine.next.into_iter().chain(mine.others.iter().chain(&mine.spare).copied());
    all.into_iter().find(|(_, container)| wanted.is_right(container))
}

/// One that is as wanted and that can take the place of another: the successor that an interrupted replacement has made.
fn successor<'a>(wanted: &Wanted<'_>, mine: &OwnContainers<'a>) -> Option<Found<'a>> {
    let can_start = |phase: &Phase| matches!(phase, Phase::Created | Phase::Exited { .. } | Phase::Running);
    right_elsewhere(wanted, mine).filter(|(_, right)| can_start(&right.phase))
}

/// Gives a container that is as wanted its name (back), and starts it where a replacement had stopped it. `instead` is
/// what has the name, or runs in its place, and goes.
fn restore(
    wanted: &Wanted<'_>,
    mine: &OwnContainers<'_>,
    (owned_name, container): Found<'_>,
    instead: Option<Found<'_>>,
    plan: &mut Plan,
) {
    let (name, agent) = (wanted.name, wanted.agent);
    if mine.next.is_some_and(|(next, _)| next != owned_name) {
        clear_next(wanted, mine, plan);
    }
    let mut steps = Vec::new();
    // Before it is renamed: by its name alone it is known that it was a replacement that stopped it.
    if is_down(agent, container) && container.phase != Phase::Paused || was_stopped_aside(wanted, owned_name, container)
    {
        let action = start_action(wanted, owned_name, container, StartMode::Start, None);
        steps.push((action, Reason::NotRunning(container.phase.clone())));
    }
    let action = Action::RenameContainer {
        id: container.id.clone(),
        from: owned_name.clone(),
        name: agent.container.name.clone(),
    };
    steps.push((action, Reason::Misnamed { from: owned_name.clone() }));
    let on = match (instead, &container.phase) {
        (Some((there, unproved)), _) => {
            remove(Some(name), there, unproved, Reason::TakenBack, plan);
            Some(WaitingOn::Removal { name: there.clone() })
        }
        (None, phase @ Phase::Stopping) => Some(WaitingOn::Transition { phase: phase.clone() }),
        (None, _) => None,
    };
    for (action, reason) in steps {
        match &on {
            Some(on) => plan.wait(name.clone(), &action, reason, on.clone()),
            None => plan.step(name.clone(), action, reason),
        }
    }
}

/// Puts a successor in the place of `old`, once nothing is in the way.
fn replace(
    wanted: &Wanted<'_>,
    mine: &OwnContainers<'_>,
    (owned_name, container): Found<'_>,
    reason: Reason,
    plan: &mut Plan,
) {
    let failed = wanted.quarantined();
    let is_usable = wanted.image.image.is_ok() && failed.is_none();
    let successor = successor(wanted, mine).filter(|(name, _)| is_usable && *name != owned_name);
    let next = mine.next.filter(|(next, _)| successor.is_none_or(|(successor, _)| successor != *next));
    if next.is_some() {
        clear_next(wanted, mine, plan);
    }
    // The name of the predecessor must be free for the one that is replaced now.
    let aside = mine.prev.is_some_and(|(prev, _)| prev == owned_name);
    if let (false, Some((prev, container))) = (aside, mine.prev) {
        remove(Some(wanted.name), prev, container, Reason::Leftover, plan);
    }
    let left = next.or(mine.prev.filter(|_| !aside));
    if !is_usable || wanted.policy.backing_off.contains(wanted.name) {
        keep_alive(wanted, owned_name, container, plan);
    }
    if let Some(failed) = failed {
        return quarantine(wanted, failed, reason, plan);
    }
    let Some(create) = wanted.create() else { return waits(wanted, reason, plan) };
    let action = replacement(wanted, mine, create, (owned_name, container), successor);
    put(wanted, action, reason, left, plan);
}

/// What is wanted failed before, and is not tried again.
fn quarantine(wanted: &Wanted<'_>, failed: &Quarantined, reason: Reason, plan: &mut Plan) {
    let image = failed.image_name().map_or_else(|| wanted.name.to_string(), str::to_owned);
    let on = WaitingOn::Quarantine { image, since: failed.since.clone(), why: failed.message.clone() };
    let (kind, target) = (ActionKind::ReplaceContainer, wanted.agent.container.name.to_string());
    plan.waiting.push(Waiting { agent: Some(wanted.name.clone()), kind, target, reason, on });
}

/// Takes a step once the image is there and what is left of an earlier replacement has gone.
fn put(wanted: &Wanted<'_>, action: Action, reason: Reason, left: Option<Found<'_>>, plan: &mut Plan) {
    match (&wanted.image.image, left) {
        (Err(on), _) => plan.wait(wanted.name.clone(), &action, reason, on.clone()),
        (Ok(_), Some((left, _))) => {
            plan.wait(wanted.name.clone(), &action, reason, WaitingOn::Removal { name: left.clone() });
        }
        (Ok(_), None) => plan.step(wanted.name.clone(), action, reason),
    }
}

/// Somebody else has the name. What the agent has under another one serves meanwhile.
fn wait_for_name(wanted: &Wanted<'_>, mine: &OwnContainers<'_>, taken: &ContainerName, on: WaitingOn, plan: &mut Plan) {
    let own = restorable(wanted, mine);
    let (kind, reason) = match own.or(mine.others.first().copied()).or(mine.prev) {
        Some((owned_name, container)) => {
            if beside(mine, (owned_name, container)).is_none() {
                keep_alive(wanted, owned_name, container, plan);
            }
            let kind = if own.is_some() { ActionKind::RenameContainer } else { ActionKind::ReplaceContainer };
            (kind, Reason::Misnamed { from: owned_name.clone() })
        }
        None => (ActionKind::CreateContainer, Reason::ContainerMissing),
    };
    // Should the image be missing as well, that is what somebody has to bring.
    let on = match &wanted.image.image {
        Err(image) if kind != ActionKind::RenameContainer && !on.is_blocked() => image.clone(),
        _ => on,
    };
    let target = taken.to_string();
    plan.waiting.push(Waiting { agent: Some(wanted.name.clone()), kind, target, reason, on });
}

/// The predecessor of a container that has not proved itself yet: what comes back should its next successor fail too.
fn fallback<'a>(mine: &OwnContainers<'a>, main: &ContainerState) -> Option<Found<'a>> {
    let proved = main.phase == Phase::Running && main.health == Some(Health::Healthy);
    mine.prev.filter(|(_, prev)| !proved && prev.phase != Phase::Removing)
}

/// What is wanted changed before a replacement had proved its successor. That one goes, and its predecessor is replaced
/// by what is wanted now, so that a second failure brings back what is known to work.
fn clear_unproved(
    wanted: &Wanted<'_>,
    mine: &OwnContainers<'_>,
    (owned_name, container): Found<'_>,
    prev: Found<'_>,
    reason: Reason,
    plan: &mut Plan,
) {
    clear_next(wanted, mine, plan);
    match (&wanted.image.image, wanted.create()) {
        (Ok(_), Some(create)) => {
            remove(Some(wanted.name), owned_name, container, Reason::Unproved, plan);
            let action = replacement(wanted, mine, create, prev, None);
            plan.wait(wanted.name.clone(), &action, reason, WaitingOn::Removal { name: owned_name.clone() });
        }
        _ => {
            keep_alive(wanted, owned_name, container, plan);
            waits(wanted, reason, plan);
        }
    }
}

/// A successor that is not as wanted is worthless: it is cleared before a new one is made.
fn clear_next(wanted: &Wanted<'_>, mine: &OwnContainers<'_>, plan: &mut Plan) {
    if let Some((next, container)) = mine.next {
        remove(Some(wanted.name), next, container, Reason::Leftover, plan);
    }
}

/// Until its successor can be made, the one there is serves.
fn keep_alive(wanted: &Wanted<'_>, owned_name: &ContainerName, container: &ContainerState, plan: &mut Plan) {
    let ours = matches!(container.owner, Owner::Ours { .. });
    if ours && (is_down(wanted.agent, container) || was_stopped_aside(wanted, owned_name, container)) {
        let how = if container.phase == Phase::Paused { StartMode::Unpause } else { StartMode::Start };
        let action = start_action(wanted, owned_name, container, how, None);
        plan.step(wanted.name.clone(), action, Reason::NotRunning(container.phase.clone()));
    }
}

/// The step that brings a container of ours (back) to life.
pub(super) fn start_action(
    wanted: &Wanted<'_>,
    owned_name: &ContainerName,
    container: &ContainerState,
    how: StartMode,
    previous: Option<Found<'_>>,
) -> Action {
    let is_new = container.phase == Phase::Created && wanted.image.image.is_ok();
    Action::StartContainer {
        id: container.id.clone(),
        name: owned_name.clone(),
        how,
        previous: previous.map(|(_, previous)| previous.id.clone()),
        spec: Box::new(wanted.agent.container.clone()),
        last_start: container.started_at,
        remake: wanted.create().filter(|_| is_new).map(|create| Box::new(create.clone())),
        rollout: wanted.agent.rollout,
        tried: wanted.create().filter(|_| previous.is_some()).map(|create| Box::new(create.clone())),
    }
}

fn replacement(
    wanted: &Wanted<'_>,
    mine: &OwnContainers<'_>,
    create: &Create,
    (owned_name, container): Found<'_>,
    successor: Option<Found<'_>>,
) -> Action {
    Action::ReplaceContainer {
        create: create.clone(),
        start: wanted.start(),
        old: container.id.clone(),
        old_name: owned_name.clone(),
        // Also one that should run and was found dead: should its successor fail, it is brought back running.
        old_runs: matches!(container.phase, Phase::Running | Phase::Paused)
            || is_down(wanted.agent, container)
            || was_stopped_aside(wanted, owned_name, container),
        old_ports: container.ports.clone(),
        successor: successor.map(|(_, next)| next.id.clone()),
        // What is left of an earlier replacement goes before this one begins.
        next: wanted.free_name(NEXT_SUFFIX, mine.next),
        aside: wanted.free_name(PREV_SUFFIX, mine.prev),
        rollout: wanted.agent.rollout,
    }
}

/// Whether a container that should run does not.
fn is_down(agent: &Agent, container: &ContainerState) -> bool {
    let ended = match container.phase {
        Phase::Exited { code } => !stays_ended(agent.container.restart, container.restarts, code),
        Phase::Paused => true,
        _ => false,
    };
    agent.state == AgentState::Running && ended
}

/// Whether a predecessor that should run was stopped by its replacement. Of a one-shot the exit code tells: by itself none
/// ends with a signal's.
fn was_stopped_aside(wanted: &Wanted<'_>, owned_name: &ContainerName, container: &ContainerState) -> bool {
    let by_signal = matches!(container.phase, Phase::Exited { code } if code > 128);
    wanted.start() && owned_name.as_str().ends_with(PREV_SUFFIX) && by_signal
}

fn waits(wanted: &Wanted<'_>, reason: Reason, plan: &mut Plan) {
    let on = match (&wanted.image.reference, &wanted.image.image) {
        (Err(on), _) | (Ok(_), Err(on)) => on.clone(),
        (Ok(_), Ok(_)) => return,
    };
    let kind =
        if reason == Reason::ContainerMissing { ActionKind::CreateContainer } else { ActionKind::ReplaceContainer };
    let target = wanted.agent.container.name.to_string();
    plan.waiting.push(Waiting { agent: Some(wanted.name.clone()), kind, target, reason, on });
}
