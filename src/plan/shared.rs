//! Volumes and networks: made when an agent needs them, and never changed or removed for another reason than that somebody asks.

use std::collections::BTreeMap;

use super::{Action, ActionKind, Plan, Reason, Waiting, WaitingOn};
use crate::model::observed::shared::is_ours;
use crate::model::spec::MountSource;
use crate::model::{
    Agent, AgentName, AgentState, Desired, FailureKind, FieldChange, MakeNetwork, MakeVolume, Observed, Owner, Seen,
    SharedState, labels,
};

/// What stands before the containers of these agents. A container that exists goes on whatever becomes of the rest.
pub(super) fn plan(
    desired: &Desired,
    observed: &Observed,
    active: &[(&AgentName, &Agent)],
    hidden: Option<&WaitingOn>,
    plan: &mut Plan,
) -> BTreeMap<AgentName, WaitingOn> {
    let mut before = BTreeMap::new();
    let mut made = BTreeMap::new();
    let wanted = active.iter().filter(|(_, agent)| agent.state != AgentState::Absent);
    for &(name, agent) in wanted {
        for thing in needed(agent) {
            let on = match (&observed.shared, hidden) {
                (_, Some(on)) => Some(on.clone()),
                (Seen::Present(shared), None) => {
                    let look = made.entry(thing.clone()).or_insert_with(|| look_at(desired, shared, &thing));
                    match look {
                        Look::There => None,
                        Look::Missing(_) => Some(thing.awaited()),
                        Look::Blocked { reason, on } => {
                            let (kind, target) = (thing.kind(), thing.name().to_owned());
                            let (agent, reason) = (Some(name.clone()), reason.clone());
                            plan.waiting.push(Waiting { agent, kind, target, reason, on: on.clone() });
                            Some(on.clone())
                        }
                    }
                }
                // With Podman out of sight its containers say so by themselves.
                (Seen::Absent, None) => None,
                (Seen::Unknown { why }, None) => Some(WaitingOn::Sight { why: why.clone() }),
            };
            if let Some(on) = on {
                before.entry(name.clone()).or_insert(on);
            }
        }
    }
    for look in made.into_values() {
        if let Look::Missing(action) = look {
            plan.step(None, *action, Reason::SharedMissing);
        }
    }
    before
}

/// What was made for this state file goes, also what it does not name any more; what is on it goes first.
pub(super) fn plan_down(desired: &Desired, observed: &Observed, plan: &mut Plan) {
    let (Seen::Present(shared), Seen::Present(guest)) = (&observed.shared, &observed.guest) else { return };
    let owner = desired.ownership();
    let ours = guest.containers.iter().find(|(_, container)| matches!(container.owner, Owner::Ours { .. }));
    let networks = shared.networks.iter().filter(|(_, state)| is_ours(&state.labels, &owner));
    let volumes = shared.volumes.iter().filter(|(_, state)| is_ours(&state.labels, &owner));
    let networks = networks.map(|(name, _)| Action::RemoveNetwork { name: name.clone() });
    for action in networks.chain(volumes.map(|(name, _)| Action::RemoveVolume { name: name.clone() })) {
        match ours {
            Some((name, _)) => {
                plan.wait(None, &action, Reason::TakenDown, WaitingOn::Removal { name: name.clone() });
            }
            None => plan.step(None, action, Reason::TakenDown),
        }
    }
}

/// A network or a volume, by its name in the engine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    Network(String),
    Volume(String),
}

impl Thing {
    fn name(&self) -> &str {
        match self {
            Thing::Network(name) | Thing::Volume(name) => name,
        }
    }

    fn kind(&self) -> ActionKind {
        match self {
            Thing::Network(_) => ActionKind::CreateNetwork,
            Thing::Volume(_) => ActionKind::CreateVolume,
        }
    }

    /// What it is, in Podman's word.
    fn word(&self) -> &'static str {
        match self {
            Thing::Network(_) => "network",
            Thing::Volume(_) => "volume",
        }
    }

    fn failure(&self) -> FailureKind {
        match self {
            Thing::Network(_) => FailureKind::Network,
            Thing::Volume(_) => FailureKind::Volume,
        }
    }

    fn awaited(&self) -> WaitingOn {
        match self {
            Thing::Network(name) => WaitingOn::Network { name: name.clone() },
            Thing::Volume(name) => WaitingOn::Volume { name: name.clone() },
        }
    }
}

/// What an agent's container needs, networks first.
fn needed(agent: &Agent) -> impl Iterator<Item = Thing> {
    let networks = agent.container.network.networks().map(|name| Thing::Network(name.to_owned()));
    let volumes = agent.container.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Volume(name) => Some(Thing::Volume(name.clone())),
        MountSource::Bind(_) | MountSource::Tmpfs { .. } => None,
    });
    networks.chain(volumes)
}

enum Look {
    There,
    Missing(Box<Action>),
    Blocked { reason: Reason, on: WaitingOn },
}

fn look_at(desired: &Desired, shared: &SharedState, thing: &Thing) -> Look {
    let owner = desired.ownership();
    match thing {
        Thing::Network(name) => {
            let Some(spec) = desired.networks.get(name) else { return Look::There };
            match shared.networks.get(name) {
                None if spec.external => missing(thing),
                None => {
                    let labels = labels::of_shared(desired, &spec.key, &spec.labels);
                    let make = MakeNetwork { name: name.clone(), spec: spec.clone(), labels };
                    Look::Missing(Box::new(Action::CreateNetwork { make: Box::new(make) }))
                }
                Some(_) if spec.external => Look::There,
                Some(state) if !is_ours(&state.labels, &owner) => foreign(thing),
                Some(state) => same(thing, state.changes(spec)),
            }
        }
        Thing::Volume(name) => {
            let Some(spec) = desired.volumes.get(name) else { return Look::There };
            match shared.volumes.get(name) {
                None if spec.external => missing(thing),
                None => {
                    let labels = labels::of_shared(desired, &spec.key, &spec.labels);
                    let make = MakeVolume { name: name.clone(), spec: spec.clone(), labels };
                    Look::Missing(Box::new(Action::CreateVolume { make: Box::new(make) }))
                }
                Some(_) if spec.external => Look::There,
                Some(state) if !is_ours(&state.labels, &owner) => foreign(thing),
                Some(state) => same(thing, state.changes(spec)),
            }
        }
    }
}

fn blocked(thing: &Thing, reason: Reason, why: String) -> Look {
    Look::Blocked { reason, on: WaitingOn::Precondition { kind: thing.failure(), why } }
}

fn missing(thing: &Thing) -> Look {
    let (what, name) = (thing.word(), thing.name());
    let why = format!(
        "{what} `{name}` is `external` and not there: make it (`podman {what} create {name}`), or leave `external` out to have it made"
    );
    blocked(thing, Reason::SharedMissing, why)
}

fn foreign(thing: &Thing) -> Look {
    let (what, name) = (thing.word(), thing.name());
    let why = format!(
        "{what} `{name}` is there and somebody else's: write `external: true` to use it as it is, or give yours another `name`"
    );
    blocked(thing, Reason::SharedForeign, why)
}

fn same(thing: &Thing, changes: Vec<FieldChange>) -> Look {
    let (what, name) = (thing.word(), thing.name());
    let Some(first) = changes.first() else { return Look::There };
    let (from, to) = (first.from.as_deref().unwrap_or_default(), first.to.as_deref().unwrap_or_default());
    let loss = if matches!(thing, Thing::Volume(_)) { ", and what is in it with it" } else { "" };
    let why = format!(
        "{what} `{name}` has `{}: {from}`, and the state file says {to}: that takes another {what}, and none is removed unasked; \
         `podman {what} rm {name}` removes it once no container uses it{loss}, or give the new one another `name`",
        first.field
    );
    blocked(thing, Reason::Changed(changes), why)
}
