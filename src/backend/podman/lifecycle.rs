//! Starting and removing with an eye on what Podman gets wrong, whichever way it is reached. Stopping stands in [`stop`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::error;
use super::stop::{self, Listing, Stoppable, Stops};
use crate::backend::{EngineError, EngineErrorKind};
use crate::model::{ContainerId, ContainerState, Phase};

/// How long after a start that changed nothing the container is watched for a death Podman has not noticed yet.
const SWALLOWED: Duration = Duration::from_secs(2);
/// Between two observations of that watch.
const SWALLOWED_STEP: Duration = Duration::from_millis(50);
/// How long after a stop the container is watched for Podman's own restart. It takes a tenth of a second on 4.3.1; one
/// that dies at once each time is caught by one of many tries.
const COMES_BACK: Duration = Duration::from_secs(10);
/// Between two observations of that watch.
const COMES_BACK_STEP: Duration = Duration::from_millis(10);

/// A container that Podman starts again and again may end in several tries in a row.
const ENDS: u32 = 5;

/// What a start came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Started {
    /// It was started.
    Now,
    /// Podman believed that it ran.
    AlreadySo,
}

/// The single calls that the rules below are made of.
pub(super) trait Lifecycle: Sync {
    /// See [`crate::backend::Engine::inspect`].
    fn inspect(&self, id: &ContainerId) -> impl Future<Output = Result<Option<ContainerState>, EngineError>> + Send;
    /// One start.
    fn start_once(&self, id: &ContainerId) -> impl Future<Output = Result<Started, EngineError>> + Send;
    /// A closer inspection of one that is to be stopped. `None` when there is none.
    fn stoppable(&self, id: &ContainerId) -> impl Future<Output = Result<Option<Stoppable>, EngineError>> + Send;
    /// Those of these containers that are there.
    fn list(
        &self,
        ids: &BTreeSet<ContainerId>,
    ) -> impl Future<Output = Result<BTreeMap<ContainerId, Listing>, EngineError>> + Send;
    /// Sends a signal. Fails when it does not run.
    fn signal(&self, id: &ContainerId, signal: &str) -> impl Future<Output = Result<(), EngineError>> + Send;
    /// `/proc/PID/status` of a process of Podman's machine, where that can be read.
    fn process(&self, pid: u32) -> impl Future<Output = Option<String>> + Send;
    /// Podman's version.
    fn version(&self) -> impl Future<Output = Result<String, EngineError>> + Send;
    /// What those who wait for ends share.
    fn stops(&self) -> &Stops;
    /// One stop. Fine when it does not run.
    fn stop_once(&self, id: &ContainerId, grace: Duration) -> impl Future<Output = Result<(), EngineError>> + Send;
    /// Makes it ready for a start (`podman init`). Fails when it runs.
    fn init(&self, id: &ContainerId) -> impl Future<Output = Result<(), EngineError>> + Send;
    /// See [`crate::backend::Engine::unpause`].
    fn unpause(&self, id: &ContainerId) -> impl Future<Output = Result<(), EngineError>> + Send;
    /// Removes it whatever it does, at once, and none of its volumes.
    fn remove_by_force(&self, id: &ContainerId) -> impl Future<Output = Result<(), EngineError>> + Send;
    /// Whether the first process lives for certain. Without proof the answer is no.
    fn surely_alive(&self, state: &ContainerState) -> bool;
}

/// See [`crate::backend::Engine::start`].
pub(super) async fn start(podman: &impl Lifecycle, id: &ContainerId) -> Result<(), EngineError> {
    if podman.start_once(id).await? == Started::Now {
        return Ok(());
    }
    // Podman believes it runs. Between a death and its being noticed (conmon's exit file, up to a quarter second on
    // 4.3.1) that is a mistake, and the start has been swallowed.
    let Some(before) = podman.inspect(id).await? else { return Ok(()) };
    let began = Instant::now();
    let mut now = before.clone();
    // Seen alive twice, since one that has just been killed may take a moment to die.
    let mut alive = false;
    loop {
        match now.phase {
            Phase::Running if now.pid != before.pid || now.started_at != before.started_at => return Ok(()),
            Phase::Running if podman.surely_alive(&now) => {
                if alive {
                    return Ok(());
                }
                alive = true;
            }
            Phase::Exited { .. } | Phase::Created => return podman.start_once(id).await.map(|_| ()),
            _ if began.elapsed() >= SWALLOWED => return Ok(()),
            _ => {}
        }
        tokio::time::sleep(SWALLOWED_STEP).await;
        now = match podman.inspect(id).await? {
            Some(now) => now,
            None => return Ok(()),
        };
    }
}

/// Waits until Podman is done with a container that was stopped, which it is as a rule. Yields whether it runs again, or has
/// been restarted meanwhile: what ends at once may be down whenever it is inspected.
pub(super) async fn comes_back(podman: &impl Lifecycle, id: &ContainerId, began: Instant) -> Result<bool, EngineError> {
    let mut restarts = None;
    while began.elapsed() < COMES_BACK {
        match podman.inspect(id).await? {
            Some(ContainerState { phase: Phase::Running, .. }) => return Ok(true),
            Some(ContainerState { phase: Phase::Stopping, restarts: now, .. }) => {
                if *restarts.get_or_insert(now) != now {
                    return Ok(true);
                }
                tokio::time::sleep(COMES_BACK_STEP).await;
            }
            _ => break,
        }
    }
    Ok(false)
}

/// See [`crate::backend::Engine::remove`].
pub(super) async fn remove(podman: &impl Lifecycle, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
    match stop::stop(podman, id, grace).await {
        Err(err) if err.kind == EngineErrorKind::NotFound => return Ok(()),
        // What cannot be stopped in good order is removed by force.
        Err(err) if !err.kind.is_retryable() => {
            tracing::debug!(container = %id, error = %err, "a container did not stop cleanly");
        }
        Err(err) => return Err(err),
        Ok(()) => {}
    }
    unless_gone(podman.remove_by_force(id).await).map(|_| ())
}

/// Asks again when the container's process ended amid the answer: by then Podman finds that it is gone.
pub(super) async fn past_an_end<T, A>(mut ask: impl FnMut() -> A) -> Result<T, EngineError>
where
    A: Future<Output = Result<T, EngineError>>,
{
    for _ in 0..ENDS {
        match ask().await {
            Err(err) if error::is_of_a_process_gone(&err) => {}
            outcome => return outcome,
        }
    }
    ask().await
}

/// `None` when the object is gone.
pub(super) fn unless_gone<T>(result: Result<T, EngineError>) -> Result<Option<T>, EngineError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(err) if err.kind == EngineErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}
