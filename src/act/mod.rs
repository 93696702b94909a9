//! Turns an [`Action`] into effects. Choices belong in [`crate::plan`], where they can be tested without a world; if an
//! `if` appears here, ask whether the planner should have made it.

mod checks;
mod health;
mod load;
mod replace;
mod slots;
mod sure;
mod volumes;

use std::sync::Arc;
use std::time::Duration;

pub use health::{Verdict as HealthVerdict, become_healthy, in_words as failed_check_in_words, wait_until_healthy};
pub use slots::{Slot, Slots};

use futures_util::StreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backend::{
    Chunk, Engine, EngineError, EngineErrorKind, LogRequest, Progress, PullFault, Store, StoreError, Vm, VmError, World,
};
use crate::model::{
    ContainerId, ContainerName, ContainerSpec, ContainerState, Create, FailureKind, Health, ImageId, ImageRef, Phase,
    RestartPolicy, labels,
};
use crate::plan::{Action, StartMode, stays_ended};

/// How patient actions are.
#[derive(Debug, Clone)]
pub struct Patience {
    /// Time a container gets between its stop signal and KILL. Default 10 s.
    pub grace: Duration,
    /// How long a successor must stay up before its predecessor is dropped. Default 500 ms.
    pub settle: Duration,
    /// How long a successor may take to become healthy. Default 10 min.
    pub healthy: Duration,
    /// When it must be healthy at the latest, whenever it was started.
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
            healthy: Duration::from_secs(600),
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

/// Why an action failed.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// The cache or the network.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The virtual machine.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// Podman.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A bind mount's source is not there.
    #[error("mount source `{path}` of container `{container}` does not exist")]
    MountSource {
        /// The missing path.
        path: String,
        /// Whose mount.
        container: String,
    },
    /// A host port is taken by somebody else.
    #[error("host port {port} that container `{container}` publishes is taken")]
    PortTaken {
        /// As `address:port/protocol`.
        port: String,
        /// Who wants it.
        container: String,
    },
    /// The name that an image is to have means another one, and somebody else gave it.
    #[error("{}", crate::plan::action::name_taken(reference, held_by))]
    ImageNameTaken {
        /// The name.
        reference: ImageRef,
        /// The image that has it.
        held_by: ImageId,
    },
    /// An image has no room where Podman keeps its images.
    #[error("image `{image}` unpacks to more than {} MiB, and Podman has room for {} MiB", unpacked >> 20, room >> 20)]
    NoRoom {
        /// The name it is loaded for.
        image: ImageRef,
        /// How many bytes there are at least.
        unpacked: u64,
        /// How many are free.
        room: u64,
    },
    /// The image is built for another machine than the engine's.
    #[error(
        "image `{image}` of container `{container}` is built for {built_for}, and Podman's machine is {machine} and does not \
         emulate it"
    )]
    Architecture {
        /// Whose image.
        container: String,
        /// Which.
        image: ImageRef,
        /// Operating system and architecture of the image, e.g. `linux/arm64`.
        built_for: String,
        /// Those of Podman's machine.
        machine: String,
    },
    /// A container ended as soon as it was started.
    #[error("container `{container}` {how}{}", tail(log))]
    EndedAtOnce {
        /// Which.
        container: String,
        /// How it ended.
        how: Ending,
        /// Its last log lines.
        log: String,
    },
    /// A health check said no.
    #[error("container `{container}` is not healthy: {why}{}", tail(log))]
    Unhealthy {
        /// Which.
        container: String,
        /// What the check said.
        why: String,
        /// Its last log lines.
        log: String,
    },
    /// A successor failed, and its predecessor is back.
    #[error("container `{container}` was rolled back: its successor failed")]
    RolledBack {
        /// Which.
        container: String,
        /// Whether it was not even started: what failed says nothing against it.
        untried: bool,
        /// Why the successor failed.
        #[source]
        cause: Box<ActError>,
    },
    /// A successor failed, and its predecessor did not come back either.
    #[error("container `{container}` could not be rolled back ({why}) after its successor failed")]
    RollBackFailed {
        /// Which.
        container: String,
        /// Why the predecessor did not come back.
        why: String,
        /// Why the successor failed.
        #[source]
        cause: Box<ActError>,
    },
    /// The user asked to stop before it was done.
    #[error("interrupted")]
    Interrupted,
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With this exit code, and stayed so.
    Exited(i32),
    /// Again and again: Podman restarts it each time.
    Restarts,
    /// It cannot be told.
    Gone,
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::Exited(code) => write!(f, "ended at once with exit code {code}"),
            Ending::Restarts => f.write_str("is in a crash loop: Podman restarts it each time it exits"),
            Ending::Gone => f.write_str("disappeared as soon as it was started"),
        }
    }
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
        Phase::Exited { code: 0 } if stays_ended(restart, 0) => None,
        Phase::Exited { code } => Some(Ending::Exited(*code)),
        Phase::Created | Phase::Stopping | Phase::Removing | Phase::Other(_) => Some(Ending::Gone),
    }
}

/// What stands before a log at the end of a failure.
const LOG_FOLLOWS: &str = "; its last log lines:";

pub(crate) fn tail(log: &str) -> String {
    if log.is_empty() {
        return String::new();
    }
    let lines: Vec<_> = log.lines().map(|line| format!("  | {line}")).collect();
    format!("{LOG_FOLLOWS}\n{}", lines.join("\n"))
}

/// A failure in one line: without the log that stands at its end.
pub(crate) fn in_one_line(failure: &str) -> &str {
    failure.lines().next().unwrap_or_default().trim_end_matches(LOG_FOLLOWS)
}

/// What the loop should do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Try again after a while.
    Retry,
    /// Only somebody who changes something can help.
    NeedsUser,
}

impl ActError {
    /// What the loop should do next.
    pub fn disposition(&self) -> Disposition {
        let retry = match self {
            ActError::Store(err) => err.is_retryable(),
            ActError::Vm(err) => err.is_retryable(),
            ActError::Engine(err) => err.kind.is_retryable() || err.kind == EngineErrorKind::NotFound,
            ActError::MountSource { .. }
            | ActError::PortTaken { .. }
            | ActError::ImageNameTaken { .. }
            | ActError::NoRoom { .. }
            | ActError::Architecture { .. }
            | ActError::EndedAtOnce { .. }
            | ActError::Unhealthy { .. }
            | ActError::Interrupted => false,
            // A successor that only Podman's hiccup kept from its place deserves another try.
            ActError::RolledBack { cause, .. } | ActError::RollBackFailed { cause, .. } => {
                return cause.disposition();
            }
        };
        if retry { Disposition::Retry } else { Disposition::NeedsUser }
    }

    /// What a registry is to blame for, where that is why.
    pub fn pull(&self) -> Option<&PullFault> {
        match self {
            ActError::Engine(err) => err.pull.as_deref(),
            _ => None,
        }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> FailureKind {
        match self {
            ActError::Store(err) => err.kind(),
            ActError::Vm(err) => err.kind(),
            ActError::Engine(err) => err.kind.into(),
            ActError::MountSource { .. } => FailureKind::MountSource,
            ActError::PortTaken { .. } | ActError::ImageNameTaken { .. } => FailureKind::Conflict,
            ActError::NoRoom { .. } => FailureKind::NoSpace,
            ActError::Architecture { .. } => FailureKind::Architecture,
            ActError::EndedAtOnce { .. } => FailureKind::EndedAtOnce,
            ActError::Unhealthy { .. } => FailureKind::Unhealthy,
            ActError::RolledBack { .. } => FailureKind::RolledBack,
            ActError::RollBackFailed { .. } => FailureKind::RollBackFailed,
            ActError::Interrupted => FailureKind::Interrupted,
        }
    }
}

/// Takes one step. Safe to repeat, safe to be killed in.
///
/// # Errors
/// What went wrong; [`ActError::disposition`] says whether trying again may help.
pub async fn act<V: Vm, E: Engine, S: Store>(
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
            let id = create_one(&world.engine, create).await?;
            if !*start {
                return Ok(Done::default());
            }
            sure::start(&world.engine, &id, None)
                .await
                .map_err(|err| err.naming(&id, &create.name).hiding(&create.spec.secrets()))?;
            Ok(Done { started: Some(id), ..Done::default() })
        }
        Action::StartContainer { id, name, how: StartMode::Unpause, .. } => {
            sure::unpause(&world.engine, id).await.map_err(|err| err.naming(id, name))?;
            Ok(Done::default())
        }
        Action::StartContainer { id, name, how: StartMode::Restart, spec, .. } => {
            restart(&world.engine, id, name, spec, patience).await
        }
        Action::StartContainer { id, name, how: StartMode::Start, previous, spec, last_start, remake } => {
            let remake = remake.as_deref().cloned();
            let this = replace::Startable { id: id.clone(), last_start: *last_start, remake };
            replace::start(world, this, name, spec, previous.as_ref(), patience).await
        }
        Action::StopContainer { id, name } => {
            stop(&world.engine, id, patience).await.map_err(|err| err.naming(id, name))?;
            Ok(Done::default())
        }
        Action::ReplaceContainer { create, start, old, old_name, old_runs, old_ports, successor, next, aside } => {
            let old = replace::Old { id: old, name: old_name, runs: *old_runs, ports: old_ports, aside };
            let successor = replace::Successor { made: successor.as_ref(), name: next };
            replace::replace(world, create, *start, old, successor, patience).await
        }
        Action::RemoveContainer { id, name } => {
            remove(&world.engine, id, patience).await.map_err(|err| err.naming(id, name))?;
            Ok(Done::default())
        }
        Action::RenameContainer { id, from, name } => {
            sure::rename(&world.engine, id, name).await.map_err(|err| err.naming(id, from))?;
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
async fn create_one<E: Engine>(engine: &E, create: &Create) -> Result<ContainerId, EngineError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|err| {
        let why =
            format!("failed to create container `{}`: cannot get random bytes from the system: {err}", create.name);
        EngineError::new(EngineErrorKind::Unknown, why)
    })?;
    let mut create = create.clone();
    create.labels.insert(labels::ID.to_owned(), labels::container_id(bytes));
    sure::create(engine, &create).await.map_err(|err| err.hiding(&create.spec.secrets()))
}

/// Stops a container. Others may work meanwhile.
async fn stop<E: Engine>(engine: &E, id: &ContainerId, patience: &Patience) -> Result<(), EngineError> {
    patience.slot.without(sure::stop(engine, id, patience.grace)).await
}

/// Removes a container, stopping it first. Others may work until it has stopped.
async fn remove<E: Engine>(engine: &E, id: &ContainerId, patience: &Patience) -> Result<(), EngineError> {
    match stop(engine, id, patience).await {
        Err(err) if err.kind == EngineErrorKind::NotFound => return Ok(()),
        Err(err) if err.kind.is_retryable() => return Err(err),
        // What cannot be stopped in good order is removed by force.
        Ok(()) | Err(_) => {}
    }
    sure::remove(engine, id, patience.grace).await
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
    sure::start(engine, id, seen.and_then(|seen| seen.started_at)).await.map_err(named)?;
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
mod tests {
    use super::*;

    #[test]
    fn a_failure_in_one_line_leaves_its_log_out() {
        let log = "one\ntwo";
        let failure = ActError::Unhealthy { container: "a".into(), why: "it said no".into(), log: log.into() };
        assert_eq!(
            failure.to_string(),
            "container `a` is not healthy: it said no; its last log lines:\n  | one\n  | two"
        );
        assert_eq!(in_one_line(&failure.to_string()), "container `a` is not healthy: it said no");
        assert_eq!(in_one_line("no log"), "no log");
        assert_eq!(in_one_line(""), "");
    }
}
