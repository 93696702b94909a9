//! Ready means ready: how an agent's container is, judged from one observation.
//!
//! The same function judges for every verb, so that none of them contradicts another. It is pure: the moment of the
//! observation stands in it ([`crate::model::Guest::looked_at`]), and how a container ended lately was looked up beside.
//! Whether something is to be done is [`crate::plan`]'s to say.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, SystemTime};

use crate::model::{
    Agent, AgentName, AgentState, CheckResult, ContainerId, ContainerState, Desired, EndedBy, Health, HealthCheck,
    Inside, Observed, Phase, RecentExits, SessionName, SessionPhase,
};
use crate::plan::{Plan, Policy, is_in_a_crash_loop, stays_ended};
use crate::status::HealthStatus;

/// How long a container that ended must stay up before it counts as ready again, at the least.
const STEADY: Duration = Duration::from_secs(10);

/// How long a container that ended must stay up before it counts as ready again: `--settle`, and at least 10 s.
pub fn steady_after(settle: Duration) -> Duration {
    settle.max(STEADY)
}

/// How an agent's container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentHealth {
    /// It runs, its health check (if it has one) passes, and it was not restarted lately.
    Running,
    /// It ended with 0 by itself, and is to stay so.
    Completed,
    /// It does not run, and is not to.
    Stopped,
    /// It runs, and its health check has not passed yet.
    Starting,
    /// It ended a moment ago and runs again, or Podman is about to restart it: it is to show that it stays up.
    Restarted {
        /// The exit code it ended with, where that is known.
        code: Option<i32>,
        /// When it counts as ready, if it stays up.
        until: SystemTime,
        /// How long it is to stay up.
        steady: Duration,
    },
    /// Podman is stopping or removing it.
    Moving(Phase),
    /// It ended by itself again and again, and has not stayed up for long enough since.
    CrashLoop(CrashLoop),
    /// Its health check failed as often as its retries allow.
    Unhealthy(Option<CheckResult>),
    /// It ended with an error, and is to stay so.
    Failed {
        /// The exit code.
        code: i32,
    },
    /// It should run and does not.
    Down(Phase),
    /// Its container is as it should be, and one of its sessions is not.
    Session(SessionTrouble),
    /// Podman says something of it that this build does not know.
    Unknown(String),
}

/// A session that is not as it should be although nothing is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionTrouble {
    /// Of which agent.
    pub agent: AgentName,
    /// Its name.
    pub name: SessionName,
    /// How it is.
    pub phase: SessionPhase,
    /// How often its keeper has started it again.
    pub restarts: u32,
}

impl fmt::Display for SessionTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session `{}/{}` {}", self.agent, self.name, self.phase)?;
        match self.restarts {
            0 => Ok(()),
            1 => f.write_str("; it was started again once"),
            times => write!(f, "; it was started again {times} times"),
        }
    }
}

/// A crash loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrashLoop {
    /// How often it ended within [`RecentExits::WITHIN`].
    pub exits: u32,
    /// The last exit code, where it is known.
    pub code: Option<i32>,
    /// How often Podman has restarted it since somebody last started it, where that is known.
    pub restarts: Option<u32>,
    /// When it counts as ready, if it stays up.
    pub until: Option<SystemTime>,
}

impl fmt::Display for CrashLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let within = RecentExits::WITHIN.as_secs() / 60;
        write!(f, "exited {} times within the last {within} minutes", self.exits)?;
        if let Some(code) = self.code {
            write!(f, ", last with exit code {code}")?;
        }
        match self.restarts {
            Some(restarts) if restarts > self.exits => write!(f, "; Podman has restarted it {restarts} times"),
            _ => Ok(()),
        }
    }
}

impl AgentHealth {
    /// It as a status tells it.
    pub fn status(&self) -> HealthStatus {
        match self {
            Self::Running => HealthStatus::Healthy,
            Self::Completed => HealthStatus::Completed,
            Self::Stopped => HealthStatus::Stopped,
            Self::Starting | Self::Restarted { .. } | Self::Moving(_) => HealthStatus::Progressing,
            Self::CrashLoop(_) | Self::Unhealthy(_) | Self::Down(_) | Self::Session(_) => HealthStatus::Degraded,
            Self::Failed { .. } => HealthStatus::Failed,
            Self::Unknown(_) => HealthStatus::Unknown,
        }
    }

    /// Whether it is as an agent of this desired state should be.
    pub fn is_as_desired(&self, state: AgentState) -> bool {
        match state {
            AgentState::Running => matches!(self, Self::Running | Self::Completed),
            AgentState::Stopped | AgentState::Absent => {
                matches!(self, Self::Stopped | Self::Completed | Self::Failed { .. })
            }
        }
    }

    /// Whether time alone may make it ready: it is waited for.
    pub fn is_progressing(&self) -> bool {
        matches!(self, Self::Starting | Self::Restarted { .. } | Self::Moving(_))
    }

    /// When it is to be checked again, where that is known.
    pub fn until(&self) -> Option<SystemTime> {
        match self {
            Self::Restarted { until, .. } => Some(*until),
            Self::CrashLoop(crash_loop) => crash_loop.until,
            Self::Session(SessionTrouble { phase: SessionPhase::BackingOff { until, .. }, .. }) => *until,
            _ => None,
        }
    }
}

/// How the container of an agent is, as it was seen at `looked_at`. `steady` is what [`steady_after`] yields.
pub fn health_of(
    agent: &Agent,
    container: &ContainerState,
    looked_at: Option<SystemTime>,
    steady: Duration,
) -> AgentHealth {
    match &container.phase {
        Phase::Running if agent.state == AgentState::Running => running(container, looked_at, steady),
        Phase::Running => AgentHealth::Running,
        Phase::Exited { .. } | Phase::Created if agent.state == AgentState::Stopped => AgentHealth::Stopped,
        Phase::Exited { code } if stays_ended(agent.container.restart, container.restarts, *code) => match code {
            0 => AgentHealth::Completed,
            code => AgentHealth::Failed { code: *code },
        },
        Phase::Stopping if agent.state == AgentState::Running && is_in_a_crash_loop(container) => {
            AgentHealth::CrashLoop(crash_loop(container, None))
        }
        Phase::Stopping | Phase::Removing => AgentHealth::Moving(container.phase.clone()),
        Phase::Exited { .. } | Phase::Created | Phase::Paused => AgentHealth::Down(container.phase.clone()),
        Phase::Other(word) => AgentHealth::Unknown(word.clone()),
    }
}

/// How an agent is: its container, and what it declares inside of it.
pub fn agent_health(
    name: &AgentName,
    agent: &Agent,
    container: &ContainerState,
    observed: &Observed,
    steady: Duration,
) -> AgentHealth {
    let looked_at = observed.guest.present().and_then(|guest| guest.looked_at);
    let health = health_of(agent, container, looked_at, steady);
    let inside = observed.inside.get(name).filter(|inside| inside.container == container.id);
    match inside.filter(|_| health == AgentHealth::Running && agent.state == AgentState::Running) {
        Some(inside) => session_trouble(name, agent, inside).map_or(health, AgentHealth::Session),
        None => health,
    }
}

/// The first session that is not as it should be.
fn session_trouble(name: &AgentName, agent: &Agent, inside: &Inside) -> Option<SessionTrouble> {
    let found = inside.sessions.present()?;
    agent.sessions.keys().find_map(|session| {
        let state = found.get(session)?;
        let is_bad = match &state.phase {
            SessionPhase::BackingOff { .. } => true,
            SessionPhase::Exited { exit, by: EndedBy::Itself } => !exit.is_success(),
            _ => false,
        };
        let (agent, phase) = (name.clone(), state.phase.clone());
        is_bad.then_some(SessionTrouble { agent, name: session.clone(), phase, restarts: state.restarts })
    })
}

fn running(container: &ContainerState, looked_at: Option<SystemTime>, steady: Duration) -> AgentHealth {
    // A moment in the future is one of a clock that was set back: then it was just now.
    let age = |at: SystemTime| looked_at.map(|now| now.duration_since(at).unwrap_or_default());
    let up_since = container.started_at;
    if let Some(exits) = container.exits.as_ref().filter(|exits| exits.count > 1) {
        // One that lives for 12 s each time is caught too: it has recovered once it lives for longer than that.
        let enough = steady.max(2 * exits.last_life);
        if up_since.and_then(age).is_none_or(|up| up < enough) {
            return AgentHealth::CrashLoop(crash_loop(container, up_since.and_then(|since| since.checked_add(enough))));
        }
    }
    match &container.health {
        Some(Health::Unhealthy) => return AgentHealth::Unhealthy(container.last_check.clone()),
        Some(Health::Starting) => return AgentHealth::Starting,
        Some(Health::Other(word)) => return AgentHealth::Unknown(word.clone()),
        Some(Health::Healthy) | None => {}
    }
    let ended = container.ended_at.filter(|ended| age(*ended).is_some_and(|ago| ago < steady));
    let restarted = up_since.filter(|since| {
        age(*since).is_some_and(|ago| ago < steady) && container.restarts.is_some_and(|times| times > 0)
    });
    match ended.into_iter().chain(restarted).max() {
        Some(last) => AgentHealth::Restarted {
            code: container.exits.as_ref().and_then(|exits| exits.code),
            // Podman may tell of an end beyond all years.
            until: last.checked_add(steady).unwrap_or(last),
            steady,
        },
        None => AgentHealth::Running,
    }
}

fn crash_loop(container: &ContainerState, until: Option<SystemTime>) -> CrashLoop {
    let exits = container.exits.as_ref();
    CrashLoop {
        exits: exits.map_or(0, |exits| exits.count),
        code: exits.and_then(|exits| exits.code),
        restarts: container.restarts,
        until,
    }
}

/// An agent whose container is what is wanted, and which is not ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unready {
    /// Which.
    pub agent: AgentName,
    /// Its container.
    pub id: ContainerId,
    /// How it is.
    pub health: AgentHealth,
}

/// The agents that nothing is to be done about and that are not ready all the same.
pub fn unready(desired: &Desired, observed: &Observed, plan: &Plan, policy: &Policy, steady: Duration) -> Vec<Unready> {
    let Some(guest) = observed.guest.present() else { return Vec::new() };
    let agents = desired.agents.iter().filter(|(name, agent)| policy.includes(name) && !agent.suspend);
    // Of one that waits to begin something inside, its container is judged all the same.
    let steps = plan.steps().map(|step| (step.agent.as_ref(), step.action.kind()));
    let waits = plan.waiting.iter().map(|waiting| (waiting.agent.as_ref(), waiting.kind));
    let containers = steps.chain(waits).filter(|(_, kind)| !kind.is_inside());
    let concerned: BTreeSet<_> = containers.filter_map(|(agent, _)| agent).collect();
    let settled = agents.filter(|(name, _)| !concerned.contains(name));
    settled
        .filter_map(|(name, agent)| {
            let container = guest.containers.get(&agent.container.name)?;
            if !container.owner.is_of(name) {
                return None;
            }
            let health = agent_health(name, agent, container, observed, steady);
            let unready = !health.is_as_desired(agent.state);
            unready.then(|| Unready { agent: name.clone(), id: container.id.clone(), health })
        })
        .collect()
}

words! {
    /// Where an agent's health check comes from.
    pub enum CheckedBy {
        /// The state file says it.
        StateFile = "stateFile",
        /// Its image brings one along.
        Image = "image",
        /// It has none: it counts as healthy while it runs.
        None = "none",
    }
}

/// Where the health check of a container comes from.
pub fn checked_by(check: Option<&HealthCheck>, container: Option<&ContainerState>) -> CheckedBy {
    match (check, container) {
        (Some(_), _) => CheckedBy::StateFile,
        (None, Some(container)) if container.health.is_some() || container.check.is_some() => CheckedBy::Image,
        (None, _) => CheckedBy::None,
    }
}

#[cfg(test)]
mod tests;
