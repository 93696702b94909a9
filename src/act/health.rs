//! Waiting for a container to become healthy, where nobody else runs its checks.
//!
//! Without systemd nothing runs Podman's health timers (Podman 4.3). While we wait, the test is tried quietly by `exec`
//! every moment, which counts for nothing; once it passes, Podman is asked to run the check and so to record it. On the
//! check's own interval Podman is asked in any case, so that failures add up to a verdict as they would have.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::Instant;

use super::{ActError, Ending, last_lines};
use crate::backend::{Engine, EngineError, EngineErrorKind, ExecRequest};
use crate::model::{CheckResult, ContainerId, ContainerSpec, ContainerState, Health, HealthCheck, HealthTest, Phase};

/// How a wait for health ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is healthy.
    Healthy,
    /// As many checks in a row failed as `retries` says.
    Unhealthy,
    /// Its process ended meanwhile.
    Ended {
        /// The exit code.
        code: i32,
    },
    /// It is gone, or in a state that is neither.
    Gone,
    /// The time was up.
    TimedOut,
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Waits until the container is healthy, for as long as `patience`.
///
/// # Errors
/// When Podman cannot be asked.
pub async fn wait_until_healthy<E: Engine>(
    engine: &E,
    id: &ContainerId,
    check: &HealthCheck,
    patience: Duration,
) -> Result<Verdict, EngineError> {
    let started = Instant::now();
    let deadline = started + patience;
    let mut pause = FIRST_PAUSE;
    let mut next_check = started + check.start_period.max(check.interval);
    // A verdict from before is not an answer: what is unhealthy may have recovered since.
    let mut first = true;
    loop {
        match ask(engine, id, deadline).await? {
            Some(Verdict::Unhealthy) if first => {}
            Some(verdict) => return Ok(verdict),
            None if Instant::now() >= deadline => return Ok(Verdict::TimedOut),
            None => {}
        }
        first = false;
        if passes(engine, id, check).await || Instant::now() >= next_check {
            next_check = Instant::now() + check.interval;
            // A check that could not be run is run again; what became of it is seen by asking.
            match engine.run_healthcheck(id).await {
                Err(err) if !err.kind.is_retryable() && err.kind != EngineErrorKind::NotFound => return Err(err),
                Err(err) => tracing::debug!(error = %err, "could not run a health check"),
                Ok(()) => {}
            }
            if let Some(verdict) = ask(engine, id, deadline).await? {
                return Ok(verdict);
            }
        }
        tokio::time::sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
        pause = match check.start_interval {
            Some(interval) => interval.max(FIRST_PAUSE),
            None => (pause * 2).min(LONGEST_PAUSE).min(check.interval.max(FIRST_PAUSE)),
        };
    }
}

/// The verdict now. A hiccup of Podman is no verdict, as long as there is time.
async fn ask<E: Engine>(engine: &E, id: &ContainerId, deadline: Instant) -> Result<Option<Verdict>, EngineError> {
    match engine.inspect(id).await {
        Ok(seen) => Ok(verdict(seen)),
        Err(err) if err.kind.is_retryable() && Instant::now() < deadline => Ok(None),
        Err(err) => Err(err),
    }
}

fn verdict(seen: Option<ContainerState>) -> Option<Verdict> {
    let Some(seen) = seen else { return Some(Verdict::Gone) };
    match (&seen.phase, &seen.health) {
        (Phase::Running, Some(Health::Healthy)) => Some(Verdict::Healthy),
        (Phase::Running, Some(Health::Unhealthy)) => Some(Verdict::Unhealthy),
        (Phase::Running | Phase::Created | Phase::Stopping, _) => None,
        (Phase::Exited { code }, _) => Some(Verdict::Ended { code: *code }),
        (Phase::Paused | Phase::Removing | Phase::Other(_), _) => Some(Verdict::Gone),
    }
}

/// Waits like [`wait_until_healthy`] where there is a check, and takes anything but health for an error, with what the
/// check printed and the last lines of the container's log, where it is known by `spec` what must not be shown of them. `check`
/// is the state file's, or the one its image brings.
///
/// # Errors
/// When it ended, went away, or did not become healthy.
pub async fn become_healthy<E: Engine>(
    engine: &E,
    id: &ContainerId,
    name: &str,
    spec: Option<&ContainerSpec>,
    check: Option<&HealthCheck>,
    patience: Duration,
) -> Result<(), ActError> {
    let Some(check) = check else { return Ok(()) };
    let last_lines = async || match spec {
        Some(spec) => last_lines(engine, id, spec).await,
        None => String::new(),
    };
    let container = name.to_owned();
    let why = match wait_until_healthy(engine, id, check, patience).await? {
        Verdict::Healthy => return Ok(()),
        Verdict::Ended { code } => {
            let log = last_lines().await;
            return Err(ActError::EndedAtOnce { container, how: Ending::Exited(code), log });
        }
        Verdict::Unhealthy => said_by_check(engine, id, spec).await,
        Verdict::TimedOut => {
            let why = "it did not become healthy in time".to_owned();
            return Err(ActError::OutOfTime { container, why, log: last_lines().await });
        }
        // Somebody stopped or removed it meanwhile.
        Verdict::Gone => return Err(ActError::EndedAtOnce { container, how: Ending::Gone, log: String::new() }),
    };
    Err(ActError::Unhealthy { container, why, log: last_lines().await })
}

/// What a verdict of Podman's says at the least.
pub(super) const CHECK_FAILED: &str = "its health check failed as often as its retries allow";

async fn said_by_check<E: Engine>(engine: &E, id: &ContainerId, spec: Option<&ContainerSpec>) -> String {
    let Some(spec) = spec else { return CHECK_FAILED.to_owned() };
    let seen = engine.inspect(id).await.ok().flatten();
    let failed = seen.and_then(|seen| seen.last_check).filter(|check| check.code != 0);
    in_words(spec, failed.as_ref())
}

/// That a health check failed as often as its retries allow, with what it printed the last time.
pub fn in_words(spec: &ContainerSpec, check: Option<&CheckResult>) -> String {
    let failed = CHECK_FAILED;
    let Some(check) = check else { return failed.to_owned() };
    // Podman 4.3 keeps 1 for every exit code but 0, so that may not be its own.
    let code = if check.code > 1 { format!(" with exit code {}", check.code) } else { String::new() };
    match spec.secrets().redact(check.output.trim()).as_ref() {
        "" => format!("{failed}{code}, and printed nothing"),
        printed => format!("{failed}{code}; it printed: {printed}"),
    }
}

/// Tries the test once, without Podman taking note.
async fn passes<E: Engine>(engine: &E, id: &ContainerId, check: &HealthCheck) -> bool {
    let command = match &check.test {
        HealthTest::Command(words) => words.iter().map(|word| word.expose().to_owned()).collect(),
        HealthTest::Shell(line) => vec!["/bin/sh".to_owned(), "-c".to_owned(), line.expose().to_owned()],
    };
    let request = ExecRequest { command, ..ExecRequest::default() };
    let tried = async {
        let mut exec = engine.exec(id, &request).await?;
        while let Some(chunk) = exec.output.next().await {
            chunk?;
        }
        engine.exec_exit(&exec.id).await
    };
    matches!(tokio::time::timeout(check.timeout, tried).await, Ok(Ok(0)))
}
