//! Speaks with a session's keeper over standard input and output; for a keeper that is gone, it answers itself.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::frame::{self, Frame, Kind, Output};
use crate::list::{last_word, not_found};
use crate::log::Log;
use crate::message::{Attach, Hello, Problem, ProblemKind, Replayed, Sent, State};
use crate::start::{SOCKET, dir_of, no_name, seen_lock_of};

/// A client that says nothing for so long is gone: its connection may be one that nobody told of its end.
pub const SILENCE: Duration = Duration::from_secs(60);
/// How long a keeper may take from its lock to its socket, and from its socket's end to its own.
const BETWEEN: Duration = Duration::from_secs(5);
/// How long the other side is heard once all is said. What it says then is dropped; but a connection that ends with something
/// unheard is reset, and what was said last is lost with it.
const HEARING_OUT: Duration = Duration::from_secs(2);

/// `connect BASE NAME`.
pub fn main(base: &Path, name: &str) -> ExitCode {
    let spoken = match dir_of(base, name) {
        None => refuse(&no_name(name)),
        Some(dir) => speak(&dir, name),
    };
    if spoken.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Reads what the other side still says, until it ends.
pub fn hear_out() {
    let (until, mut buffer) = (Instant::now() + HEARING_OUT, [0; 4096]);
    let mut left = HEARING_OUT;
    while !left.is_zero() && !matches!(read_input(&mut buffer, left), Ok(Some(0) | None) | Err(_)) {
        left = until.saturating_duration_since(Instant::now());
    }
}

/// What has come on standard input within this time: 0 bytes at its end, `None` where nothing came.
fn read_input(buffer: &mut [u8], patience: Duration) -> Result<Option<usize>, Errno> {
    // Not through `io::stdin`, whose buffer would be in the way.
    let input = rustix::stdio::stdin();
    let timeout = Timespec::try_from(patience).ok();
    loop {
        match poll(&mut [PollFd::new(&input, PollFlags::IN)], timeout.as_ref()) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(err) => return Err(err),
        }
        match rustix::io::read(input, &mut *buffer) {
            Ok(length) => return Ok(Some(length)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(err) => return Err(err),
        }
    }
}

fn refuse(problem: &Problem) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(&frame::message(Kind::Hello, &Hello { version: frame::VERSION }))?;
    out.write_all(&frame::message(Kind::Problem, problem))?;
    out.flush()?;
    hear_out();
    Ok(())
}

fn speak(dir: &Path, name: &str) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match seen_lock_of(dir) {
            Ok(None) => return refuse(&not_found(name)),
            Ok(Some(lock)) => {
                let log = Log::open(dir, u64::MAX);
                let state = last_word(dir);
                // However long its end is spoken of, it may be removed meanwhile.
                drop(lock);
                return match state {
                    Ok(state) => Gone { log, state }.speak(),
                    Err(err) if err.kind() == ErrorKind::NotFound => refuse(&not_found(name)),
                    Err(err) => refuse(&Problem::system(&format!("session {name} cannot be read"), &err)),
                };
            }
            Err(Errno::WOULDBLOCK) => match meet(dir) {
                Ok((keeper, hello)) => return relay(keeper, &hello),
                Err(err) if began.elapsed() > BETWEEN => {
                    return refuse(&Problem::system(&format!("the keeper of session {name} does not answer"), &err));
                }
                // It has just begun, or is about to end.
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            },
            Err(err) => return refuse(&Problem::system(&format!("session {name} cannot be seen"), &err.into())),
        }
    }
}

/// A keeper that has said hello. One that is about to end takes connections, and says nothing any more.
fn meet(dir: &Path) -> io::Result<(UnixStream, Frame)> {
    let mut keeper = UnixStream::connect(dir.join(SOCKET))?;
    keeper.set_read_timeout(Some(BETWEEN))?;
    let hello = frame::read(&mut keeper)?.ok_or(ErrorKind::UnexpectedEof)?;
    keeper.set_read_timeout(None)?;
    Ok((keeper, hello))
}

/// Passes bytes on, both ways, until either side is gone.
fn relay(keeper: UnixStream, hello: &Frame) -> io::Result<()> {
    let mut to_keeper = keeper.try_clone()?;
    let (ends, ended) = channel();
    std::thread::Builder::new().stack_size(128 * 1024).spawn(move || {
        let (mut buffer, mut is_heard) = (vec![0; frame::PIECE], true);
        while let Ok(Some(length @ 1..)) = read_input(&mut buffer, SILENCE) {
            // Why the keeper listens no more may be on its way to who speaks.
            is_heard = is_heard && to_keeper.write_all(buffer.get(..length).unwrap_or_default()).is_ok();
        }
        let _ = to_keeper.shutdown(Shutdown::Both);
        let _ = ends.send(());
    })?;
    let mut keeper = keeper;
    let mut out = io::stdout().lock();
    frame::write(&mut out, hello.kind, &hello.payload)?;
    out.flush()?;
    let mut buffer = vec![0; frame::PIECE];
    let told = loop {
        match keeper.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(length) => {
                out.write_all(&buffer[..length])?;
                out.flush()?;
            }
            Err(err) if err.kind() == ErrorKind::Interrupted => {}
            Err(err) => break Err(err),
        }
    };
    // The thread hears out whoever still speaks.
    let _ = ended.recv_timeout(HEARING_OUT);
    told
}

/// A session whose keeper is gone.
struct Gone {
    log: io::Result<Log>,
    state: State,
}

impl Gone {
    fn speak(&self) -> io::Result<()> {
        let (mut from, mut out) = (io::stdin().lock(), io::stdout().lock());
        out.write_all(&frame::message(Kind::Hello, &Hello { version: frame::VERSION }))?;
        out.flush()?;
        while let Some(Frame { kind, payload }) = frame::read(&mut from)? {
            match kind {
                Kind::Attach => match serde_json::from_slice(&payload) {
                    Ok(attach) => self.replay(&attach, &mut out)?,
                    Err(err) => self.confused(&err, &mut out)?,
                },
                Kind::Send => match serde_json::from_slice::<crate::message::Send>(&payload) {
                    // Sending nothing touches nothing.
                    Ok(send) if send.bytes == 0 && !send.eof => {
                        out.write_all(&frame::message(Kind::Sent, &Sent { id: send.id, bytes: 0 }))?;
                    }
                    _ => out.write_all(&frame::message(Kind::Problem, &not_running(&self.state)))?,
                },
                Kind::Stop | Kind::Wait => out.write_all(&frame::message(Kind::Ended, &self.state))?,
                Kind::Status => out.write_all(&frame::message(Kind::State, &self.state))?,
                _ => {}
            }
            out.flush()?;
        }
        Ok(())
    }

    fn confused(&self, err: &serde_json::Error, out: &mut impl Write) -> io::Result<()> {
        let problem = Problem::new(ProblemKind::Protocol, format!("a request cannot be read: {err}"));
        out.write_all(&frame::message(Kind::Problem, &problem))
    }

    fn replay(&self, attach: &Attach, out: &mut impl Write) -> io::Result<()> {
        let log = match &self.log {
            Ok(log) => log,
            Err(err) => {
                let problem = Problem::system("the log cannot be read", err);
                let kind = if err.kind() == ErrorKind::PermissionDenied { ProblemKind::Denied } else { problem.kind };
                return out.write_all(&frame::message(Kind::Problem, &Problem { kind, ..problem }));
            }
        };
        let mut buffer = Vec::new();
        let mut at = match attach.from {
            Some(from) => from,
            None => log.tail(attach.replay).unwrap_or_else(|_| log.begin()),
        };
        let missed = log.begin().saturating_sub(at);
        loop {
            let records = log.read(at, &mut buffer)?;
            let Some(last) = records.last() else { break };
            at = last.next;
            for record in &records {
                if record.time >= attach.since {
                    let bytes = buffer.get(record.bytes.clone()).unwrap_or_default();
                    let output = Output { next: record.next, time: record.time, stream: record.stream, bytes };
                    out.write_all(&frame::head(Kind::Output, frame::OUTPUT_HEAD + bytes.len()))?;
                    out.write_all(&output.head())?;
                    out.write_all(bytes)?;
                }
            }
        }
        out.write_all(&frame::message(Kind::Replayed, &Replayed { at, missed, taken: 0, tty: self.state.tty }))?;
        out.write_all(&frame::message(Kind::Ended, &self.state))
    }
}

/// The refusal of input for what does not run.
pub fn not_running(state: &State) -> Problem {
    Problem::new(ProblemKind::NotRunning, format!("session {} is not running", state.name))
}
