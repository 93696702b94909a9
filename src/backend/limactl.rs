//! The only file that knows limactl's arguments and its output (Lima 2.0 and later; seen: 2.1.4).

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

/// How limactl is called: which program, and which `LIMA_HOME`.
#[derive(Debug, Clone)]
pub struct Limactl {
    program: PathBuf,
    home: PathBuf,
}

impl Limactl {
    /// `program` is looked for in `PATH` unless it has a slash; `home` is Lima's home directory.
    pub fn new(program: impl Into<PathBuf>, home: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), home: home.into() }
    }

    /// Lima's home directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// `limactl --tty=false VERB`: on a terminal some verbs would ask a question and wait for a person. Standard input is
    /// null, the child ends with its handle.
    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("LIMA_HOME", &self.home)
            .args(["--tty=false", verb])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// `limactl shell`, to which a command and its arguments are to be added; its exit code is theirs, 255 when ssh failed
    /// (so says ssh(1)). Lima quotes the words for the guest's shell. Without `--workdir`, it tries to enter our own
    /// directory in the guest.
    pub fn shell(&self, instance: &str) -> Command {
        let mut command = self.command("shell");
        command.args(["--workdir", "/", instance]);
        command
    }
}
