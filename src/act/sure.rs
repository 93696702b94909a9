//! Calls that change something, and whose answer may be lost: the request was carried out, and the connection broke
//! before Podman said so.
//!
//! Then Podman is asked what became of it, so that what was done is told as done, and what was started is judged as if
//! the answer had come. Where it does not answer in time the call has failed, and the next observation tells. Others may
//! work meanwhile.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::Slot;
use crate::backend::{Engine, EngineError, EngineErrorKind};
use crate::model::{CanonicalSpec, ContainerId, ContainerName, ContainerState, Create, Owner, Phase, labels};

/// How long Podman is asked again while it does not answer.
const SILENT: Duration = Duration::from_secs(3);
/// How long a request may go on after its connection broke.
const UNDER_WAY: Duration = Duration::from_secs(1);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(100);

/// What a request was to bring about.
enum Wanted<'a> {
    Made(&'a Create),
    /// A start later than this one.
    Started(&'a ContainerId, Option<SystemTime>),
    Unpaused(&'a ContainerId),
    Stopped(&'a ContainerId),
    Renamed(&'a ContainerId, &'a ContainerName),
    Removed(&'a ContainerId),
}

/// See [`Engine::create`].
pub(super) async fn create<E: Engine>(engine: &E, create: &Create, slot: &Slot) -> Result<ContainerId, EngineError> {
    match engine.create(create).await {
        Ok(id) => Ok(id),
        Err(err) if err.kind == EngineErrorKind::Conflict => taken(engine, create, err, slot).await,
        Err(err) => {
            let seen = became(engine, &Wanted::Made(create), err, slot).await?;
            seen.map(|seen| seen.id).ok_or_else(|| unreachable!("the container was created all the same"))
        }
    }
}

/// The name is taken: perhaps by what a process that was killed had just asked for, and Podman goes on making. Its name is
/// taken before it can be seen.
async fn taken<E: Engine>(
    engine: &E,
    create: &Create,
    err: EngineError,
    slot: &Slot,
) -> Result<ContainerId, EngineError> {
    let began = Instant::now();
    while began.elapsed() < SILENT {
        match engine.named(&create.name).await? {
            Some(seen) if seen.phase == Phase::Created && is_made_from(&seen, create) => return Ok(seen.id),
            Some(_) => return Err(err),
            None => slot.without(tokio::time::sleep(PAUSE)).await,
        }
        match engine.create(create).await {
            Err(again) if again.kind == EngineErrorKind::Conflict => {}
            outcome => return outcome,
        }
    }
    Err(err)
}

/// See [`Engine::start`]. `last` is when it was started before, if it ever was: one that has ended again may have been
/// started by this call.
pub(super) async fn start<E: Engine>(
    engine: &E,
    id: &ContainerId,
    last: Option<SystemTime>,
    slot: &Slot,
) -> Result<(), EngineError> {
    settled(engine, engine.start(id).await, &Wanted::Started(id, last), slot).await
}

/// See [`Engine::unpause`].
pub(super) async fn unpause<E: Engine>(engine: &E, id: &ContainerId, slot: &Slot) -> Result<(), EngineError> {
    settled(engine, engine.unpause(id).await, &Wanted::Unpaused(id), slot).await
}

/// See [`Engine::stop`].
pub(super) async fn stop<E: Engine>(
    engine: &E,
    id: &ContainerId,
    grace: Duration,
    slot: &Slot,
) -> Result<(), EngineError> {
    settled(engine, engine.stop(id, grace).await, &Wanted::Stopped(id), slot).await
}

/// See [`Engine::rename`].
pub(super) async fn rename<E: Engine>(
    engine: &E,
    id: &ContainerId,
    name: &ContainerName,
    slot: &Slot,
) -> Result<(), EngineError> {
    settled(engine, engine.rename(id, name).await, &Wanted::Renamed(id, name), slot).await
}

/// See [`Engine::remove`].
pub(super) async fn remove<E: Engine>(
    engine: &E,
    id: &ContainerId,
    grace: Duration,
    slot: &Slot,
) -> Result<(), EngineError> {
    settled(engine, engine.remove(id, grace).await, &Wanted::Removed(id), slot).await
}

async fn settled<E: Engine>(
    engine: &E,
    outcome: Result<(), EngineError>,
    wanted: &Wanted<'_>,
    slot: &Slot,
) -> Result<(), EngineError> {
    match outcome {
        Ok(()) => Ok(()),
        Err(err) => became(engine, wanted, err, slot).await.map(|_| ()),
    }
}

/// What the container is now, where a call that failed with `err` was carried out all the same; else `err`.
async fn became<E: Engine>(
    engine: &E,
    wanted: &Wanted<'_>,
    err: EngineError,
    slot: &Slot,
) -> Result<Option<ContainerState>, EngineError> {
    if err.kind.is_retryable() { slot.without(asked_again(engine, wanted, err)).await } else { Err(err) }
}

async fn asked_again<E: Engine>(
    engine: &E,
    wanted: &Wanted<'_>,
    err: EngineError,
) -> Result<Option<ContainerState>, EngineError> {
    let began = Instant::now();
    let mut answered = None;
    loop {
        match look(engine, wanted).await {
            Ok(seen) if wanted.is_so(seen.as_ref()) => {
                tracing::info!(error = %err, "Podman's answer was lost, but the request was carried out");
                return Ok(seen);
            }
            Ok(_) if answered.get_or_insert_with(Instant::now).elapsed() >= UNDER_WAY => return Err(err),
            Ok(_) => {}
            Err(again) if !again.kind.is_retryable() || began.elapsed() >= SILENT => return Err(err),
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn look<E: Engine>(engine: &E, wanted: &Wanted<'_>) -> Result<Option<ContainerState>, EngineError> {
    match wanted {
        Wanted::Made(create) => engine.named(&create.name).await,
        Wanted::Renamed(_, name) => engine.named(name).await,
        Wanted::Started(id, _) | Wanted::Unpaused(id) | Wanted::Stopped(id) | Wanted::Removed(id) => {
            engine.inspect(id).await
        }
    }
}

impl Wanted<'_> {
    fn is_so(&self, seen: Option<&ContainerState>) -> bool {
        let Some(seen) = seen else { return matches!(self, Wanted::Removed(_)) };
        match self {
            Wanted::Made(create) => seen.phase == Phase::Created && is_made_from(seen, create),
            Wanted::Started(_, last) => match seen.phase {
                Phase::Running | Phase::Paused => true,
                // An observation may tell whole seconds alone.
                Phase::Stopping | Phase::Exited { .. } => match (seen.started_at, last) {
                    (Some(now), Some(last)) => now.duration_since(*last).is_ok_and(|later| later.as_secs() >= 1),
                    (started, _) => started.is_some(),
                },
                _ => false,
            },
            Wanted::Unpaused(_) => seen.phase == Phase::Running,
            Wanted::Stopped(_) => matches!(seen.phase, Phase::Created | Phase::Exited { .. }),
            Wanted::Renamed(id, _) => seen.id == **id,
            Wanted::Removed(_) => false,
        }
    }
}

/// Whether a container carries what `create` gives it.
fn is_made_from(seen: &ContainerState, create: &Create) -> bool {
    let label = |name: &str| create.labels.get(name);
    let Owner::Ours { agent, spec: Some(spec), .. } = &seen.owner else { return false };
    agent.as_ref().map(|agent| agent.as_str()) == label(labels::AGENT).map(String::as_str)
        && label(labels::SPEC).and_then(|label| CanonicalSpec::from_label(label)).as_ref() == Some(spec)
        && create.volumes.iter().all(|wanted| seen.live.as_ref().is_some_and(|live| live.volumes.contains(wanted)))
}
