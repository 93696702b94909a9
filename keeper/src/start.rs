//! Starts a session: all that speaks against it is said at once, and what cannot be started leaves nothing behind.
//!
//! A session is claimed by giving its directory, whose lock is held already, its name: a rename, which only one can win.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{Access, FlockOperation, access, flock};
use rustix::io::Errno;

use crate::connect::hear_out;
use crate::frame::{self, Kind};
use crate::list::last_word;
use crate::message::{Problem, ProblemKind, Spec, State, Status, Word};

/// The file that is locked for as long as the keeper lives.
pub const LOCK: &str = "lock";
/// The file with the last state.
pub const STATE: &str = "state";
/// The keeper's socket.
pub const SOCKET: &str = "sock";
/// Where a session's directory is made, and where one goes that is removed.
const NEW: &str = ".new-";
const OLD: &str = ".old-";
/// The longest name of a session: with it, a socket's path is still short enough.
pub const LONGEST_NAME: usize = 63;
/// How old a directory is that was made and never named, before it is cleared away.
const ABANDONED: Duration = Duration::from_secs(60);
/// How long a keeper that is over is waited for.
const FAREWELL: Duration = Duration::from_secs(15);

/// The directory of a session, or `None` for what can be no name of one.
pub fn dir_of(base: &Path, name: &str) -> Option<PathBuf> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_name = !name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(fits) && !name.starts_with('-');
    is_name.then(|| base.join("sessions").join(name))
}

/// Reads the specification, starts its session, and says what came of it.
pub fn main(base: &Path) -> ExitCode {
    let begun = match frame::read(&mut io::stdin().lock()) {
        Ok(Some(frame)) => match serde_json::from_slice::<Spec>(&frame.payload) {
            Ok(spec) => start(base, &spec),
            Err(err) => Err(vec![Problem::new(ProblemKind::Protocol, format!("no specification of a session: {err}"))]),
        },
        Ok(None) => Err(vec![Problem::new(ProblemKind::Protocol, "no specification of a session came")]),
        Err(err) => Err(vec![Problem::system("the specification of a session cannot be read", &err)]),
    };
    let mut answer = Vec::new();
    match &begun {
        Ok(state) => answer.extend(frame::message(Kind::State, state)),
        Err(problems) => problems.iter().for_each(|problem| answer.extend(frame::message(Kind::Problem, problem))),
    }
    answer.extend(frame::bytes(Kind::End, &[]));
    let mut out = io::stdout().lock();
    let _ = out.write_all(&answer).and_then(|()| out.flush());
    if begun.is_err() {
        // Of a specification that cannot be read there may be more to come.
        hear_out();
    }
    if begun.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Removes what is left of a session that has ended, and says what prevents it.
pub fn remove_main(base: &Path, name: &str) -> ExitCode {
    let removed = match dir_of(base, name) {
        Some(dir) => remove(&dir, name),
        None => Err(no_name(name)),
    };
    let mut answer = removed.as_ref().err().map(|problem| frame::message(Kind::Problem, problem)).unwrap_or_default();
    answer.extend(frame::bytes(Kind::End, &[]));
    let mut out = io::stdout().lock();
    let _ = out.write_all(&answer).and_then(|()| out.flush());
    if removed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The refusal of a name.
pub fn no_name(name: &str) -> Problem {
    let message = format!("`{name}` is no name of a session: 1 to {LONGEST_NAME} of a-z, 0-9 and -");
    Problem::new(ProblemKind::Protocol, message)
}

fn start(base: &Path, spec: &Spec) -> Result<State, Vec<Problem>> {
    let Some(dir) = dir_of(base, &spec.name) else { return Err(vec![no_name(&spec.name)]) };
    let mut problems = preflight(spec);
    if let Some(problem) = claimed(&dir, spec) {
        problems.push(problem);
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let sessions = base.join("sessions");
    sweep(&sessions);
    let lock = claim(&sessions, &dir, spec).map_err(|problem| vec![problem])?;
    // From here on the directory is ours, and goes with every failure.
    run_keeper(&dir, lock, spec).map_err(|problem| {
        let _ = take_away(&dir);
        vec![problem]
    })
}

/// All that can be known before anything is started.
fn preflight(spec: &Spec) -> Vec<Problem> {
    let (agent, mut problems) = (&spec.agent, Vec::new());
    if let Some(cwd) = &spec.cwd {
        let shown = shown(cwd);
        let is = match std::fs::metadata(cwd.os()) {
            Ok(found) if found.is_dir() => None,
            Ok(_) => Some(format!("cwd {shown} is not a directory in {agent}")),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Some(format!("cwd {shown} does not exist in {agent}")),
            Err(err) => Some(format!("cwd {shown} cannot be read in {agent}: {err}")),
        };
        problems.extend(is.map(|why| Problem::new(ProblemKind::Cwd, why)));
    }
    let mut missing: Vec<String> = Vec::new();
    let program = spec.command.first().filter(|program| !program.0.is_empty() && !program.0.contains(&b'/'));
    for wanted in spec.requires.iter().chain(program) {
        let shown = shown(wanted);
        if !on_path(spec, wanted) && !missing.contains(&shown) {
            missing.push(shown);
        }
    }
    if !missing.is_empty() {
        let message = format!("not on the PATH in {agent}: {}", missing.join(", "));
        problems.push(Problem::new(ProblemKind::Requires, message));
    }
    match spec.command.first() {
        None => problems.push(Problem::new(ProblemKind::Command, "there is no command")),
        Some(program) if program.0.is_empty() => {
            problems.push(Problem::new(ProblemKind::Command, "the command is empty"));
        }
        Some(program) if program.0.contains(&b'/') => {
            let path = spec.cwd.as_ref().map_or_else(PathBuf::new, |cwd| cwd.os().into()).join(program.os());
            let shown = program.text();
            let is = match access(&path, Access::EXEC_OK) {
                Ok(()) if path.is_dir() => Some(format!("command {shown} cannot be run in {agent}: it is a directory")),
                Ok(()) => None,
                Err(Errno::NOENT) => Some(format!("command {shown} does not exist in {agent}")),
                Err(err) => Some(format!("command {shown} cannot be run in {agent}: {}", io::Error::from(err))),
            };
            problems.extend(is.map(|why| Problem::new(ProblemKind::Command, why)));
        }
        Some(_) => {}
    }
    problems
}

/// A word in a sentence.
fn shown(word: &Word) -> String {
    if word.0.is_empty() { "``".to_owned() } else { word.text() }
}

/// Where programs are looked for when nothing says where.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn on_path(spec: &Spec, program: &Word) -> bool {
    let of_spec = spec.env.iter().rev().find(|(name, _)| name.0 == b"PATH").map(|(_, value)| value.os().to_owned());
    let path = of_spec.or_else(|| std::env::var_os("PATH")).unwrap_or_else(|| USUAL_PATH.into());
    std::env::split_paths(&path).any(|dir| {
        let file = dir.join(program.os());
        file.is_file() && access(&file, Access::EXEC_OK).is_ok()
    })
}

/// Why the name is not free. What has ended may be replaced where the specification says so.
fn claimed(dir: &Path, spec: &Spec) -> Option<Problem> {
    let name = format!("{}/{}", spec.agent, spec.name);
    match lock_of_ended(dir) {
        Ok(None) => None,
        // Without a state it is what a start left that was killed.
        Ok(Some(_)) if spec.replace_ended || !dir.join(STATE).exists() => None,
        Ok(Some(_)) | Err(Errno::WOULDBLOCK) => {
            Some(Problem::new(ProblemKind::Exists, format!("session {name} exists")))
        }
        Err(err) => Some(Problem::system(&format!("whether session {name} exists cannot be seen"), &err.into())),
    }
}

/// The lock of a session whose keeper is gone. `None` where there is no session; `EWOULDBLOCK` where there is a keeper.
///
/// # Errors
/// Whatever else prevents it from being seen.
pub fn lock_of(dir: &Path) -> Result<Option<File>, Errno> {
    locked(dir, FlockOperation::NonBlockingLockExclusive)
}

/// As [`lock_of`], for who only looks: beside others who do.
///
/// # Errors
/// As [`lock_of`].
pub fn seen_lock_of(dir: &Path) -> Result<Option<File>, Errno> {
    locked(dir, FlockOperation::NonBlockingLockShared)
}

fn locked(dir: &Path, how: FlockOperation) -> Result<Option<File>, Errno> {
    let errno = |err: io::Error| Errno::from_io_error(&err).unwrap_or(Errno::IO);
    match File::open(dir.join(LOCK)) {
        Ok(lock) => flock(&lock, how).map(|()| Some(lock)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => match std::fs::symlink_metadata(dir) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(errno(err)),
            // Half removed, or nothing of ours.
            Ok(_) => Err(Errno::EXIST),
        },
        Err(err) => Err(errno(err)),
    }
}

/// As [`lock_of`], and waits for a keeper that has said that it is over: it tells the last clients. Who holds it and has no keeper's
/// socket only looks, or is about to have one.
fn lock_of_ended(dir: &Path) -> Result<Option<File>, Errno> {
    let began = Instant::now();
    loop {
        let lock = lock_of(dir);
        let is_over = || {
            last_word(dir).is_ok_and(|state| state.status == Status::Exited)
                || UnixStream::connect(dir.join(SOCKET)).is_err()
        };
        if !matches!(lock, Err(Errno::WOULDBLOCK)) || began.elapsed() > FAREWELL || !is_over() {
            return lock;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Makes the directory with its lock, and gives it its name.
fn claim(sessions: &Path, dir: &Path, spec: &Spec) -> Result<File, Problem> {
    let name = format!("{}/{}", spec.agent, spec.name);
    let failed =
        |err: &io::Error| Problem::system(&format!("session {name} cannot be made in {}", sessions.display()), err);
    let id: String = spec.id.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
    let made = sessions.join(format!("{NEW}{id}-{}", std::process::id()));
    let make = || {
        DirBuilder::new().mode(0o755).create(&made)?;
        // Who may read the session's state may see whether it has a keeper.
        let lock = OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(made.join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok::<_, io::Error>(lock)
    };
    let clear = || {
        let _ = std::fs::remove_dir_all(&made);
    };
    let lock = make().map_err(|err| {
        clear();
        failed(&err)
    })?;
    for _ in 0..3 {
        match std::fs::rename(&made, dir) {
            Ok(()) => return Ok(lock),
            Err(err) if matches!(Errno::from_io_error(&err), Some(Errno::NOTEMPTY | Errno::EXIST)) => {
                if let Some(problem) = claimed(dir, spec) {
                    clear();
                    return Err(problem);
                }
                let _ = remove(dir, &spec.name);
            }
            Err(err) => {
                clear();
                return Err(failed(&err));
            }
        }
    }
    clear();
    Err(Problem::new(ProblemKind::Exists, format!("session {name} exists")))
}

/// Starts the keeper in the claimed directory, and hears from it.
fn run_keeper(dir: &Path, lock: File, spec: &Spec) -> Result<State, Problem> {
    let failed = |err: &io::Error| Problem::system("the keeper cannot be started", err);
    let (ours, its) = UnixStream::pair().map_err(|err| failed(&err))?;
    // The lock is its standard input: it is held for as long as that is open, and nobody else has it.
    let mut command = Command::new("/proc/self/exe");
    command.arg("keep").arg(dir).stdin(Stdio::from(OwnedFd::from(lock))).stdout(Stdio::from(OwnedFd::from(its)));
    let mut keeper = command.stderr(Stdio::null()).spawn().map_err(|err| failed(&err))?;
    // The command has this program's ends of both.
    drop(command);
    let heard = (|| {
        let mut ours = &ours;
        ours.write_all(&frame::message(Kind::Hello, spec))?;
        ours.shutdown(Shutdown::Write)?;
        frame::read(&mut ours)
    })();
    let broken = || Problem::new(ProblemKind::System, "the keeper ended before it said anything");
    let refused = match heard {
        Ok(Some(frame)) => match frame.kind {
            Kind::State => return serde_json::from_slice(&frame.payload).map_err(|_| broken()),
            _ => serde_json::from_slice(&frame.payload).unwrap_or_else(|_| broken()),
        },
        Ok(None) => broken(),
        Err(err) => failed(&err),
    };
    let _ = keeper.wait();
    Err(refused)
}

/// Removes a session that has ended.
///
/// # Errors
/// `notRunning`'s opposite, in words: it runs. `notFound` where there is none.
pub fn remove(dir: &Path, name: &str) -> Result<(), Problem> {
    let lock = match lock_of_ended(dir) {
        Ok(Some(lock)) => lock,
        Ok(None) => return Err(Problem::new(ProblemKind::NotFound, format!("no session is called {name}"))),
        Err(Errno::WOULDBLOCK) => return Err(Problem::new(ProblemKind::Exists, format!("session {name} runs"))),
        Err(Errno::EXIST) => {
            return take_away(dir).map_err(|err| Problem::system(&format!("session {name} cannot be removed"), &err));
        }
        Err(err) => return Err(Problem::system(&format!("session {name} cannot be removed"), &err.into())),
    };
    // Another one may stand there by now.
    let same = lock.metadata().and_then(|ours| Ok(ours.ino() == std::fs::metadata(dir.join(LOCK))?.ino()));
    match same {
        Ok(true) => take_away(dir).map_err(|err| Problem::system(&format!("session {name} cannot be removed"), &err)),
        _ => Err(Problem::new(ProblemKind::Exists, format!("session {name} was started again"))),
    }
}

fn take_away(dir: &Path) -> io::Result<()> {
    let moved = dir.with_file_name(format!("{OLD}{}-{}", std::process::id(), crate::message::now()));
    std::fs::rename(dir, &moved)?;
    std::fs::remove_dir_all(&moved)
}

/// Clears away what killed starts and removals left, as far as it is this user's.
fn sweep(sessions: &Path) {
    for entry in std::fs::read_dir(sessions).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let age = entry.metadata().and_then(|found| found.modified()).ok();
        let age = age.and_then(|modified| SystemTime::now().duration_since(modified).ok()).unwrap_or_default();
        let abandoned = name.starts_with(NEW) && age > ABANDONED && lock_of(&entry.path()).is_ok();
        if abandoned || name.starts_with(OLD) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Writes a file that others may read, whole.
///
/// # Errors
/// Those of the file system.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, bytes)?;
    std::fs::set_permissions(&beside, Permissions::from_mode(0o644))?;
    std::fs::rename(&beside, path)
}
