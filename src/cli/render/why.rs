//! Why an agent is as it is, for people and for programs, with what may help.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Value, json};

use super::errors::{AGAIN, failure_hint, kind_hint, problem_hint};
use super::status::health_in_words;
use super::{ADD, ASIDE, CHANGE, REMOVE, STRONG, past, styled};
use crate::act::in_one_line;
use crate::model::FailureKind;
use crate::reconcile::Problem;
use crate::status::{Condition, ConditionReason, SyncStatus};
use crate::why::{Known, Why};

/// The JSON of it.
pub(crate) fn json(why: &Why) -> impl Serialize + use<> {
    let steps = why.steps.iter().map(|step| {
        json!({"kind": step.action.kind(), "target": step.action.target(), "reason": step.reason.to_string(),
               "changes": step.reason.changes()})
    });
    let waiting = why.waiting.iter().map(|waiting| {
        json!({"kind": waiting.kind, "target": waiting.target, "reason": waiting.reason.to_string(),
               "on": waiting.on.word(), "detail": waiting.on.to_string(), "blocked": waiting.on.is_blocked(),
               "changes": waiting.reason.changes()})
    });
    let known = why.known.as_ref();
    let mut page = json!({
        "agent": why.agent,
        "inStateFile": known.is_some(),
        "ready": known.is_some_and(|known| known.status.ready),
        "since": known.filter(|known| known.status.ready).and_then(since),
        "place": known.map(|known| json!({
            "file": known.place.file, "line": known.place.line, "column": known.place.column})),
        "wanted": known.map(|known| json!({
            "state": known.status.desired.state, "version": known.status.desired.version,
            "suspend": known.status.desired.suspend, "image": known.image, "imageUnknown": known.image_unknown})),
        "changes": known.map_or(&[][..], |known| &known.changes),
        "observed": {
            "podman": {"reachable": why.podman_unseen.is_none(), "version": why.podman, "error": why.podman_unseen},
            "sync": known.map(|known| known.status.sync),
            "health": known.map(|known| known.status.health),
            "reason": known.and_then(|known| known.status.conditions.first()).map(|condition| condition.reason),
            "container": known.map(|known| &known.status.container),
            "image": known.map(|known| &known.status.image),
            "artifact": known.map(|known| &known.status.artifact),
            "orphans": why.orphans,
        },
        "steps": steps.collect::<Vec<Value>>(),
        "waiting": waiting.collect::<Vec<Value>>(),
        "suspended": why.suspended,
        "failures": why.failures,
        "backingOff": why.backoff,
        "lastChange": why.last_change,
        "hints": hints(why),
    });
    if let Some(refused) = &why.manifest_refused {
        page["manifestRefused"] = json!(refused);
    }
    page
}

/// It, as a short page.
pub(crate) fn text(why: &Why, color: bool) -> String {
    let mut page = Page { text: String::new(), color };
    page.headline(why);
    if let Some(known) = &why.known {
        wanted(&mut page, known);
        seen(&mut page, why, known);
    } else {
        for name in &why.orphans {
            page.row("observed", &format!("container `{name}` is still there"));
        }
        if let Some(unseen) = &why.podman_unseen {
            page.row("observed", &format!("Podman cannot be observed: {unseen}"));
        }
    }
    if let Some(refused) = &why.manifest_refused {
        page.row("manifest", refused);
    }
    for step in &why.steps {
        page.row("to do", &format!("{}: {}", step.action, step.reason));
    }
    for waiting in &why.waiting {
        let step = format!("{} `{}`", waiting.kind.verb(), waiting.target);
        page.row("waits", &format!("{step} ({}): {}", waiting.reason, waiting.on));
    }
    if let Some(known) = why.known.as_ref().filter(|known| !known.status.ready && why.podman_unseen.is_none()) {
        // Of one with steps the rows above have said it, but for what only `run` knows.
        let is_said = !why.steps.is_empty() || !why.waiting.is_empty();
        let is_of_run = |condition: &Condition| {
            matches!(
                condition.reason,
                ConditionReason::BackingOff
                    | ConditionReason::CrashLoop
                    | ConditionReason::NonConvergent
                    | ConditionReason::RolledBack
            )
        };
        if let Some(condition) = known.status.conditions.first().filter(|one| !is_said || is_of_run(one)) {
            match known.status.desired.suspend {
                true => page.row("suspended", "nothing is changed while the state file says `suspend: true`"),
                false => page.row("not ready", &format!("{}: {}", condition.reason, condition.message)),
            }
        }
        for (at, line) in known.status.last_log.iter().flat_map(|log| log.lines()).enumerate() {
            page.row(if at == 0 { "last log" } else { "" }, &format!("| {line}"));
        }
    }
    for suspended in &why.suspended {
        page.row("suspended", &format!("otherwise: {suspended}"));
    }
    let has_log = why.known.as_ref().is_some_and(|known| known.status.last_log.is_some());
    let mut logs = BTreeSet::new();
    for failure in &why.failures {
        let step = failure.step.as_ref().map(|step| format!(": {step}")).unwrap_or_default();
        let often = match failure.times {
            1 => String::new(),
            times => format!(", {times} times since {}", failure.first),
        };
        page.row("stopped by", &format!("{} ({}){step}{often}", failure.last, failure.trigger));
        // Once is enough; and that of a container which is gone stands nowhere else.
        let is_new =
            (!has_log || failure.kind.known() == Some(FailureKind::RolledBack)) && logs.insert(&failure.message);
        let told = if is_new { failure.message.as_str() } else { in_one_line(&failure.message) };
        for line in told.lines() {
            page.row("", &format!("  {line}"));
        }
    }
    if let Some(backoff) = &why.backoff {
        let because = backoff.why.as_ref().map(|why| format!(": {}", in_one_line(why))).unwrap_or_default();
        let until = backoff.until.as_deref().unwrap_or("the desired state changes");
        page.row("backing off", &format!("until {until}{because}"));
    }
    if let Some(change) = &why.last_change {
        let done = past::sentence(&change.action, &change.reason);
        page.row("last change", &format!("{} ({}): {done}", change.time, change.trigger));
    }
    for hint in hints(why) {
        page.row("hint", &hint);
    }
    page.text
}

fn wanted(page: &mut Page, known: &Known) {
    let want = &known.status.desired;
    let suspended = if want.suspend { ", suspended" } else { "" };
    let image = known.image.as_ref().map(|image| format!(", image {image}")).unwrap_or_default();
    page.row("wanted", &format!("{}: {}{suspended}, version {}{image}", known.place, want.state, want.version));
    if let Some(unknown) = &known.image_unknown {
        page.row("", &format!("its image is not known: {unknown}"));
    }
    for change in &known.changes {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "(not set)".to_owned());
        page.row("differs", &format!("{}: is {}, wanted {}", change.field, value(&change.from), value(&change.to)));
    }
}

fn seen(page: &mut Page, why: &Why, known: &Known) {
    if let Some(unseen) = &why.podman_unseen {
        page.row("observed", &format!("Podman cannot be observed: {unseen}"));
    }
    let status = &known.status;
    match (&status.container, &known.phase) {
        (Some(container), phase) => {
            let id = container.id.get(..12).unwrap_or(&container.id);
            let phase = phase.as_ref().map_or_else(|| container.state.to_owned(), ToString::to_string);
            let started = container.started_at.as_ref().map(|at| format!("; last started {at}")).unwrap_or_default();
            let restarts = match container.restarts {
                None | Some(0) => String::new(),
                Some(1) => "; Podman restarted it once".to_owned(),
                Some(times) => format!("; Podman restarted it {times} times"),
            };
            page.row("observed", &format!("container `{}` ({id}) {phase}{started}{restarts}", container.name));
        }
        (None, _) if why.podman_unseen.is_none() => page.row("observed", "it has no container"),
        (None, _) => {}
    }
    if why.podman_unseen.is_none() {
        let health = health_in_words(status.health, status.health_check);
        page.row("", &format!("sync {}, health {health}", status.sync));
    }
    if let Some(image) = &status.image {
        page.row("", &format!("image {} ({})", image.reference, image.id.get(..12).unwrap_or(&image.id)));
    }
    if let Some(artifact) = &status.artifact {
        let there = if artifact.present { "is in the cache" } else { "is not in the cache" };
        page.row("", &format!("artifact `{}` {there}", artifact.key));
    }
    for (name, workspace) in &status.workspaces {
        page.row("", &format!("workspace `{name}` at {} is {}", workspace.target, workspace.status));
    }
    for (name, session) in &status.sessions {
        let kind = if session.declared { "" } else { ", ad hoc" };
        let how = session.message.clone().unwrap_or_else(|| format!("is {}", session.status));
        page.row("", &format!("session `{name}` {how}{kind}"));
    }
}

fn since(known: &Known) -> Option<String> {
    known.status.container.as_ref().and_then(|container| container.started_at.clone())
}

/// What may help, likeliest first, each once.
fn hints(why: &Why) -> Vec<String> {
    let agent = &why.agent;
    let mut hints = Vec::new();
    let Some(known) = &why.known else {
        if !why.orphans.is_empty() {
            hints.push("`steadfast apply` removes what the state file does not have; `--no-prune` keeps it".to_owned());
        }
        return hints;
    };
    if known.status.ready {
        return hints;
    }
    if why.podman_unseen.is_some() {
        hints.push("`steadfast doctor` names the first layer that fails, and its fix".to_owned());
        return hints;
    }
    if known.status.desired.suspend {
        hints.push(format!("take out `suspend` of agent `{agent}` to have it kept again"));
        return hints;
    }
    let container = known.status.container.as_ref().map(|container| container.name.as_str());
    for waiting in why.waiting.iter().filter(|waiting| waiting.on.is_blocked()) {
        hints.extend(problem_hint(&Problem::Blocked { waiting: waiting.clone() }));
    }
    // It has ended for good, whatever the step that started it said.
    let has_failed =
        known.status.conditions.first().is_some_and(|condition| condition.reason == ConditionReason::Failed);
    if has_failed {
        hints.extend(kind_hint(FailureKind::Failed, agent, container));
    }
    for failure in why.failures.iter().rev().filter(|_| !has_failed) {
        hints.extend(failure_hint(failure, agent, container));
    }
    if hints.is_empty()
        && !why.failures.is_empty()
        && known.status.sync == SyncStatus::OutOfSync
        && why.backoff.is_none()
    {
        hints.push(format!("fix what stopped it: {AGAIN}"));
    }
    if hints.is_empty() && why.backoff.is_some() {
        hints.push(format!("`steadfast logs {agent}` shows all it said; `steadfast apply --wait` has it tried now"));
    }
    if hints.is_empty() && !why.steps.is_empty() {
        hints.push("`steadfast apply` does it now".to_owned());
    }
    if hints.is_empty() {
        let kind = match known.status.conditions.first().map(|condition| condition.reason) {
            Some(ConditionReason::CrashLoop) => FailureKind::CrashLoop,
            Some(ConditionReason::Unhealthy) => FailureKind::Unhealthy,
            Some(ConditionReason::Session) => FailureKind::Session,
            _ => FailureKind::NotReady,
        };
        hints.extend(kind_hint(kind, agent, container));
    }
    let mut said = std::collections::BTreeSet::new();
    hints.retain(|hint| said.insert(hint.clone()));
    hints
}

struct Page {
    text: String,
    color: bool,
}

impl Page {
    fn headline(&mut self, why: &Why) {
        let name = styled(why.agent.as_str(), STRONG, self.color);
        let (state, style) = match &why.known {
            None => ("is not in the state file any more".to_owned(), CHANGE),
            Some(known) if known.status.ready => {
                (since(known).map_or_else(|| "is ready".to_owned(), |since| format!("is ready since {since}")), ADD)
            }
            Some(_) if why.podman_unseen.is_some() => ("cannot be seen".to_owned(), CHANGE),
            Some(known) if known.status.desired.suspend => ("is suspended and left alone".to_owned(), CHANGE),
            Some(known) => {
                let condition = known.status.conditions.first();
                let reason = condition.map(|condition| format!(": {}", condition.reason)).unwrap_or_default();
                (format!("is not ready{reason}"), REMOVE)
            }
        };
        self.text += &format!("{name} {}\n", styled(&state, style, self.color));
    }

    fn row(&mut self, label: &str, what: &str) {
        // Errors quote what containers and servers said.
        let what = what.replace(char::is_control, "\u{fffd}");
        let label = styled(&format!("{label:11}"), ASIDE, self.color);
        self.text += format!("  {label}  {what}").trim_end();
        self.text += "\n";
    }
}
