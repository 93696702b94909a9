//! The moment between the keeper and the command: a session of its own, and the command in the place of this program.
//!
//! A program of its own, since what is to be done between fork and exec cannot be said without unsafe code otherwise.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::process::{Signal, getppid, ioctl_tiocsctty, set_parent_process_death_signal, setsid};

/// `child FIFO KEEPER pipe|tty CMD…`: runs the command; what prevents it is written into the fifo, which else closes.
pub fn main(words: &[OsString]) -> ExitCode {
    let [fifo, keeper, how, program, arguments @ ..] = words else { return ExitCode::from(64) };
    let Ok(mut report) = OpenOptions::new().write(true).open(fifo) else { return ExitCode::from(125) };
    let refused = match prepare(keeper, how == "tty") {
        Ok(()) => Command::new(program).args(arguments).exec(),
        Err(err) => err.into(),
    };
    let _ = write!(report, "{refused}");
    ExitCode::from(127)
}

fn prepare(keeper: &OsString, tty: bool) -> rustix::io::Result<()> {
    setsid()?;
    // The command must not outlive who knows of it: another one would be started beside it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let parent = getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if parent.as_deref() != keeper.to_str() {
        return Err(rustix::io::Errno::SRCH);
    }
    if tty { ioctl_tiocsctty(rustix::stdio::stdin()) } else { Ok(()) }
}
