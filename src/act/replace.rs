//! The safe order of a replacement.
//!
//! Create the successor (not started) as `….next` → rename the predecessor to `….prev` and stop it → give the successor
//! the name → start it → see that it stays up, and becomes healthy where it has a check → drop the predecessor. Killed
//! on any line, the next pass finds the labels and finishes or starts over; failed on any line, the predecessor is put
//! back.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{
    ActError, Done, Patience, Slot, become_healthy, checks, create_one, ended, inspect_settled, last_lines, remove,
    stop, sure, volumes,
};
use crate::backend::{Engine, EngineError, EngineErrorKind, World};
use crate::error::Chain;
use crate::model::labels::PREV_SUFFIX;
use crate::model::{ContainerId, ContainerName, ContainerSpec, Create, Phase, PortRange, Volume};

/// What is replaced.
pub(super) struct Old<'a> {
    pub id: &'a ContainerId,
    /// The name it has now.
    pub name: &'a ContainerName,
    /// Whether it is to run again should its successor fail.
    pub runs: bool,
    /// The host ports it releases.
    pub ports: &'a [PortRange],
    /// What it is called until it is dropped.
    pub aside: &'a ContainerName,
}

/// What takes its place.
pub(super) struct Successor<'a> {
    /// It is made already: an interrupted replacement did.
    pub made: Option<&'a ContainerId>,
    /// What it is called until it takes the name.
    pub name: &'a ContainerName,
}

/// Replaces `old` by what `create` says.
pub(super) async fn replace<V, E: Engine, S>(
    world: &World<V, E, S>,
    create: &Create,
    start: bool,
    old: Old<'_>,
    successor: Successor<'_>,
    patience: &Patience,
) -> Result<Done, ActError> {
    let engine = &world.engine;
    let aside = old.name.as_str().ends_with(PREV_SUFFIX);
    let home = if aside { &create.name } else { old.name };
    let mut predecessor = Predecessor { id: old.id, home: home.clone(), runs: old.runs, last_start: None };
    let made = make(engine, create, start, &old, &successor, &mut predecessor, patience).await;
    let mut new = match made {
        Ok(new) => new,
        // Nothing has been touched yet; but one that stands aside does not run, and nobody else does.
        Err(err) if aside => return Err(put_back(engine, &predecessor, None, err, patience).await),
        Err(err) => return Err(err),
    };
    let aside = (!aside).then_some(old.aside);
    let (old, old_name) = (old.id, old.name);

    match step_aside(engine, &predecessor, aside, &new.id, &create.name, patience).await {
        Ok(Aside::Done) => {}
        Ok(Aside::Outdated) => return Err(ActError::Interrupted),
        Err(err) => {
            let err = err.naming(&new.id, &create.name).naming(old, old_name);
            return Err(untried(put_back(engine, &predecessor, Some(&new.id), err.into(), patience).await));
        }
    }
    if start {
        // Only now that the predecessor has released its ports can they be tried.
        let ports = if patience.local { checks::ports_are_free(create, &[]) } else { Ok(()) };
        let outcome = match ports {
            Ok(()) => start_and_watch(engine, &mut new, &create.name, &create.spec, patience).await,
            Err(err) => Err(err),
        };
        prove(engine, outcome, &predecessor, &new.id, patience).await?;
    }
    sure::remove(engine, old, patience.grace, &patience.slot).await.map_err(|err| err.naming(old, old_name))?;
    Ok(Done { started: start.then_some(new.id), settled: true, ..Done::default() })
}

/// A container that was never started, or is to be started again.
pub(super) struct Startable {
    pub id: ContainerId,
    /// When it was last started.
    pub last_start: Option<SystemTime>,
    /// What it is made from anew should it turn out that it can never start.
    pub remake: Option<Create>,
}

/// Makes the successor, not started.
async fn make<E: Engine>(
    engine: &E,
    create: &Create,
    start: bool,
    old: &Old<'_>,
    successor: &Successor<'_>,
    predecessor: &mut Predecessor<'_>,
    patience: &Patience,
) -> Result<Startable, ActError> {
    let seen = match engine.inspect(old.id).await {
        // It is half made: there is nothing in it to be handed on.
        Err(err) if !old.runs && is_hopeless(&err) => None,
        seen => seen.map_err(|err| err.naming(old.id, old.name))?,
    };
    predecessor.last_start = seen.as_ref().and_then(|seen| seen.started_at);
    let facts = checks::before_replace(engine, create, start, (old.ports, seen.as_ref()), patience).await?;
    let had = seen.and_then(|seen| seen.live).map(|live| live.volumes).unwrap_or_default();
    let create = volumes::inherit(create, &had, &facts.volumes);
    if let Some(successor) = successor.made {
        if has_all(&volumes::of(engine, successor).await?, &create.volumes) {
            return Ok(Startable { id: successor.clone(), last_start: None, remake: Some(create) });
        }
        // Made before its predecessor had these volumes.
        remove(engine, successor, patience).await?;
    }
    let next = Create { name: successor.name.clone(), ..create };
    let id = create_one(engine, &next, &patience.slot).await?;
    Ok(Startable { id, last_start: None, remake: None })
}

fn has_all(has: &[Volume], wanted: &[Volume]) -> bool {
    let same = |wanted: &Volume| has.iter().any(|has| (&has.name, &has.target) == (&wanted.name, &wanted.target));
    wanted.iter().all(same)
}

/// Starts a container that exists. When an interrupted replacement left its predecessor, that one is dropped once this
/// one has proved itself, and comes back should it fail to.
pub(super) async fn start<V, E: Engine, S>(
    world: &World<V, E, S>,
    mut this: Startable,
    name: &ContainerName,
    spec: &ContainerSpec,
    previous: Option<&ContainerId>,
    patience: &Patience,
) -> Result<Done, ActError> {
    let engine = &world.engine;
    let Some(previous) = previous else {
        start_or_remake(engine, &mut this, name, spec, patience).await?;
        return Ok(Done { started: Some(this.id), ..Done::default() });
    };
    let predecessor = Predecessor { id: previous, home: name.clone(), runs: true, last_start: None };
    if let Some(create) = &mut this.remake {
        let facts = engine.image_facts(create.image_word()).await?.unwrap_or_default();
        *create = volumes::inherit(create, &volumes::of(engine, previous).await?, &facts.volumes);
    }
    let outcome = start_and_watch(engine, &mut this, name, spec, patience).await;
    prove(engine, outcome, &predecessor, &this.id, patience).await?;
    sure::remove(engine, previous, patience.grace, &patience.slot).await.map_err(|err| err.naming(previous, name))?;
    Ok(Done { started: Some(this.id), settled: true, ..Done::default() })
}

/// Starts a container. One that was made, never started, and cannot be is half made (Podman keeps a record of it whose
/// storage is gone, as after a power cut or a removal in the middle): nothing is lost with it, and it is recreated.
async fn start_or_remake<E: Engine>(
    engine: &E,
    this: &mut Startable,
    name: &ContainerName,
    spec: &ContainerSpec,
    patience: &Patience,
) -> Result<(), ActError> {
    let err = match sure::start(engine, &this.id, this.last_start, &patience.slot).await {
        Ok(()) => return Ok(()),
        Err(err) => err.naming(&this.id, name).hiding(&spec.secrets()),
    };
    let Some(create) = this.remake.take().filter(|_| is_hopeless(&err)) else { return Err(err.into()) };
    let had = match engine.inspect(&this.id).await {
        Ok(Some(seen)) if seen.phase == Phase::Created => seen.live.map(|live| live.volumes).unwrap_or_default(),
        // What is left of it cannot even be looked at (Podman 4.3: `container not known`). It was never started.
        Err(unseen) if is_hopeless(&unseen) => Vec::new(),
        _ => return Err(err.into()),
    };
    tracing::warn!(container = %name, error = %err, "a container that never started cannot be started; it is recreated");
    if let Err(kept) = sure::remove(engine, &this.id, patience.grace, &patience.slot).await {
        tracing::warn!(container = %name, error = %kept, "a container that cannot start cannot be removed either");
        return Err(err.into());
    }
    // What it was given it hands on, since that may be another one's data.
    let mut volumes = create.volumes.clone();
    volumes.extend(
        had.into_iter().filter(|had| had.is_anonymous() && create.volumes.iter().all(|new| new.target != had.target)),
    );
    let create = Create { name: name.clone(), volumes, ..create };
    let hidden = |err: EngineError| err.hiding(&spec.secrets());
    this.id = sure::create(engine, &create, &patience.slot).await.map_err(hidden)?;
    this.last_start = None;
    sure::start(engine, &this.id, None, &patience.slot).await.map_err(|err| hidden(err.naming(&this.id, name)))?;
    Ok(())
}

/// Whether a start was refused for what neither time nor anybody outside will change.
fn is_hopeless(err: &EngineError) -> bool {
    matches!(err.kind, EngineErrorKind::ApiError | EngineErrorKind::CommandFailed)
}

/// A successor that failed goes, and its predecessor comes back. One whose watch was broken off goes too, where that is
/// asked for; else it stays as it is, beside its predecessor, and the next run goes on watching.
async fn prove<E: Engine>(
    engine: &E,
    outcome: Result<(), ActError>,
    predecessor: &Predecessor<'_>,
    successor: &ContainerId,
    patience: &Patience,
) -> Result<(), ActError> {
    match outcome {
        Ok(()) => Ok(()),
        Err(ActError::Interrupted) if !patience.undo => Err(ActError::Interrupted),
        Err(err) => match put_back(engine, predecessor, Some(successor), err, patience).await {
            // It did not fail: nobody waits for it any more.
            ActError::RolledBack { cause, .. } if matches!(*cause, ActError::Interrupted) => Err(ActError::Interrupted),
            err => Err(err),
        },
    }
}

struct Predecessor<'a> {
    id: &'a ContainerId,
    /// The name it had while it ran, and gets back.
    home: ContainerName,
    runs: bool,
    /// When it was last started.
    last_start: Option<SystemTime>,
}

/// How far a predecessor was brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aside {
    /// It has stopped, and its successor has the name.
    Done,
    /// Something else is wanted by now.
    Outdated,
}

/// Renames first: should the name be taken, nothing has been stopped yet. Goes no further than to the next line once
/// something else is wanted.
async fn step_aside<E: Engine>(
    engine: &E,
    old: &Predecessor<'_>,
    aside: Option<&ContainerName>,
    new: &ContainerId,
    name: &ContainerName,
    patience: &Patience,
) -> Result<Aside, EngineError> {
    if patience.outdated.is_cancelled() {
        return Ok(Aside::Outdated);
    }
    if let Some(aside) = aside {
        sure::rename(engine, old.id, aside, &patience.slot).await?;
    }
    if old.runs && !patience.outdated.is_cancelled() {
        stop_unless_outdated(engine, old.id, patience).await?;
    }
    if patience.outdated.is_cancelled() {
        return Ok(Aside::Outdated);
    }
    sure::rename(engine, new, name, &patience.slot).await?;
    Ok(Aside::Done)
}

/// Stops a predecessor. Once something else is wanted it is not killed any more, for it may be just that. It has heard its
/// stop signal, so it is seen first whether it ends of it: what is about to end must not be taken for one that serves.
async fn stop_unless_outdated<E: Engine>(engine: &E, id: &ContainerId, patience: &Patience) -> Result<(), EngineError> {
    let until = Instant::now() + patience.grace;
    tokio::select! {
        biased;
        stopped = stop(engine, id, patience) => return stopped,
        () = patience.outdated.cancelled() => {}
    }
    while Instant::now() < until {
        // An answer that does not come in time says nothing.
        match engine.inspect(id).await {
            Ok(Some(seen)) if matches!(seen.phase, Phase::Running | Phase::Stopping) => {}
            Err(err) if err.kind.is_retryable() => {}
            _ => return Ok(()),
        }
        tokio::time::sleep(ENDS_POLL).await;
    }
    Ok(())
}

/// Between two observations at one that may end.
const ENDS_POLL: Duration = Duration::from_millis(100);

/// Starts a container, sees that it stays up, and becomes healthy where it has a check.
async fn start_and_watch<E: Engine>(
    engine: &E,
    this: &mut Startable,
    name: &ContainerName,
    spec: &ContainerSpec,
    patience: &Patience,
) -> Result<(), ActError> {
    start_or_remake(engine, this, name, spec, patience).await?;
    let id = &this.id;
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
    let left = patience.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let time = left.map_or(patience.healthy, |left| patience.healthy.min(left));
    let waiting = async {
        tokio::select! {
            biased;
            outcome = become_healthy(engine, id, name.as_str(), spec, check, time) => outcome,
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
        match sure::rename(engine, old.id, &old.home, &patience.slot).await {
            // It has not been renamed yet, and so holds the name itself.
            Err(err) if err.kind == EngineErrorKind::Conflict => {}
            renamed => renamed?,
        }
        if old.runs {
            start_again(engine, old.id, old.last_start, &patience.slot)
                .await
                .map_err(|err| err.naming(old.id, &old.home))?;
        }
        Ok::<(), EngineError>(())
    };
    let cause = Box::new(cause);
    match back.await {
        Ok(()) => {
            tracing::info!(container = %container, error = %Chain(&cause), "rolled back a replacement");
            ActError::RolledBack { container, untried: false, cause }
        }
        Err(err) => ActError::RollBackFailed { container, why: Chain(&err).to_string(), cause },
    }
}

/// Nothing was found out about the successor.
fn untried(err: ActError) -> ActError {
    match err {
        ActError::RolledBack { container, cause, .. } => ActError::RolledBack { container, untried: true, cause },
        err => err,
    }
}

/// Starts the predecessor. After a start that failed, Podman 4.3 holds on to the successor's host ports for a moment
/// longer than to the successor itself.
async fn start_again<E: Engine>(
    engine: &E,
    id: &ContainerId,
    last_start: Option<SystemTime>,
    slot: &Slot,
) -> Result<(), EngineError> {
    for _ in 0..PORT_TRIES {
        match sure::start(engine, id, last_start, slot).await {
            Err(err) if err.kind == EngineErrorKind::Conflict => tokio::time::sleep(PORT_PAUSE).await,
            outcome => return outcome,
        }
    }
    sure::start(engine, id, last_start, slot).await
}

const PORT_TRIES: u32 = 50;
const PORT_PAUSE: Duration = Duration::from_millis(100);
