//! `session wait`, `stop` and `rm`.

use std::time::Duration;

use serde_json::json;

use super::args::{OneArgs, RmArgs, SessionRef, StopArgs};
use super::{failed, keeper, list};
use crate::cli::agent::{Agents, exit_with};
use crate::cli::exec::SIGNALLED;
use crate::cli::render::errors::print as print_error;
use crate::cli::render::said::{Level, say};
use crate::cli::{CliError, ExitStatus, Settings, render};
use crate::session::message::{State, Status};
use crate::session::{SessionError, words_of};

/// KILL.
const KILL: i32 = 9;
/// The signals that one asks by name.
const SIGNALS: [(&str, i32); 11] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ABRT", 6),
    ("KILL", KILL),
    ("USR1", 10),
    ("USR2", 12),
    ("TERM", 15),
    ("CONT", 18),
    ("STOP", 19),
    ("WINCH", 28),
];

/// Reads a signal of Linux: `TERM`, `SIGTERM`, `15`.
pub(super) fn signal(text: &str) -> Result<i32, String> {
    let upper = text.to_ascii_uppercase();
    let word = upper.strip_prefix("SIG").unwrap_or(&upper);
    let named = SIGNALS.iter().find(|(name, number)| *name == word || number.to_string() == word);
    named.map(|(_, number)| *number).ok_or_else(|| {
        let names: Vec<_> = SIGNALS.iter().map(|(name, _)| *name).collect();
        format!("no signal that ends a session; one of {}", names.join(", "))
    })
}

/// The command's own exit code, or 125 when steadfast itself failed.
pub(super) async fn wait(settings: &Settings, args: OneArgs) -> Result<ExitStatus, CliError> {
    let waited = async {
        let agents = Agents::open(settings).await?;
        let keeper = keeper(&agents, &args.session.agent).await?;
        keeper.wait(&args.session.name).await.map_err(|err| failed(&err, &args.session))
    };
    let code = waited.await.and_then(|state| exit_code(&state, &args.session));
    exit_with(code.map_err(|err| CliError { status: ExitStatus::ExecFailed, ..err })?)
}

/// What a session that has ended makes of us.
pub(super) fn exit_code(state: &State, session: &SessionRef) -> Result<i32, CliError> {
    let exit = state.exit.unwrap_or_default();
    match (exit.code, exit.signal) {
        (Some(code), _) => Ok(code),
        (None, Some(signal)) => Ok(SIGNALLED + signal),
        (None, None) => Err(CliError::new(
            ExitStatus::Error,
            format!("how session {session} ended is unknown: it is {}", words_of(state)),
        )),
    }
}

pub(super) async fn stop(settings: &Settings, args: StopArgs) -> Result<ExitStatus, CliError> {
    let agents = Agents::open(settings).await?;
    let keeper = keeper(&agents, &args.session.agent).await?;
    let stopped = keeper.stop(&args.session.name, args.signal, args.timeout).await;
    let state = stopped.map_err(|err| failed(&err, &args.session))?;
    if settings.output.is_data() {
        render::print_data(settings.output, &list::json(&args.session.agent, &state))?;
    } else {
        let how = words_of(&state);
        render::print(&match state.status {
            Status::Lost => format!("session {} is not running ({how})\n", args.session),
            _ => format!("session {} is stopped: {how}\n", args.session),
        })?;
        if state.declared.is_some() && agents.declares(&args.session.agent, args.session.name.as_str()) {
            let text = format!("the state file declares session {}", args.session);
            let hint = "unless it says `restart: no`, `run` and the next `apply` start it again; take it out of the file to have it stay so";
            say(Level::Info, &text, &[hint.to_owned()], settings.color_stderr);
        }
    }
    Ok(ExitStatus::Done)
}

pub(super) async fn rm(settings: &Settings, args: RmArgs) -> Result<ExitStatus, CliError> {
    let agents = Agents::open(settings).await?;
    let (mut status, mut removed) = (ExitStatus::Done, Vec::new());
    for session in &args.sessions {
        match remove(&agents, session, args.force).await {
            Ok(()) if settings.output.is_data() => removed.push(session.to_string()),
            Ok(()) => render::print(&format!("session {session} is removed\n"))?,
            Err(err) => {
                print_error(&err, settings.color_stderr);
                status = err.status;
            }
        }
    }
    if settings.output.is_data() {
        render::print_data(settings.output, &json!({ "removed": removed }))?;
    }
    Ok(status)
}

async fn remove(agents: &Agents, session: &SessionRef, force: bool) -> Result<(), CliError> {
    let keeper = keeper(agents, &session.agent).await?;
    let wrong = |err: SessionError| failed(&err, session);
    let Some(mut state) = keeper.state(&session.name).await.map_err(wrong)? else {
        let none = CliError::new(ExitStatus::Error, format!("session {session} does not exist"));
        return Err(none.hint(format!("`steadfast session list {}` shows those that there are", session.agent)));
    };
    if matches!(state.status, Status::Running | Status::BackingOff) {
        if !force {
            let runs = CliError::new(ExitStatus::Error, format!("session {session} is {}", words_of(&state)));
            return Err(runs.hint(format!("`steadfast session stop {session}` ends it, or `--force` kills it")));
        }
        state = keeper.stop(&session.name, KILL, Duration::ZERO).await.map_err(wrong)?;
    }
    keeper.remove(&state).await.map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::signal;

    #[test]
    fn signals_are_told_by_name_or_number() {
        assert_eq!(["TERM", "sigint", "9", "SIGUSR1"].map(|text| signal(text).unwrap()), [15, 2, 9, 10]);
        assert!(signal("SIGNOPE").unwrap_err().contains("TERM"));
        assert!(signal("-1").is_err());
    }
}
