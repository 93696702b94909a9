//! A plan, for people, for programs and for pull requests.

mod json;

pub(crate) use json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use anstyle::Style;

use super::markdown::{code, prose, value};
use super::{ADD, ASIDE, CHANGE, REMOVE, STRONG, styled, terminal, units};
use crate::model::spec::{NetworkMode, Networking, Security};
use crate::model::{AgentName, Boot, ContainerSpec, Desired, Guest, ImageRef, Mount};
use crate::plan::{Action, ActionKind, Moved, Plan, Reason, Summary, Waiting, WaitingOn};
use crate::snapshot::Snapshot;
use crate::status::{Condition, Status};

fn mark(kind: ActionKind) -> (&'static str, Style) {
    match kind {
        ActionKind::ReplaceContainer | ActionKind::RecreateVm => ("-/+", CHANGE),
        ActionKind::StartContainer
        | ActionKind::StopContainer
        | ActionKind::RenameContainer
        | ActionKind::StartVm
        | ActionKind::StopVm
        | ActionKind::AdoptVm
        | ActionKind::PrepareWorkspace => ("  ~", CHANGE),
        ActionKind::RemoveContainer
        | ActionKind::RemoveNetwork
        | ActionKind::RemoveVolume
        | ActionKind::PruneArtifact
        | ActionKind::PruneImage
        | ActionKind::DeleteVm
        | ActionKind::StopSession => ("  -", REMOVE),
        ActionKind::ObserveContainer => ("  ?", CHANGE),
        ActionKind::SyncManifest
        | ActionKind::FetchArtifact
        | ActionKind::CreateVm
        | ActionKind::ForwardPorts
        | ActionKind::LoadImage
        | ActionKind::PullImage
        | ActionKind::CreateNetwork
        | ActionKind::CreateVolume
        | ActionKind::CreateContainer
        | ActionKind::StartSession => ("  +", ADD),
    }
}

/// The agents that are not ready although there is nothing to do about them, with the reason: a plan that is empty is not
/// to be read as "all is well".
fn unready<'s>(plan: &Plan, status: &'s Status) -> Vec<(&'s AgentName, &'s Condition)> {
    let concerned = plan.concerned();
    let agents = status.agents.iter().filter(|(name, _)| !concerned.contains(name));
    let unready = agents.filter(|(_, agent)| !agent.ready && !agent.desired.suspend);
    unready.filter_map(|(name, agent)| Some((name, agent.conditions.first()?))).collect()
}

/// Whether only a person can help. What cannot be seen is told apart from it.
fn is_blocked(waiting: &Waiting) -> bool {
    waiting.on.is_blocked() && !waiting.hides()
}

/// The plan for people.
pub(crate) fn text(desired: &Desired, snapshot: &Snapshot, color: bool) -> String {
    let Snapshot { plan, status, observed, .. } = snapshot;
    let name = &desired.name;
    let mut out = String::new();
    let unready = unready(plan, status);
    if plan.is_empty() && !unready.is_empty() {
        let _ = writeln!(out, "No changes, but `{name}` is not as the state file says:");
    } else if plan.is_empty() {
        let _ = writeln!(out, "No changes. `{name}` is as the state file says.");
    }
    for (agent, condition) in unready {
        let reason = styled(condition.reason.as_str(), REMOVE, color);
        let _ = writeln!(out, "  agent `{agent}` is not ready: {reason}: {}", condition.message);
    }
    if plan.is_empty() {
        notes(&mut out, plan, color);
        return out;
    }
    if plan.steps().next().is_some() {
        let _ = writeln!(out, "{}", styled("Now:", STRONG, color));
    }
    for step in plan.steps() {
        let (mark, style) = mark(step.action.kind());
        let bytes = step.action.moved().map(|moved| format!(" ({})", units::moved(moved))).unwrap_or_default();
        let _ = writeln!(
            out,
            "  {} {}{bytes}{}",
            styled(mark, style, color),
            step.action,
            whose(step.agent.as_ref(), color)
        );
        why(&mut out, step.action.kind(), &step.reason, color);
        for (field, values) in made(desired, step.action.kind(), step.agent.as_ref()) {
            let values: Vec<_> = values.iter().map(|value| terminal::line(value)).collect();
            let _ = writeln!(out, "        {field}: {}", values.join(", "));
        }
        if let Some(lost) = lost(&step.action) {
            let _ = writeln!(out, "        {}", styled(lost, REMOVE, color));
        }
    }
    let (hidden, known) = hidden(plan);
    let (blocked, known): (Vec<_>, Vec<_>) = known.into_iter().partition(|waiting| is_blocked(waiting));
    let (unknown, later): (Vec<_>, Vec<_>) = known.into_iter().partition(|waiting| waiting.hides());
    let is_titled = !unknown.is_empty();
    for (title, steps) in [("Then:", later), ("Blocked:", blocked), ("Unknown:", unknown)] {
        if !steps.is_empty() {
            let _ = writeln!(out, "{}", styled(title, STRONG, color));
        }
        for waiting in steps {
            let (mark, style) = mark(waiting.kind);
            let (verb, target) = (waiting.kind.verb(), &waiting.target);
            let whose = whose(waiting.agent.as_ref(), color);
            let _ = writeln!(out, "  {} {verb} `{target}`{whose}", styled(mark, style, color));
            why(&mut out, waiting.kind, &waiting.reason, color);
            for (field, values) in made(desired, waiting.kind, waiting.agent.as_ref()) {
                let values: Vec<_> = values.iter().map(|value| terminal::line(value)).collect();
                let _ = writeln!(out, "        {field}: {}", values.join(", "));
            }
            let _ = writeln!(out, "        {}", styled(&waiting.on.to_string(), ASIDE, color));
        }
    }
    if !hidden.is_empty() && !is_titled {
        let _ = writeln!(out, "{}", styled("Unknown:", STRONG, color));
    }
    for (on, steps) in &hidden {
        let _ = writeln!(out, "    {}", hidden_steps(steps));
        // What is an error is said as one, beside this.
        let is_error =
            steps.iter().any(|waiting| matches!(waiting.on, WaitingOn::Sight { .. } | WaitingOn::Down { .. }));
        let on = if is_error { "unknown until it can be observed: the error says why it cannot be" } else { on };
        let _ = writeln!(out, "        {}", styled(on, ASIDE, color));
    }
    let _ = writeln!(out);
    let _ = writeln!(out, "{}", summary(plan, observed.guest.present()));
    notes(&mut out, plan, color);
    out
}

/// What a container that is created will be, field by field, of variables the names alone: it is new to whoever reads it.
fn made(desired: &Desired, kind: ActionKind, agent: Option<&AgentName>) -> Vec<(&'static str, Vec<String>)> {
    let Some(agent) = agent.filter(|_| kind == ActionKind::CreateContainer).and_then(|agent| desired.agents.get(agent))
    else {
        return Vec::new();
    };
    let spec = &agent.container;
    // What it runs and how it is kept running is no surprise to who wrote it, and may be long.
    let ContainerSpec {
        name: _,
        entrypoint: _,
        command: _,
        env,
        labels: _,
        mounts,
        ports,
        hidden_ports: _,
        restart: _,
        add_hosts: _,
        healthcheck: _,
        no_healthcheck: _,
        process,
        network,
        resources: _,
        security,
        logging: _,
    } = spec;
    let image = agent.image.as_ref().map(|image| match ImageRef::join(image, &agent.version.to_string()) {
        Ok(reference) => reference.to_string(),
        Err(_) => image.clone(),
    });
    let mount = |mount: &Mount| {
        let access = if mount.read_only { " (read-only)" } else { "" };
        format!("{} → {}{access}", mount.shown_source(), mount.target.shown())
    };
    let fields = [
        ("image", image.into_iter().collect::<Vec<_>>()),
        ("ports", ports.iter().map(|port| spec.shown_port(port)).collect()),
        ("mounts", mounts.iter().map(mount).collect()),
        ("networks", on(network)),
        ("user", process.user.iter().cloned().collect()),
        ("rights", rights(security)),
        ("devices", security.devices.clone()),
        ("env", env.keys().cloned().collect()),
    ];
    fields.into_iter().filter(|(_, values)| !values.is_empty()).collect()
}

fn on(network: &Networking) -> Vec<String> {
    match &network.mode {
        NetworkMode::Usual => Vec::new(),
        NetworkMode::None => vec!["none".to_owned()],
        NetworkMode::Host => vec!["host".to_owned()],
        NetworkMode::Networks(networks) => networks.keys().cloned().collect(),
    }
}

/// What whoever approves a container is to see: all that gives it more, or takes from it.
fn rights(security: &Security) -> Vec<String> {
    let Security { userns, cap_add, cap_drop, options, no_new_privileges, privileged, read_only_root, devices: _ } =
        security;
    let mut rights: Vec<_> = privileged.then(|| "privileged".to_owned()).into_iter().collect();
    rights.extend(cap_add.iter().map(|name| format!("+{name}")));
    rights.extend(cap_drop.iter().map(|name| format!("-{name}")));
    rights.extend(userns.iter().map(|userns| format!("userns {userns}")));
    rights.extend(options.iter().cloned());
    rights.extend(no_new_privileges.then(|| "no new privileges".to_owned()));
    rights.extend(read_only_root.then(|| "read-only root".to_owned()));
    rights
}

/// Steps that nobody knows more of than why they are unknown.
type Hidden<'a> = BTreeMap<String, Vec<&'a Waiting>>;

/// What hides several steps is told once for all of them. Yields them by what hides them, and the rest.
fn hidden(plan: &Plan) -> (Hidden<'_>, Vec<&Waiting>) {
    let mut hidden = Hidden::new();
    for waiting in plan.waiting.iter().filter(|waiting| waiting.hides()) {
        hidden.entry(waiting.on.to_string()).or_default().push(waiting);
    }
    hidden.retain(|_, steps| steps.len() > 1);
    let known = plan.waiting.iter().filter(|waiting| !waiting.hides() || !hidden.contains_key(&waiting.on.to_string()));
    let known = known.collect();
    (hidden, known)
}

/// `40 steps of 20 agents: a, b, c, …`
fn hidden_steps(steps: &[&Waiting]) -> String {
    let agents: BTreeSet<_> = steps.iter().filter_map(|waiting| waiting.agent.as_ref()).collect();
    let count = units::count(steps.len(), "step");
    if agents.is_empty() {
        return count;
    }
    let names: Vec<_> = agents.iter().take(MOST_NAMES).map(|agent| agent.as_str()).collect();
    let more = if agents.len() > MOST_NAMES { ", …" } else { "" };
    format!("{count} of {}: {}{more}", units::count(agents.len(), "agent"), names.join(", "))
}

/// More names say nothing more.
const MOST_NAMES: usize = 5;

/// What is gone for good once the step is taken.
fn lost(action: &Action) -> Option<&'static str> {
    let deletes = matches!(action, Action::RecreateVm { .. } | Action::DeleteVm { .. });
    deletes.then_some("# everything in it is lost: its images, its containers, and what they keep on its disk")
}

fn whose(agent: Option<&AgentName>, color: bool) -> String {
    agent.map(|agent| styled(&format!("  [{agent}]"), ASIDE, color)).unwrap_or_default()
}

fn why(out: &mut String, kind: ActionKind, reason: &Reason, color: bool) {
    if reason.changes().is_empty() {
        let _ = writeln!(out, "        {}", styled(&reason.to_string(), ASIDE, color));
        return;
    }
    for change in reason.changes() {
        let (from, to) = (terminal::line(shown(&change.from)), terminal::line(shown(&change.to)));
        let _ = writeln!(out, "        {}: {from} → {to}", change.field);
    }
    let forced = match kind {
        ActionKind::StartSession => "# this restarts the session, and nothing else",
        ActionKind::PrepareWorkspace => "# what the guest changed stays",
        _ => "# this forces the replacement",
    };
    let _ = writeln!(out, "        {}", styled(forced, ASIDE, color));
}

fn shown(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or("(not set)")
}

/// One sentence of counts and costs.
fn summary(plan: &Plan, guest: Option<&Guest>) -> String {
    let Summary {
        create,
        replace,
        rename,
        start,
        stop,
        remove,
        start_sessions,
        stop_sessions,
        prepare_workspaces,
        fetch,
        fetch_bytes,
        transfer_bytes,
        unknown,
        blocked,
    } = plan.summary();
    let mut parts: Vec<_> = plan.ready.iter().filter_map(|step| vm_part(&step.action)).collect();
    let part = |parts: &mut Vec<String>, count: usize, what: &str| {
        if count > 0 {
            parts.push(format!("{count} to {what}"));
        }
    };
    part(&mut parts, create, "create");
    part(&mut parts, replace, "replace");
    part(&mut parts, rename, "rename");
    part(&mut parts, start, "start");
    part(&mut parts, stop, "stop");
    part(&mut parts, remove, "remove");
    for (count, thing, what) in [
        (prepare_workspaces, "workspace", "prepare"),
        (start_sessions, "session", "start"),
        (stop_sessions, "session", "stop"),
    ] {
        if count > 0 {
            parts.push(format!("{} to {what}", units::count(count, thing)));
        }
    }
    if fetch > 0 {
        let moved = Moved { bytes: fetch_bytes, transfer: transfer_bytes };
        parts.push(format!("{} to fetch ({})", units::count(fetch, "artifact"), units::moved(moved)));
    }
    if unknown > 0 {
        parts.push(format!("{unknown} unknown until it can be observed"));
    }
    if blocked > 0 {
        parts.push(format!("{blocked} blocked"));
    }
    let others = plan.steps().count() + plan.waiting.len();
    if parts.is_empty() {
        parts.push(units::count(others, "step"));
    }
    let mut sentence = format!("Plan: {}.", parts.join(", "));
    let interrupted = plan.interrupts(guest);
    if !interrupted.is_empty() {
        let names: Vec<_> = interrupted.iter().map(|agent| agent.as_str()).collect();
        let _ = write!(sentence, " Interrupts: {}.", names.join(", "));
    }
    sentence
}

fn vm_part(action: &Action) -> Option<String> {
    let what = match action {
        Action::CreateVm { .. } => "create",
        Action::StartVm { how: Boot::Restart, .. } => "restart",
        Action::StartVm { .. } => "start",
        Action::RecreateVm { .. } => "recreate",
        Action::AdoptVm { .. } => "take over",
        Action::DeleteVm { .. } => "delete",
        _ => return None,
    };
    Some(format!("VM `{}` to {what}", action.target()))
}

fn notes(out: &mut String, plan: &Plan, color: bool) {
    for note in &plan.notes {
        let _ = writeln!(out, "{} {note}", styled("note:", STRONG, color));
    }
}

/// The plan for a pull-request comment.
pub(crate) fn markdown(desired: &Desired, snapshot: &Snapshot) -> String {
    let Snapshot { plan, status, observed, .. } = snapshot;
    let mut out = format!("### steadfast plan: `{}`\n\n", desired.name);
    let unready = unready(plan, status);
    if plan.is_empty() && unready.is_empty() {
        out.push_str("No changes. The machine is as the state file says.\n");
    } else if plan.is_empty() {
        out.push_str("No changes, but the machine is not as the state file says.\n");
    } else {
        let _ = writeln!(out, "{}\n", summary(plan, observed.guest.present()));
        out.push_str("| | step | agent | why |\n|---|---|---|---|\n");
        for step in plan.steps() {
            let bytes = step.action.moved().map(|moved| format!(" ({})", units::moved(moved))).unwrap_or_default();
            let what = format!("{}{bytes}", step.action);
            let lost = lost(&step.action).map(|lost| format!("*{}*", prose(lost)));
            row(&mut out, desired, step.action.kind(), &what, step.agent.as_ref(), &step.reason, lost);
        }
        let (hidden, known) = hidden(plan);
        for waiting in known {
            let what = format!("{} `{}`", waiting.kind.verb(), waiting.target);
            let blocked = if is_blocked(waiting) { "**blocked**: " } else { "" };
            let on = format!("{blocked}*{}*", prose(&waiting.on.to_string()));
            row(&mut out, desired, waiting.kind, &what, waiting.agent.as_ref(), &waiting.reason, Some(on));
        }
        for (on, steps) in &hidden {
            let _ = writeln!(out, "| `?` | {} | | *{}* |", prose(&hidden_steps(steps)), prose(on));
        }
    }
    for (agent, condition) in unready {
        let _ = writeln!(out, "\n> agent `{agent}` is not ready: {}: {}", condition.reason, prose(&condition.message));
    }
    for note in &plan.notes {
        let _ = writeln!(out, "\n> {}", prose(&note.to_string()));
    }
    out
}

/// `on` is Markdown, all else are words of others.
fn row(
    out: &mut String,
    desired: &Desired,
    kind: ActionKind,
    what: &str,
    agent: Option<&AgentName>,
    reason: &Reason,
    on: Option<String>,
) {
    let shown = |set: &Option<String>| set.as_deref().map_or("(not set)".to_owned(), value);
    let mut lines: Vec<_> = reason
        .changes()
        .iter()
        .map(|change| format!("{}: {} → {}", code(&change.field), shown(&change.from), shown(&change.to)))
        .collect();
    if lines.is_empty() {
        lines.push(prose(&reason.to_string()));
    }
    for (field, values) in made(desired, kind, agent) {
        let values: Vec<_> = values.iter().map(|text| code(text)).collect();
        lines.push(format!("{field}: {}", values.join(", ")));
    }
    lines.extend(on);
    let agent = agent.map_or("", AgentName::as_str);
    let _ = writeln!(out, "| `{}` | {} | {agent} | {} |", mark(kind).0.trim(), prose(what), lines.join("<br>"));
}

#[cfg(test)]
mod tests;
