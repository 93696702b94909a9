//! From the `sessions:` mapping of an agent to the commands that are to run in it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::decode::{At, Cx, Decode, Entry, Later, List, Path, Table, cut};
use super::document::{IdleDoc, LogDoc, SessionDoc};
use super::resolve::checked;
use super::scalar::{Loose, Size};
use super::tree::View;
use super::variables::{self, text};
use crate::model::session::guest_path;
use crate::model::{SessionIdle, SessionName, SessionRestart, SessionSpec, SessionStdin, Text};
use crate::sizes;

/// The least a log may be bounded to, and the most.
const LOG: (u64, u64) = (steadfast_keeper::log::LEAST, 1 << 30);
/// The shortest time after which a session counts as idle.
const LEAST_IDLE: Duration = Duration::from_secs(1);
/// The most bytes of command and variables: a keeper is told of them twice, once to compare with, and takes 248 KiB.
const MAX_WORDS: usize = 64 * 1024;

/// Resolves the sessions of an agent. What is wrong with one does not hide what is wrong with the others.
pub(super) fn resolve(
    cx: &mut Cx<'_>,
    entries: Option<At<Table<Later<SessionDoc>>>>,
    path: Path<'_>,
) -> BTreeMap<SessionName, SessionSpec> {
    let mut sessions = BTreeMap::new();
    for Entry { key, name, at } in entries.map(|table| table.value.0).unwrap_or_default() {
        let path = path.key(&name);
        let checked_name = SessionName::new(&*name).map_err(|err| cx.wrong(key, path, err.to_string())).ok();
        let spec = SessionDoc::decode(cx, at.node, path).and_then(|doc| session(cx, key, doc, path));
        sessions.extend(checked_name.zip(spec));
    }
    sessions
}

fn session(cx: &mut Cx<'_>, key: u32, doc: SessionDoc, path: Path<'_>) -> Option<SessionSpec> {
    let SessionDoc { command, cwd, env, stdin, tty, requires, restart, user, log, idle } = doc;
    let command = command.and_then(|list| self::command(cx, list, path.key("command")));
    let cwd = cwd.and_then(|cwd| {
        let mut string = cwd.value.0.clone();
        string.value = checked(cx, &cwd, path.key("cwd"), check_directory)?;
        Some(text(string, false))
    });
    let env: BTreeMap<_, _> = variables::read(cx, env, path.key("env")).collect();
    let requires_path = path.key("requires");
    let requires = requires.map(|list| list.value.0).unwrap_or_default();
    let requires: Vec<_> = requires
        .iter()
        .filter_map(|(index, program)| checked(cx, program, requires_path.index(*index), check_program))
        .collect();
    let user = user.and_then(|user| checked(cx, &user, path.key("user"), check_user));
    let log_max = log.and_then(|log| log_max(cx, log.value, path.key("log"))).unwrap_or(SessionSpec::LOG);
    let idle = idle.and_then(|idle| self::idle(cx, idle.value, path.key("idle")));
    let command = command?;
    let length = |text: &Text| text.expose().len();
    let variables = env.iter().map(|(name, value)| name.len() + length(value)).sum::<usize>();
    if command.iter().map(length).sum::<usize>() + variables > MAX_WORDS {
        let message =
            format!("the command and the variables of a session have at most {} together", sizes::limit(MAX_WORDS));
        cx.wrong_help(key, path, message, "put what is large into a file that a mount or a workspace brings");
    }
    Some(SessionSpec {
        command,
        cwd,
        env,
        stdin: stdin.map_or(SessionStdin::Pipe, |stdin| stdin.value.0),
        tty: tty.is_some_and(|flag| flag.value.0),
        requires,
        restart: restart.map_or(SessionRestart::OnFailure, |restart| restart.value.0),
        user,
        log_max,
        idle,
    })
}

/// The program and its arguments. `None` when there is none, or when a word of it was reported.
fn command(cx: &mut Cx<'_>, At { node, value }: At<List<Loose>>, path: Path<'_>) -> Option<Vec<Text>> {
    match value.0.first() {
        None => {
            // A list whose words were all wrong was reported word by word.
            if !matches!(cx.tree.view(node), View::List([_, ..])) {
                cx.wrong_help(node, path, "a session runs a command, found none", "write `[PROGRAM, ARGUMENT]`");
            }
            return None;
        }
        Some((0, program)) if program.value.0.value.is_empty() => {
            let help = "write the name of a program, or its path in the container";
            cx.wrong_help(program.node, path.index(0), "expected a program, found an empty string", help);
        }
        Some(_) => {}
    }
    Some(value.0.into_iter().map(|(_, word)| text(word.value.0, false)).collect())
}

fn check_directory(directory: &str) -> Result<String, String> {
    guest_path(directory).map_err(|why| format!("`{}` {why}", cut(directory)))
}

fn check_program(program: &str) -> Result<String, String> {
    match program {
        "" => Err("expected the name of a program, found an empty string".to_owned()),
        _ if program.contains(char::is_whitespace) => {
            Err(format!("`{}` is not the name of a program: write each one by itself, without arguments", cut(program)))
        }
        _ => Ok(program.to_owned()),
    }
}

fn check_user(user: &str) -> Result<String, String> {
    match user {
        "" => Err("expected a user, found an empty string: leave the field out for the container's user".to_owned()),
        _ if user.contains(|c: char| c.is_whitespace() || c.is_control()) || user.starts_with(['-', ':']) => {
            Err(format!("`{}` is not a user: expected `NAME`, `NUMBER`, or either with `:GROUP`", cut(user)))
        }
        _ => Ok(user.to_owned()),
    }
}

fn log_max(cx: &mut Cx<'_>, LogDoc { max_size }: LogDoc, path: Path<'_>) -> Option<u64> {
    let At { node, value: Size(size) } = max_size?;
    if (LOG.0..=LOG.1).contains(&size) {
        return Some(size);
    }
    let expected = format!("expected a size from {} to {}", sizes::limit(LOG.0), sizes::limit(LOG.1));
    let written = cut(cx.tree.text(node)).into_owned();
    cx.wrong(node, path.key("maxSize"), format!("{expected}, found `{written}`"));
    None
}

fn idle(cx: &mut Cx<'_>, IdleDoc { after, action }: IdleDoc, path: Path<'_>) -> Option<SessionIdle> {
    if let Some(after) = after.as_ref().filter(|after| after.value.0 < LEAST_IDLE) {
        let written = cut(cx.tree.text(after.node)).into_owned();
        cx.wrong(after.node, path.key("after"), format!("expected at least `1s`, found `{written}`"));
    }
    Some(SessionIdle { after: after?.value.0, action: action?.value.0 })
}
