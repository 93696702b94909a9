//! How the sessions of a base directory are: each keeper is asked; for one that is gone its last word counts.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rustix::io::Errno;

use crate::frame::{self, Kind};
use crate::message::{Hello, Problem, ProblemKind, State, Status, Stdin};
use crate::start::{SOCKET, STATE, dir_of, no_name, seen_lock_of};

/// How long a keeper may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// The largest state that is read, in bytes.
const STATE_LIMIT: u64 = frame::MAX_PAYLOAD as u64;

/// Prints how the sessions are, or this one.
pub fn main(base: &Path, only: Option<&str>) -> ExitCode {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let listed = match only {
        Some(name) => one(base, name, &mut out),
        None => all(base, &mut out),
    };
    let ended = listed.and_then(|()| frame::write(&mut out, Kind::End, &[])).and_then(|()| out.flush());
    if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(base: &Path, name: &str, out: &mut impl Write) -> io::Result<()> {
    let Some(dir) = dir_of(base, name) else { return out.write_all(&frame::message(Kind::Problem, &no_name(name))) };
    match state_of(&dir, name) {
        Some(state) => out.write_all(&frame::message(Kind::State, &state)),
        None => Ok(()),
    }
}

fn all(base: &Path, out: &mut impl Write) -> io::Result<()> {
    let entries = match std::fs::read_dir(base.join("sessions")) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(err) => {
            let problem = Problem::system("the sessions cannot be listed", &err);
            return out.write_all(&frame::message(Kind::Problem, &problem));
        }
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(err) => {
                let problem = Problem::system("not all sessions can be listed", &err);
                return out.write_all(&frame::message(Kind::Problem, &problem));
            }
        };
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| dir_of(base, name).is_some()) else { continue };
        if let Some(state) = state_of(&entry.path(), name) {
            out.write_all(&frame::message(Kind::State, &state))?;
        }
    }
    Ok(())
}

/// How a session is; `None` where there is none.
pub fn state_of(dir: &Path, name: &str) -> Option<State> {
    let lock = match seen_lock_of(dir) {
        Ok(None) => return None,
        Ok(Some(lock)) => lock,
        Err(Errno::WOULDBLOCK) => {
            return Some(ask(dir).unwrap_or_else(|why| unknown(name, &format!("its keeper does not answer: {why}"))));
        }
        Err(err) => return Some(unknown(name, &format!("its directory cannot be read: {}", io::Error::from(err)))),
    };
    let read = last_word(dir);
    drop(lock);
    match read {
        // Never begun: what a killed start left.
        Err(err) if err.kind() == io::ErrorKind::NotFound => None,
        Err(err) => Some(unknown(name, &format!("its last state cannot be read: {err}"))),
        Ok(state) => Some(state),
    }
}

/// What a keeper that is gone last said. One that did not say how it ended was killed.
///
/// # Errors
/// Those of the file system; `InvalidData`.
pub fn last_word(dir: &Path) -> io::Result<State> {
    let mut bytes = Vec::new();
    std::fs::File::open(dir.join(STATE))?.take(STATE_LIMIT).read_to_end(&mut bytes)?;
    let mut state: State = serde_json::from_slice(&bytes)?;
    (state.attachable, state.idle_ms, state.waiting_for_input) = (false, None, None);
    if matches!(state.status, Status::Running | Status::BackingOff) {
        (state.status, state.pid, state.pid_start, state.restart_at) = (Status::Lost, None, None, None);
    }
    Ok(state)
}

fn ask(dir: &Path) -> io::Result<State> {
    let mut keeper = UnixStream::connect(dir.join(SOCKET))?;
    keeper.set_read_timeout(Some(ANSWER))?;
    keeper.set_write_timeout(Some(ANSWER))?;
    let mut question = frame::message(Kind::Hello, &Hello { version: frame::VERSION });
    question.extend(frame::bytes(Kind::Status, &[]));
    keeper.write_all(&question)?;
    while let Some(frame) = frame::read(&mut keeper)? {
        match frame.kind {
            Kind::State => return Ok(serde_json::from_slice(&frame.payload)?),
            Kind::Problem => {
                let problem: Problem = serde_json::from_slice(&frame.payload)?;
                return Err(io::Error::other(problem.message));
            }
            _ => {}
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

fn unknown(name: &str, why: &str) -> State {
    State {
        name: name.to_owned(),
        id: String::new(),
        status: Status::Unknown,
        pid: None,
        pid_start: None,
        started_at: 0,
        ended_at: None,
        exit: None,
        restarts: 0,
        restart_at: None,
        attachable: false,
        stdin: Stdin::Closed,
        tty: false,
        last_output_at: None,
        idle_ms: None,
        waiting_for_input: None,
        declared: None,
        command: Vec::new(),
        uid: 0,
        lost: 0,
        stopped: false,
        idle_stopped: false,
        why: Some(why.to_owned()),
        version: frame::VERSION,
    }
}

/// The refusal where there is no session of a name.
pub fn not_found(name: &str) -> Problem {
    Problem::new(ProblemKind::NotFound, format!("no session is called {name}"))
}
