//! The safe order of a replacement.
//!
//! Create the successor (not started) as `….next` → stop the predecessor, and rename it to `….prev` → give the successor the
//! name → start it → see that it becomes healthy where it has a check, and stays up ([`gate`]) → drop the predecessor. Where
//! the two may overlap, the successor starts and proves itself as `….next`, and only then its predecessor is stopped. Killed
//! on any line, the next pass finds the labels and finishes or starts over; failed on any line, the predecessor is put back,
//! and has to prove itself too.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::gate::{self, Candidate};
use super::{ActError, Done, Patience, Slot, checks, create_one, overlap, remove, stop, sure, volumes};
use crate::backend::{Engine, EngineError, EngineErrorKind, World};
use crate::broken::Broken;
use crate::error::Chain;
use crate::model::labels::PREV_SUFFIX;
use crate::model::{
    ContainerId, ContainerName, ContainerSpec, ContainerState, Create, Phase, PortRange, RestartPolicy, Rollout,
    RolloutStrategy, Volume,
};

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
    rollout: &Rollout,
    patience: &Patience,
) -> Result<Done, ActError> {
    let engine = &world.engine;
    let aside = old.name.as_str().ends_with(PREV_SUFFIX);
    let home = if aside { &create.name } else { old.name };
    let mut predecessor = Predecessor::new(old.id, home.clone(), old.runs);
    let made = make(engine, create, start, &old, &successor, &mut predecessor, patience).await;
    let mut new = match made {
        Ok(new) => new,
        // Nothing has been touched yet; but one that stands aside does not run, and nobody else does.
        Err(err) if aside => return Err(put_back(engine, &predecessor, None, err, rollout, patience).await),
        Err(err) => return Err(err),
    };
    let aside = (!aside).then_some(old.aside);
    let (old, old_name) = (old.id, old.name);
    // What one wrote into a volume of its own goes on to the other, and two must not write to it.
    if rollout.strategy == RolloutStrategy::Overlap && start && predecessor.is_up && !new.inherits {
        return overlap::overlap(engine, new, create, &predecessor, aside, successor.name, rollout, patience).await;
    }

    match step_aside(engine, &predecessor, aside, &new.id, create, patience).await {
        Ok(Aside::Done) => {}
        Ok(Aside::Outdated) => return Err(ActError::Interrupted),
        Err(err) => {
            let err = err.naming(&new.id, &create.name).naming(old, old_name);
            return Err(untried(put_back(engine, &predecessor, Some(&new.id), err.into(), rollout, patience).await));
        }
    }
    if start {
        // Only now that the predecessor has released its ports can they be tried.
        let ports = if patience.local { checks::ports_are_free(create, &[]) } else { Ok(()) };
        let outcome = match ports {
            Ok(()) => start_and_watch(engine, &mut new, &create.name, &create.spec, rollout, patience).await,
            Err(err) => Err(err),
        };
        prove(engine, outcome, &predecessor, &new.id, rollout, patience).await?;
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
    /// It has volumes of its predecessor.
    pub inherits: bool,
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
    predecessor.knows(seen.as_ref());
    let facts = checks::before_replace(engine, create, start, (old.ports, seen.as_ref()), patience).await?;
    let had = seen.and_then(|seen| seen.live).map(|live| live.volumes).unwrap_or_default();
    let create = volumes::inherit(create, &had, &facts.volumes);
    let inherits = !create.volumes.is_empty();
    if let Some(successor) = successor.made {
        if has_all(&volumes::of(engine, successor).await?, &create.volumes) {
            return Ok(Startable { id: successor.clone(), last_start: None, remake: Some(create), inherits });
        }
        // Made before its predecessor had these volumes.
        remove(engine, successor, patience).await?;
    }
    let next = Create { name: successor.name.clone(), ..create };
    let id = create_one(engine, &next, &patience.slot).await?;
    Ok(Startable { id, last_start: None, remake: None, inherits })
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
    rollout: &Rollout,
    patience: &Patience,
) -> Result<Done, ActError> {
    let engine = &world.engine;
    let Some(previous) = previous else {
        start_or_remake(engine, &mut this, name, spec, patience).await?;
        return Ok(Done { started: Some(this.id), ..Done::default() });
    };
    let mut predecessor = Predecessor::new(previous, name.clone(), true);
    // Should it come to that, this tells what it comes back as.
    predecessor.knows(engine.inspect(previous).await.ok().flatten().as_ref());
    if let Some(create) = &mut this.remake {
        let facts = engine.image_facts(create.image_word()).await?.unwrap_or_default();
        *create = volumes::inherit(create, &volumes::of(engine, previous).await?, &facts.volumes);
    }
    let outcome = start_and_watch(engine, &mut this, name, spec, rollout, patience).await;
    prove(engine, outcome, &predecessor, &this.id, rollout, patience).await?;
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
    rollout: &Rollout,
    patience: &Patience,
) -> Result<(), ActError> {
    match outcome {
        Ok(()) => Ok(()),
        Err(ActError::Interrupted) if !patience.undo => Err(ActError::Interrupted),
        // It stays, for somebody to see what is wrong with it.
        Err(err) if !rollout.rollback && err.speaks_against_it() => {
            let home = &predecessor.home;
            let removed = remove(engine, predecessor.id, patience).await;
            removed.map_err(|err| err.naming(predecessor.id, home))?;
            Err(err)
        }
        Err(err) => match put_back(engine, predecessor, Some(successor), err, rollout, patience).await {
            // It did not fail: nobody waits for it any more.
            ActError::RolledBack { cause, .. } if matches!(*cause, ActError::Interrupted) => Err(ActError::Interrupted),
            err => Err(err),
        },
    }
}

/// What is replaced, and comes back should its successor fail.
pub(super) struct Predecessor<'a> {
    pub id: &'a ContainerId,
    /// The name it had while it ran, and gets back.
    pub home: ContainerName,
    runs: bool,
    /// It runs now.
    is_up: bool,
    /// When it was last started.
    last_start: Option<SystemTime>,
    /// When Podman restarts it by itself.
    restart: RestartPolicy,
}

impl<'a> Predecessor<'a> {
    fn new(id: &'a ContainerId, home: ContainerName, runs: bool) -> Self {
        Self { id, home, runs, is_up: false, last_start: None, restart: RestartPolicy::default() }
    }

    /// What is seen of it, if anything is.
    fn knows(&mut self, seen: Option<&ContainerState>) {
        let Some(seen) = seen else { return };
        self.is_up = seen.phase == Phase::Running;
        self.last_start = seen.started_at;
        let policies =
            [RestartPolicy::No, RestartPolicy::OnFailure, RestartPolicy::Always, RestartPolicy::UnlessStopped];
        // How often at most makes no difference here.
        let word = seen.restart.as_deref().and_then(|policy| policy.split(':').next());
        let same = |policy: &RestartPolicy| Some(policy.as_str()) == word;
        self.restart = policies.into_iter().find(same).unwrap_or_default();
    }
}

/// How far a predecessor was brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aside {
    /// It has stopped, and its successor has the name.
    Done,
    /// Something else is wanted by now.
    Outdated,
}

/// It stops under its own name, which so answers for as long as anything can: by its state alone it is known then that it is to
/// run. Of a one-shot nothing but its name tells who ended it, so that one is renamed first. Goes no further than to the next
/// line once something else is wanted.
async fn step_aside<E: Engine>(
    engine: &E,
    old: &Predecessor<'_>,
    aside: Option<&ContainerName>,
    new: &ContainerId,
    create: &Create,
    patience: &Patience,
) -> Result<Aside, EngineError> {
    let stops_first = matches!(create.spec.restart, RestartPolicy::Always | RestartPolicy::UnlessStopped)
        && !Broken::NameLost.is_in();
    for stops in [stops_first, !stops_first] {
        if patience.outdated.is_cancelled() {
            return Ok(Aside::Outdated);
        }
        match aside {
            _ if stops && old.runs => stop_unless_outdated(engine, old.id, patience).await?,
            Some(aside) if !stops => sure::rename(engine, old.id, aside, &patience.slot).await?,
            _ => {}
        }
    }
    if patience.outdated.is_cancelled() {
        return Ok(Aside::Outdated);
    }
    sure::rename(engine, new, &create.name, &patience.slot).await?;
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

/// Starts a container, and sees that it proves itself.
pub(super) async fn start_and_watch<E: Engine>(
    engine: &E,
    this: &mut Startable,
    name: &ContainerName,
    spec: &ContainerSpec,
    rollout: &Rollout,
    patience: &Patience,
) -> Result<(), ActError> {
    start_or_remake(engine, this, name, spec, patience).await?;
    let candidate = Candidate { id: &this.id, name, restart: spec.restart, spec: Some(spec) };
    gate::pass(engine, candidate, rollout, patience).await
}

/// Drops the successor and brings the predecessor back under its name. That one has to prove itself as well.
async fn put_back<E: Engine>(
    engine: &E,
    old: &Predecessor<'_>,
    new: Option<&ContainerId>,
    cause: ActError,
    rollout: &Rollout,
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
    let back = async {
        back.await.map_err(ActError::from)?;
        if !old.runs || patience.cancel.is_cancelled() {
            return Ok(());
        }
        let candidate = Candidate { id: old.id, name: &old.home, restart: old.restart, spec: None };
        match gate::pass(engine, candidate, rollout, patience).await {
            // Nothing that was seen speaks against it.
            Err(err) if !err.speaks_against_it() => Ok(()),
            proved => proved,
        }
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
