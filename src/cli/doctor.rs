//! `doctor`: every layer from the state file to the health checks, in the order they stand on each other. Names the
//! first that fails, and its fix.

mod lima;

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use super::render::{self, ADD, ASIDE, REMOVE, styled, units};
use super::settings::{check_root, state_dir};
use super::status::{not_ready_in, snapshot, view_of_run};
use super::{CliError, ExitStatus, Settings};
use crate::backend::cache::{Cache, CacheOptions};
use crate::backend::{Engine, Look, Store};
use crate::error::Chain;
use crate::model::{AgentName, AgentState, Desired, ImageSource};
use crate::reconcile::lock::{self, LockError};
use crate::status::{AgentStatus, Condition};

/// One checked layer.
#[derive(Debug, Serialize)]
struct Check {
    layer: &'static str,
    ok: bool,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

#[derive(Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn ok(&mut self, layer: &'static str, found: impl Into<String>) {
        self.0.push(Check { layer, ok: true, found: found.into(), fix: None });
    }

    fn bad(&mut self, layer: &'static str, found: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Check { layer, ok: false, found: found.into(), fix: Some(fix.into()) });
    }
}

pub(super) async fn doctor(settings: &Settings) -> Result<ExitStatus, CliError> {
    let mut checks = Checks::default();
    match settings.resolve(None) {
        Ok(loaded) => {
            let count = units::count(loaded.desired.agents.len(), "agent");
            checks.ok(
                "state file",
                format!("`{}` is valid: `{}`, {count}", settings.file.display(), loaded.desired.name),
            );
            layers(settings, &loaded.desired, &mut checks).await;
        }
        Err(err) => {
            let fix = err
                .hints
                .first()
                .cloned()
                .unwrap_or_else(|| "`steadfast validate` shows each problem with its place".into());
            checks.bad("state file", err.message.lines().next().unwrap_or_default(), fix);
        }
    }
    report(settings, &checks.0)
}

async fn layers(settings: &Settings, desired: &Desired, checks: &mut Checks) {
    if let Err(err) = check_root(&desired.root, Some(&desired.name)) {
        return checks.bad("root directory", err.message, err.hints.join("; "));
    }
    root(&desired.root, checks);
    match super::ownership::check(settings, desired) {
        Ok(()) => checks.ok("name", format!("`{}` is this state file's", desired.name)),
        Err(err) => return checks.bad("name", err.message, err.hints.join("; ")),
    }
    lock(desired, checks);
    let Ok(cache) = settings.cache(&desired.root, CacheOptions { retries: 1, ..CacheOptions::default() }) else {
        return;
    };
    manifest(desired, &cache, checks).await;
    artifacts(&cache, checks).await;
    let engine = match settings.engine(desired) {
        Ok(engine) => engine,
        Err(err) => {
            let fix =
                "start Podman's service, or name its socket in `runtime.podman.socket` or $CONTAINER_HOST".to_owned();
            return checks.bad("podman socket", err.message, err.hints.first().cloned().unwrap_or(fix));
        }
    };
    match desired.vm() {
        Some(_) if !lima::layers(settings, desired, &engine, checks).await => return,
        Some(_) => {}
        None => {
            let socket = engine.socket().map(|socket| socket.display().to_string());
            checks.ok("podman socket", socket.unwrap_or_default());
        }
    }
    let look = Look {
        owner: desired.ownership(),
        names: desired.agents.values().map(|agent| agent.container.name.clone()).collect(),
        health: Default::default(),
        key: desired.key.clone(),
    };
    match engine.look(&look).await {
        Err(err) => {
            let err = CliError::from_engine(&err);
            let fix = err.hints.first().cloned().unwrap_or_else(|| "`podman info` in a terminal may tell more".into());
            return checks.bad("podman", err.message, fix);
        }
        Ok(guest) => checks.ok("podman", format!("answers, version {}", guest.version)),
    }
    agents(settings, desired, super::settings::HostWorld { vm: settings.vm(desired), engine, store: cache }, checks)
        .await;
}

fn root(root: &Path, checks: &mut Checks) {
    let fix = "make it a directory you may write to, or choose another with --root or `root`";
    let mut there = root;
    while !there.exists() {
        match there.parent() {
            Some(parent) => there = parent,
            None => break,
        }
    }
    if let Err(err) = tempfile::tempfile_in(there) {
        return checks.bad("root directory", format!("`{}` cannot be written to: {err}", there.display()), fix);
    }
    let free = rustix::fs::statvfs(there).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize)).unwrap_or(0);
    checks.ok("root directory", format!("`{}`, {} free", root.display(), units::bytes(free)));
}

fn lock(desired: &Desired, checks: &mut Checks) {
    match lock::check(&state_dir(desired).join("lock")) {
        Ok(()) => checks.ok("lock", "nobody holds it"),
        Err(err @ LockError::Held { .. }) => checks.ok("lock", err.to_string()),
        Err(err) => checks.bad("lock", Chain(&err).to_string(), "the state directory must be readable and writable"),
    }
}

async fn manifest(desired: &Desired, cache: &Cache, checks: &mut Checks) {
    let needed =
        desired.agents.values().any(|agent| agent.source == ImageSource::Manifest && agent.state != AgentState::Absent);
    if !needed {
        return checks.ok("manifest", "no agent needs one");
    }
    let Some(at) = &desired.manifest else {
        return checks.bad(
            "manifest",
            "none is named",
            "set `manifest.url` in the state file, or $STEADFAST_MANIFEST_URL",
        );
    };
    match cache.published(at).await {
        Ok(manifest) => {
            checks.ok(
                "manifest",
                format!("{at}, of {}, {}", manifest.updated_at, units::count(manifest.agents.len(), "agent")),
            );
        }
        Err(err) => {
            let err = CliError::from_store(&err);
            let fix = err.hints.first().cloned().unwrap_or_default();
            checks.bad("manifest", err.message, fix);
        }
    }
}

async fn artifacts(cache: &Cache, checks: &mut Checks) {
    match cache.list().await {
        Ok(files) => {
            let bytes = files.values().map(|file| file.size).sum();
            checks.ok("cache", format!("{}, {}", units::count(files.len(), "artifact"), units::bytes(bytes)));
        }
        Err(err) => {
            let err = CliError::from_store(&err);
            checks.bad("cache", err.message, "`<root>/cache` must be a readable directory of plain files");
        }
    }
}

async fn agents(settings: &Settings, desired: &Desired, world: super::settings::HostWorld, checks: &mut Checks) {
    let snapshot = snapshot(&world, desired).await;
    let kept = view_of_run(settings, Some(desired)).await;
    for (name, agent) in &snapshot.status.agents {
        // What `run` knows of an agent's past, one observation cannot tell.
        let of_run = kept.as_ref().and_then(|(view, _)| not_ready_in(view, name));
        if let Some(said) = of_run {
            let found = format!("{name}: {}, {}: {}: {}", agent.sync, said.health, said.reason, said.message);
            checks.bad(
                "agent",
                found,
                format!("`steadfast why {name}` tells what stopped it; `steadfast run` goes on trying"),
            );
            continue;
        }
        let state =
            format!("{name}: {}, {}", agent.sync, render::status::health_in_words(agent.health, agent.health_check));
        match agent.conditions.first() {
            _ if agent.desired.suspend => checks.ok("agent", format!("{state}, suspended")),
            Some(condition) if !agent.ready => {
                checks.bad(
                    "agent",
                    format!("{state}: {}: {}", condition.reason, told(agent, &condition.message)),
                    fix(name, agent, condition),
                );
            }
            _ => checks.ok("agent", state),
        }
    }
}

/// What is wrong with an agent: how it is, and what the newest try came to, each on its first line.
fn told(agent: &AgentStatus, message: &str) -> String {
    let first = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    let last =
        agent.last_log.as_deref().and_then(|log| log.lines().last()).map(|line| line.trim_start_matches([' ', '|']));
    let failure =
        agent.last_failure.as_ref().map(|failure| first(&failure.message)).filter(|failure| !failure.contains(message));
    let mut told = first(message);
    if let Some(failure) = failure {
        told += &format!("; the last try failed: {failure}");
    }
    if let Some(line) = last.filter(|line| !line.is_empty()) {
        told += &format!("; its last log line: {line}");
    }
    told
}

/// What may help an agent that is not ready.
fn fix(name: &AgentName, agent: &AgentStatus, condition: &Condition) -> String {
    let by_failure = || agent.last_failure.as_ref().and_then(|failure| render::errors::kind_hint(&failure.kind, name));
    match (condition.reason, agent.sync) {
        ("Blocked", _) => format!("`steadfast why {name}` says what would help"),
        ("CrashLoop" | "Failed" | "Unhealthy", _) => format!("`steadfast logs {name}` shows all it said"),
        ("Starting" | "Restarted", _) => "wait a moment: `steadfast status --watch` shows when it is ready".to_owned(),
        (_, "OutOfSync") => {
            by_failure().unwrap_or_else(|| "`steadfast apply` does it; `steadfast plan` shows it first".to_owned())
        }
        _ => format!("`steadfast why {name}` tells more"),
    }
}

fn report(settings: &Settings, checks: &[Check]) -> Result<ExitStatus, CliError> {
    let first_bad = checks.iter().find(|check| !check.ok);
    if settings.output.is_data() {
        let first = first_bad.map(|check| check.layer);
        render::print_data(
            settings.output,
            &serde_json::json!({"ok": first.is_none(), "firstFailure": first, "checks": checks}),
        )?;
    } else {
        let color = settings.color_stdout;
        let mut text = String::new();
        for check in checks {
            let mark = if check.ok { styled("ok  ", ADD, color) } else { styled("FAIL", REMOVE, color) };
            let _ = writeln!(text, "{mark} {:<15} {}", check.layer, check.found);
            if let Some(fix) = &check.fix {
                let _ = writeln!(text, "     {:<15} {}", "", styled(&format!("fix: {fix}"), ASIDE, color));
            }
        }
        match first_bad {
            None => text.push_str("\neverything is well\n"),
            Some(check) => {
                let _ = writeln!(text, "\nthe first that fails: {}, {}", check.layer, check.found);
            }
        }
        render::print(&text)?;
    }
    Ok(if first_bad.is_none() { ExitStatus::Done } else { ExitStatus::Error })
}
