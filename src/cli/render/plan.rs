//! A plan, for people, for programs and for pull requests.

use std::collections::BTreeSet;
use std::fmt::Write;

use anstyle::Style;
use serde::Serialize;

use super::{ADD, ASIDE, CHANGE, REMOVE, STRONG, styled, units};
use crate::model::{AgentName, Boot, FieldChange, Name};
use crate::plan::action::verb;
use crate::plan::{Action, Plan, Reason, Summary};
use crate::status::{Condition, Status};

/// The JSON of a plan.
#[derive(Debug, Serialize)]
struct PlanJson<'a> {
    name: &'a Name,
    converged: bool,
    summary: Summary,
    actions: Vec<StepJson>,
    waiting: Vec<StepJson>,
    interrupts: Vec<&'a AgentName>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct StepJson {
    kind: &'static str,
    agent: Option<AgentName>,
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    on: Option<&'static str>,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<FieldChange>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// The plan as JSON.
pub fn json<'a>(name: &'a Name, plan: &'a Plan, converged: bool) -> impl Serialize + use<'a> {
    PlanJson {
        name,
        converged,
        summary: plan.summary(),
        actions: plan
            .ready
            .iter()
            .map(|step| StepJson {
                kind: step.action.kind(),
                agent: step.agent.clone(),
                target: step.action.target(),
                on: None,
                reason: step.reason.to_string(),
                bytes: step.action.bytes(),
                changes: step.reason.changes().to_vec(),
                detail: None,
            })
            .collect(),
        waiting: plan
            .waiting
            .iter()
            .map(|waiting| StepJson {
                kind: waiting.kind,
                agent: waiting.agent.clone(),
                target: waiting.target.clone(),
                on: Some(waiting.on.word()),
                reason: waiting.reason.to_string(),
                bytes: None,
                changes: waiting.reason.changes().to_vec(),
                detail: Some(waiting.on.to_string()),
            })
            .collect(),
        interrupts: interrupts(plan).into_iter().collect(),
        notes: plan.notes.iter().map(ToString::to_string).collect(),
    }
}

/// The agents that do not run for a moment, or for good, when the plan is carried out.
fn interrupts(plan: &Plan) -> BTreeSet<&AgentName> {
    let ready = plan.ready.iter().filter_map(|step| match &step.action {
        Action::ReplaceContainer { old_runs: true, .. }
        | Action::StopContainer { .. }
        | Action::RemoveContainer { .. } => step.agent.as_ref(),
        _ => None,
    });
    // What runs in a machine that goes down goes down with it.
    let goes_down = plan.ready.iter().any(|step| {
        matches!(step.action, Action::RecreateVm { .. } | Action::StartVm { how: Boot::Restart | Boot::Mend, .. })
    });
    let stops = |kind: &str| kind == "replaceContainer" || goes_down && kind.ends_with("Container");
    let waiting = plan.waiting.iter().filter(move |waiting| stops(waiting.kind));
    ready.chain(waiting.filter_map(|waiting| waiting.agent.as_ref())).collect()
}

fn mark(kind: &str) -> (&'static str, Style) {
    match kind {
        "replaceContainer" | "recreateVm" => ("-/+", CHANGE),
        "startContainer" | "stopContainer" | "startVm" | "adoptVm" => ("  ~", CHANGE),
        "removeContainer" | "pruneArtifact" | "pruneImage" | "deleteVm" => ("  -", REMOVE),
        _ => ("  +", ADD),
    }
}

/// The agents that are not ready although there is nothing to do about them, with the reason: a plan that is empty is not
/// to be read as "all is well".
fn unready<'s>(plan: &Plan, status: &'s Status) -> Vec<(&'s AgentName, &'s Condition)> {
    let unready =
        status.agents.iter().filter(|(name, agent)| !agent.ready && !agent.desired.suspend && !plan.concerns(name));
    unready.filter_map(|(name, agent)| Some((name, agent.conditions.first()?))).collect()
}

/// The plan for people.
pub fn text(name: &Name, plan: &Plan, status: &Status, color: bool) -> String {
    let mut out = String::new();
    let unready = unready(plan, status);
    if plan.is_empty() && !unready.is_empty() {
        let _ = writeln!(out, "No changes, but `{name}` is not as the state file says:");
    } else if plan.is_empty() {
        let _ = writeln!(out, "No changes. `{name}` is as the state file says.");
    }
    for (agent, condition) in unready {
        let reason = styled(condition.reason, REMOVE, color);
        let _ = writeln!(out, "  agent `{agent}` is not ready: {reason}: {}", condition.message);
    }
    if plan.is_empty() {
        notes(&mut out, plan, color);
        return out;
    }
    if !plan.ready.is_empty() {
        let _ = writeln!(out, "{}", styled("Now:", STRONG, color));
    }
    for step in &plan.ready {
        let (mark, style) = mark(step.action.kind());
        let bytes = step.action.bytes().map(|bytes| format!(" ({})", units::bytes(bytes))).unwrap_or_default();
        let _ = writeln!(
            out,
            "  {} {}{bytes}{}",
            styled(mark, style, color),
            step.action,
            whose(step.agent.as_ref(), color)
        );
        why(&mut out, &step.reason, color);
        if let Some(lost) = lost(&step.action) {
            let _ = writeln!(out, "        {}", styled(lost, REMOVE, color));
        }
    }
    if !plan.waiting.is_empty() {
        let _ = writeln!(out, "{}", styled("Then:", STRONG, color));
    }
    for waiting in &plan.waiting {
        let (mark, style) = mark(waiting.kind);
        let (verb, target) = (verb(waiting.kind), &waiting.target);
        let _ =
            writeln!(out, "  {} {verb} `{target}`{}", styled(mark, style, color), whose(waiting.agent.as_ref(), color));
        why(&mut out, &waiting.reason, color);
        let _ = writeln!(out, "        {}", styled(&waiting.on.to_string(), ASIDE, color));
    }
    let _ = writeln!(out);
    let _ = writeln!(out, "{}", summary(plan));
    notes(&mut out, plan, color);
    out
}

/// What is gone for good once the step is taken.
fn lost(action: &Action) -> Option<&'static str> {
    let deletes = matches!(action, Action::RecreateVm { .. } | Action::DeleteVm { .. });
    deletes.then_some("# everything in it is lost: its images, its containers, and what they keep on its disk")
}

fn whose(agent: Option<&AgentName>, color: bool) -> String {
    agent.map(|agent| styled(&format!("  [{agent}]"), ASIDE, color)).unwrap_or_default()
}

fn why(out: &mut String, reason: &Reason, color: bool) {
    if reason.changes().is_empty() {
        let _ = writeln!(out, "        {}", styled(&reason.to_string(), ASIDE, color));
        return;
    }
    for change in reason.changes() {
        let _ = writeln!(out, "        {}: {} → {}", change.field, shown(&change.from), shown(&change.to));
    }
    let _ = writeln!(out, "        {}", styled("# this forces the replacement", ASIDE, color));
}

fn shown(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or("(not set)")
}

/// One sentence of counts and costs.
fn summary(plan: &Plan) -> String {
    let Summary { create, replace, start, stop, remove, fetch, fetch_bytes, unknown } = plan.summary();
    let mut parts: Vec<_> = plan.ready.iter().filter_map(|step| vm_part(&step.action)).collect();
    let part = |parts: &mut Vec<String>, count: usize, what: &str| {
        if count > 0 {
            parts.push(format!("{count} to {what}"));
        }
    };
    part(&mut parts, create, "create");
    part(&mut parts, replace, "replace");
    part(&mut parts, start, "start");
    part(&mut parts, stop, "stop");
    part(&mut parts, remove, "remove");
    if fetch > 0 {
        parts.push(format!("{} to fetch ({})", units::count(fetch, "artifact"), units::bytes(fetch_bytes)));
    }
    if unknown > 0 {
        parts.push(format!("{unknown} unknown until it can be seen"));
    }
    let others = plan.ready.len() + plan.waiting.len();
    if parts.is_empty() {
        parts.push(units::count(others, "step"));
    }
    let mut sentence = format!("Plan: {}.", parts.join(", "));
    let interrupted = interrupts(plan);
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
pub fn markdown(name: &Name, plan: &Plan, status: &Status) -> String {
    let mut out = format!("### steadfast plan: `{name}`\n\n");
    let unready = unready(plan, status);
    if plan.is_empty() && unready.is_empty() {
        out.push_str("No changes. The machine is as the state file says.\n");
    } else if plan.is_empty() {
        out.push_str("No changes, but the machine is not as the state file says.\n");
    } else {
        let _ = writeln!(out, "{}\n", summary(plan));
        out.push_str("| | step | agent | why |\n|---|---|---|---|\n");
        for step in &plan.ready {
            let bytes = step.action.bytes().map(|bytes| format!(" ({})", units::bytes(bytes))).unwrap_or_default();
            let what = format!("{}{bytes}", step.action);
            row(&mut out, step.action.kind(), &what, step.agent.as_ref(), &step.reason, lost(&step.action));
        }
        for waiting in &plan.waiting {
            let what = format!("{} `{}`", verb(waiting.kind), waiting.target);
            let on = waiting.on.to_string();
            row(&mut out, waiting.kind, &what, waiting.agent.as_ref(), &waiting.reason, Some(&on));
        }
    }
    for (agent, condition) in unready {
        let _ = writeln!(out, "\n> agent `{agent}` is not ready: {}: {}", condition.reason, condition.message);
    }
    for note in &plan.notes {
        let _ = writeln!(out, "\n> {note}");
    }
    out
}

fn row(out: &mut String, kind: &str, what: &str, agent: Option<&AgentName>, reason: &Reason, on: Option<&str>) {
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    let changes: Vec<_> = reason
        .changes()
        .iter()
        .map(|change| format!("`{}`: {} → {}", change.field, cell(shown(&change.from)), cell(shown(&change.to))))
        .collect();
    let mut why = if changes.is_empty() { cell(&reason.to_string()) } else { changes.join("<br>") };
    if let Some(on) = on {
        let _ = write!(why, "<br>*{}*", cell(on));
    }
    let agent = agent.map_or("", AgentName::as_str);
    let _ = writeln!(out, "| `{}` | {} | {agent} | {why} |", mark(kind).0.trim(), cell(what));
}
