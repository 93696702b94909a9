//! `session start`.

use super::args::StartArgs;
use super::{failed, keeper, list};
use crate::cli::agent::{Agents, variables};
use crate::cli::render::said::{Level, say};
use crate::cli::{CliError, ExitStatus, Settings, render};
use crate::model::SessionSpec;
use crate::session::FIRST_SIZE;
use crate::session::message::{Spec, Word};

pub(super) async fn start(settings: &Settings, args: StartArgs) -> Result<ExitStatus, CliError> {
    let agents = Agents::open(settings).await?;
    let keeper = keeper(&agents, &args.session.agent).await?;
    let env = variables(settings, &args.env, ExitStatus::Error)?;
    let pairs = env.iter().map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let spec = Spec {
        name: args.session.name.clone(),
        agent: args.session.agent.to_string(),
        id: format!("{:032x}", fastrand::u128(..)),
        command: args.command.into_iter().map(Word::from).collect(),
        cwd: args.cwd.map(Word::from),
        env: pairs.map(|(name, value)| (Word::from(name), Word::from(value))).collect(),
        stdin: args.stdin.into(),
        tty: args.tty.then_some(FIRST_SIZE),
        requires: args.require.into_iter().map(Word::from).collect(),
        restart: args.restart.into(),
        log_max: SessionSpec::LOG,
        idle_stop: None,
        declared: None,
        replace_ended: false,
    };
    if agents.declares(&args.session.agent, args.session.name.as_str()) {
        let session = &args.session;
        say(
            Level::Warn,
            &format!("the state file declares session {session} too, and nothing else takes its place while it runs"),
            &[format!(
                "`steadfast session rm --force {session}` ends it, and `steadfast apply` starts what is declared"
            )],
            settings.color_stderr,
        );
    }
    let state = keeper.start(&spec, args.user.as_deref()).await.map_err(|err| failed(&err, &args.session))?;
    if settings.output.is_data() {
        render::print_data(settings.output, &list::json(&args.session.agent, &state))?;
    } else {
        let pid = state.pid.map_or_else(String::new, |pid| format!(", pid {pid}"));
        render::print(&format!("session {} started{pid}\n", args.session))?;
    }
    Ok(ExitStatus::Done)
}
