//! The safe order of a replacement.
//!
//! Create the successor (not started) as `….next` → stop the predecessor and keep it as `….prev` → give the successor
//! the name → start it → see that it stays up, and becomes healthy where it has a check → drop the predecessor. Killed
//! on any line, the next pass finds the labels and finishes or starts over; failed on any line, the predecessor is put
//! back.

use std::time::Duration;

use super::{ActError, Done, Patience, become_healthy, checks, ended, last_lines};
use crate::backend::{Create, Engine, EngineError, EngineErrorKind, World};
use crate::error::Chain;
use crate::model::{ContainerId, ContainerName, HealthCheck, Phase, RestartPolicy};
use crate::plan::{NEXT_SUFFIX, PREV_SUFFIX};

/// Replaces `old` by what `create` says.
pub(super) async fn replace<E: Engine, S>(
    world: &World<E, S>,
    create: &Create,
    start: bool,
    old: &ContainerId,
    old_name: &ContainerName,
    old_runs: bool,
    patience: &Patience,
) -> Result<Done, ActError> {
    let engine = &world.engine;
    if patience.local {
        checks::mount_sources(create)?;
    }
    let successor = Create { name: suffixed(&create.name, NEXT_SUFFIX), ..create.clone() };
    let new = engine.create(&successor).await.map_err(|err| err.hiding(&create.spec))?;
    let predecessor = Predecessor { id: old, name: old_name, runs: old_runs };

    if let Err(err) = step_aside(engine, &predecessor, &new, &create.name, patience).await {
        let err = err.naming(&new, &create.name).naming(old, old_name);
        return Err(put_back(engine, &predecessor, &new, err.into(), patience).await);
    }
    if start {
        // Only now that the predecessor has let go of its ports can they be tried.
        let ports = if patience.local { checks::ports_are_free(create) } else { Ok(()) };
        let watch = Watch { restart: create.spec.restart, check: create.spec.healthcheck.as_ref() };
        let outcome = match ports {
            Ok(()) => start_and_watch(engine, &new, &create.name, watch, patience).await,
            Err(err) => Err(err),
        };
        if let Err(err) = outcome {
            let err = match err {
                ActError::Engine(err) => err.hiding(&create.spec).into(),
                other => other,
            };
            return Err(put_back(engine, &predecessor, &new, err, patience).await);
        }
    }
    engine.remove(old, patience.grace).await.map_err(|err| err.naming(old, old_name))?;
    Ok(Done { started: start.then_some(new), settled: true, ..Done::default() })
}

/// Starts a container that exists. When an interrupted replacement left its predecessor, that one comes back should the
/// start fail.
pub(super) async fn start<E: Engine, S>(
    world: &World<E, S>,
    id: &ContainerId,
    name: &ContainerName,
    restart: RestartPolicy,
    previous: Option<&ContainerId>,
    patience: &Patience,
) -> Result<Done, ActError> {
    let engine = &world.engine;
    let Some(previous) = previous else {
        engine.start(id).await.map_err(|err| err.naming(id, name))?;
        return Ok(Done { started: Some(id.clone()), ..Done::default() });
    };
    match start_and_watch(engine, id, name, Watch { restart, check: None }, patience).await {
        Ok(()) => Ok(Done { started: Some(id.clone()), settled: true, ..Done::default() }),
        Err(err) => {
            let predecessor = Predecessor { id: previous, name, runs: true };
            Err(put_back(engine, &predecessor, id, err, patience).await)
        }
    }
}

struct Predecessor<'a> {
    id: &'a ContainerId,
    name: &'a ContainerName,
    runs: bool,
}

async fn step_aside<E: Engine>(
    engine: &E,
    old: &Predecessor<'_>,
    new: &ContainerId,
    name: &ContainerName,
    patience: &Patience,
) -> Result<(), EngineError> {
    if old.runs {
        engine.unpause(old.id).await?;
        engine.stop(old.id, patience.grace).await?;
    }
    engine.rename(old.id, &suffixed(old.name, PREV_SUFFIX)).await?;
    engine.rename(new, name).await
}

/// What a container is watched for after its start.
#[derive(Clone, Copy)]
struct Watch<'a> {
    restart: RestartPolicy,
    check: Option<&'a HealthCheck>,
}

async fn start_and_watch<E: Engine>(
    engine: &E,
    id: &ContainerId,
    name: &ContainerName,
    watch: Watch<'_>,
    patience: &Patience,
) -> Result<(), ActError> {
    engine.start(id).await.map_err(|err| err.naming(id, name))?;
    tokio::time::sleep(patience.settle).await;
    let seen = engine.inspect(id).await?;
    if let Some(how) = ended(seen.as_ref(), watch.restart) {
        let log = last_lines(engine, id).await;
        return Err(ActError::EndedAtOnce { container: name.to_string(), how, log });
    }
    if seen.is_some_and(|seen| seen.phase != Phase::Running) {
        return Ok(()); // a one-shot that is done
    }
    let Some(check) = watch.check else { return Ok(()) };
    become_healthy(engine, id, name.as_str(), check, patience.healthy).await
}

/// Drops the successor and brings the predecessor back under its name.
async fn put_back<E: Engine>(
    engine: &E,
    old: &Predecessor<'_>,
    new: &ContainerId,
    cause: ActError,
    patience: &Patience,
) -> ActError {
    let container = old.name.to_string();
    let back = async {
        engine.remove(new, patience.grace).await?;
        match engine.rename(old.id, old.name).await {
            // It has not been renamed yet, and so holds the name itself.
            Err(err) if err.kind == EngineErrorKind::Conflict => {}
            renamed => renamed?,
        }
        if old.runs {
            start_again(engine, old.id).await.map_err(|err| err.naming(old.id, old.name))?;
        }
        Ok::<(), EngineError>(())
    };
    let cause = Box::new(cause);
    match back.await {
        Ok(()) => {
            tracing::info!(container = %container, error = %Chain(&cause), "rolled back a replacement");
            ActError::RolledBack { container, cause }
        }
        Err(err) => ActError::RollBackFailed { container, why: Chain(&err).to_string(), cause },
    }
}

/// Starts the predecessor. After a start that failed, Podman 4.3 holds on to the successor's host ports for a moment
/// longer than to the successor itself.
async fn start_again<E: Engine>(engine: &E, id: &ContainerId) -> Result<(), EngineError> {
    for _ in 0..PORT_TRIES {
        match engine.start(id).await {
            Err(err) if err.kind == EngineErrorKind::Conflict => tokio::time::sleep(PORT_PAUSE).await,
            outcome => return outcome,
        }
    }
    engine.start(id).await
}

const PORT_TRIES: u32 = 50;
const PORT_PAUSE: Duration = Duration::from_millis(100);

fn suffixed(name: &ContainerName, suffix: &str) -> ContainerName {
    // A container name with `.next` or `.prev` behind it is one still; the loader leaves room for it.
    ContainerName::new(format!("{name}{suffix}")).unwrap_or_else(|_| name.clone())
}
