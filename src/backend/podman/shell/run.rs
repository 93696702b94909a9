//! Runs one command in the guest: its deadline, what is sent to it, what may come back, and its end in any case.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};

use super::{Shell, error};
use crate::backend::podman::answer;
use crate::backend::podman::error::{ANSWER_LIMIT, About, timed_out, too_large, unreadable};
use crate::backend::pty::{Pty, Reader, Sizes};
use crate::backend::{EngineError, EngineErrorKind, TermSize};
use crate::model::Secrets;

/// How long an ordinary call may take: an ssh session and a cold Podman in an emulated machine take several seconds.
const DEADLINE: Duration = Duration::from_secs(30);
/// How much of standard error is kept; the rest is read and forgotten.
const COMPLAINT_LIMIT: usize = 64 << 10;

/// One command.
pub(super) struct Call {
    /// Completes "failed to …".
    what: String,
    about: About,
    /// As it stands in an error's details: without secrets.
    shown: String,
    words: Vec<String>,
    instance: String,
    /// Never shown: it may hold secrets.
    input: Option<Vec<u8>>,
    secrets: Secrets,
    pub deadline: Duration,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("shown", &self.shown).finish_non_exhaustive()
    }
}

impl Call {
    pub(super) fn new(what: String, about: About, shown: String, words: Vec<String>, instance: &str) -> Self {
        let (input, secrets, instance) = (None, Secrets::default(), instance.to_owned());
        Self { what, about, shown, words, instance, input, secrets, deadline: DEADLINE }
    }

    /// Sends this first.
    pub(super) fn sending(mut self, script: String) -> Self {
        self.input = Some(script.into_bytes());
        self
    }

    /// Keeps these values out of what is told of a failure.
    pub(super) fn hiding(mut self, secrets: Secrets) -> Self {
        self.secrets = secrets;
        self
    }

    pub(super) fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    pub(super) fn input(&self) -> &[u8] {
        self.input.as_deref().unwrap_or_default()
    }

    pub(super) fn what(&self) -> &str {
        &self.what
    }

    pub(super) fn about(&self) -> About {
        self.about
    }

    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    pub(super) fn instance(&self) -> &str {
        &self.instance
    }

    pub(super) fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    #[cfg(test)]
    pub(crate) fn words(&self) -> &[String] {
        &self.words
    }

    pub(super) fn json(&self, answer: &[u8]) -> Result<Value, EngineError> {
        answer::parse(answer).map_err(|why| self.unreadable(&why))
    }

    pub(super) fn unreadable(&self, why: &str) -> EngineError {
        unreadable(&self.what, &self.shown, why)
    }

    pub(super) fn timed_out(&self) -> EngineError {
        timed_out(&self.what, &self.shown, self.deadline)
    }

    /// What this process could not do with the child's pipes.
    pub(super) fn broken(&self, err: &std::io::Error) -> EngineError {
        EngineError {
            command: Some(self.shown.clone()),
            ..EngineError::new(
                EngineErrorKind::TransportUnavailable,
                format!("failed to {}: the connection to instance `{}` broke ({err})", self.what, self.instance),
            )
        }
    }
}

/// A child in a process group of its own, which ends with this handle. Killing limactl alone would leave its ssh.
#[derive(Debug)]
pub(super) struct KillOnDrop(Child);

impl KillOnDrop {
    /// Waits for its end: the exit code, or `None` when a signal ended it.
    pub(super) async fn ended(&mut self) -> std::io::Result<Option<i32>> {
        self.0.wait().await.map(code_of)
    }

    /// Its process group. `None` once it was waited for: then the number may be another's.
    pub(super) fn group(&self) -> Option<Pid> {
        self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
    }
}

fn code_of(status: ExitStatus) -> Option<i32> {
    status.signal().is_none().then(|| status.code()).flatten()
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(group) = self.group() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// A child with its pipes.
pub(super) struct Running {
    pub child: KillOnDrop,
    pub stdin: ChildStdin,
    pub stdout: ChildStdout,
    pub stderr: ChildStderr,
}

/// A child on a terminal: its standard input and output.
pub(super) struct OnTerminal {
    pub child: KillOnDrop,
    pub reader: Reader,
    pub writer: pipe::Sender,
    pub sizes: Sizes,
    pub stderr: ChildStderr,
}

/// A child's end.
#[derive(Debug)]
pub(super) struct Ended {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Ended {
    /// Whether nobody complained, beyond log lines.
    pub(super) fn says_nothing(&self) -> bool {
        error::is_silent(&self.stderr)
    }
}

impl Shell {
    /// Starts a command and sends it what is to be sent; its standard input stays open.
    pub(super) async fn start_child(&self, call: &Call) -> Result<Running, EngineError> {
        let mut running = self.spawn(call)?;
        // A child that ended early tells why by itself.
        let _ = running.stdin.write_all(call.input()).await;
        Ok(running)
    }

    pub(super) fn spawn(&self, call: &Call) -> Result<Running, EngineError> {
        let mut command = self.limactl.shell(&self.instance);
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        command.args(&call.words).stdin(Stdio::piped()).process_group(0);
        let failed = |err: &std::io::Error| error::not_started(call, &program, err);
        let mut child = command.spawn().map_err(|err| failed(&err))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let child = KillOnDrop(child);
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(failed(&std::io::Error::other("it has no pipes")));
        };
        Ok(Running { child, stdin, stdout, stderr })
    }

    /// Starts a command on a terminal. Nothing is sent to it.
    pub(super) fn spawn_on_terminal(&self, call: &Call, size: TermSize) -> Result<OnTerminal, EngineError> {
        let mut command = self.limactl.shell(&self.instance);
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        let failed = |err: &std::io::Error| error::not_started(call, &program, err);
        let no_terminal = |err| call.broken(&std::io::Error::other(format!("no pseudo-terminal can be made: {err}")));
        let Pty { reader, writer, sizes, theirs } = Pty::open(size).map_err(no_terminal)?;
        let also_theirs = theirs.try_clone().map_err(no_terminal)?;
        command.args(&call.words).stdin(theirs).stdout(also_theirs).process_group(0);
        let mut child = command.spawn().map_err(|err| failed(&err))?;
        let stderr = child.stderr.take();
        let child = KillOnDrop(child);
        let stderr = stderr.ok_or_else(|| failed(&std::io::Error::other("it has no pipes")))?;
        Ok(OnTerminal { child, reader, writer, sizes, stderr })
    }

    /// Runs a command to its end and yields its standard output.
    pub(super) async fn run(&self, call: &Call) -> Result<Vec<u8>, EngineError> {
        let ended = self.end_of(call).await?;
        self.success(call, ended)
    }

    /// The standard output of a command that ended well; of another, what it came to.
    pub(super) fn success(&self, call: &Call, ended: Ended) -> Result<Vec<u8>, EngineError> {
        match ended.code {
            Some(0) => Ok(ended.stdout),
            code => Err(error::refused(call, code, &ended.stderr)),
        }
    }

    /// Runs a command to its end, whatever that is, within its deadline.
    pub(super) async fn end_of(&self, call: &Call) -> Result<Ended, EngineError> {
        let work = async {
            let Running { mut child, mut stdin, mut stdout, mut stderr } = self.spawn(call)?;
            let send = async move {
                let _ = stdin.write_all(call.input()).await;
                // Dropped, and so closed.
                Ok(())
            };
            let complaint = async { Ok(complaint(&mut stderr).await) };
            // Once the answer is too large nobody reads it any more, and the child would wait for that.
            let ((), stdout, stderr) = tokio::try_join!(send, answer(call, &mut stdout), complaint)?;
            let code = child.ended().await.map_err(|err| call.broken(&err))?;
            Ok(Ended { code, stdout, stderr })
        };
        tokio::time::timeout(call.deadline, work).await.unwrap_or_else(|_| Err(call.timed_out()))
    }
}

/// Reads an answer whole.
pub(super) async fn answer(call: &Call, from: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, EngineError> {
    let mut bytes = Vec::new();
    from.take(ANSWER_LIMIT as u64 + 1).read_to_end(&mut bytes).await.map_err(|err| call.broken(&err))?;
    match bytes.len() > ANSWER_LIMIT {
        true => Err(too_large(&call.what, &call.shown, ANSWER_LIMIT)),
        false => Ok(bytes),
    }
}

/// Reads standard error to its end and keeps the last part of it, where the reason stands.
pub(super) async fn complaint(from: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut piece = [0; 8192];
    while let Ok(length) = from.read(&mut piece).await {
        if length == 0 {
            break;
        }
        kept.extend(piece.iter().take(length));
        if kept.len() > 2 * COMPLAINT_LIMIT {
            kept.drain(..kept.len() - COMPLAINT_LIMIT);
        }
    }
    kept
}
