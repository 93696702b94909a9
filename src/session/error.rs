//! What can go wrong with a session, in sentences.

use steadfast_keeper::message::{Problem, ProblemKind, State, Status, now};

use crate::backend::EngineError;

/// Why something could not be asked of a session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The keeper refused, for all of these reasons.
    #[error("{}", sentences(.0))]
    Refused(Vec<Problem>),
    /// Podman refused, or cannot be reached.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The agent's container ended, and its sessions with it.
    #[error("agent {agent} is not running")]
    AgentDown {
        /// The agent.
        agent: String,
    },
    /// This build has no keeper for the machine that the containers run on.
    #[error("this build of steadfast has no keeper for {arch}, the architecture of Podman's machine")]
    NoKeeper {
        /// In Go's word.
        arch: String,
    },
    /// There is nowhere to put the keeper.
    #[error("the keeper of sessions can be put nowhere in {agent}:\n{}", tried.join("\n"))]
    NoPlace {
        /// The agent.
        agent: String,
        /// Each place, and why not.
        tried: Vec<String>,
    },
    /// The connection broke off before the answer.
    #[error("the connection to {agent} broke before the answer came{}", why.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    Broken {
        /// The agent.
        agent: String,
        /// What the other side said last.
        why: Option<String>,
    },
    /// What came is nothing that a keeper says.
    #[error("the keeper in {agent} cannot be understood: {why}")]
    Garbled {
        /// The agent.
        agent: String,
        /// What came.
        why: String,
    },
}

fn sentences(problems: &[Problem]) -> String {
    problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("\n")
}

impl SessionError {
    /// One refusal.
    pub(super) fn refused(problem: Problem) -> Self {
        Self::Refused(vec![problem])
    }

    /// What kind of refusal it is, when it is one.
    pub fn kind(&self) -> Option<ProblemKind> {
        match self {
            Self::Refused(problems) => problems.first().map(|problem| problem.kind),
            _ => None,
        }
    }

    /// Whether the same may succeed over a new connection.
    pub fn is_of_transport(&self) -> bool {
        match self {
            Self::Engine(err) => err.kind.is_retryable(),
            Self::Broken { .. } => true,
            _ => false,
        }
    }
}

/// How a session is, in words: `running`, `exited 1 2m ago`, `killed by signal 9 5s ago`.
pub fn words_of(state: &State) -> String {
    let ago = |moment: u64| {
        let seconds = now().saturating_sub(moment) / 1000;
        match seconds {
            0..60 => format!("{seconds}s ago"),
            60..3600 => format!("{}m ago", seconds / 60),
            3600..86400 => format!("{}h ago", seconds / 3600),
            _ => format!("{}d ago", seconds / 86400),
        }
    };
    let ended = || {
        let exit = state.exit.unwrap_or_default();
        let how = match (exit.code, exit.signal) {
            _ if exit.oom_killed => "killed, out of memory".to_owned(),
            (Some(code), _) => format!("exited {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => "ended".to_owned(),
        };
        state.ended_at.map_or_else(|| how.clone(), |at| format!("{how} {}", ago(at)))
    };
    match state.status {
        Status::Running => "running".to_owned(),
        Status::BackingOff => format!("backing off, {}", ended()),
        Status::Exited => ended(),
        Status::Lost => "lost: its keeper was killed, or the container was started anew".to_owned(),
        Status::Unknown | Status::Other => {
            format!("unknown{}", state.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_said_with_its_moment() {
        let mut state: State = serde_json::from_str(r#"{"name":"pi","id":"1","status":"exited"}"#).unwrap();
        state.ended_at = Some(now() - 125_000);
        state.exit = Some(steadfast_keeper::message::Exit { code: Some(1), ..Default::default() });
        assert_eq!(words_of(&state), "exited 1 2m ago");
        state.exit = Some(steadfast_keeper::message::Exit { signal: Some(9), ..Default::default() });
        assert_eq!(words_of(&state), "killed by signal 9 2m ago");
    }
}
