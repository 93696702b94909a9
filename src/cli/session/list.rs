//! `session list`: how each session is.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::args::{ListArgs, SessionRef};
use super::{failed, keeper};
use crate::cli::agent::Agents;
use crate::cli::render::said::{Level, say};
use crate::cli::{CliError, ExitStatus, Settings, render};
use crate::model::{AgentName, CanonicalSession, Phase};
use crate::session::message::{State, Status, Stdin};
use crate::session::{Keeper, words_of};

pub(super) async fn list(settings: &Settings, args: ListArgs) -> Result<ExitStatus, CliError> {
    let agents = Agents::open(settings).await?;
    let (mut found, mut blind) = (Vec::new(), false);
    if let Some(agent) = args.agent {
        let keeper = keeper(&agents, &agent).await?;
        found.push((agent.clone(), of(&keeper, &agent).await?));
    } else {
        // Of an agent that does not run no session is there.
        for (agent, seen) in agents.all().await? {
            if seen.phase != Phase::Running {
                continue;
            }
            match of(&Keeper::new(&agents.engine, seen.id, agent.as_str()), &agent).await {
                Ok(states) => found.push((agent, states)),
                Err(err) => {
                    blind = true;
                    say(
                        Level::Error,
                        &format!("the sessions of {agent} are unknown: {}", err.message),
                        &err.hints,
                        settings.color_stderr,
                    );
                }
            }
        }
    }
    let all = || found.iter().flat_map(|(agent, states)| states.iter().map(move |state| (agent, state)));
    if settings.output.is_data() {
        let sessions: Vec<_> = all().map(|(agent, state)| json(agent, state)).collect();
        render::print_data(settings.output, &json!({ "sessions": sessions }))?;
    } else if all().next().is_none() {
        render::print("no sessions\n")?;
    } else {
        let rows = all().map(|(agent, state)| row(agent, state));
        render::print(&table(rows.collect()))?;
    }
    Ok(if blind { ExitStatus::Error } else { ExitStatus::Done })
}

async fn of<E: crate::backend::Engine>(keeper: &Keeper<'_, E>, agent: &AgentName) -> Result<Vec<State>, CliError> {
    let whole = SessionRef { agent: agent.clone(), name: String::new() };
    keeper.list().await.map_err(|err| failed(&err, &whole))
}

/// A session for programs.
pub(super) fn json(agent: &AgentName, state: &State) -> Value {
    let moment = |millis: u64| crate::time::rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis));
    let known = |millis: u64| (millis > 0).then(|| moment(millis));
    json!({
        "agent": agent.as_str(),
        "name": state.name,
        "status": status_word(state),
        "pid": state.pid,
        "startedAt": known(state.started_at),
        "endedAt": state.ended_at.map(moment),
        "exit": state.exit.map(|exit| json!({ "code": exit.code, "signal": exit.signal, "oomKilled": exit.oom_killed })),
        "restarts": state.restarts,
        "restartAt": state.restart_at.map(moment),
        "attachable": state.attachable,
        "stdin": match state.stdin { Stdin::Pipe => "pipe", Stdin::Closed => "closed" },
        "tty": state.tty,
        "lastOutputAt": state.last_output_at.map(moment),
        "idleMs": state.idle_ms,
        "waitingForInput": state.waiting_for_input,
        "declared": state.declared.is_some(),
        "command": command(state),
        "user": state.uid,
        "lostBytes": state.lost,
        "why": state.why,
    })
}

/// Its command as it may be shown: what is sensitive in a state file is so here.
fn command(state: &State) -> Vec<String> {
    match &state.declared {
        Some(declared) => CanonicalSession::from_text(declared).map(|session| session.command()).unwrap_or_default(),
        None => state.command.iter().map(|word| word.text()).collect(),
    }
}

fn status_word(state: &State) -> &'static str {
    match state.status {
        Status::Running => "running",
        Status::BackingOff => "backingOff",
        Status::Exited => "exited",
        Status::Lost => "lost",
        Status::Unknown | Status::Other => "unknown",
    }
}

fn row(agent: &AgentName, state: &State) -> [String; 6] {
    let dash = || "-".to_owned();
    let input = match (state.tty, state.stdin) {
        (true, _) => "terminal",
        (false, Stdin::Pipe) => "pipe",
        (false, Stdin::Closed) => "closed",
    };
    [
        format!("{agent}/{}", state.name),
        // Why would be a line of its own.
        if state.status == Status::Lost { "lost".to_owned() } else { words_of(state) },
        state.pid.map_or_else(dash, |pid| pid.to_string()),
        input.to_owned(),
        if state.declared.is_some() { "declared" } else { "ad hoc" }.to_owned(),
        crate::brief::brief(&command(state).join(" "), 60).into_owned(),
    ]
}

fn table(mut rows: Vec<[String; 6]>) -> String {
    rows.insert(0, ["SESSION", "STATUS", "PID", "STDIN", "KIND", "COMMAND"].map(str::to_owned));
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}
