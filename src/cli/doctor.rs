//! `doctor`: every layer from the state file to the health checks, in the order they stand on each other. Names the
//! first that fails, and its fix.

mod agents;
mod lima;

use agents::{agents, whole};
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::kept;
use super::render::errors::root_hint;
use super::render::{self, ADD, ASIDE, REMOVE, styled, units};
use super::settings::{check_root, state_dir};
use super::status::{snapshot, view_of_run};
use super::{CliError, ExitStatus, Settings};
use crate::backend::cache::{Cache, CacheOptions};
use crate::backend::{Engine, EngineErrorKind, Look, Store};
use crate::error::Chain;
use crate::model::{AgentState, Desired, ImageSource};
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
    match settings.resolve(None) {
        Ok(loaded) => {
            let count = units::count(loaded.desired.agents.len(), "agent");
            checks.ok("state file", format!("`{}` is valid: `{}`, {count}", settings.files, loaded.desired.name));
            layers(settings, &loaded.desired, &mut checks).await;
        }
        Err(err) => {
            checks.bad("state file", err.message.lines().next().unwrap_or_default(), file_fix(settings, &err));
        }
    }
    report(settings, &checks.0)
}

/// What helps against a state file that cannot be used.
fn file_fix(settings: &Settings, err: &CliError) -> String {
    let is_gone =
        !settings.files.has_stdin() && settings.files.iter().any(|file| matches!(file.try_exists(), Ok(false)));
    let kept = kept::find(settings, None).map(|kept| format!("{} keeps its last good state meanwhile", kept.holder));
    let fix = match (is_gone, &kept) {
        (true, Some(_)) => "put it back".to_owned(),
        (true, None) => {
            "put it back, name another with `-f FILE`, or write a first one with `steadfast init`".to_owned()
        }
        (false, _) => {
            let places = || "`steadfast validate` shows each problem with its place".to_owned();
            err.hints.first().cloned().unwrap_or_else(places)
        }
    };
    [Some(fix), kept].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

async fn layers(settings: &Settings, desired: &Desired, checks: &mut Checks) {
    if let Err(err) = check_root(&desired.root, Some(&desired.name)) {
        return checks.bad("root directory", err.message, err.hints.join("; "));
    }
    let has_root = root(&desired.root, checks);
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
            if let Some(socket) = engine.socket()
                && !socket_answers(&socket, checks).await
            {
                return;
            }
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
            let is_lost = err.kind == EngineErrorKind::TransportUnavailable;
            let err = CliError::from_engine(&err);
            let fallback = || match engine.socket().filter(|_| is_lost && desired.vm().is_none()) {
                Some(socket) => start_podman(&socket),
                None => "`podman info` in a terminal may tell more".to_owned(),
            };
            let fix = err.hints.first().cloned().unwrap_or_else(fallback);
            return checks.bad("podman", err.message, fix);
        }
        Ok(guest) => checks.ok("podman", format!("answers, version {}", guest.version)),
    }
    let world = super::settings::HostWorld { vm: settings.vm(desired), engine, store: cache };
    let snapshot = snapshot(&world, desired).await;
    let view = view_of_run(settings, Some(desired)).await;
    agents(&snapshot, view.as_ref(), has_root, checks);
    if has_root {
        whole(desired, &snapshot, view.as_ref(), checks);
    }
}

/// How long Podman's socket may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Whether somebody listens on a socket: that it is there says little.
async fn socket_answers(socket: &Path, checks: &mut Checks) -> bool {
    let path = socket.display();
    let (found, fix) = match tokio::time::timeout(CONNECT, tokio::net::UnixStream::connect(socket)).await {
        Ok(Ok(_)) => {
            checks.ok("podman socket", path.to_string());
            return true;
        }
        Ok(Err(err)) if err.kind() == ErrorKind::PermissionDenied => (
            format!("no permission to use `{path}`"),
            "run as its owner, or name a socket of your own in `runtime.podman.socket` or $CONTAINER_HOST".to_owned(),
        ),
        Ok(Err(err)) if err.kind() == ErrorKind::ConnectionRefused => {
            (format!("nobody listens on `{path}`"), start_podman(socket))
        }
        Ok(Err(err)) => (format!("cannot connect to `{path}`: {err}"), start_podman(socket)),
        Err(_) => (format!("`{path}` accepts no connection within {} s", CONNECT.as_secs()), start_podman(socket)),
    };
    checks.bad("podman socket", found, fix);
    false
}

/// How Podman's service is started on a socket.
fn start_podman(socket: &Path) -> String {
    format!(
        "start Podman's service: `podman system service --time=0 unix://{}`, or, where systemd manages that socket, \
         `systemctl --user restart podman.socket` (for root without `--user`)",
        socket.display()
    )
}

/// As much is written to see whether there is room: state and journal need it at the least.
static PROBE: [u8; 64 * 1024] = [0; 64 * 1024];

/// Whether the root directory is one, and can be written to.
fn root(root: &Path, checks: &mut Checks) -> bool {
    let mut there = root;
    while !there.exists() {
        match there.parent() {
            Some(parent) => there = parent,
            None => break,
        }
    }
    let path = there.display();
    if there.is_file() {
        let fix = "name a directory with --root, or `root` in the state file";
        checks.bad("root directory", format!("`{path}` is a file"), fix);
        return false;
    }
    let free = rustix::fs::statvfs(there).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    let probe = tempfile::tempfile_in(there);
    let probed = probe.and_then(|mut file| file.write_all(&PROBE).and_then(|()| file.sync_data()));
    match probed {
        Err(err) if matches!(err.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            checks.bad("root directory", format!("no space is left in `{path}`"), root_hint(&err));
        }
        Err(err) => {
            let fix = "make it a directory you may write to, or choose another with --root or `root`";
            checks.bad("root directory", format!("`{path}` cannot be written to: {err}"), fix);
        }
        Ok(()) if free == Ok(0) => {
            let full = ErrorKind::StorageFull.into();
            checks.bad(
                "root directory",
                format!("`{path}` is full but for what is reserved for root"),
                root_hint(&full),
            );
        }
        Ok(()) => {
            checks.ok("root directory", format!("`{}`, {} free", root.display(), units::bytes(free.unwrap_or(0))));
            return true;
        }
    }
    false
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
            let signed = manifest.signed.as_ref().map(|signed| format!(", signed with key {}", signed.key.id()));
            let agents = units::count(manifest.agents.len(), "agent");
            checks.ok("manifest", format!("{at}, of {}, {agents}{}", manifest.updated_at, signed.unwrap_or_default()));
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
