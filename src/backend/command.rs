//! Runs a child to its end: within a deadline, with bounded output, and never waiting for a person.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// The most bytes of standard output that are kept: with them, less than 64 MiB are taken in all.
const STDOUT_LIMIT: usize = 32 << 20;
/// The last so many bytes of standard error are kept.
const STDERR_LIMIT: usize = 64 << 10;

/// What a child left.
#[derive(Debug)]
pub(crate) struct Output {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// The end of what it complained about.
    pub stderr: String,
}

/// Why there is no output.
#[derive(Debug)]
pub(crate) enum RunError {
    /// It could not be started, or its pipes broke.
    Io(io::Error),
    /// It did not end in time, and was killed.
    TimedOut,
    /// It printed more than is kept.
    TooMuch,
}

/// Runs `command` and feeds it `input`. Dropping the future kills the child.
pub(crate) async fn run(mut command: Command, input: &[u8], limit: Duration) -> Result<Output, RunError> {
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(RunError::Io)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A child that does not read to the end says why by its exit code.
            let _ = stdin.write_all(input).await;
        }
    };
    let work = async {
        let ((), stdout, stderr) = tokio::join!(feed, read_all(stdout), read_end(stderr));
        let stdout = stdout?;
        let status = child.wait().await.map_err(RunError::Io)?;
        Ok(Output { code: status.code(), stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() })
    };
    tokio::time::timeout(limit, work).await.unwrap_or(Err(RunError::TimedOut))
}

async fn read_all(pipe: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>, RunError> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(STDOUT_LIMIT as u64 + 1).read_to_end(&mut bytes).await.map_err(RunError::Io)?;
    }
    if bytes.len() > STDOUT_LIMIT { Err(RunError::TooMuch) } else { Ok(bytes) }
}

/// The end of what comes; all of it is read, so that the child is never held up.
async fn read_end(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut pipe) = pipe else { return kept };
    let mut piece = vec![0; 8 << 10];
    while let Ok(read @ 1..) = pipe.read(&mut piece).await {
        kept.extend_from_slice(&piece[..read]);
        if kept.len() > 2 * STDERR_LIMIT {
            kept.drain(..kept.len() - STDERR_LIMIT);
        }
    }
    kept.drain(..kept.len().saturating_sub(STDERR_LIMIT));
    kept
}
