//! Tells at once that something has changed about the sessions of a base directory: one came or went, ended, backs off, was
//! started again, or lost its keeper. What it is now, [`crate::list`] says.
//!
//! The file system tells of directories and of states that are written down, a keeper's connection of a keeper that was killed.
//! Nothing is polled. Who is told only of changes from now on has missed none once it has heard a hello, and looks then.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::connect::SILENCE;
use crate::frame::{self, Frames, Kind};
use crate::message::{Hello, Problem};
use crate::start::{SOCKET, STATE, dir_of};

/// How long after a change it is told: what comes in between is told with it.
const BURST: Duration = Duration::from_millis(100);
/// When it is looked again for a keeper that takes no connection now.
const AGAIN: Duration = Duration::from_secs(1);
/// How much is read at once, in bytes.
const PIECE: usize = 16 * 1024;
/// The directory of all sessions, in the base directory.
const SESSIONS: &str = "sessions";

/// `watch BASE`: until standard input ends, or is silent for long.
pub fn main(base: &Path) -> ExitCode {
    let watched = Watch::begin(base).and_then(|mut watch| {
        say(&frame::message(Kind::Hello, &Hello { version: frame::VERSION }))?;
        watch.run()
    });
    match watched {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            let _ = say(&frame::message(Kind::Problem, &Problem::system("the sessions cannot be watched", &err)));
            ExitCode::FAILURE
        }
    }
}

fn say(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// What is watched.
struct Watch {
    base: PathBuf,
    inotify: OwnedFd,
    /// The watch on the base directory.
    of_base: i32,
    /// The one on the directory of all sessions, where it is there.
    of_all: Option<i32>,
    sessions: BTreeMap<String, Session>,
    /// When a change is told.
    due: Option<Instant>,
    /// For what is read.
    buffer: Vec<u8>,
}

/// One session.
struct Session {
    /// The watch on its directory. `None` for one that we may not read.
    of_dir: Option<i32>,
    keeper: Option<Held>,
}

/// A connection to a keeper that is held for its end alone.
struct Held {
    stream: UnixStream,
    frames: Frames,
    /// It has said how its session ended: it is about to go.
    has_ended: bool,
}

impl Watch {
    fn begin(base: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mask = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        let of_base = inotify::add_watch(&inotify, base, mask)?;
        let (sessions, buffer) = (BTreeMap::new(), vec![0; PIECE]);
        let mut watch = Self { base: base.to_owned(), inotify, of_base, of_all: None, sessions, due: None, buffer };
        watch.look()?;
        Ok(watch)
    }

    fn run(&mut self) -> io::Result<()> {
        let mut heard = Instant::now();
        loop {
            let (now, silent) = (Instant::now(), heard + SILENCE);
            if now >= silent {
                return Ok(());
            }
            let is_due = self.due.is_some_and(|due| now >= due);
            let until = self.due.filter(|_| !is_due).map_or(silent, |due| due.min(silent));
            let Ready { input, output, changes } = self.wait(is_due, until.saturating_duration_since(now))?;
            if !input.is_empty() {
                match rustix::io::read(rustix::stdio::stdin(), &mut *self.buffer) {
                    Ok(0) => return Ok(()),
                    Ok(_) => heard = Instant::now(),
                    Err(Errno::INTR | Errno::AGAIN) => {}
                    Err(err) => return Err(err.into()),
                }
            }
            if output.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
                return Ok(());
            }
            if changes && self.take_in()? {
                self.due = Some(Instant::now() + BURST);
            }
            if output.contains(PollFlags::OUT) {
                // All that has come until now is told with it, and watched from before it is told.
                self.take_in()?;
                self.due = None;
                self.look()?;
                say(&frame::bytes(Kind::Changed, &[]))?;
            }
        }
    }

    /// Waits for the other side, and for changes unless one is to be told already.
    fn wait(&self, is_due: bool, patience: Duration) -> Result<Ready, Errno> {
        let (input, output) = (rustix::stdio::stdin(), rustix::stdio::stdout());
        // Of who does not read, its end alone is heard.
        let wanted = if is_due { PollFlags::OUT } else { PollFlags::empty() };
        let mut list = vec![PollFd::new(&input, PollFlags::IN), PollFd::new(&output, wanted)];
        if self.due.is_none() {
            list.push(PollFd::new(&self.inotify, PollFlags::IN));
            let keepers = self.sessions.values().filter_map(|session| session.keeper.as_ref());
            list.extend(keepers.map(|keeper| PollFd::new(&keeper.stream, PollFlags::IN)));
        }
        // A poll is rounded down; a millisecond more, and it comes once.
        let timeout = Timespec::try_from(patience + Duration::from_millis(1)).ok();
        match poll(&mut list, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(err) => return Err(err),
        }
        let mut flags = list.iter().map(PollFd::revents);
        let mut next = || flags.next().unwrap_or(PollFlags::empty());
        let (input, output) = (next(), next());
        Ok(Ready { input, output, changes: flags.any(|flags| !flags.is_empty()) })
    }

    /// Takes in what has come, and yields whether anything changed by it.
    fn take_in(&mut self) -> io::Result<bool> {
        let mut has_changed = false;
        let mut buffer = [MaybeUninit::uninit(); PIECE];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            let event = match events.next() {
                Ok(event) => event,
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(err) => return Err(err.into()),
            };
            let (name, flags) = (event.file_name().map(std::ffi::CStr::to_bytes), event.events());
            has_changed |= if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                true
            } else if event.wd() == self.of_base {
                if flags.contains(ReadFlags::IGNORED) {
                    return Err(ErrorKind::NotFound.into());
                }
                name == Some(SESSIONS.as_bytes())
            } else if Some(event.wd()) == self.of_all {
                // What is being made or removed has a dot before its name.
                name.is_none_or(|name| !name.starts_with(b"."))
            } else {
                name == Some(STATE.as_bytes())
            };
            if events.is_buffer_empty() {
                break;
            }
        }
        for session in self.sessions.values_mut() {
            has_changed |= session.hear(&mut self.buffer);
        }
        Ok(has_changed)
    }

    /// Watches what is there now. What may not be watched is left out; that there is no room for watches is an error.
    fn look(&mut self) -> io::Result<()> {
        let all = self.base.join(SESSIONS);
        let mask = WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::DELETE;
        let of_all = self.add(&all, mask | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF)?;
        self.forget(self.of_all.filter(|_| self.of_all != of_all));
        self.of_all = of_all;
        let entries = match std::fs::read_dir(&all) {
            Ok(entries) => Some(entries),
            Err(err) if is_for_want_of_room(&err) => return Err(err),
            Err(_) => None,
        };
        let mut before = std::mem::take(&mut self.sessions);
        for entry in entries.into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| dir_of(&self.base, name).is_some()) else { continue };
            // The watch first: what its keeper does once it takes connections is told by one of the two.
            let of_dir = self.add(&entry.path(), WatchFlags::MOVED_TO)?;
            let known = match before.remove(name) {
                Some(known) if known.of_dir == of_dir => known.keeper,
                Some(known) => {
                    self.forget(known.of_dir);
                    None
                }
                None => None,
            };
            let keeper = match known {
                Some(keeper) => Some(keeper),
                None => self.hold(&entry.path())?,
            };
            self.sessions.insert(name.to_owned(), Session { of_dir, keeper });
        }
        before.into_values().for_each(|gone| self.forget(gone.of_dir));
        Ok(())
    }

    /// Watches a directory. The same one has the same watch.
    fn add(&self, dir: &Path, mask: WatchFlags) -> io::Result<Option<i32>> {
        match inotify::add_watch(&self.inotify, dir, mask | WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW) {
            Ok(watch) => Ok(Some(watch)),
            Err(err) if is_for_want_of_room(&err.into()) => Err(err.into()),
            Err(_) => Ok(None),
        }
    }

    fn forget(&self, watch: Option<i32>) {
        // One whose directory is gone is gone already.
        let _ = watch.map(|watch| inotify::remove_watch(&self.inotify, watch));
    }

    /// Connects to a session's keeper, where there is one.
    fn hold(&mut self, dir: &Path) -> io::Result<Option<Held>> {
        match Held::connect(dir) {
            Ok(held) => Ok(Some(held)),
            Err(err) if is_for_want_of_room(&err) => Err(err),
            Err(err) if err.kind() == ErrorKind::WouldBlock => {
                // It may be gone by then without a word.
                self.due = Some(Instant::now() + AGAIN);
                Ok(None)
            }
            Err(_) => Ok(None),
        }
    }
}

/// What was waited for.
struct Ready {
    input: PollFlags,
    output: PollFlags,
    changes: bool,
}

/// Whether it is nothing about what was asked for.
fn is_for_want_of_room(err: &io::Error) -> bool {
    let errno = Errno::from_io_error(err);
    matches!(errno, Some(Errno::NOSPC | Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::NOBUFS))
}

impl Held {
    /// Never waits. A keeper's session is no busier for it.
    fn connect(dir: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(dir.join(SOCKET))?)?;
        let mut stream = UnixStream::from(socket);
        let mut told = frame::message(Kind::Hello, &Hello { version: frame::VERSION });
        told.extend(frame::bytes(Kind::Wait, &[]));
        stream.write_all(&told)?;
        Ok(Self { stream, frames: Frames::default(), has_ended: false })
    }
}

impl Session {
    /// Hears its keeper, and yields whether anything has changed.
    fn hear(&mut self, buffer: &mut [u8]) -> bool {
        let Some(keeper) = &mut self.keeper else { return false };
        let had_ended = keeper.has_ended;
        match keeper.stream.read(buffer) {
            Ok(length @ 1..) => keeper.frames.push(buffer.get(..length).unwrap_or_default()),
            Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return false,
            Ok(_) | Err(_) => {
                self.keeper = None;
                return !had_ended;
            }
        }
        loop {
            match keeper.frames.next() {
                Ok(Some(frame)) if frame.kind == Kind::Ended => keeper.has_ended = true,
                // It refuses us: of its end we do not hear.
                Ok(Some(frame)) if frame.kind == Kind::Problem => {
                    self.keeper = None;
                    return false;
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => {
                    self.keeper = None;
                    return false;
                }
            }
        }
        // Where its directory is watched, its state has told of it.
        keeper.has_ended && !had_ended && self.of_dir.is_none()
    }
}
