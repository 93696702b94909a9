//! A command in a container with a terminal: limactl runs on a pseudo-terminal of ours, and ssh makes one in the guest for it.
//!
//! limactl (2.0) has ssh do so when its standard output is a terminal. ssh gives the guest's terminal the modes of ours, which
//! is raw, and its size; of a new size it wants to be told. So nothing of the script that is sent through it is echoed, and
//! to be sure it is sent only when the guest has said that it echoes nothing. Standard error stays a pipe: what comes there
//! are words of ssh and limactl, while whatever the guest says comes through the terminal.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;
use tokio_util::io::ReaderStream;

use super::exec::{BEGINS, EXIT, Output};
use super::run::{Call, KillOnDrop, OnTerminal, complaint};
use super::script::{self, READY};
use super::{Shell, error};
use crate::backend::pty::{Reader, Sizes};
use crate::backend::{Chunk, EngineError, EngineErrorKind, Exec, TermSize};
use crate::model::ContainerId;
use crate::mutex::guard;

/// The exit code of ssh when it failed itself.
const SSH: i32 = 255;
/// How much may come before the guest says that it begins, such as the greeting of a login shell.
const GREETING: usize = 64 << 10;
/// How long after its end the last words of ssh are waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The terminal of a session, and the processes to be told of its new size: it is not theirs by the kernel's account.
#[derive(Debug)]
pub(super) struct Terminal {
    sizes: Sizes,
    group: Pid,
}

/// A command that begins.
struct Begun {
    child: KillOnDrop,
    reader: Reader,
    writer: pipe::Sender,
    sizes: Sizes,
    /// What it has printed already.
    first: Vec<u8>,
    complaint: JoinHandle<Vec<u8>>,
}

impl Shell {
    /// As [`Shell::exec`], on a terminal of this size.
    pub(super) async fn exec_on_terminal(
        &self,
        call: Call,
        session: String,
        size: TermSize,
    ) -> Result<Exec, EngineError> {
        let begun = tokio::time::timeout(call.deadline, self.begin_on_terminal(&call, size));
        let Begun { child, reader, writer, sizes, first, complaint } =
            begun.await.unwrap_or_else(|_| Err(call.timed_out()))?;
        let terminal = child.group().map(|group| Terminal { sizes, group });
        let (leash, mut end) = self.remember(&session, child, terminal);
        let first = (!first.is_empty()).then(|| Ok(Chunk::Stdout(Bytes::from(first))));
        let rest = ReaderStream::new(reader).map(|item| item.map(Chunk::Stdout));
        let output = Output { chunks: Box::pin(stream::iter(first).chain(rest)), leash: Some(leash) };
        let call = Arc::new(call);
        let at_its_end = call.clone();
        // The guest's words are not among these: so 255 with a complaint is ssh's, and without one the command's.
        let ended = async move || {
            let code = tokio::time::timeout(EXIT, end.wait_for(Option::is_some)).await;
            let code = code.ok().and_then(Result::ok).and_then(|code| code.flatten());
            if code != Some(SSH) {
                return Ok(());
            }
            let words = tokio::time::timeout(LAST_WORDS, complaint).await.ok().and_then(Result::ok).unwrap_or_default();
            match error::is_silent(&words) {
                true => Ok(()),
                false => Err(at_its_end.broken(&io::Error::other(String::from_utf8_lossy(&words).trim().to_owned()))),
            }
        };
        Ok(Exec {
            id: session,
            output: output.stream(move |err: &io::Error| call.broken(err), ended),
            stdin: Some(Box::pin(writer)),
        })
    }

    async fn begin_on_terminal(&self, call: &Call, size: TermSize) -> Result<Begun, EngineError> {
        let OnTerminal { mut child, mut reader, mut writer, sizes, mut stderr } = self.spawn_on_terminal(call, size)?;
        let complaint = tokio::spawn(async move { complaint(&mut stderr).await });
        let mut said = Vec::new();
        if comes(call, &mut reader, &mut said, READY).await? {
            // A guest that ended early tells why by itself.
            let _ = writer.write_all(call.input()).await;
            if comes(call, &mut reader, &mut said, BEGINS).await? {
                return Ok(Begun { child, reader, writer, sizes, first: said, complaint });
            }
        }
        let mut words = complaint.await.unwrap_or_default();
        words.extend(said);
        match child.ended().await.map_err(|err| call.broken(&err))? {
            // It came to life in between.
            Some(0) => Err(call.unreadable("it ended at once")),
            code => Err(error::refused(call, code, &words)),
        }
    }

    /// See [`crate::backend::Engine::exec_resize`].
    pub async fn exec_resize(&self, exec: &str, size: TermSize) -> Result<(), EngineError> {
        let failed = |kind, why: &str| {
            let what = "failed to resize the terminal of a command";
            EngineError::new(kind, format!("{what}: {why}"))
        };
        let sessions = guard(&self.sessions).clone();
        let Some(session) = sessions.iter().find(|session| session.id == exec) else {
            return Err(failed(EngineErrorKind::NotFound, "no such exec session"));
        };
        let terminal = guard(&session.terminal);
        let Some(Terminal { sizes, group }) = &*terminal else {
            return Err(failed(EngineErrorKind::NotFound, "it has none, or has ended"));
        };
        sizes.set(size).map_err(|err| failed(EngineErrorKind::Unknown, &err.to_string()))?;
        // limactl does not mind it.
        let _ = kill_process_group(*group, Signal::WINCH);
        Ok(())
    }
}

/// Reads until a line comes, and leaves what comes after it. `false` when the guest ends before.
async fn comes(call: &Call, reader: &mut Reader, said: &mut Vec<u8>, line: &str) -> Result<bool, EngineError> {
    loop {
        if let Some(at) = said.windows(line.len()).position(|window| window == line.as_bytes()) {
            said.drain(..at + line.len());
            return Ok(true);
        }
        if said.len() > GREETING {
            return Err(call.unreadable("it prints without an end before the command begins"));
        }
        if reader.read_buf(said).await.map_err(|err| call.broken(&err))? == 0 {
            return Ok(false);
        }
    }
}

/// Podman says by itself why nothing can be run in a container that does not run.
pub(super) fn begin_or_end(id: &ContainerId) -> String {
    let (id, begins) = (script::quote(id.as_str()), BEGINS.trim_end());
    format!(
        "if [ \"$(podman container inspect --format '{{{{.State.Running}}}}' {id} 2>/dev/null </dev/null)\" != true ]; then\n\
         podman exec {id} true </dev/null; exit\nfi\necho '{begins}'\n"
    )
}
