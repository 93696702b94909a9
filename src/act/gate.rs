//! What a container that was started has to show before its predecessor goes: that it becomes healthy, where it has a check,
//! and then stays up, and healthy, for a while. One that Podman restarted meanwhile has not stayed up.

use std::time::Duration;

use tokio::time::Instant;

use super::health::CHECK_FAILED;
use super::{ActError, Ending, Patience, become_healthy, ended, failed_check_in_words, inspect_settled, last_lines};
use crate::backend::{Engine, EngineError};
use crate::model::{
    ContainerId, ContainerName, ContainerSpec, ContainerState, Health, HealthCheck, Phase, RestartPolicy, Rollout,
};

use crate::broken::Broken;

/// Between two observations of one that is to stay up.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// What is healthy, and has to stay up for so long at the most, is waited for even when it is to stop: where it would be undone,
/// since that takes longer.
const SEEN_THROUGH: Duration = Duration::from_secs(15);
/// And where the next run would go on with it, since somebody waits for this one to end.
const SEEN_THROUGH_BY_RUN: Duration = Duration::from_secs(3);
/// A Podman that does not answer says nothing about the container, and is asked again for so long.
const SILENT: Duration = Duration::from_secs(15);

/// A container that is to prove itself.
#[derive(Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub id: &'a ContainerId,
    pub name: &'a ContainerName,
    /// When Podman restarts it by itself.
    pub restart: RestartPolicy,
    /// What it was made from, where that is known: its check, and what its log must not show.
    pub spec: Option<&'a ContainerSpec>,
}

/// Sees that a container that was just started becomes healthy and stays up, and ends as soon as it does not.
pub(super) async fn pass<E: Engine>(
    engine: &E,
    candidate: Candidate<'_>,
    rollout: &Rollout,
    patience: &Patience,
) -> Result<(), ActError> {
    if Broken::GateOpen.is_in() {
        return Ok(());
    }
    patience.slot.without(watch(engine, candidate, rollout, patience)).await
}

async fn watch<E: Engine>(
    engine: &E,
    candidate: Candidate<'_>,
    rollout: &Rollout,
    patience: &Patience,
) -> Result<(), ActError> {
    let began = Instant::now();
    let seen = look(engine, candidate, began).await?;
    if !judge(engine, candidate, seen.as_ref(), began).await? {
        return Ok(());
    }
    let check = candidate.spec.and_then(|spec| spec.healthcheck.as_ref());
    let check = check.or(seen.as_ref().and_then(|seen| seen.check.as_ref()));
    if let Some(check) = check {
        tokio::select! {
            biased;
            outcome = become_healthy_in_time(engine, candidate, check, rollout, patience, began) => outcome?,
            () = patience.cancel.cancelled() => return Err(ActError::Interrupted),
        }
    }
    stay_up(engine, candidate, check, rollout.settle, patience, began).await
}

/// What Podman says of it. While that is nothing, it is asked again.
async fn look<E: Engine>(
    engine: &E,
    candidate: Candidate<'_>,
    began: Instant,
) -> Result<Option<ContainerState>, EngineError> {
    let until = Instant::now().max(began) + SILENT;
    loop {
        match inspect_settled(engine, candidate.id).await {
            Err(err) if err.kind.is_retryable() && Instant::now() < until => tokio::time::sleep(LONGEST_PAUSE).await,
            seen => return seen,
        }
    }
}

/// Whether it still has something to show: a one-shot that is done has not.
async fn judge<E: Engine>(
    engine: &E,
    candidate: Candidate<'_>,
    seen: Option<&ContainerState>,
    began: Instant,
) -> Result<bool, ActError> {
    let Some(how) = ended(seen, candidate.restart) else {
        return Ok(seen.is_some_and(|seen| seen.phase == Phase::Running));
    };
    let how = match how {
        Ending::Exited(code) => Ending::ExitedAfter(code, began.elapsed().as_secs()),
        how => how,
    };
    let log = log_of(engine, candidate).await;
    Err(ActError::EndedAtOnce { container: candidate.name.to_string(), how, log })
}

async fn log_of<E: Engine>(engine: &E, candidate: Candidate<'_>) -> String {
    match candidate.spec {
        Some(spec) => last_lines(engine, candidate.id, spec).await,
        None => String::new(),
    }
}

/// Waits for its check to pass. One that ends meanwhile, or is restarted, will not be healthy.
async fn become_healthy_in_time<E: Engine>(
    engine: &E,
    candidate: Candidate<'_>,
    check: &HealthCheck,
    rollout: &Rollout,
    patience: &Patience,
    began: Instant,
) -> Result<(), ActError> {
    let Candidate { id, name, spec, .. } = candidate;
    let time = rollout.time_for(check);
    let left = patience.deadline.map_or(time, |deadline| deadline.saturating_duration_since(Instant::now()));
    let ends = async {
        loop {
            tokio::time::sleep(LONGEST_PAUSE).await;
            // What Podman does not tell, the wait for health finds out.
            let Ok(seen) = inspect_settled(engine, id).await else { continue };
            match judge(engine, candidate, seen.as_ref(), began).await {
                Ok(true) => {}
                outcome => return outcome.map(|_| ()),
            }
        }
    };
    let outcome = tokio::select! {
        biased;
        outcome = ends => return outcome,
        outcome = become_healthy(engine, id, name.as_str(), spec, Some(check), time.min(left)) => outcome,
    };
    match outcome {
        // It had all the time it may take.
        Err(ActError::OutOfTime { container, log, .. }) if time <= left => {
            let why = format!("it did not become healthy within {}", humantime::format_duration(time));
            Err(ActError::Unhealthy { container, why, log })
        }
        outcome => outcome,
    }
}

/// Sees that it stays up, and healthy, for so long.
async fn stay_up<E: Engine>(
    engine: &E,
    candidate: Candidate<'_>,
    check: Option<&HealthCheck>,
    settle: Duration,
    patience: &Patience,
    began: Instant,
) -> Result<(), ActError> {
    let container = || candidate.name.to_string();
    let until = Instant::now() + settle;
    let mut next_check = check.map(|check| Instant::now() + check.interval);
    let mut pause = FIRST_PAUSE;
    loop {
        tokio::time::sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        let seen = look(engine, candidate, began).await?;
        if !judge(engine, candidate, seen.as_ref(), began).await? {
            return Ok(());
        }
        if let Some(seen) = seen.filter(|seen| check.is_some() && seen.health == Some(Health::Unhealthy)) {
            let failed = seen.last_check.filter(|check| check.code != 0);
            let why = match candidate.spec {
                Some(spec) => failed_check_in_words(spec, failed.as_ref()),
                None => CHECK_FAILED.to_owned(),
            };
            return Err(ActError::Unhealthy { container: container(), why, log: log_of(engine, candidate).await });
        }
        let now = Instant::now();
        if now >= until {
            return Ok(());
        }
        let seen_through = if patience.undo { SEEN_THROUGH } else { SEEN_THROUGH_BY_RUN };
        let is_nearly_done = until.saturating_duration_since(now) <= seen_through;
        if patience.cancel.is_cancelled() && !is_nearly_done {
            return Err(ActError::Interrupted);
        }
        if patience.deadline.is_some_and(|deadline| deadline <= now) {
            let settle = humantime::format_duration(settle);
            let why = format!("it had not stayed up for {settle} yet when the time was up");
            return Err(ActError::OutOfTime { container: container(), why, log: String::new() });
        }
        // Where no timer of Podman's runs them, nobody else does.
        if let (Some(check), true) = (check, next_check.is_some_and(|at| at <= now)) {
            next_check = Some(now + check.interval);
            if let Err(err) = engine.run_healthcheck(candidate.id).await {
                tracing::debug!(error = %err, "could not run a health check");
            }
        }
    }
}
