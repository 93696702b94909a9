//! A command in a container with a terminal: limactl runs on a pseudo-terminal of ours, and ssh makes one in the guest for it.
//!
//! limactl (2.1.4) has ssh do so when its standard output is a terminal. ssh gives the guest's terminal the modes of ours, which
//! is raw, and its size; of a new size it wants to be told. So nothing of the script that is sent through it is echoed, and
//! to be sure it is sent only when the guest has said that it echoes nothing. Standard error stays a pipe: what comes there
//! are words of ssh and limactl, while whatever the guest says comes through the terminal.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;
use tokio_util::io::ReaderStream;

use super::exec::{BEGINS, EXIT, Output, RawChunks};
use super::run::{Call, KillOnDrop, OnTerminal, complaint};
use super::script::{self, READY};
use super::{Shell, error};
use crate::backend::pty::{Reader, Sizes};
use crate::backend::{Chunk, EngineError, EngineErrorKind, Exec, TermSize};
use crate::model::ContainerId;
use crate::mutex::guard;

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
        let has_ended = Arc::new(AtomicBool::new(false));
        let chunks = pass_on(first, ReaderStream::new(reader), Ending::of(&session), has_ended.clone());
        let output = Output { chunks, leash: Some(leash) };
        let call = Arc::new(call);
        let at_its_end = call.clone();
        let ended = async move || {
            if has_ended.load(Ordering::Relaxed) {
                return Ok(());
            }
            let words = tokio::time::timeout(LAST_WORDS, complaint).await.ok().and_then(Result::ok).unwrap_or_default();
            let code = tokio::time::timeout(EXIT, end.wait_for(Option::is_some)).await;
            let code = code.ok().and_then(Result::ok).and_then(|code| code.flatten());
            // Of a connection that others have made, ssh says nothing when it breaks.
            let why = match (String::from_utf8_lossy(&words).trim(), code) {
                ("", Some(code)) => format!("ssh ended with exit code {code}"),
                ("", None) => "limactl was ended by a signal".to_owned(),
                (words, _) => words.to_owned(),
            };
            Err(at_its_end.broken(&io::Error::other(why)))
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

/// Recognises the guest's word that the command has ended. Without it the connection was lost: ssh's exit code may be the
/// command's own, and where it shares a connection it says nothing.
#[derive(Debug)]
struct Ending {
    mark: Vec<u8>,
    /// What may be the beginning of it.
    held: Vec<u8>,
    has_come: bool,
}

impl Ending {
    fn of(session: &str) -> Self {
        Self { mark: format!("\0steadfast: {session} has ended\n").into_bytes(), held: Vec::new(), has_come: false }
    }

    /// What of this was printed by the command.
    fn push(&mut self, bytes: &[u8]) -> Bytes {
        self.held.extend_from_slice(bytes);
        let at = self.held.windows(self.mark.len()).position(|window| window == self.mark);
        if let Some(at) = at {
            self.has_come = true;
            self.held.truncate(at);
            return self.rest();
        }
        let longest = self.held.len().min(self.mark.len().saturating_sub(1));
        let held =
            (1..=longest).rev().find(|length| self.mark.get(..*length).is_some_and(|part| self.held.ends_with(part)));
        let later = self.held.split_off(self.held.len() - held.unwrap_or_default());
        Bytes::from(std::mem::replace(&mut self.held, later))
    }

    fn rest(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.held))
    }
}

/// The line that says it. The exit code stays that of what ran before it.
pub(super) fn say_that_it_ended(session: &str) -> String {
    format!("\ncode=$?\nprintf '\\000steadfast: %s has ended\\n' {}\nexit \"$code\"\n", script::quote(session))
}

fn pass_on(first: Vec<u8>, reader: ReaderStream<Reader>, ending: Ending, has_ended: Arc<AtomicBool>) -> RawChunks {
    let source = stream::iter([Ok(Bytes::from(first))]).chain(reader);
    let state = (Box::pin(source), ending, has_ended);
    Box::pin(stream::unfold(Some(state), async |state| {
        let (mut source, mut ending, has_ended) = state?;
        while !ending.has_come {
            let bytes = match source.next().await {
                Some(Ok(bytes)) => ending.push(&bytes),
                Some(Err(err)) => return Some((Err(err), None)),
                None => {
                    let rest = ending.rest();
                    return (!rest.is_empty()).then(|| (Ok(Chunk::Stdout(rest)), None));
                }
            };
            has_ended.store(ending.has_come, Ordering::Relaxed);
            if !bytes.is_empty() {
                return Some((Ok(Chunk::Stdout(bytes)), Some((source, ending, has_ended))));
            }
        }
        None
    }))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However the bytes are cut, what comes before the word is passed on, and nothing of the word.
        #[test]
        fn the_guests_word_is_recognised_wherever_it_is_cut(
            before in prop::collection::vec(prop_oneof![Just(0), Just(b's'), any::<u8>()], 0..60),
            is_lost in any::<bool>(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut ending = Ending::of("shell-1");
            // The beginning of the word is output where no end of it comes.
            let mut all = [before.as_slice(), &ending.mark].concat();
            all.truncate(all.len() - usize::from(is_lost));
            let wanted = if is_lost { all.clone() } else { before };
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(all.len())).chain([0, all.len()]).collect();
            cuts.sort_unstable();
            let mut out: Vec<u8> = cuts.windows(2).flat_map(|pair| ending.push(&all[pair[0]..pair[1]])).collect();
            prop_assert_eq!(ending.has_come, !is_lost);
            out.extend(ending.rest());
            prop_assert_eq!(out, wanted);
        }
    }
}
