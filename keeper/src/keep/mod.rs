//! The keeper itself: one loop that waits for whatever comes next, be it output, a client, an end or a moment.
//!
//! Nothing is polled: without any of these it sleeps for ever.

mod child;
mod client;
mod life;
mod reaper;
mod requests;

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use self::child::Child;
use self::client::Client;
use self::reaper::Reaper;
use crate::frame::{self, Kind, Stream};
use crate::input::{ClientId, Input};
use crate::log::Log;
use crate::message::{Problem, ProblemKind, Spec, State, now};
use crate::start::{SOCKET, STATE, write_whole};

/// How long clients may take to hear the end.
const FAREWELL: Duration = Duration::from_secs(10);
/// How long the command's output waits for a client that follows it and does not read.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many clients there may be.
const MAX_CLIENTS: usize = 1024;
/// How much output is read at once, in bytes.
const PIECE: usize = 64 * 1024;

/// `keep DIR`: `start` has claimed the directory, holds its lock as our standard input, and listens on our standard output.
pub fn main(dir: &Path) -> ExitCode {
    let begun = read_spec().and_then(|spec| Keeper::begin(dir, spec));
    let said = match &begun {
        Ok(keeper) => frame::message(Kind::State, &keeper.state()),
        Err(problem) => frame::message(Kind::Problem, problem),
    };
    let mut out = io::stdout().lock();
    // Who started us may be gone. The session is not.
    let _ = out.write_all(&said).and_then(|()| out.flush());
    drop(out);
    let Ok(mut keeper) = begun else { return ExitCode::FAILURE };
    if let Ok(null) = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty()) {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
    match keeper.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// From standard output, which is a socket.
fn read_spec() -> Result<Spec, Problem> {
    struct Out;
    impl io::Read for Out {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            Ok(rustix::io::read(rustix::stdio::stdout(), buffer)?)
        }
    }
    let frame = frame::read(&mut Out).map_err(|err| Problem::system("the keeper was told nothing", &err))?;
    let spec = frame.and_then(|frame| serde_json::from_slice(&frame.payload).ok());
    spec.ok_or_else(|| Problem::new(ProblemKind::Protocol, "the keeper was told nothing"))
}

/// What the command is doing.
enum Phase {
    /// It runs, or what it left behind does.
    Alive(Child),
    /// It is started again then.
    BackingOff(Instant),
    /// It is over.
    Over,
}

/// The keeper of one session.
struct Keeper {
    spec: Spec,
    dir: PathBuf,
    listener: UnixListener,
    log: Log,
    input: Input,
    clients: Vec<Client>,
    next_client: ClientId,
    reaper: Reaper,
    phase: Phase,
    /// All of the state that is not of the moment.
    state: State,
    /// When something was last printed or sent.
    active: Instant,
    /// Restarts in a row, each of which ended soon.
    short_lives: u32,
    /// Set once it is over.
    farewell: Option<Instant>,
    /// For what is read.
    buffer: Vec<u8>,
}

/// Who a descriptor in the list to wait for belongs to.
#[derive(Clone, Copy)]
enum Source {
    Listener,
    Reaper,
    Input,
    Output(Stream),
    Client(usize),
}

impl Keeper {
    fn begin(dir: &Path, spec: Spec) -> Result<Self, Problem> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |err: io::Error| Problem::system(&what, &err)
        };
        rustix::process::setsid().map_err(|err| failed("the keeper gets no session")(err.into()))?;
        // Nothing is kept busy by where we stand.
        std::env::set_current_dir("/").map_err(failed("the keeper cannot leave its directory"))?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|err| failed("the keeper cannot reap")(err.into()))?;
        let listener = UnixListener::bind(dir.join(SOCKET)).map_err(failed("the keeper gets no socket"))?;
        listener.set_nonblocking(true).map_err(failed("the keeper gets no socket"))?;
        // Who may speak is asked by credentials: root may be without the power to open what it does not own.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(dir.join(SOCKET), open).map_err(failed("the keeper gets no socket"))?;
        let log = Log::open(dir, spec.log_max).map_err(failed("the keeper gets no log"))?;
        let reaper = Reaper::start().map_err(failed("the keeper cannot reap"))?;
        let mut keeper = Self {
            state: life::first_state(&spec),
            input: Input::new(dir),
            dir: dir.to_owned(),
            listener,
            log,
            clients: Vec::new(),
            next_client: 0,
            reaper,
            phase: Phase::Over,
            active: Instant::now(),
            short_lives: 0,
            farewell: None,
            buffer: vec![0; PIECE],
            spec,
        };
        keeper.launch()?;
        keeper.save().map_err(failed("the keeper cannot write its state"))?;
        Ok(keeper)
    }

    /// Until it is over and everybody has heard of it.
    fn run(&mut self) -> Result<(), Errno> {
        loop {
            self.serve();
            if let Some(since) = self.farewell
                && (self.clients.iter().all(Client::has_all) || self.is_farewell_over(since))
            {
                let _ = std::fs::remove_file(self.dir.join(SOCKET));
                return Ok(());
            }
            let (sources, ready) = self.wait()?;
            for (source, flags) in sources.into_iter().zip(ready) {
                if !flags.is_empty() {
                    self.on_ready(source, flags);
                }
            }
            self.on_time(Instant::now());
        }
    }

    /// Waits for the next thing to happen.
    fn wait(&self) -> Result<(Vec<Source>, Vec<PollFlags>), Errno> {
        let mut sources = Vec::with_capacity(4 + self.clients.len());
        let mut list = Vec::with_capacity(4 + self.clients.len());
        let mut add = |source, fd, flags| {
            sources.push(source);
            list.push(PollFd::from_borrowed_fd(fd, flags));
        };
        add(Source::Listener, self.listener.as_fd(), PollFlags::IN);
        add(Source::Reaper, self.reaper.as_fd(), PollFlags::IN);
        if let Phase::Alive(child) = &self.phase {
            if let Some(input) = &child.stdin
                && !self.input.is_empty()
            {
                add(Source::Input, input.as_fd(), PollFlags::OUT);
            }
            if !self.holds_back() {
                for (stream, fd) in child.outputs() {
                    add(Source::Output(stream), fd.as_fd(), PollFlags::IN);
                }
            }
        }
        for (index, client) in self.clients.iter().enumerate() {
            let mut flags = PollFlags::empty();
            if client.wants_more(self.input.is_full()) {
                flags |= PollFlags::IN;
            }
            if client.has_more() {
                flags |= PollFlags::OUT;
            }
            add(Source::Client(index), client.stream.as_fd(), flags);
        }
        let timeout = self.next_moment().map(|moment| moment.saturating_duration_since(Instant::now()));
        // A poll is rounded down; a millisecond more, and it comes once.
        let timeout = timeout.and_then(|left| Timespec::try_from(left + Duration::from_millis(1)).ok());
        loop {
            match poll(&mut list, timeout.as_ref()) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(err) => return Err(err),
            }
        }
        Ok((sources, list.iter().map(PollFd::revents).collect()))
    }

    fn on_ready(&mut self, source: Source, flags: PollFlags) {
        match source {
            Source::Listener => self.accept(),
            Source::Reaper => self.reap(),
            Source::Input => self.pump(),
            Source::Output(stream) => self.read_output(stream),
            Source::Client(index) => self.hear(index, flags),
        }
    }

    /// The next moment at which something is to be done without anybody asking.
    fn next_moment(&self) -> Option<Instant> {
        let mut moments = vec![self.input.deadline(), self.farewell.map(|_| Instant::now() + FAREWELL)];
        match &self.phase {
            Phase::Alive(child) => {
                moments.push(child.kill_at);
                if child.exit.is_none() {
                    moments.push(child.broken.filter(|_| !self.input.is_empty()).map(|since| since + requests::BROKEN));
                    moments.push(self.idle_at());
                }
            }
            Phase::BackingOff(until) => moments.push(Some(*until)),
            Phase::Over => {}
        }
        if self.holds_back() {
            moments.extend(
                self.clients.iter().filter(|client| self.is_behind(client)).map(|client| Some(client.moved + PATIENCE)),
            );
        }
        moments.into_iter().flatten().min()
    }

    /// Whether nobody has taken a byte for long.
    fn is_farewell_over(&self, since: Instant) -> bool {
        let moved = self.clients.iter().map(|client| client.moved).max();
        moved.map_or(since, |moved| moved.max(since)).elapsed() > FAREWELL
    }

    /// Whether a client that follows has so much still to read that the command has to wait for it.
    fn holds_back(&self) -> bool {
        self.clients.iter().any(|client| self.is_behind(client))
    }

    fn is_behind(&self, client: &Client) -> bool {
        client.behind(self.log.end()).is_some_and(|behind| behind > self.log.max() / 2)
    }

    /// When it has been idle for too long. Told to end, it is idle no more.
    fn idle_at(&self) -> Option<Instant> {
        if self.state.stopped {
            return None;
        }
        self.spec.idle_stop.map(|idle| self.active + Duration::from_millis(idle.after_ms))
    }

    /// How the session is now.
    fn state(&self) -> State {
        let mut state = self.state.clone();
        if let Phase::Alive(child) = &self.phase
            && child.exit.is_none()
        {
            let quiet = u64::try_from(self.active.elapsed().as_millis()).unwrap_or(u64::MAX);
            state.idle_ms = Some(quiet);
            state.waiting_for_input = child.waits_for_input(quiet, self.input.is_empty());
        }
        state.lost = self.log.lost();
        state
    }

    /// Writes the state down, for when we are gone.
    fn save(&self) -> io::Result<()> {
        write_whole(&self.dir.join(STATE), &serde_json::to_vec(&self.state())?)
    }

    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// Says of what it is that is refused.
    fn full_name(&self) -> String {
        format!("{}/{}", self.spec.agent, self.spec.name)
    }

    fn note_output(&mut self) {
        self.active = Instant::now();
        self.state.last_output_at = Some(now());
    }
}

/// A descriptor that never makes us wait.
fn nonblocking(fd: &OwnedFd) -> Result<(), Errno> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK)
}
