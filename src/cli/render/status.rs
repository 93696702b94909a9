//! A status for people.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::Value;

use super::{ADD, ASIDE, CHANGE, REMOVE, STRONG, styled, units};
use crate::act::in_one_line;
use crate::control::Run;
use crate::model::Route;
use crate::readiness::CheckedBy;
use crate::status::{ConditionReason, HealthStatus};
use crate::words::Word;

/// What a person is shown of a status. It is read from the JSON that programs get, since another process may have
/// written that, of an older or newer version.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    name: String,
    converged: bool,
    #[serde(default)]
    observed_at: String,
    vm: Option<Vm>,
    podman: Podman,
    manifest: Option<Manifest>,
    #[serde(default)]
    agents: BTreeMap<String, Agent>,
    #[serde(default)]
    orphans: Vec<String>,
    run: Option<Run>,
}

#[derive(Debug, Deserialize)]
struct Vm {
    instance: String,
    status: String,
    #[serde(rename = "rung")]
    route: Option<String>,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Podman {
    version: Option<String>,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    updated_at: String,
    url: Option<String>,
    offline: Option<String>,
    signed: Option<Signed>,
}

#[derive(Debug, Deserialize)]
struct Signed {
    key: String,
    serial: u64,
    expires: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Agent {
    desired: Desired,
    sync: String,
    health: Word<HealthStatus>,
    #[serde(default)]
    health_check: Option<Word<CheckedBy>>,
    ready: bool,
    #[serde(default)]
    last_log: Option<String>,
    #[serde(default)]
    last_failure: Option<LastFailure>,
    container: Option<Container>,
    #[serde(default)]
    sessions: BTreeMap<String, Session>,
    #[serde(default)]
    workspaces: BTreeMap<String, Workspace>,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Session {
    status: String,
    #[serde(default)]
    declared: bool,
    #[serde(default)]
    restarts: u32,
    #[serde(default)]
    idle_ms: Option<u64>,
    #[serde(default)]
    idle: bool,
    #[serde(default)]
    waiting_for_input: Option<bool>,
    #[serde(default)]
    message: Option<String>,
}

impl Session {
    fn in_words(&self) -> String {
        let how = self.message.clone().unwrap_or_else(|| self.status.clone());
        let mut words = vec![how];
        match self.restarts {
            0 => {}
            1 => words.push("started again once".to_owned()),
            times => words.push(format!("started again {times} times")),
        }
        match self.idle_ms.map(Duration::from_millis) {
            Some(idle) if self.idle => words.push(format!("idle for {}", units::short(idle))),
            _ if self.waiting_for_input == Some(true) => words.push("waits for input".to_owned()),
            _ => {}
        }
        if !self.declared {
            words.push("ad hoc".to_owned());
        }
        words.join(", ")
    }
}

#[derive(Debug, Deserialize)]
struct Workspace {
    status: String,
    target: String,
    #[serde(default)]
    kept: usize,
}

impl Workspace {
    fn in_words(&self) -> String {
        let kept = match self.kept {
            0 => String::new(),
            kept => format!("; of {} the agent's own version is kept", units::count(kept, "newer path")),
        };
        format!("{} at {}{kept}", self.status, self.target)
    }
}

#[derive(Debug, Deserialize)]
struct Desired {
    state: String,
    version: String,
    #[serde(default)]
    rollback: Option<Rollback>,
    #[serde(default)]
    suspend: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rollback {
    state_file_version: String,
}

impl Desired {
    /// The version, and that somebody went back to it.
    fn shown_version(&self) -> String {
        match &self.rollback {
            Some(back) => format!("{} (rolled back; the file: {})", self.version, back.state_file_version),
            None => self.version.clone(),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Container {
    id: String,
    name: String,
    state: String,
}

#[derive(Debug, Deserialize)]
struct LastFailure {
    last: String,
    message: String,
}

/// The health of an agent for people. One that nobody checks runs; whether it is healthy nobody knows.
pub(crate) fn health_in_words(health: HealthStatus, check: CheckedBy) -> &'static str {
    if health == HealthStatus::Healthy && check == CheckedBy::None { "running" } else { health.as_str() }
}

#[derive(Debug, Deserialize)]
struct Condition {
    reason: Word<ConditionReason>,
    message: String,
}

/// The virtual machine in one line. `kept`: by a `run`, which brings back by itself what can be.
fn machine(vm: &Vm, kept: bool, color: bool) -> String {
    let name = format!("VM `{}`", vm.instance);
    let route = vm.route.as_deref().and_then(|word| Route::ALL.into_iter().find(|route| route.word() == word));
    let way = match route {
        Some(Route::Forward | Route::Reconnect) => ", reached through the socket Lima forwards",
        Some(Route::Ssh) if kept => ", reached through an ssh of our own, not by Lima's forward",
        Some(Route::Ssh) => {
            ", reached through an ssh of our own, not by Lima's forward: `steadfast apply` brings back a lost one"
        }
        Some(Route::Shell) => ", reached through `limactl shell`",
        None => "",
    };
    match (vm.status.as_str(), &vm.error) {
        (status, Some(why)) => styled(&format!("{name} is {}: {why}", status.to_lowercase()), REMOVE, color),
        ("Running", None) if vm.route.is_none() => styled(&format!("{name} runs and does not answer"), CHANGE, color),
        ("Running", None) => format!("{name} runs{way}"),
        ("Absent", None) => styled(&format!("{name} does not exist"), CHANGE, color),
        (status, None) => styled(&format!("{name} is {}", status.to_lowercase()), CHANGE, color),
    }
}

/// The status as a page of text, from its JSON.
///
/// # Errors
/// When it is no status of ours.
pub(crate) fn text(status: &Value, color: bool) -> Result<String, serde_json::Error> {
    let status = Page::deserialize(status)?;
    let mut out = String::new();
    let broken = status.run.as_ref().is_some_and(|run| run.state_file_error.is_some());
    let state = match (broken, status.converged) {
        (true, true) => styled("the state file cannot be used; its last good state is converged", REMOVE, color),
        (true, false) => styled("the state file cannot be used; its last good state is not converged", REMOVE, color),
        (false, true) => styled("converged", ADD, color),
        (false, false) => styled("not converged", CHANGE, color),
    };
    let _ = writeln!(out, "{} {state}", styled(&format!("{}:", status.name), STRONG, color));
    if let Some(run) = &status.run {
        let _ = writeln!(out, "  reconciled by `steadfast run` (pid {}, since {})", run.pid, run.since);
        warnings(&mut out, run, color);
        if let Some(age) = age(&status).filter(|age| *age >= OLD) {
            // Of hours and days the time of day says more.
            let ago = (age < HOUR).then(|| format!(" ({} ago)", units::short(Duration::from_secs(age.as_secs()))));
            let text = format!("not observed since {}{}", status.observed_at, ago.unwrap_or_default());
            let _ = writeln!(out, "  {}", styled(&text, CHANGE, color));
        }
    }
    if let Some(vm) = &status.vm {
        let _ = writeln!(out, "  {}", machine(vm, status.run.is_some(), color));
    }
    let podman = match (&status.podman.version, &status.podman.error) {
        (Some(version), _) => format!("Podman {version}"),
        (None, Some(why)) => styled(&format!("Podman cannot be observed: {why}"), REMOVE, color),
        (None, None) => "Podman was not observed".to_owned(),
    };
    let _ = writeln!(out, "  {podman}");
    if let Some(manifest) = &status.manifest {
        let url = manifest.url.as_deref().unwrap_or("(no place configured)");
        let signed = manifest.signed.as_ref().map(signed).unwrap_or_default();
        let _ = writeln!(out, "  manifest of {} from {url}{signed}", manifest.updated_at);
        if let Some(why) = &manifest.offline {
            let _ = writeln!(out, "  {}", styled(&format!("the last good one: {why}"), CHANGE, color));
        }
    }
    if status.agents.is_empty() {
        let _ = writeln!(out, "  no agents");
    } else {
        let _ = writeln!(out);
        table(&mut out, &status, color);
    }
    for orphan in &status.orphans {
        let _ = writeln!(out, "  container `{orphan}` belongs to no agent of the state file");
    }
    Ok(out)
}

/// By whom a manifest is signed, as the rest of a sentence.
fn signed(signed: &Signed) -> String {
    let until = signed.expires.as_ref().map(|at| format!(", good until {at}")).unwrap_or_default();
    format!(", signed with key {} (serial {}{until})", signed.key, signed.serial)
}

/// What was seen so long ago may be otherwise by now.
const OLD: Duration = Duration::from_secs(5);
const HOUR: Duration = Duration::from_secs(3600);

/// How old the view of `run` is.
fn age(status: &Page) -> Option<Duration> {
    let seen = crate::time::parse(&status.observed_at).ok()?;
    SystemTime::now().duration_since(seen).ok()
}

/// What a person should know of `run`, when there is something.
fn warnings(out: &mut String, run: &Run, color: bool) {
    let mut say = |style, text: &str| {
        for line in text.lines() {
            let _ = writeln!(out, "  {}", styled(line, style, color));
        }
    };
    if let Some(err) = &run.state_file_error {
        say(REMOVE, &format!("the state file cannot be used since {}; its last good state is kept:", err.since));
        say(REMOVE, &err.message.lines().map(|line| format!("  {line}\n")).collect::<String>());
    }
    for waits in &run.backing_off {
        let who = waits.agent.as_ref().map_or_else(String::new, |agent| format!("agent `{agent}` "));
        let failures = units::count(waits.failures as usize, "failure");
        let until = match &waits.retry_at {
            Some(until) => format!("backs off until {until}"),
            None => "waits for a change of the desired state".to_owned(),
        };
        say(CHANGE, &format!("{who}{until} after {failures}: {}", waits.cause));
    }
    if run.watching != "events" && !run.watching.is_empty() {
        say(CHANGE, &format!("watches files by {}", run.watching));
    }
    if let Some(why) = &run.not_recorded {
        say(CHANGE, &format!("not recorded: {why}"));
    }
}

fn table(out: &mut String, status: &Page, color: bool) {
    const HEAD: [&str; 6] = ["AGENT", "WANTED", "VERSION", "SYNC", "HEALTH", "CONTAINER"];
    let rows: Vec<[String; 6]> = status
        .agents
        .iter()
        .map(|(name, agent)| {
            let container = agent.container.as_ref().map_or_else(
                || "-".to_owned(),
                |container| {
                    let id = container.id.get(..12).unwrap_or(&container.id);
                    format!("{} {} ({id})", container.name, container.state)
                },
            );
            let wanted = &agent.desired;
            let suspended = if wanted.suspend { ", suspended" } else { "" };
            let state = format!("{}{suspended}", wanted.state);
            let check = agent.health_check.as_ref().and_then(Word::known);
            let health = match (agent.health.known(), check) {
                (Some(health), Some(check)) => health_in_words(health, check),
                _ => agent.health.as_str(),
            };
            [name.to_string(), state, wanted.shown_version(), agent.sync.clone(), health.to_owned(), container]
        })
        .collect();
    let mut widths = HEAD.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String; 6]| {
        let padded: Vec<_> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let _ = writeln!(out, "  {}", styled(&line(&HEAD.map(str::to_owned)), STRONG, color));
    // What is wrong with several alike is told once, below; that Podman does not answer was told above.
    let mut alike: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let is_unreachable = |agent: &Agent| {
        agent.conditions.first().and_then(|first| first.reason.known()) == Some(ConditionReason::SocketUnreachable)
    };
    let seen_above = |agent: &Agent| status.podman.error.is_some() && is_unreachable(agent);
    for (name, agent) in status.agents.iter().filter(|(_, agent)| !seen_above(agent)) {
        alike.entry(problem(agent).unwrap_or_default()).or_default().push(name);
    }
    alike.retain(|problem, agents| !problem.is_empty() && agents.len() > 1);
    for (row, agent) in rows.iter().zip(status.agents.values()) {
        let style = match agent.health.known() {
            _ if agent.ready => ADD,
            Some(HealthStatus::Failed | HealthStatus::Degraded) => REMOVE,
            _ => CHANGE,
        };
        let _ = writeln!(out, "  {}", styled(&line(row), style, color));
        for (name, workspace) in &agent.workspaces {
            let _ = writeln!(out, "      workspace {name}: {}", workspace.in_words());
        }
        for (name, session) in &agent.sessions {
            let _ = writeln!(out, "      session {name}: {}", session.in_words());
        }
        if let Some(problem) = problem(agent) {
            let seen_above = seen_above(agent);
            if !seen_above && !alike.contains_key(&problem) {
                let _ = writeln!(out, "      {}", styled(&problem.replace('\n', "\n      "), ASIDE, color));
            }
            let told = |failure: &&LastFailure| !seen_above && !failure.message.contains(&agent.conditions[0].message);
            if let Some(failure) = agent.last_failure.as_ref().filter(told) {
                let failed = in_one_line(&failure.message);
                let _ = writeln!(out, "      the last try failed at {}: {failed}", failure.last);
            }
            if let Some(log) = agent.last_log.as_ref().filter(|log| !log.is_empty()) {
                let _ = writeln!(out, "      its last log lines:");
                for line in log.lines() {
                    let _ = writeln!(out, "      | {line}");
                }
            }
        }
    }
    for (problem, agents) in &alike {
        let _ = writeln!(out, "  {}: {}", agents.join(", "), styled(problem, ASIDE, color));
    }
}

/// What is wrong with an agent that is not ready.
fn problem(agent: &Agent) -> Option<String> {
    let condition = agent.conditions.first().filter(|_| !agent.ready)?;
    Some(format!("{}: {}", condition.reason, condition.message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_many_alike_is_reported_once() {
        let agent = serde_json::json!({
            "desired": {"state": "running", "version": "1"}, "sync": "Unknown", "health": "Unknown", "ready": false,
            "conditions": [{"reason": "SocketUnreachable", "message": "nobody listens there"}]});
        let agents: BTreeMap<_, _> = (0..20).map(|number| (format!("a{number}"), agent.clone())).collect();
        let mut status = serde_json::json!({"name": "demo", "converged": false, "agents": agents, "vm": null,
            "podman": {"version": null, "error": "nobody listens there"}, "manifest": null, "run": null});
        let page = text(&status, false).unwrap();
        assert_eq!(page.matches("nobody listens there").count(), 1, "{page}");
        status["podman"] = serde_json::json!({"version": "4.3.1", "error": null});
        let page = text(&status, false).unwrap();
        assert_eq!(page.matches("SocketUnreachable: nobody listens there").count(), 1, "{page}");
        assert!(page.contains("a0, a1, a10"), "{page}");
    }

    #[test]
    fn a_lost_forward_is_reported_with_what_brings_it_back_unless_that_is_run() {
        let vm = Vm { instance: "v".into(), status: "Running".into(), route: Some("ssh".into()), error: None };
        assert!(machine(&vm, false, false).ends_with("`steadfast apply` brings back a lost one"));
        assert!(machine(&vm, true, false).ends_with("not by Lima's forward"));
    }
}
