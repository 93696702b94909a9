//! `doctor`: every layer from the state file to the health checks, in the order they stand on each other. Names the
//! first that fails, and its fix.

use std::fmt::Write;
use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;

use super::render::{self, ADD, ASIDE, REMOVE, styled, units};
use super::settings::state_dir;
use super::{CliError, ExitStatus, Settings};
use crate::backend::cache::{Cache, CacheOptions};
use crate::backend::{Engine, Look, Store};
use crate::error::Chain;
use crate::model::{AgentState, Desired, ImageSource};
use crate::observe::{look_at_published, observe};
use crate::plan::{Policy, plan};
use crate::reconcile::lock::{self, LockError};

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
    match settings.load(None) {
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
    root(&desired.root, checks);
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
    if let Some(socket) = engine.socket() {
        checks.ok("podman socket", socket.display().to_string());
    }
    let look = Look {
        owner: desired.name.clone(),
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
    agents(desired, crate::backend::World { engine, store: cache }, checks).await;
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
    if let Err(err) = tempfile::Builder::new().prefix(".steadfast-doctor-").tempfile_in(there) {
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

async fn agents(
    desired: &Desired,
    world: crate::backend::World<crate::backend::podman::Podman, Cache>,
    checks: &mut Checks,
) {
    let published = look_at_published(&world.store, desired).await;
    let observed = observe(&world, desired, &published).await;
    let plan = plan(desired, &observed, &Policy::default());
    let status = crate::status::status(desired, &observed, &plan, SystemTime::now());
    for (name, agent) in &status.agents {
        let state = format!("{name}: {}, {}", agent.sync, agent.health);
        match agent.conditions.first() {
            Some(condition) if !agent.ready => {
                let fix = match (condition.reason, agent.sync) {
                    ("Blocked", _) => "`steadfast plan` says what would help",
                    (_, "OutOfSync") => "`steadfast apply` does it; `steadfast plan` shows it first",
                    _ => "`steadfast logs AGENT` shows what it says",
                };
                let fix = fix.replace("AGENT", name.as_str());
                checks.bad("agent", format!("{state}: {}", condition.message), fix);
            }
            _ => checks.ok("agent", state),
        }
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
