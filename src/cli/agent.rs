//! How `logs` and `exec` find an agent's container, and show what comes from there.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::io::Write;

use futures_util::{Stream, StreamExt};

use super::history::unknown_agent;
use super::settings::state_dir;
use super::{CliError, ExitStatus, Settings, ownership};
use crate::backend::podman::PodmanAt;
use crate::backend::{Chunk, Engine, EngineError, Look};
use crate::model::{Agent, AgentName, AgentState, ContainerName, ContainerState, Desired, Guest, Phase};
use crate::plan::stays_ended;
use crate::reconcile::lock::{self, LockError};

/// The agents of a state file, and the engine they are in.
pub(super) struct Agents {
    desired: Desired,
    pub(super) engine: PodmanAt,
}

impl Agents {
    pub(super) async fn open(settings: &Settings) -> Result<Self, CliError> {
        Self::of(settings, settings.load(None)?.desired).await
    }

    /// Those of a state file that was read.
    pub(super) async fn of(settings: &Settings, desired: Desired) -> Result<Self, CliError> {
        ownership::check(settings, &desired)?;
        let engine = settings.reached_engine(&desired).await?;
        Ok(Self { desired, engine })
    }

    /// The container of an agent that serves now; when none does, the one that did last. Found by its labels, whatever it is
    /// called.
    pub(super) async fn look(&self, agent: &AgentName) -> Result<Option<(ContainerName, ContainerState)>, EngineError> {
        let guest = self.engine.look(&self.everything()).await?;
        let found = serving(&guest, agent, self.desired.agents.get(agent).map(|agent| &agent.container.name));
        Ok(found.map(|(name, seen)| (name.clone(), seen.clone())))
    }

    /// The containers of all agents that have one, as [`Agents::look`] finds them.
    pub(super) async fn all(&self) -> Result<Vec<(AgentName, ContainerState)>, CliError> {
        let guest = self.engine.look(&self.everything()).await.map_err(|err| CliError::from_engine(&err))?;
        let agents = self.desired.agents.iter();
        let found = agents.filter_map(|(agent, wanted)| {
            serving(&guest, agent, Some(&wanted.container.name)).map(|(_, seen)| (agent.clone(), seen.clone()))
        });
        Ok(found.collect())
    }

    fn everything(&self) -> Look {
        Look {
            owner: self.desired.ownership(),
            names: BTreeSet::new(),
            health: BTreeSet::new(),
            key: self.desired.key.clone(),
        }
    }

    /// As [`Agents::look`], and an error where there is none.
    pub(super) async fn serving(&self, agent: &AgentName) -> Result<(ContainerName, ContainerState), CliError> {
        if let Some(found) = self.look(agent).await.map_err(|err| CliError::from_engine(&err))? {
            return Ok(found);
        }
        let Some(wanted) = self.desired.agents.get(agent) else {
            let names = self.desired.agents.keys().map(ToString::to_string).collect();
            return Err(unknown_agent(agent, "the state file does not have", &names));
        };
        let why = left_alone(wanted).unwrap_or(match wanted.state {
            AgentState::Stopped => {
                "`steadfast apply` creates it, and leaves it stopped: the state file says `state: stopped`"
            }
            _ => "`steadfast apply` creates it; `steadfast status` shows what stands in the way",
        });
        Err(CliError::new(ExitStatus::Error, format!("agent `{agent}` has no container")).hint(why))
    }

    /// Why the container of an agent does not run, and what would help.
    pub(super) fn why_down(&self, agent: &AgentName, name: &ContainerName, phase: &Phase) -> String {
        let Some(wanted) = self.desired.agents.get(agent) else {
            return "the state file does not have that agent any more; `steadfast apply` removes its container"
                .to_owned();
        };
        if let Some(why) = left_alone(wanted) {
            return why.to_owned();
        }
        let policy = wanted.container.restart;
        match phase {
            _ if wanted.state == AgentState::Stopped => "the state file says `state: stopped`".to_owned(),
            Phase::Exited { code } if stays_ended(policy, None, *code) => format!(
                "with `restart: {policy}` it stays so; to run it again: `podman rm {name}`, then `steadfast apply`"
            ),
            Phase::Stopping | Phase::Removing => "Podman is at work on it: try again in a moment".to_owned(),
            _ => format!("`steadfast apply` starts it; `steadfast why {agent}` tells what stopped it"),
        }
    }

    /// Where what is remembered of them is kept.
    pub(super) fn state_dir(&self) -> std::path::PathBuf {
        state_dir(&self.desired)
    }

    /// Whether the state file declares this session.
    pub(super) fn declares(&self, agent: &AgentName, session: &str) -> bool {
        self.desired.agents.get(agent).is_some_and(|agent| agent.sessions.contains_key(session))
    }

    /// Whether another steadfast is at work on them.
    pub(super) fn are_worked_on(&self) -> bool {
        matches!(lock::check(&state_dir(&self.desired).join("lock")), Err(LockError::Held { .. }))
    }
}

/// Why no verb makes an agent run, where the state file says so.
fn left_alone(agent: &Agent) -> Option<&'static str> {
    match agent.state {
        _ if agent.suspend => Some("it is suspended: nothing is changed while the state file says `suspend: true`"),
        AgentState::Absent => Some("the state file says `state: absent`"),
        AgentState::Running | AgentState::Stopped => None,
    }
}

/// During a replacement an agent has two containers, under the wanted name, `….next` or `….prev`: the one that runs serves.
fn serving<'a>(
    guest: &'a Guest,
    agent: &AgentName,
    wanted: Option<&ContainerName>,
) -> Option<(&'a ContainerName, &'a ContainerState)> {
    let mine = guest.containers.iter().filter(|(_, seen)| seen.owner.is_of(agent));
    mine.min_by_key(|(name, seen)| {
        let how_alive = match seen.phase {
            Phase::Running => 0,
            Phase::Paused | Phase::Stopping => 1,
            Phase::Exited { .. } => 2,
            Phase::Created | Phase::Removing | Phase::Other(_) => 3,
        };
        (how_alive, Some(*name) != wanted, Reverse(seen.started_at))
    })
}

/// Copies each stream to its own. Yields whether somebody read it to its end.
pub(super) async fn copy(mut output: impl Stream<Item = Result<Chunk, EngineError>> + Unpin) -> Result<bool, CliError> {
    while let Some(chunk) = output.next().await {
        let written = match chunk.map_err(|err| CliError::from_engine(&err))? {
            Chunk::Stdout(bytes) => {
                let mut out = std::io::stdout().lock();
                out.write_all(&bytes).and_then(|()| out.flush())
            }
            Chunk::Stderr(bytes) => std::io::stderr().lock().write_all(&bytes),
        };
        match written {
            Err(err) if err.kind() == std::io::ErrorKind::BrokenPipe => return Ok(false),
            Err(err) => return Err(CliError::new(ExitStatus::Error, format!("cannot write the output: {err}"))),
            Ok(()) => {}
        }
    }
    Ok(true)
}

/// Variables as they are typed: `NAME=VALUE`, or `NAME` for ours.
pub(super) fn variables(settings: &Settings, typed: &[String], status: ExitStatus) -> Result<Vec<String>, CliError> {
    let pairs = typed.iter().map(|pair| {
        if pair.contains('=') {
            return Ok(pair.clone());
        }
        let unset = || CliError::new(status, format!("-e {pair} passes on a variable that is not set"));
        Ok(format!("{pair}={}", settings.vars.get(pair).ok_or_else(unset)?))
    });
    pairs.collect()
}

/// Ends with the code of somebody else's command.
pub(super) fn exit_with(code: i32) -> ! {
    std::process::exit(code)
}
