//! `workspace`: source trees that are brought into agents, and the commits that come back.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::agent::Agents;
use super::args::{FileArg, duration};
use super::render::workspace as words;
use super::{CliError, ExitStatus, Settings, render};
use crate::backend::podman::{PodmanAt, is_of_a_read_only_root};
use crate::error::Chain;
use crate::model::{AgentName, ContainerId, Phase};
use crate::session::SessionError;
use crate::workspace::{self, Dirty, Place, Records, Workspace, WorkspaceError};

#[derive(Debug, Subcommand)]
pub(super) enum WorkspaceVerb {
    /// Bring a git checkout or a directory into an agent, or what of it is new; what the agent changed stays
    Prepare(PrepareArgs),
    /// Show what changed in the agents and here since
    Status(WorkspaceStatusArgs),
    /// Bring what was committed in an agent back, as the branch `steadfast/AGENT/NAME` of the source
    Pull(OneArgs),
    /// Remove a workspace from an agent, unless something in it is nowhere else
    Rm(RemoveArgs),
}

impl WorkspaceVerb {
    pub(super) fn file(&self) -> &FileArg {
        match self {
            WorkspaceVerb::Prepare(args) => &args.file,
            WorkspaceVerb::Status(args) => &args.file,
            WorkspaceVerb::Pull(args) => &args.file,
            WorkspaceVerb::Rm(args) => &args.one.file,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct PrepareArgs {
    #[command(flatten)]
    file: FileArg,
    /// Into which agent
    agent: AgentName,
    /// The checkout or directory of this machine
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// Where it goes in the agent: an absolute path
    target: String,
    /// The agent's user may not write to it, which is tried out
    #[arg(long)]
    read_only: bool,
    /// What becomes of changes that are not committed, and of files that git does not know and does not ignore
    #[arg(long, value_enum, default_value_t = DirtyArg::Include, value_name = "WHAT")]
    dirty: DirtyArg,
    /// A file or directory of the source that goes in though git ignores it; may be given several times
    #[arg(long, value_name = "PATH")]
    include: Vec<PathBuf>,
    /// Write over what the agent changed; files that it made stay, and so do its commits on other branches
    #[arg(long)]
    force: bool,
    /// How long to wait for another steadfast that is at work on it
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    lock_timeout: Duration,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DirtyArg {
    /// They go in
    Include,
    /// Nothing goes in
    Refuse,
    /// What is committed goes in
    Ignore,
}

#[derive(Debug, Args)]
pub(super) struct WorkspaceStatusArgs {
    #[command(flatten)]
    file: FileArg,
    /// Only of this agent
    agent: Option<AgentName>,
}

#[derive(Debug, Args)]
pub(super) struct OneArgs {
    #[command(flatten)]
    file: FileArg,
    /// Of which agent
    agent: AgentName,
    /// Where it is in the agent
    target: String,
    /// How long to wait for another steadfast that is at work on it
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    lock_timeout: Duration,
}

#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Remove it with all that is in it
    #[arg(long)]
    force: bool,
}

pub(super) async fn workspace(settings: &Settings, verb: WorkspaceVerb) -> Result<ExitStatus, CliError> {
    let agents = Agents::open(settings).await?;
    let records = Records::new(&agents.state_dir());
    match verb {
        WorkspaceVerb::Prepare(args) => prepare(settings, &agents, &records, args).await,
        WorkspaceVerb::Status(args) => status(settings, &agents, &records, args).await,
        WorkspaceVerb::Pull(args) => {
            let place = place(&agents, &records, &args.agent, args.lock_timeout).await?;
            let pulled = workspace::pull(&place, &args.target).await.map_err(|err| told(&err))?;
            match settings.output.is_data() {
                true => render::print_data(settings.output, &pulled)?,
                false => render::print(&words::pulled(&pulled))?,
            }
            Ok(ExitStatus::Done)
        }
        WorkspaceVerb::Rm(RemoveArgs { one, force }) => {
            let place = place(&agents, &records, &one.agent, one.lock_timeout).await?;
            workspace::remove(&place, &one.target, force).await.map_err(|err| told(&err))?;
            match settings.output.is_data() {
                true => render::print_data(settings.output, &BTreeMap::from([("removed", &one.target)]))?,
                false => render::print(&format!("removed workspace {} of {}\n", one.target, one.agent))?,
            }
            Ok(ExitStatus::Done)
        }
    }
}

/// Where the agent's container is, which must run.
async fn place<'a>(
    agents: &'a Agents,
    records: &'a Records,
    agent: &'a AgentName,
    patience: Duration,
) -> Result<Place<'a, PodmanAt>, CliError> {
    let (name, seen) = agents.serving(agent).await?;
    if seen.phase != Phase::Running {
        let message = format!("agent `{agent}` does not run: it {}", seen.phase);
        return Err(CliError::new(ExitStatus::Error, message).hint(agents.why_down(agent, &name, &seen.phase)));
    }
    Ok(Place { engine: &agents.engine, container: seen.id, agent: agent.as_str(), records, patience })
}

async fn prepare(
    settings: &Settings,
    agents: &Agents,
    records: &Records,
    args: PrepareArgs,
) -> Result<ExitStatus, CliError> {
    let place = place(agents, records, &args.agent, args.lock_timeout).await?;
    let want = Workspace {
        name: None,
        // As a state file has it, wherever the next one stands.
        source: std::path::absolute(&args.source).unwrap_or(args.source),
        target: args.target,
        read_only: args.read_only,
        dirty: match args.dirty {
            DirtyArg::Include => Dirty::Include,
            DirtyArg::Refuse => Dirty::Refuse,
            DirtyArg::Ignore => Dirty::Ignore,
        },
        include: args.include,
    };
    let prepared = workspace::prepare(&place, &want, args.force).await.map_err(|err| told(&err))?;
    match settings.output.is_data() {
        true => render::print_data(settings.output, &prepared)?,
        false => render::print(&words::prepared(&prepared))?,
    }
    Ok(if prepared.is_whole() { ExitStatus::Done } else { ExitStatus::NotConverged })
}

async fn status(
    settings: &Settings,
    agents: &Agents,
    records: &Records,
    args: WorkspaceStatusArgs,
) -> Result<ExitStatus, CliError> {
    let at = async |agent: &str| -> Result<(&PodmanAt, ContainerId), String> {
        let agent = AgentName::new(agent).map_err(|err| err.to_string())?;
        match agents.look(&agent).await.map_err(|err| Chain(&err).to_string())? {
            Some((_, seen)) if seen.phase == Phase::Running => Ok((&agents.engine, seen.id)),
            Some((_, seen)) => Err(format!("agent `{agent}` does not run: it {}", seen.phase)),
            None => Err(format!("agent `{agent}` has no container")),
        }
    };
    let states = workspace::status(records, args.agent.as_ref().map(AgentName::as_str), at).await;
    match settings.output.is_data() {
        true => render::print_data(settings.output, &states)?,
        false => render::print(&words::states(&states))?,
    }
    let is_known = states.iter().all(|state| state.unknown.is_empty());
    Ok(if is_known { ExitStatus::Done } else { ExitStatus::Error })
}

/// The sentence, and the way out.
fn told(err: &WorkspaceError) -> CliError {
    if let WorkspaceError::Engine(err) | WorkspaceError::Guest(SessionError::Engine(err)) = err {
        let told = CliError::from_engine(err);
        return match is_of_a_read_only_root(err) {
            true => told.hint("the container's root is read-only: give a target below a mount or a volume that is not"),
            false => told,
        };
    }
    let status = match err {
        WorkspaceError::Locked { .. } => ExitStatus::Locked,
        _ => ExitStatus::Error,
    };
    let told = CliError::new(status, Chain(err).to_string());
    match hint(err) {
        Some(hint) => told.hint(hint),
        None => told,
    }
}

fn hint(err: &WorkspaceError) -> Option<String> {
    let hint = match err {
        WorkspaceError::Dirty { .. } => {
            "commit them; or `--dirty include` takes them along, and `--dirty ignore` brings what is committed"
                .to_owned()
        }
        WorkspaceError::WouldLose { .. } => {
            "`steadfast workspace pull` brings commits back; `--force` removes it all the same".to_owned()
        }
        WorkspaceError::Diverged { branch, .. } => {
            format!("nothing was changed; to keep both: `git branch -m {branch} {branch}-before`, then pull again")
        }
        WorkspaceError::Writable { .. } => {
            "give a target that is not there yet, or is not the agent's; a writable workspace goes by `steadfast workspace rm`".to_owned()
        }
        WorkspaceError::Unknown { .. } => "`steadfast workspace status` shows those there are".to_owned(),
        WorkspaceError::NoCommits { .. } => "`podman cp` brings single files out of a container".to_owned(),
        _ => return None,
    };
    Some(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_tells_a_way_out_where_there_is_one() {
        let err = WorkspaceError::Dirty { path: "/s".into(), names: vec!["a".into(), "b".into()] };
        let told = told(&err);
        assert_eq!(told.message, "source `/s` has 2 changes that are not committed: `a`, `b`");
        assert!(told.hints[0].contains("--dirty ignore"));
    }
}
