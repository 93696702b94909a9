//! The journal for people: a line for each entry, with what went wrong below it.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::{ADD, ASIDE, CHANGE, REMOVE, STRONG, past, styled, units};
use crate::act::in_one_line;
use crate::model::{AgentName, Name};
use crate::reconcile::journal::read::{Entry, ReportedError};
use crate::time::rfc3339;

/// Entries as lines of a table whose columns stay where they are while new ones come.
#[derive(Debug)]
pub(crate) struct Page {
    agent: Option<String>,
    color: bool,
    /// Errors told since the last pass, which need not be told again at its end.
    told: BTreeSet<String>,
}

/// Under WHAT: what belongs to the line above.
const INDENT: usize = 50;

impl Page {
    /// A page on everything, or on one agent.
    pub(crate) fn new(agent: Option<&AgentName>, color: bool) -> Self {
        Self { agent: agent.map(ToString::to_string), color, told: BTreeSet::new() }
    }

    /// The head of the table.
    pub(crate) fn head(&self) -> String {
        let head = row("TIME (UTC)", "TRIGGER", "RESULT", "TOOK", "WHAT");
        styled(&head, STRONG, self.color) + "\n"
    }

    /// One entry, with a final newline.
    pub(crate) fn entry(&mut self, entry: &Entry) -> String {
        let (result, style) = match entry.event() {
            "step" if entry.failed() => ("failed", REMOVE),
            "step" => ("done", ADD),
            "pass" if entry.fields.get("converged").and_then(serde_json::Value::as_bool) == Some(true) => {
                ("converged", ADD)
            }
            "pass" if entry.text("ended") == "interrupted" => ("stopped", CHANGE),
            "pass" if entry.left_as_asked() => ("applied", ADD),
            "pass" => ("stuck", CHANGE),
            "converged" => ("converged", ADD),
            "recovered" | "podmanBack" | "manifestTrusted" => ("-", ADD),
            "stateFileRejected" | "podmanLost" | "backingOff" | "notRecorded" | "trouble" | "manifestRefused"
            | "quarantined" => ("-", CHANGE),
            _ => ("-", ASIDE),
        };
        let took = entry.took().map_or_else(|| "-".to_owned(), units::short);
        let time = rfc3339(entry.time);
        let what = match entry.event() {
            "step" => step(entry),
            "pass" => {
                let steps = entry.fields.get("steps").and_then(serde_json::Value::as_u64).unwrap_or_default();
                format!("end of a pass: {} taken", units::count(usize::try_from(steps).unwrap_or(usize::MAX), "step"))
            }
            _ => note(entry),
        };
        let mut lines =
            vec![styled(&row(&time, entry.text("trigger"), result, &took, &clean(&what)), style, self.color)];
        for line in self.errors(entry).iter().flat_map(|error| error.lines()) {
            lines.push(styled(&format!("{:INDENT$}{}", "", clean(line)), style, self.color));
        }
        lines.join("\n") + "\n"
    }

    /// What went wrong, and was not told by a line above.
    fn errors(&mut self, entry: &Entry) -> Vec<String> {
        let mut errors = Vec::new();
        if entry.failed()
            && let Some(told) = entry.error()
        {
            self.told.insert(told.cause.to_owned());
            errors.push(told.message.to_owned());
        }
        if entry.event() == "pass" {
            for ReportedError { agent, message, cause, .. } in entry.problems() {
                let others = self.agent.as_deref().is_some_and(|wanted| agent.is_some_and(|agent| agent != wanted));
                if others || !self.told.insert(cause.to_owned()) {
                    continue;
                }
                errors.push(agent.map_or_else(|| message.to_owned(), |agent| format!("{agent}: {message}")));
            }
            self.told.clear();
        }
        errors
    }
}

/// What is said when there is nothing.
pub(crate) fn nothing(name: &Name, agent: Option<&AgentName>, since: Option<SystemTime>) -> String {
    let whose = agent.map_or_else(|| format!("`{name}`"), |agent| format!("agent `{agent}` of `{name}`"));
    match since {
        Some(since) => {
            format!("nothing happened to {whose} since {}.\n", rfc3339(since))
        }
        None => format!("there is nothing yet: nothing was done for {whose}.\n"),
    }
}

fn row(time: &str, trigger: &str, result: &str, took: &str, what: &str) -> String {
    format!("{time:20}  {trigger:8}  {result:9}  {took:>5}  {what}").trim_end().to_owned()
}

/// A step in words: `replaced container `demo-a`: container.env.TOKEN had changed`.
pub(crate) fn step(entry: &Entry) -> String {
    let (kind, target, action) = (entry.text("kind"), entry.text("target"), entry.text("action"));
    let action = if action.is_empty() { format!("{kind} `{target}`") } else { action.to_owned() };
    match (entry.failed(), entry.text("reason")) {
        (false, reason) => past::sentence(&action, reason),
        (true, "") => action,
        (true, reason) => format!("{action}: {reason}"),
    }
}

/// Anything that is neither a step nor a pass: its sentence, and its further fields.
fn note(entry: &Entry) -> String {
    let known = match entry.event() {
        "runStarted" => "`run` started",
        "runStopped" => "`run` stopped",
        "stateDirectoryRestored" => "lock and control socket were removed, and are restored",
        "stateFileRejected" => "the state file was rejected; the last good one stays in force",
        "stateFileAccepted" => "the state file was accepted",
        "backingOff" => "backing off",
        "converged" => "everything is as desired",
        "trouble" => "has a problem",
        "recovered" => "recovered",
        "quarantined" => "its successor failed, and is not tried again",
        "rollback" => "somebody went back to another version",
        "slept" => "the machine was asleep",
        "podmanLost" => "Podman cannot be reached",
        "podmanBack" => "Podman answers again",
        "manifestRefused" => "the published manifest is not trusted",
        "manifestTrusted" => "the published manifest is trusted again",
        "vmReached" if entry.fields.get("rung").is_some_and(serde_json::Value::is_null) => {
            "Podman in the VM is unreachable"
        }
        "vmReached" => "Podman in the VM is reached by another route",
        "notRecorded" => "entries before this one could not be recorded",
        other => other,
    };
    let mut text = entry.agent().map(|agent| format!("{agent}: ")).unwrap_or_default() + known;
    for (name, value) in &entry.fields {
        if matches!(name.as_str(), "time" | "pid" | "trigger" | "event" | "agent" | "durationMs") {
            continue;
        }
        match (name.as_str(), value) {
            ("message" | "why" | "error" | "reason", serde_json::Value::String(said)) => {
                text += &format!(": {}", in_one_line(said))
            }
            (_, serde_json::Value::String(said)) => text += &format!(" {name}={said}"),
            (_, value) => text += &format!(" {name}={value}"),
        }
    }
    text
}

/// Without what would move the cursor: messages quote what containers and servers said.
fn clean(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn shown(agent: Option<&str>, entries: &[Value]) -> String {
        let agent = agent.map(|agent| agent.parse().unwrap());
        let mut page = Page::new(agent.as_ref(), false);
        let parsed = entries.iter().map(|entry| Entry::parse(entry.to_string().as_bytes()).unwrap());
        parsed.fold(page.head(), |text, entry| text + &page.entry(&entry))
    }

    fn at(second: u64, trigger: &str, event: &str, more: Value) -> Value {
        let mut entry =
            json!({"time": format!("2026-04-24T00:00:{second:02}.250Z"), "trigger": trigger, "event": event});
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        entry
    }

    fn story() -> Vec<Value> {
        let step = |agent: &str, kind: &str, action: &str, reason: &str, result: &str| {
            json!({"kind": kind, "agent": agent, "target": "t", "action": action, "reason": reason, "result": result,
                   "durationMs": 1100, "error": {"kind": "conflict", "message": "host port 1 is taken\nby somebody\u{1b}[2J"}})
        };
        vec![
            at(1, "start", "runStarted", json!({"version": "0.1.0"})),
            at(
                2,
                "file",
                "step",
                step("a", "replaceContainer", "replace container `demo-a`", "container.env.TOKEN changed", "done"),
            ),
            at(
                3,
                "file",
                "step",
                step("b", "createContainer", "create container `demo-b`", "it does not exist", "failed"),
            ),
            at(
                4,
                "file",
                "pass",
                json!({"converged": false, "steps": 2, "durationMs": 90, "troubles": [
                {"agent": "b", "kind": "conflict", "message": "host port 1 is taken\nby somebody\u{1b}[2J"},
                {"agent": "c", "kind": "x", "message": "c cannot be seen"}]}),
            ),
            at(5, "file", "stateFileRejected", json!({"message": "a.yaml:1:1: the file is empty"})),
            at(6, "retry", "pass", json!({"converged": true, "steps": 1, "durationMs": 65_000, "troubles": []})),
            at(7, "retry", "comet", json!({"agent": "b", "count": 2})),
        ]
    }

    #[test]
    fn every_entry_is_a_line_and_every_error_is_reported_once() {
        insta::assert_snapshot!(shown(None, &story()));
    }

    #[test]
    fn a_pass_that_ended_as_asked_was_not_stuck() {
        let result = |more: Value| {
            let page = shown(None, &[at(1, "apply", "pass", more)]);
            page.lines().nth(1).unwrap().split_whitespace().nth(2).unwrap().to_owned()
        };
        let pass = |ended: &str, left: &[&str], problems: &[&str]| {
            result(json!({"converged": false, "ended": ended, "notWaitedFor": left, "troubles": problems, "steps": 1}))
        };
        assert_eq!(pass("proved", &["a"], &[]), "applied");
        assert_eq!(pass("proved", &["a"], &["m"]), "stuck");
        assert_eq!(pass("proved", &[], &[]), "stuck");
        assert_eq!(pass("timedOut", &["a"], &[]), "stuck");
        assert_eq!(pass("interrupted", &[], &[]), "stopped");
        assert_eq!(result(json!({"converged": false, "troubles": []})), "stuck", "of an older build");
    }

    #[test]
    fn on_one_agent_the_problems_of_others_are_left_out() {
        let page = shown(Some("b"), &story()[2..4]);
        assert!(page.contains("host port 1 is taken") && !page.contains("cannot be seen"), "{page}");
    }

    #[test]
    fn a_line_of_an_older_build_has_words_too() {
        let old = json!({"kind": "startContainer", "target": "demo-a", "agent": "a", "reason": "it exited with code 1", "result": "done"});
        assert!(
            shown(None, &[at(1, "apply", "step", old)]).contains("startContainer `demo-a`: it had exited with code 1")
        );
    }
}
