//! The command: its process, its streams, and its end.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use rustix::termios::{Winsize, tcsetwinsize};

use super::nonblocking;
use crate::frame::Stream;
use crate::message::{Exit, Problem, ProblemKind, Size, Spec, Stdin};
use crate::proc;

/// How long a command may take from fork to exec.
const BEGIN: Duration = Duration::from_secs(30);
/// How quiet a command is that waits for input, in milliseconds.
const QUIET: u64 = 1000;
/// How much a pipe may hold, in bytes.
const PIPE: usize = 256 * 1024;

/// A command that was started.
pub(super) struct Child {
    pub(super) pid: Pid,
    /// When it started, in ticks since boot.
    pub(super) start: Option<u64>,
    pub(super) stdin: Option<OwnedFd>,
    /// When it was found to have closed its standard input. It may be about to end.
    pub(super) broken: Option<Instant>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    is_tty: bool,
    /// How it ended, while what it left behind goes on.
    pub(super) exit: Option<Exit>,
    /// When all that is left is killed.
    pub(super) kill_at: Option<Instant>,
    oom_kills: Option<u64>,
}

impl Child {
    /// Starts it. What prevents it is an error, and then nothing of it is left.
    pub(super) fn start(spec: &Spec, dir: &Path) -> Result<Self, Problem> {
        let failed =
            |err: io::Error| Problem::new(ProblemKind::Command, format!("the command cannot be started: {err}"));
        let (streams, stdio) = Streams::open(spec).map_err(failed)?;
        let fifo = dir.join("begins");
        let _ = std::fs::remove_file(&fifo);
        rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .map_err(|err| failed(err.into()))?;
        let report = rustix::fs::open(&fifo, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
        let report = report.map_err(|err| failed(err.into()))?;
        let mut command = Command::new("/proc/self/exe");
        command.arg("child").arg(&fifo).arg(std::process::id().to_string());
        command.arg(if spec.tty.is_some() { "tty" } else { "pipe" });
        command.args(spec.command.iter().map(|word| word.os()));
        command.envs(spec.env.iter().map(|(name, value)| (name.os(), value.os())));
        if let Some(cwd) = &spec.cwd {
            command.current_dir(cwd.os());
        }
        let [stdin, stdout, stderr] = stdio;
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        let oom_kills = proc::oom_kills();
        let child = command.spawn().map_err(failed)?;
        // The command's ends of its streams are its own from here on.
        drop(command);
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
        let Some(pid) = pid else { return Err(failed(Errno::SRCH.into())) };
        let begun = begins(&report).and_then(|why| if why.is_empty() { Ok(()) } else { Err(io::Error::other(why)) });
        let _ = std::fs::remove_file(&fifo);
        if let Err(err) = begun {
            let _ = kill_process(pid, Signal::KILL);
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            return Err(failed(err));
        }
        let start = proc::stat(pid.as_raw_nonzero().get()).map(|stat| stat.start);
        let Streams { stdin, stdout, stderr, is_tty } = streams;
        Ok(Self { pid, start, stdin, broken: None, stdout, stderr, is_tty, exit: None, kill_at: None, oom_kills })
    }

    /// The outputs that are open.
    pub(super) fn outputs(&self) -> impl Iterator<Item = (Stream, &OwnedFd)> {
        let stdout = self.stdout.iter().map(|fd| (Stream::Stdout, fd));
        stdout.chain(self.stderr.iter().map(|fd| (Stream::Stderr, fd)))
    }

    pub(super) fn output(&self, stream: Stream) -> Option<&OwnedFd> {
        match stream {
            Stream::Stdout => self.stdout.as_ref(),
            Stream::Stderr => self.stderr.as_ref(),
        }
    }

    pub(super) fn close(&mut self, stream: Stream) {
        match stream {
            Stream::Stdout => self.stdout = None,
            Stream::Stderr => self.stderr = None,
        }
    }

    pub(super) fn is_tty(&self) -> bool {
        self.is_tty
    }

    /// Gives its terminal another size.
    pub(super) fn resize(&self, size: Size) {
        if let (true, Some(terminal)) = (self.is_tty, &self.stdout) {
            let _ = tcsetwinsize(terminal, winsize(size));
        }
    }

    /// Sends a signal to its process group.
    pub(super) fn signal(&self, signal: Signal) {
        if self.exit.is_none() {
            let _ = kill_process_group(self.pid, signal);
        }
    }

    /// Sends a signal to whatever it started that is still there. Yields whether there was anything.
    pub(super) fn signal_leftovers(&self, signal: Signal) -> bool {
        let keeper = i32::try_from(std::process::id()).unwrap_or_default();
        let left = proc::leftovers(self.pid.as_raw_nonzero().get(), keeper);
        for pid in left.iter().filter_map(|pid| Pid::from_raw(*pid)) {
            let _ = kill_process(pid, signal);
        }
        !left.is_empty() || kill_process_group(self.pid, signal).is_ok()
    }

    /// Whether the kernel has ended a process here for want of memory since it was started.
    pub(super) fn was_short_of_memory(&self) -> bool {
        matches!((self.oom_kills, proc::oom_kills()), (Some(before), Some(after)) if after > before)
    }

    /// See [`crate::message::State::waiting_for_input`].
    pub(super) fn waits_for_input(&self, quiet: u64, nothing_queued: bool) -> Option<bool> {
        let stdin = self.stdin.as_ref()?;
        if quiet < QUIET || !nothing_queued {
            return Some(false);
        }
        // What it has not read is still in the pipe; of a terminal that cannot be told.
        if !self.is_tty && rustix::io::ioctl_fionread(stdin).ok()? > 0 {
            return Some(false);
        }
        proc::sleeps(self.pid.as_raw_nonzero().get())
    }
}

/// Waits until the command has taken the place of our program. Yields what prevented it.
fn begins(report: &OwnedFd) -> io::Result<String> {
    let timeout = Timespec::try_from(BEGIN).ok();
    let mut list = [PollFd::new(report, PollFlags::IN)];
    loop {
        match poll(&mut list, timeout.as_ref()) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(err) => return Err(err.into()),
        }
    }
    let mut why = String::new();
    // Ready is an end or the whole of a sentence: it is written at once, and the fifo closed.
    let mut report = File::from(report.try_clone()?);
    loop {
        let mut piece = [0; 512];
        match report.read(&mut piece) {
            Ok(0) => return Ok(why),
            Ok(length) => why.push_str(&String::from_utf8_lossy(&piece[..length])),
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(&report, PollFlags::IN)], timeout.as_ref())?;
            }
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}

/// Our ends of its streams.
struct Streams {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    is_tty: bool,
}

impl Streams {
    fn open(spec: &Spec) -> io::Result<(Self, [Stdio; 3])> {
        match spec.tty {
            Some(size) => Self::terminal(size),
            None => Self::pipes(spec.stdin),
        }
    }

    fn pipes(stdin: Stdin) -> io::Result<(Self, [Stdio; 3])> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC);
        let (stdin, its_stdin) = match stdin {
            Stdin::Closed => (None, Stdio::null()),
            Stdin::Pipe => {
                let (reader, writer) = pipe()?;
                nonblocking(&writer)?;
                (Some(writer), Stdio::from(reader))
            }
        };
        let (stdout, its_stdout) = pipe()?;
        let (stderr, its_stderr) = pipe()?;
        nonblocking(&stdout)?;
        nonblocking(&stderr)?;
        // Larger ones are for speed alone.
        let _ = rustix::pipe::fcntl_setpipe_size(&stdout, PIPE);
        let streams = Self { stdin, stdout: Some(stdout), stderr: Some(stderr), is_tty: false };
        Ok((streams, [its_stdin, its_stdout.into(), its_stderr.into()]))
    }

    fn terminal(size: Size) -> io::Result<(Self, [Stdio; 3])> {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        tcsetwinsize(&master, winsize(size))?;
        nonblocking(&master)?;
        let its = [Stdio::from(slave.try_clone()?), Stdio::from(slave.try_clone()?), Stdio::from(slave)];
        Ok((Self { stdin: Some(master.try_clone()?), stdout: Some(master), stderr: None, is_tty: true }, its))
    }
}

fn winsize(size: Size) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Reads what is there.
pub(super) fn read(from: impl AsFd, buffer: &mut [u8]) -> Taken {
    loop {
        return match rustix::io::read(&from, &mut *buffer) {
            Ok(0) => Taken::End,
            Ok(length) => Taken::Some(length),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => Taken::Nothing,
            // Of a terminal that nobody has open any more.
            Err(_) => Taken::End,
        };
    }
}

/// What a reading came to.
pub(super) enum Taken {
    /// So many bytes.
    Some(usize),
    /// None now.
    Nothing,
    /// None any more.
    End,
}
