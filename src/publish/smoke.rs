//! Tries a tarball before anybody fetches it: in a Podman of our own, which goes with the trial.
//!
//! What the bundle says of an agent is tried: a command that ends with a code, or a health check that passes. Where it says
//! nothing, the trial ends with the image loaded. The container has no network, and nothing of this machine.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use serde::{Serialize, Serializer};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::archive::oci_arch;
use super::bundle::{BundleAgent, Smoke};
use super::loaded::{self, LoadedError};
use crate::backend::podman::{Api, Throwaway, emulated_here};
use crate::backend::{Chunk, EngineError, EngineErrorKind, LogRequest};
use crate::model::ids::clean;
use crate::model::{Arch, ContainerId, Health, ImageId, ImageRef, Phase, Sha256Digest};

/// Between two observations of a container.
const STEP: Duration = Duration::from_millis(100);
/// Between two runs of a health check: of its own interval nobody wants to wait.
const CHECK: Duration = Duration::from_secs(1);
/// How much of a log is told.
const LINES: u64 = 20;
const LOG_BYTES: usize = 8192;
const LOG_TIME: Duration = Duration::from_secs(5);

/// What is to be tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SmokeRequest<'a> {
    /// Of which agent.
    pub agent: &'a BundleAgent,
    /// For which architecture.
    pub arch: Arch,
    /// The tarball, with its sidecar beside it.
    pub tarball: &'a Path,
    /// How long a command may run.
    pub timeout: Duration,
}

/// What a tarball has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shown {
    /// It loads, and holds the image. Nothing was run: the bundle says of nothing to try.
    Loads,
    /// Its command ended with the code it had to.
    Ran {
        /// The code.
        exit_code: i32,
    },
    /// It became healthy.
    Healthy {
        /// After how long.
        after: Duration,
    },
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shown::Loads => f.write_str(
                "its sidecar, loading, reference and architecture are checked; nothing was run, since the bundle has no `smoke` for it",
            ),
            Shown::Ran { exit_code } => write!(f, "its command ended with exit code {exit_code}, as it should"),
            Shown::Healthy { after } => write!(f, "healthy after {:.1} s", after.as_secs_f64()),
        }
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let value = match self {
            Shown::Loads => serde_json::json!({"kind": "none"}),
            Shown::Ran { exit_code } => serde_json::json!({"kind": "command", "exitCode": exit_code}),
            Shown::Healthy { after } => {
                serde_json::json!({"kind": "healthy", "durationMs": u64::try_from(after.as_millis()).unwrap_or(u64::MAX)})
            }
        };
        value.serialize(to)
    }
}

/// A tarball that was tried, and is good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tried {
    /// Of which agent.
    pub agent: String,
    /// For which architecture.
    pub arch: Arch,
    /// The image in it.
    pub image: ImageRef,
    /// Its id.
    pub image_id: ImageId,
    /// What the tarball's bytes hash to.
    pub sha256: Sha256Digest,
    /// What it has shown.
    pub smoke: Shown,
}

/// Why a tarball is not good.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SmokeError {
    /// It is not what it is published as.
    #[error(transparent)]
    Loaded(#[from] LoadedError),
    /// What is in it does not run here.
    #[error("`{image}` for {arch} cannot run on this machine, which is {here} and does not emulate it")]
    Foreign {
        /// The image.
        image: ImageRef,
        /// For what.
        arch: Arch,
        /// What this machine is.
        here: &'static str,
    },
    /// Its container does not start.
    #[error("a container of `{image}` does not start: {why}{}", crate::act::tail(log))]
    Start {
        /// The image.
        image: ImageRef,
        /// What Podman says.
        why: String,
        /// The end of its log.
        log: String,
    },
    /// It ended otherwise than it had to.
    #[error("the smoke command of `{image}` ended with exit code {code}, not {wanted}{}", crate::act::tail(log))]
    ExitCode {
        /// The image.
        image: ImageRef,
        /// The code.
        code: i32,
        /// What it had to be.
        wanted: i32,
        /// The end of its log.
        log: String,
    },
    /// It did not end.
    #[error("the smoke command of `{image}` did not end within {}{}", humantime::format_duration(*after), crate::act::tail(log))]
    NeverEnded {
        /// The image.
        image: ImageRef,
        /// The time it had.
        after: Duration,
        /// The end of its log.
        log: String,
    },
    /// It has no check that could pass.
    #[error("`{image}` has no health check, and `smoke` in the bundle waits for one to pass")]
    NoCheck {
        /// The image.
        image: ImageRef,
    },
    /// It did not become healthy.
    #[error("`{image}` was not healthy within {}: {why}{}", humantime::format_duration(*within), crate::act::tail(log))]
    Unhealthy {
        /// The image.
        image: ImageRef,
        /// The time it had.
        within: Duration,
        /// What came instead.
        why: String,
        /// The end of its log.
        log: String,
    },
    /// It was to stop.
    #[error("interrupted")]
    Interrupted,
}

impl From<EngineError> for SmokeError {
    fn from(err: EngineError) -> Self {
        Self::Loaded(err.into())
    }
}

/// Tries a tarball. Whatever comes of it, nothing of it stays. `vars` is the environment, `said` hears what goes on.
///
/// # Errors
/// When it is not good, or that cannot be found out.
pub(crate) async fn smoke(
    request: &SmokeRequest<'_>,
    vars: &BTreeMap<String, String>,
    cancel: &CancellationToken,
    said: &(dyn Fn(&str) + Send + Sync),
) -> Result<Tried, SmokeError> {
    let SmokeRequest { agent, arch, tarball, .. } = *request;
    if agent.smoke.is_some() {
        runs_here(agent, arch)?;
    }
    let hashed = tokio::select! {
        hashed = loaded::verified(tarball) => hashed?,
        () = cancel.cancelled() => return Err(SmokeError::Interrupted),
    };
    let mut podman = Throwaway::start(vars).await.map_err(LoadedError::from)?;
    let tried = tokio::select! {
        tried = trial(request, &mut podman, said) => tried,
        () = cancel.cancelled() => Err(SmokeError::Interrupted),
    };
    podman.close().await;
    let (image_id, smoke) = tried?;
    let image = agent.reference();
    Ok(Tried { agent: agent.name.to_string(), arch, image, image_id, sha256: hashed.sha256, smoke })
}

/// Known before anything is loaded: what it needs is not here.
fn runs_here(agent: &BundleAgent, arch: Arch) -> Result<(), SmokeError> {
    let here = std::env::consts::ARCH;
    let is_native = Arch::from_machine(here).is_ok_and(|here| here == arch);
    match is_native || emulated_here().contains(oci_arch(arch)) {
        true => Ok(()),
        false => Err(SmokeError::Foreign { image: agent.reference(), arch, here }),
    }
}

async fn trial(
    request: &SmokeRequest<'_>,
    podman: &mut Throwaway,
    said: &(dyn Fn(&str) + Send + Sync),
) -> Result<(ImageId, Shown), SmokeError> {
    let SmokeRequest { agent, arch, tarball, .. } = *request;
    said(&format!("loading `{}` into a private Podman", tarball.display()));
    let dir = podman.dir().to_owned();
    let api = podman.api().await.map_err(LoadedError::from)?;
    let image = loaded::load(api, &dir, tarball, agent, arch).await?;
    let Some(smoke) = &agent.smoke else { return Ok((image, Shown::Loads)) };
    let command = match smoke {
        Smoke::Command { command, .. } => Some(command.as_slice()),
        Smoke::Healthy(_) => None,
    };
    said(&format!("running `{}`", agent.reference()));
    let container = started(podman, agent, &image, command).await?;
    // To make a container takes its time, and that is not the agent's.
    let began = Instant::now();
    let api = podman.api().await.map_err(LoadedError::from)?;
    let shown = match smoke {
        Smoke::Command { exit_code, .. } => ended(api, &container, request, *exit_code).await?,
        Smoke::Healthy(within) => healthy(api, &container, agent, began, *within).await?,
    };
    Ok((image, shown))
}

/// A container that runs, or has run: by whatever runs containers here.
async fn started(
    podman: &mut Throwaway,
    agent: &BundleAgent,
    image: &ImageId,
    command: Option<&[String]>,
) -> Result<ContainerId, SmokeError> {
    let mut said: Vec<String> = Vec::new();
    loop {
        let api = podman.api().await.map_err(LoadedError::from)?;
        let container = api.create_trial(image, command).await?;
        let err = match api.start(&container).await {
            Ok(()) => return Ok(container),
            Err(err) if err.kind == EngineErrorKind::TransportUnavailable => return Err(err.into()),
            Err(err) => err,
        };
        let log = last_lines(api, &container).await;
        // Its id means nothing to anybody.
        let why = err.message.replace(&format!("failed to start container `{container}`: "), "");
        let why = clean(&why, 500);
        if !said.contains(&why) {
            said.push(why);
        }
        // Podman's own choice of what runs containers may not work on this machine where another does.
        if !podman.next_runtime().await.map_err(LoadedError::from)? {
            return Err(SmokeError::Start { image: agent.reference(), why: said.join("; "), log });
        }
    }
}

async fn ended(
    podman: &Api,
    container: &ContainerId,
    request: &SmokeRequest<'_>,
    wanted: i32,
) -> Result<Shown, SmokeError> {
    let began = Instant::now();
    let image = || request.agent.reference();
    loop {
        match podman.inspect(container).await?.map(|seen| seen.phase) {
            Some(Phase::Exited { code }) if code == wanted => return Ok(Shown::Ran { exit_code: code }),
            Some(Phase::Exited { code }) => {
                let log = last_lines(podman, container).await;
                return Err(SmokeError::ExitCode { image: image(), code, wanted, log });
            }
            _ if began.elapsed() > request.timeout => {
                let log = last_lines(podman, container).await;
                return Err(SmokeError::NeverEnded { image: image(), after: request.timeout, log });
            }
            _ => tokio::time::sleep(STEP).await,
        }
    }
}

async fn healthy(
    podman: &Api,
    container: &ContainerId,
    agent: &BundleAgent,
    began: Instant,
    within: Duration,
) -> Result<Shown, SmokeError> {
    let image = || agent.reference();
    let mut why = "no check of its health has ended".to_owned();
    loop {
        // A check that hangs has no more time than all of it.
        let left = within.saturating_sub(began.elapsed());
        let checked = tokio::time::timeout(left, async {
            let seen = podman.inspect(container).await?;
            match seen.as_ref().map(|seen| &seen.phase) {
                Some(Phase::Running) => {}
                _ => return Ok(seen),
            }
            let checked = podman.run_healthcheck(container).await;
            let seen = podman.inspect(container).await?;
            match checked {
                // It has no check, which the observation says.
                Err(err) if err.kind == EngineErrorKind::Conflict => Ok(seen),
                // Or it has ended in between, and that is what counts.
                Err(err) if seen.as_ref().is_some_and(|seen| seen.phase == Phase::Running) => Err(err),
                _ => Ok(seen),
            }
        });
        let seen = match checked.await {
            Ok(seen) => seen?,
            // What became of the container is told also where no check ended in time.
            Err(_) => podman.inspect(container).await?,
        };
        match seen.as_ref().map(|seen| &seen.phase) {
            Some(Phase::Exited { code }) => {
                let (why, log) = (format!("it ended with exit code {code}"), last_lines(podman, container).await);
                return Err(SmokeError::Unhealthy { image: image(), within, why, log });
            }
            Some(Phase::Running) => {}
            _ => why = "it does not run".to_owned(),
        }
        if let Some(seen) = seen {
            match seen.health {
                Some(Health::Healthy) => return Ok(Shown::Healthy { after: began.elapsed() }),
                None if seen.check.is_none() => return Err(SmokeError::NoCheck { image: image() }),
                _ => {}
            }
            if let Some(check) = seen.last_check {
                why = match clean(check.output.trim(), 300) {
                    said if said.is_empty() => format!("its check ended with {}", check.code),
                    said => format!("its check ended with {}: {said}", check.code),
                };
            }
        }
        if began.elapsed() + CHECK > within {
            let log = last_lines(podman, container).await;
            return Err(SmokeError::Unhealthy { image: image(), within, why, log });
        }
        tokio::time::sleep(CHECK).await;
    }
}

/// The end of a container's log. Empty when it cannot be read soon.
async fn last_lines(podman: &Api, container: &ContainerId) -> String {
    let read = async {
        let request = LogRequest { follow: false, tail: Some(LINES) };
        let Ok(mut log) = podman.logs(container, &request).await else { return Vec::new() };
        let mut text = Vec::new();
        while let Some(Ok(Chunk::Stdout(bytes) | Chunk::Stderr(bytes))) = log.next().await {
            text.extend_from_slice(&bytes);
            text.drain(..text.len().saturating_sub(LOG_BYTES));
        }
        text
    };
    let text = tokio::time::timeout(LOG_TIME, read).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.trim_end().to_owned()
}
