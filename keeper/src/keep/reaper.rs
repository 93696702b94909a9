//! Hears of processes that ended: a thread that sleeps in the kernel, since no descriptor tells of it everywhere.
//!
//! It only looks. Taking the dead away is the loop's, so that nobody else's child is taken in between.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions, WaitStatus, wait, waitid};

/// The thread's other end.
pub(super) struct Reaper {
    told: OwnedFd,
    go_on: Sender<()>,
}

impl Reaper {
    pub(super) fn start() -> io::Result<Self> {
        let (told, tell) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let (go_on, goes_on) = channel();
        thread::Builder::new().stack_size(64 * 1024).spawn(move || {
            // Until the loop is gone.
            while goes_on.recv().is_ok() {
                loop {
                    match waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
                        Ok(_) => break,
                        Err(Errno::INTR) => {}
                        // Nobody is there to wait for: it goes on once there may be.
                        Err(_) => break,
                    }
                }
                if rustix::io::write(&tell, &[1]).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { told, go_on })
    }

    /// Says that there is a child to wait for.
    pub(super) fn watch(&self) {
        let _ = self.go_on.send(());
    }

    /// All that have ended. While any child is left, the next one is waited for.
    pub(super) fn take(&self) -> Vec<(Pid, WaitStatus)> {
        let mut told = [0; 64];
        while rustix::io::read(&self.told, &mut told).is_ok_and(|length| length > 0) {}
        let mut ended = Vec::new();
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(one)) => ended.push(one),
                Ok(None) => {
                    self.watch();
                    return ended;
                }
                Err(Errno::INTR) => {}
                Err(_) => return ended,
            }
        }
    }
}

impl AsFd for Reaper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.told.as_fd()
    }
}
