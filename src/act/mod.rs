//! Turns an [`Action`] into effects. Choices belong in [`crate::plan`], where they can be tested without a world; if an
//! `if` appears here, ask whether the planner should have made it.

mod checks;
mod error;
mod gate;
mod health;
mod inside;
mod load;
mod overlap;
mod replace;
mod slots;
mod sure;
mod volumes;

pub use error::{ActError, Disposition, Ending};
pub(crate) use error::{in_one_line, tail};
pub(crate) use inside::LastWords;
use std::sync::Arc;
use std::time::Duration;

pub use health::{Verdict as HealthVerdict, become_healthy, in_words as failed_check_in_words, wait_until_healthy};
pub use slots::{Slot, Slots};

use futures_util::StreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backend::{Chunk, Engine, EngineError, EngineErrorKind, Inside, LogRequest, Progress, Store, Vm, World};
use crate::model::{
    ContainerId, ContainerName, ContainerSpec, ContainerState, Create, Health, Phase, RestartPolicy, labels,
};
use crate::plan::{Action, StartMode, stays_ended};

/// How patient actions are.
#[derive(Debug, Clone)]
pub struct Patience {
    /// Time a container gets between its stop signal and KILL. Default 10 s.
    pub grace: Duration,
    /// What is started is looked at once more after so long. Default 500 ms.
    pub settle: Duration,
    /// When a successor must have proved itself at the latest, whenever it was started.
    pub deadline: Option<Instant>,
    /// Cancelled when the user asked to stop: waits for health end there.
    pub cancel: CancellationToken,
    /// Whether a replacement whose wait for health was cancelled is undone, so that its predecessor serves on. Otherwise it
    /// stays as it is, and the next run goes on waiting. Default no.
    pub undo: bool,
    /// Cancelled when something else is wanted by now: a replacement that has not yet started its successor goes no further,
    /// and the next plan goes on from there.
    pub outdated: CancellationToken,
    /// Whether host ports and bind sources are this machine's, so that they can be checked beforehand.
    pub local: bool,
    /// What it works in, and gives back while it waits.
    pub slot: Slot,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(10),
            settle: Duration::from_millis(500),
            deadline: None,
            cancel: CancellationToken::new(),
            undo: false,
            outdated: CancellationToken::new(),
            local: true,
            slot: Slot::default(),
        }
    }
}

/// What an action did, as far as the next observation does not tell it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// The container it started, which is to be checked once more.
    pub started: Option<ContainerId>,
    /// It has been looked at already, and stayed up.
    pub settled: bool,
    /// Bytes had to be fetched.
    pub fetched: bool,
}

/// Inspects a container, and again for as long as Podman is busy tidying up after it.
pub(crate) async fn inspect_settled<E: Engine>(
    engine: &E,
    id: &ContainerId,
) -> Result<Option<ContainerState>, EngineError> {
    let deadline = Instant::now() + TIDY_TIME;
    loop {
        let seen = engine.inspect(id).await?;
        if !seen.as_ref().is_some_and(|seen| seen.phase == Phase::Stopping) || Instant::now() >= deadline {
            return Ok(seen);
        }
        tokio::time::sleep(TIDY_POLL).await;
    }
}

const TIDY_TIME: Duration = Duration::from_secs(10);
const TIDY_POLL: Duration = Duration::from_millis(50);

/// How a container that was just started has ended, if it has. A one-shot that is done has not gone wrong.
pub(crate) fn ended(seen: Option<&ContainerState>, restart: RestartPolicy) -> Option<Ending> {
    let Some(seen) = seen else { return Some(Ending::Gone) };
    match &seen.phase {
        _ if seen.restarts.is_some_and(|restarts| restarts > 0) => Some(Ending::Restarts),
        Phase::Running | Phase::Paused => None,
        Phase::Exited { code: 0 } if stays_ended(restart, None, 0) => None,
        Phase::Exited { code } => Some(Ending::Exited(*code)),
        Phase::Created | Phase::Stopping | Phase::Removing | Phase::Other(_) => Some(Ending::Gone),
    }
}

/// Takes one step. Safe to repeat, safe to be killed in.
///
/// # Errors
/// What went wrong; [`ActError::disposition`] says whether trying again may help.
pub async fn act<V: Vm, E: Engine + Inside, S: Store>(
    world: &World<V, E, S>,
    action: &Action,
    progress: Arc<Progress>,
    patience: &Patience,
) -> Result<Done, ActError> {
    match action {
        Action::SyncManifest { manifest, from } => {
            world.store.commit_manifest(manifest, from.as_ref()).await?;
            Ok(Done::default())
        }
        Action::FetchArtifact { artifact, from, transfer: _ } => {
            let fetched = world.store.fetch(artifact, from, progress).await?;
            Ok(Done { fetched, ..Done::default() })
        }
        Action::CreateVm { make } => {
            world.vm.create(make).await?;
            Ok(Done::default())
        }
        Action::StartVm { make, how } => {
            world.vm.start(*how, make).await?;
            Ok(Done::default())
        }
        Action::RecreateVm { make } => {
            // What could not be recreated is not given up.
            world.vm.validate(make).await?;
            world.vm.delete().await?;
            world.vm.create(make).await?;
            Ok(Done::default())
        }
        Action::AdoptVm { owner, .. } => {
            world.vm.adopt(owner).await?;
            Ok(Done::default())
        }
        Action::StopVm { force, .. } => {
            world.vm.stop(*force).await?;
            Ok(Done::default())
        }
        Action::DeleteVm { .. } => {
            world.vm.delete().await?;
            Ok(Done::default())
        }
        Action::ForwardPorts { ports, .. } => {
            world.vm.forward(ports).await?;
            Ok(Done::default())
        }
        Action::LoadImage { artifact, reference, tag, supersedes, leaves } => {
            let (tag, supersedes, leaves) = (tag.as_ref(), supersedes.as_ref(), leaves.as_ref());
            let load = load::Load { artifact, reference, tag, supersedes, leaves };
            load::load(world, load, progress).await?;
            Ok(Done::default())
        }
        Action::PullImage { reference } => {
            world.engine.pull(reference, progress).await?;
            Ok(Done::default())
        }
        Action::CreateContainer { create, start } => {
            checks::before_create(&world.engine, create, *start, patience).await?;
            let id = create_one(&world.engine, create, &patience.slot).await?;
            if !*start {
                return Ok(Done::default());
            }
            sure::start(&world.engine, &id, None, &patience.slot)
                .await
                .map_err(|err| err.naming(&id, &create.name).hiding(&create.spec.secrets()))?;
            Ok(Done { started: Some(id), ..Done::default() })
        }
        Action::StartContainer { id, name, how: StartMode::Unpause, .. } => {
            sure::unpause(&world.engine, id, &patience.slot).await.map_err(|err| err.naming(id, name))?;
            Ok(Done::default())
        }
        Action::StartContainer { id, name, how: StartMode::Restart, spec, .. } => {
            restart(&world.engine, id, name, spec, patience).await
        }
        Action::StartContainer {
            id,
            name,
            how: StartMode::Start,
            previous,
            spec,
            last_start,
            remake,
            rollout,
            tried: _,
        } => {
            let remake = remake.as_deref().cloned();
            let this = replace::Startable { id: id.clone(), last_start: *last_start, remake, inherits: false };
            replace::start(world, this, name, spec, previous.as_ref(), rollout, patience).await
        }
        Action::StopContainer { id, name } => {
            stop(&world.engine, id, patience).await.map_err(|err| err.naming(id, name))?;
            Ok(Done::default())
        }
        Action::ReplaceContainer {
            create,
            start,
            old,
            old_name,
            old_runs,
            old_ports,
            successor,
            next,
            aside,
            rollout,
        } => {
            let old = replace::Old { id: old, name: old_name, runs: *old_runs, ports: old_ports, aside };
            let successor = replace::Successor { made: successor.as_ref(), name: next };
            replace::replace(world, create, *start, old, successor, rollout, patience).await
        }
        Action::RemoveContainer { id, name } => {
            remove(&world.engine, id, patience).await.map_err(|err| err.naming(id, name))?;
            Ok(Done::default())
        }
        Action::RenameContainer { id, from, name } => {
            sure::rename(&world.engine, id, name, &patience.slot).await.map_err(|err| err.naming(id, from))?;
            Ok(Done::default())
        }
        Action::CreateNetwork { make } => {
            world.engine.create_network(make).await?;
            Ok(Done::default())
        }
        Action::CreateVolume { make } => {
            world.engine.create_volume(make).await?;
            Ok(Done::default())
        }
        Action::RemoveNetwork { name } => {
            world.engine.remove_network(name).await?;
            Ok(Done::default())
        }
        Action::RemoveVolume { name } => {
            world.engine.remove_volume(name).await?;
            Ok(Done::default())
        }
        Action::PrepareWorkspace { at, name, spec } => {
            world.engine.prepare_workspace(at, name, spec).await?;
            Ok(Done::default())
        }
        Action::StartSession { at, start } => {
            inside::start(&world.engine, at, start, patience).await?;
            Ok(Done::default())
        }
        Action::StopSession { at, name, id } => {
            patience.slot.without(world.engine.end_session(at, name, id, patience.grace)).await?;
            Ok(Done::default())
        }
        Action::PruneArtifact { key, .. } => {
            world.store.remove(key).await?;
            Ok(Done::default())
        }
        Action::PruneImage { image, reference, .. } => {
            load::prune(world, image, reference).await?;
            Ok(Done::default())
        }
    }
}

/// What an action on a container of this host's Podman is known to fail of before it is begun.
pub fn obstacle(action: &Action) -> Option<ActError> {
    let here = Patience::default();
    match action {
        Action::CreateContainer { create, start } => checks::on_this_machine(create, *start, &[], &here).err(),
        Action::ReplaceContainer { create, start, old_ports, .. } => {
            checks::on_this_machine(create, *start, old_ports, &here).err()
        }
        _ => None,
    }
}

/// Creates a container with a label of its own, by which it is told from what inherits its other labels.
async fn create_one<E: Engine>(engine: &E, create: &Create, slot: &Slot) -> Result<ContainerId, EngineError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|err| {
        let why =
            format!("failed to create container `{}`: cannot get random bytes from the system: {err}", create.name);
        EngineError::new(EngineErrorKind::Unknown, why)
    })?;
    let mut create = create.clone();
    create.labels.insert(labels::ID.to_owned(), labels::container_id(bytes));
    sure::create(engine, &create, slot).await.map_err(|err| err.hiding(&create.spec.secrets()))
}

/// Stops a container. Others may work meanwhile.
async fn stop<E: Engine>(engine: &E, id: &ContainerId, patience: &Patience) -> Result<(), EngineError> {
    patience.slot.without(sure::stop(engine, id, patience.grace, &patience.slot)).await
}

/// Removes a container, stopping it first. Others may work until it has stopped.
async fn remove<E: Engine>(engine: &E, id: &ContainerId, patience: &Patience) -> Result<(), EngineError> {
    match stop(engine, id, patience).await {
        Err(err) if err.kind == EngineErrorKind::NotFound => return Ok(()),
        Err(err) if err.kind.is_retryable() => return Err(err),
        // What cannot be stopped in good order is removed by force.
        Ok(()) | Err(_) => {}
    }
    sure::remove(engine, id, patience.grace, &patience.slot).await
}

/// Stops and starts a container that is unhealthy. The verdict may be old, and the container may have recovered since:
/// so it is checked once more before anybody is interrupted.
async fn restart<E: Engine>(
    engine: &E,
    id: &ContainerId,
    name: &ContainerName,
    spec: &ContainerSpec,
    patience: &Patience,
) -> Result<Done, ActError> {
    let named = |err: EngineError| err.naming(id, name).hiding(&spec.secrets());
    engine.run_healthcheck(id).await.map_err(named)?;
    let seen = engine.inspect(id).await.map_err(named)?;
    if seen.as_ref().is_some_and(|seen| seen.health == Some(Health::Healthy)) {
        return Ok(Done::default());
    }
    stop(engine, id, patience).await.map_err(named)?;
    sure::start(engine, id, seen.and_then(|seen| seen.started_at), &patience.slot).await.map_err(named)?;
    Ok(Done { started: Some(id.clone()), ..Done::default() })
}

/// The last lines of a container's log, for an error message, without the values that must not be shown. Best effort:
/// empty when they cannot be read soon.
pub(crate) async fn last_lines<E: Engine>(engine: &E, id: &ContainerId, spec: &ContainerSpec) -> String {
    let text = tokio::time::timeout(LOG_TIME, read_log(engine, id)).await.unwrap_or_default();
    let text = spec.secrets().redact(&String::from_utf8_lossy(&text));
    text.trim_end().lines().collect::<Vec<_>>().join("\n")
}

/// The end of the log, at most [`LOG_BYTES`].
async fn read_log<E: Engine>(engine: &E, id: &ContainerId) -> Vec<u8> {
    let request = LogRequest { follow: false, tail: Some(LOG_LINES) };
    let Ok(mut log) = engine.logs(id, &request).await else { return Vec::new() };
    let mut text = Vec::new();
    while let Some(Ok(chunk)) = log.next().await {
        let (Chunk::Stdout(bytes) | Chunk::Stderr(bytes)) = chunk;
        text.extend_from_slice(&bytes);
        if text.len() > 2 * LOG_BYTES {
            text.drain(..text.len() - LOG_BYTES);
        }
    }
    text.drain(..text.len().saturating_sub(LOG_BYTES));
    text
}

const LOG_TIME: Duration = Duration::from_secs(5);
const LOG_LINES: u64 = 10;
const LOG_BYTES: usize = 4096;

#[cfg(test)]
mod tests;
