//! A command on a pseudo-terminal, as a person has it before them.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

/// No command takes so long to show something.
const LONGEST: Duration = Duration::from_secs(60);
/// How long after it was closed a window is gone at the latest.
const STEP: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// A command that has a terminal, and whoever sits before it. Killed when dropped.
pub struct Terminal {
    keyboard: Option<File>,
    /// Keeps what the terminal is like when the command has ended.
    theirs: Option<OwnedFd>,
    shown: Arc<Mutex<Vec<u8>>>,
    screen: Option<JoinHandle<()>>,
    is_closed: Arc<AtomicBool>,
    child: Child,
}

impl Terminal {
    /// Starts a command on a terminal of this many columns and rows, which is its controlling one.
    pub fn start(command: &Command, cols: u16, rows: u16) -> Self {
        let ours = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::CLOEXEC).expect("ours alone");
        rustix::pty::grantpt(&ours).expect("granted");
        rustix::pty::unlockpt(&ours).expect("unlocked");
        let path = rustix::pty::ptsname(&ours, Vec::new()).expect("a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let theirs = rustix::fs::open(&*path, flags, Mode::empty()).expect("its other end");
        let stream = || Stdio::from(theirs.try_clone().expect("a copy"));
        tcsetwinsize(&ours, winsize(cols, rows)).expect("a size");
        // It execs what it is given: no leader of a group calls it.
        let mut leader = Command::new("setsid");
        leader.arg("--ctty").arg(command.get_program()).args(command.get_args()).env_clear();
        leader.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(dir) = command.get_current_dir() {
            leader.current_dir(dir);
        }
        let child = leader.stdin(stream()).stdout(stream()).stderr(stream()).spawn().expect("it starts");
        let keyboard = File::from(ours);
        let mut from = keyboard.try_clone().expect("a copy");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let into = shown.clone();
        let is_closed = Arc::new(AtomicBool::new(false));
        let closed = is_closed.clone();
        let screen = std::thread::spawn(move || {
            let mut piece = [0; 16 * 1024];
            while !closed.load(Ordering::Relaxed) {
                let mut awaited = [PollFd::new(&from, PollFlags::IN)];
                if poll(&mut awaited, Some(&STEP)).expect("awaited") == 0 {
                    continue;
                }
                let Ok(read @ 1..) = from.read(&mut piece) else { return };
                into.lock().expect("not poisoned").extend_from_slice(&piece[..read]);
            }
        });
        Self { keyboard: Some(keyboard), theirs: Some(theirs), shown, screen: Some(screen), is_closed, child }
    }

    /// Types this.
    pub fn types(&mut self, keys: impl AsRef<[u8]>) {
        self.keyboard.as_mut().expect("open").write_all(keys.as_ref()).expect("typed");
    }

    /// Makes the terminal another size.
    pub fn resize(&self, cols: u16, rows: u16) {
        tcsetwinsize(self.keyboard.as_ref().expect("open"), winsize(cols, rows)).expect("a size");
    }

    /// All that was shown so far.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().expect("not poisoned")).into_owned()
    }

    /// Waits until this is shown.
    #[track_caller]
    pub fn shows(&mut self, words: &str) {
        self.until(words, |shown| shown.contains(words));
    }

    /// Waits until what is shown is so.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut is_so: impl FnMut(&str) -> bool) {
        let deadline = Instant::now() + LONGEST;
        loop {
            // In this order, since it may end with its last words.
            let has_ended = self.has_ended();
            if is_so(&self.shown()) {
                return;
            }
            assert!(!has_ended && Instant::now() < deadline, "never shown: {what}\n{}", self.shown());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether the command has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("waitable").is_some()
    }

    /// Whether keys are passed on one by one, and not shown.
    pub fn is_raw(&self) -> bool {
        let modes = tcgetattr(self.theirs.as_ref().expect("open")).expect("modes");
        !modes.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// How the terminal is set, for comparison.
    pub fn modes(&self) -> String {
        format!("{:?}", tcgetattr(self.theirs.as_ref().expect("open")).expect("modes"))
    }

    /// Sends the command a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")).expect("a pid");
        let _ = kill_process(pid, signal);
    }

    /// Closes the window: the command's terminal is gone.
    pub fn close(&mut self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.theirs = None;
        self.keyboard = None;
        self.screen.take().expect("a screen").join().expect("a screen");
    }

    /// Waits for the command's end: its exit code, or 1000 and the number of the signal that ended it.
    #[track_caller]
    pub fn ends(&mut self) -> i32 {
        let deadline = Instant::now() + LONGEST;
        loop {
            if let Some(status) = self.child.try_wait().expect("waitable") {
                return status.code().unwrap_or_else(|| 1000 + status.signal().unwrap_or(0));
            }
            assert!(Instant::now() < deadline, "it hangs\n{}", self.shown());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// All that was shown by the end of the command, which has come.
    pub fn last(mut self) -> String {
        self.theirs = None;
        self.screen.take().expect("a screen").join().expect("a screen");
        self.shown()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn winsize(cols: u16, rows: u16) -> Winsize {
    Winsize { ws_col: cols, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}
