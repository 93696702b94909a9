//! Commands in containers, logs and events: what goes on for a while, with its streams kept apart.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::{oneshot, watch};
use tokio_util::io::ReaderStream;

use super::run::{Call, KillOnDrop, Running, complaint};
use super::script::{self, Variables};
use super::terminal::{self, Terminal};
use super::{Shell, error};
use crate::backend::podman::error::{About, timed_out};
use crate::backend::podman::stream::Lines;
use crate::backend::podman::wire;
use crate::backend::podman::{ending, logs};
use crate::backend::{Chunk, Chunks, EngineError, EngineErrorKind, Events, Exec, ExecRequest, LogLines, LogRequest};
use crate::model::{ContainerId, Ownership, Secrets};
use crate::mutex::guard;

/// How long after the end of its output a command may take to end itself.
pub(super) const EXIT: Duration = Duration::from_secs(10);
/// Sessions remembered for whoever asks for their exit code.
const SESSIONS: usize = 256;
/// The first line from the guest, once nothing but the command itself can fail. What comes before is ours.
pub(super) const BEGINS: &str = "steadfast: it begins\n";

/// One command and its end.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: String,
    /// `Some` once it ended; `None` in it for an end by a signal, or by our own hand.
    end: End,
    /// While it runs on one.
    pub(super) terminal: Mutex<Option<Terminal>>,
}

type End = watch::Receiver<Option<Option<i32>>>;

impl Shell {
    /// See [`crate::backend::Engine::exec`]. A failing ssh looks like a command that exits with 255.
    pub async fn exec(&self, id: &ContainerId, request: &ExecRequest) -> Result<Exec, EngineError> {
        let what = format!("run a command in container `{id}`");
        let session = format!("shell-{:016x}", fastrand::u64(..));
        let begins = if request.tty.is_some() { terminal::begin_or_end(id) } else { begin_if_it_runs(id) };
        let before = format!("export {}={session}\n{begins}", ending::MARK);
        let pairs = request.env.iter().map(|line| line.split_once('=').unwrap_or((line, "")));
        let script = Variables::new(pairs.clone())
            .and_then(|variables| script::podman(&before, "exec", &variables, exec_words(id, request)))
            .map_err(|why| EngineError::new(EngineErrorKind::CommandFailed, format!("failed to {what}: {why}")))?;
        // A word of the command that is such a value is hidden with it.
        let secrets = Secrets::new(pairs.map(|(_, value)| value));
        let shown = format!("podman exec {id}");
        if let Some(size) = request.tty {
            let script = script + &terminal::say_that_it_ended(&session);
            let words = script::receiver_on_terminal(&script);
            let call = self.call(what, About::Container, shown, words).sending(script).hiding(secrets);
            let exec = self.exec_on_terminal(call, session, size).await?;
            return Ok(Exec { stdin: exec.stdin.filter(|_| request.stdin), ..exec });
        }
        let call = self.sent(what, About::Container, shown, script).hiding(secrets);
        let mut begun = self.begin(&call).await?;
        let stdin = begun.stdin.take().filter(|_| request.stdin);
        let (leash, _) = self.remember(&session, begun.child, None);
        let broken = move |err: &io::Error| call.broken(err);
        let output = Output { chunks: begun.chunks, leash: Some(leash) };
        Ok(Exec {
            id: session,
            output: output.stream(broken, async || Ok(())),
            stdin: stdin.map(|stdin| Box::pin(Stdin(Some(stdin))) as _),
        })
    }

    /// Follows a child to its end. It is ended when the leash is dropped without a word.
    pub(super) fn remember(
        &self,
        id: &str,
        mut child: KillOnDrop,
        terminal: Option<Terminal>,
    ) -> (oneshot::Sender<()>, End) {
        let ((ended, end), (leash, leashed)) = (watch::channel(None), oneshot::channel());
        let session = Arc::new(Session { id: id.to_owned(), end: end.clone(), terminal: Mutex::new(terminal) });
        let followed = session.clone();
        tokio::spawn(async move {
            let code = tokio::select! {
                code = child.ended() => code.ok().flatten(),
                Err(_) = leashed => None,
            };
            *guard(&followed.terminal) = None;
            ended.send_replace(Some(code));
        });
        let mut sessions = guard(&self.sessions);
        if sessions.len() >= SESSIONS
            && let Some(old) = sessions.iter().position(|session| session.end.borrow().is_some())
        {
            sessions.remove(old);
        }
        sessions.push_back(session);
        (leash, end)
    }

    /// See [`crate::backend::Engine::exec_exit`].
    pub async fn exec_exit(&self, exec: &str) -> Result<i32, EngineError> {
        let what = "ask for a command's exit code";
        let sessions = guard(&self.sessions).clone();
        let Some(session) = sessions.iter().find(|session| session.id == exec) else {
            return Err(EngineError::new(EngineErrorKind::NotFound, format!("failed to {what}: no such exec session")));
        };
        let mut end = session.end.clone();
        match tokio::time::timeout(EXIT, end.wait_for(Option::is_some)).await {
            Err(_) => Err(timed_out(what, "podman exec", EXIT)),
            Ok(Ok(code)) if code.flatten().is_some() => Ok(code.flatten().unwrap_or_default()),
            Ok(_) => Err(EngineError::new(
                EngineErrorKind::TransportUnavailable,
                format!("failed to {what}: the connection to instance `{}` ended before the command", self.instance),
            )),
        }
    }

    /// See [`crate::backend::Engine::exec_end`].
    pub async fn exec_end(&self, exec: &str) -> Result<(), EngineError> {
        let sessions = guard(&self.sessions).clone();
        let has_ended = |session: &Arc<Session>| session.id == exec && session.end.borrow().flatten().is_some();
        if self.end_marked(exec).await? || sessions.iter().any(has_ended) { Ok(()) } else { Err(ending::hidden()) }
    }

    /// Ends the command whose monitor bears this mark, or has it among its words. Yields whether there was one.
    pub(in crate::backend::podman) async fn end_marked(&self, mark: &str) -> Result<bool, EngineError> {
        let call = self.script("end a command", About::Other, "sh", ending::SCRIPT, &[mark]).within(ending::LONGEST);
        let ended = self.end_of(&call).await?;
        let said = String::from_utf8_lossy(&ended.stderr);
        ending::outcome(ended.code, &said)
    }

    /// See [`crate::backend::Engine::logs`].
    pub async fn logs(&self, id: &ContainerId, request: &LogRequest) -> Result<Chunks, EngineError> {
        self.read_log(id, request, &[]).await
    }

    /// See [`crate::backend::Engine::log_lines`]. The order of the two streams is not told.
    pub async fn log_lines(
        &self,
        id: &ContainerId,
        request: &LogRequest,
        since: Option<u64>,
    ) -> Result<LogLines, EngineError> {
        let since = since.map(|since| since.to_string());
        let mut words = vec!["--timestamps"];
        words.extend(since.iter().flat_map(|since| ["--since", since.as_str()]));
        Ok(logs::lines(self.read_log(id, request, &words).await?, logs::Stamped::default()))
    }

    async fn read_log(&self, id: &ContainerId, request: &LogRequest, more: &[&str]) -> Result<Chunks, EngineError> {
        let mut words = vec![id.as_str(), "logs"];
        let tail = request.tail.map(|lines| lines.to_string());
        words.extend(request.follow.then_some("--follow"));
        words.extend(tail.iter().flat_map(|lines| ["--tail", lines]));
        words.extend(more);
        words.push(id.as_str());
        let rest = if request.follow { script::WATCHED } else { "exec podman \"$@\"" };
        let begins = BEGINS.trim_end();
        let script = format!("podman container exists \"$1\" && echo '{begins}'\nshift\n{rest}");
        let what = format!("read the log of container `{id}`");
        let call = self.script(what, About::Container, &format!("podman logs {id}"), &script, &words);
        let begun = self.begin(&call).await?;
        let (mut child, stdin) = (begun.child, begun.stdin);
        let instance = self.instance.clone();
        let shown = call.shown().to_owned();
        let ended = async move || {
            // Open until here: its end is the word to stop following.
            drop(stdin);
            match tokio::time::timeout(EXIT, child.ended()).await {
                Ok(Ok(Some(0))) => Ok(()),
                end => {
                    let code = end.ok().and_then(Result::ok).flatten();
                    let message =
                        format!("failed to read a log to its end: the connection to instance `{instance}` broke");
                    let lost = EngineError::new(EngineErrorKind::TransportUnavailable, message);
                    Err(EngineError { command: Some(shown), exit_code: code, ..lost })
                }
            }
        };
        let broken = move |err: &io::Error| call.broken(err);
        Ok(Output { chunks: begun.chunks, leash: None }.stream(broken, ended))
    }

    /// See [`crate::backend::Engine::events`]. Some from just before the call may be among them.
    pub async fn events(&self, owner: &Ownership) -> Result<Events, EngineError> {
        *guard(&self.version) = None;
        // The guest's own clock, so that nothing is missed while Podman starts.
        let script = format!(
            "since=$(date +%s) && echo '{}'\nset -- events --stream --format json --filter type=container --filter \
             type=image --since \"$since\"\n{}",
            BEGINS.trim_end(),
            script::WATCHED
        );
        let call = self.script("follow Podman's events", About::Other, "podman events", &script, &[]);
        let begun = self.begin(&call).await?;
        let subscription = Subscription {
            begun,
            call,
            owner: owner.clone(),
            lines: Lines::default(),
            ready: VecDeque::new(),
            complaint: Vec::new(),
        };
        Ok(Box::pin(stream::unfold(Some(subscription), async |subscription| {
            let mut subscription = subscription?;
            match subscription.next().await? {
                Ok(event) => Some((Ok(event), Some(subscription))),
                Err(err) => Some((Err(err), None)),
            }
        })))
    }

    /// Starts a command, and comes back once the guest says that it begins; else tells why it did not.
    async fn begin(&self, call: &Call) -> Result<Begun, EngineError> {
        let work = async {
            let Running { mut child, stdin, mut stdout, mut stderr } = self.start_child(call).await?;
            let (begins, first) = first_line(call, &mut stdout).await?;
            if !begins && first.is_empty() {
                drop(stdin);
                let complaint = complaint(&mut stderr).await;
                match child.ended().await.map_err(|err| call.broken(&err))? {
                    // It came to life in between, said nothing, and is over.
                    Some(0) => return Err(call.unreadable("it ended at once")),
                    code => return Err(error::refused(call, code, &complaint)),
                }
            }
            let first = (!first.is_empty()).then(|| Ok(Chunk::Stdout(Bytes::from(first))));
            let stdout = ReaderStream::new(stdout).map(|item| item.map(Chunk::Stdout));
            let stderr = ReaderStream::new(stderr).map(|item| item.map(Chunk::Stderr));
            let chunks = Box::pin(stream::iter(first).chain(stream::select(stdout, stderr)));
            Ok(Begun { child, stdin: Some(stdin), chunks })
        };
        tokio::time::timeout(call.deadline, work).await.unwrap_or_else(|_| Err(call.timed_out()))
    }
}

/// A command that begins.
struct Begun {
    child: KillOnDrop,
    stdin: Option<ChildStdin>,
    chunks: RawChunks,
}

pub(super) type RawChunks = Pin<Box<dyn Stream<Item = io::Result<Chunk>> + Send>>;

/// Whether [`BEGINS`] came first, and what came after it, or instead.
async fn first_line(call: &Call, stdout: &mut ChildStdout) -> Result<(bool, Vec<u8>), EngineError> {
    let mut seen = Vec::new();
    while seen.len() < BEGINS.len() && BEGINS.as_bytes().starts_with(&seen) {
        if stdout.read_buf(&mut seen).await.map_err(|err| call.broken(&err))? == 0 {
            break;
        }
    }
    match seen.strip_prefix(BEGINS.as_bytes()) {
        Some(rest) => Ok((true, rest.to_vec())),
        None => Ok((false, seen)),
    }
}

/// Podman says by itself why nothing can be run in a container that does not run.
fn begin_if_it_runs(id: &ContainerId) -> String {
    let id = script::quote(id.as_str());
    let begins = BEGINS.trim_end();
    format!(
        "if [ \"$(podman container inspect --format '{{{{.State.Running}}}}' {id} 2>/dev/null </dev/null)\" = true ]; then echo \
         '{begins}'; fi\n"
    )
}

fn exec_words(id: &ContainerId, request: &ExecRequest) -> Vec<String> {
    let mut words = Vec::new();
    words.extend(request.stdin.then(|| "--interactive".to_owned()));
    // No keys to leave it with: Podman's own would keep each Ctrl-P back until the next key.
    words.extend(request.tty.iter().flat_map(|_| ["--tty".to_owned(), "--detach-keys=".to_owned()]));
    words.extend(request.user.iter().flat_map(|user| ["--user".to_owned(), user.clone()]));
    words.extend(request.workdir.iter().flat_map(|directory| ["--workdir".to_owned(), directory.clone()]));
    words.push(id.as_str().to_owned());
    words.extend(request.command.iter().cloned());
    words
}

/// What comes out, until it ends.
pub(super) struct Output {
    pub chunks: RawChunks,
    pub leash: Option<oneshot::Sender<()>>,
}

impl Output {
    /// `ended` is asked at the end of both streams whether that was well.
    pub(super) fn stream<F>(
        self,
        broken: impl Fn(&io::Error) -> EngineError + Send + 'static,
        ended: impl FnOnce() -> F + Send + 'static,
    ) -> Chunks
    where
        F: Future<Output = Result<(), EngineError>> + Send,
    {
        Box::pin(stream::unfold(Some((self, broken, ended)), async |state| {
            let (mut output, broken, ended) = state?;
            match output.chunks.next().await {
                Some(Ok(chunk)) => Some((Ok(chunk), Some((output, broken, ended)))),
                Some(Err(err)) => Some((Err(broken(&err)), None)),
                None => {
                    if let Some(leash) = output.leash.take() {
                        let _ = leash.send(());
                    }
                    ended().await.err().map(|err| (Err(err), None))
                }
            }
        }))
    }
}

/// Standard input of a command. Shutting it down closes the pipe, which a plain [`ChildStdin`] does only when dropped.
struct Stdin(Option<ChildStdin>);

impl Stdin {
    fn open(&mut self) -> io::Result<Pin<&mut ChildStdin>> {
        self.0.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncWrite for Stdin {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.open() {
            Ok(stdin) => stdin.poll_write(cx, bytes),
            Err(err) => Poll::Ready(Err(err)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.open() {
            Ok(stdin) => stdin.poll_flush(cx),
            Err(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.as_mut().poll_flush(cx) {
            Poll::Ready(done) => {
                self.0 = None;
                Poll::Ready(done)
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

/// An open stream of events.
struct Subscription {
    begun: Begun,
    call: Call,
    owner: Ownership,
    lines: Lines,
    ready: VecDeque<Bytes>,
    complaint: Vec<u8>,
}

/// How much of what Podman says beside its events is kept.
const COMPLAINT: usize = 64 << 10;

impl Subscription {
    async fn next(&mut self) -> Option<Result<crate::backend::EngineEvent, EngineError>> {
        loop {
            while let Some(line) = self.ready.pop_front() {
                if let Some(event) = wire::event(&line, &self.owner) {
                    return Some(Ok(event));
                }
            }
            match self.begun.chunks.next().await {
                Some(Ok(Chunk::Stdout(bytes))) => self.lines.push(&bytes, &mut self.ready),
                Some(Ok(Chunk::Stderr(bytes))) => {
                    self.complaint.extend_from_slice(&bytes);
                    self.complaint.drain(..self.complaint.len().saturating_sub(COMPLAINT));
                }
                Some(Err(err)) => return Some(Err(self.call.broken(&err))),
                None => {
                    let ended = tokio::time::timeout(EXIT, self.begun.child.ended()).await;
                    return match ended.ok().and_then(Result::ok).flatten() {
                        Some(0) => None,
                        code => Some(Err(error::refused(&self.call, code, &self.complaint))),
                    };
                }
            }
        }
    }
}
