//! The safe order of a replacement.
//!
//! Create the successor (not started) as `….next` → rename the predecessor to `….prev` and stop it → give the successor
//! the name → start it → see that it stays up, and becomes healthy where it has a check → drop the predecessor. Killed
//! on any line, the next pass finds the labels and finishes or starts over; failed on any line, the predecessor is put
//! back.

use std::time::Duration;

use super::{
    ActError, Done, Patience, become_healthy, checks, create_one, ended, inspect_settled, last_lines, remove, stop,
};
use crate::backend::{Engine, EngineError, EngineErrorKind, World};
use crate::error::Chain;
use crate::model::{ContainerId, ContainerName, ContainerSpec, Create, Phase, Port};
use crate::plan::{NEXT_SUFFIX, PREV_SUFFIX};

/// What is replaced.
pub(super) struct Old<'a> {
    pub id: &'a ContainerId,
    /// The name it has now.
    pub name: &'a ContainerName,
    /// Whether it is to run again should its successor fail.
    pub runs: bool,
    /// The host ports it lets go of.
    pub ports: &'a [Port],
}

/// Replaces `old` by what `create` says.
pub(super) async fn replace<V, E: Engine, S>(
    world: &World<V, E, S>,
    create: &Create,
    start: bool,
    old: Old<'_>,
    patience: &Patience,
) -> Result<Done, ActError> {
    let engine = &world.engine;
    let (home, aside) = match old.name.as_str().strip_suffix(PREV_SUFFIX).map(ContainerName::new) {
        Some(Ok(home)) => (home, true),
        _ => (old.name.clone(), false),
    };
    let predecessor = Predecessor { id: old.id, home, aside, runs: old.runs };
    let new = match make(engine, create, start, old.ports, patience).await {
        Ok(new) => new,
        // Nothing has been touched yet; but one that stands aside does not run, and nobody else does.
        Err(err) if aside => return Err(put_back(engine, &predecessor, None, err, patience).await),
        Err(err) => return Err(err),
    };
    let (old, old_name) = (old.id, old.name);

    if let Err(err) = step_aside(engine, &predecessor, &new, &create.name, patience).await {
        let err = err.naming(&new, &create.name).naming(old, old_name);
        return Err(put_back(engine, &predecessor, Some(&new), err.into(), patience).await);
    }
    if start {
        // Only now that the predecessor has let go of its ports can they be tried.
        let ports = if patience.local { checks::ports_are_free(create, &[]) } else { Ok(()) };
        let outcome = match ports {
            Ok(()) => start_and_watch(engine, &new, &create.name, &create.spec, patience).await,
            Err(err) => Err(err),
        };
        prove(engine, outcome, &predecessor, &new, patience).await?;
    }
    remove(engine, old, patience).await.map_err(|err| err.naming(old, old_name))?;
    Ok(Done { started: start.then_some(new), settled: true, ..Done::default() })
}

/// Makes the successor, not started.
async fn make<E: Engine>(
    engine: &E,
    create: &Create,
    start: bool,
    old_ports: &[Port],
    patience: &Patience,
) -> Result<ContainerId, ActError> {
    checks::before_replace(create, start, old_ports, patience)?;
    let successor = Create { name: suffixed(&create.name, NEXT_SUFFIX), ..create.clone() };
    Ok(create_one(engine, &successor).await?)
}

/// Starts a container that exists. When an interrupted replacement left its predecessor, that one is dropped once this
/// one has proved itself, and comes back should it fail to.
pub(super) async fn start<V, E: Engine, S>(
    world: &World<V, E, S>,
    id: &ContainerId,
    name: &ContainerName,
    spec: &ContainerSpec,
    previous: Option<&ContainerId>,
    patience: &Patience,
) -> Result<Done, ActError> {
    let engine = &world.engine;
    let Some(previous) = previous else {
        engine.start(id).await.map_err(|err| err.naming(id, name).hiding(spec))?;
        return Ok(Done { started: Some(id.clone()), ..Done::default() });
    };
    let predecessor = Predecessor { id: previous, home: name.clone(), aside: true, runs: true };
    let outcome = start_and_watch(engine, id, name, spec, patience).await;
    prove(engine, outcome, &predecessor, id, patience).await?;
    remove(engine, previous, patience).await.map_err(|err| err.naming(previous, name))?;
    Ok(Done { started: Some(id.clone()), settled: true, ..Done::default() })
}

/// A successor that failed goes, and its predecessor comes back. One whose watch was broken off stays as it is, beside
/// its predecessor: the next run goes on watching.
async fn prove<E: Engine>(
    engine: &E,
    outcome: Result<(), ActError>,
    predecessor: &Predecessor<'_>,
    successor: &ContainerId,
    patience: &Patience,
) -> Result<(), ActError> {
    match outcome {
        Ok(()) => Ok(()),
        Err(ActError::Interrupted) => Err(ActError::Interrupted),
        Err(err) => Err(put_back(engine, predecessor, Some(successor), err, patience).await),
    }
}

struct Predecessor<'a> {
    id: &'a ContainerId,
    /// The name it had while it ran, and gets back.
    home: ContainerName,
    /// It stands under the name of a predecessor already.
    aside: bool,
    runs: bool,
}

/// Renames first: should the name be taken, nothing has been stopped yet.
async fn step_aside<E: Engine>(
    engine: &E,
    old: &Predecessor<'_>,
    new: &ContainerId,
    name: &ContainerName,
    patience: &Patience,
) -> Result<(), EngineError> {
    if !old.aside {
        engine.rename(old.id, &suffixed(&old.home, PREV_SUFFIX)).await?;
    }
    if old.runs {
        stop(engine, old.id, patience).await?;
    }
    engine.rename(new, name).await
}

/// Starts a container, sees that it stays up, and becomes healthy where it has a check.
async fn start_and_watch<E: Engine>(
    engine: &E,
    id: &ContainerId,
    name: &ContainerName,
    spec: &ContainerSpec,
    patience: &Patience,
) -> Result<(), ActError> {
    engine.start(id).await.map_err(|err| err.naming(id, name).hiding(spec))?;
    patience.slot.without(tokio::time::sleep(patience.settle)).await;
    let seen = inspect_settled(engine, id).await?;
    if let Some(how) = ended(seen.as_ref(), spec.restart) {
        let log = last_lines(engine, id, spec).await;
        return Err(ActError::EndedAtOnce { container: name.to_string(), how, log });
    }
    if seen.as_ref().is_some_and(|seen| seen.phase != Phase::Running) {
        return Ok(()); // a one-shot that is done
    }
    let check = spec.healthcheck.as_ref().or(seen.as_ref().and_then(|seen| seen.check.as_ref()));
    let waiting = async {
        tokio::select! {
            biased;
            outcome = become_healthy(engine, id, name.as_str(), spec, check, patience.healthy) => outcome,
            () = patience.cancel.cancelled() => Err(ActError::Interrupted),
        }
    };
    patience.slot.without(waiting).await
}

/// Drops the successor and brings the predecessor back under its name.
async fn put_back<E: Engine>(
    engine: &E,
    old: &Predecessor<'_>,
    new: Option<&ContainerId>,
    cause: ActError,
    patience: &Patience,
) -> ActError {
    let container = old.home.to_string();
    let back = async {
        if let Some(new) = new {
            remove(engine, new, patience).await?;
        }
        match engine.rename(old.id, &old.home).await {
            // It has not been renamed yet, and so holds the name itself.
            Err(err) if err.kind == EngineErrorKind::Conflict => {}
            renamed => renamed?,
        }
        if old.runs {
            start_again(engine, old.id).await.map_err(|err| err.naming(old.id, &old.home))?;
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
