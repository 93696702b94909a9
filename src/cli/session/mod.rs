//! `session`: long-lived commands in agents.

mod args;
mod attach;
mod end;
mod keys;
mod list;
mod logs;
mod send;
mod start;

pub(super) use args::{SessionRef, SessionVerb};

use super::agent::Agents;
use super::{CliError, ExitStatus, Settings};
use crate::backend::podman::PodmanAt;
use crate::model::{AgentName, Phase};
use crate::session::message::ProblemKind;
use crate::session::{Keeper, SessionError};

pub(super) async fn session(settings: &Settings, verb: SessionVerb) -> Result<ExitStatus, CliError> {
    match verb {
        SessionVerb::Start(args) => start::start(settings, args).await,
        SessionVerb::List(args) => list::list(settings, args).await,
        SessionVerb::Send(args) => send::send(settings, args).await,
        SessionVerb::Attach(args) => attach::attach(settings, args).await,
        SessionVerb::Logs(args) => logs::logs(settings, args).await,
        SessionVerb::Wait(args) => end::wait(settings, args).await,
        SessionVerb::Stop(args) => end::stop(settings, args).await,
        SessionVerb::Rm(args) => end::rm(settings, args).await,
    }
}

/// The keeper in the container of an agent that runs.
async fn keeper<'a>(agents: &'a Agents, agent: &AgentName) -> Result<Keeper<'a, PodmanAt>, CliError> {
    let (name, seen) = agents.serving(agent).await?;
    if seen.phase != Phase::Running {
        let why = agents.why_down(agent, &name, &seen.phase);
        return Err(CliError::new(ExitStatus::Error, format!("agent {agent} is not running")).hint(why));
    }
    Ok(Keeper::new(&agents.engine, seen.id, agent.as_str()))
}

/// A failure in words, with the way out.
fn failed(err: &SessionError, session: &SessionRef) -> CliError {
    let failed = match err {
        SessionError::Engine(err) => return CliError::from_engine(err),
        err => CliError::new(ExitStatus::Error, err.to_string()),
    };
    let hint = match err.kind() {
        Some(ProblemKind::Exists) => format!(
            "`steadfast session attach {session}` shows it; `steadfast session rm {session}` removes one that has ended, \
             with `--force` one that runs"
        ),
        Some(ProblemKind::NotFound) => {
            format!("`steadfast session list {}` shows those that there are", session.agent)
        }
        Some(ProblemKind::NotRunning) => format!("`steadfast session logs {session}` shows what it printed"),
        Some(ProblemKind::NoStdin) => {
            format!("`steadfast session attach --read-only {session}` shows what it prints")
        }
        Some(ProblemKind::Writer) => "`--takeover` writes in its place; `--read-only` only looks".to_owned(),
        Some(ProblemKind::Cwd | ProblemKind::Requires | ProblemKind::Command) => {
            "nothing was started; `steadfast exec` looks into the agent".to_owned()
        }
        _ => match err {
            SessionError::AgentDown { agent } => {
                format!(
                    "`steadfast why {agent}` tells what stopped it; `steadfast apply` starts it, and the sessions that it declares"
                )
            }
            SessionError::NoPlace { .. } => {
                "the container needs one directory that can be written and run from: /run, /tmp or /dev/shm".to_owned()
            }
            SessionError::NoKeeper { .. } => {
                "build steadfast with both musl targets of Rust (`rustup target add`), see its README".to_owned()
            }
            _ => return failed,
        },
    };
    failed.hint(hint)
}
