//! Sessions, started and seen to stay up; and what they said last.

use super::{ActError, LOG_LINES, LOG_TIME, Patience, last_lines};
use crate::backend::{Engine, InAgent, Inside, InsideError, LookInside, SessionStart, SessionStarted};
use crate::model::{
    Agent, AgentName, ContainerId, ContainerSpec, Desired, EndedBy, FailureKind, Secrets, SessionName, SessionPhase,
};
use crate::readiness::AgentHealth;

/// Starts a session. One that ends badly before it has settled has failed, whatever its keeper does about it later.
pub(super) async fn start<E: Inside>(
    engine: &E,
    at: &InAgent,
    start: &SessionStart,
    patience: &Patience,
) -> Result<(), ActError> {
    let secrets = start.spec.secrets();
    let hiding = |err: InsideError| InsideError { message: secrets.redact(&err.message), ..err };
    // What runs goes on where its successor could not be started.
    if engine.start_session(at, start).await.map_err(hiding)? == SessionStarted::InTheWay {
        if let Some(id) = &start.replaces {
            patience.slot.without(engine.end_session(at, &start.name, id, patience.grace)).await?;
        }
        if engine.start_session(at, start).await.map_err(hiding)? == SessionStarted::InTheWay {
            return Err(InsideError {
                kind: FailureKind::Conflict,
                message: format!("session {}/{} exists: somebody started it meanwhile", at.agent, start.name),
                is_retryable: true,
            }
            .into());
        }
    }
    patience.slot.without(tokio::time::sleep(patience.settle)).await;
    let look = LookInside { at: at.clone(), sessions: true, sources: Vec::new() };
    let found = engine.look_inside(&look).await;
    let state = found.sessions.present().and_then(|sessions| sessions.get(&start.name));
    let exit = match state.map(|state| &state.phase) {
        Some(SessionPhase::BackingOff { exit, .. } | SessionPhase::Exited { exit, by: EndedBy::Itself }) => *exit,
        // What cannot be told now is the next observation's.
        _ => return Ok(()),
    };
    if exit.is_success() {
        return Ok(());
    }
    let log = last_words(engine, at, &start.name, &secrets).await;
    Err(ActError::SessionEnded { session: format!("{}/{}", at.agent, start.name), exit, log })
}

/// Where it is read why an agent is not ready: in the log of its container, or of the session that is to blame.
#[derive(Debug, Clone)]
pub(crate) struct LastWords {
    at: InAgent,
    container: ContainerSpec,
    session: Option<(SessionName, Secrets)>,
}

impl LastWords {
    pub(crate) fn of(
        desired: &Desired,
        name: &AgentName,
        agent: &Agent,
        container: &ContainerId,
        health: &AgentHealth,
    ) -> Self {
        let session = match health {
            AgentHealth::Session(trouble) => agent.sessions.get_key_value(&trouble.name),
            _ => None,
        };
        Self {
            at: InAgent { agent: name.clone(), container: container.clone(), state_dir: desired.state_dir() },
            container: agent.container.clone(),
            session: session.map(|(session, spec)| (session.clone(), spec.secrets())),
        }
    }

    /// Whose they are.
    pub(crate) fn container(&self) -> &ContainerId {
        &self.at.container
    }

    /// The last lines, without the values that must not be shown. Best effort: empty when they cannot be read soon.
    pub(crate) async fn read<E: Engine + Inside>(&self, engine: &E) -> String {
        match &self.session {
            Some((session, secrets)) => last_words(engine, &self.at, session, secrets).await,
            None => last_lines(engine, &self.at.container, &self.container).await,
        }
    }
}

async fn last_words<E: Inside>(engine: &E, at: &InAgent, session: &SessionName, secrets: &Secrets) -> String {
    let said = tokio::time::timeout(LOG_TIME, engine.last_words(at, session)).await.unwrap_or_default();
    let said = secrets.redact(said.trim_end());
    let lines: Vec<_> = said.lines().collect();
    let few = usize::try_from(LOG_LINES).unwrap_or(usize::MAX);
    lines.get(lines.len().saturating_sub(few)..).unwrap_or_default().join("\n")
}
